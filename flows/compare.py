"""Methods × concepts × seeds as DVC experiments, with one search for each; a table, a plot and a page."""

from __future__ import annotations

import os
from pathlib import Path

from erasediff.arguments import Parser, add_quiet
from flows.command import run_command
from stages import layout


def main() -> None:
    """The command ``python -m flows.compare``."""
    parser = Parser(prog="python -m flows.compare", description=__doc__)
    parser.add_argument("file", nargs="?", type=Path, default=layout.COMPARISON, help="default: %(default)s")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="cells at once (default: one a core)")
    add_quiet(parser)
    arguments = parser.parse_args()
    if arguments.jobs < 1:
        parser.error(f"--jobs {arguments.jobs}: at least 1")
    run_command("compare", lambda: compare(arguments.file, arguments.jobs, arguments.quiet))


def compare(file: Path, jobs: int, quiet: bool = False) -> None:
    """Check the comparison's file, compare. Raises: StageFailed: cells failed; what else the flow states."""
    from flows.command import prefect_server
    from flows.tools.comparisons import read_comparison
    from flows.tools.processes import threads

    read_comparison(file)
    prefect_server()
    from flows.jobs.compare import compare_flow
    from flows.jobs.runner import task_runner
    from flows.jobs.terminal import run_flow

    flow = compare_flow.with_options(task_runner=task_runner(jobs))
    run_flow(lambda: flow(str(file), threads=threads(jobs), return_state=True), quiet=quiet)


if __name__ == "__main__":
    main()
