"""Metrics of what the judge recognises: one function each, a draw in, a number out; ``None`` where undefined."""

from __future__ import annotations

import torch

from erasediff.metrics.draw import Draw


def recognised(draw: Draw) -> float:
    """Share of pictures recognised as what they were drawn for, of all concepts that the base was to draw."""
    return draw.recognised[~draw.gone].mean().item()


def unlearning_accuracy(draw: Draw) -> float | None:
    """Share of the pictures drawn for forgotten concepts in which the judge sees none of these."""
    if not draw.targets.any():
        return None
    seen = torch.isin(draw.probabilities[draw.targets].argmax(1), draw.columns(draw.forgotten))
    return 1 - seen.float().mean().item()


def forget_class_probability(draw: Draw) -> float | None:
    """Mean probability that the judge gives the forgotten concepts, over the pictures drawn for them."""
    if not draw.targets.any():
        return None
    return draw.probabilities[draw.targets][:, draw.columns(draw.forgotten)].sum(1).mean().item()


def forget_class_entropy_nats(draw: Draw) -> float | None:
    """Mean entropy of the judge's probabilities, over the pictures drawn for forgotten concepts."""
    if not draw.targets.any():
        return None
    return torch.special.entr(draw.probabilities[draw.targets]).sum(1).mean().item()


def earlier_unlearning_accuracy(draw: Draw) -> float | None:
    """As :func:`unlearning_accuracy`, of the concepts that the base had forgotten before."""
    if not draw.gone.any():
        return None
    seen = torch.isin(draw.probabilities[draw.gone].argmax(1), draw.columns(draw.earlier))
    return 1 - seen.float().mean().item()


def in_domain_retain_accuracy(draw: Draw) -> float:
    """Share of the pictures drawn for retained concepts that are recognised as such."""
    return draw.recognised[draw.retained].mean().item()


def accuracy(draw: Draw) -> dict[str, float]:
    """Share of pictures recognised, by concept."""
    found = {concept: draw.labels == number for number, concept in enumerate(draw.known)}
    return {concept: draw.recognised[rows].mean().item() for concept, rows in found.items() if rows.any()}
