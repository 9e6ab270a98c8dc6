"""A pipeline from wherever it is: a diffusers folder, the Hugging Face hub, or a version of the registry."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

REGISTRY = "models:"
#: How a model of the hub is named: ``hf://ORGANISATION/NAME@COMMIT``.
HUB = "hf://"


def load(model: str | Path, concepts: list[str] | None = None) -> DiffusionPipeline:
    """A plain diffusers pipeline.

    Args:
        model: a folder, ``models:/NAME@ALIAS``, ``models:/NAME/VERSION``, or ``hf://ORGANISATION/NAME@COMMIT``.
        concepts: names of the class embeddings, for a model that does not name them itself.

    Raises: ModelError: no such model, version, alias or folder. IntegrityError: a file was altered.
        TrackingError: the registry cannot be reached (a folder needs none).
    """
    from erasediff.families import open_pipeline

    if str(model).startswith(REGISTRY):
        from erasediff.registry.store import fetch_pipeline_folder

        model = fetch_pipeline_folder(str(model))
    elif str(model).startswith(HUB):
        from huggingface_hub import snapshot_download

        repo, _, revision = str(model).removeprefix(HUB).partition("@")
        model = snapshot_download(repo, revision=revision or None)
    return open_pipeline(model, concepts)


def erased_before(model: str | None) -> list[str]:
    """Concepts and starts of sample ids that a version of the registry has forgotten.

    Args:
        model: as :func:`load` takes it. Of one from elsewhere, or trained anew (``None``), nothing is known: ``[]``.

    Raises: ModelError: no such version. TrackingError: the registry cannot be reached.
    """
    if model is None or not model.startswith(REGISTRY):
        return []
    from erasediff.records import Erasures
    from erasediff.registry.versions import version_at

    return Erasures.from_tags(version_at(model).tags).all
