"""How like its words a picture is, and how like the picture that another model draws from the same seed."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from erasediff.metrics.draw import Draw


def clip_score(draw: Draw) -> Tensor | None:
    """100 × the cosine of picture and prompt, 0 where it is below, of the pictures drawn for retained concepts.

    Source: arXiv 2104.08718, eq. 1, with w = 100 as torchmetrics has it.
    """
    return None if draw.alignment is None else 100 * draw.alignment[draw.retained].double().clamp(min=0)


def feature_change(before: Tensor, after: Tensor) -> Tensor:
    """How far two pictures' features lie apart in direction: 0 the same, 1 nothing in common, 2 opposed.

    The measure that LPIPS takes, squared distance of features of length 1, by half; of one layer of a judge, without
    LPIPS's learned weights.

    Args:
        before: features ``(N, D)`` of the base's pictures; after: of the other model's, of the same prompts and seeds.

    Returns: ``(N,)`` in float64. Features of length 0 are the same as each other, and have nothing
        in common with others.
    Source: arXiv 1801.03924, eq. 1.
    """
    a, b = F.normalize(before.double(), dim=1), F.normalize(after.double(), dim=1)
    return (a - b).square().sum(1) / 2 + ((a == 0).all(1) ^ (b == 0).all(1)) / 2
