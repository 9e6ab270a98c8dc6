"""One MLflow run a stage. No result needs it: with the server down a stage finishes and says what was not logged."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stages.artifacts import write_json

EXPERIMENT = "erasediff"
PARENT_VARIABLE = "ERASEDIFF_PARENT_RUN_ID"


def project_root() -> Path:
    """The real checkout, also for an experiment that runs in a temporary copy (DVC sets ``DVC_ROOT``)."""
    return Path(os.environ.get("DVC_ROOT") or Path.cwd()).resolve()


def tracking_uri() -> str:
    """``MLFLOW_TRACKING_URI``, else a SQLite file in the checkout."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{project_root() / 'mlflow.db'}"


def without_credentials(uri: str) -> str:
    """A URI that may be shown."""
    return re.sub(r"//[^/@]*@", "//", uri)


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold a lock file: several processes that create the SQLite store at once would trip over each other."""
    import fcntl

    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def client() -> Any:
    """An MLflow client on :func:`tracking_uri`, with the experiment made where it is missing."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.pop("MLFLOW_RUN_ID", None)
    import logging

    import mlflow

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    uri = tracking_uri()
    with exclusive(project_root() / ".work" / "mlflow.lock"):
        mlflow.set_tracking_uri(uri)
        result = mlflow.MlflowClient(uri)
        if result.get_experiment_by_name(EXPERIMENT) is None:
            local = (project_root() / "mlartifacts").as_uri() if uri.startswith("sqlite:") else None
            result.create_experiment(EXPERIMENT, artifact_location=local)
    return result


def git_state() -> dict[str, str]:
    """Commit and whether the checkout has uncommitted changes."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=project_root(), capture_output=True, text=True, check=False)
        return done.stdout.strip()

    return {"git_commit": git("rev-parse", "HEAD"), "git_dirty": str(bool(git("status", "--porcelain"))).lower()}


class StageRun:
    """The MLflow run of a stage; every call is safe with the server down.

    Attributes:
        run_id: ``None`` where the server could not be reached.
        result: further entries for ``runs/STAGE.json``.
    """

    def __init__(self, name: str):
        self.name, self.run_id, self.result = name, None, {}  # type: str, str | None, dict[str, Any]
        self.missed: dict[str, int] = {}
        self._client: Any = None
        self._steps: list[tuple[int, int, dict[str, float]]] = []
        self._flushed = time.monotonic()

    def _try(self, what: str, n: int, call: Any) -> None:
        if self._client is None and what != "runs":
            self.missed[what] = self.missed.get(what, 0) + n
            return
        try:
            call()
        except Exception as error:  # MLflow raises whatever its store's driver does
            self._client = None
            self.missed[what] = self.missed.get(what, 0) + n
            text = without_credentials(" ".join(str(error).split()))[:160]
            print(f"warning: MLflow cannot be used, {self.name} goes on without it: {text}", file=sys.stderr)

    def start(self, params: dict[str, Any]) -> None:
        from stages.door import quiet_environment

        quiet_environment()

        def create() -> None:
            self._client = client()
            tags = {"stage": self.name, "mlflow.runName": self.name, **git_state()}
            if parent := os.environ.get(PARENT_VARIABLE):
                tags["mlflow.parentRunId"] = parent
            if experiment := os.environ.get("DVC_EXP_NAME"):
                tags["dvc_exp_name"] = experiment
            experiment_id = self._client.get_experiment_by_name(EXPERIMENT).experiment_id
            self.run_id = self._client.create_run(experiment_id, tags=tags).info.run_id

        self._try("runs", 1, create)
        flat = [(k, str(v)[:5000]) for k, v in params.items()]
        self._try("params", len(flat), lambda: self._log_params(flat))

    def _log_params(self, flat: list[tuple[str, str]]) -> None:
        from mlflow.entities import Param

        for i in range(0, len(flat), 100):
            self._client.log_batch(self.run_id, params=[Param(k, v) for k, v in flat[i : i + 100]])

    def log_metrics(self, metrics: dict[str, Any], step: int = 0) -> None:
        """Log numbers; sent in batches, since a call costs 100 × a value."""
        numbers = {k: float(v) for k, v in metrics.items() if isinstance(v, (int, float)) and v == v}
        self._steps.append((step, int(time.time() * 1000), numbers))
        if time.monotonic() - self._flushed > 5:
            self.flush()

    def flush(self) -> None:
        """Send what :meth:`log_metrics` gathered."""
        rows, self._steps, self._flushed = self._steps, [], time.monotonic()
        values = [(k, v, at, step) for step, at, numbers in rows for k, v in numbers.items()]

        def send() -> None:
            from mlflow.entities import Metric

            for i in range(0, len(values), 1000):
                self._client.log_batch(self.run_id, metrics=[Metric(*value) for value in values[i : i + 1000]])

        if values:
            self._try("metric values", len(values), send)

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        """Attach a file."""
        self._try("artifacts", 1, lambda: self._client.log_artifact(self.run_id, str(path), folder))

    def end(self, status: str) -> None:
        self.flush()
        if self.run_id:
            self._try("ends", 1, lambda: self._client.set_terminated(self.run_id, status))
        if self.missed:
            lost = ", ".join(f"{n} {what}" for what, n in self.missed.items())
            where = without_credentials(tracking_uri())
            print(f"warning: not logged to {where}: {lost} of {self.name}; its results are on disk", file=sys.stderr)


@contextmanager
def stage_run(name: str, params: dict[str, Any]) -> Iterator[StageRun]:
    """Log a stage; at its success write ``runs/NAME.json``, which tells a cached result's run."""
    run, started = StageRun(name), time.perf_counter()
    run.start(params)
    try:
        yield run
    except BaseException as error:
        run.end("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        raise
    run.end("FINISHED")
    seconds = round(time.perf_counter() - started, 1)
    facts = {"stage": name, "run_id": run.run_id, "tracking_uri": without_credentials(tracking_uri())}
    write_json(Path("runs") / f"{name}.json", {**facts, "logged": not run.missed, "seconds": seconds, **run.result})


class ParentRun(StageRun):
    """The run above a flow's stages."""

    def link(self, stage: str, executed: bool) -> None:
        """Note the run that made a stage's result, also where DVC took it from its cache."""
        from stages.artifacts import read_json

        run_id = read_json(Path("runs") / f"{stage}.json")["run_id"] or "not logged"
        origin = "executed" if executed else "cached"
        self._try("tags", 2, lambda: self._tag({f"stage.{stage}.run_id": run_id, f"stage.{stage}.origin": origin}))

    def _tag(self, tags: dict[str, str]) -> None:
        for key, value in tags.items():
            self._client.set_tag(self.run_id, key, value)


@contextmanager
def parent_run(name: str) -> Iterator[ParentRun]:
    """The MLflow run that a flow's stages hang under; ``run_id`` is ``None`` where it could not be made."""
    run = ParentRun(name)
    run.start({})
    try:
        yield run
    except BaseException as error:
        run.end("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        raise
    run.end("FINISHED")
