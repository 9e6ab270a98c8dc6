"""The command line's parser: what was meant is told beside what was wrong."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from erasediff.errors import ParamsError, did_you_mean, require_unicode, shown

#: How a size is written.
SIZE = "HEIGHTxWIDTH"


class Parser(argparse.ArgumentParser):
    """argparse's parser with "did you mean" for options, subcommands and choices. Loads nothing heavy."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """Refuse bytes that are no text, and what is left over here, where the subcommand's own options are known."""
        try:
            require_unicode(sys.argv[1:] if args is None else args, "argument")
        except ParamsError as error:
            self.error(str(error))
        found, left = super().parse_known_args(args, namespace)
        if left:
            options = [word.partition("=")[0].lstrip("-") for word in left if word.startswith("-")]
            known = {option.lstrip("-"): option for option in self._option_string_actions if option.startswith("--")}
            hints = [did_you_mean(option, known, known.get) for option in options]
            self.error(f"unrecognized arguments: {shown(' '.join(left))}{next(filter(None, hints), '')}")
        return found, left

    def error(self, message: str) -> NoReturn:
        """Print the usage and one line, and exit with 2."""
        choice = re.search(r"invalid choice: '?(.+?)'? \(choose from (.+)\)", message)
        hint = did_you_mean(choice[1], re.findall(r"[^\s,']+", choice[2])) if choice else ""
        super().error(message + hint)


def add_quiet(parser: argparse.ArgumentParser) -> None:
    """Add the option of a command that tells how far it is."""
    parser.add_argument("--quiet", action="store_true", help="show the result, warnings and errors alone")


def add_size(parser: argparse.ArgumentParser, told: str) -> None:
    """Add the option that says how large pictures are. Args: told: what for."""
    parser.add_argument("--size", type=_size, metavar=SIZE, help=f"{told} (default: the model's own)")


def _size(text: str) -> tuple[int, int]:
    sides = text.lower().replace("×", "x").split("x")
    if len(sides) != 2 or not all(side.isdecimal() for side in sides):
        raise argparse.ArgumentTypeError(f"{shown(text)!r} is no {SIZE}: write such as 512x768")
    return int(sides[0]), int(sides[1])


def within(least: int, most: int) -> Callable[[str], int]:
    """Return the type of an argument: a whole number from ``least`` to ``most``."""

    def number(text: str) -> int:
        if not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"{text} is not from {least} to {most}")
        return int(text)

    number.__name__ = "whole number"
    return number
