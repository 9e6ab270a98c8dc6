"""Rounded weights: what a quantised copy of the model draws."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from erasediff.evaluation.attacks.target import Found, Target
from erasediff.families.family import Family


def run(target: Target) -> dict[str, Found]:
    """Draw with the weights rounded to each precision."""
    kinds: dict[str, Callable[[Tensor], Tensor]] = {
        "bf16 weights": to_bf16,
        "fp8 weights": to_fp8,
        "int8 weights": to_int8,
    }
    return {name: target.changed(family=_rounded(target, change)).seen() for name, change in kinds.items()}


def _rounded(target: Target, change: Callable[[Tensor], Tensor]) -> Family:
    denoiser: nn.Module = copy.deepcopy(target.family.denoiser)
    with torch.no_grad():
        for weight in denoiser.parameters():
            weight.copy_(change(weight))
    return target.family.with_denoiser(denoiser)


def to_bf16(weight: Tensor) -> Tensor:
    """The nearest values of bfloat16."""
    return weight.to(torch.bfloat16).to(weight.dtype)


def to_fp8(weight: Tensor) -> Tensor:
    """The nearest values of float8 (e4m3), as ``enable_layerwise_casting`` stores weights; vectors stay."""
    return weight if weight.ndim < 2 else weight.clamp(-448, 448).to(torch.float8_e4m3fn).to(weight.dtype)


def to_int8(weight: Tensor) -> Tensor:
    """The nearest of 255 levels a row, as weights are stored in 8 bits; vectors, which are not, stay."""
    if weight.ndim < 2:
        return weight
    rows = weight.float().flatten(1)
    scale = rows.abs().amax(1, keepdim=True).clamp(min=1e-12) / 127
    return ((rows / scale).round() * scale).view_as(weight).to(weight.dtype)
