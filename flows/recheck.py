"""Measure the champion again, under today's classifier and protocol. A failed gate ends in exit code 1."""

from __future__ import annotations

from erasediff.arguments import Parser, add_quiet
from flows.command import run_command


def main() -> None:
    """The command ``python -m flows.recheck``."""
    parser = Parser(prog="python -m flows.recheck", description=__doc__)
    parser.add_argument("--model", default="", help="registered model (default: register.model_name of params.yaml)")
    parser.add_argument("--withdraw", action="store_true", help="take the alias from a champion that fails")
    add_quiet(parser)
    arguments = parser.parse_args()
    run_command("recheck", lambda: recheck(arguments.model, arguments.withdraw, arguments.quiet))


def recheck(model: str, withdraw: bool, quiet: bool = False) -> None:
    """Check the parameters, recheck. Raises: GateFailed, and what else the flow states."""
    from flows.command import prefect_server
    from stages.params import load_params

    load_params()
    prefect_server()
    from flows.jobs.recheck import recheck_flow
    from flows.jobs.terminal import run_flow

    run_flow(lambda: recheck_flow(model, withdraw, return_state=True), quiet=quiet)


if __name__ == "__main__":
    main()
