"""Versions and aliases in the MLflow registry."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

from stages import tracking
from stages.artifacts import sha256_folder
from stages.errors import EraseDiffError, GateFailed, IntegrityError, ModelError, TrackingError

DIGEST_TAG = "lineage_digest"
REQUIREMENTS = ["torch", "diffusers", "accelerate", "safetensors", "numpy", "pillow", "pandas", "mlflow"]


@contextmanager
def _reached() -> Iterator[Any]:
    """A client. Raises: TrackingError: the registry cannot be reached, in one line."""
    from mlflow.exceptions import MlflowException

    try:
        yield tracking.client()
    except EraseDiffError:
        raise
    except (MlflowException, OSError) as error:
        where = tracking.without_credentials(tracking.tracking_uri())
        reason = tracking.without_credentials(" ".join(str(error).split()))[:200]
        raise TrackingError(
            f"the MLflow registry at {where} cannot be used ({reason}): the model is on disk; "
            "bring the registry back and run: dvc repro register"
        ) from None


def find_version(name: str, digest: str) -> str | None:
    """The oldest version of ``name`` with this lineage digest."""
    with _reached() as client:
        found = client.search_model_versions(f"name = '{name}' and tags.`{DIGEST_TAG}` = '{digest}'")
        return min((str(v.version) for v in found), key=int, default=None)


def register_version(
    name: str, run_id: str | None, folder: Path, tags: dict[str, str], files: list[Path], card: str
) -> str:
    """Register a model folder; a lineage digest that is there already gets its version back, never a second one.

    The tags are part of the creating call, so that a kill right after it leaves a version that is found again.
    Raises: TrackingError.
    """
    with _reached() as client, tracking.exclusive(tracking.project_root() / ".work" / "register.lock"):
        if (existing := find_version(name, tags[DIGEST_TAG])) is not None:
            return existing
        from mlflow.exceptions import MlflowException

        if run_id is None:
            raise TrackingError("no MLflow run could be made for the model: bring the server back, dvc repro register")
        info = _log_model(run_id, folder)
        for path in files:
            client.log_artifact(run_id, str(path))
        try:
            client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        made = str(client.create_model_version(name, info.model_uri, run_id, tags=tags, description=card).version)
        first = find_version(name, tags[DIGEST_TAG])
        if first is not None and first != made:
            client.delete_model_version(name, made)  # another machine was faster
            return first
        return made


def _log_model(run_id: str, folder: Path) -> Any:
    import mlflow
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema

    signature = ModelSignature(
        inputs=Schema([ColSpec("string", "concept"), ColSpec("long", "seed", required=False)]),
        outputs=Schema([ColSpec("string", "concept"), ColSpec("string", "png_base64")]),
        params=ParamSchema([ParamSpec("num_inference_steps", "long", 25), ParamSpec("guidance_scale", "double", 1.0)]),
    )
    code = Path(__file__).parents[1]
    with mlflow.start_run(run_id=run_id):
        return mlflow.pyfunc.log_model(
            name="model",
            python_model=str(Path(__file__).with_name("served_model.py")),
            artifacts={"pipeline": str(folder.resolve())},
            code_paths=[str(code)],
            signature=signature,
            pip_requirements=[f"{p}=={installed(p).split('+')[0]}" for p in REQUIREMENTS],
        )


def aliases(name: str) -> dict[str, str]:
    """Aliases of a registered model with their versions; empty where there is no such model."""
    from mlflow.exceptions import MlflowException

    with _reached() as client:
        try:
            return {a: str(v) for a, v in client.get_registered_model(name).aliases.items()}
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return {}
            raise


def version_exists(name: str, version: str) -> bool:
    """Whether the registry has this version: it may have been wiped since DVC cached the stage."""
    from mlflow.exceptions import MlflowException

    with _reached() as client:
        try:
            return client.get_model_version(name, version) is not None
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise


def promote_initial(name: str, version: str) -> dict[str, str]:
    """Alias ``challenger`` to a version that passed, and ``champion`` where there is none yet. Raises: GateFailed."""
    with _reached() as client:
        if client.get_model_version(name, version).tags.get("gates_passed") != "true":
            raise GateFailed(f"version {version} of {name} did not pass its gates: no alias is set")
        client.set_registered_model_alias(name, "challenger", version)
        if "champion" not in aliases(name):
            client.set_registered_model_alias(name, "champion", version)
    return aliases(name)


def resolve(uri: str) -> Path:
    """``models:/NAME@ALIAS`` or ``models:/NAME/VERSION`` to a local diffusers folder, checked against its hash.

    Raises: ModelError: no such model, version or alias. IntegrityError: the stored model was altered.
    """
    match = re.fullmatch(r"models:/([^/@]+)(?:@([\w.-]+)|/(\d+))", uri)
    if not match:
        raise ModelError(f"{uri!r} is no model: give a folder, models:/NAME@ALIAS or models:/NAME/VERSION")
    name, alias, version = match.groups()
    if alias:
        there = aliases(name)
        if alias not in there:
            known = ", ".join(sorted(there)) or "none"
            raise ModelError(f"{name} has no alias {alias!r}; it has: {known}")
        version = there[alias]
    if not version_exists(name, version):
        raise ModelError(f"the registry has no version {version} of {name}")
    import mlflow

    with _reached() as client:
        tags = client.get_model_version(name, version).tags
        local = Path(mlflow.artifacts.download_artifacts(f"models:/{name}/{version}"))
    folder = next(iter(sorted((local / "artifacts").iterdir())))
    if sha256_folder(folder) != tags.get("erased_sha256"):
        raise IntegrityError(f"version {version} of {name} is not what was registered (SHA-256 differs): do not use it")
    return folder
