"""Measure the champion again, under today's classifier and protocol. A failed gate ends in exit code 1."""

from __future__ import annotations

import argparse
import sys


def main() -> None:
    """The command ``python -m flows.recheck``."""
    parser = argparse.ArgumentParser(prog="python -m flows.recheck", description=__doc__)
    parser.add_argument("--model", help="registered model (default: register.model_name of params.yaml)")
    parser.add_argument("--withdraw", action="store_true", help="take the alias from a champion that fails")
    arguments = parser.parse_args()
    from erasediff.command import fail, quiet_environment
    from erasediff.errors import EraseDiffError

    quiet_environment()
    try:
        run(arguments.model, arguments.withdraw)
    except EraseDiffError as error:
        sys.exit(fail(error))


def run(model: str | None, withdraw: bool) -> None:
    """Check the parameters, recheck. Raises: GateFailed, and what else the flow states."""
    from flows import pipeline
    from stages.params import load_params

    load_params()
    pipeline.temporary_server()
    from flows.champion import finished, recheck_flow

    print(finished(recheck_flow(model, withdraw, return_state=True)))


if __name__ == "__main__":
    main()
