"""Make a version champion, go back to an earlier one, or say which version was champion when."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

DAY = 24 * 60 * 60


def draws(version: Any, champion: str = "") -> None:
    """Have a version draw a picture in a process of its own. Raises: ModelError: it does not."""
    from erasediff.errors import ModelError
    from flows.pipeline import environment

    with tempfile.TemporaryDirectory() as temporary:
        picture = Path(temporary) / "picture.png"
        concept = version.tags.get("example_concept", "")
        # One argument each: a concept may start with a dash.
        command = [sys.executable, "-m", "stages.sample", f"--model={version.uri}", f"--concept={concept}"]
        done = subprocess.run(
            [*command, "--n", "1", "--steps", "2", "--out", str(picture)],
            capture_output=True,
            text=True,
            env=environment(),
            check=False,
        )
        if done.returncode or not picture.exists():
            raise ModelError(f"{version.uri} does not draw: {(done.stderr.strip().splitlines() or ['no output'])[-1]}")


def show(name: str, at: str | None) -> str:
    """The history of a model's aliases, or its champion at a date. Raises: ParamsError: no date."""
    from erasediff.errors import ParamsError
    from erasediff.registry.promotion import champion_at, history

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
        for move in history(name)
    ]
    return "\n".join(lines) or f"no alias of {name} was ever moved"


def main() -> None:
    """The command ``python -m flows.promote``."""
    parser = argparse.ArgumentParser(prog="python -m flows.promote", description=__doc__)
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
        sub.add_argument(
            "--wait", type=int, default=DAY, metavar="SECONDS", help="for an approval at most so long (default: a day)"
        )
        if command == "challenger":
            sub.add_argument("--version", help="instead of the challenger")
    sub = commands.add_parser("history", help="who moved which alias, when and why")
    sub.add_argument("--at", metavar="DATE", help="only: which version was champion then (UTC)")
    arguments = parser.parse_args()
    from erasediff.command import fail, quiet_environment
    from erasediff.errors import EraseDiffError

    quiet_environment()
    try:
        run(arguments)
    except EraseDiffError as error:
        sys.exit(fail(error))


def run(arguments: argparse.Namespace) -> None:
    """What :func:`main` was asked for."""
    from erasediff.registry.promotion import promote
    from stages.params import load_params

    name = arguments.model or load_params().register_.model_name
    if arguments.command == "history":
        print(show(name, arguments.at))
        return
    version = "previous_champion" if arguments.command == "rollback" else arguments.version
    if arguments.approve:
        from flows.champion import finished, promote_flow, require_server

        require_server()
        asked = {"why": arguments.why, "version": version, "model_name": name, "brings_back": arguments.brings_back}
        print(finished(promote_flow(**asked, approve=True, wait_seconds=arguments.wait, return_state=True)))
        return
    champion = promote(name, version, why=arguments.why, brings_back=arguments.brings_back, check=draws)
    print(f"champion of {name} is version {champion}")


if __name__ == "__main__":
    main()
