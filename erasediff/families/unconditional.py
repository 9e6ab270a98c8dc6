"""Unconditional pixel diffusion: a ``UNet2DModel`` in diffusers' own ``DDPMPipeline`` or ``DDIMPipeline``."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from diffusers import DDPMPipeline
from torch import Tensor, nn

from erasediff.families.family import (
    Condition,
    DenoiserArguments,
    NoiseSchedule,
    check_drawing,
    check_pixel_unet,
    generators_of,
    image_shape,
    noise_of,
    noise_schedule,
)
from erasediff.families.samplers import require_no_negative, sampled_by
from erasediff.families.weights import widened


class UnconditionalFamily(NoiseSchedule):
    """The family interface over a model that cannot be asked for anything: every prompt means the same to it.

    What it can forget are single pictures, by a method whose forget target needs no concept.
    """

    conditional, has_null = False, False
    default_steps, default_guidance_scale = 25, 1.0
    concepts: tuple[str, ...] | None = None

    def __init__(self, pipeline: DDPMPipeline):
        self.pipeline = pipeline
        self.denoiser: nn.Module = pipeline.unet
        check_pixel_unet(pipeline.unet)
        self.scheduler = noise_schedule(pipeline.scheduler)
        self.image_shape = image_shape(pipeline.unet)

    def encode(self, images: Tensor) -> Tensor:
        return images

    def condition(self, prompts: Sequence[str]) -> Condition:
        return DenoiserArguments()

    @torch.no_grad()
    def sample(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        *,
        steps: int | None = None,
        guidance_scale: float | None = None,
        batch_size: int = 100,
        negative_prompt: str | None = None,
        sampler: str | None = None,
    ) -> Tensor:
        require_no_negative(negative_prompt, "an unconditional model")
        unet = self.pipeline.unet.eval()
        steps = self.default_steps if steps is None else steps
        check_drawing(seeds, steps, self.num_timesteps, 1.0)
        parts = []
        with widened(self.pipeline), sampled_by(self.pipeline, sampler or "DDIMScheduler"):
            scheduler: Any = self.pipeline.scheduler
            takes_generator = "generator" in inspect.signature(scheduler.step).parameters
            for i in range(0, len(seeds), batch_size):
                generators = generators_of(seeds[i : i + batch_size])
                random = {"generator": generators} if takes_generator else {}
                scheduler.set_timesteps(steps)
                noise = noise_of(self.image_shape, generators).to(unet.device, unet.dtype)
                images = noise * scheduler.init_noise_sigma
                for t in scheduler.timesteps:
                    output = unet(scheduler.scale_model_input(images, t), t).sample
                    images = scheduler.step(output, t, images, **random).prev_sample
                parts.append(images.float().clamp(-1, 1).cpu())
        return torch.cat(parts)

    def with_denoiser(self, denoiser: nn.Module) -> UnconditionalFamily:
        return UnconditionalFamily(type(self.pipeline)(denoiser, self.pipeline.scheduler))
