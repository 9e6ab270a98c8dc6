"""Diffusion models behind one interface: one file a family."""

from __future__ import annotations

from importlib import import_module

from diffusers import DiffusionPipeline

from erasediff.errors import ModelError
from erasediff.families.family import NULL_CONCEPT, Condition, Family
from erasediff.families.opening import open_pipeline

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
