"""A pipeline from wherever it is: a diffusers folder, the Hugging Face hub, or a version of the registry."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from erasediff.errors import ModelError, shown

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

REGISTRY = "models:"
#: Packages that reading it needs.
NEEDED = ("mlflow", "pydantic")
#: How a model of the hub is named: ``hf://ORGANISATION/NAME@COMMIT``.
HUB = "hf://"


def load(model: str | Path, concepts: list[str] | None = None) -> DiffusionPipeline:
    """A plain diffusers pipeline.

    Args:
        model: a folder, ``models:/NAME@ALIAS``, ``models:/NAME/VERSION``, or ``hf://ORGANISATION/NAME@COMMIT``.
        concepts: names of the class embeddings, for a model that does not name them itself.

    Raises: ModelError: no such model, version, alias or folder, or the hub cannot be reached. IntegrityError: a file
        was altered. TrackingError: the registry cannot be reached.
    """
    require_model(model)
    from erasediff.families import open_pipeline

    if str(model).startswith(REGISTRY):
        from erasediff.registry.store import fetch_pipeline_folder

        model = fetch_pipeline_folder(str(model))
    elif str(model).startswith(HUB):
        model = _from_hub(str(model))
    return open_pipeline(model, concepts)


def require_model(model: str | Path) -> None:
    """Tell a model that cannot be there, before anything is imported. Raises: ModelError."""
    if not isinstance(model, str | Path):
        raise ModelError(f"{shown(model)} names no model: give a folder, or a name as a text")
    if str(model).startswith(REGISTRY) and not all(map(find_spec, NEEDED)):
        raise ModelError(
            f"{shown(str(model))} is of the registry, which the bare library cannot read: "
            "pip install 'erasediff-pipeline[pipeline]'"
        )
    if str(model).startswith((REGISTRY, HUB)) or Path(model).is_dir():
        return
    if Path(model).is_file():
        raise ModelError(
            f"{model} is a single file: StableDiffusionPipeline.from_single_file({str(model)!r}) opens it in diffusers "
            "(any pipeline class has that, and takes config=FOLDER where there is no network); "
            "give the folder that its save_pretrained(FOLDER) writes"
        )
    like_hub = re.fullmatch(r"[\w.-]+/[\w.-]+", str(model)) is not None
    raise ModelError(
        f"{shown(str(model))} is no folder: give a diffusers folder, models:/NAME@ALIAS, models:/NAME/VERSION "
        f"or hf://ORGANISATION/NAME@COMMIT{f'; did you mean {HUB}{model}?' if like_hub else ''}"
    )


def _from_hub(model: str) -> str:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError

    repo, _, revision = model.removeprefix(HUB).partition("@")
    try:
        return snapshot_download(repo, revision=revision or None)
    except GatedRepoError:
        raise ModelError(
            f"{shown(model)} is gated: accept its terms at https://huggingface.co/{repo}, then hf auth login, or set "
            "HF_TOKEN"
        ) from None
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{shown(model)} cannot be fetched ({shown(str(error), 200)}): check its name and commit, and the network"
        ) from None


def erased_before(model: str | None) -> list[str]:
    """Concepts and starts of sample ids that a version of the registry has forgotten.

    Args:
        model: as :func:`load` takes it. Of one from elsewhere, or trained anew (``None``), nothing is known: ``[]``.

    Raises: ModelError: no such version. IntegrityError: it does not say. TrackingError: the registry cannot be reached.
    """
    if model is None or not model.startswith(REGISTRY):
        return []
    from erasediff.registry.versions import erasures_of, version_at

    return erasures_of(version_at(model)).all
