"""Stable Diffusion XL: two text encoders, a pooled embedding, and the picture's size as a condition."""

from __future__ import annotations

from diffusers import DiffusionPipeline, StableDiffusionXLPipeline

from erasediff.errors import ModelError
from erasediff.families.family import DenoiserArguments
from erasediff.families.stable_diffusion import StableDiffusionFamily
from erasediff.families.text_to_image import null_where


class StableDiffusionXLFamily(StableDiffusionFamily):
    """The family interface over :class:`diffusers.StableDiffusionXLPipeline`, and whatever is made of its parts.

    The null prompt is what the pipeline guides away from: zeros where ``force_zeros_for_empty_prompt`` says so.
    """

    pipeline_class = StableDiffusionXLPipeline

    def __init__(self, pipeline: DiffusionPipeline, size: tuple[int, int] | None = None):
        if getattr(pipeline, "text_encoder", None) is None or pipeline.config.get("requires_aesthetics_score"):
            raise ModelError("an SDXL refiner only finishes the pictures of a base: erase from the base")
        super().__init__(pipeline, size)

    def encoded(self, prompts: list[str]) -> DenoiserArguments:
        text, null_text, pooled, null_pooled = self.encode_prompt(
            prompts, num_images_per_prompt=1, do_classifier_free_guidance=True
        )
        size = self.image_shape[1:]
        width = self.drawing.text_encoder_2.config.projection_dim
        time_ids = self.drawing._get_add_time_ids(size, (0, 0), size, text.dtype, text_encoder_projection_dim=width)
        added = {
            "text_embeds": null_where(prompts, null_pooled, pooled),
            "time_ids": time_ids.to(text.device).repeat(len(prompts), 1),
        }
        states = null_where(prompts, null_text, text)
        return DenoiserArguments(
            {"encoder_hidden_states": states, "added_cond_kwargs": added, **self.guidance_embedding(len(prompts))}
        )
