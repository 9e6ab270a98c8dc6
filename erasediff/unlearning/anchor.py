"""The anchor chosen in score space: the concept whose predictions lie nearest to those of what is forgotten."""

from __future__ import annotations

import torch
from accelerate import Accelerator

from erasediff import randomness
from erasediff.data.concept_images import ConceptImages
from erasediff.data.wordings import alike
from erasediff.families.family import Family
from erasediff.training.encoding import encoders_of, placed
from erasediff.unlearning.change import noised_pictures
from erasediff.unlearning.network import teaching
from erasediff.unlearning.wording import reworded
from erasediff.unlearning.words import known_as_else, takes_words

#: Noised pictures that each candidate is tried on.
SAMPLES = 32


def nearest_anchors(
    family: Family,
    forget_set: ConceptImages,
    retain_set: ConceptImages,
    *,
    batch: int,
    seed: int,
    accelerator: Accelerator,
) -> str | dict[str, str]:
    """Return the anchor by :func:`nearest_anchor`: of several words each one's own, of classes one for all.

    A style and a thing cannot have the same: "a star in dotted style" is no "hatched in hatched style".
    """

    def nearest(concept: str | None) -> str:
        how = {"batch": batch, "seed": seed}
        return nearest_anchor(family, forget_set, retain_set, concept=concept, accelerator=accelerator, **how)

    if not takes_words(family):
        return nearest(None)
    found = {concept: nearest(concept) for concept in sorted(set(forget_set.concepts))}
    return found if len(found) > 1 else next(iter(found.values()))


@torch.no_grad()
def nearest_anchor(
    family: Family,
    forget_set: ConceptImages,
    retain_set: ConceptImages,
    *,
    batch: int,
    seed: int,
    accelerator: Accelerator,
    concept: str | None = None,
) -> str:
    r"""Return the retained concept that moves the predictions of the prompts to forget the least.

    .. math:: \arg\min_a E\lVert\epsilon_0(x_t, c_f) - \epsilon_0(x_t, c_a)\rVert^2

    with c_a the same prompt with the candidate in the place of its concept.

    Args:
        batch: pictures through the network at once.
        concept: of what is forgotten this alone, which another of its kind replaces, that the model knows and takes for
            something else; by default all together.

    Source: the local anchors of LACU, with 32 pairs of picture and timestep. Deviation: candidates are what is kept.
    """
    candidates = sorted({kept for kept in retain_set.concepts if kept})
    pairs = sorted(set(zip(forget_set.concepts, forget_set.prompts, strict=True)))
    if concept is not None:
        candidates, pairs = alike(concept, candidates), [pair for pair in pairs if pair[0] == concept]
        candidates = known_as_else(family, [concept], candidates, accelerator) or candidates
    asked = [pairs[i % len(pairs)] for i in range(SAMPLES)]
    generator = randomness.generator(seed, "anchor", 0)
    prompts = [[prompt for _, prompt in asked]]
    prompts += [[reworded(prompt, gone, name) or name for gone, prompt in asked] for name in candidates]
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
