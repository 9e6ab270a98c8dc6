"""Hold a model of any tool against its base, or run a published benchmark on it."""

from __future__ import annotations

from erasediff.arguments import Parser
from erasediff.environment import environment
from erasediff.evaluate_command import add_evaluate, evaluate
from flows.command import run_command


def main() -> None:
    """The command ``python -m flows.evaluate``."""
    parser = Parser(prog="python -m flows.evaluate", description=__doc__)
    add_evaluate(parser)
    parser.set_defaults(ray=environment().ray_address)
    given = vars(parser.parse_args())
    run_command("evaluate", lambda: evaluate(**given))


if __name__ == "__main__":
    main()
