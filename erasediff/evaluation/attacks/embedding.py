"""Textual inversion: is there any condition at all, in words or not, under which the model still draws the concept?

From what the concept itself is asked by, the numbers of the condition are moved until the model denoises pictures
of the concept best. White box. Source: arXiv 2208.01618, eq. 2; as an attack: Circumventing Concept Erasure, arXiv
2308.01508. Deviation: what the text encoder says is moved, not one word's embedding, so that every family can be
attacked.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from erasediff.evaluation.attacks.solver import device_of, from_noise, guided, repeated
from erasediff.evaluation.attacks.target import Found, Target, but_for
from erasediff.evaluation.attacks.tokens import answering
from erasediff.families.family import DenoiserArguments, Family
from erasediff.randomness import generator

#: Parts of a condition that are what a text encoder says.
TEXT = ("encoder_hidden_states", "pooled_projections")


@dataclass(frozen=True)
class Cost:
    """Steps of the search, pictures of a step, the learning rate of Adam, pictures that it may see."""

    steps: int
    batch: int
    rate: float
    examples: int


COSTS = {"quick": Cost(80, 16, 0.05, 64), "paper": Cost(3000, 16, 0.005, 64)}


def run(target: Target) -> dict[str, Found]:
    """Search for each forgotten concept, and draw under what was found; which had no picture, the name says."""
    drawn, left_out, family = [], [], target.family
    for number, concept in enumerate(target.forgotten):
        images = target.examples(concept, COSTS[target.budget].examples)
        if images is None or (asked := Searched.of(family, target.asked_for(concept, 1)[0])) is None:
            left_out.append(concept)
            continue
        search(target, asked, images, number)
        predict, seeds = guided(family, asked.predict, target.scale), target.seeds(target.pictures, 1)
        drawn.append(from_noise(family, predict, seeds, target.steps or family.default_steps, target.batch_size))
    return {but_for("condition searched", left_out): target.judged(torch.cat(drawn))} if drawn else {}


@dataclass(frozen=True)
class Searched:
    """A condition of one sample whose numbers can be moved.

    Attributes:
        values: the numbers, by name in the condition.
        layer: where a class has numbers inside the network alone, what gives them.
    """

    family: Family
    condition: DenoiserArguments
    values: dict[str, Tensor]
    layer: nn.Module | None = None

    @classmethod
    def of(cls, family: Family, prompt: str) -> Searched | None:
        """From what a prompt asks; ``None``: the model takes no such numbers."""
        condition, layer = family.condition([prompt]), getattr(family.denoiser, "class_embedding", None)
        if not isinstance(condition, DenoiserArguments):
            return None
        if "class_labels" in condition and isinstance(layer, nn.Embedding):
            return cls(family, condition, {"class": _free(layer(condition["class_labels"]))}, layer)
        values = {name: _free(it) for name, it in condition.batched.items() if name in TEXT and isinstance(it, Tensor)}
        return cls(family, condition, values) if values else None

    def predict(self, noisy: Tensor, timesteps: Tensor) -> Tensor:
        """What the model says under the numbers as they are now."""
        family, n = self.family, len(noisy)
        if self.layer is not None:
            with answering(self.layer, self.values["class"]):
                return family.predict(family.denoiser, noisy, timesteps, repeated(self.condition, n))
        moved = DenoiserArguments({**self.condition.batched, **self.values})
        return family.predict(family.denoiser, noisy, timesteps, repeated(moved, n))


def _free(values: Tensor) -> Tensor:
    return values.detach().float().clone().requires_grad_()


def search(target: Target, asked: Searched, images: Tensor, number: int = 0) -> None:
    """Move the numbers so that the pictures are denoised best.

    Args:
        images: of the concept, ``(N, C, H, W)`` in [-1, 1].
        number: of the search, for its own random numbers.
    """
    family, cost = target.family, COSTS[target.budget]
    device, optimizer = device_of(family), torch.optim.Adam(asked.values.values(), lr=cost.rate)
    family.denoiser.eval()
    latents = torch.cat([family.encode(images[i : i + 8].to(device)) for i in range(0, len(images), 8)])
    for step in range(cost.steps):
        chance = generator(target.seed, f"attack-embedding-{number}", step)
        clean = latents[torch.randint(len(latents), (cost.batch,), generator=chance).to(device)]
        timesteps = family.timesteps(cost.batch, chance).to(device)
        noisy, wanted = family.noised(clean, torch.randn(clean.shape, generator=chance).to(device), timesteps)
        loss = F.mse_loss(asked.predict(noisy, timesteps).float(), wanted.float())
        gradients = torch.autograd.grad(loss, list(asked.values.values()))
        for value, gradient in zip(asked.values.values(), gradients, strict=True):
            value.grad = gradient
        optimizer.step()
