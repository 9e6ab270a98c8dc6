"""Retained concepts that look most like the forgotten ones: where forgetting too much shows first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from erasediff.metrics.intervals import of_share
from erasediff.metrics.table import KEPT, NEIGHBOUR_ACCURACY

if TYPE_CHECKING:
    from erasediff.metrics.draw import Draw

#: Neighbours of each forgotten concept, at most.
NEAREST = 2


def neighbours_of(draws: Sequence[Draw]) -> dict[str, list[str]]:
    """The retained concepts of its domain nearest to each one to forget, nearest first, by what was drawn for them.

    Of a base, which still draws what is to be forgotten, this says what looks like it to the judge: the distance of the
    means of its features, each entry over its spread.
    """
    import torch

    features = torch.cat([draw.features for draw in draws]).double()
    labels = torch.cat([draw.labels for draw in draws])
    scaled = (features - features.mean(0)) / features.std(0).clamp(min=1e-12)
    first = draws[0]
    means = {first.known[int(i)]: scaled[labels == i].mean(0) for i in labels.unique()}
    near = {c for c, own in zip(first.asked, first.in_domain.tolist(), strict=True) if own}
    retained = [c for c in means if c in near]
    found = {}
    for concept in [c for c in means if c in first.forgotten]:
        distances = {c: float((means[c] - means[concept]).norm()) for c in retained}
        found[concept] = sorted(retained, key=distances.__getitem__)[:NEAREST]
    return found


def neighbour_accuracy(
    numbers: Mapping[str, float], counts: Mapping[str, int], neighbours: Mapping[str, Sequence[str]], confidence: float
) -> tuple[dict[str, float], dict[str, int]]:
    """The share of the neighbours' pictures that is recognised, with its interval, and the pictures it stands on.

    Args:
        numbers: of one model, with those of single concepts.
        neighbours: of the base, of each concept to forget.
        confidence: of the interval.

    Returns: nothing, where no neighbour was measured; of too few pictures, their count alone.
    """
    names = [f"{KEPT.name}.{c}" for c in dict.fromkeys(c for near in neighbours.values() for c in near)]
    names = [name for name in names if counts.get(name)]
    if any(name not in numbers for name in names):  # too few pictures of one
        return {}, {NEIGHBOUR_ACCURACY.name: min(counts[name] for name in names)}
    n, own = sum(counts[name] for name in names), NEIGHBOUR_ACCURACY.name
    if not n or NEIGHBOUR_ACCURACY.untold(n):
        return {}, {own: n} if n else {}
    seen = round(sum(numbers[name] * counts[name] for name in names))
    low, high = of_share(seen, n, confidence)
    return {own: seen / n, f"{own}_low": low, f"{own}_high": high}, {own: n}
