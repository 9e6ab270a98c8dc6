"""Evaluate: one model measured under the classifier; base and erased get the same seeds and draws."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from stages.door import logged_params, progress_bar, run_door

if TYPE_CHECKING:
    from erasediff.tracking import StageRun
    from stages.params import Evaluate


def main(run: StageRun, seed: int, evaluate: Evaluate, which: str) -> None:
    """params.yaml, ``models/WHICH/``, classifier, data → ``metrics/WHICH.json``, readings, sample pictures."""
    import shutil
    import time
    from dataclasses import replace
    from functools import partial
    from pathlib import Path

    from accelerate import Accelerator

    from erasediff.artifacts import sha256_folder, write_bytes, write_json
    from erasediff.data.inputs import (
        domains_by_concept,
        evaluation_inputs,
        given_by_prompt,
        read_table,
        training_pictures,
    )
    from erasediff.environment import environment
    from erasediff.evaluation.attacking import attack_pipeline
    from erasediff.evaluation.attacks.table import not_run
    from erasediff.evaluation.measure import measure_pipeline
    from erasediff.evaluation.numbers import write_readings
    from erasediff.evaluation.pictures import grid_png
    from erasediff.evaluation.protocol import PROTOCOL, Protocol
    from erasediff.families import open_pipeline
    from erasediff.families.family import Family
    from erasediff.families.lora import open_beside
    from erasediff.families.resuming import resumable
    from erasediff.families.sharing import Places
    from erasediff.judges import asked_concepts, open_judge
    from erasediff.metrics.inception import inception_file
    from erasediff.records import ForgetSummary
    from stages import layout

    first, places = environment().rank in (None, "0"), Places(Accelerator(), environment().ray_address)
    if first:
        run.start(logged_params("evaluate", {"seed": seed, "evaluate": evaluate}))
    erasures = ForgetSummary.read(layout.summary(layout.SETS)).erasures
    pipeline, judge = open_beside(layout.model(which), layout.BASE), open_judge(layout.CLASSIFIER)
    test, prompts = evaluation_inputs(layout.TABLE, layout.HELD_OUT)
    training = training_pictures(layout.TABLE)
    protocol = Protocol(seed=seed, **evaluate.model_dump(include=PROTOCOL))
    model_sha256, started = sha256_folder(layout.model(which)), time.perf_counter()
    kept = layout.drawn(f"evaluate-{which}")

    def drawing(family: Family) -> Family:
        return places.drawing(family, lambda family: resumable(family, kept, model_sha256))

    with progress_bar(f"evaluate {which}") as on_progress:
        found = measure_pipeline(
            pipeline,
            judge,
            test,
            protocol,
            forgotten=erasures.concepts,
            earlier=erasures.earlier,
            prompts=prompts,
            given=given_by_prompt(layout.TABLE),
            training=training,
            self_checks=evaluate.self_checks and which == "base" and first,
            domains=domains_by_concept(layout.TABLE),
            inception=inception_file(layout.INCEPTION),
            cache=layout.FEATURES,
            draw_on=which == "erased",  # the base, with which it is paired, is drawn as planned
            on_progress=on_progress if first else lambda done, total: None,
            drawing=drawing,
            together=places.number,
        )
    if not first:  # it has drawn its part
        return
    attack = partial(
        attack_pipeline,
        judge=judge,
        protocol=protocol,
        names=evaluate.attacks,
        forgotten=erasures.concepts,
        prompts=prompts,
        training=training,
        test=test,
        forget_set=(read_table(layout.FORGET_TABLE), read_table(layout.RETAIN_TABLE)) if evaluate.attacks else None,
        wordings=evaluate.wordings,
        pictures=evaluate.attack_pictures,
        budget=evaluate.attack_budget,
    )
    attacks = attack(pipeline, base=None if which == "base" else lambda: open_pipeline(layout.BASE))
    there = which == "base" and (Path(evaluate.retrained) / "model_index.json").exists()
    retrained = attack(open_pipeline(evaluate.retrained), base=lambda: pipeline) if there else {}
    grid = layout.samples(which)
    marked = [*erasures.concepts, *erasures.earlier]
    write_bytes(grid, grid_png(found.shown, asked_concepts(judge, prompts), which, marked=marked))
    write_readings(layout.readings(which), found.numbers)
    missing = not_run(evaluate.attacks, attacks, forgotten=erasures.concepts)
    found = replace(found, skipped=found.skipped | missing)
    seconds = time.perf_counter() - started
    write_json(layout.metrics(which), found.noted(model_sha256, attacks, retrained, seconds=seconds).to_json())
    shutil.rmtree(kept, ignore_errors=True)
    run.log_metrics(found.numbers.told)
    run.log_artifact(grid)


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("which", metavar="model", choices=["base", "erased"], help="base or erased")


if __name__ == "__main__":
    run_door("evaluate", main, __doc__, _arguments, trains=True)
