"""Register: a version with its lineage in the MLflow registry. It moves no alias."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stages.door import run_door

if TYPE_CHECKING:
    from erasediff.tracking import StageRun
    from stages.params import Register


def main(run: StageRun, register: Register) -> None:
    """params.yaml, models, ``metrics/evaluation.json``, ``dvc.lock`` → a version, ``runs/register.json``."""
    from erasediff.artifacts import read_json, verify_folder
    from erasediff.registry import lineage
    from erasediff.registry.model_card import lineage_card
    from erasediff.registry.versions import register_version, version_tags
    from stages import layout
    from stages.params import PARAMS_FILE

    verify_folder(layout.ERASED)
    evaluation, lock = read_json(layout.EVALUATION), lineage.read_lock(layout.DVC_LOCK)
    sets = read_json(layout.summary(layout.SETS))
    facts = lineage.collect(lock, layout.CURATED, layout.SETS, layout.BASE, layout.ERASED)
    tags = version_tags(evaluation, sets, facts)
    evidence = [PARAMS_FILE, layout.DVC_LOCK, layout.EVALUATION, layout.REPORT]
    tags["example_concept"] = example = next(iter(sets["retain"]), "")
    tags |= lineage.stage_runs(layout.RUNS)  # now that what waited has been sent
    text = lineage_card(evaluation, sets, facts, lock)
    assert run.run_id is not None  # the frame was told that it is needed
    version = register_version(register.model_name, run.run_id, layout.ERASED, tags, evidence, text, example)
    run.result |= {"model_name": register.model_name, "version": version, "lineage_digest": facts["lineage_digest"]}
    run.result |= {"gates_passed": evaluation["passed"]}
    verdict = "passed" if evaluation["passed"] else "FAILED"
    print(f"registered {register.model_name} version {version}; gates {verdict}")


if __name__ == "__main__":
    run_door(
        "register",
        main,
        __doc__,
        without_mlflow="the model is on disk in models/erased; when the server is back, run: dvc repro register",
    )
