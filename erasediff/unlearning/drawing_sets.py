"""D_f and D_r where nobody gives them: the base draws them, or is only asked for them."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from erasediff.data.concept_images import ConceptImages, Undrawn
from erasediff.families import Family
from erasediff.families.drawing import require_visible
from erasediff.randomness import ERASE_BLOCKS, image_seeds
from erasediff.unlearning.progress import progress_bar
from erasediff.unlearning.words import GENERAL, Wordings, general, takes_words

#: Pictures are drawn so many at a time. A multiple of every family's batch: no bit depends on it.
DRAWN_AT_ONCE = 200
#: Pictures a concept, where nobody says how many: of a class, and of a word, under each wording twice.
DRAWN_BY_CLASS, DRAWN_BY_WORDS = 64, 16
#: Steps of the sampler, at most, where a model that takes words draws for a training: what it draws is noised again.
STEPS = 20
#: Blocks of the seeds that pictures to forget, and those to keep, are drawn with.
FORGOTTEN_BLOCK, KEPT_BLOCK = 0, 1


def drawn_set(
    family: Family,
    concepts: Sequence[str],
    count: int,
    seed: int,
    block: int,
    wordings: Wordings,
    *,
    read: bool,
    shown: bool,
) -> ConceptImages:
    """``count`` pictures a concept, drawn by the model; of one that takes any prompt, under several wordings.

    Args:
        block: of the seeds that drawing takes, one a set.
        read: whether the pictures are wanted at all, beside how they are asked for. Where what is forgotten is not
            read, every wording of it is there once.
    """
    words, steps = takes_words(family), None
    each = None if words and not read and block == FORGOTTEN_BLOCK else count
    asked = {concept: wordings(concept, each) if words else [concept] * count for concept in concepts}
    names = [concept for concept, prompts in asked.items() for _ in prompts]
    prompts = [prompt for prompts in asked.values() for prompt in prompts]
    if words:
        steps = min(STEPS, family.default_steps)
        if block == KEPT_BLOCK:  # of no concept: what is kept in general
            prompts += wordings.beside(concepts, count) + general(GENERAL * count)
            names += [""] * (len(prompts) - len(names))
    if not read:
        return ConceptImages(Undrawn(len(names)), names, prompts)
    seeds = image_seeds(seed, block, len(names), ERASE_BLOCKS)
    parts = []
    with progress_bar(f"drawing what to {('forget', 'keep')[block]}", len(names), "picture", shown=shown) as bar:
        for first in range(0, len(names), DRAWN_AT_ONCE):
            these = slice(first, first + DRAWN_AT_ONCE)
            parts.append(family.sample(prompts[these], seeds[these], steps=steps))
            require_visible(parts[-1], prompts[first])
            bar(min(these.stop, len(names)), {})
    return ConceptImages(torch.cat(parts), names, prompts)
