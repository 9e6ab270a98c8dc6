"""The door of the library: a pipeline and a concept in, an erased pipeline out."""

from __future__ import annotations

import dataclasses
import inspect
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar

import torch
from accelerate import Accelerator
from torch import nn

from erasediff.command import stated_failure
from erasediff.data.concept_images import ConceptImages
from erasediff.data.given import Pictures
from erasediff.errors import EraseDiffError, ModelError, ParamsError, did_you_mean, shown
from erasediff.families import Family, family_of, require_no_adapter
from erasediff.families.family import check_drawing
from erasediff.families.reading import require_read
from erasediff.ranges import require_in_range
from erasediff.records import told_size
from erasediff.training.denoising import Recipe, train_denoiser
from erasediff.training.encoding import encoded, encoders_of, placed, prepared
from erasediff.training.state import Checkpoint, OnStep
from erasediff.unlearning.adapters import Lora, fused
from erasediff.unlearning.anchor import nearest_anchors
from erasediff.unlearning.change import change_of, doubt
from erasediff.unlearning.drawing_sets import HowDrawn, both_sets
from erasediff.unlearning.erased import Erased
from erasediff.unlearning.loop import run_loop
from erasediff.unlearning.methods import Method, method_for
from erasediff.unlearning.methods.closed_form import ClosedForm
from erasediff.unlearning.plan import passes_of, planned
from erasediff.unlearning.progress import progress_bar, say
from erasediff.unlearning.request import Request, names_of, request
from erasediff.unlearning.settings import BY_WORDS, CHOICES, DEFAULTS, LARGE, NEAREST, NEAREST_ANCHOR
from erasediff.unlearning.words import of_owner, takes_words

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

#: The start of a picture's id, among what was forgotten before: no concept.
SAMPLE = re.compile("[0-9a-f]{16}")
#: What to do where memory runs out.
LESS_MEMORY = (
    "lower forget_batch_size and retain_batch_size, or raise accumulate; or set gradient_checkpointing, offload, or "
    "adapter lora"
)

Verb = TypeVar("Verb", bound=Callable[..., object])


def _listing_settings(function: Verb) -> Verb:
    """Have ``help()`` and a notebook's completion list every setting beside the function's own arguments."""
    signature = inspect.signature(function)
    own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    given = {name: value for name, value in DEFAULTS.items() if name not in signature.parameters}
    settings = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=v) for name, v in given.items()]
    vars(function)["__signature__"] = signature.replace(parameters=[*own, *settings])
    return function


@contextmanager
def _less_memory() -> Iterator[None]:
    """Raises: OutOfMemory: memory ran out, with what to do."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        stated = stated_failure("erase", error, LESS_MEMORY)
        if stated is None or isinstance(error, EraseDiffError):
            raise
        raise stated from error


@_listing_settings
@_less_memory()
def erase(
    pipeline: DiffusionPipeline,
    concept: str | Sequence[str],
    *,
    method: str = "erasediff",
    forget: Pictures | Mapping[str, Pictures] | ConceptImages | None = None,
    retain: Mapping[str, Pictures] | ConceptImages | None = None,
    anchor: str | Mapping[str, str] | None = None,
    preserve: str | Sequence[str] | None = None,
    erase_from: str | None = None,
    before: Sequence[str] = (),
    seed: int = 0,
    generate: int | None = None,
    inference_steps: int | None = None,
    guidance_scale: float | None = None,
    size: tuple[int, int] | None = None,
    passes: int | None = None,
    accelerator: Accelerator | None = None,
    checkpoint: Checkpoint | None = None,
    on_step: OnStep | None = None,
    recipe: Recipe | None = None,
    progress: bool = True,
    cache: Path | str | None = None,
    **settings: Any,
) -> Erased:
    """Take a diffusers pipeline, return one that no longer draws ``concept``; the pipeline given is left as it was.

    It computes where accelerate says; the result is where the pipeline is.

    Args:
        pipeline: any pipeline that ``erasediff.families.family_of`` knows.
        concept: class name or prompt to forget, or several.
        method: a key of ``erasediff.unlearning.METHODS``.
        forget: images to forget: Pillow pictures, or a tensor or array ``(B, C, H, W)``, uint8 in [0, 255] or floating
            in [-1, 1]; of several concepts a mapping; drawn from the model by default. The defaults look at what they
            are of alone, and warn; ``forget_source="forget"`` trains on them.
        retain: images to keep, by concept; drawn from the model under ``preserve`` by default.
        anchor: concept that ``concept`` should draw instead, or a mapping with one for each; ``"nearest"``: of those
            kept the one whose predictions lie nearest, of several words each one's own.
        preserve: concepts to keep where ``retain`` is not given; by default every other class, or of a model that takes
            any prompt the words nearest to ``concept`` by its own text encoder, of those it knows.
        erase_from: the only thing that loses ``concept``: with ``"star"`` a style is forgotten of stars alone, and all
            else keeps it. From words alone.
        before: concepts that the model has forgotten already: to keep them would teach them anew.
        generate: images a concept, where they are drawn from the model; by default 64 of a class, and 16 of a word, two
            under each wording.
        inference_steps: of the sampler that draws these; the model's own by default, of words 20 at most.
        guidance_scale: likewise; the model's own by default.
        size: height and width of pictures, drawn and trained on; the model's own by default.
        passes: instead of ``outer_steps``: as many updates as so many images through the network allow.
        recipe: how ``method="retrain"`` trains.
        progress: show a bar, or print a line now and then where nobody sees one; with ``on_step`` there is neither.
        cache: folder that keeps for the next call what was drawn, latents of pictures and embeddings of prompts, each
            under a name made of its content and of the model: a call that was killed goes on there.
        settings: any fields of :class:`erasediff.unlearning.Settings`, which explains each. The usual ones:
            ``eta`` (how fast the forget loss must shrink), ``outer_steps`` (updates), ``learning_rate``,
            ``forget_batch_size`` and ``retain_batch_size``, ``forget_target`` and ``retain_target`` (what the losses
            aim at), ``trainable`` (which weights change), ``accumulate``, ``gradient_checkpointing`` and ``offload``
            (less memory). For a model that takes words, updates, batches, learning rate and trained weights go by its
            size where they are not given: ``erasediff.unlearning.settings.BY_WORDS``.

    Raises: UnknownConcept; DataError: images that cannot be used; ParamsError: nothing to keep, a concept to forget and
        to keep, an unknown method or setting, or a setting that the method fixes or that changes nothing;
        NonFiniteLoss; ModelError: the model cannot be asked for what the forget target needs; OutOfMemory.
    """
    settings = {k: "none" if v is None and "none" in CHOICES.get(k, ()) else v for k, v in settings.items()}
    if anchor is not None:
        settings = {"forget_target": "anchor", **settings, "anchor": anchor}
    chosen = _chosen(method, settings, {"generate": generate, "passes": passes, "seed": seed})
    cache = None if cache is None else Path(cache)
    family = family_of(pipeline, size)
    check_drawing([], inference_steps, family.num_timesteps, guidance_scale)
    before = names_of(before, "before", family) if before else []
    require_no_adapter(pipeline)
    chosen = by_words(chosen, family, settings) if takes_words(family) else chosen
    accelerator = accelerator or Accelerator()
    shown = progress and on_step is None and accelerator.is_main_process
    say("looking for the words nearest to what is to be forgotten", shown=shown and takes_words(family))
    asked = request(
        family,
        concept,
        preserve=preserve,
        before=before,
        anchor=None if anchor == NEAREST else anchor,
        forget=forget,
        retain=retain,
        accelerator=accelerator,
    )
    _require_askable(family, chosen)
    _require_owner(family, asked, erase_from)
    reads = chosen.reads()
    if not (forget is None or isinstance(forget, ConceptImages) or "forget" in reads):
        why = "give forget_source='forget' to train on them" if reads else f"method {method} reads no pictures"
        warnings.warn(f"the pictures in forget are not looked at, only what they are of: {why}", stacklevel=3)
    how_drawn = HowDrawn(generate, inference_steps, guidance_scale, seed, cache, shown)
    forget_set, retain_set = both_sets(family, asked, reads, how_drawn, accelerator, erase_from)
    if chosen.settings.forget_target == "anchor" and chosen.settings.anchor == NEAREST:
        batch = chosen.settings.forget_batch_size // chosen.settings.accumulate
        found = nearest_anchors(family, forget_set, retain_set, batch=batch, seed=seed, accelerator=accelerator)
        chosen = type(chosen)(dataclasses.replace(chosen.settings, anchor=found))
    sizes = len(forget_set), len(retain_set)
    record = planned(chosen, *sizes, passes=passes, recipe=recipe, mixed_precision=accelerator.mixed_precision)
    record = dataclasses.replace(record, settings={**record.settings, **how_drawn.told(), **told_size(size)})
    retrains = recipe if method == "retrain" else None
    history: list[dict[str, float]] = []
    lora: Lora | None = None

    say("solving in closed form" if isinstance(chosen, ClosedForm) else "encoding pictures and prompts", shown=shown)
    with progress_bar("erasing", record.updates, "update", shown=shown and record.updates > 0) as bar:

        def on_update(step: int, row: dict[str, float]) -> None:
            if retrains:  # its loop is the base's
                row = {"retain_loss": row["loss"], "retain_grad_norm": row["grad_norm"]}
            history.append({"step": step, **row})
            if on_step is not None:
                on_step(step, row)
            bar(step, row)

        how = _How(seed=seed, accelerator=accelerator, checkpoint=checkpoint, on_step=on_update)
        if retrains:
            denoiser = retrain(family, retain_set, retrains, cache=cache, **how)
        elif isinstance(chosen, ClosedForm):
            denoiser = chosen.solve(family, forget_set, retain_set)
        else:
            chosen = chosen.with_updates(record.updates)
            named = [name for name in before if not SAMPLE.fullmatch(name)] if takes_words(family) else []
            denoiser, updates, lora = run_loop(family, forget_set, retain_set, chosen, cache=cache, before=named, **how)
            # A constraint gap that was reached ends a run before its planned updates.
            record = dataclasses.replace(record, updates=updates, passes=passes_of(chosen, updates, *sizes))
    say("comparing predictions before and after", shown=shown)
    change = change_of(family, denoiser, forget_set, retain_set, chosen.settings, seed=seed, accelerator=accelerator)
    if change is not None:
        record = dataclasses.replace(record, concept_change=change.concept, kept_change=change.kept)
    if told := doubt(change, asked.forget, trained=record.updates > 0):
        warnings.warn(told, stacklevel=3)  # the caller's line: the frame between is the decorator's
    given = next(family.denoiser.parameters()).device
    denoiser = denoiser.to(given)

    def made() -> DiffusionPipeline:
        return family.with_denoiser(fused(family.denoiser, denoiser) if lora else denoiser).pipeline

    kept = tuple(filter(None, dict.fromkeys(retain_set.concepts)))
    gone = tuple(of_owner(concept, erase_from)[0] if erase_from else concept for concept in asked.forget)
    erased = made if lora else made()
    return Erased(erased, history, lora, size, record=record, base=pipeline, forgotten=gone, kept=kept)


def _require_owner(family: Family, asked: Request, owner: str | None) -> None:
    """Raises: ParamsError: what alone should lose a concept cannot be said here, or is among what is kept or lost."""
    if owner is None:
        return
    if not isinstance(owner, str) or not owner.strip():
        raise ParamsError(f"erase_from {shown(owner)} names nothing: give one name")
    if not takes_words(family) or asked.forget_set or asked.retain_set:
        raise ParamsError(f"erase_from {shown(owner)} goes with words alone: a model of prompts, and no pictures given")
    if owner in (*asked.forget, *asked.retain):
        raise ParamsError(f"erase_from {shown(owner)} is itself to be forgotten or among what is kept: name another")
    require_read(family.pipeline, [owner])


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
    cache: Path | None = None,
) -> nn.Module:
    """Train a denoiser of the same architecture from new weights on the retain set alone: the gold standard.

    The new weights are those of ``build_pipeline`` at the same seed.

    Args:
        cache: as :func:`erase` takes it.
    """
    accelerator = accelerator or Accelerator()
    network: Any = family.denoiser  # a diffusers model, which nn.Module does not say
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        denoiser = type(network).from_config(network.config)
    with placed(encoders_of(family), accelerator.device):
        images = encoded(family, retain_set.images, cache)
        asked = prepared(family.with_denoiser(denoiser), retain_set.prompts, accelerator.device, cache)
    with placed(encoders_of(family), torch.device("cpu")):
        return train_denoiser(
            asked,
            images,
            retain_set.prompts,
            recipe,
            seed=seed,
            accelerator=accelerator,
            checkpoint=checkpoint,
            on_step=on_step,
        )


def _chosen(method: str, settings: Mapping[str, Any], numbers: Mapping[str, int | None]) -> Method:
    """Raises: ParamsError: as :func:`method_for`; a number out of its range; a keyword that is no setting."""
    for name in settings:
        if name not in DEFAULTS:
            known = [*dict.fromkeys([*DEFAULTS, *inspect.signature(erase).parameters])]
            ends = [setting for setting in known if name and setting.endswith(f"_{name}")]  # "steps": outer_steps
            hint = did_you_mean(ends[0] if ends else name, known) or ": help(erase) lists what it has"
            raise ParamsError(f"erase() has no {name!r}{hint}")
    try:
        require_in_range(numbers)
        return method_for(method, **settings)
    except ValueError as error:
        raise ParamsError(str(error)) from None


def by_words(chosen: Method, family: Family, settings: Mapping[str, Any]) -> Method:
    """Return a method with the settings that suit a model which takes words, where the caller gave none.

    Args: settings: those that were given, by name.
    """
    size = "large" if sum(p.numel() for p in family.denoiser.parameters()) >= LARGE else "small"
    ignored = {*chosen.ignored(), *chosen.fixes, *settings} - {"anchor"}
    if "forget_target" in ignored or chosen.settings.shared_batch or isinstance(chosen, ClosedForm):
        ignored |= set(NEAREST_ANCHOR)
    kind = size, chosen.settings.adapter
    more = {k: v for k, v in {**BY_WORDS[kind], **chosen.by_words.get(kind, {})}.items() if k not in ignored}
    return _chosen(chosen.name, {**settings, **more}, {})
