"""A judge of several domains: where a picture has an object and a style, a judge reads each."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Self

import torch
from torch import Tensor

from erasediff.data.concept_images import Images
from erasediff.errors import UnknownConcept
from erasediff.judges.judge import REST, Judge


class DomainsJudge:
    """Judges of one domain each, side by side. What a picture was drawn for is to be read among its domain's concepts.

    Args:
        judges: by domain, such as ``object`` and ``style``; no two know the same concept.
        rest: what they call a picture that shows none of their concepts; here it is ``something else: DOMAIN``.

    Attributes:
        domains: of each concept.

    Raises: ValueError: two know the same concept.
    """

    def __init__(self, judges: Mapping[str, Judge], rest: Collection[str] = (REST,)):
        self.judges = dict(judges)
        named = [
            (f"{REST}: {domain}" if concept in rest else concept, domain)
            for domain, judge in self.judges.items()
            for concept in judge.concepts
        ]
        self.domains: dict[str, str] = dict(named)
        if len(self.domains) < len(named):
            raise ValueError("two domains know a concept of the same name: name them apart")
        self.concepts = tuple(self.domains)
        self.image_shape = next(iter(self.judges.values())).image_shape

    @property
    def fingerprint(self) -> str:
        """The fingerprints of all, by domain."""
        return json.dumps({domain: judge.fingerprint for domain, judge in self.judges.items()})

    def read(self, images: Images) -> tuple[Tensor, Tensor]:
        """Scores of all domains side by side, each an equal part of 1, and the features of the first."""
        scores, features = zip(*(judge.read(images) for judge in self.judges.values()), strict=True)
        return torch.cat(scores, dim=1) / len(scores), features[0]

    def recognises(self, concept: str, images: Images) -> Tensor:
        """True where an image shows ``concept``, of those of its domain, bool ``(N,)``. Raises: UnknownConcept."""
        if concept not in self.domains:
            raise UnknownConcept(f"the judge does not know {concept!r}; it knows: {', '.join(self.concepts)}")
        return self.judges[self.domains[concept]].recognises(concept, images)

    def to(self, device: torch.device) -> Self:
        """The judge itself, computing there from now on."""
        self.judges = {domain: judge.to(device) for domain, judge in self.judges.items()}
        return self
