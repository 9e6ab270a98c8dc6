"""Drawing pictures from a pipeline, and those of which somebody says what they show."""

from __future__ import annotations

from collections.abc import Callable

import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from erasediff.errors import DataError
from erasediff.families import family_of
from erasediff.families.family import Family


def draw(
    pipeline: DiffusionPipeline,
    concept: str,
    n: int = 1,
    *,
    seed: int = 0,
    steps: int = 25,
    guidance_scale: float = 1.0,
) -> Tensor:
    """``n`` pictures of a concept with the seeds ``seed`` to ``seed + n - 1``, float32 ``(n, C, H, W)`` in [-1, 1].

    Args:
        steps: of the sampler.
        guidance_scale: 1 is no guidance.

    Raises: UnknownConcept, ModelError.
    """
    seeds = list(range(seed, seed + n))
    return family_of(pipeline).sample([concept] * n, seeds, steps=steps, guidance_scale=guidance_scale)


def draw_recognised(
    family: Family,
    concept: str,
    recognised: Callable[[Tensor], Tensor],
    count: int,
    *,
    first_seed: int,
    steps: int,
    guidance_scale: float,
) -> tuple[Tensor, int]:
    """``count`` different pictures of a concept that are recognised as such.

    Args:
        recognised: images ``(B, C, H, W)`` to bool ``(B,)``.
        first_seed: further pictures take the seeds after it.

    Returns: images ``(count, C, H, W)`` float32 in [-1, 1], and how many more were drawn but not recognised.
    Raises: DataError: of ten times ``count`` too few were recognised.
    """
    kept: dict[bytes, Tensor] = {}
    drawn = discarded = 0
    while len(kept) < count:
        if drawn >= 10 * count:
            found = f"{len(kept)} of {drawn} pictures of {concept!r}"
            raise DataError(f"the classifier recognised only {found} by the base model: train it longer")
        seeds = [first_seed + drawn + i for i in range(count)]
        drawn += count
        images = family.sample([concept] * count, seeds, steps=steps, guidance_scale=guidance_scale)
        seen = recognised(images)
        discarded += int((~seen).sum())
        # Two seeds may give the same 8-bit picture: it counts once.
        kept |= {_pixels(image): image for image in images[seen]}
    return torch.stack(list(kept.values())[:count]), discarded


def _pixels(image: Tensor) -> bytes:
    return ((image.clamp(-1, 1) + 1) * 127.5).round().byte().numpy().tobytes()
