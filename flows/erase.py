"""Forget: every DVC stage as a Prefect task, then the verdict and the aliases.

Without options: what params.yaml says, in this folder. With any of --concept, --base, --method, --preset and --set:
params.yaml stays as it is, and the run takes place on the last commit, in a folder of its own.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from erasediff.arguments import Parser, add_quiet
from flows.command import run_command

if TYPE_CHECKING:
    from flows.tools.request import EraseRequest


def main() -> None:
    """The command ``python -m flows.erase``."""
    parser = Parser(
        prog="python -m flows.erase", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--concept", action="append", default=[], metavar="NAME", help="forget it; may be repeated")
    parser.add_argument(
        "--base",
        default="params",
        metavar="params|champion|VERSION",
        help="erase from: what params.yaml says, the champion, which keeps what it has forgotten, or a version",
    )
    parser.add_argument("--method", metavar="NAME", help="erase.method of params.yaml")
    parser.add_argument("--preset", default="", metavar="NAME", help="a file of presets/, without .yaml")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="an entry of params.yaml; may be repeated",
    )
    parser.add_argument(
        "--no-commit", action="store_true", help="leave dvc.lock uncommitted (default: commit it from a clean checkout)"
    )
    add_quiet(parser)
    arguments = parser.parse_args()
    run_command("erase", lambda: asked(arguments))


def asked(arguments: argparse.Namespace) -> None:
    """Do what the command line asks for."""
    from flows.tools.request import AS_IT_IS, request_of
    from stages.params import load_params

    params = load_params()
    method = [f"erase.method={arguments.method}"] if arguments.method else []
    request = request_of(
        [*arguments.set, *method], concepts=arguments.concept, base=arguments.base, preset=arguments.preset
    )
    if request == AS_IT_IS:
        params.require_known_concepts()
        erase(commit=not arguments.no_commit, quiet=arguments.quiet)
    else:
        run_here(request, arguments.quiet)


def erase(commit: bool = True, quiet: bool = False) -> None:
    """Hold the checkout, run the flow in it unless there is nothing to do.

    A failed gate is a result all the same: it is shown and recorded before it ends the command.
    """
    from erasediff.errors import GateFailed
    from flows.tools import results
    from flows.tools.lock import only_run
    from flows.tools.request import AS_IT_IS
    from flows.tools.screen import show

    with only_run():
        if results.nothing_to_do():
            show("nothing to do: everything is up to date\n\n" + results.summary())
            return
        missed: GateFailed | None = None
        try:
            run_here(AS_IT_IS, quiet)
        except GateFailed as error:
            missed = error
        if commit:
            print(results.record_commit())
        if missed is not None:
            raise missed


def run_here(request: EraseRequest, quiet: bool) -> None:
    """Run the flow, which shows the result. Raises: what it states."""
    from flows.command import prefect_server

    prefect_server()
    from flows.jobs.erase import erase_flow
    from flows.jobs.terminal import run_flow

    run_flow(lambda: erase_flow(request, return_state=True), quiet=quiet)


if __name__ == "__main__":
    main()
