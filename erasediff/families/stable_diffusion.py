"""Stable Diffusion 1.x and 2.x: any prompt, noise in the VAE's latent space."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import DiffusionPipeline, SchedulerMixin, StableDiffusionPipeline
from torch import Tensor

from erasediff.errors import ModelError
from erasediff.families.family import DenoiserArguments, NoiseSchedule, noise_schedule
from erasediff.families.text_to_image import TextToImage

#: Steps of a model that was distilled to few (SD-Turbo, SDXL-Turbo, Lightning); it is guided by nothing.
FEW_STEPS = 4


def draws_in_few_steps(scheduler: SchedulerMixin) -> bool:
    """True if a model's own sampler is that of Turbo and its like: Euler, its steps counted from the noisiest one.

    Models of zero terminal SNR count so too, and say so otherwise.
    """
    config: Any = scheduler.config
    other = config.get("rescale_betas_zero_snr") or config.get("prediction_type") == "v_prediction"
    return type(scheduler).__name__.startswith("Euler") and config.get("timestep_spacing") == "trailing" and not other


class StableDiffusionFamily(TextToImage, NoiseSchedule):
    """The family interface over :class:`diffusers.StableDiffusionPipeline`, and whatever is made of its parts."""

    pipeline_class = StableDiffusionPipeline

    def __init__(self, pipeline: DiffusionPipeline, size: tuple[int, int] | None = None):
        super().__init__(pipeline, size)
        self.scheduler = noise_schedule(self.pipeline.scheduler)
        if draws_in_few_steps(self.pipeline.scheduler):
            self.default_steps, self.default_guidance_scale = FEW_STEPS, 1.0
        if self.denoiser.config.get("encoder_hid_dim_type") is not None:
            raise ModelError("the UNet takes a picture beside the prompt (an IP adapter): unload_ip_adapter() first")

    def encoded(self, prompts: list[str]) -> DenoiserArguments:
        embeddings, _ = self.encode_prompt(prompts, num_images_per_prompt=1, do_classifier_free_guidance=False)
        return DenoiserArguments({"encoder_hidden_states": embeddings, **self.guidance_embedding(len(prompts))})

    def guidance_embedding(self, n: int) -> dict[str, Tensor]:
        """The default guidance, for a UNet that takes it as an input (a latent consistency model); else nothing."""
        width: Any = self.denoiser.config.time_cond_proj_dim
        if width is None:
            return {}
        scales = torch.tensor(self.default_guidance_scale - 1).repeat(n)
        return {"timestep_cond": self.drawing.get_guidance_scale_embedding(scales, embedding_dim=width)}
