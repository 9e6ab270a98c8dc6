"""Denoising training itself: how a base model, or one retrained without the forget set, is made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from accelerate import Accelerator
from torch import nn

from erasediff import randomness
from erasediff.data.concept_images import Images
from erasediff.families.family import NULL_CONCEPT, Family
from erasediff.ranges import require_in_range
from erasediff.training.state import (
    Checkpoint,
    OnStep,
    TrainState,
    check_finite,
    process_share,
    shared_mse,
    sum_gradients,
    warmup_cosine,
)


@dataclass(frozen=True)
class Recipe:
    """How a denoiser is trained.

    Raises: ValueError: a number is out of its range, in :data:`erasediff.ranges.RANGES`.

    Attributes:
        steps: number of updates; the learning rate falls to zero along a cosine.
        batch_size: of all processes together.
        warmup_steps: updates in which the learning rate rises from zero.
        ema_decay: of the average of the weights, which is the result; 0 keeps none.
        condition_dropout: share of samples whose concept becomes the null concept (arXiv 2207.12598).
        max_grad_norm: gradients are scaled down to this 2-norm.
    """

    steps: int
    batch_size: int
    learning_rate: float
    warmup_steps: int = 0
    ema_decay: float = 0.0
    condition_dropout: float = 0.1
    max_grad_norm: float = 1.0

    def __post_init__(self) -> None:
        require_in_range(vars(self))


#: Names of a recipe's entries.
RECIPE = {field.name for field in fields(Recipe)}


def train_denoiser(
    family: Family,
    images: Images,
    prompts: Sequence[str],
    recipe: Recipe,
    *,
    seed: int = 0,
    accelerator: Accelerator | None = None,
    checkpoint: Checkpoint | None = None,
    on_step: OnStep | None = None,
) -> nn.Module:
    r"""Train ``family.denoiser`` in place to predict the noise of its images.

    .. math:: L = \mathbb{E}_{x_0,\epsilon,t}\lVert \epsilon_\theta(x_t, t, c) - \epsilon\rVert^2

    Args:
        images: in [-1, 1].
        prompts: one an image: a caption, or the name of its class.

    Returns: the denoiser, with averaged weights where ``ema_decay`` is not 0, in eval mode.
    Raises: NonFiniteLoss.
    Source: arXiv 2006.11239, Algorithm 1. Deviation: none.
    """
    accelerator = accelerator or Accelerator()
    denoiser = family.denoiser.to(accelerator.device).train()
    parameters = {n: p for n, p in denoiser.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(parameters.values(), lr=recipe.learning_rate, weight_decay=0.0, fused=True)
    state = TrainState(parameters, optimizer, recipe.ema_decay)
    if checkpoint is not None and (saved := checkpoint.load()) is not None:
        state.restore(saved)
    n, main = recipe.batch_size, accelerator.is_main_process
    share = process_share(n, accelerator)
    while state.step < recipe.steps:
        step = state.step
        rate = recipe.learning_rate * warmup_cosine(step, recipe.warmup_steps, recipe.steps)
        for group in optimizer.param_groups:
            group["lr"] = rate
        index = randomness.batch_indices(len(prompts), n, seed=seed, stream="pretrain", step=step)
        generator = randomness.generator(seed, "pretrain-noise", step)
        clean = family.encode(images[index[share]].to(accelerator.device))
        # Timesteps before noise: draw_noise, with the other order, would train another base at the same seed.
        timesteps = family.timesteps(n, generator)[share].to(clean.device)
        noise = torch.randn((n, *clean.shape[1:]), generator=generator)[share].to(clean.device)
        dropped = (torch.rand(n, generator=generator) < recipe.condition_dropout)[share].tolist()
        names = [
            NULL_CONCEPT if drop and family.has_null else prompts[i]
            for i, drop in zip(index[share].tolist(), dropped, strict=True)
        ]
        noisy, target = family.noised(clean, noise, timesteps)
        with accelerator.autocast():
            prediction = family.predict(denoiser, noisy, timesteps, family.condition(names))
            loss = shared_mse(prediction, target, n)
        value = accelerator.reduce(loss.detach(), "sum")
        if not torch.isfinite(value) and checkpoint is not None and main:
            checkpoint.save(state.tensors())
        check_finite(step, loss=value)
        accelerator.backward(loss)
        sum_gradients(parameters.values(), accelerator)
        norm = accelerator.clip_grad_norm_(parameters.values(), recipe.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        state.after_update()
        if on_step is not None and main:
            on_step(state.step, {"loss": value.item(), "grad_norm": float(norm), "learning_rate": rate})
        if checkpoint is not None and main and state.step % checkpoint.every == 0 and state.step < recipe.steps:
            checkpoint.save(state.tensors())
    state.use_average()
    return denoiser.eval()
