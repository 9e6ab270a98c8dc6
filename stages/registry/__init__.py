"""Versions, aliases, lineage: the model registry."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def load_pipeline(model: str | Path) -> Any:
    """A plain diffusers pipeline from a folder, ``models:/NAME@ALIAS`` or ``models:/NAME/VERSION``.

    Raises: ModelError: no such model, version, alias or folder. IntegrityError: a file was altered.
        TrackingError: the registry cannot be reached (a folder needs none).
    """
    from stages.diffusion import open_pipeline

    if str(model).startswith("models:"):
        from stages.registry.versions import resolve

        model = resolve(str(model))
    return open_pipeline(model)
