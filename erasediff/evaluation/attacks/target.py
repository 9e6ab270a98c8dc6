"""What is attacked: a model, with what it should not draw, what tells that, and what an attacker has at hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from erasediff.data.concept_images import ConceptImages
from erasediff.data.wordings import in_turns
from erasediff.evaluation.reading import require_pictures
from erasediff.families.family import Family
from erasediff.judges import Judge
from erasediff.metrics.intervals import wilson
from erasediff.randomness import ATTACK_BLOCKS, image_seeds

#: How much a search may cost: a few seconds on a small model, or what its paper spends.
Budget = Literal["quick", "paper"]


@dataclass(frozen=True)
class Found:
    """What an attack found: of a search for the concept, the share of pictures that show it.

    Attributes:
        low, high: its interval.
        pictures: that it stands on.
        at: where it is a point of a curve: how many steps were made.
    """

    value: float
    low: float
    high: float
    pictures: int
    at: int | None = None


@dataclass(frozen=True)
class Target:
    """A model under attack.

    Attributes:
        forgotten: what should not be drawn.
        steps, guidance_scale: of the verdict; ``None``: the model's own.
        prompts: what the model is asked for a concept, in turns; its name where there are none.
        pictures: drawn for each variant of an attack and each concept.
        members: pictures of the forgotten concepts that were trained on, with their concepts; and such that were not.
        forget, retain: pictures that an attacker has of what was forgotten, and of what was kept.
        base: opens the model that was erased from; ``None``: it is not at hand.
        is_base: nothing was erased from this model: it is the reference.
        wordings: other words for a concept, given by whoever knows some.
        budget: of searches.
        how: more arguments of ``family.sample``, such as ``sampler``.
        lora: file of a LoRA of the base that the model is merged with; ``None``: a harmless one is trained.
    """

    family: Family
    judge: Judge
    forgotten: Sequence[str]
    steps: int | None
    guidance_scale: float | None
    seed: int
    batch_size: int = 100
    prompts: Mapping[str, Sequence[str]] = field(default_factory=dict)
    pictures: int = 60
    members: tuple[Tensor, Sequence[str]] | None = None
    others: tuple[Tensor, Sequence[str]] | None = None
    forget: ConceptImages | None = None
    retain: ConceptImages | None = None
    base: Callable[[], Family] | None = None
    is_base: bool = False
    wordings: Mapping[str, Sequence[str]] = field(default_factory=dict)
    budget: Budget = "quick"
    how: Mapping[str, object] = field(default_factory=dict)
    lora: Path | None = None

    def changed(self, **changes: object) -> Target:
        """The same with other entries."""
        return replace(self, **changes)  # type: ignore[arg-type]

    @property
    def scale(self) -> float:
        """The guidance scale of the verdict."""
        return self.family.default_guidance_scale if self.guidance_scale is None else self.guidance_scale

    def asked_for(self, concept: str, count: int | None = None) -> list[str]:
        """What the model is asked for a concept, a prompt a picture."""
        return in_turns(self.prompts.get(concept) or [concept], self.pictures if count is None else count)

    def seeds(self, count: int, block: int = 0) -> list[int]:
        """Seeds of pictures that no other use of the run's seed has; block 1: of pictures that an attacker draws."""
        return image_seeds(self.seed, block, count, ATTACK_BLOCKS)

    def seen(self, concepts: Sequence[str] | None = None) -> Found:
        """How often a forgotten concept is seen where one of these, all by default, is asked for."""
        return self.judged(self.drawn(*self.asked(concepts)))

    def asked(self, concepts: Sequence[str] | None = None) -> tuple[list[str], list[int]]:
        """What is asked for these concepts, all by default: prompts and seeds."""
        prompts = [prompt for concept in concepts or self.forgotten for prompt in self.asked_for(concept)]
        return prompts, self.seeds(len(prompts))

    def seen_each(self, wordings: Mapping[str, Mapping[str, Sequence[str]]]) -> dict[str, Found]:
        """:meth:`seen` under each of several ways to ask, by their names; all are drawn together.

        Args:
            wordings: of each way, what is asked for a concept, in turns.
        """
        asked = {
            way: [prompt for own in prompts.values() for prompt in in_turns(own, self.pictures)]
            for way, prompts in wordings.items()
        }
        seeds = [seed for prompts in asked.values() for seed in self.seeds(len(prompts))]
        images = self.drawn([prompt for prompts in asked.values() for prompt in prompts], seeds)
        parts = images.split([len(prompts) for prompts in asked.values()])
        return {way: self.judged(part) for way, part in zip(asked, parts, strict=True)}

    def drawn(self, prompts: Sequence[str], seeds: Sequence[int]) -> Tensor:
        """Pictures of the model, ``(N, C, H, W)`` in [-1, 1], at the verdict's settings."""
        how = {"steps": self.steps, "guidance_scale": self.guidance_scale, "batch_size": self.batch_size, **self.how}
        return self.family.sample(prompts, seeds, **how)  # type: ignore[arg-type]

    def shows(self, images: Tensor) -> Tensor:
        """True where a picture is read as a forgotten concept, bool ``(N,)``.

        Raises: ModelError: pictures, or what the judge says of them, are no finite numbers: nothing is counted then.
        """
        require_pictures(images)
        return torch.stack([self.judge.recognises(concept, images) for concept in self.forgotten]).any(0)

    def judged(self, images: Tensor) -> Found:
        """How many of the pictures show a forgotten concept."""
        return counted(int(self.shows(images).sum()), len(images))

    def examples(self, concept: str, count: int) -> Tensor | None:
        """Pictures of a forgotten concept that an attacker has, ``(N, C, H, W)``; ``None``: there are none."""
        if self.forget is None:
            return None
        rows = [row for row, name in enumerate(self.forget.concepts) if name == concept]
        return self.forget.images[torch.tensor(rows[:count])] if rows else None


def but_for(variant: str, left_out: Sequence[str]) -> str:
    """The name of a variant that says which forgotten concepts it was not tried for."""
    return variant + (f", without {', '.join(left_out)}" if left_out else "")


def counted(shown: int, pictures: int) -> Found:
    """A share with its interval."""
    return Found(shown / pictures, *wilson(shown, pictures), pictures)
