"""What the rest of the product knows about a diffusion model: the family interface."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias

import torch
from diffusers import DDPMScheduler
from torch import Tensor, nn

#: What a denoiser is conditioned on: batch-first tensors by the name of the denoiser's argument.
Condition: TypeAlias = dict[str, Tensor]

#: The concept that stands for "no condition".
NULL_CONCEPT = ""


class Family(Protocol):
    """One kind of diffusion model. Methods see concepts and tensors, never labels or prompts.

    Attributes:
        pipeline: the diffusers pipeline that is wrapped.
        denoiser: the network that erasing trains.
        concepts: names the model knows, or ``None`` where any prompt is a concept.
        conditional: whether it can be asked for anything at all.
        has_null: whether the null concept ``""`` can be asked for (needed for guidance).
        image_shape: ``(channels, height, width)`` of the images it takes and draws.
        num_timesteps: T; timesteps are in ``[0, T)``.
    """

    pipeline: Any
    denoiser: nn.Module
    concepts: tuple[str, ...] | None
    conditional: bool
    has_null: bool
    image_shape: tuple[int, int, int]

    @property
    def num_timesteps(self) -> int: ...

    def encode(self, images: Tensor) -> Tensor:
        """Pixels ``(B, C, H, W)`` in [-1, 1] to what is noised."""

    def condition(self, concepts: Sequence[str]) -> Condition:
        """Class names or prompts, one a sample, to batch-first tensors."""

    def timesteps(self, n: int, generator: torch.Generator) -> Tensor:
        """``n`` timesteps as they are drawn in training, on the CPU."""

    def noised(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """``(noisy, target)``: x_t and what the denoiser should predict for it."""

    def predict(self, denoiser: nn.Module, noisy: Tensor, timesteps: Tensor, condition: Condition) -> Tensor:
        """The denoiser's prediction, of the shape of ``noisy``."""

    def sample(
        self, concepts: Sequence[str], seeds: Sequence[int], *, steps: int, guidance_scale: float, batch_size: int = 100
    ) -> Tensor:
        """One image a concept, ``(B, C, H, W)`` float32 in [-1, 1] on the CPU, each from its own seed."""

    def with_denoiser(self, denoiser: nn.Module) -> Family:
        """The same model around another denoiser; nothing is copied."""


class NoiseSchedule:
    """Discrete-time noising by a diffusers scheduler's betas (DDPM, arXiv 2006.11239, eq. 4).

    Whatever scheduler a pipeline samples with, training noises with ``DDPMScheduler`` made from its config:
    other schedulers' ``add_noise`` differ, and some lack ``get_velocity``.
    """

    scheduler: DDPMScheduler
    conditional = True

    @property
    def num_timesteps(self) -> int:
        """T of the schedule."""
        return self.scheduler.config.num_train_timesteps

    def timesteps(self, n: int, generator: torch.Generator) -> Tensor:
        """Uniform int64 timesteps in ``[0, T)``, shape ``(n,)``."""
        return torch.randint(0, self.num_timesteps, (n,), generator=generator)

    def noised(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """x_t = sqrt(ᾱ_t) x₀ + sqrt(1 − ᾱ_t) ε, and the target of the scheduler's ``prediction_type``."""
        noisy = self.scheduler.add_noise(clean, noise, timesteps)
        kind = self.scheduler.config.prediction_type
        if kind == "epsilon":
            return noisy, noise
        if kind == "v_prediction":
            return noisy, self.scheduler.get_velocity(clean, noise, timesteps)
        if kind == "sample":
            return noisy, clean
        raise ValueError(f"prediction_type {kind!r} is none of epsilon, v_prediction, sample")


def rows(condition: Condition, start: int, stop: int) -> Condition:
    """The samples ``start:stop`` of a condition."""
    return {name: tensor[start:stop] for name, tensor in condition.items()}


def initial_noise(shape: Sequence[int], seeds: Sequence[int]) -> Tensor:
    """Standard normal noise ``(len(seeds), *shape)`` on the CPU, each image from its own seed.

    An image then does not depend on the batch it was drawn in, nor on the device.
    """
    return torch.stack([torch.randn(tuple(shape), generator=torch.Generator().manual_seed(s)) for s in seeds])


def image_shape(unet: Any) -> tuple[int, int, int]:
    """``(channels, height, width)`` of the images that a pixel UNet takes."""
    size = unet.config.sample_size
    height, width = (size, size) if isinstance(size, int) else size
    return unet.config.in_channels, height, width
