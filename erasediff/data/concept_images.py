"""Images with their concepts: what a training reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ConceptImages:
    """Images with their concepts. ``images[index]`` gives float32 ``(B, C, H, W)`` in [-1, 1]."""

    images: Any
    concepts: list[str]

    def __len__(self) -> int:
        return len(self.concepts)
