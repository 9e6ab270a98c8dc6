"""The judge interface: something that recognises concepts in pictures, whatever it is made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, Self

import torch
from torch import Tensor

from erasediff.data.concept_images import Images


class Judge(Protocol):
    """Something that recognises concepts. It reads images of any size, grey or RGB.

    Attributes:
        concepts: what it can tell apart, in the order of its scores.
        image_shape: ``(channels, height, width)`` that it reads best.
        fingerprint: kind, hash of the weights, preprocessing and library versions: two judges with the same one read
            the same in a picture.
    """

    concepts: tuple[str, ...]
    image_shape: tuple[int, int, int]

    @property
    def fingerprint(self) -> str: ...

    def read(self, images: Images) -> tuple[Tensor, Tensor]:
        """Scores ``(N, number of concepts)``, which add up to 1 a picture, and features ``(N, D)``, on the CPU."""

    def recognises(self, concept: str, images: Images) -> Tensor:
        """True where an image shows ``concept``, bool ``(N,)``. Raises: UnknownConcept: it cannot tell."""

    def to(self, device: torch.device) -> Self:
        """The judge itself, computing there from now on."""


def accuracy(judge: Judge, images: Images, concepts: Sequence[str]) -> float:
    """Share of images whose highest score is that of the concept given for each."""
    read = [judge.concepts[i] for i in judge.read(images)[0].argmax(1).tolist()]
    return sum(a == b for a, b in zip(read, concepts, strict=True)) / len(read)
