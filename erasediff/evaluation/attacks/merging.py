"""Merging: the erased model joined with a harmless fine-tuning of the same base, as people merge LoRAs and checkpoints.

What erasing changed and what a LoRA changed are added to the base, each with a weight. The LoRA is somebody's, or is
trained here on what was kept.
Source: task arithmetic, arXiv 2212.04089, eq. 1.
"""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from torch import nn

from erasediff.evaluation.attacks.benign import can_have_lora, fine_tuned
from erasediff.evaluation.attacks.target import Found, Target
from erasediff.families import family_of
from erasediff.families.family import Family
from erasediff.families.lora import with_lora
from erasediff.unlearning.adapters import fused

#: Weights of the erasing and of the other LoRA.
WEIGHTS = ((1.0, 0.5), (1.0, 1.0), (0.5, 0.5))
#: Updates of the other LoRA, and pictures of each.
STEPS, BATCH = {"quick": 20, "paper": 500}, 32


def run(target: Target) -> dict[str, Found]:
    """Draw with each pair of weights."""
    if target.base is None:
        return {}
    base = target.base()
    other, name = (_trained(target, base), "LoRA") if target.lora is None else (_given(base, target.lora), "LoRA given")
    if other is None:
        return {}
    found = {}
    for own, its in WEIGHTS:
        denoiser = merged(base.denoiser, (target.family.denoiser, own), (other, its))
        found[f"erasing × {own:g} + {name} × {its:g}"] = target.changed(
            family=target.family.with_denoiser(denoiser)
        ).seen()
    return found


def _trained(target: Target, base: Family) -> nn.Module | None:
    """The base's network with a LoRA of what was kept; ``None``: there is nothing to train one on."""
    if target.retain is None or not len(target.retain) or not can_have_lora(target.family):
        return None
    steps, seed = STEPS[target.budget], target.seed
    tuned = fine_tuned(base, target.retain, steps=steps, batch_size=BATCH, seed=seed, lora=True)
    return fused(base.denoiser, tuned.denoiser)


def _given(base: Family, file: Path) -> nn.Module:
    """The base's network with a LoRA of somebody's; what that changes elsewhere, as in a text encoder, is left out."""
    return family_of(with_lora(copy.deepcopy(base.pipeline), file)).denoiser


@torch.no_grad()
def merged(base: nn.Module, *changed: tuple[nn.Module, float]) -> nn.Module:
    """The base with what each network changed, times its weight."""
    result = copy.deepcopy(base)
    start = {name: weight.clone() for name, weight in base.named_parameters()}
    for network, share in changed:
        for name, weight in network.named_parameters():
            result.get_parameter(name).add_(share * (weight.to(start[name]) - start[name]))
    return result
