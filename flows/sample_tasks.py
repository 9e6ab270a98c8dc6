"""Pictures drawn by Prefect tasks. Imports Prefect: the command imports this late."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.futures import wait
from prefect.states import Completed
from prefect.task_runners import ThreadPoolTaskRunner

from erasediff.errors import DataError, EraseDiffError, StageFailed
from flows import pipeline
from flows.runner import resources
from flows.tasks import failed


@task(task_run_name="seeds {first} to {last}")
def drawn(first: int, last: int, arguments: list[str], threads: int) -> Any:
    """Draw pictures of some seeds in a process of its own, a file each."""
    logger = get_run_logger()
    wanted = ["--seed", str(first), "--n", str(last - first + 1)]
    try:
        extra = {"OMP_NUM_THREADS": str(threads)}
        pipeline.run_door("sample", *arguments, *wanted, say=lambda line: logger.info("%s", line), extra=extra)
    except StageFailed as error:
        return failed(error)
    return last - first + 1


@flow(name="sample", flow_run_name="{n} of {concept}", task_runner=ThreadPoolTaskRunner(max_workers=1))
def sample_flow(
    model: str,
    concept: str,
    out: str,
    n: int = 1000,
    seed: int = 0,
    steps: int | None = None,
    guidance_scale: float | None = None,
    batch: int = 200,
    threads: int = 1,
) -> Any:
    """Pictures of a concept with the seeds ``seed`` to ``seed + n - 1`` → ``out/SEED.png``.

    Args:
        out: a folder that is not there, or empty.
        steps, guidance_scale: the model's own by default.
        batch: pictures a task; another number, like another of ``threads``, may change the last bits.
        threads: of each task.
    """
    try:
        if Path(out).exists() and (not Path(out).is_dir() or any(Path(out).iterdir())):
            raise DataError(f"{out} is there already: give a new folder, its pictures might be another model's")
        given = {"model": model, "concept": concept, "out": f"{out}/", "steps": steps, "guidance-scale": guidance_scale}
        arguments = [f"--{name}={value}" for name, value in given.items() if value is not None]
        parts = [(first, min(first + batch, seed + n) - 1) for first in range(seed, seed + n, batch)]
        with resources(threads):
            futures = [drawn.submit(first, last, arguments, threads) for first, last in parts]
            wait(futures)
        for future in futures:
            if future.state.name == StageFailed.__name__:
                raise StageFailed(future.state.message)
        return Completed(message=f"{sum(future.result() for future in futures)} pictures in {out}")
    except EraseDiffError as error:
        return failed(error)
