"""Is it really gone? One attack a file, run on the base and on the erased model: each figure has its reference."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Protocol

from erasediff.errors import ModelError
from erasediff.evaluation.attacks.table import ATTACKS

if TYPE_CHECKING:
    from erasediff.evaluation.attacks.target import Found, Target
    from erasediff.families.family import Family

__all__ = ["ATTACKS", "Attack", "attacked", "to_json", "whole"]


class Attack(Protocol):
    """A file of this room."""

    def run(self, target: Target) -> dict[str, Found]:
        """What each variant of the attack found; none where it does not apply to such a model."""


def attacked(target: Target, names: Sequence[str]) -> dict[str, dict[str, Found]]:
    """What each attack found, by its name and its variants.

    Raises: ModelError: under an attack, which it names, pictures or what is said of them are no finite numbers.
    """
    with whole(target) as target:
        found = {name: _run(name, target) for name in names}
    return {name: variants for name, variants in found.items() if variants}


@contextmanager
def whole(target: Target) -> Iterator[Target]:
    """The target to be attacked for a block.

    Models of half precision are attacked in float32 where they are on a CPU: a search would take many times as long.
    """
    from erasediff.families.weights import widened

    with ExitStack() as wide:

        def in_float32(family: Family) -> Family:
            wide.enter_context(widened(family.pipeline))
            return family

        base = target.base
        yield target.changed(
            family=in_float32(target.family), base=None if base is None else lambda: in_float32(base())
        )


def _run(name: str, target: Target) -> dict[str, Found]:
    attack: Attack = import_module(f"erasediff.evaluation.attacks.{name}")  # type: ignore[assignment]
    try:
        return attack.run(target)
    except ModelError as error:
        raise ModelError(f"attack {name}: {error}") from None


def to_json(found: Mapping[str, Mapping[str, Found]]) -> dict[str, dict[str, dict[str, float]]]:
    """As the metrics of a model have it."""

    def entries(it: Found) -> dict[str, float]:
        return {name: value for name, value in vars(it).items() if value is not None}

    return {attack: {name: entries(it) for name, it in variants.items()} for attack, variants in found.items()}
