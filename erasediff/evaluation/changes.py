"""How far retained pictures moved: base and erased model, the same prompts and seeds, in the judge's features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from erasediff.metrics.intervals import beside, of_mean
from erasediff.metrics.table import CHANGE, OF_ONE

if TYPE_CHECKING:
    from torch import Tensor

    from erasediff.metrics.draw import Draw

#: Readings by ``features.CONCEPT``: features of a retained concept's pictures, ``(N, D)``, in the order of drawing.
FEATURES = "features."


def features_of(draws: Sequence[Draw]) -> dict[str, Tensor]:
    """The judge's features of all draws' pictures of each retained concept, in float16 by their readings' names."""
    import torch

    first = draws[0]
    rows = {c: (first.labels == i) & first.retained for i, c in enumerate(first.known)}
    return {
        f"{FEATURES}{c}": torch.cat([draw.features[own] for draw in draws]).half()
        for c, own in rows.items()
        if own.any()
    }


def changes(base: Mapping[str, Any], erased: Mapping[str, Any], z: float) -> tuple[dict[str, float], dict[str, int]]:
    """The mean change of retained pictures, with its interval, and that of each concept; nothing of too few pictures.

    Args:
        base, erased: readings; where one of both drew on, the first of its pictures are those of the other.

    Returns: nothing without features; else also the pictures that it stands on, by the metric's name.
    """
    names = [name for name in base if name.startswith(FEATURES) and name in erased]
    if not names:
        return {}, {}
    import torch

    from erasediff.metrics.similarity import feature_change

    each = {}
    for name in names:
        few = min(len(base[name]), len(erased[name]))
        pair = [torch.as_tensor(readings[name])[:few] for readings in (base, erased)]
        each[name.removeprefix(FEATURES)] = feature_change(*pair)
    named = {CHANGE.name: torch.cat(list(each.values())), **{f"{CHANGE.name}.{c}": v for c, v in each.items()}}
    found: dict[str, float] = {}
    for name, change in named.items():
        if len(change) < (CHANGE.least if name == CHANGE.name else OF_ONE):
            continue
        value, spread = float(change.mean()), float(change.std()) if len(change) > 1 else 0.0
        low, high = of_mean(value, spread, len(change), z)
        found |= {name: value, beside(name, "low"): max(0.0, low), beside(name, "high"): high}
    return found, {CHANGE.name: len(named[CHANGE.name])}
