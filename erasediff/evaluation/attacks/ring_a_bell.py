"""Ring-A-Bell: a prompt whose text embedding is that of the concept, without its words and without any picture.

What a concept is to the text encoder is a mean difference: prompts with it, less the same prompts without. A
genetic search finds tokens whose embedding is nearest to that of a plain prompt with η times this difference added.
The network is not asked. Source: arXiv 2310.10012, eq. 3 to 5: 16 tokens, η 3, 200 prompts, 3,000 generations,
mutation 0.25, crossover 0.5. Deviation: tokens that spell the concept are left out, as a filter of words would take
them out.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from erasediff.data.wordings import kind_of, prompts_of
from erasediff.evaluation.attacks.target import Found, Target
from erasediff.evaluation.attacks.tokens import Vocabulary, vocabulary_of
from erasediff.randomness import generator


@dataclass(frozen=True)
class Cost:
    """Prompts of a generation, generations, prompts found that are drawn from."""

    population: int
    generations: int
    prompts: int


COSTS = {"quick": Cost(40, 40, 4), "paper": Cost(200, 3000, 10)}
TOKENS, STRENGTH, MUTATION, CROSSOVER = 16, 3.0, 0.25, 0.5
#: What stands in a prompt's place of the concept where it is to be without it.
PLAIN = "thing"


def run(target: Target) -> dict[str, Found]:
    """Draw what the prompts found ask for."""
    vocabulary, cost = vocabulary_of(target.family), COSTS[target.budget]
    if vocabulary is None:
        return {}
    prompts = {}
    for number, concept in enumerate(target.forgotten):
        wanted = embedding_of(vocabulary, concept)
        found = searched(vocabulary, wanted, target.forgotten, cost, generator(target.seed, "attack-ring", number))
        prompts[concept] = [vocabulary.text(ids) for ids in found[: cost.prompts].tolist()]
    return {"prompts without its words": target.changed(prompts=prompts).seen()}


@torch.no_grad()
def embedding_of(vocabulary: Vocabulary, concept: str) -> Tensor:
    """A plain prompt's embedding with η times the concept's added, ``(L, D)``."""
    kind = kind_of(concept)
    pairs = zip(prompts_of(concept, kind), prompts_of(PLAIN, kind), strict=True)
    with_it, without = (
        torch.cat([said(vocabulary, [vocabulary.ids(p)]) for p in side]) for side in zip(*pairs, strict=True)
    )
    return without[0] + STRENGTH * (with_it - without).mean(0)


def said(vocabulary: Vocabulary, ids: list[list[int]] | Tensor) -> Tensor:
    """The embeddings of prompts of as many tokens each, ``(B, L, D)``."""
    return vocabulary.states(vocabulary.matrix[torch.as_tensor(ids, device=vocabulary.matrix.device)])


@torch.no_grad()
def searched(
    vocabulary: Vocabulary, wanted: Tensor, without: list[str] | tuple[str, ...], cost: Cost, chance: torch.Generator
) -> Tensor:
    """Prompts of token ids ``(population, TOKENS)``, the nearest to ``wanted`` first."""
    allowed, many = vocabulary.without(without).cpu(), cost.population
    length = min(TOKENS, vocabulary.longest)

    def draw(*shape: int) -> Tensor:
        return allowed[torch.randint(len(allowed), shape, generator=chance)]

    prompts = draw(many, length)
    for _ in range(cost.generations):
        best = prompts[distances(vocabulary, prompts, wanted).argsort()][: many // 2]
        pairs = torch.randint(len(best), (2, many - len(best)), generator=chance)
        cut = torch.randint(1, length, (pairs.shape[1], 1), generator=chance)
        cut[torch.rand(len(cut), generator=chance) >= CROSSOVER] = length
        children = torch.where(torch.arange(length) < cut, best[pairs[0]], best[pairs[1]])
        mutated = torch.rand(len(children), generator=chance) < MUTATION
        place = torch.randint(length, (len(children), 1), generator=chance)
        other = children.scatter(1, place, draw(len(children), 1))
        prompts = torch.cat([best, torch.where(mutated[:, None], other, children)])
    return prompts[distances(vocabulary, prompts, wanted).argsort()]


def distances(vocabulary: Vocabulary, prompts: Tensor, wanted: Tensor) -> Tensor:
    """How far the embeddings of prompts are from the wanted one, ``(B,)``, on the CPU."""
    return (said(vocabulary, prompts) - wanted).square().flatten(1).mean(1).cpu()
