"""Is it really gone? One attack a file, run on the base and on the erased model: each figure has its reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Protocol

from erasediff.evaluation.attacks.table import ATTACKS

if TYPE_CHECKING:
    from erasediff.evaluation.attacks.target import Found, Target

__all__ = ["ATTACKS", "Attack", "attacked", "to_json"]


class Attack(Protocol):
    """A file of this room."""

    def run(self, target: Target) -> dict[str, Found]:
        """What each variant of the attack found; none where it does not apply to such a model."""


def attacked(target: Target, names: Sequence[str]) -> dict[str, dict[str, Found]]:
    """What each attack found, by its name and its variants."""
    found = {name: _attack(name).run(target) for name in names}
    return {name: variants for name, variants in found.items() if variants}


def _attack(name: str) -> Attack:
    attack: Attack = import_module(f"erasediff.evaluation.attacks.{name}")  # type: ignore[assignment]
    return attack


def to_json(found: Mapping[str, Mapping[str, Found]]) -> dict[str, dict[str, dict[str, float]]]:
    """As the metrics of a model have it."""

    def entries(it: Found) -> dict[str, float]:
        return {name: value for name, value in vars(it).items() if value is not None}

    return {attack: {name: entries(it) for name, it in variants.items()} for attack, variants in found.items()}
