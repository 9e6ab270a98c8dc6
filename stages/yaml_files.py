"""YAML files of sections: of any bytes they are read, or told in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.composer import Composer, ComposerError
from ruamel.yaml.error import YAMLError
from ruamel.yaml.events import AliasEvent
from ruamel.yaml.representer import RoundTripRepresenter

from erasediff.errors import ParamsError, shown

#: A file of sections has a few thousand; what is larger would take long to read.
MOST_BYTES = 100_000

#: What the reader raises where a text is no YAML, or a value not of the kind that its tag or form says.
NO_YAML = (YAMLError, ValueError, LookupError, TypeError, AttributeError)


class _NoAliases(Composer):
    """Refuses ``*name``: by aliases of aliases a short file stands for any number of entries."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.parser.check_event(AliasEvent):
            event = self.parser.get_event()
            raise ComposerError(None, None, f"*{event.anchor}: write the value out", event.start_mark)
        return super().compose_node(parent, index)


def keeping_comments() -> YAML:
    """Return a reader whose result can be changed and written again, comments kept."""
    yaml = YAML(pure=True)
    yaml.preserve_quotes, yaml.width, yaml.Representer = True, 10_000, _Representer
    return yaml


class _Representer(RoundTripRepresenter):
    """Writes ``null``, where ruamel would leave the value out."""


_Representer.add_representer(type(None), lambda r, _: r.represent_scalar("tag:yaml.org,2002:null", "null"))


def read_yaml(path: Path, reader: YAML | None = None) -> Any:
    """A file of sections as YAML 1.2, as DVC reads and writes it.

    ``dvc exp run -S`` takes the quotes off ``"no"``, which 1.1 calls false.

    Args:
        reader: one that keeps comments, where the file is to be written again.
    Raises: ParamsError: no such file, not UTF-8, too large, no YAML, an alias, or no mapping.
    """
    reader = reader or YAML(typ="safe", pure=True)
    reader.Composer = _NoAliases
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise ParamsError(f"{path} is missing: run this in the project's folder") from None
    except OSError as error:
        raise ParamsError(f"{path} cannot be read: {error.strerror}") from None
    if len(content) > MOST_BYTES:
        raise ParamsError(f"{path} has {len(content)} bytes; {MOST_BYTES} are the most: is it the right file?")
    try:
        raw = reader.load(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        where, what = error.object.count(b"\n", 0, error.start) + 1, error.object[error.start]
        raise ParamsError(f"{path} is not UTF-8 (byte 0x{what:02x} in line {where}): save it as UTF-8") from None
    except RecursionError:
        raise ParamsError(f"{path} is nested too deeply: sections with entries are needed") from None
    except NO_YAML as error:
        raise ParamsError(f"{path} is not YAML: {shown(str(error), 300)}") from None
    if not isinstance(raw, dict):
        raise ParamsError(f"{path} holds no sections: it should be a mapping such as params.yaml of the repository")
    return raw
