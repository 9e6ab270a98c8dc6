"""DiT: a class-conditional transformer in the VAE's latent space, with the classes of ImageNet."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers import DiffusionPipeline, DiTPipeline
from diffusers.models.embeddings import LabelEmbedding
from torch import Tensor, nn

from erasediff.errors import ParamsError, UnknownConcept, shown
from erasediff.families.family import NULL_CONCEPT, Condition, DenoiserArguments, NoiseSchedule, ask, noise_schedule
from erasediff.families.text_to_image import How, TextToImage, built

#: The class that :class:`diffusers.DiTPipeline` guides away from, however many classes there are.
GUIDED_AWAY = 1000


class DiTFamily(TextToImage, NoiseSchedule):
    """The family interface over :class:`diffusers.DiTPipeline`: prompts are names of its classes.

    A class with several names is listed under the first of them; each can be asked for.
    """

    pipeline_class = DiTPipeline
    denoiser_name = "transformer"
    guided_by_prompt = False

    def __init__(self, pipeline: DiffusionPipeline):
        super().__init__(pipeline)
        self.scheduler = noise_schedule(self.pipeline.scheduler)
        for part in self.denoiser.modules():
            if isinstance(part, LabelEmbedding):
                part.dropout_prob = 0.0  # in training it would drop classes at random, by torch's global generator
        self.null_class: int = self.denoiser.config.num_embeds_ada_norm
        if self.null_class != GUIDED_AWAY:
            self.default_guidance_scale = 1.0
        self.labels: dict[str, int] = pipeline.labels or {str(i): i for i in range(self.null_class)}
        first: dict[int, str] = {}
        for name, number in self.labels.items():
            first.setdefault(number, name)
        self.concepts = tuple(first[number] for number in sorted(first))

    def condition(self, prompts: Sequence[str]) -> Condition:
        return DenoiserArguments({"class_labels": torch.tensor(self.classes(prompts), device=self.denoiser.device)})

    def classes(self, prompts: Sequence[str]) -> list[int]:
        """Numbers of the classes. Raises: UnknownConcept."""
        known = {**self.labels, NULL_CONCEPT: self.null_class}
        if unknown := sorted(set(prompts) - set(known)):
            some = shown(", ".join(self.concepts or ()), 200)
            raise UnknownConcept(f"the model does not know {shown(repr(unknown[0]))}; it knows: {some}")
        return [known[prompt] for prompt in prompts]

    def predict(self, denoiser: nn.Module, noisy: Tensor, timesteps: Tensor, condition: Condition) -> Tensor:
        return ask(denoiser, noisy, timesteps, condition)[:, : noisy.shape[1]]

    def pictures(self, prompts: list[str], generators: list[torch.Generator], how: How) -> Tensor:
        if how.guidance_scale > 1 and self.null_class != GUIDED_AWAY:
            raise ParamsError(
                f"guidance_scale {how.guidance_scale}: a DiTPipeline guides away from class {GUIDED_AWAY}, and this "
                f"transformer has its null class at {self.null_class}: give guidance_scale 1"
            )
        drawn = self.drawing(
            self.classes(prompts),
            guidance_scale=how.guidance_scale,
            generator=generators,  # the pipeline draws its first noise from them, as noise_of does
            num_inference_steps=how.steps,
            output_type="pt",
        ).images
        return drawn.float().cpu() * 2 - 1

    def with_denoiser(self, denoiser: nn.Module) -> DiTFamily:
        names: dict[str, str] = {}
        for name, number in self.labels.items():
            names[str(number)] = f"{names[str(number)]}, {name}" if str(number) in names else name
        pipeline = built(type(self.pipeline), self.pipeline, {self.denoiser_name: denoiser, "id2label": names})
        pipeline.register_to_config(id2label=names)  # the pipeline itself does not, and would be saved without names
        return DiTFamily(pipeline)
