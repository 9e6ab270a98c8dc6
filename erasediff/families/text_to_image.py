"""What text-to-image pipelines share: a VAE, text encoders, a denoiser; drawn by diffusers' own pipeline."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Self

import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn

from erasediff.errors import ModelError, ParamsError, require_unicode, shown
from erasediff.families.family import (
    NULL_CONCEPT,
    Condition,
    DenoiserArguments,
    check_drawing,
    generators_of,
    noise_of,
)
from erasediff.families.samplers import require_no_negative, sampled_by
from erasediff.families.selections import CROSS_ATTENTION, Selection
from erasediff.families.weights import widened

#: Pictures that are drawn at once where nobody says how many: of 512 × 512 pixels, and of small ones as many more as
#: take the same memory, up to a number from which on more gain nothing.
AT_ONCE, MOST_AT_ONCE = 8, 64
#: Arguments of a pipeline's call that decide what its prompts are encoded to.
ENCODING = ("max_sequence_length", "clean_caption", "complex_human_instruction", "text_encoder_out_layers")


class How(NamedTuple):
    """How pictures are drawn."""

    steps: int
    guidance_scale: float
    negative_prompt: str | None


class TextToImage:
    """The family interface over a pipeline that draws what a prompt says; a family adds how its network is asked.

    Any pipeline with the parts is taken, such as one that draws from a picture (img2img): prompts are encoded, and
    pictures drawn, by ``pipeline_class`` made of the same parts.

    ``encode`` gives the mean of the VAE's posterior, scaled: the same picture always gives the same latents, so that
    they can be computed once.

    Attributes:
        drawing: the pipeline that draws from a prompt alone. It has no safety checker: what one blacks out cannot be
            learned from, nor measured.
        latent_shape: ``(channels, height, width)`` of what is noised.
    """

    conditional, has_null = True, True
    concepts: tuple[str, ...] | None = None
    denoiser_name = "unet"
    selections: Mapping[str, Selection] = CROSS_ATTENTION
    #: Whether the call that draws guides away from a prompt.
    guided_by_prompt = True
    #: The call that draws takes multiples of so many pixels a side alone.
    multiple = 8
    #: More arguments of the call that draws, however it draws.
    call: Mapping[str, object] = {}
    pipeline_class: Any
    num_timesteps: Any

    def __init__(self, pipeline: DiffusionPipeline, size: tuple[int, int] | None = None):
        """Args: size: height and width of pictures; the model's own by default.

        Raises: ModelError: the denoiser takes more than latents. ParamsError: it does not divide such a size.
        """
        self.pipeline: Any = pipeline
        self.size = size
        without = {"safety_checker": None, "requires_safety_checker": False}
        checked = getattr(pipeline, "safety_checker", None) is not None
        same = type(pipeline) is self.pipeline_class and not checked
        self.drawing: Any = pipeline if same else built(self.pipeline_class, pipeline, without if checked else {})
        self.denoiser: Any = getattr(pipeline, self.denoiser_name)
        self.encoder: Any = self.pipeline.vae
        # One that draws from a picture has defaults for that.
        drawn_by = self.drawing if takes_pictures(pipeline) else pipeline
        self.default_steps: int = call_default(drawn_by, "num_inference_steps")
        self.default_guidance_scale: float = call_default(drawn_by, "guidance_scale")
        self.scale: int = getattr(self.drawing, "vae_scale_factor", 2 ** (len(self._vae_levels()) - 1))
        channels = self._latent_channels()
        height, width = self._latent_size() if size is None else self._latents_of(size)
        self.latent_shape = (channels, height, width)
        self.image_shape = (self.encoder.config.in_channels, height * self.pixels, width * self.pixels)

    @property
    def pixels(self) -> int:
        """Pixels a side of what is one entry of :attr:`latent_shape`."""
        return self.scale

    @property
    def patch(self) -> int:
        """Entries of :attr:`latent_shape` a side that the denoiser takes as one."""
        return int(self.denoiser.config.get("patch_size") or 1)

    def _latents_of(self, size: tuple[int, int]) -> tuple[int, int]:
        """Raises: ParamsError: the model cannot take pictures of this size."""
        unit = math.lcm(self.patch * self.pixels, self.multiple)
        if odd := [side for side in size if side % unit]:
            raise ParamsError(f"size {size[0]}×{size[1]}: this model takes multiples of {unit}, and {odd[0]} is none")
        height, width = (side // self.pixels for side in size)
        most = self.denoiser.config.get("pos_embed_max_size")
        if most and max(height, width) > most * self.patch:
            told = most * self.patch * self.pixels
            raise ParamsError(f"size {size[0]}×{size[1]}: this model knows no more than {told} pixels a side")
        return height, width

    @property
    def at_once(self) -> int:
        """Pictures that are drawn at once where nobody says how many."""
        _, height, width = self.image_shape
        return min(MOST_AT_ONCE, max(AT_ONCE, AT_ONCE * 512 * 512 // (height * width)))

    def _vae_levels(self) -> Sequence[int]:
        return self.encoder.config.get("block_out_channels") or self.encoder.config.encoder_block_out_channels

    def _latent_channels(self) -> int:
        """Raises: ModelError: the denoiser takes more than latents."""
        taken = self.denoiser.config.in_channels
        given = self.encoder.config.latent_channels
        if taken != given:
            raise ModelError(
                f"the {self.denoiser_name} takes {taken} channels, the VAE gives {given}: one that takes a mask or a "
                "picture too (inpainting, control) cannot be asked by a prompt alone; erase from the model it came from"
            )
        return given

    def _latent_size(self) -> tuple[int, int]:
        size = self.denoiser.config.get("sample_size")
        if size is None:
            size = self._picture_side() // self.scale
        return (size, size) if isinstance(size, int) else (size[0], size[1])

    def _picture_side(self) -> int:
        """That of the VAE's pictures; of one that names none, as AutoencoderTiny, that of the pipeline's own call."""
        side = self.encoder.config.get("sample_size")
        return int(side if side is not None else self.drawing.default_sample_size * self.scale)

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        config = self.encoder.config
        with upcast(self.encoder):
            code = self.encoder.encode(images.to(self.encoder.device, self.encoder.dtype))
        if hasattr(code, "latent_dist"):
            latents = code.latent_dist.mean
        else:
            latents = code.latents if hasattr(code, "latents") else code.latent
        latents = latents.float()
        if (shift := config.get("shift_factor")) is not None:
            latents = latents - shift
        if (mean := _channels(config.get("latents_mean"), latents)) is not None:
            latents = (latents - mean) / _channels(config.latents_std, latents)
        return (latents * config.scaling_factor).to(self.denoiser.device)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Latents as :meth:`encode` gives them to pixels in [-1, 1], float32 on the CPU."""
        config = self.encoder.config
        latents = latents / config.scaling_factor
        if (mean := _channels(config.get("latents_mean"), latents)) is not None:
            latents = latents * _channels(config.latents_std, latents) + mean
        if (shift := config.get("shift_factor")) is not None:
            latents = latents + shift
        with upcast(self.encoder):
            pixels = self.encoder.decode(latents.to(self.encoder.device, self.encoder.dtype), return_dict=False)[0]
        return pixels.float().clamp(-1, 1).cpu()

    @torch.no_grad()  # encode_prompt is not under no_grad by itself
    def condition(self, prompts: Sequence[str]) -> Condition:
        unique = sorted(set(prompts))
        require_unicode(unique, "prompt")
        index = torch.tensor([unique.index(prompt) for prompt in prompts])
        return self.encoded(unique).to(self.denoiser.device).take(index)

    def encoded(self, prompts: list[str]) -> DenoiserArguments:
        """What the pipeline's own call asks its denoiser for each prompt; for ``""`` what it guides away from."""
        raise NotImplementedError

    def encode_prompt(self, prompts: list[str], **more: object) -> Any:
        """The pipeline's own encoding, with the settings that its call has by default."""
        taken = inspect.signature(self.drawing.encode_prompt).parameters
        settings = {name: call_default(self.drawing, name) for name in ENCODING if name in taken}
        return self.drawing.encode_prompt(prompts, device=self._text_device, **settings, **more)

    @property
    def _text_device(self) -> torch.device:
        names = ("text_encoder", "text_encoder_2", "text_encoder_3")
        encoders = [part for name in names if (part := getattr(self.drawing, name, None)) is not None]
        return encoders[0].device

    def sample(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        *,
        steps: int | None = None,
        guidance_scale: float | None = None,
        batch_size: int | None = None,
        negative_prompt: str | None = None,
        sampler: str | None = None,
    ) -> Tensor:
        batch_size = batch_size or self.at_once
        steps = self.default_steps if steps is None else steps
        guidance_scale = self.default_guidance_scale if guidance_scale is None else guidance_scale
        check_drawing(seeds, steps, self.num_timesteps, guidance_scale)
        how = How(steps, guidance_scale, self._checked_negative(negative_prompt, guidance_scale))
        require_unicode([*prompts, negative_prompt or ""], "prompt")
        if self.drawing is not self.pipeline and getattr(self.pipeline, "safety_checker", None) is not None:
            warnings.warn(
                "the safety checker, which blacks out pictures, is off while pictures are drawn", stacklevel=2
            )
        self.drawing.set_progress_bar_config(disable=True)
        parts = []
        with widened(self.drawing), sampled_by(self.drawing, sampler):
            for i in range(0, len(prompts), batch_size):
                generators = generators_of(seeds[i : i + batch_size])
                parts.append(self.pictures(list(prompts[i : i + batch_size]), generators, how))
        images = torch.cat(parts)
        if not bool(torch.isfinite(images).all()):
            raise ModelError(f"pictures are NaN in {self.encoder.dtype}: load the VAE or the whole pipeline in float32")
        return images

    def _checked_negative(self, negative_prompt: str | None, guidance_scale: float) -> str | None:
        """Raises: ParamsError: nothing is guided by a negative prompt."""
        if negative_prompt is not None and not isinstance(negative_prompt, str):
            raise ParamsError(f"negative_prompt {shown(negative_prompt)} is no text: give one for all pictures")
        if not self.guided_by_prompt:
            require_no_negative(negative_prompt, f"a {type(self.drawing).__name__}")
        if negative_prompt is not None and guidance_scale <= 1:
            told = (
                f"negative_prompt {shown(repr(negative_prompt), 60)} has no effect at guidance_scale {guidance_scale}"
            )
            raise ParamsError(f"{told}: give one above 1")
        return negative_prompt

    def pictures(self, prompts: list[str], generators: list[torch.Generator], how: How) -> Tensor:
        """One picture a prompt, float32 in [-1, 1] on the CPU, all at once."""
        noise = noise_of(self.latent_shape, generators).to(self.denoiser.device, self.denoiser.dtype)
        return self.decode(self.drawn(prompts, noise, generators, how))

    def drawn(self, prompts: list[str], noise: Tensor, generators: list[torch.Generator], how: How) -> Tensor:
        """Latents that the pipeline draws from this noise; its sampler may go on with the generators."""
        away = {} if how.negative_prompt is None else {"negative_prompt": [how.negative_prompt] * len(prompts)}
        return self.drawing(
            prompt=prompts,
            num_inference_steps=how.steps,
            guidance_scale=how.guidance_scale,
            latents=noise,  # the pipeline multiplies by init_noise_sigma itself
            generator=generators,
            height=self.image_shape[1],
            width=self.image_shape[2],
            output_type="latent",
            **away,
            **self.call_with(how),
        ).images

    def call_with(self, how: How) -> Mapping[str, object]:
        """More arguments of the call that draws."""
        return self.call

    def with_denoiser(self, denoiser: nn.Module) -> Self:
        return type(self)(built(type(self.pipeline), self.pipeline, {self.denoiser_name: denoiser}), self.size)


def built(pipeline_class: Any, pipeline: Any, parts: Mapping[str, Any]) -> Any:
    """A pipeline of a class with the parts and settings of another, but for those given."""
    taken = [name for name in inspect.signature(pipeline_class.__init__).parameters if name != "self"]
    known = {**pipeline.config, **pipeline.components, **parts}
    known |= {name: getattr(pipeline, name) for name in taken if name not in known and hasattr(pipeline, name)}
    return pipeline_class(**{name: known[name] for name in taken if name in known})


def call_default(pipeline: Any, name: str) -> Any:
    """The default of an argument of a pipeline's own call."""
    return inspect.signature(type(pipeline).__call__).parameters[name].default


def takes_pictures(pipeline: Any) -> bool:
    """True if a pipeline's own call draws from a picture, beside a prompt."""
    return bool({"image", "control_image"} & set(inspect.signature(type(pipeline).__call__).parameters))


def null_where(prompts: Sequence[str], null: Tensor, other: Tensor) -> Tensor:
    """``null`` in the rows of the null prompt, ``other`` in all others."""
    is_null = torch.tensor([prompt == NULL_CONCEPT for prompt in prompts], device=other.device)
    return torch.where(is_null.view(-1, *[1] * (other.ndim - 1)), null, other)


@contextmanager
def upcast(vae: Any) -> Iterator[None]:
    """Keep a VAE that overflows in float16 (``force_upcast``) in float32 for a block, as pipelines do."""
    upcasts = vae.dtype == torch.float16 and vae.config.get("force_upcast")
    try:
        if upcasts:
            nn.Module.to(vae, torch.float32)  # diffusers' own warns of parts to be kept in float32, at every call
        yield
    finally:
        if upcasts:
            nn.Module.to(vae, torch.float16)


def _channels(values: Any, like: Tensor) -> Any:
    return None if values is None else torch.tensor(values).view(1, -1, 1, 1).to(like)
