"""Hold a model of any tool against its base, or run a published benchmark on it."""

from __future__ import annotations

from typing import Any

from erasediff.arguments import Parser
from erasediff.evaluate_command import add_evaluate, evaluate
from flows.command import run_command


def main() -> None:
    """The command ``python -m flows.evaluate``."""
    parser = Parser(prog="python -m flows.evaluate", description=__doc__)
    add_evaluate(parser)
    given = vars(parser.parse_args())
    run_command("evaluate", lambda: evaluate(**_with_cluster(given)))


def _with_cluster(given: dict[str, Any]) -> dict[str, Any]:
    """What was given, and by default the Ray cluster that the environment names."""
    from erasediff.environment import environment

    return {**given, "ray": given["ray"] or environment().ray_address}


if __name__ == "__main__":
    main()
