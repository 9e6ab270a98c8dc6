"""The main flow: every DVC stage as a Prefect task, then the verdict and the aliases."""

from __future__ import annotations

from erasediff.arguments import Parser
from flows.command import run_command


def main() -> None:
    """The command ``python -m flows.erase``."""
    parser = Parser(prog="python -m flows.erase", description=__doc__)
    parser.add_argument(
        "--no-commit", action="store_true", help="leave dvc.lock uncommitted (default: commit it from a clean checkout)"
    )
    arguments = parser.parse_args()
    run_command("erase", lambda: erase(commit=not arguments.no_commit))


def erase(commit: bool = True) -> None:
    """Check the parameters, hold the checkout, run the flow unless there is nothing to do.

    A failed gate is a result all the same: it is shown and recorded before it ends the command.
    """
    from erasediff.errors import GateFailed
    from flows.command import temporary_server
    from flows.tools import results
    from flows.tools.lock import only_run
    from stages.params import load_params

    load_params()
    with only_run():
        if results.nothing_to_do():
            print("nothing to do: everything is up to date\n\n" + results.summary())
            return
        temporary_server()
        from flows.jobs.erase import erase_flow
        from flows.jobs.states import require_success

        missed: GateFailed | None = None
        try:
            require_success(erase_flow(return_state=True))
        except GateFailed as error:
            missed = error
        print("\n" + results.summary() + ("\n" + results.record_commit() if commit else ""))
        if missed is not None:
            raise missed


if __name__ == "__main__":
    main()
