"""Class-conditional pixel diffusion: a ``UNet2DModel`` whose class embeddings are concepts with names."""

from __future__ import annotations

import inspect
import json
from collections.abc import Sequence

import torch
from diffusers import DDIMScheduler, DiffusionPipeline, UNet2DModel
from diffusers.pipelines.pipeline_utils import ImagePipelineOutput
from torch import Tensor, nn

from erasediff.errors import ModelError, UnknownConcept, shown
from erasediff.families.family import (
    NULL_CONCEPT,
    Condition,
    DenoiserArguments,
    NoiseSchedule,
    check_drawing,
    check_pixel_unet,
    generators_of,
    image_shape,
    noise_of,
    noise_schedule,
)
from erasediff.families.samplers import require_no_negative, sampled_by
from erasediff.families.weights import widened

#: How these models are sampled where nobody says how.
DEFAULT_STEPS, DEFAULT_GUIDANCE_SCALE = 25, 1.0


class ClassConditionalPipeline(DiffusionPipeline):
    """Draws images of named classes (diffusers has no stock pipeline for a class-conditional ``UNet2DModel``).

    Args:
        unet: ``UNet2DModel`` with ``num_class_embeds`` equal to the number of concepts, or one more:
            the last embedding is then the null class that guidance needs.
        scheduler: any diffusers scheduler.
        concepts: class names in the order of their embeddings; saved in ``model_index.json``.
    """

    model_cpu_offload_seq = "unet"

    def __init__(self, unet: UNet2DModel, scheduler: DDIMScheduler, concepts: Sequence[str] = ()):
        super().__init__()
        if isinstance(concepts, str) or not isinstance(concepts, Sequence):
            raise ModelError(f"concepts are {shown(concepts)}: give a list of names")
        self.register_modules(unet=unet, scheduler=scheduler)
        # One JSON text: diffusers takes a list in model_index.json for a component's [library, class], and an
        # attribute of its own name for a component.
        self.register_to_config(concepts=json.dumps(list(concepts), ensure_ascii=False))
        odd = next((c for c in concepts if not isinstance(c, str) or not c), None)
        if odd is not None or len(set(concepts)) != len(concepts):
            raise ModelError(f"concepts {shown(list(concepts))} are no texts, each different and not empty")
        embeddings = unet.config.num_class_embeds
        if embeddings not in (len(concepts), len(concepts) + 1):
            raise ModelError(
                f"the UNet has {embeddings} class embeddings but there are {len(concepts)} concepts: "
                f"it needs {len(concepts)}, or {len(concepts) + 1} with a null class for guidance"
            )

    @property
    def names(self) -> tuple[str, ...]:
        """Class names in the order of their embeddings."""
        return tuple(json.loads(self.config.concepts))

    @property
    def null_index(self) -> int | None:
        """Index of the null class, or ``None`` where the model was trained without one."""
        n = len(self.names)
        return n if self.unet.config.num_class_embeds == n + 1 else None

    def class_labels(self, concepts: Sequence[str]) -> Tensor:
        """Class indices ``(B,)`` int64 on the UNet's device. Raises: UnknownConcept."""
        index = {name: i for i, name in enumerate(self.names)}
        if self.null_index is not None:
            index[NULL_CONCEPT] = self.null_index
        unknown = sorted({c for c in concepts if c not in index})
        if unknown:
            known = ", ".join(self.names)
            raise UnknownConcept(f"the model does not know {', '.join(map(repr, unknown))}; it knows: {known}")
        return torch.tensor([index[c] for c in concepts], device=self.unet.device)

    @torch.no_grad()
    def __call__(
        self,
        concepts: str | Sequence[str],
        num_inference_steps: int = DEFAULT_STEPS,
        guidance_scale: float = DEFAULT_GUIDANCE_SCALE,
        seeds: Sequence[int] | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
    ):
        """One image a concept.

        Args:
            concepts: class names, one an image.
            guidance_scale: w in ε = ε(∅) + w (ε(c) − ε(∅)) (arXiv 2207.12598); 1 is no guidance.
            seeds: one an image; ``0, 1, 2, …`` by default.
            output_type: ``"pil"``, or ``"pt"`` for a float32 tensor in [-1, 1].
        """
        concepts = [concepts] if isinstance(concepts, str) else list(concepts)
        labels = self.class_labels(concepts)
        guided = guidance_scale != 1.0
        if guided and self.null_index is None:
            raise ModelError(f"guidance_scale {guidance_scale} needs a null class, which this model lacks: use 1.0")
        size = self.unet.config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        seeds = range(len(concepts)) if seeds is None else seeds
        generators = generators_of(seeds)
        noise = noise_of((self.unet.config.in_channels, height, width), generators)
        self.scheduler.set_timesteps(num_inference_steps)
        images = noise.to(self.unet.device, self.unet.dtype) * self.scheduler.init_noise_sigma
        if guided:
            labels = torch.cat([torch.full_like(labels, self.null_index), labels])
        takes_generator = "generator" in inspect.signature(self.scheduler.step).parameters
        random = {"generator": generators} if takes_generator else {}
        for t in self.progress_bar(self.scheduler.timesteps):
            inputs = self.scheduler.scale_model_input(images, t)
            output = self.unet(torch.cat([inputs, inputs]) if guided else inputs, t, class_labels=labels).sample
            if guided:
                null, output = output.chunk(2)
                output = null + guidance_scale * (output - null)
            images = self.scheduler.step(output, t, images, **random).prev_sample
        images = images.float().clamp(-1, 1).cpu()
        if output_type != "pt":
            pixels = ((images + 1) / 2).permute(0, 2, 3, 1).numpy()
            images = self.numpy_to_pil(pixels)
        return ImagePipelineOutput(images=images) if return_dict else (images,)


class ClassConditionalFamily(NoiseSchedule):
    """The family interface over a :class:`ClassConditionalPipeline`. ``encode`` is the identity."""

    default_steps, default_guidance_scale = DEFAULT_STEPS, DEFAULT_GUIDANCE_SCALE

    def __init__(self, pipeline: ClassConditionalPipeline):
        self.pipeline = pipeline
        self.denoiser: nn.Module = pipeline.unet
        check_pixel_unet(pipeline.unet)
        self.scheduler = noise_schedule(pipeline.scheduler)
        self.concepts: tuple[str, ...] | None = pipeline.names
        self.has_null = pipeline.null_index is not None
        self.image_shape = image_shape(pipeline.unet)

    def encode(self, images: Tensor) -> Tensor:
        return images

    def condition(self, prompts: Sequence[str]) -> Condition:
        return DenoiserArguments({"class_labels": self.pipeline.class_labels(prompts)})

    def sample(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        *,
        steps: int | None = None,
        guidance_scale: float | None = None,
        batch_size: int = 100,
        negative_prompt: str | None = None,
        sampler: str | None = None,
    ) -> Tensor:
        require_no_negative(negative_prompt, "a model of classes")
        self.pipeline.unet.eval()
        self.pipeline.set_progress_bar_config(disable=True)
        steps = self.default_steps if steps is None else steps
        guidance_scale = self.default_guidance_scale if guidance_scale is None else guidance_scale
        check_drawing(seeds, steps, self.num_timesteps, guidance_scale)
        parts = []
        with widened(self.pipeline), sampled_by(self.pipeline, sampler):
            for i in range(0, len(prompts), batch_size):
                asked, own = prompts[i : i + batch_size], seeds[i : i + batch_size]
                parts.append(self.pipeline(asked, steps, guidance_scale, own, output_type="pt").images)
        return torch.cat(parts)

    def with_denoiser(self, denoiser: nn.Module) -> ClassConditionalFamily:
        return ClassConditionalFamily(ClassConditionalPipeline(denoiser, self.pipeline.scheduler, self.pipeline.names))


def build_pipeline(
    concepts: Sequence[str],
    image_shape: tuple[int, int, int],
    *,
    block_out_channels: Sequence[int] = (32, 64),
    layers_per_block: int = 2,
    attention: Sequence[bool] = (False, True),
    attention_head_dim: int = 8,
    norm_num_groups: int = 8,
    num_train_timesteps: int = 1000,
    beta_schedule: str = "squaredcos_cap_v2",
    prediction_type: str = "epsilon",
    seed: int = 0,
) -> ClassConditionalPipeline:
    """A new, untrained pipeline with a null class, for images ``(channels, height, width)``.

    The weights depend on ``seed`` alone. Sampling is DDIM with trailing steps, which end at the last training
    timestep (arXiv 2305.08891, section 3.3).

    Raises: ModelError: the image size is not divisible by the UNet's downsampling factor.
    """
    channels, height, width = image_shape
    factor = 2 ** (len(block_out_channels) - 1)
    if height % factor or width % factor:
        raise ModelError(
            f"images of {height}×{width} do not fit {len(block_out_channels)} UNet levels: use a size divisible by "
            f"{factor} (curate.image_size) or fewer levels (pretrain.block_out_channels)"
        )
    down = ["AttnDownBlock2D" if a else "DownBlock2D" for a in attention]
    up = ["AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attention)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = UNet2DModel(
            sample_size=height if height == width else (height, width),
            in_channels=channels,
            out_channels=channels,
            layers_per_block=layers_per_block,
            block_out_channels=tuple(block_out_channels),
            down_block_types=tuple(down),
            up_block_types=tuple(up),
            attention_head_dim=attention_head_dim,
            norm_num_groups=norm_num_groups,
            num_class_embeds=len(concepts) + 1,
        )
    scheduler = DDIMScheduler(
        num_train_timesteps=num_train_timesteps,
        beta_schedule=beta_schedule,
        prediction_type=prediction_type,
        timestep_spacing="trailing",
    )
    return ClassConditionalPipeline(unet, scheduler, list(concepts))
