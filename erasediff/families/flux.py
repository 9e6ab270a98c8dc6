"""FLUX.1: flow matching on packed latents; guidance is an input of the network."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import DiffusionPipeline, FluxPipeline
from torch import Tensor, nn

from erasediff.errors import ModelError
from erasediff.families.family import Condition, DenoiserArguments, ask
from erasediff.families.flow_matching import FlowMatching, flow_shift
from erasediff.families.selections import JOINT_ATTENTION
from erasediff.families.text_to_image import How, TextToImage

#: Steps of FLUX.1-schnell, which takes no guidance and samples without a shift.
SCHNELL_STEPS = 4


class FluxFamily(TextToImage, FlowMatching):
    """The family interface over :class:`diffusers.FluxPipeline`, and whatever is made of its parts.

    Latents are ``(B, C, H, W)`` here, and packed where the transformer sees them. A network that takes the guidance as
    an input (FLUX.1-dev) is trained at the one it draws with by default.
    """

    pipeline_class = FluxPipeline
    denoiser_name = "transformer"
    guided_by_prompt = False
    selections = JOINT_ATTENTION

    def __init__(self, pipeline: DiffusionPipeline, size: tuple[int, int] | None = None):
        super().__init__(pipeline, size)
        dynamic = self.pipeline.scheduler.config.get("use_dynamic_shifting")
        if not (self.denoiser.config.guidance_embeds or dynamic):
            self.default_steps = SCHNELL_STEPS
        _, height, width = self.latent_shape
        self.shift = flow_shift(self.pipeline.scheduler, (height // 2) * (width // 2))
        self.num_timesteps = self.pipeline.scheduler.config.num_train_timesteps

    def _latent_channels(self) -> int:
        taken, given = self.denoiser.config.in_channels, self.encoder.config.latent_channels
        if taken != 4 * given:
            raise ModelError(
                f"the transformer takes {taken} channels, packed latents have {4 * given}: one that takes a picture "
                "too (fill, control) cannot be asked by a prompt alone; erase from the model it came from"
            )
        return given

    def _latent_size(self) -> tuple[int, int]:
        """As large as the VAE's pictures: the transformer has no size of its own."""
        side = 2 * (self._picture_side() // (2 * self.scale))
        return side, side

    @property
    def patch(self) -> int:
        """That of packing."""
        return 2

    def encoded(self, prompts: list[str]) -> DenoiserArguments:
        text, pooled, _ = self.encode_prompt(prompts, prompt_2=None, num_images_per_prompt=1)
        batched = {"encoder_hidden_states": text, "pooled_projections": pooled}
        if self.denoiser.config.guidance_embeds:
            batched["guidance"] = torch.full((len(prompts),), float(self.default_guidance_scale), device=text.device)
        return DenoiserArguments(batched)

    def predict(self, denoiser: nn.Module, noisy: Tensor, timesteps: Tensor, condition: Condition) -> Tensor:
        n, _, height, width = noisy.shape
        ids = self.drawing._prepare_latent_image_ids(n, height // 2, width // 2, noisy.device, noisy.dtype)
        some: Any = next(denoiser.parameters())
        moments = (timesteps / 1000).to(some)  # the network multiplies by 1000
        text_ids = some.new_zeros(self.text_length(condition), 3)  # text has no place, as in encode_prompt
        more = {"img_ids": ids.to(some), "txt_ids": text_ids}
        velocity = ask(denoiser, self.packed(noisy), moments, condition, **more)
        return self.unpacked(velocity, height, width)

    def text_length(self, condition: Condition) -> int:
        """Tokens of a prompt."""
        assert isinstance(condition, DenoiserArguments)  # the only kind there is
        text = condition["encoder_hidden_states"]
        assert isinstance(text, Tensor)
        return text.shape[1]

    def packed(self, latents: Tensor) -> Tensor:
        """``(B, C, H, W)`` to ``(B, H/2 · W/2, 4C)``: patches of 2×2."""
        return self.drawing._pack_latents(latents, *latents.shape)

    def unpacked(self, latents: Tensor, height: int, width: int) -> Tensor:
        """The reverse of :meth:`packed`."""
        return self.drawing._unpack_latents(latents, height * self.scale, width * self.scale, self.scale)

    def drawn(self, prompts: list[str], noise: Tensor, generators: list[torch.Generator], how: How) -> Tensor:
        latents = super().drawn(prompts, self.packed(noise), generators, how)
        return self.unpacked(latents, *noise.shape[2:])
