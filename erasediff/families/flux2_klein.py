"""FLUX.2 klein: flow matching on patches of normalised latents; a language model as text encoder."""

from __future__ import annotations

import math
from typing import Any

import torch
from diffusers import DiffusionPipeline, Flux2KleinPipeline
from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu
from torch import Tensor, nn

from erasediff.families.family import Condition, DenoiserArguments, ask, noise_of
from erasediff.families.flow_matching import FlowMatching, flow_shift
from erasediff.families.selections import JOINT_ATTENTION
from erasediff.families.text_to_image import How, TextToImage, upcast

#: How a distilled model draws; the pipeline's own defaults are those of the base.
DISTILLED_STEPS = 4


class Flux2KleinFamily(TextToImage, FlowMatching):
    """The family interface over :class:`diffusers.Flux2KleinPipeline`, and whatever is made of its parts.

    What is noised are patches of 2×2 latents, normalised as the VAE's batch norm says: ``(B, 4C, H/2, W/2)``.
    """

    pipeline_class = Flux2KleinPipeline
    denoiser_name = "transformer"
    guided_by_prompt = False
    selections = JOINT_ATTENTION

    def __init__(self, pipeline: DiffusionPipeline, size: tuple[int, int] | None = None):
        super().__init__(pipeline, size)
        if self.drawing.config.is_distilled:
            self.default_steps, self.default_guidance_scale = DISTILLED_STEPS, 1.0
        _, height, width = self.latent_shape
        self.num_timesteps = self.pipeline.scheduler.config.num_train_timesteps
        self.shift = flow_shift(self.pipeline.scheduler, height * width)
        if self.pipeline.scheduler.config.get("use_dynamic_shifting"):
            self.shift = math.exp(compute_empirical_mu(height * width, self.default_steps))

    @property
    def pixels(self) -> int:
        """A patch is what is noised."""
        return 2 * self.scale

    def _latent_channels(self) -> int:
        taken: int = self.denoiser.config.in_channels
        return taken

    def _latent_size(self) -> tuple[int, int]:
        """As large as the VAE's pictures: the transformer has no size of its own."""
        side = self._picture_side() // self.pixels
        return side, side

    def _normalisation(self, like: Tensor) -> tuple[Tensor, Tensor]:
        norm, eps = self.encoder.bn, self.encoder.config.batch_norm_eps
        mean, variance = norm.running_mean.view(1, -1, 1, 1), norm.running_var.view(1, -1, 1, 1)
        return mean.to(like), torch.sqrt(variance + eps).to(like)

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        with upcast(self.encoder):
            latents = self.encoder.encode(images.to(self.encoder.device, self.encoder.dtype)).latent_dist.mode()
        patches = self.drawing._patchify_latents(latents.float())
        mean, deviation = self._normalisation(patches)
        normalised: Tensor = (patches - mean) / deviation
        return normalised.to(self.denoiser.device)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        mean, deviation = self._normalisation(latents.to(self.encoder.device))
        patches = latents.to(self.encoder.device) * deviation + mean
        return self._pixels(self.drawing._unpatchify_latents(patches))

    def _pixels(self, latents: Tensor) -> Tensor:
        with upcast(self.encoder):
            pixels = self.encoder.decode(latents.to(self.encoder.device, self.encoder.dtype), return_dict=False)[0]
        return pixels.float().clamp(-1, 1).cpu()

    def encoded(self, prompts: list[str]) -> DenoiserArguments:
        text, text_ids = self.encode_prompt(prompts, num_images_per_prompt=1)
        return DenoiserArguments({"encoder_hidden_states": text, "txt_ids": text_ids})

    def predict(self, denoiser: nn.Module, noisy: Tensor, timesteps: Tensor, condition: Condition) -> Tensor:
        some: Any = next(denoiser.parameters())
        ids = self.drawing._prepare_latent_ids(noisy).to(some.device)
        moments = (timesteps / 1000).to(some)  # the network multiplies by 1000
        velocity = ask(denoiser, self.drawing._pack_latents(noisy), moments, condition, img_ids=ids, guidance=None)
        return self.unpacked(velocity, *noisy.shape[2:])

    def unpacked(self, tokens: Tensor, height: int, width: int) -> Tensor:
        """``(B, H · W, C)``, as the transformer sees it, to ``(B, C, H, W)``."""
        return tokens.transpose(1, 2).unflatten(2, (height, width))

    @torch.no_grad()
    def pictures(self, prompts: list[str], generators: list[torch.Generator], how: How) -> Tensor:
        noise = noise_of(self.latent_shape, generators).to(self.denoiser.device, self.denoiser.dtype)
        return self._pixels(self.drawn(prompts, noise, generators, how))  # the call undoes patches and normalisation
