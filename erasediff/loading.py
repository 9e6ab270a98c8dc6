"""A pipeline from wherever it is: a diffusers folder, the hub, a version of the registry, or this package."""

from __future__ import annotations

import json
import re
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from erasediff.artifacts import read_json, read_object
from erasediff.errors import IntegrityError, ModelError, shown
from erasediff.records import ERASURE, HUB, REGISTRY, Origin

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

#: Packages that reading it needs.
NEEDED = ("mlflow", "pydantic")
#: In a base of the pipeline: what it had forgotten before it came there.
ERASURES = "erasures.json"
#: The text-to-image model that comes along, where no folder has that name.
EMBEDDED: Literal["shapes"] = "shapes"


def load(
    model: str | Path, concepts: list[str] | None = None, *, config: str | Path | None = None
) -> DiffusionPipeline:
    """A plain diffusers pipeline.

    Args:
        model: a folder, a single ``.safetensors`` file or a folder of one with its configuration,
            ``models:/NAME@ALIAS``, ``models:/NAME/VERSION``, ``hf://ORGANISATION/NAME@COMMIT``, or ``shapes``, the
            embedded example. A LoRA that names its base is put on that.
        concepts: names of the class embeddings, for a model that does not name them itself.
        config: of a single file: a diffusers folder that says how such a model is built. By default the file's own
            folder where it has a ``model_index.json``, else what the hub has of it.

    Raises: ModelError: no such model, version, alias or folder, or the hub cannot be reached. IntegrityError: a file
        was altered, or the base of a LoRA is another now. TrackingError: the registry cannot be reached.
    """
    require_model(model, config)
    from erasediff.families import open_pipeline
    from erasediff.families.single_file import open_single_file

    if _is_embedded(model):
        from erasediff.examples import open_example

        return open_example(EMBEDDED).pipeline
    if Path(model).is_file():
        return open_single_file(model, config)
    if single := _single_file_in(Path(model)):
        return open_single_file(single, model)
    if str(model).startswith(REGISTRY):
        from erasediff.registry.store import fetch_pipeline_folder

        model = fetch_pipeline_folder(str(model))
    elif str(model).startswith(HUB):
        model = _from_hub(str(model))
    return _on_its_base(Path(model)) or open_pipeline(model, concepts)


def origin_of(model: str, pipeline: DiffusionPipeline) -> Origin:
    """A model that was loaded, by reference: where it is, and what of it tells it from another.

    Raises: as :func:`load`.
    """
    if model.startswith(REGISTRY):  # its files are checked wherever it is fetched
        from erasediff.registry.store import registered_sha256
        from erasediff.registry.versions import version_at

        return Origin(model, registered_sha256(version_at(model)))
    from erasediff.families.weights import weights_sha256

    return Origin(model, weights_sha256(pipeline))


def _on_its_base(folder: Path) -> DiffusionPipeline | None:
    """The base that a folder with a LoRA names, the LoRA fused; ``None``: it is no such folder."""
    from erasediff.families.lora import base_file, fused_lora

    if (file := base_file(folder)) is None:
        return None
    named = Origin.read(file)
    told = f"{folder} is a LoRA for the base {shown(named.where)}"
    place = _place(named.where)
    if Path(place).resolve() == folder.resolve():
        raise IntegrityError(f"{told}, which is the LoRA itself: name its base in {file.name}")
    try:
        pipeline = load(place)
        found = origin_of(named.where, pipeline).sha256
    except ModelError as error:
        raise ModelError(f"{told}, which cannot be had ({shown(str(error), 300)}): put it there") from None
    if found != named.sha256:
        raise IntegrityError(
            f"{told} with SHA-256 {named.sha256[:12]}…, and what is there has {found[:12]}…: put the former there"
        )
    return fused_lora(pipeline, folder)


def _place(where: str) -> str:
    """A folder or file as it is, or as it lies in the checkout: a server runs in a folder of its own."""
    path = Path(where)
    if where.startswith((REGISTRY, HUB)) or path.is_absolute() or path.exists():
        return where
    from erasediff.checkout import project_root

    there = project_root() / path
    return str(there) if there.exists() else where


def require_model(model: str | Path, config: str | Path | None = None) -> None:
    """Tell a model that cannot be there, before anything is imported. Raises: ModelError."""
    if not isinstance(model, str | Path):
        raise ModelError(f"{shown(model)} names no model: give a folder, or a name as a text")
    if str(model).startswith(REGISTRY) and not all(map(find_spec, NEEDED)):
        raise ModelError(
            f"{shown(str(model))} is of the registry, which the bare library cannot read: "
            "pip install 'erasediff-pipeline[pipeline]'"
        )
    if Path(model).is_file():
        if config is not None and not Path(config).is_dir():
            raise ModelError(f"config {shown(str(config))} is no folder: give a diffusers folder of the file's kind")
        return
    if config is not None:
        raise ModelError(f"config {shown(str(config))} is for a single file, and {shown(str(model))} is none: leave it")
    if str(model).startswith((REGISTRY, HUB)) or Path(model).is_dir() or _is_embedded(model):
        return
    like_hub = re.fullmatch(r"[\w.-]+/[\w.-]+", str(model)) is not None and not Path(model).parent.exists()
    raise ModelError(
        f"{shown(str(model))} is no folder: give a diffusers folder, a single file, models:/NAME@ALIAS, "
        f"models:/NAME/VERSION, hf://ORGANISATION/NAME@COMMIT or {EMBEDDED}"
        f"{f'; did you mean {HUB}{model}?' if like_hub else ''}"
    )


def _is_embedded(model: str | Path) -> bool:
    return str(model) == EMBEDDED and not Path(model).exists()


def _single_file_in(folder: Path) -> Path | None:
    """The only weights of a folder with configurations: a file beside its ``model_index.json``."""
    files = [*folder.glob("*.safetensors"), *folder.glob("*/*.safetensors")]
    alone = len(files) == 1 and files[0].parent == folder and (folder / "model_index.json").is_file()
    return files[0] if alone else None


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
    """Concepts and starts of sample ids that a model has forgotten before it came here, sorted.

    A version of the registry says so, a folder by :data:`ERASURE` or :data:`ERASURES`, a single file by its metadata;
    of one that does not, nothing is known: ``[]``.

    Args:
        model: as :func:`load` takes it; ``None``: it is trained anew.

    Raises: ModelError: no such version, or the hub cannot be reached. IntegrityError: it does not say, or not in a way
        that can be read. TrackingError: the registry cannot be reached.
    """
    if model is None:
        return []
    if model.startswith(REGISTRY):
        from erasediff.registry.versions import erasures_of, version_at

        return erasures_of(version_at(model)).all
    folder = Path(_from_hub(model) if model.startswith(HUB) else model)
    lists: dict[str, object] = {}
    if record := _erasure_in(folder):
        lists |= {f"{ERASURE}: {key}": record.get(key) for key in ("concepts", "before")}
    if (folder / ERASURES).exists():
        lists[ERASURES] = read_json(folder / ERASURES)
    return sorted({name for where, names in lists.items() for name in _texts(names, f"{folder}/{where}")})


def _erasure_in(model: Path) -> dict[str, object]:
    if not model.is_file():
        return read_object(model / ERASURE) if (model / ERASURE).exists() else {}
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(model, framework="np") as file:
            said = (file.metadata() or {}).get(ERASURE, "{}")
        record = json.loads(said)
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise IntegrityError(f"{model} cannot be read ({shown(str(error), 150)}): fetch or make it again") from None
    if not isinstance(record, dict):
        raise IntegrityError(f"{model} says {shown(said)} of what was erased: fetch or make it again")
    return record


def _texts(names: object, where: str) -> list[str]:
    if isinstance(names, list) and all(isinstance(name, str) for name in names):
        return names
    raise IntegrityError(f"{where} does not list what was forgotten, it is {shown(names)}: take the folder anew")
