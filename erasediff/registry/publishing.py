"""A new version: the model with its code, card and evidence, once a lineage."""

from __future__ import annotations

import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version as installed
from pathlib import Path
from typing import TYPE_CHECKING

from erasediff import checkout
from erasediff.artifacts import read_json
from erasediff.records import Erasures, Evaluation
from erasediff.registry.card import body_of
from erasediff.registry.versions import DIGEST_TAG, UPLOAD, find_version, registry_client
from erasediff.tracking import server

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.models import ModelSignature
    from mlflow.models.model import ModelInfo

REQUIREMENTS = ["torch", "diffusers", "accelerate", "safetensors", "numpy", "pillow", "pandas", "mlflow"]
#: What an MLflow registry holds of a version's description.
DESCRIPTION_LENGTH = 5000
#: Tag of a version: who asked for it.
REQUEST_TAG = "request"
#: Of a registered model.
DESCRIPTION = (
    "Each version has forgotten what its tag `erasures` lists. `champion` is the one to use, `challenger` the newest "
    "that passed its gates. Aliases are moved by `python -m flows.promote`, which keeps their history: not by hand."
)


def version_tags(evaluation: Evaluation, erasures: Erasures, facts: Mapping[str, str]) -> dict[str, str]:
    """Tags of a version: what this run forgot, what is forgotten by now, each gate, lineage and hashes."""
    own = erasures.to_tags()
    passed = {"gates_passed": str(evaluation.passed).lower()}
    tags = {"forgotten": own["forgotten"], **passed, "erasures": own["erasures"]}  # in the order that MLflow shows
    return tags | {f"gate.{name}": gate.text for name, gate in evaluation.gates.items()} | dict(facts)


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
    with registry_client(UPLOAD) as client, checkout.exclusive(lock):
        if (existing := find_version(name, tags[DIGEST_TAG])) is not None:
            return existing
        _forget_half_logged(client, run_id)
        model = _log_model(run_id, folder, example_concept)
        _attach(client, run_id, model.model_id, files, card)
        _create_registered_model(client, name)
        made = str(
            client.create_model_version(
                name, model.model_uri, run_id, tags=dict(tags), description=_description(card), model_id=model.model_id
            ).version
        )
        first = find_version(name, tags[DIGEST_TAG])
        if first is None or first == made:
            return made
        client.delete_model_version(name, made)  # another machine was faster
        client.delete_logged_model(model.model_id)
        return first


def version_facts(name: str, version: str) -> dict[str, str]:
    """What a version's report says of it: name and number, date, commit, who asked, where MLflow has it.

    They are the version's own, so that they read the same whenever they are asked for. Raises: TrackingError.
    """
    with registry_client() as client:
        found = client.get_model_version(name, version)
    uri, tags = server.without_credentials(server.tracking_uri()), found.tags
    dirty = " with uncommitted changes" if tags.get("git_dirty") == "true" else ""
    facts = {
        "version": f"{name}, version {version}",
        "registered": datetime.fromtimestamp(found.creation_timestamp / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "asked for by": tags.get(REQUEST_TAG, ""),
        "commit": f"{tags.get('git_commit', 'unknown')}{dirty}",
        "MLflow run": found.run_id or "",
        "MLflow page": f"{uri}/#/models/{name}/versions/{version}" if uri.startswith("http") else "",
    }
    return {key: fact for key, fact in facts.items() if fact}


def attach_report(name: str, version: str, report: Path) -> None:
    """Attach the report of a version to the run that made it, in place of one of that name. Raises: TrackingError."""
    with registry_client(UPLOAD) as client:
        run_id = client.get_model_version(name, version).run_id
        client.log_artifact(run_id, str(report))


def _forget_half_logged(client: MlflowClient, run_id: str) -> None:
    """Delete what killed runs of the experiment left half logged: nothing refers to it."""
    experiment = client.get_run(run_id).info.experiment_id
    for model in client.search_logged_models([experiment]):
        if model.status == "PENDING" and client.get_run(model.source_run_id).info.status == "KILLED":
            client.delete_logged_model(model.model_id)


def _create_registered_model(client: MlflowClient, name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name, description=DESCRIPTION)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _attach(client: MlflowClient, run_id: str, model_id: str, files: Sequence[Path], card: str) -> None:
    """README.md beside the model's files; the evidence to the run."""
    with tempfile.TemporaryDirectory() as temporary:
        (Path(temporary) / "README.md").write_text(card, encoding="utf-8")
        client.log_model_artifact(model_id, str(Path(temporary) / "README.md"))
    for path in files:
        client.log_artifact(run_id, str(path))


def _description(card: str) -> str:
    """The card as a version's description: without its front matter, which people need not read, and shortened."""
    note, body = "\n… (the whole card is README.md of the model)", body_of(card)
    return body if len(body) <= DESCRIPTION_LENGTH else body[: DESCRIPTION_LENGTH - len(note)] + note


def requirements(folder: Path) -> list[str]:
    """Packages that the served model needs, pinned to what is installed; transformers only where it is used."""
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


def _signature() -> ModelSignature:
    """Outputs and params of the served model.

    No inputs: MLflow would drop columns that it does not know without a word, and refuse a request in which only some
    rows have a seed. The model reads the rows itself (:mod:`erasediff.registry.served_request`).
    """
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema

    from erasediff.registry.served_request import OPTIONS

    return ModelSignature(
        outputs=Schema([ColSpec("string", "concept"), ColSpec("string", "png_base64")]),
        params=ParamSchema([ParamSpec(name, "double", None) for name in OPTIONS]),
    )


def _log_model(run_id: str, folder: Path, example_concept: str) -> ModelInfo:
    import mlflow
    import pandas as pd

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
            signature=_signature(),
            input_example=example,
            pip_requirements=requirements(folder),
        )
