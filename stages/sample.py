"""Draw pictures from any model folder or registry version."""

from __future__ import annotations

import argparse

from erasediff.cli import MODEL, add_drawing_options, draw
from stages.door import run_door

main = draw


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, help=MODEL)
    parser.add_argument("--concept", required=True, help="what to draw: the name of a class, or a prompt")
    add_drawing_options(parser)


if __name__ == "__main__":
    run_door("sample", main, __doc__, _arguments, interrupted="nothing was written", less_memory="lower --n")
