"""Denoising training itself: how a base model, or one retrained without the forget set, is made."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from accelerate import Accelerator
from torch import nn

from erasediff.data.concept_images import Images
from erasediff.families.family import NULL_CONCEPT, Family
from erasediff.randomness import batch_indices, generator
from erasediff.training.state import (
    Checkpoint,
    OnStep,
    TrainState,
    check_finite,
    share,
    shared_mse,
    sum_gradients,
    warmup_cosine,
)

#: Arguments of :func:`train_denoiser` that say how a model is trained: its recipe.
RECIPE = {
    "steps",
    "batch_size",
    "learning_rate",
    "warmup_steps",
    "ema_decay",
    "condition_dropout",
    "max_grad_norm",
}


def train_denoiser(
    family: Family,
    images: Images,
    prompts: Sequence[str],
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
    warmup_steps: int = 0,
    weight_decay: float = 0.0,
    ema_decay: float = 0.0,
    condition_dropout: float = 0.1,
    max_grad_norm: float = 1.0,
    seed: int = 0,
    accelerator: Accelerator | None = None,
    checkpoint: Checkpoint | None = None,
    on_step: OnStep | None = None,
) -> nn.Module:
    r"""Train ``family.denoiser`` in place to predict the noise of its images.

    .. math:: L = \mathbb{E}_{x_0,\epsilon,t}\lVert \epsilon_\theta(x_t, t, c) - \epsilon\rVert^2

    Args:
        images: float32 ``(B, C, H, W)`` in [-1, 1], by an index tensor.
        prompts: one an image: a caption, or the name of its class.
        batch_size: of all processes together.
        steps: number of updates; the learning rate falls to zero along a cosine.
        condition_dropout: share of samples whose prompt becomes the null prompt (arXiv 2207.12598).
        max_grad_norm: gradients are scaled down to this 2-norm.

    Returns: the denoiser, with averaged weights where ``ema_decay`` is not 0, in eval mode.
    Raises: NonFiniteLoss.
    Source: arXiv 2006.11239, Algorithm 1. Deviation: none.
    """
    accelerator = accelerator or Accelerator()
    denoiser = family.denoiser.to(accelerator.device).train()
    parameters = {n: p for n, p in denoiser.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(parameters.values(), lr=learning_rate, weight_decay=weight_decay, fused=True)
    state = TrainState(parameters, optimizer, ema_decay)
    if checkpoint is not None and (saved := checkpoint.load()) is not None:
        state.restore(saved)
    mine, main = share(batch_size, accelerator), accelerator.is_main_process
    while state.step < steps:
        step = state.step
        rate = learning_rate * warmup_cosine(step, warmup_steps, steps)
        for group in optimizer.param_groups:
            group["lr"] = rate
        index = batch_indices(len(prompts), batch_size, seed=seed, stream="pretrain", step=step)
        draw = generator(seed, "pretrain-noise", step)
        clean = family.encode(images[index[mine]].to(accelerator.device))
        timesteps = family.timesteps(batch_size, draw)[mine].to(clean.device)
        noise = torch.randn((batch_size, *clean.shape[1:]), generator=draw)[mine].to(clean.device)
        dropped = (torch.rand(batch_size, generator=draw) < condition_dropout)[mine].tolist()
        asked = [
            NULL_CONCEPT if drop and family.has_null else prompts[i]
            for i, drop in zip(index[mine].tolist(), dropped, strict=True)
        ]
        noisy, target = family.noised(clean, noise, timesteps)
        with accelerator.autocast():
            prediction = family.predict(denoiser, noisy, timesteps, family.condition(asked))
            loss = shared_mse(prediction, target, batch_size)
        value = accelerator.reduce(loss.detach(), "sum")
        if not torch.isfinite(value) and checkpoint is not None and main:
            checkpoint.save(state.tensors())
        check_finite(step, loss=value)
        accelerator.backward(loss)
        sum_gradients(parameters.values(), accelerator)
        norm = accelerator.clip_grad_norm_(parameters.values(), max_grad_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        state.after_update()
        if on_step is not None and main:
            on_step(state.step, {"loss": value.item(), "grad_norm": float(norm), "learning_rate": rate})
        if checkpoint is not None and main and state.step % checkpoint.every == 0 and state.step < steps:
            checkpoint.save(state.tensors())
    state.use_average()
    return denoiser.eval()
