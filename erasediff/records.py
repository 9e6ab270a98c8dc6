"""Records that cross a border as JSON: typed, so that no reader indexes by strings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

#: A setting as JSON has it.
Value: TypeAlias = str | int | float | bool | None


@dataclass(frozen=True)
class EffectiveSettings:
    """How an erased model was made: what ran, not what was asked for. Part of ``metrics/erase.json``.

    Attributes:
        method: name of the method.
        settings: every setting that mattered to this run, once, with the value that it had. Of ``retrain``, its recipe.
        updates: number of updates made.
        passes: images through the network in them, a backward pass counted as two forward ones.
    """

    method: str
    settings: Mapping[str, Value]
    updates: int
    passes: int

    def to_json(self) -> dict[str, Any]:
        """The record as JSON takes it."""
        return {**asdict(self), "settings": dict(self.settings)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> EffectiveSettings:
        """Read the record; further entries, such as the numbers of ``metrics/erase.json``, are left alone.

        Raises: KeyError: an entry is missing.
        """
        return cls(content["method"], dict(content["settings"]), int(content["updates"]), int(content["passes"]))
