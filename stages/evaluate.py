"""Evaluate: one model measured under the classifier; base and erased get the same seeds and draws."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from stages.door import run_door

if TYPE_CHECKING:
    from erasediff.tracking import StageRun
    from stages.params import Evaluate


def main(run: StageRun, seed: int, evaluate: Evaluate, which: str) -> None:
    """params.yaml, ``models/WHICH/``, classifier, data → ``metrics/WHICH.json``, ``plots/samples_WHICH.png``."""
    import time

    from tqdm import tqdm

    from erasediff.artifacts import read_json, write_bytes, write_json
    from erasediff.data.inputs import read_table
    from erasediff.evaluation.measure import measure_pipeline
    from erasediff.evaluation.pictures import grid_png
    from erasediff.families import open_pipeline
    from erasediff.judges import open_judge
    from stages import layout

    sets = read_json(layout.summary(layout.SETS))
    pipeline = open_pipeline(layout.model(which))
    started = time.perf_counter()
    with tqdm(desc=f"evaluate {which}", mininterval=2) as bar:
        numbers, shown, concepts = measure_pipeline(
            pipeline,
            open_judge(layout.CLASSIFIER),
            read_table(layout.TABLE, "test"),
            sets["concepts"],
            sets["earlier"],
            seed=seed,
            bar=bar,
            **evaluate.model_dump(),
        )
    grid = layout.samples(which)
    write_bytes(grid, grid_png(shown, concepts, which, marked=[*sets["concepts"], *sets["earlier"]]))
    write_json(layout.metrics(which), {**numbers, "seconds": time.perf_counter() - started})
    run.log_metrics(numbers)
    run.log_artifact(grid)


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("which", metavar="model", choices=["base", "erased"], help="base or erased")


if __name__ == "__main__":
    run_door("evaluate", main, __doc__, _arguments)
