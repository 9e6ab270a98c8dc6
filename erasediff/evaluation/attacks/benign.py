"""Harmless fine-tuning, as anybody does it who gets the model: on pictures of what was kept, never of the concept."""

from __future__ import annotations

import copy
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from erasediff.data.concept_images import ConceptImages
from erasediff.evaluation.attacks.solver import device_of
from erasediff.families.family import Family
from erasediff.training.denoising import Recipe, train_denoiser

#: Weights under which a model is small: it is trained at other learning rates than those of papers.
SMALL = 10**8
#: Learning rates of a small model and of a large one: of all weights, and of a LoRA.
RATES = {False: (5e-4, 1e-5), True: (2e-3, 1e-4)}
#: Of a LoRA.
RANK = 8
#: Layers that a LoRA is put beside: those of attention; of a model without, all of these kinds.
ATTENTION, KINDS = ("to_q", "to_k", "to_v", "to_out.0"), (nn.Linear, nn.Conv2d)


def fine_tuned(
    family: Family,
    kept: ConceptImages,
    *,
    steps: int,
    batch_size: int,
    seed: int,
    lora: bool,
    after: Callable[[int, Family], None] | None = None,
) -> Family:
    """A copy of a model, trained on pictures with the loss of base training; the model itself stays.

    Args:
        lora: only small matrices beside its layers are trained (arXiv 2106.09685); needs peft.
        after: called after each update with its number and the model as it is then.
    """
    denoiser: nn.Module = copy.deepcopy(family.denoiser).float().to(device_of(family)).requires_grad_(True)
    if lora:
        denoiser = _adapted(denoiser, seed)
    tuned = family.with_denoiser(denoiser)
    large = sum(weight.numel() for weight in denoiser.parameters()) >= SMALL
    rate = RATES[lora][large]

    def on_step(step: int, row: dict[str, float]) -> None:
        if after is not None:
            after(step, tuned)
            denoiser.train()

    train_denoiser(tuned, kept.images, kept.prompts, Recipe(steps, batch_size, rate), seed=seed, on_step=on_step)
    return tuned


def _adapted(denoiser: nn.Module, seed: int) -> nn.Module:
    from peft import LoraConfig, inject_adapter_in_model

    layers = [name for name, layer in denoiser.named_modules() if isinstance(layer, KINDS)]
    attention = [name for name in layers if name.endswith(ATTENTION)]
    denoiser.requires_grad_(False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config: Any = LoraConfig(r=RANK, lora_alpha=RANK, target_modules=attention or layers)
        adapted: nn.Module = inject_adapter_in_model(config, denoiser)
    return adapted


def can_have_lora(family: Family) -> bool:
    """Whether a LoRA of a model can be trained here."""
    return find_spec("peft") is not None and any(isinstance(layer, KINDS) for layer in family.denoiser.modules())
