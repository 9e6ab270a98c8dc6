"""Recheck: a registered version measured again, under today's classifier and protocol. It moves no alias."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from stages.door import run_door

RECHECK = Path("metrics/recheck.json")


def main(model: str) -> None:
    """params.yaml, a version, classifier, data → ``metrics/recheck.json``, ``plots/samples_recheck.png``, tags."""
    from stages.params import load_params

    whole = load_params()
    import json

    from stages import tracking
    from stages.artifacts import write_bytes, write_json
    from stages.evaluate import measured
    from stages.evaluation.gates import gates
    from stages.evaluation.report import grid_png
    from stages.registry import load_pipeline
    from stages.registry.promotion import erasures
    from stages.registry.versions import at, evidence, set_tag

    version = at(model)
    forgotten = json.loads(version.tags.get("forgotten", "[]"))
    earlier = sorted(erasures(version.tags) - set(forgotten))
    recorded, comparable = evidence(version, "evaluation.json"), _comparable(version, whole)
    pipeline = load_pipeline(version.uri)
    settings = {"model": version.name, "version": version.version, "seed": whole.seed, **whole.evaluate.model_dump()}
    with tracking.stage_run("recheck", settings) as run:
        numbers, shown, concepts = measured(pipeline, forgotten, earlier, whole, "recheck")
        found = gates(recorded["base"], numbers, **whole.verdict.model_dump())
        if not comparable:  # a distance of other features, pictures or draws is no multiple of the base's
            del found["fd_classifier_ratio"]
        passed = all(gate["passed"] for gate in found.values())
        facts = {"model_name": version.name, "version": version.version, "passed": passed, "comparable": comparable}
        write_json(RECHECK, {**facts, "numbers": numbers, "before": recorded["erased"], "gates": found})
        grid = Path("plots/samples_recheck.png")
        write_bytes(grid, grid_png(shown, concepts, f"version {version.version}", marked=[*forgotten, *earlier]))
        run.log_metrics({**numbers, "passed": float(passed)})
        for path in (RECHECK, grid):
            run.log_artifact(path)
    tags = {"recheck_at": datetime.now(UTC).isoformat(timespec="seconds"), "recheck_passed": str(passed).lower()}
    tags |= {f"recheck.{k}": f"{v:.4f}" for k, v in numbers.items() if not k.startswith("accuracy.")}
    for key, value in tags.items():
        set_tag(version.name, version.version, key, value)
    said = f"version {version.version} of {version.name}: gates {'passed' if passed else 'FAILED'}"
    print(
        said + ("" if comparable else "; classifier, pictures or protocol are others now: the distance is not judged")
    )


def _comparable(version: Any, whole: Any) -> bool:
    """Whether classifier, pictures and protocol are those that the version's base was measured with."""
    from stages.artifacts import read_json, sha256_file, verify_folder
    from stages.classifier import FOLDER as CLASSIFIER
    from stages.curate import TABLE
    from stages.registry.versions import evidence

    verify_folder(CLASSIFIER)
    protocol = {"seed": whole.seed, "evaluate": whole.evaluate.model_dump()}
    stage = evidence(version, "dvc.lock").get("stages", {}).get("evaluate@base", {})
    made = stage.get("params", {}).get("params.yaml")
    judge = evidence(version, "evaluation.json")["classifier"]["sha256"]
    return (made, judge, version.tags.get("dataset_sha256")) == (
        protocol,
        sha256_file(CLASSIFIER / "model.safetensors"),
        read_json(TABLE.parent / "summary.json")["sha256"],
    )


if __name__ == "__main__":
    run_door("recheck", main, __doc__, {"model": None})
