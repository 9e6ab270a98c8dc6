"""UnlearnDiffAtk: a few tokens before the prompt, searched over the whole vocabulary, that bring a picture back.

White box. For each prompt and seed that does not show the concept by itself: relaxed one-hot tokens, all equal at
first, are sampled with a straight-through gradient and moved, on the simplex, so that the model denoises the
picture that the base draws for that prompt and seed. Timesteps come one after another; after each the likeliest
tokens are tried, until the concept is seen. Source: arXiv 2310.11868, eq. 7, and the official code: 50 timesteps ×
40 steps of Adam at 0.01 with weight decay 0.1, three tokens (five for nudity). As there, a prompt that is too long is
left out. A small model's few tokens are tried with the same rule.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from erasediff.evaluation.attacks.solver import asked as asked_under
from erasediff.evaluation.attacks.solver import device_of
from erasediff.evaluation.attacks.target import Found, Target, but_for, counted
from erasediff.evaluation.attacks.tokens import Vocabulary, vocabulary_of
from erasediff.randomness import generator


@dataclass(frozen=True)
class Cost:
    """Prompts attacked of each concept, timesteps, steps of Adam at each, tokens, learning rate."""

    prompts: int
    timesteps: int
    iterations: int
    tokens: int
    rate: float


#: A search of few steps takes larger ones.
COSTS = {"quick": Cost(4, 5, 8, 3, 0.1), "paper": Cost(50, 50, 40, 3, 0.01)}
WEIGHT_DECAY = 0.1
#: Tokens for nudity, where the search is as long as the paper's.
NUDITY, NUDITY_TOKENS = "nudity", 5
#: A prompt of more tokens, its two ends among them, is left out, as by the official code.
LONGEST = 60


def run(target: Target) -> dict[str, Found]:
    """The share of prompts and seeds that show the concept by themselves, or under attack.

    How many prompts were too long, if any, stands in the variant's name.
    """
    vocabulary, cost = vocabulary_of(target.family), COSTS[target.budget]
    if vocabulary is None or (target.base is None and target.forget is None):
        return {}
    tokens, shown, tried, left_out, without = tokens_of(target), 0, 0, 0, []
    for concept in target.forgotten:
        every = list(zip(target.asked_for(concept, cost.prompts), target.seeds(cost.prompts, 1), strict=True))
        tries = [(prompt, seed) for prompt, seed in every if fits(vocabulary, prompt, tokens)]
        left_out += len(every) - len(tries)
        prompts, seeds = [prompt for prompt, _ in tries], [seed for _, seed in tries]
        wanted = _wanted(target, concept, prompts, seeds) if tries else torch.empty(0)
        if not len(wanted):
            without.append(concept)
            continue
        plain = target.shows(target.drawn(prompts, seeds))
        for number, image in enumerate(wanted):
            found = bool(plain[number]) or attacked(target, vocabulary, prompts[number], seeds[number], image)
            shown, tried = shown + found, tried + 1
    name = f"{tokens} tokens before the prompt" + (f", {left_out} too long left out" if left_out else "")
    return {but_for(name, without): counted(shown, tried)} if tried else {}


def tokens_of(target: Target) -> int:
    """How many tokens are put before a prompt."""
    nudity = target.budget == "paper" and NUDITY in target.forgotten
    return NUDITY_TOKENS if nudity else COSTS[target.budget].tokens


def fits(vocabulary: Vocabulary, prompt: str, tokens: int) -> bool:
    """Whether a prompt is attacked: neither longer than :data:`LONGEST` nor, with these tokens, than can be encoded."""
    return len(vocabulary.ids(prompt)) <= min(LONGEST - 2, vocabulary.longest - tokens)


def searched(target: Target, prompt: str, seed: int) -> bool:
    """:func:`attacked` with what the base draws for the prompt and the seed, at the target's guidance.

    Raises: ValueError: the model has no tokens to search, the prompt does not fit, or the base is not at hand.
    """
    vocabulary = vocabulary_of(target.family)
    if vocabulary is None or target.base is None or not fits(vocabulary, prompt, tokens_of(target)):
        raise ValueError(f"no attack on {prompt!r}: it needs a CLIP text encoder, the base, and a prompt that fits")
    (image,) = target.changed(family=target.base()).drawn([prompt], [seed])
    return attacked(target, vocabulary, prompt, seed, image)


def _wanted(target: Target, concept: str, prompts: list[str], seeds: list[int]) -> Tensor:
    """What the base draws for these prompts and seeds; where there is no base, pictures of the concept."""
    if target.base is not None:
        return target.changed(family=target.base()).drawn(prompts, seeds)
    images = target.examples(concept, len(prompts))
    return torch.empty(0) if images is None else images


def attacked(target: Target, vocabulary: Vocabulary, prompt: str, seed: int, image: Tensor) -> bool:
    """Whether tokens before a prompt were found under which the model draws a forgotten concept from this seed.

    Args:
        image: to be denoised best, ``(C, H, W)`` in [-1, 1].
    """
    family, cost, tokens = target.family, COSTS[target.budget], tokens_of(target)
    device, size = device_of(family), len(vocabulary.matrix)
    clean = family.encode(image[None].to(device))
    rest = vocabulary.ids(prompt)
    behind = vocabulary.matrix[torch.tensor(rest, dtype=torch.long, device=device)][None]
    shares = torch.full((tokens, size), 1 / size, device=device, requires_grad=True)
    optimizer = torch.optim.Adam([shares], lr=cost.rate, weight_decay=WEIGHT_DECAY)
    family.denoiser.eval()
    for moment in range(cost.timesteps):
        share = (2 * moment + 1) / (2 * cost.timesteps)  # of 50: 10, 30, … 990
        timestep = torch.full((1,), share * family.num_timesteps, device=device).long()
        for step in range(cost.iterations):
            chance = generator(seed, "attack-unlearndiffatk", moment * cost.iterations + step)
            noise = torch.randn(clean.shape, generator=chance).to(device)
            noisy, wanted = family.noised(clean, noise, timestep)
            rows = torch.cat([(chosen(shares, chance) @ vocabulary.matrix)[None], behind], dim=1)
            said = asked_under(family, vocabulary.condition(rows))(noisy, timestep)
            (slope,) = torch.autograd.grad(F.mse_loss(said.float(), wanted.float()), [shares])
            shares.grad = slope.clamp(-1, 1)
            optimizer.step()
            with torch.no_grad():
                shares.copy_(on_simplex(shares))
        text = f"{vocabulary.text(shares.argmax(1).tolist())} {prompt}".strip()
        if bool(target.shows(target.drawn([text], [seed]))[0]):
            return True
    return False


def chosen(shares: Tensor, chance: torch.Generator) -> Tensor:
    """One-hot rows sampled by shares ``(k, V)``; the gradient passes straight through to these."""
    index = torch.multinomial(shares.detach().cpu(), 1, generator=chance).to(shares.device)
    hard = torch.zeros_like(shares).scatter_(1, index, 1.0)
    return hard + shares - shares.detach()


def on_simplex(rows: Tensor) -> Tensor:
    """The nearest rows that are shares: not below 0, and together 1. By bisection for the number to be taken off."""
    low, high = rows.amin(1, keepdim=True) - 1, rows.amax(1, keepdim=True)
    for _ in range(60):
        middle = (low + high) / 2
        above = (rows - middle).clamp(min=0).sum(1, keepdim=True) > 1
        low, high = torch.where(above, middle, low), torch.where(above, high, middle)
    found = (rows - (low + high) / 2).clamp(min=0)
    return found / found.sum(1, keepdim=True)
