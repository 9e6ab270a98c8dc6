"""A new version: the model with its code, card and evidence, once a lineage."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from erasediff import checkout
from erasediff.records import AS_TAG, Erasures, Evaluation
from erasediff.registry.card import body_of
from erasediff.registry.logged_model import log_model
from erasediff.registry.store import FILES_TAG, files_digest
from erasediff.registry.versions import (
    DIGEST_TAG,
    EVIDENCE,
    LAST,
    UPLOAD,
    find_version,
    registry_client,
    stored_tags,
    valid_name,
)
from erasediff.tracking import server
from erasediff.tracking.calls import metric_name

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel
    from mlflow.entities.model_registry import ModelVersion

#: MLflow's own tag of a logged model.
VERSIONS_TAG = "mlflow.modelVersions"
#: What an MLflow registry holds of a version's description.
DESCRIPTION_LENGTH = 5000
#: Tags of a version: who asked for it, and whose process registered it, which no call of MLflow's says.
REQUEST_TAG, USER_TAG = "request", "registered_by"
#: Of a registered model.
DESCRIPTION = (
    "Each version has forgotten what its tag `erasures` lists. `champion` is the one to use, `challenger` the newest "
    "that passed its gates. Aliases are moved by `python -m flows.promote`, which keeps their history: not by hand."
)


def version_tags(evaluation: Evaluation, erasures: Erasures, facts: Mapping[str, str]) -> dict[str, str]:
    """Tags of a version: what this run forgot, what is forgotten by now, each gate, lineage and hashes."""
    own = erasures.to_tags()
    passed = {"gates_passed": AS_TAG[evaluation.outcome]}
    passed |= {"not_proven": evaluation.unproven} if evaluation.unproven else {}
    passed |= {USER_TAG: checkout.user_name()}
    return own | passed | {f"gate.{name}": gate.text for name, gate in evaluation.gates.items()} | dict(facts)


def register_version(
    name: str,
    run_id: str,
    folder: Path,
    tags: Mapping[str, str],
    files: Sequence[Path],
    card: Callable[[str], str],
    example_concept: str = "",
    metrics: Mapping[str, float] = MappingProxyType({}),
) -> str:
    """Register a model folder; a lineage digest that is there already gets its version back, never a second one.

    The tags are part of the creating call, so that a kill right after it leaves a version that is found again. Of two
    processes that create one each, both keep the older.

    Args:
        run_id: MLflow run that the model and ``files`` are attached to.
        folder: diffusers folder, or that of a LoRA which names its base.
        tags: of the version, with ``lineage_digest``.
        files: evidence, attached to the run, and put beside the model, so that it is there as long as that is.
        card: gives the model card as Markdown, for a version's number. It is put into the model as README.md and,
            shortened, into the version's description.
        example_concept: for the model's input example.
        metrics: numbers shown with the model.

    Raises: ModelError: no name of a model. TrackingError: the registry cannot be used.
    """
    valid_name(name)
    lock = checkout.project_root() / ".work" / "register.lock"
    with registry_client(UPLOAD) as client, checkout.exclusive(lock):
        _clear_up(client, run_id)
        if (existing := find_version(name, tags[DIGEST_TAG])) is not None:
            _complete(client, name, existing, card)
            return existing
        model = log_model(name, run_id, folder, example_concept)
        _attach(client, run_id, model.model_id, files)
        if metrics:
            _log_metrics(client, run_id, model.model_id, metrics)
        _create_registered_model(client, name)
        stored = stored_tags(tags)
        made = str(
            client.create_model_version(name, model.model_uri, run_id, tags=stored, model_id=model.model_id).version
        )
        first = find_version(name, tags[DIGEST_TAG])
        if first is None or first == made:
            _complete(client, name, made, card)
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
    tags = found.tags
    dirty = " with uncommitted changes" if tags.get("git_dirty") == "true" else ""
    facts = {
        "version": f"{name}, version {version}",
        "registered": datetime.fromtimestamp(found.creation_timestamp / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")
        + (f" by {tags[USER_TAG]}" if USER_TAG in tags else ""),
        "asked for by": tags.get(REQUEST_TAG, ""),
        "commit": f"{tags.get('git_commit', 'unknown')}{dirty}",
        "MLflow run": found.run_id or "",
        "MLflow page": server.page(f"models/{name}/versions/{version}"),
    }
    return {key: fact for key, fact in facts.items() if fact}


def attach_report(name: str, version: str, report: Path) -> None:
    """Attach the report of a version to the run that made it, in place of one of that name. Raises: TrackingError."""
    with registry_client(UPLOAD) as client:
        run_id = client.get_model_version(name, version).run_id
        client.log_artifact(run_id, str(report))


def _complete(client: MlflowClient, name: str, version: str, card: Callable[[str], str]) -> None:
    """Give a version what needs its number, and last the hash of its code; one of a killed register lacks these."""
    found = client.get_model_version(name, version)
    if LAST + FILES_TAG in found.tags:
        return
    model_id, text = _model_id(found), card(version)
    client.update_model_version(name, version, _description(text))
    with tempfile.TemporaryDirectory() as temporary:
        (Path(temporary) / "README.md").write_text(text, encoding="utf-8")
        client.log_model_artifact(model_id, str(Path(temporary) / "README.md"))
    # MLflow's pages show the logged model as "Not registered" otherwise.
    named = json.dumps([{"name": name, "version": int(version)}])
    client.set_logged_model_tags(model_id, {VERSIONS_TAG: named})
    client.set_model_version_tag(name, version, LAST + FILES_TAG, files_digest(f"models:/{name}/{version}"))


def _model_id(version: ModelVersion) -> str:
    """The logged model of a version: a store that is a database does not fill in ``model_id``."""
    return str(version.source).rpartition("/")[2]


def _clear_up(client: MlflowClient, run_id: str) -> None:
    """Delete logged models of runs that ended before they made a version of it: nothing refers to such a model."""
    experiment, token = client.get_run(run_id).info.experiment_id, None
    while True:
        page = client.search_logged_models([experiment], page_token=token)
        for model in page:
            if VERSIONS_TAG not in model.tags and _is_abandoned(client, model):
                client.delete_logged_model(model.model_id)
        token = page.token
        if not token:
            return


def _is_abandoned(client: MlflowClient, model: LoggedModel) -> bool:
    from mlflow.exceptions import MlflowException

    try:
        status = client.get_run(model.source_run_id).info.status
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        status = "KILLED"
    if status not in ("KILLED", "FAILED"):
        return False  # it is at work, or made a version before 0.2, which did not name it
    made = client.search_model_versions(f"run_id = '{model.source_run_id}'")
    return not any(_model_id(version) == model.model_id for version in made)


def _create_registered_model(client: MlflowClient, name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name, description=DESCRIPTION)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _attach(client: MlflowClient, run_id: str, model_id: str, files: Sequence[Path]) -> None:
    """The evidence beside the model's files, where it stays as long as these; and to the run, where people look."""
    with tempfile.TemporaryDirectory() as temporary:
        for path in files:
            shutil.copyfile(path, Path(temporary) / path.name)
            client.log_artifact(run_id, str(path))
        client.log_model_artifacts(model_id, temporary, EVIDENCE)


def _log_metrics(client: MlflowClient, run_id: str, model_id: str, metrics: Mapping[str, float]) -> None:
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    client.log_batch(run_id, [Metric(metric_name(k), v, now, 0, model_id=model_id) for k, v in metrics.items()])


def _description(card: str) -> str:
    """The card as a version's description: without its front matter, which people need not read, and shortened.

    MLflow's list of versions shows the first line as it is: the heading is told by the line below it.
    """
    note = "\n… (the whole card is README.md of the model)"
    body = re.sub(r"\A# (.+)\n", r"\1\n===\n", body_of(card))
    return body if len(body) <= DESCRIPTION_LENGTH else body[: DESCRIPTION_LENGTH - len(note)] + note
