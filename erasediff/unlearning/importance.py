"""How much weights and timesteps matter, measured on the base before the first update."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor

from erasediff.data.concept_images import ConceptImages
from erasediff.randomness import generator
from erasediff.training.sharding import local
from erasediff.unlearning.losses import Losses
from erasediff.unlearning.settings import IMPORTANCE_BATCHES
from erasediff.unlearning.timesteps import part_of

#: Equal parts of [0, T) that timesteps are weighted by.
TIMESTEP_PARTS = 20


def add_gradient(total: Tensor, loss: Tensor, parameters: Sequence[Tensor], *, again: bool = False) -> Tensor:
    """Add the gradient of ``loss`` to ``total``, flat float32 ``(P,)``, and give it back; ``.grad`` stays ``None``.

    Each parameter's gradient is added and freed as the backward pass reaches it: there is never a second copy of all.

    Args:
        again: another gradient of the same forward pass is to follow.
    """

    def move(part: Tensor, parameter: Tensor) -> None:
        assert parameter.grad is not None
        part.add_(local(parameter.grad).flatten())
        parameter.grad = None

    parts = total.split([local(p).numel() for p in parameters])
    moves = [
        p.register_post_accumulate_grad_hook(partial(move, part)) for p, part in zip(parameters, parts, strict=True)
    ]
    try:
        loss.backward(retain_graph=again)  # type: ignore[no-untyped-call]
    finally:
        for hook in moves:
            hook.remove()
    return total


def flat_zeros(parameters: Sequence[Tensor]) -> Tensor:
    """Zeros, float32 ``(P,)``, on the parameters' device; of sharded ones, for this process's part."""
    return torch.zeros(sum(local(p).numel() for p in parameters), device=parameters[0].device)


def _denoising(losses: Losses, data: ConceptImages, stream: str, step: int, n: int) -> Tensor:
    """Mean squared error of plain denoising of a batch under its own concepts; the same for every process."""
    index, concepts = losses.draw(stream, step, n, data)
    clean = losses.encoded(data, index)
    draw = generator(losses.seed, f"{stream}-noise", step)
    noise = torch.randn(clean.shape, generator=draw).to(clean)
    timesteps = losses.family.timesteps(n, draw).to(losses.device)
    noisy, target = losses.family.noised(clean, noise, timesteps)
    prediction = losses.family.predict(losses.denoiser, noisy, timesteps, losses.family.condition(concepts))
    return F.mse_loss(prediction.float(), target.float())


def saliency(losses: Losses, parameters: Sequence[Tensor]) -> Tensor:
    """|∇L| of plain denoising of the forget set, summed over one pass, flat ``(P,)``.

    Source: SalUn, arXiv 2310.12508, eq. 3.
    """
    n = losses.settings.forget_batch_size
    batches = -(-len(losses.forget_set) // n)
    total = flat_zeros(parameters)
    for i in range(batches):
        loss = _denoising(losses, losses.forget_set, "saliency", i, n)
        total += add_gradient(flat_zeros(parameters), loss, parameters).abs_()
    return total


def diagonal_fisher(losses: Losses, data: ConceptImages, parameters: Sequence[Tensor], stream: str) -> Tensor:
    """Mean over images of the squared gradient of each one's denoising loss, flat ``(P,)``.

    Source: Selective Amnesia, arXiv 2305.10120, section 3.1.
    """
    samples = min(len(data), losses.settings.fisher_samples)
    total = flat_zeros(parameters)
    for i in range(samples):
        loss = _denoising(losses, data, f"fisher-{stream}", i, 1)
        total += add_gradient(flat_zeros(parameters), loss, parameters).square_()
    return total / samples


def top_fraction(values: Tensor, fraction: float) -> Tensor:
    """Ones where a value is among the largest ``fraction`` of all, else zeros, float32 of the shape of ``values``."""
    keep = max(1, round(fraction * values.numel()))
    mask = torch.zeros_like(values)
    mask[values.topk(keep).indices] = 1.0
    return mask


class Importance:
    """What the settings want to be known of the base.

    Attributes:
        masks: of each loss's gradient by the loss's name, flat ``(P,)`` of zeros and ones.
        fisher: diagonal Fisher information of both sets together, flat ``(P,)``, where there is a penalty.
    """

    def __init__(self, losses: Losses, parameters: Sequence[Tensor]):
        s = losses.settings
        self.masks: dict[str, Tensor] = {}
        self.fisher: Tensor | None = None
        if s.mask == "saliency":
            mask = top_fraction(saliency(losses, parameters), s.mask_fraction)
            self.masks = {"retain": mask, "forget": mask}
        if s.mask == "fisher_ratio" or s.fisher_penalty:
            forget = diagonal_fisher(losses, losses.forget_set, parameters, "forget")
            retain = diagonal_fisher(losses, losses.retain_set, parameters, "retain")
            if s.mask == "fisher_ratio":
                self.masks = {"forget": (forget >= retain).float()}
            if s.fisher_penalty:
                n, m = len(losses.forget_set), len(losses.retain_set)
                self.fisher = (n * forget + m * retain) / (n + m)


@torch.no_grad()
def timestep_density(losses: Losses, accelerator: Accelerator) -> Tensor:
    """How far the base is from its forget target, by part of [0, T), ``(TIMESTEP_PARTS,)``, of sum 1.

    A part that no timestep fell in gets the mean; none gets 0, so that every timestep can be drawn.
    """
    parts = TIMESTEP_PARTS
    total, count = torch.zeros(parts), torch.zeros(parts)
    for step in range(IMPORTANCE_BATCHES):
        draw = generator(losses.seed, "importance", step)
        batch = losses.forget_batch(step, draw)
        m = len(batch.asked)
        noise = torch.randn(batch.clean.shape, generator=draw).to(batch.clean)
        timesteps = ((torch.arange(m) + torch.rand(m, generator=draw)) * losses.family.num_timesteps / m).long()
        moved = timesteps.to(losses.device)
        noisy, truth = losses.family.noised(batch.clean, noise, moved)
        uniform = partial(torch.rand, batch.clean.shape, generator=draw)
        target = losses.target_of(noisy, moved, truth, batch, uniform)
        prediction = losses.family.predict(losses.denoiser, noisy, moved, losses.family.condition(batch.asked))
        errors = F.mse_loss(prediction.float(), target.float(), reduction="none").flatten(1).mean(1).cpu()
        which = part_of(timesteps, parts, losses.family.num_timesteps)
        total.index_add_(0, which, errors)
        count.index_add_(0, which, torch.ones(m))
    total, count = (accelerator.reduce(x.to(losses.device), "sum").cpu() for x in (total, count))
    mean = total.sum() / count.sum()
    density = torch.where(count > 0, total / count.clamp(min=1), mean).clamp(min=0.05 * mean.item())
    return density / density.sum()
