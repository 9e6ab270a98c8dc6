"""Register: a version with its lineage in the MLflow registry. It moves no alias."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from stages.door import run_door


def main() -> None:
    """params.yaml, models, ``metrics/evaluation.json``, ``dvc.lock`` → a version, ``runs/register.json``."""
    from stages.params import load_params

    name = load_params().register_.model_name
    from stages import tracking
    from stages.artifacts import read_json, verify_folder
    from stages.erase import FOLDER
    from stages.errors import TrackingError
    from stages.registry import lineage
    from stages.registry.versions import register_version
    from stages.verdict import EVALUATION, REPORT

    verify_folder(FOLDER)
    evaluation, lock, root = read_json(EVALUATION), lineage.read_lock(), Path()
    sets = read_json(root / "data/forget_set/summary.json")
    facts = lineage.collect(root, lock)
    tags = version_tags(evaluation, sets, facts)
    evidence = [Path("params.yaml"), Path("dvc.lock"), EVALUATION, REPORT]
    tags["example_concept"] = example = next(iter(sets["retain"]), "")
    try:
        with tracking.stage_run("register", {"model_name": name}, required=True) as run:
            assert run.run_id is not None  # required
            tags |= lineage.stage_runs(root)  # now that what waited has been sent
            text = card(evaluation, sets, facts, lock)
            version = register_version(name, run.run_id, FOLDER, tags, evidence, text, example)
            run.result |= {"model_name": name, "version": version, "lineage_digest": facts["lineage_digest"]}
            run.result |= {"gates_passed": evaluation["passed"]}
    except TrackingError as error:
        advice = f"the model is on disk in {FOLDER}; when the server is back, run: dvc repro register"
        raise TrackingError(f"{error}; {advice}") from None
    print(f"registered {name} version {version}; gates {'passed' if evaluation['passed'] else 'FAILED'}")


def version_tags(evaluation: dict[str, Any], sets: dict[str, Any], facts: dict[str, str]) -> dict[str, str]:
    """Tags of a version: lineage, hashes, what this run forgot, what is forgotten by now, each gate."""
    from stages.registry.model_card import gate_text

    erasures = sorted({*sets["concepts"], *sets["sample_ids"], *sets["earlier"]})
    tags = {  # in the order in which MLflow shows them
        "forgotten": json.dumps(sets["concepts"], ensure_ascii=False),
        "gates_passed": str(evaluation["passed"]).lower(),
        "erasures": json.dumps(erasures, ensure_ascii=False),
    }
    return tags | {f"gate.{name}": gate_text(gate) for name, gate in evaluation["gates"].items()} | facts


def card(evaluation: dict[str, Any], sets: dict[str, Any], facts: dict[str, str], lock: dict[str, Any]) -> str:
    """The model card, with the settings that the erased model was really made with: those of ``dvc.lock``."""
    from stages.registry.lineage import stage_params
    from stages.registry.model_card import model_card, paper_deviations

    made = stage_params(lock, "pretrain")
    base = {
        "train": "a base model trained here",
        "folder": f"the diffusers folder {made.get('path')}",
        "hub": f"{made.get('repo')} at revision {made.get('revision')}",
        "registry": f"version {made.get('revision')} of {made.get('repo')}",
    }.get(made.get("source", ""), "a base model")
    if sets["earlier"]:
        base += f", which had forgotten {', '.join(sets['earlier'])} before"
    return model_card(evaluation, sets["concepts"], base, facts, paper_deviations(stage_params(lock, "erase")))


if __name__ == "__main__":
    run_door("register", main, __doc__)
