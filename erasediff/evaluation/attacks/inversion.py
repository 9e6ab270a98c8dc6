"""Inversion: from the noise that a true picture of the concept leads back to, is it drawn again?

A picture is followed back to noise by the sampler's own steps, and drawn again from there. Any sampler that can be
reversed gives much of it back, whatever the model knows: the figure says something beside those of the base and of
a retrained model alone. Source: DDIM, arXiv 2010.02502, section 5.4; as a probe of erased models: arXiv 2505.17013.
"""

from __future__ import annotations

import torch
from torch import Tensor

from erasediff.evaluation.attacks.solver import (
    asked,
    denoised,
    device_of,
    guided,
    inverted,
    moments,
    repeated,
    to_pictures,
)
from erasediff.evaluation.attacks.target import Found, Target, but_for

#: Steps each way, and pictures of each concept.
STEPS, PICTURES = {"quick": 20, "paper": 50}, {"quick": 20, "paper": 100}


def run(target: Target) -> dict[str, Found]:
    """Follow pictures back, and draw them again, under what the concept is asked by."""
    pictures = [(c, images) for c in target.forgotten if (images := originals(target, c)) is not None]
    if not pictures:
        return {}
    left_out = sorted({*target.forgotten} - {concept for concept, _ in pictures})
    found = {"drawn again from their noise": torch.cat([again(target, c, images) for c, images in pictures])}
    return {but_for(name, left_out): target.judged(images) for name, images in found.items()}


def originals(target: Target, concept: str) -> Tensor | None:
    """Pictures of a concept, best such as were never trained on; ``None``: there are none."""
    most = PICTURES[target.budget]
    for images, concepts in filter(None, (target.others, target.members)):
        rows = [row for row, name in enumerate(concepts) if name == concept]
        if rows:
            return images[torch.tensor(rows[:most])]
    return target.examples(concept, most)


def again(target: Target, concept: str, images: Tensor) -> Tensor:
    """The pictures as they come back."""
    family, found = target.family, []
    timesteps, prompt = moments(family, STEPS[target.budget]), target.asked_for(concept, 1)[0]
    condition = family.condition([prompt])
    for start in range(0, len(images), target.batch_size):
        clean = family.encode(images[start : start + target.batch_size].to(device_of(family)))
        plain = asked(family, repeated(condition, len(clean)))
        noise = inverted(family, plain, clean, timesteps)
        found.append(to_pictures(family, denoised(family, guided(family, plain, target.scale), noise, timesteps)))
    return torch.cat(found)
