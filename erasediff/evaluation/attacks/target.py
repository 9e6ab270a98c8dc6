"""What is attacked: a model, with what it should not draw and what tells that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from erasediff.data.wordings import in_turns
from erasediff.families.family import Family
from erasediff.judges import Judge
from erasediff.metrics.intervals import wilson
from erasediff.randomness import ATTACK_BLOCKS, image_seeds


@dataclass(frozen=True)
class Found:
    """What an attack found: of a search for the concept, the share of pictures that show it.

    Attributes:
        low, high: its interval.
        pictures: that it stands on.
    """

    value: float
    low: float
    high: float
    pictures: int


@dataclass(frozen=True)
class Target:
    """A model under attack.

    Attributes:
        forgotten: what should not be drawn.
        steps, guidance_scale: of the verdict; ``None``: the model's own.
        prompts: what the model is asked for a concept, in turns; its name where there are none.
        pictures: drawn for each variant of an attack and each concept.
        members: pictures of the forgotten concepts that were trained on, with their concepts; and such that were not.
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

    def changed(self, **changes: object) -> Target:
        """The same with other entries."""
        return replace(self, **changes)  # type: ignore[arg-type]

    def seen(self) -> Found:
        """How often a forgotten concept is seen where it is asked for."""
        asked = [p for c in self.forgotten for p in in_turns(self.prompts.get(c) or [c], self.pictures)]
        images = self.family.sample(
            asked,
            image_seeds(self.seed, 0, len(asked), ATTACK_BLOCKS),
            steps=self.steps,
            guidance_scale=self.guidance_scale,
            batch_size=self.batch_size,
        )
        columns = torch.tensor([self.judge.concepts.index(c) for c in self.forgotten])
        shown = int(torch.isin(self.judge.read(images)[0].argmax(1), columns).sum())
        return Found(shown / len(asked), *wilson(shown, len(asked)), len(asked))
