"""Versions and aliases of the MLflow registry, as they are read."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from erasediff.errors import EraseDiffError, IntegrityError, ModelError, TrackingError
from erasediff.records import Erasures, Evaluation, Json
from erasediff.registry.lock import yaml_object
from erasediff.tracking import server

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

DIGEST_TAG = "lineage_digest"
#: Before hashes, run ids and what only programs read: MLflow shows tags from A to Z, people want the others first.
LAST = "x."
#: Of a registered model, as params.yaml takes it: it becomes part of a file's name and of MLflow's filters.
NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"
#: Folder of a stored model with the files that tell how it was made and measured.
EVIDENCE = "evidence"
#: Seconds and retries of a look-up, and of sending a model.
LOOK_UP, UPLOAD = (10, 1), (120, 2)


@dataclass(frozen=True)
class Version:
    """A version of a registered model.

    Attributes:
        version: its number as text.
        tags: without the prefix ``x.`` that hashes and run ids have in MLflow.
    """

    name: str
    version: str
    tags: dict[str, str]
    run_id: str
    description: str

    @property
    def uri(self) -> str:
        """``models:/NAME/VERSION``."""
        return f"models:/{self.name}/{self.version}"


@contextmanager
def registry_client(patience: tuple[int, int] = LOOK_UP) -> Iterator[MlflowClient]:
    """A client.

    Args:
        patience: seconds and retries of a call.

    Raises: TrackingError: the registry cannot be used, in one line.
    """
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        with server.patience(*patience):
            yield server.client()
    except EraseDiffError:
        raise
    except (MlflowException, SQLAlchemyError, OSError, ImportError) as error:
        where = server.without_credentials(server.tracking_uri())
        raise TrackingError(f"the MLflow registry at {where} cannot be used: {server.short_reason(error)}") from None


def _is_missing(error: MlflowException) -> bool:
    return bool(error.error_code == "RESOURCE_DOES_NOT_EXIST")


def valid_name(name: str) -> str:
    """A model's name as it is. Raises: ModelError: no name that this pipeline registers under."""
    if not re.fullmatch(NAME, name):
        raise ModelError(f"{name!r} is no name of a model: use letters, digits, '.', '_' and '-'")
    return name


def find_version(name: str, digest: str) -> str | None:
    """The oldest version of ``name`` with this lineage digest. Raises: TrackingError."""
    with registry_client() as client:
        tagged = (LAST + DIGEST_TAG, DIGEST_TAG)  # the latter before 0.2
        found = [client.search_model_versions(f"name = '{name}' and tags.`{tag}` = '{digest}'") for tag in tagged]
        return min((str(v.version) for some in found for v in some), key=int, default=None)


def stored_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """Tags of a version as MLflow gets them: hashes, run ids and what only programs read come last."""

    def name(key: str) -> str:
        last = key.endswith("_sha256") or key.startswith("run.") or key in (DIGEST_TAG, "concepts", "example_concept")
        return LAST + key if last else key

    return {name(key): value for key, value in tags.items()}


def erasures_of(version: Version) -> Erasures:
    """All that a version has forgotten. Raises: IntegrityError: it does not say so."""
    return Erasures.from_tags(version.tags, f"version {version.version} of {version.name}")


def aliases(name: str) -> dict[str, str]:
    """Aliases of a registered model with their versions; empty where there is no such model. Raises: TrackingError."""
    return _aliases(name) or {}


def _aliases(name: str) -> dict[str, str] | None:
    from mlflow.exceptions import MlflowException

    valid_name(name)
    with registry_client() as client:
        try:
            return {a: str(v) for a, v in client.get_registered_model(name).aliases.items()}
        except MlflowException as error:
            if _is_missing(error):
                return None
            raise


def _version(name: str, version: str) -> Version | None:
    from mlflow.exceptions import MlflowException

    with registry_client() as client:
        try:
            found = client.get_model_version(name, version)
            tags = {key.removeprefix(LAST): value for key, value in found.tags.items()}
            return Version(name, str(found.version), tags, found.run_id or "", found.description or "")
        except MlflowException as error:
            if _is_missing(error):
                return None
            raise


def version_exists(name: str, version: str) -> bool:
    """True if the registry has this version: it may have been wiped since DVC cached the stage.

    Raises: TrackingError.
    """
    return _version(name, version) is not None


def require_model(name: str) -> dict[str, str]:
    """:func:`aliases` of a model that is there.

    Raises: ModelError: the registry has no model of this name; the message lists those that it has. TrackingError.
    """
    if (there := _aliases(name)) is not None:
        return there
    with registry_client() as client:
        known = ", ".join(m.name for m in client.search_registered_models(max_results=20)) or "none"
    raise ModelError(f"the registry has no model {name!r}; it has: {known}")


def version_of(name: str, version_or_alias: str) -> Version:
    """Look up a version in the registry.

    Raises: ModelError: no such model, version or alias; the message lists what there is. TrackingError.
    """
    asked = str(version_or_alias)
    there = require_model(name)
    if not asked.isdigit() and asked not in there:
        raise ModelError(f"{name} has no alias {asked!r}; it has: {', '.join(sorted(there)) or 'none'}")
    found = _version(name, there.get(asked, asked))
    if found is None:
        raise ModelError(f"the registry has no version {asked} of {name}")
    return found


def version_at(uri: str) -> Version:
    """The version of ``models:/NAME@ALIAS`` or ``models:/NAME/VERSION``. Raises: ModelError, TrackingError."""
    match = re.fullmatch(rf"models:/({NAME})(?:@([\w.-]+)|/(\d+))", uri)
    if not match:
        raise ModelError(f"{uri!r} is no model: give a folder, models:/NAME@ALIAS or models:/NAME/VERSION")
    name, alias, number = match.groups()
    return version_of(name, alias or number)


def set_tag(name: str, version: str, key: str, value: str) -> None:
    """Tag a version. Raises: TrackingError."""
    with registry_client() as client:
        client.set_model_version_tag(name, version, key, value)


def evidence(version: Version, file: str) -> Json:
    """Content of a JSON or YAML file that was put beside the model when the version was registered.

    Raises: ModelError: there is no such file. IntegrityError: it is no object. TrackingError.
    """
    content = _beside(version, file) or attached(version.run_id, file)
    label = f"version {version.version} of {version.name}"
    if content is None:
        raise ModelError(
            f"{label} has no {file}: it was not registered by this pipeline, or its run {version.run_id} was deleted"
        )
    return yaml_object(content, f"{file} of {label}")


def _beside(version: Version, file: str) -> bytes | None:
    """A file of the evidence that is stored with the model; a version of before 0.2 has none."""
    import mlflow

    folder = f"{version.uri}/{EVIDENCE}"
    with registry_client(), tempfile.TemporaryDirectory() as temporary:
        if f"{EVIDENCE}/{file}" not in {entry.path for entry in mlflow.artifacts.list_artifacts(folder)}:
            return None
        with server.mlflow_settings({"MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false"}):
            return Path(mlflow.artifacts.download_artifacts(f"{folder}/{file}", dst_path=temporary)).read_bytes()


def evaluation_of_version(version: Version) -> Evaluation:
    """How a version was evaluated when it was registered.

    Raises: ModelError: there is no evaluation. IntegrityError: it cannot be read. TrackingError.
    """
    where = f"evaluation.json of version {version.version} of {version.name}"
    return Evaluation.from_json(evidence(version, "evaluation.json"), where)


def earlier_evaluations(name: str, version: str, most: int = 6) -> dict[str, Evaluation]:
    """How the versions before one were evaluated, by what a page calls them, the oldest of the last few first.

    One that has no evaluation, or none that can be read any more, is left out. Raises: TrackingError.
    """
    with registry_client() as client:
        numbers = sorted(int(v.version) for v in client.search_model_versions(f"name = '{name}'"))
    found = {}
    for number in [n for n in numbers if n < int(version)][-most:]:
        try:
            found[f"version {number}"] = evaluation_of_version(version_of(name, str(number)))
        except (ModelError, IntegrityError):  # of another pipeline, or its run was deleted
            continue
    return found


def attached(run_id: str, file: str) -> bytes | None:
    """A file of an MLflow run; ``None`` where it has none of that name, or is gone. Raises: TrackingError."""
    import mlflow
    from mlflow.exceptions import MlflowException

    with tempfile.TemporaryDirectory() as temporary, registry_client() as client:
        try:
            there = {entry.path for entry in client.list_artifacts(run_id)}
        except MlflowException as error:
            if _is_missing(error):
                return None
            raise
        if file not in there:
            return None
        with server.mlflow_settings({"MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false"}):
            path = mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path=file, dst_path=temporary)
        return Path(path).read_bytes()
