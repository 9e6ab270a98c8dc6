"""Stable Diffusion: any prompt, noise in the VAE's latent space."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor, nn

from erasediff.families.family import Condition, DenoiserArguments, NoiseSchedule, initial_noise, noise_schedule


class StableDiffusionFamily(NoiseSchedule):
    """The family interface over a stock :class:`diffusers.StableDiffusionPipeline`.

    ``encode`` gives the mean of the VAE's posterior times its scaling factor: the same picture always gives the same
    latents, so that they can be computed once.
    """

    has_null = True
    default_steps, default_guidance_scale = 50, 7.5  # those of StableDiffusionPipeline.__call__
    concepts: tuple[str, ...] | None = None

    def __init__(self, pipeline: StableDiffusionPipeline):
        self.pipeline = pipeline
        self.denoiser: nn.Module = pipeline.unet
        self.scheduler = noise_schedule(pipeline.scheduler)
        side = pipeline.unet.config.sample_size * pipeline.vae_scale_factor
        self.image_shape = (pipeline.vae.config.in_channels, side, side)

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        vae = self.pipeline.vae
        latents = vae.encode(images.to(vae.device, vae.dtype)).latent_dist.mean.float() * vae.config.scaling_factor
        return latents.to(self.denoiser.device)

    @torch.no_grad()  # encode_prompt is not under no_grad by itself
    def condition(self, prompts: Sequence[str]) -> Condition:
        unique = sorted(set(prompts))
        where = self.pipeline.text_encoder.device
        embeddings, _ = self.pipeline.encode_prompt(unique, where, 1, do_classifier_free_guidance=False)
        index = torch.tensor([unique.index(p) for p in prompts], device=where)
        return DenoiserArguments({"encoder_hidden_states": embeddings[index].to(self.denoiser.device)})

    def sample(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        *,
        steps: int | None = None,
        guidance_scale: float | None = None,
        batch_size: int = 8,
    ) -> Tensor:
        self.pipeline.set_progress_bar_config(disable=True)
        unet = self.pipeline.unet
        shape = (unet.config.in_channels, unet.config.sample_size, unet.config.sample_size)
        parts = []
        for i in range(0, len(prompts), batch_size):
            latents = initial_noise(shape, seeds[i : i + batch_size]).to(unet.device, unet.dtype)
            images = self.pipeline(
                list(prompts[i : i + batch_size]),
                num_inference_steps=self.default_steps if steps is None else steps,
                guidance_scale=self.default_guidance_scale if guidance_scale is None else guidance_scale,
                latents=latents,  # the pipeline multiplies by init_noise_sigma itself
                output_type="pt",
            ).images
            parts.append((images.float().cpu() * 2 - 1).clamp(-1, 1))
        return torch.cat(parts)

    def with_denoiser(self, denoiser: nn.Module) -> StableDiffusionFamily:
        components = {**self.pipeline.components, "unet": denoiser}
        pipeline = StableDiffusionPipeline(
            **components, requires_safety_checker=self.pipeline.safety_checker is not None
        )
        return StableDiffusionFamily(pipeline)
