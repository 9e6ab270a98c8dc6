"""The door of the library: a pipeline and a concept in, an erased pipeline out."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypedDict

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from erasediff.data.concept_images import ConceptImages
from erasediff.errors import ModelError
from erasediff.families import Family, family_of
from erasediff.randomness import ERASE_BLOCKS, image_seeds
from erasediff.records import EffectiveSettings, Value
from erasediff.training.denoising import Recipe, train_denoiser
from erasediff.training.state import Checkpoint, OnStep
from erasediff.unlearning.loop import run_loop
from erasediff.unlearning.methods import Method, method_for
from erasediff.unlearning.plan import passes_of, planned

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


@dataclass
class Erased:
    """An erased pipeline, and how it came about.

    Attributes:
        history: a row an update: losses, multiplier, cosine of the gradients, their lengths.
        record: method, settings and updates that really ran.
    """

    pipeline: DiffusionPipeline
    history: list[dict[str, float]] = field(default_factory=list)
    record: EffectiveSettings = field(kw_only=True)

    @property
    def method(self) -> str:
        """Name of the method."""
        return self.record.method

    @property
    def settings(self) -> Mapping[str, Value]:
        """The settings that really ran: those that the method fixed, and those that were given."""
        return self.record.settings

    @property
    def updates(self) -> int:
        """Number of updates made."""
        return self.record.updates


def erase(
    pipeline: DiffusionPipeline,
    concept: str | Sequence[str],
    *,
    method: str = "erasediff",
    forget: Tensor | Mapping[str, Tensor] | ConceptImages | None = None,
    retain: Mapping[str, Tensor] | ConceptImages | None = None,
    anchor: str | None = None,
    preserve: Sequence[str] | None = None,
    seed: int = 0,
    generate: int = 64,
    passes: int | None = None,
    accelerator: Accelerator | None = None,
    checkpoint: Checkpoint | None = None,
    on_step: OnStep | None = None,
    recipe: Recipe | None = None,
    **settings: Any,
) -> Erased:
    """Take a diffusers pipeline, return one that no longer draws ``concept``; the pipeline given is left as it was.

    It computes where accelerate says; the result is where the pipeline is.

    Args:
        pipeline: any pipeline that ``erasediff.families.family_of`` knows.
        concept: class name or prompt to forget, or several.
        method: a key of ``erasediff.unlearning.METHODS``.
        forget: images to forget, float32 ``(B, C, H, W)`` in [-1, 1], or by concept; drawn from the model by default.
        retain: images to keep, by concept; drawn from the model under ``preserve`` by default.
        anchor: concept that ``concept`` should draw instead.
        preserve: concepts to keep where ``retain`` is not given; every other class by default.
        generate: images a concept, where they are drawn from the model.
        passes: instead of ``outer_steps``: as many updates as so many images through the network allow.
        recipe: how ``method="retrain"`` trains.
        settings: any fields of :class:`erasediff.unlearning.Settings`, which explains each. The usual ones:
            ``eta`` (how fast the forget loss must shrink), ``outer_steps`` (updates), ``learning_rate``,
            ``forget_batch_size`` and ``retain_batch_size``, ``forget_target`` and ``retain_target`` (what the losses
            aim at), ``trainable`` (which weights change), ``accumulate`` and ``gradient_checkpointing`` (less memory).

    Raises: UnknownConcept; ValueError: nothing to keep, an unknown method or setting, or a setting that the method
        fixes or that changes nothing; NonFiniteLoss; ModelError: the model cannot be asked for what the forget target
        needs.
    """
    if anchor is not None:
        settings = {"forget_target": "anchor", **settings, "anchor": anchor}
    chosen = method_for(method, **settings)
    family = family_of(pipeline)
    targets = [concept] if isinstance(concept, str) else list(concept)
    preserve = preserve or [c for c in family.concepts or () if c not in targets]
    _require_askable(family, chosen)
    if not preserve and retain is None:
        raise ValueError("nothing to keep: give retain images by concept, or name concepts to preserve")
    family.condition([*targets, *preserve])  # an unknown concept fails here, before anything is drawn
    forget_set = _concept_images(family, targets, forget, generate, seed, block=0)
    retain_set = _concept_images(family, list(preserve), retain, generate, seed, block=1)
    accelerator = accelerator or Accelerator()
    sizes = len(forget_set), len(retain_set)
    record = planned(chosen, *sizes, passes=passes, recipe=recipe, mixed_precision=accelerator.mixed_precision)
    retrains = recipe if method == "retrain" else None
    history: list[dict[str, float]] = []

    def on_update(step: int, row: dict[str, float]) -> None:
        if retrains:  # its loop is the base's
            row = {"retain_loss": row["loss"], "retain_grad_norm": row["grad_norm"]}
        history.append({"step": step, **row})
        if on_step is not None:
            on_step(step, row)

    how = _How(seed=seed, accelerator=accelerator, checkpoint=checkpoint, on_step=on_update)
    if retrains:
        denoiser = retrain(family, retain_set, retrains, **how)
    else:
        chosen = chosen.with_updates(record.updates)
        denoiser, updates = run_loop(family, forget_set, retain_set, chosen, **how)
        # A constraint gap that was reached ends a run before its planned updates.
        record = dataclasses.replace(record, updates=updates, passes=passes_of(chosen, updates, *sizes))
    given = next(family.denoiser.parameters()).device
    return Erased(family.with_denoiser(denoiser.to(given)).pipeline, history, record=record)


class _How(TypedDict):
    """What every training is told beside its settings."""

    seed: int
    accelerator: Accelerator
    checkpoint: Checkpoint | None
    on_step: OnStep | None


def _require_askable(family: Family, method: Method) -> None:
    """Raises: ModelError: the forget target asks the model for a concept, which an unconditional one cannot be."""
    target = method.settings.forget_target
    if not family.conditional and method.forget_weight and target not in ("uniform_noise", "truth"):
        raise ModelError(
            f"forget_target {target} asks the model for a concept, which an unconditional one cannot be: "
            "use uniform_noise from forget images, or method siss, neggrad, sfr_on or selective_amnesia"
        )


def retrain(
    family: Family,
    retain_set: ConceptImages,
    recipe: Recipe,
    *,
    seed: int = 0,
    accelerator: Accelerator | None = None,
    checkpoint: Checkpoint | None = None,
    on_step: OnStep | None = None,
) -> nn.Module:
    """Train a denoiser of the same architecture from new weights on the retain set alone: the gold standard.

    The new weights are those of ``build_pipeline`` at the same seed.
    """
    network: Any = family.denoiser  # a diffusers model, which nn.Module does not say
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        denoiser = type(network).from_config(network.config)
    return train_denoiser(
        family.with_denoiser(denoiser),
        retain_set.images,
        retain_set.prompts,
        recipe,
        seed=seed,
        accelerator=accelerator,
        checkpoint=checkpoint,
        on_step=on_step,
    )


def _concept_images(
    family: Family,
    concepts: list[str],
    given: Tensor | Mapping[str, Tensor] | ConceptImages | None,
    generate: int,
    seed: int,
    block: int,
) -> ConceptImages:
    """Return images with concepts, however they were given; drawn from the model where they were not.

    Args:
        block: of the seeds that drawing takes, one a set.
    """
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
    return ConceptImages(family.sample(names, image_seeds(seed, block, len(names), ERASE_BLOCKS)), names)
