"""Versions and aliases in the MLflow registry."""

from __future__ import annotations

import json
import re
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

from erasediff import checkout
from erasediff.artifacts import read_json, sha256_folder, verify_folder
from erasediff.errors import EraseDiffError, IntegrityError, ModelError, TrackingError
from erasediff.registry.model_card import gate_text
from erasediff.tracking import server

DIGEST_TAG = "lineage_digest"
#: Of a registered model, as params.yaml takes it: it becomes part of a file's name and of MLflow's filters.
NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"
REQUIREMENTS = ["torch", "diffusers", "accelerate", "safetensors", "numpy", "pillow", "pandas", "mlflow"]
#: What an MLflow registry holds of a version's description.
DESCRIPTION_LENGTH = 5000
#: Of a registered model.
DESCRIPTION = (
    "Each version has forgotten what its tag `erasures` lists. `champion` is the one to use, `challenger` the newest "
    "that passed its gates. Aliases are moved by `python -m flows.promote`, which keeps their history: not by hand."
)
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
def reached(patience: tuple[int, int] = LOOK_UP) -> Iterator[Any]:
    """A client. Raises: TrackingError: the registry cannot be used, in one line."""
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


def _is_missing(error: Any) -> bool:
    return error.error_code == "RESOURCE_DOES_NOT_EXIST"


def checked(name: str) -> str:
    """A model's name as it is. Raises: ModelError: no name that this pipeline registers under."""
    if not re.fullmatch(NAME, name):
        raise ModelError(f"{name!r} is no name of a model: use letters, digits, '.', '_' and '-'")
    return name


def version_tags(evaluation: Mapping[str, Any], sets: Mapping[str, Any], facts: Mapping[str, str]) -> dict[str, str]:
    """Tags of a version: lineage, hashes, what this run forgot, what is forgotten by now, each gate."""
    erasures = sorted({*sets["concepts"], *sets["sample_ids"], *sets["earlier"]})
    tags = {  # in the order in which MLflow shows them
        "forgotten": json.dumps(sets["concepts"], ensure_ascii=False),
        "gates_passed": str(evaluation["passed"]).lower(),
        "erasures": json.dumps(erasures, ensure_ascii=False),
    }
    return tags | {f"gate.{name}": gate_text(gate) for name, gate in evaluation["gates"].items()} | dict(facts)


def find_version(name: str, digest: str) -> str | None:
    """The oldest version of ``name`` with this lineage digest. Raises: TrackingError."""
    with reached() as client:
        found = client.search_model_versions(f"name = '{name}' and tags.`{DIGEST_TAG}` = '{digest}'")
        return min((str(v.version) for v in found), key=int, default=None)


def register_version(
    name: str,
    run_id: str,
    folder: Path,
    tags: Mapping[str, str],
    files: Sequence[Path],
    card: str,
    example_concept: str = "",
) -> str:
    """Register a model folder; a lineage digest that is there already gets its version back, never a second one.

    The tags are part of the creating call, so that a kill right after it leaves a version that is found again. Of two
    processes that create one each, both keep the older.

    Args:
        run_id: MLflow run that the model and ``files`` are attached to.
        folder: diffusers folder.
        tags: of the version, with ``lineage_digest``.
        files: evidence, attached to the run.
        card: Markdown, put into the model as README.md and, shortened, into the version's description.
        example_concept: for the model's input example.

    Raises: TrackingError: the registry cannot be used.
    """
    lock = checkout.project_root() / ".work" / "register.lock"
    with reached(UPLOAD) as client, checkout.exclusive(lock):
        if (existing := find_version(name, tags[DIGEST_TAG])) is not None:
            return existing
        _forget_half_logged(client, run_id)
        model = _log_model(run_id, folder, example_concept)
        _attach(client, run_id, model.model_id, files, card)
        _create_registered_model(client, name)
        made = str(
            client.create_model_version(
                name, model.model_uri, run_id, tags=dict(tags), description=_shortened(card), model_id=model.model_id
            ).version
        )
        first = find_version(name, tags[DIGEST_TAG])
        if first is None or first == made:
            return made
        client.delete_model_version(name, made)  # another machine was faster
        client.delete_logged_model(model.model_id)
        return first


def _forget_half_logged(client: Any, run_id: str) -> None:
    """Delete what killed runs of the experiment left half logged: nothing refers to it."""
    experiment = client.get_run(run_id).info.experiment_id
    for model in client.search_logged_models([experiment]):
        if model.status == "PENDING" and client.get_run(model.source_run_id).info.status == "KILLED":
            client.delete_logged_model(model.model_id)


def _create_registered_model(client: Any, name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name, description=DESCRIPTION)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _attach(client: Any, run_id: str, model_id: str, files: Sequence[Path], card: str) -> None:
    """README.md beside the model's files; the evidence to the run."""
    with tempfile.TemporaryDirectory() as temporary:
        (Path(temporary) / "README.md").write_text(card, encoding="utf-8")
        client.log_model_artifact(model_id, str(Path(temporary) / "README.md"))
    for path in files:
        client.log_artifact(run_id, str(path))


def _shortened(card: str) -> str:
    note = "\n… (the whole card is README.md of the model)"
    return card if len(card) <= DESCRIPTION_LENGTH else card[: DESCRIPTION_LENGTH - len(note)] + note


def requirements(folder: Path) -> list[str]:
    """What the served model needs, pinned to what is installed; transformers only where the pipeline uses it."""
    index = folder / "model_index.json"
    parts = read_json(index).values() if index.exists() else []
    text = any(isinstance(part, list) and part and part[0] == "transformers" for part in parts)
    # A CPU build of torch calls itself 2.13.0+cpu, which no index has.
    return [f"{p}=={installed(p).split('+')[0]}" for p in REQUIREMENTS + (["transformers"] if text else [])]


@contextmanager
def _no_bytecode() -> Iterator[None]:
    """Nothing compiled is written: MLflow imports the model's code from where it has just stored it."""
    was, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        yield
    finally:
        sys.dont_write_bytecode = was


def _log_model(run_id: str, folder: Path, example_concept: str) -> Any:
    import mlflow
    import pandas as pd
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema

    signature = ModelSignature(
        inputs=Schema([ColSpec("string", "concept"), ColSpec("long", "seed", required=False)]),
        outputs=Schema([ColSpec("string", "concept"), ColSpec("string", "png_base64")]),
        # None: the model's own.
        params=ParamSchema(
            [ParamSpec("num_inference_steps", "long", None), ParamSpec("guidance_scale", "double", None)]
        ),
    )
    # MLflow draws the example once to see that it can be served: two steps, since it may be a big model on a CPU.
    example = (pd.DataFrame({"concept": [example_concept], "seed": [0]}), {"num_inference_steps": 2})
    code = Path(__file__).parents[1]  # erasediff
    quiet = server.mlflow_settings({"MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false"})  # of files that are here
    with mlflow.start_run(run_id=run_id), quiet, _no_bytecode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow's own deprecated calls of pandas
        return mlflow.pyfunc.log_model(
            name="model",
            python_model=str(Path(__file__).with_name("served_model.py")),
            artifacts={"pipeline": str(folder.resolve())},
            code_paths=[str(code)],
            signature=signature,
            input_example=example,
            pip_requirements=requirements(folder),
        )


def aliases(name: str) -> dict[str, str]:
    """Aliases of a registered model with their versions; empty where there is no such model. Raises: TrackingError."""
    return _aliases(name) or {}


def _aliases(name: str) -> dict[str, str] | None:
    from mlflow.exceptions import MlflowException

    checked(name)
    with reached() as client:
        try:
            return {a: str(v) for a, v in client.get_registered_model(name).aliases.items()}
        except MlflowException as error:
            if _is_missing(error):
                return None
            raise


def _version(name: str, version: str) -> Version | None:
    from mlflow.exceptions import MlflowException

    with reached() as client:
        try:
            found = client.get_model_version(name, version)
            return Version(name, str(found.version), dict(found.tags), found.run_id or "", found.description or "")
        except MlflowException as error:
            if _is_missing(error):
                return None
            raise


def version_exists(name: str, version: str) -> bool:
    """Whether the registry has this version: it may have been wiped since DVC cached the stage.

    Raises: TrackingError.
    """
    return _version(name, version) is not None


def get(name: str, version_or_alias: str) -> Version:
    """What the registry holds of a version.

    Raises: ModelError: no such model, version or alias; the message lists what there is. TrackingError.
    """
    asked = str(version_or_alias)
    there = _aliases(name)
    if there is None:
        with reached() as client:
            known = ", ".join(m.name for m in client.search_registered_models(max_results=20)) or "none"
        raise ModelError(f"the registry has no model {name!r}; it has: {known}")
    if not asked.isdigit() and asked not in there:
        raise ModelError(f"{name} has no alias {asked!r}; it has: {', '.join(sorted(there)) or 'none'}")
    found = _version(name, there.get(asked, asked))
    if found is None:
        raise ModelError(f"the registry has no version {asked} of {name}")
    return found


def set_tag(name: str, version: str, key: str, value: str) -> None:
    """Tag a version. Raises: TrackingError."""
    with reached() as client:
        client.set_model_version_tag(name, version, key, value)


def at(uri: str) -> Version:
    """The version of ``models:/NAME@ALIAS`` or ``models:/NAME/VERSION``. Raises: ModelError, TrackingError."""
    match = re.fullmatch(rf"models:/({NAME})(?:@([\w.-]+)|/(\d+))", uri)
    if not match:
        raise ModelError(f"{uri!r} is no model: give a folder, models:/NAME@ALIAS or models:/NAME/VERSION")
    name, alias, number = match.groups()
    return get(name, alias or number)


def evidence(version: Version, file: str) -> Any:
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


def attached(run_id: str, file: str) -> bytes | None:
    """A file of an MLflow run, or ``None`` where it has none of that name. Raises: TrackingError."""
    import mlflow

    with tempfile.TemporaryDirectory() as temporary, reached() as client:
        if file not in {a.path for a in client.list_artifacts(run_id)}:
            return None
        quiet = server.mlflow_settings({"MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false"})
        with quiet:
            return Path(
                mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path=file, dst_path=temporary)
            ).read_bytes()


def resolve(uri: str) -> Path:
    """``models:/NAME@ALIAS`` or ``models:/NAME/VERSION`` to a local diffusers folder, checked against its hash.

    From a server it is downloaded once a version, to ``.work/models`` of the project.

    Raises: ModelError: no such model, version or alias. IntegrityError: the stored model was altered. TrackingError.
    """
    found = at(uri)
    return _fetched(found.name, found.version, _expected(found))


def verify_stored(version: Version) -> None:
    """Fetch what the store holds of a version, past the local cache, and check it against its hash.

    Raises: IntegrityError: it was altered, or is gone. ModelError, TrackingError.
    """
    expected, parent = _expected(version), checkout.project_root() / ".work" / "models"
    parent.mkdir(parents=True, exist_ok=True)
    quiet = server.mlflow_settings({"MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false"})
    with quiet, tempfile.TemporaryDirectory(dir=parent, prefix=".") as temporary:
        _downloaded(version.name, version.version, expected, None if _is_local() else temporary)


def _is_local() -> bool:
    """Whether the store's own files can be read where they are."""
    return server.tracking_uri().startswith("sqlite:")


def _expected(version: Version) -> str:
    """The hash that a version was registered with."""
    if (expected := version.tags.get("erased_sha256")) is None:
        raise ModelError(
            f"version {version.version} of {version.name} was not registered by this pipeline (no erased_sha256 tag)"
        )
    return expected


def _fetched(name: str, version: str, expected: str) -> Path:
    """The pipeline's folder: in the store itself where that is local, else in a cache that is filled whole."""
    if _is_local():
        return _downloaded(name, version, expected, None)
    # No tag may lead out of the cache: it is the server's word.
    cached = checkout.project_root() / ".work" / "models" / re.sub(r"[^0-9a-f]", "", expected)
    if cached.is_dir() and sha256_folder(cached) == expected:
        return cached
    cached.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cached.parent, prefix=".") as temporary:
        folder = _downloaded(name, version, expected, temporary)
        shutil.rmtree(cached, ignore_errors=True)
        folder.rename(cached)
    return cached


def _downloaded(name: str, version: str, expected: str, to: str | None) -> Path:
    import mlflow

    # Not the whole model: into the root of a local one MLflow would write a file.
    stored = f"models:/{name}/{version}/artifacts"
    with reached(UPLOAD):
        if not mlflow.artifacts.list_artifacts(stored):  # the registry answers: it is no outage
            raise IntegrityError(f"the files of version {version} of {name} are gone from the store")
        local = Path(mlflow.artifacts.download_artifacts(stored, dst_path=to))
    folders = [p for p in local.iterdir() if p.is_dir()]
    if len(folders) != 1 or sha256_folder(folders[0]) != expected:
        raise IntegrityError(f"version {version} of {name} is not what was registered (SHA-256 differs): do not use it")
    verify_folder(folders[0])
    return folders[0]
