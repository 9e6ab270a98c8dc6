"""Images with their concepts: what a training reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor


class Images(Protocol):
    """Anything that gives float32 ``(B, C, H, W)`` in [-1, 1] for an index tensor ``(B,)``; a tensor is one."""

    def __getitem__(self, index: Tensor, /) -> Tensor: ...

    def __len__(self) -> int: ...


@dataclass(frozen=True)
class ConceptImages:
    """Images, what each shows, and how a model is asked for it.

    Attributes:
        images: ``images[index]`` gives float32 ``(B, C, H, W)`` in [-1, 1].
        concepts: one an image. Losses choose by concept.
        prompts: one an image, the concepts themselves by default. Models are asked by prompt.

    Raises: ValueError: there are more or fewer of one than of another, or a text where a list is meant.
    """

    images: Images
    concepts: Sequence[str]
    prompts: Sequence[str] = field(default=())

    def __post_init__(self) -> None:
        if not self.prompts:
            object.__setattr__(self, "prompts", self.concepts)
        for name in ("concepts", "prompts"):
            if isinstance(getattr(self, name), str):
                raise ValueError(f"{name} is one text: give a list, with one an image")
        if not len(self.images) == len(self.concepts) == len(self.prompts):
            raise ValueError(
                f"{len(self.images)} images, {len(self.concepts)} concepts and {len(self.prompts)} prompts: "
                "give one of each a sample"
            )

    def __len__(self) -> int:
        return len(self.concepts)


@dataclass(frozen=True)
class Undrawn:
    """So many pictures that nothing reads: only how they are asked for matters."""

    count: int

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: Tensor, /) -> Tensor:
        raise LookupError("these pictures were not drawn, since the method does not read them")
