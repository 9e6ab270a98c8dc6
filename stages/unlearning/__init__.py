"""Erasing concepts from a diffusion model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import Tensor

    from stages.diffusion.family import ConceptImages, Family
    from stages.diffusion.training import Checkpoint, OnStep
    from stages.unlearning.loop import Settings

__all__ = ["METHODS", "Erased", "erase", "settings_for"]

#: A method is a composition of the one loop's settings. What a method fixes cannot be set beside it.
METHODS: dict[str, dict[str, Any]] = {
    "erasediff": {},
    # What the official code of EraseDiff does by default: fixed weighting.
    "graddiff": {"multiplier": "fixed"},
    # Retain loss only: the control.
    "finetune": {"forget_weight": 0.0},
    # Gradient ascent on the denoising loss of the forget set, nothing else.
    "neggrad": {
        "forget_weight": -1.0,
        "retain_weight": 0.0,
        "multiplier": "fixed",
        "eta": 1.0,
        "forget_target": "truth",
        "forget_source": "forget",
    },
    # Random relabelling of the forget set beside denoising of the retain set, on salient weights only.
    "salun": {
        "multiplier": "fixed",
        "mask": "saliency",
        "forget_target": "relabel",
        "forget_source": "forget",
        "retain_target": "noise",
    },
    # Nash bargaining: the bisector of the two gradients, of one length.
    "munba": {"unit_gradients": True, "multiplier": "fixed", "eta": 1.0, "unit_update": True},
    # Away from the concept by the model's own guidance, without retained pictures.
    "esd": {
        "retain_weight": 0.0,
        "multiplier": "fixed",
        "eta": 1.0,
        "forget_target": "negative_guidance",
        "forget_source": "forget",
    },
}

#: The two settings in which the defaults differ from EraseDiff's paper, as the paper has them.
PAPER_SETTING = {"forget_source": "forget", "retain_target": "noise"}


@dataclass
class Erased:
    """What :func:`erase` gives: the new pipeline, and a row a step of losses, multiplier and cosine."""

    pipeline: Any
    history: list[dict[str, float]] = field(default_factory=list)


def settings_for(method: str, **settings: Any) -> Settings:
    """The loop's settings for a method. Raises: ValueError: unknown method or setting."""
    from stages.unlearning.loop import Settings

    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}; there are: {', '.join(METHODS)}")
    try:
        return Settings(**{**settings, **METHODS[method]})
    except TypeError as error:
        raise ValueError(str(error).replace("Settings.__init__()", "erase()")) from None


def erase(
    pipeline: Any,
    concept: str | Sequence[str],
    *,
    method: str = "erasediff",
    forget: Tensor | Mapping[str, Tensor] | ConceptImages | None = None,
    retain: Mapping[str, Tensor] | ConceptImages | None = None,
    anchor: str | None = None,
    preserve: Sequence[str] | None = None,
    seed: int = 0,
    generate: int = 64,
    accelerator: Accelerator | None = None,
    checkpoint: Checkpoint | None = None,
    on_step: OnStep | None = None,
    **settings: Any,
) -> Erased:
    """Take a diffusers pipeline, give one that no longer draws ``concept``; the pipeline given is left as it was.

    Args:
        pipeline: any pipeline that ``stages.diffusion.family_of`` knows.
        concept: class name or prompt to forget, or several.
        method: a key of ``METHODS``.
        forget: images to forget, float32 ``(B, C, H, W)`` in [-1, 1], or by concept; drawn from the model by default.
        retain: images to keep, by concept; drawn from the model under ``preserve`` by default.
        anchor: concept that ``concept`` should draw instead.
        preserve: concepts to keep where ``retain`` is not given; every other class by default.
        generate: images a concept, where they are drawn from the model.
        settings: fields of ``stages.unlearning.loop.Settings``, such as ``eta`` and ``outer_steps``.

    Raises: UnknownConcept; ValueError: nothing to keep, or an unknown method or setting; NonFiniteLoss.
    """
    from stages.diffusion import family_of
    from stages.unlearning.loop import run_loop

    if anchor is not None:
        settings |= {"forget_target": "anchor", "anchor": anchor}
    family = family_of(pipeline)
    targets = [concept] if isinstance(concept, str) else list(concept)
    preserve = preserve or [c for c in family.concepts or () if c not in targets]
    if not preserve and retain is None:
        raise ValueError("nothing to keep: give retain images by concept, or name concepts to preserve")
    family.condition([*targets, *preserve])  # an unknown concept fails here, before anything is drawn
    forget_set = _concept_images(family, targets, forget, generate, seed)
    retain_set = _concept_images(family, list(preserve), retain, generate, seed + 1)
    history: list[dict[str, float]] = []

    def record(step: int, row: dict[str, float]) -> None:
        history.append({"step": step, **row})
        if on_step is not None:
            on_step(step, row)

    denoiser = run_loop(
        family,
        forget_set,
        retain_set,
        settings_for(method, **settings),
        seed=seed,
        accelerator=accelerator,
        checkpoint=checkpoint,
        on_step=record,
    )
    return Erased(family.with_denoiser(denoiser).pipeline, history)


def _concept_images(family: Family, concepts: list[str], given: Any, generate: int, seed: int) -> ConceptImages:
    """Images with concepts, however they were given; drawn from the model where they were not."""
    import torch

    from stages.diffusion.family import ConceptImages

    if isinstance(given, ConceptImages):
        return given
    if isinstance(given, Mapping):
        names = [name for name, images in given.items() for _ in range(len(images))]
        return ConceptImages(torch.cat(list(given.values())), names)
    if given is not None:
        if len(concepts) != 1:
            raise ValueError(f"images for {len(concepts)} concepts: give them as a mapping from concept to images")
        return ConceptImages(given, concepts * len(given))
    names = [c for c in concepts for _ in range(generate)]
    seeds = [seed * 1_000_003 + i for i in range(len(names))]
    return ConceptImages(family.sample(names, seeds, steps=25, guidance_scale=1.0), names)
