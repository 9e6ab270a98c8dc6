"""One draw as the judge reads it: what every metric gets."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

if TYPE_CHECKING:
    from erasediff.metrics.distance import Moments

T = TypeVar("T")


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
        marks: what a picture is whatever the judge sees, bool ``(N,)``, by the names of
            :data:`erasediff.metrics.pictures.MARKS`, and ``close`` to a training picture.
        domains: such as ``object`` or ``style``, by concept; empty: all are of one. What a picture was drawn for is
            read among the concepts of its domain and those without one: a picture has an object *and* a style.
        alignment: cosine of each picture and the prompt that it was drawn from, ``(N,)``; ``None``: the judge knows no
            words.
        inception: Inception-v3's features, ``(N, 2048)``; ``None``: its weights are not at hand.
        inception_reference: its moments of the held-out pictures.
    """

    probabilities: Tensor
    features: Tensor
    asked: Sequence[str]
    known: Sequence[str]
    forgotten: Collection[str]
    reference: Tensor
    earlier: Collection[str] = ()
    marks: Mapping[str, Tensor] = field(default_factory=dict)
    domains: Mapping[str, str] = field(default_factory=dict)
    alignment: Tensor | None = None
    inception: Tensor | None = None
    inception_reference: Moments | None = None
    _known: dict[Callable[[Tensor], Any], Any] = field(default_factory=dict, repr=False)

    def of_reference(self, function: Callable[[Tensor], T]) -> T:
        """What a function makes of :attr:`reference`: computed once for a draw and all of its resamples."""
        if function not in self._known:
            self._known[function] = function(self.reference)
        found: T = self._known[function]
        return found

    @cached_property
    def labels(self) -> Tensor:
        """Index among the known concepts of what each picture was drawn for, ``(N,)``."""
        index = {c: i for i, c in enumerate(self.known)}
        return torch.tensor([index[c] for c in self.asked])

    @cached_property
    def seen(self) -> Tensor:
        """The judge's probabilities, in each picture those of the domain of what it was drawn for alone."""
        if not self.domains:
            return self.probabilities
        of = [self.domains.get(c) for c in self.known]
        rows = {d: torch.tensor([d is None or o in (d, None) for o in of]) for d in {*of}}
        kept = torch.stack([rows[of[label]] for label in self.labels.tolist()])
        seen = self.probabilities * kept
        return seen / seen.sum(1, keepdim=True).clamp(min=torch.finfo(seen.dtype).tiny)

    @cached_property
    def read_as(self) -> Tensor:
        """Index among the known concepts of what the judge sees in each picture, ``(N,)``."""
        return self.seen.argmax(1)

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

    @cached_property
    def in_domain(self) -> Tensor:
        """Of the retained pictures those of a forgotten concept's domain, bool ``(N,)``; all where there is one."""
        if not (self.domains and self.forgotten):
            return self.retained
        own = {self.domains.get(c) for c in self.forgotten}
        return self.retained & torch.tensor([self.domains.get(c) in own for c in self.asked])

    def columns(self, concepts: Collection[str]) -> Tensor:
        """Columns of ``probabilities`` that belong to these concepts."""
        index = {c: i for i, c in enumerate(self.known)}
        return torch.tensor([index[c] for c in concepts])

    @cached_property
    def _groups(self) -> list[Tensor]:
        """Rows of the pictures of each concept."""
        return [(self.labels == label).nonzero()[:, 0] for label in self.labels.unique()]

    def chosen(self, generator: torch.Generator) -> Tensor:
        """Rows ``(N,)`` of a resample: as many pictures of each concept, drawn out of these with replacement."""
        rows = torch.arange(len(self.asked))
        for own in self._groups:
            rows[own] = own[torch.randint(len(own), own.shape, generator=generator)]
        return rows

    def taken(self, rows: Tensor) -> Draw:
        """The pictures of these rows, of the same concepts one after another; held-out ones stay what they are."""
        return replace(
            self,
            probabilities=self.probabilities[rows],
            features=self.features[rows],
            marks={name: mark[rows] for name, mark in self.marks.items()},
            alignment=None if self.alignment is None else self.alignment[rows],
            inception=None if self.inception is None else self.inception[rows],
        )

    def resampled(self, generator: torch.Generator) -> Draw:
        """:meth:`taken` of :meth:`chosen`."""
        return self.taken(self.chosen(generator))

    def retained_times(self, chosen: Tensor) -> Tensor:
        """How often each picture of :attr:`retained` is in each of some resamples.

        Args:
            chosen: rows of each, ``(R, N)``.

        Returns: ``(R, retained pictures)``, int64.
        """
        of = chosen[:, self.retained]
        times = torch.zeros(len(chosen), len(self.asked), dtype=torch.int64)
        return times.scatter_add_(1, of, torch.ones_like(of))[:, self.retained]
