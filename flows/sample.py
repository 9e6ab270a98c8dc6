"""Draw many pictures of a concept, a file each, spread over threads or a Ray cluster (RAY_ADDRESS)."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path


def main() -> None:
    """The command ``python -m flows.sample``."""
    parser = argparse.ArgumentParser(prog="python -m flows.sample", description=__doc__)
    parser.add_argument("--model", required=True, help="diffusers folder, models:/NAME@ALIAS or models:/NAME/VERSION")
    parser.add_argument("--concept", required=True)
    parser.add_argument("--n", type=int, default=1000, help="pictures (default: %(default)s)")
    parser.add_argument("--out", required=True, type=Path, help="new folder for them")
    parser.add_argument("--seed", type=int, default=0, help="of the first picture (default: %(default)s)")
    parser.add_argument("--steps", type=int, help="sampling steps (default: the model's own)")
    parser.add_argument("--guidance-scale", type=float, help="1: no guidance (default: the model's own)")
    parser.add_argument("--batch", type=int, default=200, help="pictures a task (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=1, help="tasks at once without Ray (default: %(default)s)")
    arguments = parser.parse_args()
    for name, least in {"n": 1, "seed": 0, "steps": 1, "batch": 1, "jobs": 1}.items():
        if (value := getattr(arguments, name)) is not None and value < least:
            parser.error(f"--{name} {value}: at least {least}")
    from erasediff.command import fail, quiet_environment
    from erasediff.errors import EraseDiffError
    from flows import pipeline

    quiet_environment()
    try:
        pipeline.temporary_server()
        from flows.champion import finished  # now that Prefect's settings stand
        from flows.runner import task_runner
        from flows.sample_tasks import sample_flow

        options = vars(arguments)
        jobs = options.pop("jobs")
        options["out"] = os.path.abspath(arguments.out)
        flow = sample_flow.with_options(task_runner=task_runner(jobs))
        print(finished(flow(**options, threads=pipeline.threads(jobs), return_state=True)))
    except EraseDiffError as error:
        sys.exit(fail(error))


if __name__ == "__main__":
    main()
