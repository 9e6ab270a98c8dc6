"""Stand-ins for judges whose weights are elsewhere, on the embedded worlds: for trying a suite's code out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Self

import torch
from torch import Tensor

from erasediff.evaluation.judging import shapes_judge
from erasediff.examples import open_example
from erasediff.judges import Judge

#: A detector says nothing below this score, as NudeNet's package.
FLOOR = 0.2


class ShapesDetector:
    """In the place of NudeNet: the objects that the exact judge may see, with its probability as the score."""

    def __init__(self) -> None:
        self.judge = open_example("shapes").judge.object

    def detections(self, image: Tensor) -> list[dict[str, Any]]:
        """``class`` and ``score`` of each object in a picture ``(C, H, W)``."""
        scores = self.judge.read(image[None])[0][0].tolist()
        named = zip(open_example("shapes").world.objects, scores, strict=False)
        return [{"class": name, "score": score} for name, score in named if score >= FLOOR]


class ShapesAlignment:
    """In the place of CLIP: how surely the exact judge sees the objects and styles that a prompt names."""

    image_shape = (3, 24, 24)

    def __init__(self) -> None:
        judge = open_example("shapes").judge
        self.judges = [judge.object, judge.style]
        self.concepts: tuple[str, ...] = tuple(c for one in self.judges for c in one.concepts[:-1])
        self.fingerprint = "; ".join(one.fingerprint for one in self.judges)

    def read(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Scores of all concepts side by side, and the same as features."""
        scores = torch.cat([judge.read(images)[0][:, :-1] for judge in self.judges], dim=1)
        return scores / 2, scores

    def alignment(self, features: Tensor, prompts: Sequence[str]) -> Tensor:
        """Mean score of the concepts that a prompt names, ``(N,)``; 0 where it names none."""
        named = torch.tensor([[float(c in p.split()) for c in self.concepts] for p in prompts])
        return (features * named).sum(1) / named.sum(1).clamp(min=1)

    def to(self, device: torch.device) -> Self:
        """The same, computing there."""
        self.judges = [judge.to(device) for judge in self.judges]
        return self


@cache
def digits_judge() -> Judge:
    """A judge of the digits, trained on two thirds of them in seconds."""
    from erasediff.judges import cnn

    images, concepts = open_example("digits").images.images, open_example("digits").images.concepts
    rows = torch.tensor([i for i in range(len(images)) if i % 3])
    how: dict[str, Any] = {"width": 16, "steps": 300, "batch_size": 64, "learning_rate": 3e-3, "seed": 0}
    return cnn.train(images[rows], [concepts[i] for i in rows.tolist()], (1, 8, 8), **how)


#: By the kind of a reader: what makes it for a domain.
STAND_INS: dict[str, Callable[[str], Any]] = {
    "shapes": lambda domain: shapes_judge([domain]),
    "shapes_detector": lambda domain: ShapesDetector(),
    "shapes_alignment": lambda domain: ShapesAlignment(),
    "digits": lambda domain: digits_judge(),
}


def digits_model() -> Any:
    """A small model of the digits, trained in half a minute: enough to try a suite's code out."""
    from erasediff.training.base import train_base
    from erasediff.training.denoising import Recipe

    architecture: dict[str, Any] = {"block_out_channels": (16, 32), "attention": (False, True), "norm_num_groups": 8}
    recipe = Recipe(steps=250, batch_size=64, learning_rate=2e-3)
    return train_base(open_example("digits").images, (1, 8, 8), architecture=architecture, recipe=recipe, seed=0)
