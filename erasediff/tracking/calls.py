"""Calls as plain data, so that they can wait on disk; made twice, a call has the effect of one."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypedDict

from erasediff.artifacts import sha256_text
from erasediff.errors import TrackingError
from erasediff.tracking.server import EXPERIMENT, client, patience, short_reason, tracking_uri, without_credentials

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput

#: Tag by which a run is found again, also one whose number is not known: the answer was lost, or it was made later.
KEY_TAG = "run_key"

#: MLflow's own tag, by which its pages find the tables of a run.
TABLES_TAG = "mlflow.loggedArtifacts"

#: A metric as MLflow takes it: name, value, milliseconds, step.
Value: TypeAlias = "tuple[str, float, int, int]"


class About(TypedDict):
    """All that a run is made from, whenever that is.

    ``started`` is in milliseconds; ``continues`` is the id of a killed process's run to go on with.
    """

    key: str
    started: int
    tags: dict[str, str]
    continues: str | None


class Call(NamedTuple):
    """Something to log as JSON data, so that it can wait on disk too. ``n``: how many of its kind."""

    kind: str
    content: Any
    n: int = 1


#: What a person is told is missing.
WORDS = {"params": "params", "metrics": "metric values", "artifact": "artifacts"}


def metric_name(name: str) -> str:
    """A name MLflow takes: a concept may be called ``dogs & cats`` or ``../x``; a digest keeps two such apart."""
    clean = re.sub(r"[^\w.\- ]", "_", name).strip(" .")[:230]
    return clean if clean == name and clean else f"{clean} {sha256_text(name)[:6]}".strip()


def run_with_key(mlflow_client: MlflowClient, key: str | None) -> str | None:
    """The run that has this key, if it was made."""
    experiment = mlflow_client.get_experiment_by_name(EXPERIMENT)
    if key is None or experiment is None:
        return None
    found = mlflow_client.search_runs([experiment.experiment_id], f"tags.{KEY_TAG} = '{key}'", max_results=1)
    return found[0].info.run_id if found else None


def find_run(key: str | None) -> str | None:
    """:func:`run_with_key` on :func:`tracking_uri`. Raises: TrackingError: the server cannot be used."""
    if not key:
        return None
    try:
        with patience(5, 1):
            return run_with_key(client(), key)
    except Exception as error:  # MLflow raises whatever its store's driver does
        where = without_credentials(tracking_uri())
        raise TrackingError(f"MLflow at {where} cannot be used: {short_reason(error)}") from None


def made_run(mlflow_client: MlflowClient, about: About) -> str:
    """The run of ``about``, made where it is not there yet."""
    if (there := run_with_key(mlflow_client, about["key"])) is not None:
        return there
    if (before := about["continues"]) and _is_run_of(mlflow_client, before, about["tags"]["stage"]):
        return before
    experiment = mlflow_client.get_experiment_by_name(EXPERIMENT)
    made = mlflow_client.create_run(experiment.experiment_id, start_time=about["started"], tags=about["tags"])
    return made.info.run_id


def _is_run_of(mlflow_client: MlflowClient, run_id: str, stage: str) -> bool:
    from mlflow.exceptions import MlflowException

    try:
        run = mlflow_client.get_run(run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return False
    return run.info.lifecycle_stage == "active" and run.data.tags.get("stage") == stage


def not_logged_yet(mlflow_client: MlflowClient, run_id: str, values: Sequence[Value]) -> list[Value]:
    """The metric values of steps that the run does not have: a resumed training measures some steps again."""
    steps = {k: {m.step for m in mlflow_client.get_metric_history(run_id, k)} for k in {value[0] for value in values}}
    return [value for value in values if value[3] == 0 or value[3] not in steps[value[0]]]


def send(mlflow_client: MlflowClient, run_id: str, call: Call) -> None:
    """Make a call; made twice it has the effect of one."""
    from mlflow.entities import Metric, Param

    if call.kind == "params":
        mlflow_client.log_batch(run_id, params=[Param(k, v) for k, v in call.content])
    elif call.kind == "metrics":
        mlflow_client.log_batch(run_id, metrics=[Metric(*value) for value in call.content])
    elif call.kind == "artifact":
        mlflow_client.log_artifact(run_id, *call.content)
    elif call.kind == "tag":
        mlflow_client.set_tag(run_id, *call.content)
    elif call.kind == "input":
        mlflow_client.log_inputs(run_id, [_dataset(*call.content)])
    elif call.kind == "table":
        _send_table(mlflow_client, run_id, *call.content)
    elif call.kind == "link":
        _send_link(mlflow_client, run_id, **call.content)
    else:
        status, ended = call.content
        mlflow_client.set_terminated(run_id, status, ended)


def _send_table(mlflow_client: MlflowClient, run_id: str, file: str, head: list[str], rows: list[list[str]]) -> None:
    """Not by MLflow's own ``log_table``: made twice, that appends the rows once more."""
    mlflow_client.log_dict(run_id, {"columns": head, "data": rows}, file)
    known = json.loads(mlflow_client.get_run(run_id).data.tags.get(TABLES_TAG, "[]"))
    entry = {"path": file, "type": "table"}
    mlflow_client.set_tag(run_id, TABLES_TAG, json.dumps([*(t for t in known if t != entry), entry]))


def _dataset(name: str, digest: str, context: str) -> DatasetInput:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    source = json.dumps({"uri": name})
    return DatasetInput(Dataset(name, digest[:36], "local", source), [InputTag("mlflow.data.context", context)])


def _send_link(
    mlflow_client: MlflowClient, run_id: str, stage: str, child: str | None, key: str | None, executed: bool
) -> None:
    child = child or run_with_key(mlflow_client, key)
    mlflow_client.set_tag(run_id, f"stage.{stage}.run_id", child or "not logged")
    mlflow_client.set_tag(run_id, f"stage.{stage}.origin", "executed" if executed else "cached")
    if child and executed:  # it may have been made before this run was
        mlflow_client.set_tag(child, "mlflow.parentRunId", run_id)
