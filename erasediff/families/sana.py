"""SANA: flow matching, a language model as text encoder, an autoencoder that compresses 32 times."""

from __future__ import annotations

from diffusers import DiffusionPipeline, SanaPipeline
from torch import Tensor, nn

from erasediff.families.family import Condition, DenoiserArguments, ask
from erasediff.families.flow_matching import FlowMatching, flow_shift
from erasediff.families.text_to_image import TextToImage, null_where


class SanaFamily(TextToImage, FlowMatching):
    """The family interface over :class:`diffusers.SanaPipeline`, and whatever is made of its parts.

    Prompts follow the instruction that the pipeline's call puts before them by default; the null prompt has none.
    """

    pipeline_class = SanaPipeline
    denoiser_name = "transformer"
    multiple = 32
    call = {"use_resolution_binning": False}  # the latents given have the network's own size

    def __init__(self, pipeline: DiffusionPipeline, size: tuple[int, int] | None = None):
        super().__init__(pipeline, size)
        _, height, width = self.latent_shape
        self.shift = flow_shift(self.pipeline.scheduler, height * width)
        self.num_timesteps = self.pipeline.scheduler.config.num_train_timesteps

    def encoded(self, prompts: list[str]) -> DenoiserArguments:
        text, mask, null_text, null_mask = self.encode_prompt(
            prompts, do_classifier_free_guidance=True, num_images_per_prompt=1
        )
        return DenoiserArguments(
            {
                "encoder_hidden_states": null_where(prompts, null_text, text),
                "encoder_attention_mask": null_where(prompts, null_mask, mask),
            }
        )

    def predict(self, denoiser: nn.Module, noisy: Tensor, timesteps: Tensor, condition: Condition) -> Tensor:
        moments = timesteps * self.denoiser.config.timestep_scale
        return ask(denoiser, noisy, moments, condition)[:, : noisy.shape[1]]
