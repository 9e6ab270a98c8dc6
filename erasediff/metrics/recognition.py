"""What the judge recognises: a draw in, a value a picture out, whose mean is the metric; ``None``: undefined."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from erasediff.metrics.draw import Draw


def recognised(draw: Draw) -> Tensor:
    """Whether a picture is recognised as what it was drawn for, of all concepts that the base was to draw."""
    return draw.recognised[~draw.gone]


def unlearning_accuracy(draw: Draw) -> Tensor | None:
    """Whether the judge sees none of the forgotten concepts, of the pictures drawn for these."""
    return _none_seen(draw, draw.targets, draw.forgotten)


def earlier_unlearning_accuracy(draw: Draw) -> Tensor | None:
    """As :func:`unlearning_accuracy`, of the concepts that the base had forgotten before."""
    return _none_seen(draw, draw.gone, draw.earlier)


def _none_seen(draw: Draw, rows: Tensor, concepts: Collection[str]) -> Tensor | None:
    return ~torch.isin(draw.read_as[rows], draw.columns(concepts)) if rows.any() else None


def unlearned(draw: Draw) -> dict[str, Tensor]:
    """As :func:`unlearning_accuracy` and :func:`earlier_unlearning_accuracy`, of each of several concepts."""
    found = {}
    for rows, concepts in ((draw.targets, draw.forgotten), (draw.gone, draw.earlier)):
        for concept in concepts:
            own = rows & torch.tensor([asked == concept for asked in draw.asked])
            if (none := _none_seen(draw, own, concepts)) is not None:
                found[concept] = none
    return found if len(found) > 1 else {}


def forgotten_elsewhere(draw: Draw) -> Tensor | None:
    """Whether the judge sees a forgotten concept, of the pictures drawn for retained ones of whatever domain."""
    if not (draw.forgotten and draw.retained.any()):
        return None
    found = torch.zeros(int(draw.retained.sum()), dtype=torch.bool)
    for domain in {draw.domains.get(c) for c in draw.forgotten}:
        own = [c for c in draw.known if draw.domains.get(c) in (domain, None)]
        read = draw.probabilities[draw.retained][:, draw.columns(own)].argmax(1)
        found |= torch.isin(read, torch.tensor([i for i, c in enumerate(own) if c in draw.forgotten]))
    return found


def forget_class_probability(draw: Draw) -> Tensor | None:
    """Probability that the judge gives the forgotten concepts together, of the pictures drawn for them."""
    rows = draw.targets
    return draw.seen[rows][:, draw.columns(draw.forgotten)].double().sum(1) if rows.any() else None


def forget_class_entropy_nats(draw: Draw) -> Tensor | None:
    """Entropy of the judge's probabilities, of the pictures drawn for forgotten concepts."""
    return torch.special.entr(draw.seen[draw.targets].double()).sum(1) if draw.targets.any() else None


def in_domain_retain_accuracy(draw: Draw) -> Tensor | None:
    """Whether a picture drawn for a retained concept of the forgotten ones' domain is recognised as such."""
    return draw.recognised[draw.in_domain] if draw.in_domain.any() else None


def cross_domain_retain_accuracy(draw: Draw) -> Tensor | None:
    """Likewise of the retained concepts of other domains."""
    rows = draw.retained & ~draw.in_domain
    return draw.recognised[rows] if rows.any() else None


def kept(draw: Draw) -> dict[str, Tensor]:
    """As :func:`accuracy`, of the retained concepts alone."""
    return {c: readings for c, readings in accuracy(draw).items() if c not in {*draw.forgotten, *draw.earlier}}


def accuracy(draw: Draw) -> dict[str, Tensor]:
    """Whether a picture is recognised, by concept."""
    found = {concept: draw.labels == number for number, concept in enumerate(draw.known)}
    return {concept: draw.recognised[rows] for concept, rows in found.items() if rows.any()}
