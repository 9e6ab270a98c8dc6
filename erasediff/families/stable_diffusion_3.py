"""Stable Diffusion 3 and 3.5: flow matching, up to three text encoders."""

from __future__ import annotations

from diffusers import DiffusionPipeline, StableDiffusion3Pipeline

from erasediff.families.family import DenoiserArguments
from erasediff.families.flow_matching import FlowMatching, flow_shift
from erasediff.families.selections import JOINT_ATTENTION
from erasediff.families.text_to_image import TextToImage, null_where


class StableDiffusion3Family(TextToImage, FlowMatching):
    """The family interface over :class:`diffusers.StableDiffusion3Pipeline`, and whatever is made of its parts."""

    pipeline_class = StableDiffusion3Pipeline
    denoiser_name = "transformer"
    selections = JOINT_ATTENTION

    def __init__(self, pipeline: DiffusionPipeline, size: tuple[int, int] | None = None):
        super().__init__(pipeline, size)
        _, height, width = self.latent_shape
        patch = self.denoiser.config.patch_size
        self.shift = flow_shift(self.pipeline.scheduler, (height // patch) * (width // patch))
        self.num_timesteps = self.pipeline.scheduler.config.num_train_timesteps

    def encoded(self, prompts: list[str]) -> DenoiserArguments:
        text, null_text, pooled, null_pooled = self.encode_prompt(
            prompts, prompt_2=None, prompt_3=None, num_images_per_prompt=1, do_classifier_free_guidance=True
        )
        return DenoiserArguments(
            {
                "encoder_hidden_states": null_where(prompts, null_text, text),
                "pooled_projections": null_where(prompts, null_pooled, pooled),
            }
        )
