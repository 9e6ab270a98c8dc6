"""SANA-Sprint: SANA distilled to one to four steps; guidance is an input of the network."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from diffusers import DiffusionPipeline, SanaSprintPipeline
from torch import Tensor, nn

from erasediff.errors import ModelError
from erasediff.families.family import Condition, DenoiserArguments, ask
from erasediff.families.flow_matching import FlowMatching
from erasediff.families.text_to_image import How, TextToImage, call_default

#: Share of timesteps that are the noisiest one, from which every picture starts.
AT_THE_START = 0.5


class SanaSprintFamily(TextToImage, FlowMatching):
    r"""The family interface over :class:`diffusers.SanaSprintPipeline`, and its sister that draws from a picture.

    Its sampler counts along a circle, :math:`x_t = \cos t\,x_0 + \sin t\,\epsilon`. What the network itself takes and
    gives is a flow: with :math:`\sigma = \sin t / (\sin t + \cos t)` its input is
    :math:`(1 - \sigma)\,x_0 + \sigma\,\epsilon`, its timestep :math:`\sigma`, and its output the velocity. So it is
    trained as one; a target that its own predictions are made of keeps it distilled, one of noise does not.

    Source: SANA-Sprint, arXiv 2503.09641, section 3.1 (the same network in both coordinates). Deviation: timesteps are
    logit-normal, but for a share at the noisiest one.
    """

    pipeline_class = SanaSprintPipeline
    denoiser_name = "transformer"
    multiple = 32
    guided_by_prompt = False
    shift, num_timesteps = 1.0, 1000

    def __init__(self, pipeline: DiffusionPipeline, size: tuple[int, int] | None = None):
        super().__init__(pipeline, size)
        if (name := type(self.pipeline.scheduler).__name__) != "SCMScheduler":
            raise ModelError(f"a {name} does not sample a SANA-Sprint: use SCMScheduler")
        if not self.denoiser.config.guidance_embeds:
            raise ModelError("the transformer takes no guidance: it is a SANA, and no SANA-Sprint; use SanaPipeline")

    def timesteps(self, n: int, generator: torch.Generator) -> Tensor:
        drawn = super().timesteps(n, generator)
        return torch.where(torch.rand(n, generator=generator) < AT_THE_START, float(self.num_timesteps), drawn)

    def encoded(self, prompts: list[str]) -> DenoiserArguments:
        text, mask = self.encode_prompt(prompts, num_images_per_prompt=1)
        guidance = torch.full((len(prompts),), float(self.default_guidance_scale), device=text.device)
        scaled = guidance * self.denoiser.config.guidance_embeds_scale
        return DenoiserArguments({"encoder_hidden_states": text, "encoder_attention_mask": mask, "guidance": scaled})

    def predict(self, denoiser: nn.Module, noisy: Tensor, timesteps: Tensor, condition: Condition) -> Tensor:
        return ask(denoiser, noisy, timesteps / self.num_timesteps, condition)

    def call_with(self, how: How) -> Mapping[str, object]:
        """The step in between is known of two steps alone."""
        between = call_default(self.drawing, "intermediate_timesteps") if how.steps == 2 else None
        return {"use_resolution_binning": False, "intermediate_timesteps": between}
