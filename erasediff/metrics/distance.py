"""Fréchet distance between two sets of features."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from erasediff.metrics.draw import Draw


class _Given(nn.Module):
    """Features are handed to torchmetrics as they are."""

    def __init__(self, num_features: int):
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features


def frechet_distance(features: Tensor, reference: Tensor) -> float:
    r"""Fréchet distance of the normal distributions fitted to two sets of features.

    .. math:: \lVert\mu_1-\mu_2\rVert^2 + \mathrm{tr}(\Sigma_1+\Sigma_2-2(\Sigma_1\Sigma_2)^{1/2})

    Args:
        features: ``(N, D)``, ``N >= 2``.
        reference: ``(M, D)``, ``M >= 2``.
    Returns: the squared distance, as FID is; computed in float64 by torchmetrics.
    Raises: ValueError: fewer than two samples, or different ``D``.
    Source: arXiv 1706.08500, eq. 6.
    """
    from torchmetrics.image.fid import FrechetInceptionDistance

    if features.ndim != 2 or features.shape[1:] != reference.shape[1:] or min(len(features), len(reference)) < 2:
        raise ValueError(f"features of shapes {tuple(features.shape)} and {tuple(reference.shape)} cannot be compared")
    metric = FrechetInceptionDistance(feature=_Given(features.shape[1])).set_dtype(torch.float64)
    metric.update(reference.double(), real=True)
    metric.update(features.double(), real=False)
    return float(metric.compute())


def fd_classifier(draw: Draw) -> float:
    """Fréchet distance of the judge's features: pictures drawn for retained concepts, to held-out ones."""
    return frechet_distance(draw.features[draw.retained], draw.reference)
