"""Attacks on a pipeline: by the stage, with what the pipeline of stages has at hand, and as a verb for anybody."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from erasediff.data.concept_images import ConceptImages
from erasediff.data.images import Undecoded, decode
from erasediff.data.inputs import has_pictures
from erasediff.device import device
from erasediff.errors import ParamsError, UnknownConcept, did_you_mean, shown
from erasediff.evaluation.attacks import ATTACKS, attacked, to_json
from erasediff.evaluation.attacks.membership import PICTURES
from erasediff.evaluation.attacks.target import Budget, Found, Target
from erasediff.families import family_of
from erasediff.families.drawing import draw_recognised
from erasediff.families.family import Family
from erasediff.judges import REST, Judge
from erasediff.randomness import ATTACK_BLOCKS, image_seeds
from erasediff.records import Json

if TYPE_CHECKING:
    import pandas as pd

    from erasediff.evaluation.protocol import Protocol

#: Pictures that the base draws of each concept for :func:`attack`.
EXAMPLES = 16


def attack_pipeline(
    pipeline: DiffusionPipeline,
    judge: Judge,
    protocol: Protocol,
    names: Sequence[str],
    forgotten: Sequence[str],
    *,
    prompts: Mapping[str, Sequence[str]],
    training: pd.DataFrame | None,
    test: pd.DataFrame,
    forget_set: tuple[pd.DataFrame, pd.DataFrame] | None = None,
    base: Callable[[], DiffusionPipeline] | None = None,
    **more: Any,
) -> Json:
    """What each attack found on a pipeline, by its name and its variants; nothing where no concept was forgotten.

    Args:
        names: of :data:`erasediff.evaluation.attacks.ATTACKS`.
        training: pictures that the model may have been trained on; ``None``: there are none at hand.
        test: pictures that it was not.
        forget_set: tables of what was to be forgotten, and of what was to be kept.
        base: opens the pipeline that was erased from; ``None``: this one is that.
        more: other entries of :class:`~erasediff.evaluation.attacks.target.Target`.
    """
    if not forgotten or not names:
        return {}
    family = family_of(pipeline.to(device()), protocol.size)

    def pictures(table: pd.DataFrame | None) -> tuple[Tensor, list[str]] | None:
        rows = None if training is None or table is None else table[table["concept"].isin(forgotten)]
        if rows is None or not len(rows):
            return None
        rows = rows.groupby("concept").head(PICTURES)
        return decode(rows["image"].tolist(), family.image_shape), rows["concept"].tolist()

    sets = [t if has_pictures(t) else None for t in forget_set] if forget_set else [None, None]
    forget, retain = (None if table is None else undecoded(table, family.image_shape) for table in sets)
    target = Target(
        family,
        judge.to(device()),
        forgotten,
        protocol.inference_steps,
        protocol.guidance_scale,
        protocol.seed,
        protocol.batch_size,
        prompts,
        members=pictures(training),
        others=pictures(test),
        forget=forget,
        retain=retain,
        base=(lambda: family) if base is None else opened_once(base, protocol.size),
        is_base=base is None,
        how={} if protocol.sampler is None else {"sampler": protocol.sampler},
        **more,
    )
    return to_json(attacked(target, names))


def undecoded(table: pd.DataFrame, image_shape: tuple[int, int, int]) -> ConceptImages:
    """A table's pictures, each decoded when it is asked for, with their concepts and prompts."""
    prompts = table["prompt"].tolist() if "prompt" in table else ()
    return ConceptImages(Undecoded(table["image"].tolist(), image_shape), table["concept"].tolist(), prompts)


def opened_once(base: Callable[[], DiffusionPipeline], size: tuple[int, int] | None = None) -> Callable[[], Family]:
    """A function that opens the base's family when it is first needed: a large model is not held for nothing."""
    return cache(lambda: family_of(base().to(device()), size))


def attack(
    pipeline: DiffusionPipeline,
    concept: str | Sequence[str],
    *,
    judge: Judge,
    base: DiffusionPipeline | None = None,
    attacks: Sequence[str] | None = None,
    forget: ConceptImages | None = None,
    retain: ConceptImages | None = None,
    prompts: Mapping[str, Sequence[str]] | None = None,
    wordings: Mapping[str, Sequence[str]] | None = None,
    pictures: int = 60,
    budget: Budget = "quick",
    seed: int = 0,
    steps: int | None = None,
    guidance_scale: float | None = None,
    size: tuple[int, int] | None = None,
    lora: Path | None = None,
) -> dict[str, dict[str, Found]]:
    """Try to bring forgotten concepts back: what each attack found, by its name and its variants.

    What an attack needs and is not at hand, leaves it out.

    Args:
        concept: what was forgotten, one name or several.
        judge: tells whether a picture shows it.
        base: the model that was erased from. It draws ``forget`` and ``retain`` where these are not given.
        attacks: of :data:`erasediff.evaluation.attacks.ATTACKS`; all by default.
        forget, retain: pictures of what was forgotten, and of what was kept.
        prompts: what the model is asked for a concept, in turns; its name by default.
        wordings: other words for it that are to be tried.
        pictures: drawn for each variant of an attack and each concept.
        budget: of searches: ``quick``, or ``paper``, as much as the papers spend.
        size: height and width of pictures, drawn and searched with; the model's own by default.
        lora: file of a LoRA of the base that ``merging`` joins the model with; by default one is trained.

    Raises: ParamsError: no such attack; a LoRA without its base. UnknownConcept: the judge does not know it.
    """
    names = list(ATTACKS) if attacks is None else list(attacks)
    for name in names:
        if name not in ATTACKS:
            raise ParamsError(f"there is no attack {shown(repr(name))}{did_you_mean(name, ATTACKS)}")
    if lora is not None and base is None:
        raise ParamsError(f"{shown(str(lora))} is a LoRA to merge with: give the base that it was made for")
    forgotten = [concept] if isinstance(concept, str) else list(concept)
    if unknown := sorted(set(forgotten) - set(judge.concepts)):
        raise UnknownConcept(f"the judge does not know {unknown[0]!r}; it knows: {', '.join(judge.concepts)}")
    how: dict[str, Any] = {"steps": steps, "guidance_scale": guidance_scale}
    origin = None if base is None else family_of(base, size)
    if origin is not None and forget is None:
        forget = _drawn(origin, judge, forgotten, prompts or {}, seed, **how)
    if origin is not None and retain is None:
        known = origin.concepts or judge.concepts
        kept = [c for c in judge.concepts if c in known and c not in forgotten and c != REST]
        retain = _drawn(origin, judge, kept, prompts or {}, seed, unseen=True, **how)
    target = Target(
        family_of(pipeline, size),
        judge,
        forgotten,
        steps,
        guidance_scale,
        seed,
        prompts=prompts or {},
        pictures=pictures,
        forget=forget,
        retain=retain,
        base=None if origin is None else lambda: origin,
        is_base=base is pipeline,
        wordings=wordings or {},
        budget=budget,
        lora=lora,
    )
    return attacked(target, names)


def _drawn(
    base: Family,
    judge: Judge,
    concepts: Sequence[str],
    prompts: Mapping[str, Sequence[str]],
    seed: int,
    *,
    unseen: bool = False,
    **how: Any,
) -> ConceptImages | None:
    """Pictures that the base draws of each concept.

    Args:
        unseen: what the judge does not see in them is taken too.
    """
    images: list[Tensor] = []
    names: list[str] = []
    asked: list[str] = []
    for number, concept in enumerate(concepts):
        seeds = image_seeds(seed, 1, 10 * EXAMPLES * (number + 1), ATTACK_BLOCKS)[-10 * EXAMPLES :]
        wordings = prompts.get(concept) or [concept]
        if unseen:
            used = [wordings[i % len(wordings)] for i in range(EXAMPLES)]
            images.append(base.sample(used, seeds[:EXAMPLES], **how))
        else:
            found, used, _ = draw_recognised(
                base, concept, judge.recognises, EXAMPLES, seeds=seeds, prompts=wordings, **how
            )
            images.append(found)
        names, asked = [*names, *[concept] * EXAMPLES], [*asked, *used]
    return ConceptImages(torch.cat(images), names, asked) if images else None
