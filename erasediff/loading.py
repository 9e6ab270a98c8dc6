"""A pipeline from wherever it is: a diffusers folder, or a version of the registry."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


def load(model: str | Path, concepts: list[str] | None = None) -> DiffusionPipeline:
    """A plain diffusers pipeline from a folder, ``models:/NAME@ALIAS`` or ``models:/NAME/VERSION``.

    Args:
        concepts: names of the class embeddings, for a folder that does not name them itself.

    Raises: ModelError: no such model, version, alias or folder. IntegrityError: a file was altered.
        TrackingError: the registry cannot be reached (a folder needs none).
    """
    from erasediff.families import open_pipeline

    if str(model).startswith("models:"):
        from erasediff.registry.store import fetch_pipeline_folder

        model = fetch_pipeline_folder(str(model))
    return open_pipeline(model, concepts)
