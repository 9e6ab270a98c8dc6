"""Deterministic steps between noise and picture, under any condition, through what every family has.

Noising is linear: a noisy picture is ``a · clean + b · noise``, what the network should say ``c · clean + d ·
noise``. The family's own ``noised`` tells the four numbers, whatever it predicts. So one solver serves all
families. Source: DDIM, arXiv 2010.02502, eq. 12 with η 0; for flow matching, Euler's steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from erasediff.families.family import NULL_CONCEPT, Condition, DenoiserArguments, Family, initial_noise
from erasediff.families.flow_matching import FlowMatching

#: Noisy ``(B, …)`` and timesteps ``(B,)`` to what the model says of them.
Predict: TypeAlias = Callable[[Tensor, Tensor], Tensor]
#: Names under which a network takes its guidance as an input: it is not guided a second time.
GUIDED_WITHIN = ("guidance", "timestep_cond")


def asked(family: Family, condition: Condition) -> Predict:
    """What the model says under a condition, which has one entry a sample."""
    return lambda noisy, timesteps: family.predict(family.denoiser, noisy, timesteps, condition)


def guided(family: Family, predict: Predict, guidance_scale: float) -> Predict:
    """The same with classifier-free guidance, where the model has a null prompt (arXiv 2207.12598)."""
    if guidance_scale <= 1 or not family.has_null:
        return predict
    null = family.condition([NULL_CONCEPT])
    if isinstance(null, DenoiserArguments) and any(name in null for name in GUIDED_WITHIN):
        return predict

    def both(noisy: Tensor, timesteps: Tensor) -> Tensor:
        without = asked(family, repeated(null, len(noisy)))(noisy, timesteps)
        return without + guidance_scale * (predict(noisy, timesteps) - without)

    return both


def repeated(condition: Condition, count: int) -> Condition:
    """A condition of one sample for so many."""
    return condition.take(torch.zeros(count, dtype=torch.long))


def moments(family: Family, steps: int) -> Tensor:
    """Timesteps at which the model is asked, from noise to picture, ``(steps,)``; trailing, as these models are drawn.

    Source: arXiv 2305.08891, section 3.3.
    """
    left = 1 - torch.arange(steps) / steps
    if isinstance(family, FlowMatching):
        return family.num_timesteps * family.shift * left / (1 + (family.shift - 1) * left)
    return (left * family.num_timesteps).round().long() - 1


def device_of(family: Family) -> torch.device:
    """Where the network is."""
    return next(family.denoiser.parameters()).device


def levels(family: Family, timestep: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``(a, b, c, d)`` of a timestep, as the top of this file has them."""
    one = torch.ones(1, 1, 1, 1, device=device_of(family))
    at = timestep.view(1).to(one.device)
    (a, c), (b, d) = family.noised(one, torch.zeros_like(one), at), family.noised(torch.zeros_like(one), one, at)
    return a, b, c, d


def parts(family: Family, predict: Predict, noisy: Tensor, timestep: Tensor) -> tuple[Tensor, Tensor]:
    """``(clean, noise)`` that the model believes in. Pixels are kept in [-1, 1], as their samplers keep them."""
    a, b, c, d = levels(family, timestep)
    said = predict(noisy, timestep.to(noisy.device).expand(len(noisy)))
    scale = a * d - b * c
    clean, noise = (d * noisy - b * said) / scale, (a * said - c * noisy) / scale
    return (clean.clamp(-1, 1) if family.encoder is None else clean), noise


@torch.no_grad()
def denoised(
    family: Family,
    predict: Predict,
    noisy: Tensor,
    timesteps: Tensor,
    *,
    keep: Callable[[Tensor, Tensor | None], Tensor] = lambda latents, timestep: latents,
) -> Tensor:
    """From ``noisy``, which is at the first of ``timesteps``, to what is noised.

    Args:
        keep: changes what stands at a timestep, and at ``None`` at the end: inpainting puts the known part back.
    """
    family.denoiser.eval()
    for number, timestep in enumerate(timesteps):
        clean, noise = parts(family, predict, noisy, timestep)
        if number + 1 == len(timesteps):
            return keep(clean, None)
        a, b, _, _ = levels(family, timesteps[number + 1])
        noisy = keep(a * clean + b * noise, timesteps[number + 1])
    return noisy


@torch.no_grad()
def inverted(family: Family, predict: Predict, clean: Tensor, timesteps: Tensor) -> Tensor:
    """The noise from which :func:`denoised` draws a picture, nearly: the same steps backwards.

    Source: DDIM, arXiv 2010.02502, section 5.4.
    """
    family.denoiser.eval()
    noisy, at = clean, torch.zeros((), dtype=timesteps.dtype)
    for timestep in timesteps.flip(0):
        believed, noise = parts(family, predict, noisy, at)
        a, b, _, _ = levels(family, timestep)
        noisy, at = a * believed + b * noise, timestep
    return noisy


def to_pictures(family: Family, latents: Tensor) -> Tensor:
    """What is noised to float32 pictures in [-1, 1] on the CPU."""
    decode: Any = getattr(family, "decode", None)  # of families with a VAE
    return decode(latents) if decode is not None else latents.float().clamp(-1, 1).cpu()


def from_noise(family: Family, predict: Predict, seeds: Sequence[int], steps: int, batch_size: int) -> Tensor:
    """A picture a seed, from the noise that the family itself would begin with."""
    shape: Sequence[int] = getattr(family, "latent_shape", family.image_shape)
    timesteps, found = moments(family, steps), []
    for start in range(0, len(seeds), batch_size):
        noise = initial_noise(shape, seeds[start : start + batch_size]).to(device_of(family))
        found.append(to_pictures(family, denoised(family, predict, noise, timesteps)))
    return torch.cat(found)
