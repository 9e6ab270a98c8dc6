"""How the two gradients are joined: update direction δ = ∇L_r + λ∇g. Each rule gives λ."""

from __future__ import annotations

import torch
from torch import Tensor

from erasediff.unlearning.settings import Settings


def _check(retain_grad: Tensor, gap_grad: Tensor) -> None:
    if retain_grad.shape != gap_grad.shape:
        raise ValueError(f"gradients of different shapes: {tuple(retain_grad.shape)} and {tuple(gap_grad.shape)}")


def paper_multiplier(retain_grad: Tensor, gap_grad: Tensor, *, eta: float) -> Tensor:
    r"""Smallest weight that makes the update shrink the constraint.

    .. math:: \lambda = \max(0,\ \eta - \langle\nabla g, \nabla L_r\rangle / \lVert\nabla g\rVert^2)

    so that :math:`\langle\nabla g, \delta\rangle \ge \eta\lVert\nabla g\rVert^2` for
    :math:`\delta = \nabla L_r + \lambda\nabla g`.

    Args:
        retain_grad: gradient of the retain loss, shape ``(P,)``, float32.
        gap_grad: gradient of the constraint gap, shape ``(P,)``, float32.
        eta: required rate of decrease, dimensionless, ``> 0``.
    Returns: finite float32 scalar ``>= 0`` on the same device; ``0`` where ``gap_grad`` is zero.
    Raises: ValueError: shapes differ or ``eta <= 0``.
    Source: arXiv 2401.05779, Algorithm 1. Deviation: none.
    """
    _check(retain_grad, gap_grad)
    if eta <= 0:
        raise ValueError(f"eta must be positive, not {eta}")
    scale = torch.linalg.vector_norm(gap_grad, float("inf"))
    if scale == 0:
        return torch.zeros((), device=gap_grad.device)
    retain, gap = retain_grad.float(), gap_grad.float()
    if not 1e-15 < scale < 1e15:  # squares would vanish or overflow
        retain, gap = retain.double(), gap.double()
    projection = torch.dot(gap, retain) / torch.dot(gap, gap)
    return (eta - projection).clamp(0, torch.finfo(torch.float32).max).float()


def cosine_multiplier(retain_grad: Tensor, gap_grad: Tensor, *, eta: float) -> Tensor:
    r"""The rule of the paper's official code: :math:`\lambda = \max(0, \eta - \cos(\nabla L_r, \nabla g))`.

    It does not guarantee that the constraint shrinks. Args, Returns, Raises: as :func:`paper_multiplier`.
    """
    _check(retain_grad, gap_grad)
    if not gap_grad.any():
        return torch.zeros((), device=gap_grad.device)
    return (eta - torch.cosine_similarity(retain_grad.float(), gap_grad.float(), dim=0)).clamp(min=0)


def fixed_multiplier(retain_grad: Tensor, gap_grad: Tensor, *, weight: float) -> Tensor:
    """Plain weighting of the two losses: λ = ``weight`` at every step."""
    _check(retain_grad, gap_grad)
    return torch.tensor(float(weight), device=gap_grad.device)


def norm_ratio_multiplier(retain_grad: Tensor, gap_grad: Tensor, *, ratio: float) -> Tensor:
    r"""The forget part gets ``ratio`` times the length of the retain gradient: :math:`\lambda = \rho
    \lVert\nabla L_r\rVert / \lVert\nabla g\rVert` (SISS, arXiv 2503.01034); 0 where ``gap_grad`` is zero."""
    _check(retain_grad, gap_grad)
    if not gap_grad.any():
        return torch.zeros((), device=gap_grad.device)
    return ratio * retain_grad.float().norm() / gap_grad.float().norm()


def multiplier_of(settings: Settings, retain_grad: Tensor, gap_grad: Tensor) -> Tensor:
    """Return λ by the rule that the settings name, with the rule's own number. Raises: as the rule."""
    match settings.multiplier:
        case "paper":
            return paper_multiplier(retain_grad, gap_grad, eta=settings.eta)
        case "cosine":
            return cosine_multiplier(retain_grad, gap_grad, eta=settings.eta)
        case "fixed":
            return fixed_multiplier(retain_grad, gap_grad, weight=settings.fixed_multiplier)
        case "norm_ratio":
            return norm_ratio_multiplier(retain_grad, gap_grad, ratio=settings.norm_ratio)
