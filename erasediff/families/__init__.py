"""Diffusion models behind one interface: one file a family."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path

from diffusers import DDIMScheduler, DDPMPipeline, DiffusionPipeline, UNet2DModel
from safetensors import SafetensorError

from erasediff.artifacts import verify_folder
from erasediff.errors import ModelError
from erasediff.families.family import NULL_CONCEPT, Condition, Family

__all__ = ["NULL_CONCEPT", "Condition", "Family", "family_of", "open_pipeline"]

#: Module and class of the family by the pipeline's class, as names: importing what is not used takes seconds.
FAMILIES = {
    "ClassConditionalPipeline": ("class_conditional", "ClassConditionalFamily"),
    "DDPMPipeline": ("unconditional", "UnconditionalFamily"),
    "DDIMPipeline": ("unconditional", "UnconditionalFamily"),
    "StableDiffusionPipeline": ("stable_diffusion", "StableDiffusionFamily"),
}


def family_of(pipeline: DiffusionPipeline) -> Family:
    """The family interface over a pipeline, chosen by its class. Raises: ModelError: no family for it."""
    for pipeline_class in type(pipeline).__mro__:
        if pipeline_class.__name__ in FAMILIES:
            module, family = FAMILIES[pipeline_class.__name__]
            return getattr(import_module(f"erasediff.families.{module}"), family)(pipeline)
    raise ModelError(f"no family handles a {type(pipeline).__name__}; there are: {', '.join(FAMILIES)}")


def open_pipeline(folder: Path | str, concepts: list[str] | None = None) -> DiffusionPipeline:
    """Load a diffusers folder, verified against its manifest where it has one.

    Args:
        folder: with ``model_index.json``; or with ``unet/`` and ``scheduler/`` of a ``UNet2DModel``.
        concepts: names of the class embeddings, for a folder that does not name them itself.

    Returns: the diffusers pipeline, in eval mode, on the CPU.
    Raises: ModelError: the folder is no model, or its classes have no names. IntegrityError: a file was altered.
    """
    folder = Path(folder)
    verify_folder(folder)
    index = folder / "model_index.json"
    try:
        kind = json.loads(index.read_text(encoding="utf-8"))["_class_name"] if index.exists() else "UNet2DModel"
        if kind in ("ClassConditionalPipeline", "UNet2DModel", "DDPMPipeline", "DDIMPipeline"):
            return _open_unet(folder, kind, concepts)
        return DiffusionPipeline.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise ModelError(
            f"{folder} cannot be loaded as a diffusers folder: {' '.join(str(error).split())[:300]}"
        ) from None


def _open_unet(folder: Path, kind: str, concepts: list[str] | None) -> DiffusionPipeline:
    from erasediff.families.class_conditional import ClassConditionalPipeline

    unet = UNet2DModel.from_pretrained(folder, subfolder="unet").eval()
    scheduler = DDIMScheduler.from_pretrained(folder, subfolder="scheduler")
    if kind == "ClassConditionalPipeline":
        concepts = json.loads(json.loads((folder / "model_index.json").read_text(encoding="utf-8"))["concepts"])
    if unet.config.num_class_embeds is None:
        return DDPMPipeline(unet, scheduler)
    if concepts is None:
        raise ModelError(f"{folder} does not name its classes: give the concepts in the order of its class embeddings")
    return ClassConditionalPipeline(unet, scheduler, concepts)
