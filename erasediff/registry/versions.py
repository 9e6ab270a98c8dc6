"""Versions and aliases of the MLflow registry, as they are read."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from erasediff.errors import EraseDiffError, ModelError, TrackingError
from erasediff.records import Evaluation, Json
from erasediff.tracking import server

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

DIGEST_TAG = "lineage_digest"
#: Of a registered model, as params.yaml takes it: it becomes part of a file's name and of MLflow's filters.
NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"
#: Seconds and retries of a look-up, and of sending a model.
LOOK_UP, UPLOAD = (10, 1), (120, 2)


@dataclass(frozen=True)
class Version:
    """A version of a registered model; ``version`` is its number as text."""

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
    except (MlflowException, SQLAlchemyError, OSError) as error:
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
        found = client.search_model_versions(f"name = '{name}' and tags.`{DIGEST_TAG}` = '{digest}'")
        return min((str(v.version) for v in found), key=int, default=None)


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
            return Version(name, str(found.version), dict(found.tags), found.run_id or "", found.description or "")
        except MlflowException as error:
            if _is_missing(error):
                return None
            raise


def version_exists(name: str, version: str) -> bool:
    """True if the registry has this version: it may have been wiped since DVC cached the stage.

    Raises: TrackingError.
    """
    return _version(name, version) is not None


def version_of(name: str, version_or_alias: str) -> Version:
    """Look up a version in the registry.

    Raises: ModelError: no such model, version or alias; the message lists what there is. TrackingError.
    """
    asked = str(version_or_alias)
    there = _aliases(name)
    if there is None:
        with registry_client() as client:
            known = ", ".join(m.name for m in client.search_registered_models(max_results=20)) or "none"
        raise ModelError(f"the registry has no model {name!r}; it has: {known}")
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
    """Content of a JSON or YAML file that was attached when the version was registered.

    Raises: ModelError: there is no such file. TrackingError.
    """
    from ruamel.yaml import YAML

    content = attached(version.run_id, file)
    if content is None:
        raise ModelError(
            f"version {version.version} of {version.name} has no {file}: it was not registered by this pipeline"
        )
    # As DVC writes it; JSON is YAML.
    return YAML(typ="safe", pure=True).load(content.decode())


def evaluation_of_version(version: Version) -> Evaluation:
    """How a version was evaluated when it was registered.

    Raises: ModelError: there is no evaluation. IntegrityError: it cannot be read. TrackingError.
    """
    where = f"evaluation.json of version {version.version} of {version.name}"
    return Evaluation.from_json(evidence(version, "evaluation.json"), where)


def attached(run_id: str, file: str) -> bytes | None:
    """A file of an MLflow run, or ``None`` where it has none of that name. Raises: TrackingError."""
    import mlflow

    with tempfile.TemporaryDirectory() as temporary, registry_client() as client:
        if file not in {a.path for a in client.list_artifacts(run_id)}:
            return None
        with server.mlflow_settings({"MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false"}):
            path = mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path=file, dst_path=temporary)
        return Path(path).read_bytes()
