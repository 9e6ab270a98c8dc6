"""Register: a version with its lineage in the MLflow registry. It moves no alias."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stages.door import run_door

if TYPE_CHECKING:
    from erasediff.tracking import StageRun
    from stages.params import Register


def main(run: StageRun, register: Register) -> None:
    """params.yaml, models, ``metrics/``, ``dvc.lock``, report → a version with its report, ``runs/register.json``."""
    from dataclasses import asdict

    from erasediff.artifacts import verify_folder, write_bytes
    from erasediff.evaluation.gates import headline
    from erasediff.evaluation.report import with_version
    from erasediff.metrics.table import KEPT
    from erasediff.records import EffectiveSettings, Evaluation, ForgetSummary, Origin, Registered
    from erasediff.registry import lineage, lock
    from erasediff.registry.card import model_card
    from erasediff.registry.publishing import (
        REQUEST_TAG,
        attach_report,
        register_version,
        version_facts,
        version_tags,
    )
    from erasediff.registry.versions import earlier_evaluations
    from stages import layout
    from stages.params import PARAMS_FILE

    verify_folder(layout.ERASED)
    evaluation, made_by = Evaluation.read(layout.EVALUATION), lock.read_lock(layout.DVC_LOCK)
    lock.require_made(made_by, (layout.CURATED, layout.BASE, layout.SETS, layout.ERASED, layout.EVALUATION))
    sets, erase = ForgetSummary.read(layout.summary(layout.SETS)), EffectiveSettings.read(layout.ERASE_METRICS)
    facts = lineage.collect(made_by, layout.CURATED, layout.SETS, layout.BASE, layout.ERASED)
    lineage.require_measured(evaluation, facts)
    tags = version_tags(evaluation, sets.erasures, facts)
    # One that was measured, where any was: words that are kept beside these may be drawn or not.
    example = min(sets.retain, key=lambda name: (not name, f"{KEPT.name}.{name}" not in evaluation.counts), default="")
    tags["example_concept"] = example
    tags |= {REQUEST_TAG: register.request} if register.request else {}
    tags |= lineage.stage_runs(made_by, layout.RUNS)  # now that what waited has been sent
    evidence = [PARAMS_FILE, layout.DVC_LOCK, layout.EVALUATION, layout.ERASE_METRICS, layout.REPORT]

    pretrain = lock.stage_params(made_by, "pretrain")

    def card(version: str) -> str:
        return model_card(
            evaluation,
            sets.erasures,
            erase,
            pretrain,
            version_facts(register.model_name, version) | lineage.identity(made_by, sets, facts),
            facts,
            uri=f"models:/{register.model_name}/{version}",
            example=example,
            lora_base=Origin.read(layout.LORA_BASE).where if layout.LORA_BASE.exists() else "",
        )

    run.log_dataset(str(layout.CURATED), facts["dataset_sha256"], "curated")
    run.log_dataset(str(layout.SETS), facts["forget_set_sha256"], "to forget and to retain")
    assert run.run_id is not None  # the frame was told that it is needed
    numbers = {key: float(value) for key, value in headline(evaluation).items()}
    name = register.model_name
    version = register_version(name, run.run_id, layout.ERASED, tags, evidence, card, example, numbers)
    # Also of a version that was there: a kill may have come between the two.
    report = layout.REPORT.read_text(encoding="utf-8")
    earlier = earlier_evaluations(register.model_name, version)
    named = with_version(report, evaluation, sets, version_facts(register.model_name, version), earlier)
    write_bytes(layout.VERSION_REPORT, named.encode())
    attach_report(register.model_name, version, layout.VERSION_REPORT)
    made = Registered(register.model_name, version, facts["lineage_digest"], evaluation.passed)
    run.result |= asdict(made)
    print(f"registered {made.model_name} version {version}; gates {evaluation.outcome}")


if __name__ == "__main__":
    run_door(
        "register",
        main,
        __doc__,
        without_mlflow="the model is on disk in models/erased; once that is settled, run: dvc repro register",
    )
