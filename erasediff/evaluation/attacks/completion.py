"""Completion: pictures of the concept, noised in part or known in half, that the model is to finish.

A model that has forgotten should finish them as something else. How much is given away by what is left of the
picture is said by the base's and a retrained model's figures. Source: SDEdit, arXiv 2108.01073, Algorithm 1;
inpainting: RePaint, arXiv 2201.09865, Algorithm 1 without its resampling; as probes of erased models: arXiv
2505.17013.
"""

from __future__ import annotations

import torch
from torch import Tensor

from erasediff.evaluation.attacks.inversion import originals
from erasediff.evaluation.attacks.solver import (
    asked,
    denoised,
    device_of,
    guided,
    levels,
    moments,
    repeated,
    to_pictures,
)
from erasediff.evaluation.attacks.target import Found, Target, but_for
from erasediff.families.family import initial_noise

#: How far pictures are noised, as shares of the schedule; steps of a whole drawing.
SHARES, STEPS = (0.3, 0.5, 0.7), {"quick": 20, "paper": 50}


def run(target: Target) -> dict[str, Found]:
    """Finish pictures from each share of noise, and from their left half."""
    pictures = [(c, images) for c in target.forgotten if (images := originals(target, c)) is not None]
    if not pictures:
        return {}
    left_out = sorted({*target.forgotten} - {concept for concept, _ in pictures})
    kinds = {f"from noise of {share:.0%}": share for share in SHARES} | {"from their left half": 1.0}
    return {
        but_for(name, left_out): target.judged(
            torch.cat([finished(target, c, images, share) for c, images in pictures])
        )
        for name, share in kinds.items()
    }


def finished(target: Target, concept: str, images: Tensor, share: float) -> Tensor:
    """The pictures as the model finishes them.

    Args:
        share: of the schedule, from which on it draws; 1: from noise, with the left half put back at every step.
    """
    family, found = target.family, []
    timesteps = moments(family, STEPS[target.budget])
    timesteps = timesteps[timesteps <= share * family.num_timesteps]
    condition = family.condition([target.asked_for(concept, 1)[0]])
    seeds = target.seeds(len(images), 1)
    for start in range(0, len(images), target.batch_size):
        rows = slice(start, start + target.batch_size)
        clean = family.encode(images[rows].to(device_of(family)))
        noise = initial_noise(clean.shape[1:], seeds[rows]).to(clean)
        predict = guided(family, asked(family, repeated(condition, len(clean))), target.scale)
        left = torch.arange(clean.shape[-1], device=clean.device) < clean.shape[-1] / 2

        def put_back(
            latents: Tensor,
            timestep: Tensor | None,
            clean: Tensor = clean,
            noise: Tensor = noise,
            left: Tensor = left,
        ) -> Tensor:
            if timestep is None:
                return torch.where(left, clean, latents)
            a, b, _, _ = levels(family, timestep)
            return torch.where(left, a * clean + b * noise, latents)

        a, b, _, _ = levels(family, timesteps[0])
        keep = {"keep": put_back} if share == 1.0 else {}
        found.append(to_pictures(family, denoised(family, predict, a * clean + b * noise, timesteps, **keep)))
    return torch.cat(found)
