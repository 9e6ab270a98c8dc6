"""Which timesteps a loss is measured at."""

from __future__ import annotations

import torch
from torch import Tensor

from erasediff.families.family import Family

#: Candidates for each timestep that is drawn by a density.
CANDIDATES = 8


def draw_timesteps(
    family: Family, n: int, draw: torch.Generator, *, mirrored: bool = False, density: Tensor | None = None
) -> Tensor:
    """``n`` timesteps on the CPU.

    Args:
        mirrored: the second half are the first's mirror images, T − 1 − t: less spread of the loss from batch to batch.
        density: weights of as many equal parts of ``[0, T)``, to draw in proportion to.
    """
    if density is not None:
        candidates = family.timesteps(CANDIDATES * n, draw)
        weights = density[part_of(candidates, len(density), family.num_timesteps)]
        return candidates[torch.multinomial(weights, n, replacement=True, generator=draw)]
    if mirrored:
        half = family.timesteps(n - n // 2, draw)
        return torch.cat([half, family.num_timesteps - 1 - half[: n // 2]])
    return family.timesteps(n, draw)


def part_of(timesteps: Tensor, parts: int, num_timesteps: int) -> Tensor:
    """Which of so many equal parts of ``[0, T)`` a timestep is in."""
    return (timesteps * parts / num_timesteps).long().clamp(max=parts - 1)
