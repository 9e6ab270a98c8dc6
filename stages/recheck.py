"""Recheck: a registered version measured again, under today's classifier and protocol. It moves no alias."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from stages.door import progress_bar, run_door

if TYPE_CHECKING:
    from erasediff.records import Evaluation
    from erasediff.registry.versions import Version
    from erasediff.tracking import StageRun
    from stages.params import Evaluate, Verdict


def main(run: StageRun, seed: int, evaluate: Evaluate, verdict: Verdict, model: str) -> None:
    """params.yaml, a version, classifier, data → ``metrics/recheck.json``, ``plots/samples_recheck.png``, tags."""
    import shutil

    from erasediff.artifacts import write_bytes, write_json
    from erasediff.data.inputs import domains_by_concept, evaluation_inputs, given_by_prompt, training_pictures
    from erasediff.environment import environment
    from erasediff.evaluation.gates import gates
    from erasediff.evaluation.measure import measure_pipeline
    from erasediff.evaluation.pictures import grid_png
    from erasediff.evaluation.protocol import PROTOCOL, Protocol
    from erasediff.families.resuming import resumable
    from erasediff.families.sharing import Places
    from erasediff.families.weights import weights_sha256
    from erasediff.judges import asked_concepts, open_judge
    from erasediff.loading import load
    from erasediff.metrics.inception import inception_file
    from erasediff.records import AS_TAG, Recheck
    from erasediff.registry.versions import erasures_of, evaluation_of_version, set_tag, version_at
    from stages import layout

    version = version_at(model)
    erasures, recorded = erasures_of(version), evaluation_of_version(version)
    comparable = _comparable(version, recorded, seed, evaluate)
    run.log_params({"model": version.name, "version": version.version, "seed": seed, **evaluate.model_dump()})
    judge = open_judge(layout.CLASSIFIER)
    test, prompts = evaluation_inputs(layout.TABLE, layout.HELD_OUT)
    pipeline, kept, places = load(version.uri), layout.drawn("recheck"), Places(cluster=environment().ray_address)
    weights = weights_sha256(pipeline)
    with progress_bar("recheck") as on_progress:
        found = measure_pipeline(
            pipeline,
            judge,
            test,
            Protocol(seed=seed, **evaluate.model_dump(include=PROTOCOL)),
            forgotten=erasures.concepts,
            earlier=erasures.earlier,
            prompts=prompts,
            given=given_by_prompt(layout.TABLE),
            training=training_pictures(layout.TABLE),
            domains=domains_by_concept(layout.TABLE),
            inception=inception_file(layout.INCEPTION),
            cache=layout.FEATURES,
            on_progress=on_progress,
            drawing=lambda family: places.drawing(family, lambda own: resumable(own, kept, weights)),
            together=places.number,
        )
    numbers, counts = found.numbers.told, found.numbers.counts
    pairing = recorded.pairing if comparable else {}
    limits = verdict.model_dump()
    judged = gates(recorded.base, numbers, limits, same_protocol=comparable, counts=counts, pairing=pairing)
    passed = all(gate.passed for gate in judged.values())
    result = Recheck(version.name, version.version, passed, comparable, numbers, recorded.erased, judged)
    write_json(layout.RECHECK, result.to_json())
    marked = [*erasures.concepts, *erasures.earlier]
    asked, label = asked_concepts(judge, prompts), f"version {version.version}"
    write_bytes(layout.RECHECK_SAMPLES, grid_png(found.shown, asked, label, marked=marked))
    shutil.rmtree(kept, ignore_errors=True)
    run.log_metrics({**numbers, "passed": float(passed)})
    for path in (layout.RECHECK, layout.RECHECK_SAMPLES):
        run.log_artifact(path)
    tags = {"recheck_at": datetime.now(UTC).isoformat(timespec="seconds"), "recheck_passed": AS_TAG[result.outcome]}
    # Not those of single concepts, whose names no tag may have.
    tags |= {f"recheck.{name}": f"{value:.4f}" for name, value in numbers.items() if "." not in name}
    for key, value in tags.items():
        set_tag(version.name, version.version, key, value)
    said = f"version {version.version} of {version.name}: gates {result.outcome}"
    others = "; classifier, pictures or protocol are others now: the distance is not judged"
    print(said + ("" if comparable else others))


def _comparable(version: Version, recorded: Evaluation, seed: int, evaluate: Evaluate) -> bool:
    """True if classifier, pictures and protocol are those that the version's base was measured with."""
    from erasediff.artifacts import read_json, sha256_file, verify_folder
    from erasediff.judges import weights_of
    from erasediff.registry.versions import evidence
    from stages import layout

    verify_folder(layout.CLASSIFIER)
    protocol = {"seed": seed, **_of_protocol(evaluate.model_dump())}
    stage = evidence(version, "dvc.lock").get("stages", {}).get("evaluate@base", {})
    lock = stage.get("params", {}).get("params.yaml", {})
    made = {"seed": lock.get("seed"), **_of_protocol(lock.get("evaluate", {}))}
    return (made, recorded.judge["sha256"], version.tags.get("dataset_sha256")) == (
        protocol,
        sha256_file(weights_of(layout.CLASSIFIER)),
        read_json(layout.summary(layout.CURATED))["sha256"],
    )


def _of_protocol(section: dict[str, object]) -> dict[str, object]:
    """What changes how a model is measured, and not only what else is looked at; an entry at null changes nothing."""
    from erasediff.evaluation.protocol import PROTOCOL

    return {name: value for name, value in section.items() if name in PROTOCOL and value is not None}


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="models:/NAME@ALIAS or models:/NAME/VERSION")


if __name__ == "__main__":
    run_door("recheck", main, __doc__, _arguments)
