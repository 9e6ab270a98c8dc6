"""A version of the registry leaves the house: its pipeline, with a card for the Hugging Face hub."""

from __future__ import annotations

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

from erasediff.artifacts import new_folder, read_json, write_bytes, write_json
from erasediff.errors import ModelError, shown
from erasediff.families.lora import base_file
from erasediff.records import HUB, LORA_BASE, EffectiveSettings, Origin
from erasediff.registry.card import model_card
from erasediff.registry.lock import stage_params
from erasediff.registry.store import fetch_pipeline_folder
from erasediff.registry.versions import Version, erasures_of, evaluation_of_version, evidence, version_at


def push_version(model: str, repo: str, *, private: bool = True) -> str:
    """Upload what :func:`publish_version` writes, and return its address; the repository is made where there is none.

    Raises: ModelError: the hub refuses it, or cannot be reached. What :func:`publish_version` raises.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HTTPError

    with TemporaryDirectory(prefix="erasediff-hub-") as temporary:
        folder = Path(temporary) / "model"
        version = publish_version(model, repo, folder)
        said = f"{erasures_of(version).what} forgotten: version {version.version} of {version.name}"
        try:
            api = HfApi()
            api.create_repo(repo, private=private, exist_ok=True)
            return str(api.upload_folder(repo_id=repo, folder_path=folder, commit_message=said).commit_url)
        except (HTTPError, OSError, ValueError) as error:
            raise ModelError(
                f"{model} cannot be pushed to {shown(repo)} ({shown(str(error), 200)}): check the name, the network, "
                "and that you may write there (hf auth login, or HF_TOKEN)"
            ) from None


def publish_version(model: str, repo: str, to: Path) -> Version:
    """Write a version's pipeline as a new folder, with ``README.md``: the card that the hub shows.

    The card is made anew. That of the registry names servers and people, and says how to load it from there.

    Args:
        model: ``models:/NAME@ALIAS`` or ``models:/NAME/VERSION``.
        repo: ``ORGANISATION/NAME``: where it is to be loaded from.

    Raises: ModelError: no such version, or nothing tells how it was made and measured. IntegrityError: it was altered.
        TrackingError: the registry cannot be reached.
    """
    version = version_at(model)
    evaluation, erasures = evaluation_of_version(version), erasures_of(version)
    ran = EffectiveSettings.from_json(evidence(version, "erase.json"), f"erase.json of {version.uri}")
    pretrain = stage_params(evidence(version, "dvc.lock"), "pretrain")
    with new_folder(to) as folder:
        shutil.copytree(fetch_pipeline_folder(version.uri), folder, dirs_exist_ok=True)
        base = _lora_base(folder)
        _unname_folders(folder)
        card = model_card(
            evaluation,
            erasures,
            ran,
            pretrain if pretrain.get("source") in ("train", "hub") else {},  # a folder's name is nobody's business
            {"version": f"{version.name}, version {version.version}"},
            {name: value for name, value in version.tags.items() if name.endswith("_sha256")},
            uri=f"{HUB}{repo}",
            example=version.tags.get("example_concept", ""),
            lora_base=base,
        )
        write_bytes(folder / "README.md", card.encode())
    return version


def _lora_base(folder: Path) -> str:
    """Where the base of a LoRA's folder is; empty where it is no LoRA. A base that nobody else has is not named."""
    if (file := base_file(folder)) is None:
        return ""
    origin = Origin.read(file)
    return origin.where if origin.where.startswith(HUB) else f"the model with SHA-256 {origin.sha256}"


def _unname_folders(folder: Path) -> None:
    """Take out where models were loaded from here: diffusers notes it, and so does a LoRA beside its base."""
    for file in folder.rglob("*.json"):
        content = read_json(file)
        if file.name == LORA_BASE and not Origin.read(file).where.startswith(HUB):
            file.unlink()
        elif isinstance(content, dict) and content.pop("_name_or_path", None) is not None:
            write_json(file, content)
