"""Fidelity apart from diversity: do drawn pictures lie among real ones, and real ones among drawn ones?

Both sets of features are balls around each of their pictures that reach to its k-th nearest neighbour in its own set.
Source: improved precision and recall, arXiv 1904.06991; density and coverage, arXiv 2002.09797.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from erasediff.metrics.distance import at_once
from erasediff.metrics.draw import Draw

#: Neighbours that a ball reaches to.
NEIGHBOURS = 5
#: Nearest pictures among which a resample's k-th neighbour is looked for: each is left out of it once in e times.
SEARCHED = 64


def precision_classifier(draw: Draw) -> Tensor | None:
    """Whether a picture drawn for a retained concept lies in the ball of a held-out one."""
    return None if (found := _balls_around_drawn(draw)) is None else found > 0


def density_classifier(draw: Draw) -> Tensor | None:
    """In how many balls of held-out pictures one drawn for a retained concept lies, over k."""
    return None if (found := _balls_around_drawn(draw)) is None else found.double() / NEIGHBOURS


def recall_classifier(draw: Draw) -> float | None:
    """Share of held-out pictures that lie in the ball of one drawn for a retained concept."""
    if (drawn := _drawn(draw)) is None:
        return None
    own = radii(drawn)
    inside = [(distances < own).any(1) for distances in _distances(draw.reference, drawn)]
    return float(torch.cat(inside).double().mean())


def coverage_classifier(draw: Draw) -> float | None:
    """Share of held-out pictures in whose ball at least one drawn for a retained concept lies."""
    if (drawn := _drawn(draw)) is None:
        return None
    nearest = torch.cat([distances.amin(1) for distances in _distances(draw.reference, drawn)])
    return float((nearest < draw.of_reference(radii)).double().mean())


def recall_classifier_of_resamples(draw: Draw, chosen: Tensor) -> Tensor:
    """:func:`recall_classifier` of each of some resamples, ``(R,)``; ``chosen``: their rows, ``(R, N)``."""
    drawn, times = draw.features[draw.retained], draw.retained_times(chosen)
    own = _radii_of_resamples(drawn, times)
    inside = torch.zeros(len(times), dtype=torch.float64)
    for distances in _distances(draw.reference, drawn):
        inside += torch.stack([(distances < reach).any(1).sum() for reach in own])
    return inside / len(draw.reference)


def coverage_classifier_of_resamples(draw: Draw, chosen: Tensor) -> Tensor:
    """:func:`coverage_classifier` of each of some resamples, likewise."""
    drawn, there = draw.features[draw.retained], (draw.retained_times(chosen) > 0).float()
    held_out = draw.of_reference(radii)
    covered = torch.zeros(len(there), dtype=torch.float64)
    for distances, reach in zip(_distances(draw.reference, drawn), held_out.split(at_once(len(drawn))), strict=True):
        covered += (there @ (distances < reach[:, None]).float().T > 0).sum(1)
    return covered / len(draw.reference)


def _radii_of_resamples(drawn: Tensor, times: Tensor) -> Tensor:
    """:func:`radii` of each of some resamples ``(R, N)``; below 0 for a picture that is not in one.

    A picture that is there twice is its own nearest neighbour, as it is to the papers' code.
    """
    found, start = [], 0
    for distances in _distances(drawn, drawn):
        rows = torch.arange(len(distances))
        distances[rows, rows + start] = 0.0  # exactly, so that each stands first
        near, order = distances.topk(min(SEARCHED, len(drawn)), largest=False)
        there = times[:, order].clone()
        there[:, :, 0] -= 1
        enough = (there.cumsum(2) >= NEIGHBOURS).int().argmax(2)
        reach = near[rows.expand(len(times), -1), enough]
        found.append(torch.where(times[:, start : start + len(rows)] > 0, reach, -1.0))
        start += len(rows)
    return torch.cat(found, 1)


def radii(features: Tensor) -> Tensor:
    """Distance of each of ``(N, D)`` to its k-th nearest other one, ``(N,)`` in float64; ``N > k``."""
    found, start = [], 0
    for distances in _distances(features, features):
        rows = torch.arange(len(distances))
        distances[rows, rows + start] = torch.inf
        found.append(distances.topk(NEIGHBOURS, largest=False).values[:, -1])
        start += len(distances)
    return torch.cat(found)


def _balls_around_drawn(draw: Draw) -> Tensor | None:
    """In how many balls of held-out pictures each one drawn for a retained concept lies."""
    if (drawn := _drawn(draw)) is None:
        return None
    held_out = draw.of_reference(radii)
    return torch.cat([(distances < held_out).sum(1) for distances in _distances(drawn, draw.reference)])


def _drawn(draw: Draw) -> Tensor | None:
    """Features drawn for retained concepts; ``None`` where they, or held-out ones, are too few to have neighbours."""
    drawn = draw.features[draw.retained]
    return drawn if min(len(drawn), len(draw.reference)) > NEIGHBOURS else None


def _distances(a: Tensor, b: Tensor) -> Iterator[Tensor]:
    """Euclidean distances ``(rows, M)`` of some of ``(N, D)`` after another to all of ``(M, D)``, in float64."""
    for some in a.double().split(at_once(len(b))):
        yield torch.cdist(some, b.double())
