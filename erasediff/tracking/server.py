"""The MLflow server: where it is, how long it is waited for, what its errors say."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from erasediff.checkout import exclusive, project_root
from erasediff.environment import environment
from erasediff.errors import TrackingError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment

EXPERIMENT = "erasediff"
ABOUT = (
    "Runs of the pipeline: one for each request to forget, and under it one for each stage that ran. "
    "What came of them is in the model registry: Model training → Model registry."
)

#: Of an experiment: MLflow's pages open it as one of trainings, not of language models.
KIND = {"mlflow.experimentKind": "custom_model_development"}

#: Answers that the next try would get too.
REFUSALS = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "INVALID_STATE", "RESOURCE_DOES_NOT_EXIST"}


def tracking_uri() -> str:
    """``MLFLOW_TRACKING_URI``, else a SQLite file in the checkout.

    A relative SQLite path, MLflow's own way to write one, is one of the checkout: an experiment's temporary copy, or a
    worktree, would take its own file with it when it goes.

    Raises: TrackingError: the checkout's path cannot be part of an address.
    """
    given = environment().mlflow_tracking_uri
    if given is None:
        return sqlite_uri(project_root() / "mlflow.db")
    relative = re.fullmatch(r"sqlite:///(?!/|:memory:|file:)([^?]+)(.*)", given)
    return sqlite_uri(project_root() / relative[1]) + relative[2] if relative else given


def sqlite_uri(path: Path) -> str:
    """The address of a SQLite file. Raises: TrackingError: its path has a ``?``, where options would begin."""
    if "?" in str(path):
        raise TrackingError(f"{path} has a '?' in its path, which ends a database's address: rename that folder")
    return f"sqlite:///{path}"


def without_credentials(text: str) -> str:
    """A URI, or a message with URIs in it, that may be shown."""
    # Also a password with an unquoted slash: no valid URI, but people write it and errors repeat it.
    text = re.sub(r"(//)([^/\s'\":]*:[^\s'\"]*|[^/\s'\"]*)@", r"\1", text)
    return re.sub(r"(?i)\b(password|token|secret)=[^&\s'\"]*", r"\1=…", text)


def page(path: str, at: str | None = None) -> str:
    """The address of one of MLflow's pages, such as ``models/NAME/versions/3``; empty where there is no server.

    Without the address saying so, MLflow shows each page as one about language models, whatever an experiment's tag
    says: an experiment opens with its traces, of which there are none.

    Args:
        at: the server; by default :func:`tracking_uri`.
    """
    uri = without_credentials(at or tracking_uri())
    return f"{uri.rstrip('/')}/#/{path}?workflowType=machine_learning" if uri.startswith("http") else ""


@contextmanager
def patience(seconds: int, retries: int) -> Iterator[None]:
    """Limit how long MLflow's HTTP calls in the block wait. What is set already stays: a person's, an outer block's.

    Put back afterwards, so that a flow's short waits are not inherited by the stage that uploads a model.
    """
    wait = {"MLFLOW_HTTP_REQUEST_TIMEOUT": str(seconds), "MLFLOW_HTTP_REQUEST_MAX_RETRIES": str(retries)}
    with mlflow_settings(wait):
        yield


@contextmanager
def mlflow_settings(wanted: Mapping[str, str]) -> Iterator[None]:
    """Environment variables that MLflow reads, for a block, where they are not set yet."""
    ours = {name: value for name, value in wanted.items() if name not in os.environ}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            os.environ.pop(name, None)


def client() -> MlflowClient:
    """An MLflow client on :func:`tracking_uri`, with the experiment made where it is missing."""
    os.environ.pop("MLFLOW_RUN_ID", None)  # a caller's run is not ours to write into
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"  # it prints user:password@ too
    import logging

    import mlflow

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    uri = tracking_uri()
    mlflow.set_tracking_uri(uri)
    local = re.match(r"sqlite:///([^?]+)", uri)
    if not local:
        return _with_experiment(mlflow.MlflowClient(uri), None)
    # The first contact creates and migrates the database: two processes at once would trip over each other.
    with exclusive(Path(f"{local[1]}.lock")):
        return _with_experiment(mlflow.MlflowClient(uri), (project_root() / "mlartifacts").as_uri())


def _with_experiment(result: MlflowClient, artifacts: str | None) -> MlflowClient:
    from mlflow.exceptions import MlflowException

    if result.get_experiment_by_name(EXPERIMENT) is None:
        try:
            about = {"mlflow.note.content": ABOUT, **KIND}
            result.create_experiment(EXPERIMENT, artifact_location=artifacts, tags=about)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":  # another stage was faster
                raise
    return result


def require_active(experiment: Experiment) -> None:
    """Raises: TrackingError: an experiment was deleted in MLflow's pages, and takes no run."""
    if experiment.lifecycle_stage != "active":
        raise TrackingError(
            f"experiment {experiment.name} was deleted: mlflow experiments restore -x {experiment.experiment_id}"
        )


def short_reason(error: BaseException) -> str:
    """An MLflow error in a few words, without credentials."""
    text = " ".join(str(error).split())
    if "mlflow db upgrade" in text:
        uri = without_credentials(tracking_uri())
        return f"its tables are of another release: back it up, then run mlflow db upgrade {uri}"
    if isinstance(error, ImportError):
        return f"{text}: install that driver, or name one that is there, such as postgresql+psycopg://"
    if "Connection refused" in text:
        return "connection refused"
    if "timed out" in text.lower():
        return "no answer in time"
    return without_credentials(text)[:200]


def is_refusal(error: Exception) -> bool:
    """True where the next try would get the same answer."""
    return getattr(error, "error_code", None) in REFUSALS or isinstance(error, FileNotFoundError)
