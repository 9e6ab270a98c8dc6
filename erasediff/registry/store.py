"""The models that the registry's store holds, fetched and checked against the hash they were registered with."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from pathlib import Path

from erasediff import checkout
from erasediff.artifacts import sha256_file, sha256_folder, sha256_text, verify_folder
from erasediff.errors import IntegrityError, ModelError
from erasediff.registry.versions import UPLOAD, Version, registry_client, version_at
from erasediff.tracking import server

#: Tag of a version: :func:`files_digest`.
FILES_TAG = "files_sha256"
#: Of a stored model: the pipeline, the card, what MLflow notes where it fetches one, and what Python compiles.
NOT_CODE = ("artifacts", "README.md", "registered_model_meta", "__pycache__")


def fetch_pipeline_folder(uri: str) -> Path:
    """``models:/NAME@ALIAS`` or ``models:/NAME/VERSION`` to a local diffusers folder, checked against its hash.

    From a server it is downloaded once a version, to ``.work/models`` of the project.

    Raises: ModelError: no such model, version or alias. IntegrityError: the stored model was altered. TrackingError.
    """
    version = version_at(uri)
    expected = registered_sha256(version)
    if _is_local():
        return _downloaded(version, expected, None)
    # No tag may lead out of the cache: it is the server's word.
    cached = _cache() / re.sub(r"[^0-9a-f]", "", expected)
    if cached.is_dir() and sha256_folder(cached) == expected:
        return cached
    with tempfile.TemporaryDirectory(dir=_cache(), prefix=".") as temporary:
        folder = _downloaded(version, expected, temporary)
        shutil.rmtree(cached, ignore_errors=True)
        folder.rename(cached)
    return cached


def verify_stored(version: Version) -> None:
    """Fetch what the store holds of a version, past the local cache, and check it against its hashes: weights and code.

    Raises: IntegrityError: it was altered, or is gone. ModelError, TrackingError.
    """
    expected = registered_sha256(version)
    quiet = server.mlflow_settings({"MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false"})
    with quiet, tempfile.TemporaryDirectory(dir=_cache(), prefix=".") as temporary:
        if FILES_TAG not in version.tags:
            again = "register it again, dvc repro --force --single-item register"
            raise ModelError(f"{_label(version)} has no hash of its code: {again}")
        _downloaded(version, expected, None if _is_local() else temporary)


def files_digest(uri: str) -> str:
    """One digest of a stored model's files but pipeline and card: code, requirements, evidence, MLflow's own.

    They are what MLflow runs when it serves the model. The pipeline has a hash of its own (``erased_sha256``).

    Raises: TrackingError.
    """
    import mlflow

    hashes: dict[str, str] = {}
    with registry_client(UPLOAD), tempfile.TemporaryDirectory() as temporary:
        for entry in mlflow.artifacts.list_artifacts(uri):
            if entry.path in NOT_CODE:
                continue
            to = None if _is_local() else temporary
            local = Path(mlflow.artifacts.download_artifacts(f"{uri}/{entry.path}", dst_path=to))
            files = [p for p in local.rglob("*") if p.is_file()] if local.is_dir() else [local]
            hashes |= {f"{entry.path}/{p.relative_to(local).as_posix()}": sha256_file(p) for p in sorted(files)}
    return sha256_text(json.dumps(hashes, sort_keys=True))


def registered_sha256(version: Version) -> str:
    """The hash that a version was registered with. Raises: ModelError: it has none."""
    if (expected := version.tags.get("erased_sha256")) is None:
        raise ModelError(
            f"version {version.version} of {version.name} was not registered by this pipeline (no erased_sha256 tag)"
        )
    return expected


def _is_local() -> bool:
    """True if the store's own files can be read where they are."""
    return server.tracking_uri().startswith("sqlite:")


def _cache() -> Path:
    folder = checkout.project_root() / ".work" / "models"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _label(version: Version) -> str:
    return f"version {version.version} of {version.name}"


def _downloaded(version: Version, expected: str, to: str | None) -> Path:
    """The pipeline's folder, in the store itself where that is local, else in ``to``; all files are checked.

    Raises: IntegrityError: a file was altered, added or taken away.
    """
    import mlflow

    label = _label(version)
    # Not the whole model: into the root of a local one MLflow would write a file.
    stored = f"{version.uri}/artifacts"
    with registry_client(UPLOAD):
        if not mlflow.artifacts.list_artifacts(stored):  # the registry answers: it is no outage
            raise IntegrityError(f"the files of {label} are gone from the store")
        local = Path(mlflow.artifacts.download_artifacts(stored, dst_path=to))
    folders = [p for p in local.iterdir() if p.is_dir()]
    if len(folders) != 1 or sha256_folder(folders[0]) != expected:
        raise IntegrityError(f"{label} is not what was registered (SHA-256 differs): do not use it")
    if FILES_TAG in version.tags and files_digest(version.uri) != version.tags[FILES_TAG]:
        raise IntegrityError(f"the code files of {label} are not what was registered (SHA-256 differs): do not use it")
    verify_folder(folders[0])
    return folders[0]
