"""SISS (arXiv 2503.01034): single pictures deleted with one mixture of both sets, weighted by importance."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from erasediff.unlearning.methods.method import LossFunction, Method

if TYPE_CHECKING:
    from torch import Tensor

    from erasediff.families.family import Family
    from erasediff.unlearning.losses import Losses


class Siss(Method):
    """Both denoising losses from one forward pass; the forget loss is climbed, at a share of the retain gradient."""

    name = "siss"
    forget_weight = -1.0
    fixes = {
        "multiplier": "norm_ratio",
        "norm_ratio": 0.1,
        "forget_target": "truth",
        "forget_source": "forget",
        "retain_target": "noise",
    }

    def active_losses(self, losses: Losses, step: int) -> list[LossFunction]:
        return [partial(mixture, losses)]

    def passes_of_update(self, step: int) -> int:
        """One forward pass of one batch, and a backward pass for each of the two losses."""
        s = self.settings
        return s.forget_batch_size * (1 + 2 * (2 + s.gradient_checkpointing))

    def ignored(self) -> dict[str, str]:
        reason = f"method {self.name}, which draws one batch from both sets under the forgotten concept"
        return super().ignored() | dict.fromkeys(("retain_batch_size", "condition_dropout"), reason)


def mixture(losses: Losses, step: int, part: int = 0) -> dict[str, Tensor]:
    r"""Both losses from one x_t of a retained or a forgotten image, all under the forgotten concept.

    Each has the weight that makes its mean that over its own set's x_t:

    .. math:: w_x = \frac{1}{(1 + e^{d_x - d_a}) / 2}, \quad d_z = \frac{\|x_t - \gamma_t z\|^2}{2\sigma_t^2}

    Source: SISS, arXiv 2503.01034, with λ = ½.
    """
    import torch  # here: methods are named, and params checked, before torch is loaded

    from erasediff import randomness
    from erasediff.training.state import draw_noise, shared_mse

    family, n = losses.family, losses.settings.forget_batch_size
    share = losses.share_of(n, part)
    generator = randomness.generator(losses.seed, "forget-noise", step)
    index, prompts = losses.batch("forget", step, n, losses.forget_set)
    forgotten = losses.encoded(losses.forget_set, index[share])
    retained = losses.encoded(losses.retain_set, losses.batch("retain", step, n, losses.retain_set)[0][share])
    noise, timesteps = draw_noise(family, forgotten, n, share, generator)
    keep = (torch.rand(n, generator=generator) < 0.5)[share].to(losses.device)
    clean = torch.where(keep.view(-1, *[1] * (noise.ndim - 1)), retained, forgotten)
    noisy, _ = family.noised(clean, noise, timesteps)
    prediction = family.predict(losses.denoiser, noisy, timesteps, losses.condition(prompts[share]))
    to_retain, d_retain = explained(family, noisy, retained, timesteps)
    to_forget, d_forget = explained(family, noisy, forgotten, timesteps)
    w_retain, w_forget = mixture_weights(d_retain, d_forget)
    return {
        "retain": shared_mse(prediction, to_retain, n, w_retain),
        "forget": shared_mse(prediction, to_forget, n, w_forget),
    }


def explained(family: Family, noisy: Tensor, clean: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
    """Return the target of the noise that leads from ``clean`` to ``noisy``, and that noise's half squared norm."""
    zeros, ones = clean.new_zeros(clean.shape), clean.new_ones(clean.shape)
    scaled, _ = family.noised(clean, zeros, timesteps)
    sigma, _ = family.noised(zeros, ones, timesteps)
    noise = (noisy - scaled) / sigma
    return family.noised(clean, noise, timesteps)[1], noise.double().flatten(1).square().sum(1) / 2


def mixture_weights(d_retain: Tensor, d_forget: Tensor) -> tuple[Tensor, Tensor]:
    """Return the density of x_t given the retained, and given the forgotten image, over that of their even mixture.

    Args:
        d_retain, d_forget: half squared norm of the noise that leads there from either, ``(B,)``.
    Returns: two tensors ``(B,)`` in [0, 2], which add up to 2.
    """
    retain = 2 * (d_forget - d_retain).sigmoid()
    return retain, 2 - retain
