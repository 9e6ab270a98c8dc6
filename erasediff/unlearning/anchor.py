"""The anchor chosen in score space: the concept whose predictions lie nearest to those of what is forgotten."""

from __future__ import annotations

import torch
from accelerate import Accelerator

from erasediff import randomness
from erasediff.data.concept_images import ConceptImages
from erasediff.families.family import Family
from erasediff.training.encoding import encoders_of, placed
from erasediff.unlearning.change import noised_pictures
from erasediff.unlearning.network import teaching
from erasediff.unlearning.wording import reworded

#: Noised pictures that each candidate is tried on.
SAMPLES = 32


@torch.no_grad()
def nearest_anchor(
    family: Family,
    forget_set: ConceptImages,
    retain_set: ConceptImages,
    *,
    batch: int,
    seed: int,
    accelerator: Accelerator,
) -> str:
    r"""Return the retained concept that moves the predictions of the prompts to forget the least.

    .. math:: \arg\min_a E\lVert\epsilon_0(x_t, c_f) - \epsilon_0(x_t, c_a)\rVert^2

    with c_a the same prompt with the candidate in the place of its concept.

    Args:
        batch: pictures through the network at once.

    Source: the local anchors of LACU, with 32 pairs of picture and timestep. Deviation: candidates are what is kept.
    """
    candidates = sorted({concept for concept in retain_set.concepts if concept})
    pairs = sorted(set(zip(forget_set.concepts, forget_set.prompts, strict=True)))
    asked = [pairs[i % len(pairs)] for i in range(SAMPLES)]
    generator = randomness.generator(seed, "anchor", 0)
    prompts = [[prompt for _, prompt in asked]]
    prompts += [[reworded(prompt, concept, name) or name for concept, prompt in asked] for name in candidates]
    distances = dict.fromkeys(candidates, 0.0)
    with teaching(family.denoiser, accelerator):
        with placed(encoders_of(family), accelerator.device):
            conditions = [family.condition(each) for each in prompts]
            noisy, timesteps = noised_pictures(family, (forget_set, retain_set), SAMPLES, generator, accelerator)
        for rows in torch.arange(SAMPLES).split(batch):
            with accelerator.autocast():
                said = [
                    family.predict(family.denoiser, noisy[rows], timesteps[rows], each.take(rows)).float()
                    for each in conditions
                ]
            for name, answer in zip(candidates, said[1:], strict=True):
                distances[name] += float((answer - said[0]).square().sum())
    return min(candidates, key=lambda name: distances[name])
