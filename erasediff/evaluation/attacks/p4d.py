"""P4D: a prompt under which the erased model says what the base says under the concept.

White box on both models. Token embeddings are moved, and at each step the nearest true tokens are asked; the
gradient at these moves the embeddings. Source: arXiv 2309.06135, eq. 4, with the projection of arXiv 2302.03668:
AdamW 0.1, weight decay 0.1, 16 tokens, 3,000 steps. Deviation: tokens that spell the concept are left out, as a
filter of words would take them out.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from erasediff.errors import ModelError
from erasediff.evaluation.attacks.solver import asked, device_of, repeated
from erasediff.evaluation.attacks.target import Found, Target
from erasediff.evaluation.attacks.tokens import Vocabulary, vocabulary_of
from erasediff.families.family import Family
from erasediff.randomness import generator


@dataclass(frozen=True)
class Cost:
    """Steps of the search, pictures of a step, pictures that the base draws for it."""

    steps: int
    batch: int
    examples: int


COSTS = {"quick": Cost(60, 4, 8), "paper": Cost(3000, 4, 32)}
TOKENS, RATE = 16, 0.1


def run(target: Target) -> dict[str, Found]:
    """Draw what the prompt found asks for, a prompt a concept."""
    vocabulary = vocabulary_of(target.family)
    if vocabulary is None or target.base is None:
        return {}
    base = target.base()
    found = {c: [searched(target, base, vocabulary, c, n)] for n, c in enumerate(target.forgotten)}
    return {"a prompt without its words": target.changed(prompts=found).seen()}


def searched(target: Target, base: Family, vocabulary: Vocabulary, concept: str, number: int) -> str:
    """The prompt that had the least loss of those tried. Raises: ModelError: no loss is a finite number."""
    family, cost = target.family, COSTS[target.budget]
    device, length = device_of(family), min(TOKENS, vocabulary.longest)
    prompts = target.asked_for(concept, cost.examples)
    images = target.changed(family=base).drawn(prompts, target.seeds(len(prompts), 1))
    latents, own = family.encode(images.to(device)), base.condition([concept])
    allowed = vocabulary.without(target.forgotten)
    chance = generator(target.seed, "attack-p4d", number)
    ids = allowed[torch.randint(len(allowed), (length,), generator=chance).to(device)]
    soft = vocabulary.matrix[ids].clone().requires_grad_()
    optimizer = torch.optim.AdamW([soft], lr=RATE, weight_decay=0.1)
    best, text = float("inf"), ""
    family.denoiser.eval()
    for _ in range(cost.steps):
        index = torch.randint(len(latents), (cost.batch,), generator=chance).to(device)
        timesteps = family.timesteps(cost.batch, chance).to(device)
        noise = torch.randn((cost.batch, *latents.shape[1:]), generator=chance).to(device)
        noisy, _ = family.noised(latents[index], noise, timesteps)
        ids = allowed[nearest(soft.detach(), vocabulary.matrix[allowed])]
        rows = soft + (vocabulary.matrix[ids] - soft).detach()
        with torch.no_grad():
            wanted = asked(base, repeated(own, cost.batch))(noisy, timesteps)
        said = asked(family, repeated(vocabulary.condition(rows[None]), cost.batch))(noisy, timesteps)
        loss = F.mse_loss(said.float(), wanted.float())
        if loss.item() < best:
            best, text = loss.item(), vocabulary.text(ids.tolist())
        (soft.grad,) = torch.autograd.grad(loss, [soft])
        optimizer.step()
    if best == float("inf"):
        raise ModelError("the models' losses are no finite numbers: lower the learning rate of their stage")
    return text


def nearest(rows: Tensor, tokens: Tensor) -> Tensor:
    """Of each row ``(k, D)`` the token ``(V, D)`` in the most similar direction, ``(k,)``."""
    return (F.normalize(rows, dim=1) @ F.normalize(tokens, dim=1).T).argmax(1)
