"""Diffusion models behind one interface: one file a family."""

from __future__ import annotations

from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any

from diffusers import DiffusionPipeline
from torch import nn

from erasediff.errors import ModelError, ParamsError, shown
from erasediff.families.family import NULL_CONCEPT, Condition, Family
from erasediff.families.opening import open_pipeline
from erasediff.ranges import Range

__all__ = ["NULL_CONCEPT", "Condition", "Family", "family_of", "open_pipeline", "require_family", "require_no_adapter"]

#: Module and class of the family by the pipeline's class, as names: importing what is not used takes seconds.
FAMILIES = {
    "ClassConditionalPipeline": ("class_conditional", "ClassConditionalFamily"),
    "DDPMPipeline": ("unconditional", "UnconditionalFamily"),
    "DDIMPipeline": ("unconditional", "UnconditionalFamily"),
    "StableDiffusionPipeline": ("stable_diffusion", "StableDiffusionFamily"),
    "StableDiffusionXLPipeline": ("stable_diffusion_xl", "StableDiffusionXLFamily"),
    "StableDiffusion3Pipeline": ("stable_diffusion_3", "StableDiffusion3Family"),
    "FluxPipeline": ("flux", "FluxFamily"),
    "Flux2KleinPipeline": ("flux2_klein", "Flux2KleinFamily"),
    "SanaPipeline": ("sana", "SanaFamily"),
    "SanaSprintPipeline": ("sana_sprint", "SanaSprintFamily"),
    "SanaSprintImg2ImgPipeline": ("sana_sprint", "SanaSprintFamily"),
    "PixArtAlphaPipeline": ("pixart", "PixArtAlphaFamily"),
    "PixArtSigmaPipeline": ("pixart", "PixArtSigmaFamily"),
    "DiTPipeline": ("dit", "DiTFamily"),
}

#: Classes of the parts that tell what a pipeline of another class is made of, and whose parts they are.
PARTS: dict[tuple[str | None, ...], str] = {
    ("UNet2DConditionModel", "CLIPTextModel", "CLIPTextModelWithProjection"): "StableDiffusionXLPipeline",
    ("UNet2DConditionModel", "CLIPTextModel", None): "StableDiffusionPipeline",
    ("SD3Transformer2DModel", "CLIPTextModelWithProjection", "CLIPTextModelWithProjection"): "StableDiffusion3Pipeline",
    ("FluxTransformer2DModel", "CLIPTextModel", "T5EncoderModel"): "FluxPipeline",
    ("Flux2Transformer2DModel", "Qwen3ForCausalLM", None): "Flux2KleinPipeline",
    ("SanaTransformer2DModel", "Gemma2Model", None): "SanaPipeline",
    ("PixArtTransformer2DModel", "T5EncoderModel", None): "PixArtSigmaPipeline",
}


def family_of(pipeline: DiffusionPipeline, size: tuple[int, int] | None = None) -> Family:
    """The family interface over a pipeline, chosen by its class, else by its parts.

    Args:
        size: height and width of the pictures that it takes and draws; the model's own by default.

    Raises: ModelError: it is no pipeline, no family is for it, or its weights are not there. ParamsError: a size that
        the model cannot have.
    """
    if not isinstance(pipeline, DiffusionPipeline):
        what = shown(repr(pipeline), 60) if isinstance(pipeline, str | Path) else f"a {type(pipeline).__name__}"
        raise ModelError(f"{what} is no diffusers pipeline: give what erasediff.load(MODEL) or from_pretrained returns")
    _require_weights(pipeline)
    for name in (*(each.__name__ for each in type(pipeline).__mro__), _made_of(pipeline)):
        if name in FAMILIES:
            module, family = FAMILIES[name]
            found: Any = getattr(import_module(f"erasediff.families.{module}"), family)
            return _sized(found, pipeline, size)
    raise ModelError(
        f"no family handles a {type(pipeline).__name__}; there are those of: {', '.join(FAMILIES)}, "
        "and pipelines made of the same parts"
    )


def _sized(family: Any, pipeline: DiffusionPipeline, size: tuple[int, int] | None) -> Family:
    if size is None:
        made: Family = family(pipeline)
        return made
    if not (isinstance(size, tuple | list) and len(size) == 2 and all(Range(ge=1, whole=True).holds(n) for n in size)):
        raise ParamsError(f"size {shown(repr(size))}: give height and width, such as (512, 768)")
    if "size" not in signature(family).parameters:
        raise ParamsError(
            f"size {shown(repr(size))}: a {type(pipeline).__name__} draws at its own size alone: give none"
        )
    made = family(pipeline, tuple(size))
    return made


def _made_of(pipeline: DiffusionPipeline) -> str:
    """The text-to-image pipeline that can be made of a pipeline's parts; empty where none can."""
    components = pipeline.components
    if any(components.get(name) is None for name in ("vae", "tokenizer", "scheduler")):
        return ""
    denoiser = components.get("transformer", components.get("unet"))
    found = (denoiser, components.get("text_encoder"), components.get("text_encoder_2"))
    return PARTS.get(tuple(None if part is None else type(part).__name__ for part in found), "")


def _require_weights(pipeline: DiffusionPipeline) -> None:
    for name, part in pipeline.components.items():
        if not isinstance(part, nn.Module):
            continue
        if any(parameter.is_meta for parameter in part.parameters()):
            raise ModelError(
                f"{name} is on the meta device, without weights: load the pipeline by from_pretrained, and without "
                "enable_sequential_cpu_offload()"
            )


def require_family(family: Family, name: str) -> None:
    """Raises: ModelError: a model is of another family than ``name``, the module of one in :data:`FAMILIES`."""
    found = type(family).__module__.rpartition(".")[2]
    if found != name:
        raise ModelError(
            f"the model, a {type(family.pipeline).__name__}, is of family {found}, but pretrain.family says {name}: "
            f"give a model of {name}, or take a preset of {found}, or set pretrain.family to {found}"
        )


def require_no_adapter(pipeline: DiffusionPipeline) -> None:
    """Raises: ModelError: a LoRA is loaded beside the weights; it draws, but cannot be erased from."""
    for name, part in pipeline.components.items():
        if adapters := getattr(part, "peft_config", None):
            raise ModelError(
                f"an adapter is loaded into {name} ({shown(', '.join(adapters))}): call fuse_lora() and "
                "unload_lora_weights() to keep it, or unload_lora_weights() alone to leave it"
            )
