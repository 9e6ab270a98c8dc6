"""How much each weight matters, measured on the base before the first update."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from erasediff import randomness
from erasediff.data.concept_images import ConceptImages
from erasediff.training.sharding import local
from erasediff.training.state import draw_noise
from erasediff.unlearning.losses import Losses
from erasediff.unlearning.settings import Settings

#: Changes the two flat gradients, by the loss's name, in place.
Correction: TypeAlias = Callable[[dict[str, Tensor]], None]


def add_gradient(total: Tensor, loss: Tensor, parameters: Sequence[Tensor], *, again: bool = False) -> Tensor:
    """Add the gradient of ``loss`` to ``total``, flat float32 ``(P,)``, and return it; ``.grad`` stays ``None``.

    Each parameter's gradient is added and freed as the backward pass reaches it: there is never a second copy of all.

    Args:
        again: another gradient of the same forward pass is to follow.
    """

    def move(part: Tensor, parameter: Tensor) -> None:
        assert parameter.grad is not None
        part.add_(local(parameter.grad).flatten().to(part.device))
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
    """Return zeros, float32 ``(P,)``, on the parameters' device; of sharded ones, for this process's part."""
    return torch.zeros(sum(local(p).numel() for p in parameters), device=parameters[0].device)


def flat_weights(parameters: Sequence[Tensor]) -> Tensor:
    """Return the weights as they are, flat float32 ``(P,)``."""
    return torch.cat([p.detach().float().flatten() for p in parameters])


def _denoising(losses: Losses, data: ConceptImages, stream: str, step: int, n: int) -> Tensor:
    """Mean squared error of plain denoising of a batch under its own prompts; the same for every process."""
    index, prompts = losses.batch(stream, step, n, data)
    clean = losses.encoded(data, index)
    generator = randomness.generator(losses.seed, f"{stream}-noise", step)
    noise, timesteps = draw_noise(losses.family, clean, n, slice(None), generator)
    noisy, target = losses.family.noised(clean, noise, timesteps)
    prediction = losses.family.predict(losses.denoiser, noisy, timesteps, losses.condition(prompts))
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
    """What a method may want to know of the base's weights; each is measured once, when it is asked for.

    Attributes:
        current_weights: gives the trained weights as they then are, flat ``(P,)``.
    """

    def __init__(self, losses: Losses, parameters: Sequence[Tensor]):
        self.losses, self.parameters = losses, parameters
        self.current_weights: Callable[[], Tensor] = partial(flat_weights, parameters)

    @cached_property
    def fisher(self) -> tuple[Tensor, Tensor]:
        """Diagonal Fisher information of the forget and of the retain set, each flat ``(P,)``."""
        forget = diagonal_fisher(self.losses, self.losses.forget_set, self.parameters, "forget")
        return forget, diagonal_fisher(self.losses, self.losses.retain_set, self.parameters, "retain")

    def masks(self, settings: Settings) -> list[Correction]:
        """Return what keeps the settings' mask: the gradient of a weight that it holds is zero."""
        masks: dict[str, Tensor] = {}
        if settings.mask == "saliency":
            mask = top_fraction(saliency(self.losses, self.parameters), settings.mask_fraction)
            masks = {"retain": mask, "forget": mask}
        if settings.mask == "fisher_ratio":
            forget, retain = self.fisher
            masks = {"forget": (forget >= retain).float()}

        def multiply(gradients: dict[str, Tensor]) -> None:
            for name, mask in masks.items():
                gradients[name] *= mask

        return [multiply] if masks else []
