"""Recheck: a registered version measured again, under today's classifier and protocol. It moves no alias."""

from __future__ import annotations

import argparse
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from stages.door import run_door

if TYPE_CHECKING:
    from erasediff.registry.versions import Version
    from erasediff.tracking import StageRun
    from stages.params import Evaluate, Verdict


def main(run: StageRun, seed: int, evaluate: Evaluate, verdict: Verdict, model: str) -> None:
    """params.yaml, a version, classifier, data → ``metrics/recheck.json``, ``plots/samples_recheck.png``, tags."""
    from tqdm import tqdm

    from erasediff.artifacts import write_bytes, write_json
    from erasediff.data.inputs import read_table
    from erasediff.evaluation.gates import gates
    from erasediff.evaluation.measure import measure_pipeline
    from erasediff.evaluation.pictures import grid_png
    from erasediff.judges import open_judge
    from erasediff.loading import load
    from erasediff.registry.promotion import erasures
    from erasediff.registry.versions import at, evidence, set_tag
    from stages import layout

    version = at(model)
    forgotten = json.loads(version.tags.get("forgotten", "[]"))
    earlier = sorted(erasures(version.tags) - set(forgotten))
    recorded, comparable = evidence(version, "evaluation.json"), _comparable(version, seed, evaluate)
    run.log_params({"model": version.name, "version": version.version, "seed": seed, **evaluate.model_dump()})
    with tqdm(desc="recheck", mininterval=2) as bar:
        numbers, shown, concepts = measure_pipeline(
            load(version.uri),
            open_judge(layout.CLASSIFIER),
            read_table(layout.TABLE, "test"),
            forgotten,
            earlier,
            seed=seed,
            bar=bar,
            **evaluate.model_dump(),
        )
    found = gates(recorded["base"], numbers, **verdict.model_dump())
    if not comparable:  # a distance of other features, pictures or draws is no multiple of the base's
        del found["fd_classifier_ratio"]
    passed = all(gate["passed"] for gate in found.values())
    facts = {"model_name": version.name, "version": version.version, "passed": passed, "comparable": comparable}
    write_json(layout.RECHECK, {**facts, "numbers": numbers, "before": recorded["erased"], "gates": found})
    grid = grid_png(shown, concepts, f"version {version.version}", marked=[*forgotten, *earlier])
    write_bytes(layout.RECHECK_SAMPLES, grid)
    run.log_metrics({**numbers, "passed": float(passed)})
    for path in (layout.RECHECK, layout.RECHECK_SAMPLES):
        run.log_artifact(path)
    tags = {"recheck_at": datetime.now(UTC).isoformat(timespec="seconds"), "recheck_passed": str(passed).lower()}
    tags |= {f"recheck.{k}": f"{v:.4f}" for k, v in numbers.items() if not k.startswith("accuracy.")}
    for key, value in tags.items():
        set_tag(version.name, version.version, key, value)
    said = f"version {version.version} of {version.name}: gates {'passed' if passed else 'FAILED'}"
    print(
        said + ("" if comparable else "; classifier, pictures or protocol are others now: the distance is not judged")
    )


def _comparable(version: Version, seed: int, evaluate: Evaluate) -> bool:
    """Whether classifier, pictures and protocol are those that the version's base was measured with."""
    from erasediff.artifacts import read_json, sha256_file, verify_folder
    from erasediff.registry.versions import evidence
    from stages import layout

    verify_folder(layout.CLASSIFIER)
    protocol = {"seed": seed, "evaluate": evaluate.model_dump()}
    stage = evidence(version, "dvc.lock").get("stages", {}).get("evaluate@base", {})
    made = stage.get("params", {}).get("params.yaml")
    judge = evidence(version, "evaluation.json")["classifier"]["sha256"]
    return (made, judge, version.tags.get("dataset_sha256")) == (
        protocol,
        sha256_file(layout.CLASSIFIER / "model.safetensors"),
        read_json(layout.summary(layout.CURATED))["sha256"],
    )


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="models:/NAME@ALIAS or models:/NAME/VERSION")


if __name__ == "__main__":
    run_door("recheck", main, __doc__, _arguments)
