"""One draw as the judge reads it: what every metric gets."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Draw:
    """Pictures of one draw, as the judge reads them.

    Attributes:
        probabilities: the judge's, ``(N, number of known concepts)``.
        features: the judge's, ``(N, D)``.
        asked: the concept that each of the ``N`` pictures was drawn for.
        known: concepts in the order of ``probabilities``.
        forgotten: concepts that the erased model was asked to forget.
        reference: features of held-out pictures of the retained concepts, ``(M, D)``.
        earlier: concepts that the base had forgotten already: neither to forget nor retained.
        marks: what is wrong with a picture whatever the judge sees, bool ``(N,)``, by the names of
            :data:`erasediff.metrics.pictures.MARKS`.
    """

    probabilities: Tensor
    features: Tensor
    asked: Sequence[str]
    known: Sequence[str]
    forgotten: Collection[str]
    reference: Tensor
    earlier: Collection[str] = ()
    marks: Mapping[str, Tensor] = field(default_factory=dict)

    @cached_property
    def labels(self) -> Tensor:
        """Index among the known concepts of what each picture was drawn for, ``(N,)``."""
        index = {c: i for i, c in enumerate(self.known)}
        return torch.tensor([index[c] for c in self.asked])

    @cached_property
    def read_as(self) -> Tensor:
        """Index among the known concepts of what the judge sees in each picture, ``(N,)``."""
        return self.probabilities.argmax(1)

    @cached_property
    def recognised(self) -> Tensor:
        """True where the judge sees what a picture was drawn for, bool ``(N,)``."""
        return self.read_as == self.labels

    @cached_property
    def targets(self) -> Tensor:
        """Pictures drawn for the concepts to forget, bool ``(N,)``."""
        return torch.tensor([c in self.forgotten for c in self.asked])

    @cached_property
    def gone(self) -> Tensor:
        """Pictures drawn for what the base had forgotten already, bool ``(N,)``."""
        return torch.tensor([c in self.earlier for c in self.asked])

    @cached_property
    def retained(self) -> Tensor:
        """Pictures drawn for all other concepts, bool ``(N,)``."""
        return ~(self.targets | self.gone)

    def columns(self, concepts: Collection[str]) -> Tensor:
        """Columns of ``probabilities`` that belong to these concepts."""
        index = {c: i for i, c in enumerate(self.known)}
        return torch.tensor([index[c] for c in concepts])

    def resampled(self, generator: torch.Generator) -> Draw:
        """As many pictures of each concept, drawn out of these with replacement; held-out ones stay what they are."""
        chosen = torch.arange(len(self.asked))
        for label in self.labels.unique():
            own = (self.labels == label).nonzero()[:, 0]
            chosen[own] = own[torch.randint(len(own), own.shape, generator=generator)]
        return replace(
            self,
            probabilities=self.probabilities[chosen],
            features=self.features[chosen],
            marks={name: mark[chosen] for name, mark in self.marks.items()},
        )
