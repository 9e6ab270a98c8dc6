"""The judge interface: something that recognises concepts in pictures, whatever it is made of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol, Self

import torch
from torch import Tensor

from erasediff.data.concept_images import Images
from erasediff.errors import ModelError, UnknownConcept, shown

#: What a judge says of a picture that shows none of its concepts, where it has a word for that. Nobody asks for it.
REST = "something else"


def is_rest(concept: str) -> bool:
    """True of :data:`REST`, also where a judge has one for each of its domains."""
    return concept == REST or concept.startswith(f"{REST}: ")


class Judge(Protocol):
    """Something that recognises concepts. It reads images of any size, grey or RGB.

    One with thresholds has names of its features as ``raw``: an evaluation keeps these of every picture.

    Attributes:
        concepts: what it can tell apart, in the order of its scores; :data:`REST` may be among them.
        image_shape: ``(channels, height, width)`` that it reads best.
        fingerprint: kind, hash of the weights, preprocessing and library versions: two judges with the same one read
            the same in a picture.
    """

    concepts: tuple[str, ...]
    image_shape: tuple[int, int, int]

    @property
    def fingerprint(self) -> str: ...

    def read(self, images: Images) -> tuple[Tensor, Tensor]:
        """Scores ``(N, number of concepts)``, which add up to 1 a picture, and features ``(N, D)``, on the CPU.

        Raises: DataError: one of the pictures cannot be read. It is never taken for one that shows nothing.
        """

    def recognises(self, concept: str, images: Images) -> Tensor:
        """True where an image shows ``concept``, bool ``(N,)``; of one without a name, where it shows none that has.

        Raises: UnknownConcept: it cannot tell.
        """

    def to(self, device: torch.device) -> Self:
        """The judge itself, computing there from now on."""


def read_as(judge: Judge, concept: str) -> str:
    """Return which of its concepts a judge reads in a good picture of ``concept``: itself, or :data:`REST`.

    Raises: UnknownConcept: neither is among them.
    """
    name = concept if concept in judge.concepts else REST
    if name not in judge.concepts:
        raise UnknownConcept(f"the judge does not know {shown(repr(concept))}; it knows: {', '.join(judge.concepts)}")
    return name


def recognised(judge: Judge, concept: str, images: Images) -> Tensor:
    """True where the highest score of an image is that of ``concept``, bool ``(N,)``: ``recognises`` of most judges.

    Raises: ModelError: a score is no finite number. It has no highest one, and the picture would count as not seen.
    """
    column = judge.concepts.index(read_as(judge, concept))
    scores = judge.read(images)[0]
    if not scores.isfinite().all():
        raise ModelError("the judge gives scores that are no finite numbers: train it anew, or use another judge")
    return scores.argmax(1) == column


def asked_concepts(judge: Judge, concepts: Iterable[str] = ()) -> list[str]:
    """Return what a model is asked for to be judged: all that the judge knows, and what it can read as the rest.

    Args:
        concepts: that the data have.
    """
    known = [concept for concept in judge.concepts if not is_rest(concept)]
    return known + [c for c in concepts if c not in judge.concepts and REST in judge.concepts]


def accuracy(judge: Judge, images: Images, concepts: Sequence[str]) -> float:
    """Share of images whose highest score is that of the concept given for each."""
    read = [judge.concepts[i] for i in judge.read(images)[0].argmax(1).tolist()]
    return sum(a == read_as(judge, b) for a, b in zip(read, concepts, strict=True)) / len(read)
