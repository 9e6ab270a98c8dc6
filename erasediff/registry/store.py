"""The models that the registry's store holds, fetched and checked against the hash they were registered with."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path

from erasediff import checkout
from erasediff.artifacts import sha256_file, sha256_folder, sha256_text, verify_folder
from erasediff.errors import IntegrityError, ModelError
from erasediff.registry.versions import UPLOAD, Version, registry_client, version_at
from erasediff.tracking import server

#: Tag of a version: :func:`files_digest`.
FILES_TAG = "files_sha256"
#: Of a stored model: the pipeline, the card, and what MLflow notes where it fetches one.
NOT_CODE = ("artifacts", "README.md", "registered_model_meta")
#: Folder of what Python compiles, beside any code that is run where it is stored.
COMPILED = "__pycache__"


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
    _require_code_hash(version)
    with tempfile.TemporaryDirectory(dir=_cache(), prefix=".") as temporary:
        _downloaded(version, expected, None if _is_local() else temporary)


def verified_copy(version: Version, to: Path) -> Path:
    """A copy of the whole stored model, checked after it was copied: what runs of it is what was registered.

    Compiled code is left out: no hash covers it, and Python would run it in the place of the source.

    Args:
        to: new folder.

    Raises: IntegrityError: the stored model was altered, or is gone. ModelError, TrackingError.
    """
    import mlflow

    expected = registered_sha256(version)
    _require_code_hash(version)
    to.mkdir(parents=True)
    with _quiet(), registry_client(UPLOAD):
        _require_stored(version)
        copy = Path(mlflow.artifacts.download_artifacts(version.uri, dst_path=str(to)))
    for compiled in list(copy.rglob(COMPILED)):
        shutil.rmtree(compiled, ignore_errors=True)  # what is left nevertheless counts below
    _require_registered(version, copy / "artifacts", expected)
    _require_code(version, _digest({path.name: path for path in copy.iterdir() if path.name not in NOT_CODE}))
    return copy


def files_digest(uri: str) -> str:
    """One digest of a stored model's files but pipeline and card: code, requirements, evidence, MLflow's own.

    They are what MLflow runs when it serves the model. The pipeline has a hash of its own (``erased_sha256``).

    Raises: TrackingError.
    """
    import mlflow

    with _quiet(), registry_client(UPLOAD), tempfile.TemporaryDirectory() as temporary:
        to = None if _is_local() else temporary
        code = [e.path for e in mlflow.artifacts.list_artifacts(uri) if e.path not in (*NOT_CODE, COMPILED)]
        local = {name: Path(mlflow.artifacts.download_artifacts(f"{uri}/{name}", dst_path=to)) for name in code}
        return _digest(local, without=COMPILED)


def _digest(code: Mapping[str, Path], without: str = "") -> str:
    """One digest of files and folders, by name, but folders called ``without`` and what is in them."""
    hashes: dict[str, str] = {}
    for name, path in code.items():
        files = [p for p in path.rglob("*") if p.is_file()] if path.is_dir() else [path]
        inside = {p: p.relative_to(path) for p in files}
        hashes |= {f"{name}/{at.as_posix()}": sha256_file(p) for p, at in inside.items() if without not in at.parts}
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

    # Not the whole model: into the root of a local one MLflow would write a file.
    with _quiet(), registry_client(UPLOAD):
        _require_stored(version)
        local = Path(mlflow.artifacts.download_artifacts(f"{version.uri}/artifacts", dst_path=to))
    pipeline = _require_registered(version, local, expected)
    if FILES_TAG in version.tags:
        _require_code(version, files_digest(version.uri))
    return pipeline


def _require_stored(version: Version) -> None:
    """Raises: IntegrityError: the store has no pipeline of a version that the registry has."""
    import mlflow

    if not mlflow.artifacts.list_artifacts(f"{version.uri}/artifacts"):  # the registry answers: it is no outage
        raise IntegrityError(f"the files of {_label(version)} are gone from the store")


def _require_registered(version: Version, artifacts: Path, expected: str) -> Path:
    """The pipeline's folder. Raises: IntegrityError: it is not what was registered."""
    folders = [p for p in artifacts.iterdir() if p.is_dir()]
    if len(folders) != 1 or sha256_folder(folders[0]) != expected:
        raise IntegrityError(f"{_label(version)} is not what was registered (SHA-256 differs): do not use it")
    verify_folder(folders[0])
    return folders[0]


def _require_code_hash(version: Version) -> None:
    """Raises: ModelError: a version of an earlier release, or of a register that was killed."""
    if FILES_TAG not in version.tags:
        again = "register it again, dvc repro --force --single-item register"
        raise ModelError(f"{_label(version)} has no hash of its code: {again}")


def _require_code(version: Version, found: str) -> None:
    """Raises: IntegrityError: a digest of code is not that of the version."""
    if found != version.tags[FILES_TAG]:
        told = f"the code files of {_label(version)} are not what was registered (SHA-256 differs): do not use it"
        raise IntegrityError(told)


def _quiet() -> AbstractContextManager[None]:
    return server.mlflow_settings({"MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false"})
