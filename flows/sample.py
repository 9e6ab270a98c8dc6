"""Draw many pictures of a concept, a file each, spread over threads or a Ray cluster (RAY_ADDRESS)."""

from __future__ import annotations

import os
from pathlib import Path

from erasediff.arguments import Parser, add_quiet
from flows.command import run_command


def main() -> None:
    """The command ``python -m flows.sample``."""
    parser = Parser(prog="python -m flows.sample", description=__doc__)
    parser.add_argument("--model", required=True, help="diffusers folder, models:/NAME@ALIAS or models:/NAME/VERSION")
    parser.add_argument("--concept", required=True, help="what to draw: the name of a class, or a prompt")
    parser.add_argument("--n", type=int, default=1000, help="pictures (default: %(default)s)")
    parser.add_argument("--out", required=True, type=Path, help="new folder for them")
    parser.add_argument("--seed", type=int, default=0, help="of the first picture (default: %(default)s)")
    parser.add_argument("--steps", type=int, help="sampling steps (default: the model's own)")
    parser.add_argument("--guidance-scale", type=float, help="1: no guidance (default: the model's own)")
    parser.add_argument("--batch", type=int, default=200, help="pictures a task (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=1, help="tasks at once without Ray (default: %(default)s)")
    add_quiet(parser)
    arguments = parser.parse_args()
    for name, least in {"n": 1, "seed": 0, "steps": 1, "batch": 1, "jobs": 1}.items():
        if (value := getattr(arguments, name)) is not None and value < least:
            parser.error(f"--{name} {value}: at least {least}")
    run_command("sample", lambda: sample(**vars(arguments)))


def sample(out: Path, jobs: int, quiet: bool = False, **wanted: str | int | float) -> None:
    """Draw the pictures. Raises: DataError: the folder is there already; what a task states."""
    from flows.command import prefect_server
    from flows.tools.processes import threads

    prefect_server()
    from flows.jobs.runner import task_runner
    from flows.jobs.sample import sample_flow
    from flows.jobs.terminal import run_flow

    flow = sample_flow.with_options(task_runner=task_runner(jobs))
    wanted |= {"out": os.path.abspath(out), "threads": threads(jobs)}
    run_flow(lambda: flow(**wanted, return_state=True), quiet=quiet)


if __name__ == "__main__":
    main()
