"""The sampling flow: many pictures of a concept, drawn by Prefect tasks."""

from __future__ import annotations

from pathlib import Path

from prefect import flow, get_run_logger, task
from prefect.futures import wait
from prefect.states import Completed, State
from prefect.task_runners import ThreadPoolTaskRunner

from erasediff.errors import DataError
from flows.jobs.runner import resources
from flows.jobs.states import failures_as_states, require_success
from flows.tools.doors import start_door
from flows.tools.processes import ending_children, settings


@flow(name="sample", flow_run_name="{n} of {concept}", task_runner=ThreadPoolTaskRunner(max_workers=1))
@failures_as_states
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
) -> State:
    """Draw pictures of a concept with the seeds ``seed`` to ``seed + n - 1`` → ``out/SEED.png``.

    Args:
        out: a folder that is not there, or empty.
        steps, guidance_scale: the model's own by default.
        batch: pictures a task; another number, like another of ``threads``, may change the last bits.
        threads: of each task.
    """
    if Path(out).exists() and (not Path(out).is_dir() or any(Path(out).iterdir())):
        raise DataError(f"{out} is there already: give a new folder, its pictures might be another model's")
    given = {"model": model, "concept": concept, "out": f"{out}/", "steps": steps, "guidance-scale": guidance_scale}
    arguments = [f"--{name}={value}" for name, value in given.items() if value is not None]
    parts = [(first, min(first + batch, seed + n) - 1) for first in range(seed, seed + n, batch)]
    with resources(threads), ending_children():
        futures = [drawn.submit(first, last, arguments, threads) for first, last in parts]
        wait(futures)
    for future in futures:
        require_success(future.state)
    return Completed(message=f"{n} pictures in {out}")


@task(task_run_name="seeds {first} to {last}")
@failures_as_states
def drawn(first: int, last: int, arguments: list[str], threads: int) -> None:
    """Draw pictures of some seeds in a process of its own, a file each."""
    logger = get_run_logger()
    wanted = [*arguments, f"--seed={first}", f"--n={last - first + 1}"]
    start_door("sample", *wanted, say=lambda line: logger.info("%s", line), extra=settings(threads=threads))
