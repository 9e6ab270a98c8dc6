"""Planted models: pictures as models would draw them that no evaluation may pass, or has to see through."""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from erasediff.families.family import Family
from erasediff.randomness import generator

#: Pictures of each concept, at most.
PICTURES = 40
#: Pictures of all retained concepts together, about, by random weights: these have to be drawn.
RANDOM_PICTURES = 60
#: Bootstrap resamples: what is planted is far from any limit.
RESAMPLES = 50
BASE, RANDOM, ONE, NOISE, BLANK = "base", "random_weights", "one_concept", "noise", "blank"


def drawn_at_random(retained: int) -> int:
    """Pictures of each concept that a model of random weights draws, where so many concepts are retained."""
    return min(PICTURES, -(-RANDOM_PICTURES // max(retained, 1)))


def with_random_weights(family: Family, seed: int) -> Family:
    """The same model, the entries of each of its denoiser's weights in another order."""
    denoiser, chance = copy.deepcopy(family.denoiser), generator(seed, "planted")
    with torch.no_grad():
        for weight in denoiser.parameters():
            order = torch.randperm(weight.numel(), generator=chance).to(weight.device)
            weight.copy_(weight.flatten()[order].view_as(weight))
    return family.with_denoiser(denoiser)


def pictures(base: Tensor, names: Sequence[str], forgotten: Collection[str], seed: int) -> dict[str, Tensor]:
    """What planted models draw that need no drawing, by name; the base itself too, which is also a copy of itself.

    Args:
        base: drawn by the base for ``names``, ``(N, C, H, W)`` in [-1, 1], as many of each concept.
    """
    found = {BASE: base}
    if not (retained := [name for name in names if name not in forgotten]):
        return found
    own = torch.tensor([i for i, name in enumerate(names) if name == retained[0]])
    found[ONE] = base[own[torch.arange(len(names)) % len(own)]]
    targets = torch.tensor([name in forgotten for name in names])
    if targets.any():
        chance = torch.randn(base.shape, generator=generator(seed, "planted noise")).clamp(-1, 1)
        found[NOISE] = torch.where(targets[:, None, None, None], chance, base)
        found[BLANK] = torch.where(targets[:, None, None, None], torch.zeros(()), base)
    return found
