"""Presets: named sets of parameters, each of which states only what differs from params.yaml of the repository."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from erasediff.arguments import Parser
from erasediff.checkout import is_changed
from erasediff.command import exit_code
from erasediff.errors import ParamsError, did_you_mean, shown
from stages.params import PARAMS_FILE, change_params
from stages.yaml_files import read_yaml

PRESETS = Path("presets")


def preset_names() -> list[str]:
    """Return the names of the presets in this folder."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def preset(name: str) -> dict[str, object]:
    """Return what a preset changes, such as ``{"erase.eta": 0.1}``.

    Raises: ParamsError: there is no such preset, or it is no mapping of sections.
    """
    names = preset_names()
    if name not in names:
        there = ", ".join(names) or "none here"
        raise ParamsError(f"there is no preset {shown(name)!r}, but {there}{did_you_mean(name, names)}")
    return dict(_entries(read_yaml(PRESETS / f"{name}.yaml")))


def _entries(sections: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    for section, value in sections.items():
        if isinstance(value, Mapping):
            yield from ((f"{section}.{key}", entry) for key, entry in value.items())
        else:
            yield section, value


def apply(name: str) -> list[str]:
    """Write a preset into params.yaml, its comments kept; return the lines that tell what changed.

    Raises: ParamsError: params.yaml has uncommitted changes, which would be lost; or the preset does not fit.
    """
    if is_changed(PARAMS_FILE):
        raise ParamsError(f"{PARAMS_FILE} has uncommitted changes: commit them, or git checkout {PARAMS_FILE}")
    changes = preset(name)
    change_params(changes)
    return [f"{key}: {value}" for key, value in changes.items()]


def main() -> None:
    """The command ``python -m stages.presets``."""
    parser = Parser(prog="python -m stages.presets", description="Presets of params.yaml.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="names of the presets")
    written = commands.add_parser("apply", help="write a preset into params.yaml, from which git brings it back")
    written.add_argument("name", help="of a file in presets/")
    arguments = parser.parse_args()

    def work() -> None:
        lines = preset_names() if arguments.command == "list" else apply(arguments.name)
        print("\n".join(lines))

    raise SystemExit(exit_code("presets", work))


if __name__ == "__main__":
    main()
