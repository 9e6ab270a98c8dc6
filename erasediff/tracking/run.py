"""One MLflow run a stage. No result needs it: with the server down a stage finishes, and what was not logged waits."""

from __future__ import annotations

import os
import socket
import sys
import time
import uuid
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from numbers import Real
from pathlib import Path
from typing import Any

from erasediff.artifacts import read_json, write_json
from erasediff.checkout import git_state, process_start, project_root
from erasediff.command import quiet_environment, sigterm_raises
from erasediff.errors import TrackingError
from erasediff.tracking import outbox, server
from erasediff.tracking.calls import KEY_TAG, WORDS, Call, made_run, metric_name, send
from erasediff.tracking.server import (
    EXPERIMENT,
    is_refusal,
    patience,
    short_reason,
    tracking_uri,
    without_credentials,
)

PARENT_VARIABLE = "ERASEDIFF_PARENT_RUN_ID"
#: Seconds between two sendings of gathered metrics; MLflow's limits of one call.
FLUSH_SECONDS, METRICS_A_CALL, PARAMS_A_CALL, PARAM_LENGTH = 2.0, 1000, 100, 6000
#: Seconds after a failure in which the server is left alone; doubled at each further one.
FIRST_PAUSE, LONGEST_PAUSE, LAST_TRY_AFTER = 60.0, 600.0, 15.0


def flat(params: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested params as ``{"a.b": text}``, cut at what MLflow takes."""
    result: dict[str, str] = {}
    for key, value in params.items():
        if isinstance(value, Mapping) and value:
            result |= flat(value, f"{prefix}{key}.")
        else:
            result[f"{prefix}{key}"] = str(value)[:PARAM_LENGTH]
    return result


class StageRun:
    """The MLflow run of a stage; every call is safe with the server down.

    What is logged waits in a queue. While the server cannot be reached it stays there and is tried again a minute
    later and at the end, so that a restart of the server during a long training loses nothing; what is left then
    goes to ``erasediff.tracking.outbox``.

    Attributes:
        key: by which the run is found, whenever it is made.
        run_id: ``None`` where the server could not be reached.
        experiment_id: likewise.
        result: further entries for ``runs/STAGE.json``.
        missed: what was not logged, by kind; final after the run's end.
    """

    def __init__(self, name: str):
        self.name, self.key = name, uuid.uuid4().hex
        self._continues: str | None = None
        self._logged_until = 0
        self.run_id: str | None = None
        self.experiment_id: str | None = None
        self.result: dict[str, Any] = {}
        self.missed: dict[str, int] = {}
        self._client: Any = None
        self._about: dict[str, Any] = {}
        self._queue: deque[Call] = deque()
        self._kept = False
        self._rows: list[tuple[int, int, dict[str, float]]] = []
        self._flushed = time.monotonic()
        self._failed_at: float | None = None
        self._pause = FIRST_PAUSE
        self._reason = ""

    @property
    def started(self) -> bool:
        """Whether there is anything to log to."""
        return bool(self._about)

    def start(self, params: Mapping[str, Any], *, required: bool = False, continues: str | None = None) -> None:
        """Create the run.

        Args:
            params: logged flattened.
            required: the stage is pointless without MLflow.
            continues: id of the run that a killed process of the same stage left: it is gone on with where it exists.

        Raises: TrackingError: ``required`` and the server cannot be used.
        """
        self._continues = continues
        quiet_environment()
        self._about = {"key": self.key, "started": _now(), "tags": self._tags(), "continues": self._continues}
        self._queue.append(Call("run", None))
        self._queue_params(params)
        self._drain(warn=not required)
        if required and self.run_id is None:
            raise TrackingError(f"MLflow at {without_credentials(tracking_uri())} unreachable ({self._reason})")

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Further params, flattened."""
        self._queue_params(params)
        self._drain()

    def _queue_params(self, params: Mapping[str, Any]) -> None:
        items = list(flat(params).items())
        for i in range(0, len(items), PARAMS_A_CALL):
            part = items[i : i + PARAMS_A_CALL]
            self._queue.append(Call("params", part, len(part)))

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Gather numbers of a step (``None``: 0), sent every two seconds: a single value costs 100 × one of a batch."""
        self.log_steps([(step or 0, metrics)])

    def log_steps(self, rows: Iterable[tuple[int, Mapping[str, Any]]]) -> None:
        """Gather numbers of several steps; what is no number, or NaN (not measured at this step), is left out."""
        now = _now()
        for step, metrics in rows:
            numbers = {
                metric_name(k): float(v) for k, v in metrics.items() if isinstance(v, Real) and float(v) == float(v)
            }
            if step == 0 or step > self._logged_until:
                self._rows.append((step, now, numbers))
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Send what was gathered."""
        rows, self._rows, self._flushed = self._rows, [], time.monotonic()
        values = [(k, v, at, step) for step, at, numbers in rows for k, v in numbers.items()]
        for i in range(0, len(values), METRICS_A_CALL):
            part = values[i : i + METRICS_A_CALL]
            self._queue.append(Call("metrics", part, len(part)))
        self._drain()

    def log_artifact(self, path: Path | str, folder: str | None = None) -> None:
        """Attach a file."""
        self._put(Call("artifact", [str(path), folder]))

    def log_artifacts(self, directory: Path | str, folder: str | None = None) -> None:
        """Attach all files of a folder."""
        n = sum(p.is_file() for p in Path(directory).rglob("*"))
        self._put(Call("artifacts", [str(directory), folder], n))

    def set_tag(self, key: str, value: str) -> None:
        """Tag the run."""
        self._put(Call("tag", [key, value]))

    def end(self, status: str) -> None:
        """Send all that waits, close the run, put by the rest, and say in one line what could not be logged."""
        if not self.started:
            return
        ended = _now()
        self.flush()
        self._queue.append(Call("end", [status, ended]))
        self._drain(last=True)
        for call in self._queue:
            self._miss(call)
        if self._queue:
            self._keep(ended)
        if self.missed:
            print(f"warning: {self._what_is_missing()}", file=sys.stderr)

    def _miss(self, call: Call) -> None:
        word = WORDS.get(call.kind, call.kind if call.kind in ("run", "end") else "tags")
        self.missed[word] = self.missed.get(word, 0) + call.n

    def _keep(self, ended: int) -> None:
        try:
            outbox.keep(self._about, self.run_id, [call for call in self._queue if call.kind != "run"], ended)
            self._kept = True
        except OSError as error:
            print(f"warning: nothing was put by for MLflow ({error.strerror or error})", file=sys.stderr)
        self._queue.clear()

    def _what_is_missing(self) -> str:
        lost = [f"run {self.name}"] if "run" in self.missed else []
        lost += [
            f"{n} {what if n != 1 else what.removesuffix('s')}"
            for what in ("params", "metric values", "artifacts", "tags")
            if (n := self.missed.get(what))
        ]
        lost += [f"the end of run {self.run_id}"] if "end" in self.missed and self.run_id else []
        state = "unreachable" if self._failed_at is not None else "refused a part"
        where = without_credentials(tracking_uri())
        was = "was" if len(lost) == 1 and not lost[0][0].isdigit() else "were"
        then = "the next run sends it, or: python -m stages.outbox" if self._kept else "results are on disk"
        return f"MLflow at {where} {state}: {', '.join(lost)} {was} not logged; {then}"

    def _put(self, call: Call) -> None:
        self._queue.append(call)
        self._drain()

    def _drain(self, *, last: bool = False, warn: bool = True) -> None:
        wait = LAST_TRY_AFTER if last else self._pause
        if self._failed_at is not None and time.monotonic() - self._failed_at < wait:
            return
        with patience(5, 1):
            while self._queue:
                call = self._queue[0]
                try:
                    self._send(call)
                except Exception as error:  # MLflow raises whatever its store's driver does
                    self._warn(error, warn)
                    if call.kind == "run" or not is_refusal(error):
                        self._pause = FIRST_PAUSE if self._failed_at is None else min(2 * self._pause, LONGEST_PAUSE)
                        self._failed_at = time.monotonic()
                        return
                    self._miss(call)
                self._queue.popleft()
        self._failed_at = None

    def _warn(self, error: Exception, warn: bool) -> None:
        first, self._reason = not self._reason, short_reason(error)
        if first and warn:
            where = without_credentials(tracking_uri())
            print(f"warning: MLflow at {where}: {self._reason}; {self.name} goes on without it", file=sys.stderr)

    def _send(self, call: Call) -> None:
        if call.kind == "run":
            self._client = server.client()
            experiment = self._client.get_experiment_by_name(EXPERIMENT)
            self._close_abandoned(experiment.experiment_id)
            self.run_id, self.experiment_id = made_run(self._client, self._about), experiment.experiment_id
            if self.run_id == self._continues:
                self._reopen()
            self._deliver()
            return
        if call.kind == "link":
            self._deliver()  # the stage's run may be waiting
        assert self.run_id is not None  # "run" came first
        send(self._client, self.run_id, call)

    def _deliver(self) -> None:
        """Send what earlier runs left."""
        try:
            outbox.deliver()
        except Exception as error:  # MLflow raises whatever its store's driver does
            print(f"warning: earlier runs still wait in {outbox.box()}: {short_reason(error)}", file=sys.stderr)

    def _tags(self) -> dict[str, str]:
        tags = {
            KEY_TAG: self.key,
            "stage": self.name,
            "mlflow.runName": self.name,
            "host": socket.gethostname(),
            "pid": str(os.getpid()),
            "process_start": process_start(os.getpid()) or "unknown",
            "root": str(project_root()),
            **git_state(),
        }
        tags["mlflow.source.git.commit"] = tags["git_commit"]
        if parent := os.environ.get(PARENT_VARIABLE):
            tags["mlflow.parentRunId"] = parent
        if name := os.environ.get("DVC_EXP_NAME"):
            tags["dvc_exp_name"] = name
        return tags

    def _reopen(self) -> None:
        """Go on with a run, whose steps are not logged twice."""
        run = self._client.get_run(self.run_id)
        self.key = run.data.tags.get(KEY_TAG, self.key)
        self._client.update_run(self.run_id, status="RUNNING")
        for key in ("host", "pid", "process_start"):
            self._client.set_tag(self.run_id, key, self._about["tags"][key])
        for name in run.data.metrics:
            steps = [m.step for m in self._client.get_metric_history(self.run_id, name)]
            self._logged_until = max([self._logged_until, *steps])

    def _close_abandoned(self, experiment_id: str) -> None:
        """Runs of this checkout that a killed process of this host left RUNNING are KILLED."""
        found = self._client.search_runs([experiment_id], "attributes.status = 'RUNNING'", max_results=1000)
        for run in found:
            tags = run.data.tags
            if (tags.get("host"), tags.get("root")) != (socket.gethostname(), str(project_root())):
                continue
            if process_start(int(tags.get("pid", "0"))) != tags.get("process_start"):
                self._client.set_terminated(run.info.run_id, "KILLED")


def _now() -> int:
    return int(time.time() * 1000)


@contextmanager
def _closing(run: StageRun) -> Iterator[None]:
    with sigterm_raises():
        try:
            yield
        except BaseException as error:
            # KeyboardInterrupt, SIGTERM and Prefect's own signal are no Exception.
            run.end("FAILED" if isinstance(error, Exception) else "KILLED")
            raise
        run.end("FINISHED")


@contextmanager
def stage_run(name: str, params: Mapping[str, Any] | None, *, required: bool = False) -> Iterator[StageRun]:
    """Log a stage; at its success write ``runs/NAME.json``, which tells a cached result's run.

    Args:
        params: logged flattened; ``None``: the stage starts its run itself, or does not (:meth:`StageRun.start`).
        required: the stage is pointless without MLflow.

    Raises: TrackingError: ``required`` and the server cannot be used.
    """
    run, began = StageRun(name), time.perf_counter()
    if params is not None:
        run.start(params, required=required)
    with _closing(run):
        yield run
    if not run.started:
        return
    facts = {
        "stage": name,
        "run_id": run.run_id,
        "run_key": run.key,
        "experiment_id": run.experiment_id,
        "tracking_uri": without_credentials(tracking_uri()),
        "logged": not run.missed,
        "seconds": round(time.perf_counter() - began, 1),
    }
    write_json(Path("runs") / f"{name}.json", {**facts, **run.result})


class ParentRun(StageRun):
    """The run above a flow's stages."""

    def link(self, stage: str, executed: bool) -> None:
        """Note the run that made a stage's result, also where DVC took it from its cache.

        Raises: IntegrityError: the stage left no ``runs/STAGE.json``.
        """
        self._put(Call("link", _link(stage, Path("runs") / f"{stage}.json", executed)))


def _link(stage: str, run_json: Path, executed: bool) -> dict[str, Any]:
    record = read_json(run_json)
    return {"stage": stage, "child": record.get("run_id"), "key": record.get("run_key"), "executed": executed}


@contextmanager
def parent_run(name: str, params: Mapping[str, Any] | None = None) -> Iterator[ParentRun]:
    """The MLflow run that a flow's stages hang under; ``run_id`` is ``None`` where it could not be made."""
    run = ParentRun(name)
    run.start(params or {})
    with _closing(run):
        yield run
