"""From a word to what is asked: wordings of a concept, and its neighbours, which are to be kept."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from erasediff.data.wordings import general_prompts, in_turns, kind_of, prompts_of, vocabulary
from erasediff.families.family import DenoiserArguments, Family
from erasediff.unlearning.wording import reworded

#: Neighbours of a concept that are kept by default; and how many concepts' pictures of nothing in particular beside.
NEIGHBOURS, GENERAL = 12, 2


def takes_words(family: Family) -> bool:
    """True if a model can be asked for anything in words, rather than for one of its classes."""
    return family.conditional and family.concepts is None


def wordings(concept: str, count: int) -> list[str]:
    """Return ``count`` prompts that ask for a concept, every wording for training in turn."""
    return in_turns(prompts_of(concept, kind_of(concept)), count)


def general(count: int) -> list[str]:
    """Return ``count`` prompts of everyday pictures, spread over all there are."""
    known = general_prompts()
    return [known[i * len(known) // count] for i in range(count)]


def neighbours(
    family: Family, concepts: Sequence[str], candidates: Sequence[str] | None = None, count: int = NEIGHBOURS
) -> list[str]:
    """Return the words that the model's own text encoder finds nearest to any of some concepts.

    Words that name a concept, or that a concept names, are none.

    Args:
        candidates: by default the vocabulary's words of the concepts' kinds.
    """
    if candidates is None:
        kinds = {kind_of(concept) for concept in concepts}
        candidates = [word for word, kind in vocabulary().items() if kind in kinds]
    apart = [w for w in candidates if not any(reworded(w, c, " ") or reworded(c, w, " ") for c in concepts)]
    vectors = F.normalize(_sentences(family, [*concepts, *apart]), dim=1)
    near = (vectors[len(concepts) :] @ vectors[: len(concepts)].T).amax(1)
    return [apart[i] for i in near.topk(min(count, len(apart))).indices.tolist()]


@torch.no_grad()
def _sentences(family: Family, prompts: list[str]) -> torch.Tensor:
    """Return a vector a prompt, float32 ``(B, D)``: the mean of its tokens' embeddings, less that of all prompts."""
    means = []
    for first in range(0, len(prompts), 32):
        condition = family.condition(prompts[first : first + 32])
        assert isinstance(condition, DenoiserArguments)  # the only kind there is
        found = condition.batched["encoder_hidden_states"]
        assert isinstance(found, torch.Tensor)
        means.append(found.float().mean(1).cpu())
    together = torch.cat(means)
    return together - together.mean(0)
