"""Make a version champion, go back to an earlier one, or say which version was champion when."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from erasediff.arguments import Parser
from flows.command import run_command

if TYPE_CHECKING:
    from erasediff.registry.promotion import Standing
    from erasediff.registry.versions import Version


def main() -> None:
    """The command ``python -m flows.promote``."""
    parser = Parser(prog="python -m flows.promote", description=__doc__)
    parser.add_argument("--model", help="registered model (default: register.model_name of params.yaml)")
    commands = parser.add_subparsers(dest="command", required=True)
    for command, does in (
        ("challenger", "make the challenger, or another version that passed, the champion"),
        ("rollback", "make the previous champion the champion again"),
    ):
        sub = commands.add_parser(command, help=does)
        sub.add_argument("--why", required=True, help="kept in the history")
        sub.add_argument(
            "--brings-back",
            action="append",
            default=[],
            metavar="CONCEPT",
            help="go on though this one, which the champion has forgotten, is drawn again",
        )
        sub.add_argument("--approve", action="store_true", help="first ask somebody, in the UI of the Prefect server")
        sub.add_argument("--wait", type=int, metavar="SECONDS", help="for an approval at most so long (default: a day)")
        if command == "challenger":
            sub.add_argument("--version", default="challenger", help="instead of the challenger")
    sub = commands.add_parser("history", help="who moved which alias, when and why")
    sub.add_argument("--at", metavar="DATE", help="only: which version was champion then (UTC)")
    arguments = parser.parse_args()
    run_command("promote", lambda: promote_or_tell(arguments))


def promote_or_tell(arguments: argparse.Namespace) -> None:
    """Do what the command line asks for."""
    from erasediff.registry.promotion import promote
    from flows.tools.doors import require_drawing
    from flows.tools.results import model_name

    def check(asked: Version, before: Standing) -> None:
        require_drawing(asked)

    name = model_name(arguments.model)
    if arguments.command == "history":
        print(show(name, arguments.at))
        return
    version = "previous_champion" if arguments.command == "rollback" else arguments.version
    if arguments.approve:
        print(promote_if_approved(name, version, arguments.why, arguments.brings_back, arguments.wait))
        return
    champion = promote(name, version, why=arguments.why, brings_back=arguments.brings_back, check=check)
    print(f"champion of {name} is version {champion}")


def promote_if_approved(name: str, version: str, why: str, brings_back: list[str], seconds: int | None) -> str:
    """Ask somebody on the Prefect server, wait, promote; return what was done. Raises: what the flow states."""
    from flows.jobs.promotion import DAY, promote_flow, require_server
    from flows.jobs.states import finished

    require_server()
    asked = {"why": why, "version": version, "model_name": name, "brings_back": brings_back}
    wait = DAY if seconds is None else seconds
    return finished(promote_flow(**asked, approve=True, wait_seconds=wait, return_state=True))


def show(name: str, at: str | None) -> str:
    """Return the history of a model's aliases, or its champion at a date.

    Raises: ParamsError: no date. ModelError: neither the registry nor the history has such a model.
    """
    from erasediff.errors import ParamsError
    from erasediff.registry.history import champion_at, history
    from erasediff.registry.versions import require_model

    moves = history(name)
    if not moves:
        require_model(name)

    if at is not None:
        try:
            moment = datetime.fromisoformat(at)
        except ValueError:
            raise ParamsError(f"--at {at!r} is no date: give one such as 2026-01-31 or 2026-01-31T12:00") from None
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        version = champion_at(name, moment)
        return f"{name} version {version}" if version else f"{name} had no champion"
    lines = [
        f"{move.at:%Y-%m-%d %H:%M:%S}Z  {move.alias:17} {move.before or '-':>4} → {move.after or '-':4} "
        f"{move.by}: {move.why}  [{move.evidence[:12]}]"
        for move in moves
    ]
    return "\n".join(lines) or f"no alias of {name} was ever moved"


if __name__ == "__main__":
    main()
