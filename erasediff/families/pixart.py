"""PixArt-α and PixArt-Σ: a transformer with cross-attention to T5's embeddings, on a noise schedule."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import DiffusionPipeline, PixArtAlphaPipeline, PixArtSigmaPipeline
from torch import Tensor, nn

from erasediff.errors import ParamsError
from erasediff.families.family import Condition, DenoiserArguments, NoiseSchedule, ask, noise_schedule
from erasediff.families.text_to_image import How, TextToImage, null_where


class PixArtSigmaFamily(TextToImage, NoiseSchedule):
    """The family interface over :class:`diffusers.PixArtSigmaPipeline`, and whatever is made of its parts.

    What the network says of its variance is left out, as the pipeline does.
    """

    pipeline_class: Any = PixArtSigmaPipeline
    denoiser_name = "transformer"
    call = {"use_resolution_binning": False}  # the latents given have the network's own size

    def __init__(self, pipeline: DiffusionPipeline, size: tuple[int, int] | None = None):
        super().__init__(pipeline, size)
        self.scheduler = noise_schedule(self.pipeline.scheduler)

    def encoded(self, prompts: list[str]) -> DenoiserArguments:
        text, mask, null_text, null_mask = self.encode_prompt(
            prompts, do_classifier_free_guidance=True, num_images_per_prompt=1
        )
        states = {
            "encoder_hidden_states": null_where(prompts, null_text, text),
            "encoder_attention_mask": null_where(prompts, null_mask, mask),
        }
        size = self.size_condition(len(prompts))
        return DenoiserArguments(states if size is None else {**states, "added_cond_kwargs": size})

    def size_condition(self, n: int) -> dict[str, Tensor] | None:
        """The picture's size, for a network that is conditioned on it."""
        return None

    def predict(self, denoiser: nn.Module, noisy: Tensor, timesteps: Tensor, condition: Condition) -> Tensor:
        assert isinstance(condition, DenoiserArguments)  # the only kind there is
        sized = "added_cond_kwargs" in condition
        more = {} if sized else {"added_cond_kwargs": {"resolution": None, "aspect_ratio": None}}
        return ask(denoiser, noisy, timesteps, condition, **more)[:, : noisy.shape[1]]


class PixArtAlphaFamily(PixArtSigmaFamily):
    """The family interface over :class:`diffusers.PixArtAlphaPipeline`."""

    pipeline_class: Any = PixArtAlphaPipeline

    def drawn(self, prompts: list[str], noise: Tensor, generators: list[torch.Generator], how: How) -> Tensor:
        try:
            return super().drawn(prompts, noise, generators, how)
        except IndexError:  # in one step its call reads the picture that a sampler predicts, which some do not give
            if how.steps > 1:
                raise
            name = type(self.drawing.scheduler).__name__
            raise ParamsError(
                f"a {name} does not draw this model in 1 step: give 2, or sampler DDIMScheduler"
            ) from None

    def size_condition(self, n: int) -> dict[str, Tensor] | None:
        if self.denoiser.config.sample_size != 128:
            return None
        _, height, width = self.image_shape
        size = torch.tensor([[float(height), float(width)]]).repeat(n, 1)
        return {"resolution": size, "aspect_ratio": torch.tensor([[height / width]]).repeat(n, 1)}
