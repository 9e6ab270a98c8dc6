"""Flow matching: pictures are noised along straight lines, and the denoiser predicts the velocity."""

from __future__ import annotations

import math
from typing import Any

import torch
from diffusers import SchedulerMixin
from torch import Tensor, nn

from erasediff.errors import ModelError
from erasediff.families.family import Condition, ask


class FlowMatching:
    r"""Noising of rectified flow, shared by families of transformers.

    .. math:: x_t = (1 - \sigma)\,x_0 + \sigma\,\epsilon, \qquad v = \epsilon - x_0, \qquad t = T\sigma

    Attributes:
        shift: how far timesteps are moved towards noise, as the scheduler moves them when it samples; 1: not at all.

    Source: SD 3, arXiv 2403.03206, section 2; timesteps: section 3.1 (logit-normal) and 5.3.2 (shift).
    """

    conditional = True
    shift: float
    num_timesteps: int

    def timesteps(self, n: int, generator: torch.Generator) -> Tensor:
        """Logit-normal float32 timesteps in (0, T), shifted as in sampling, shape ``(n,)``."""
        sigmas = torch.sigmoid(torch.randn(n, generator=generator))
        return self.num_timesteps * self.shift * sigmas / (1 + (self.shift - 1) * sigmas)

    def noised(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """x_t and the velocity."""
        sigmas = (timesteps.to(clean) / self.num_timesteps).view(-1, *[1] * (clean.ndim - 1))
        return (1 - sigmas) * clean + sigmas * noise, noise - clean

    def predict(self, denoiser: nn.Module, noisy: Tensor, timesteps: Tensor, condition: Condition) -> Tensor:
        """The denoiser's output under a condition."""
        return ask(denoiser, noisy, timesteps, condition)


def flow_shift(scheduler: SchedulerMixin, tokens: int) -> float:
    """The shift that a scheduler samples with: its own, or the one that goes with a picture's size.

    Args:
        tokens: patches of a picture, as the transformer sees them.

    Raises: ModelError: the scheduler samples no flow.
    """
    config: Any = scheduler.config
    name = type(scheduler).__name__
    if name.startswith("FlowMatch"):
        return _dynamic_shift(config, tokens) if config.get("use_dynamic_shifting") else float(config.shift)
    if config.get("use_flow_sigmas") and config.get("prediction_type") == "flow_prediction":
        return float(config.flow_shift)
    raise ModelError(
        f"a {name} does not sample a flow, which this model was trained on: use FlowMatchEulerDiscreteScheduler"
    )


def _dynamic_shift(config: Any, tokens: int) -> float:
    """e^mu, or mu itself, with mu linear in the number of tokens, as pipelines compute it (``calculate_shift``)."""
    few, many = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    low, high = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
    mu = low + (high - low) * (tokens - few) / (many - few)
    return mu if config.get("time_shift_type", "exponential") == "linear" else math.exp(mu)
