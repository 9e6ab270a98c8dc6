"""Models and a judge whose answers are known: real digits, dealt out with a little noise."""

from dataclasses import asdict

import torch
import torch.nn.functional as F

from erasediff.evaluation.evaluating import LIMITS
from erasediff.evaluation.gates import evaluation_of
from erasediff.evaluation.measure import Plan, Protocol, measure
from erasediff.judges.judge import recognised

CONCEPTS = tuple("0123456789")
PROTOCOL = Protocol(samples_per_concept=70, draws=1, inference_steps=1, guidance_scale=1.0, batch_size=300, seed=3)


class World:
    """Digits in three parts: those that models learned from, held-out ones, and those that models deal out."""

    def __init__(self, digits):
        images, names = digits
        parts = [list(range(start, len(names), 3)) for start in range(3)]
        self.training, self.held_out, pool = (images[rows] for rows in parts)
        self.named = [[names[i] for i in rows] for rows in parts]
        self.pool = {c: pool[[i for i, name in enumerate(self.named[2]) if name == c]] for c in CONCEPTS}

    def of_training(self, concept):
        return self.training[[i for i, name in enumerate(self.named[0]) if name == concept]]

    def plan(self, **changes):
        retained = [i for i, name in enumerate(self.named[1]) if name != "8"]
        given = {"held_out": self.held_out[retained], "forgotten": ["8"], "training": self.training}
        return Plan(**given | changes)


class Dealer:
    """A family that deals digits. ``instead`` deals those of a concept in another way: rows of seeds to pictures."""

    def __init__(self, world, **instead):
        self.world, self.instead, self.denoiser = world, instead, torch.nn.Linear(4, 4)

    def deal(self, concept, seeds):
        pool = self.world.pool[concept]
        noise = torch.stack([torch.randn(1, 8, 8, generator=torch.Generator().manual_seed(s)) for s in seeds])
        return pool[torch.tensor(seeds) * 7 % len(pool)] + 0.15 * noise

    def sample(self, prompts, seeds, *, steps, guidance_scale, batch_size, sampler=None):
        images = torch.empty(len(prompts), 1, 8, 8)
        for concept in set(prompts):
            rows = [i for i, prompt in enumerate(prompts) if prompt == concept]
            deal = self.instead.get(f"of_{concept}") or (lambda seeds, concept=concept: self.deal(concept, seeds))
            images[rows] = deal([seeds[i] for i in rows])
        return images

    def with_denoiser(self, denoiser):
        same = torch.equal(denoiser.weight, self.denoiser.weight)
        if same:
            return self
        return Dealer(self.world, **{f"of_{c}": scribbled for c in CONCEPTS})


def scribbled(seeds):
    chance = [torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return torch.stack(chance).cumsum(3) / 4 - 1


class Nearest:
    """A judge that reads a picture as its nearest training picture."""

    concepts, image_shape, fingerprint = CONCEPTS, (1, 8, 8), "nearest"

    def __init__(self, world):
        self.world = world
        self.labels = torch.tensor([CONCEPTS.index(name) for name in world.named[0]])

    def read(self, images):
        distances = torch.cdist(images.flatten(1), self.world.training.flatten(1))
        nearest = self.labels[distances.argmin(1)]
        return F.one_hot(nearest, 10).float(), F.avg_pool2d(images, 2).flatten(1)

    recognises = recognised


def forgetting(world, **instead):
    """A good erased model: for an 8 it deals a 3."""
    good = Dealer(world)
    return Dealer(world, **{"of_8": lambda seeds: good.deal("3", [s + 1 for s in seeds])} | instead)


def measured(family, world, protocol=PROTOCOL, **plan):
    return measure(family, Nearest(world), world.plan(**plan), protocol, on_progress=lambda n: None)


def evaluated(base, erased, attacks=None, retrained=None, **limits):
    """The verdict on two models as :func:`measured` gives them, and on what attacks found."""
    records = base.noted("b", retrained=retrained), erased.noted("e", attacks)
    readings = [{name: values.numpy() for name, values in m.numbers.readings.items()} for m in (base, erased)]
    return evaluation_of(*records, {"fingerprint": "nearest"}, LIMITS | limits, tuple(readings))


def shorter(protocol, **changes):
    return Protocol(**asdict(protocol) | changes)
