"""Models for a suite that are erased on the spot, by method."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from erasediff.artifacts import new_folder
from erasediff.errors import ModelError, ParamsError, did_you_mean, shown
from erasediff.evaluation.suites.suite import Setting
from erasediff.families import open_pipeline
from erasediff.unlearning.erasing import erase
from erasediff.unlearning.methods import METHODS
from erasediff.unlearning.settings import read_setting

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

#: Gives a model.
Erasing = Callable[[], "DiffusionPipeline"]
#: Methods by other names, and what they are.
VARIANTS: dict[str, dict[str, Any]] = {"lora": {"method": "erasediff", "adapter": "lora"}}
#: The model itself, and one that never saw the concept, from ``--data``.
BASE, RETRAINED = "base", "retrained"


def eraser(
    method: str, setting: Setting, seed: int, data: Path | None, kept: Path
) -> Callable[[DiffusionPipeline, tuple[str, ...]], DiffusionPipeline]:
    """What erases concepts from a base, one request after another; models on the way are kept, to go on from.

    Args:
        method: of :data:`erasediff.unlearning.METHODS`, ``lora``, ``base`` (nothing is erased), or ``retrained`` (the
            folder ``DIR/retrained/CONCEPT`` of ``--data DIR``). Settings of :func:`erasediff.erase` may follow:
            ``esd:learning_rate=2e-4,trainable=xattn``.
        kept: folder for the models of several requests.

    Raises: ParamsError: no such method, or no such setting.
    """
    name, _, settings = method.partition(":")
    known = [BASE, RETRAINED, *VARIANTS, *(name for name in METHODS if name != "retrain")]
    if name not in known:
        raise ParamsError(f"no method {shown(repr(name))}{did_you_mean(name, known)}; there are: {', '.join(known)}")
    if settings and name in (BASE, RETRAINED):
        raise ParamsError(f"{name} erases nothing: {shown(settings)} would change nothing")
    how: dict[str, Any] = {"method": name, **VARIANTS.get(name, {}), **setting.settings.get(name, {})}
    how |= dict(read_setting(text) for text in settings.split(",") if text)

    def erased(base: DiffusionPipeline, concepts: tuple[str, ...]) -> DiffusionPipeline:
        if method == BASE:
            return base
        if method == RETRAINED:
            return _retrained(data, concepts)
        if len(concepts) == 1:
            return _one(base, concepts)
        folder = kept / f"{method}-{seed}-{'+'.join(concepts)}"
        if not folder.exists():
            pipeline = _one(erased(base, concepts[:-1]), concepts)
            with new_folder(folder) as place:
                pipeline.save_pretrained(place)
        return open_pipeline(folder)

    def _one(start: DiffusionPipeline, concepts: tuple[str, ...]) -> DiffusionPipeline:
        return erase(start, concepts[-1], before=concepts[:-1], seed=seed, progress=False, **how).pipeline

    return erased


def _retrained(data: Path | None, concepts: tuple[str, ...]) -> DiffusionPipeline:
    folder = None if data is None else data / RETRAINED / "+".join(concepts)
    if folder is None or not folder.is_dir():
        raise ModelError(
            f"there is no model that never saw {', '.join(concepts)}: give --data DIR with DIR/{RETRAINED}/"
            f"{'+'.join(concepts)}, or leave out --methods {RETRAINED}"
        )
    return open_pipeline(folder)
