"""The door of the library: a pipeline and a concept in, an erased pipeline out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from erasediff.unlearning.settings import settings_for

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import Tensor

    from erasediff.data.concept_images import ConceptImages
    from erasediff.families.family import Family
    from erasediff.training.state import Checkpoint, OnStep


@dataclass
class Erased:
    """What :func:`erase` gives: the new pipeline, and a row a step of losses, multiplier and cosine."""

    pipeline: Any
    history: list[dict[str, float]] = field(default_factory=list)


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
    recipe: Mapping[str, Any] | None = None,
    **settings: Any,
) -> Erased:
    """Take a diffusers pipeline, give one that no longer draws ``concept``; the pipeline given is left as it was.

    It computes where accelerate says; the result is where the pipeline is.

    Args:
        pipeline: any pipeline that ``erasediff.families.family_of`` knows.
        concept: class name or prompt to forget, or several.
        method: a key of ``METHODS``.
        forget: images to forget, float32 ``(B, C, H, W)`` in [-1, 1], or by concept; drawn from the model by default.
        retain: images to keep, by concept; drawn from the model under ``preserve`` by default.
        anchor: concept that ``concept`` should draw instead.
        preserve: concepts to keep where ``retain`` is not given; every other class by default.
        generate: images a concept, where they are drawn from the model.
        recipe: arguments of ``erasediff.training.denoising.train_denoiser`` for ``method="retrain"``.
        settings: fields of ``Settings``, such as ``eta`` and ``outer_steps``.

    Raises: UnknownConcept; ValueError: nothing to keep, or an unknown method or setting; NonFiniteLoss; ModelError:
        the model cannot be asked for what the forget target needs.
    """
    from erasediff.errors import ModelError
    from erasediff.families import family_of
    from erasediff.unlearning.loop import run_loop

    chosen = settings_for(method, **settings, **({"forget_target": "anchor", "anchor": anchor} if anchor else {}))
    family = family_of(pipeline)
    targets = [concept] if isinstance(concept, str) else list(concept)
    preserve = preserve or [c for c in family.concepts or () if c not in targets]
    if not preserve and retain is None:
        raise ValueError("nothing to keep: give retain images by concept, or name concepts to preserve")
    if not family.conditional and chosen.forget_weight and chosen.forget_target not in ("uniform_noise", "truth"):
        raise ModelError(
            f"forget_target {chosen.forget_target} asks the model for a concept, which an unconditional one cannot be: "
            "use uniform_noise from forget images, or method siss, neggrad, sfr_on or selective_amnesia"
        )
    family.condition([*targets, *preserve])  # an unknown concept fails here, before anything is drawn
    forget_set = _concept_images(family, targets, forget, generate, seed, block=0)
    retain_set = _concept_images(family, list(preserve), retain, generate, seed, block=1)
    history: list[dict[str, float]] = []

    def record(step: int, row: dict[str, float]) -> None:
        if method == "retrain":  # its loop is the base's
            row = {"retain_loss": row["loss"], "retain_grad_norm": row["grad_norm"]}
        history.append({"step": step, **row})
        if on_step is not None:
            on_step(step, row)

    common: dict[str, Any] = {"seed": seed, "accelerator": accelerator, "checkpoint": checkpoint, "on_step": record}
    if method == "retrain":
        denoiser = retrain(family, retain_set, recipe or {}, **common)
    else:
        denoiser = run_loop(family, forget_set, retain_set, chosen, **common)
    given = next(family.denoiser.parameters()).device
    return Erased(family.with_denoiser(denoiser.to(given)).pipeline, history)


def retrain(family: Family, retain_set: ConceptImages, recipe: Mapping[str, Any], *, seed: int, **common: Any) -> Any:
    """A denoiser of the same architecture, trained from new weights on the retain set alone: the gold standard.

    Args:
        recipe: arguments of ``train_denoiser``. The new weights are those of ``build_pipeline`` at the same seed.
    """
    import torch

    from erasediff.training.denoising import train_denoiser

    architecture: Any = type(family.denoiser)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        denoiser = architecture.from_config(family.denoiser.config)
    return train_denoiser(
        family.with_denoiser(denoiser), retain_set.images, retain_set.prompts, seed=seed, **recipe, **common
    )


def _concept_images(
    family: Family, concepts: list[str], given: Any, generate: int, seed: int, block: int
) -> ConceptImages:
    """Images with concepts, however they were given; drawn from the model where they were not."""
    import torch

    from erasediff.data.concept_images import ConceptImages
    from erasediff.randomness import ERASE_BLOCKS, image_seeds

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
