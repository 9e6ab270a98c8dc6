"""One MLflow run a stage. No result needs it: with the server down a stage finishes, and what was not logged waits."""

from __future__ import annotations

import sys
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from numbers import Real
from pathlib import Path

from erasediff.artifacts import read_json, write_json
from erasediff.command import quiet_environment, sigterm_raises
from erasediff.errors import TrackingError
from erasediff.tracking.calls import About, Call, metric_name
from erasediff.tracking.queue import CallQueue
from erasediff.tracking.remote import RemoteRun, run_tags
from erasediff.tracking.server import tracking_uri, without_credentials

#: By which the run above those of a flow's stages is handed to them.
PARENT_VARIABLE = "ERASEDIFF_PARENT_RUN_ID"
#: Seconds between two sendings of gathered metrics; MLflow's limits of one call.
FLUSH_SECONDS, METRICS_A_CALL, PARAMS_A_CALL, PARAM_LENGTH = 2.0, 1000, 100, 6000


def flat(params: Mapping[str, object], prefix: str = "") -> dict[str, str]:
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

    What cannot be told to the server waits (:class:`erasediff.tracking.queue.CallQueue`); what is left at the end goes
    to ``erasediff.tracking.outbox``. Nothing may be logged before :meth:`start`.

    Attributes:
        result: further entries for ``runs/STAGE.json``.
    """

    def __init__(self, name: str):
        self.name = name
        self.result: dict[str, object] = {}
        self._queue: CallQueue | None = None
        self._rows: list[tuple[int, int, dict[str, float]]] = []
        self._flushed = time.monotonic()

    @property
    def started(self) -> bool:
        """True once there is something to log to."""
        return self._queue is not None

    @property
    def queue(self) -> CallQueue:
        """The calls that wait. Only a run that was started has any."""
        assert self._queue is not None, f"run {self.name} was not started"
        return self._queue

    @property
    def key(self) -> str:
        """By which the run is found, whenever it is made."""
        return self.queue.remote.key

    @property
    def run_id(self) -> str | None:
        """``None`` where the server could not be reached."""
        return self.queue.remote.run_id

    @property
    def experiment_id(self) -> str | None:
        """``None`` where the server could not be reached."""
        return self.queue.remote.experiment_id

    def start(self, params: Mapping[str, object], *, required: bool = False, continues: str | None = None) -> None:
        """Create the run.

        Args:
            params: logged flattened.
            required: the stage is pointless without MLflow.
            continues: id of the run that a killed process of the same stage left: it is gone on with where it exists.

        Raises: TrackingError: ``required`` and the server cannot be used.
        """
        quiet_environment()
        key = uuid.uuid4().hex
        about: About = {"key": key, "started": _now(), "tags": run_tags(self.name, key), "continues": continues}
        self._queue = CallQueue(self.name, RemoteRun(about), quiet=required)
        self.log_params(params)
        if required and self.run_id is None:
            where = without_credentials(tracking_uri())
            raise TrackingError(f"MLflow at {where} cannot be used ({self._queue.reason})")
        self._queue.quiet = False

    def log_params(self, params: Mapping[str, object]) -> None:
        """Further params, flattened."""
        items = list(flat(params).items())
        for i in range(0, len(items), PARAMS_A_CALL):
            part = items[i : i + PARAMS_A_CALL]
            self.queue.add(Call("params", part, len(part)))
        self.queue.drain()

    def log_metrics(self, metrics: Mapping[str, object], step: int | None = None) -> None:
        """Gather numbers of a step (``None``: 0), sent every two seconds: a single value costs 100 × one of a batch."""
        self.log_steps([(step or 0, metrics)])

    def log_steps(self, rows: Iterable[tuple[int, Mapping[str, object]]]) -> None:
        """Gather numbers of several steps; what is no number, or NaN (not measured at this step), is left out."""
        now = _now()
        for step, metrics in rows:
            numbers = {
                metric_name(k): float(v) for k, v in metrics.items() if isinstance(v, Real) and float(v) == float(v)
            }
            if step == 0 or step > self.queue.remote.logged_until:
                self._rows.append((step, now, numbers))
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self.flush()

    def resumed(self, step: int, rows: list[dict[str, float]]) -> None:
        """Say that a training goes on after ``step``, and log what it measured before a kill but could not send."""
        print(f"going on from step {step}", file=sys.stderr)
        self.log_steps((int(row["step"]), {k: v for k, v in row.items() if k != "step"}) for row in rows)

    def flush(self) -> None:
        """Send what was gathered."""
        rows, self._rows, self._flushed = self._rows, [], time.monotonic()
        values = [(k, v, at, step) for step, at, numbers in rows for k, v in numbers.items()]
        for i in range(0, len(values), METRICS_A_CALL):
            part = values[i : i + METRICS_A_CALL]
            self.queue.add(Call("metrics", part, len(part)))
        self.queue.drain()

    def log_artifact(self, path: Path | str, folder: str | None = None) -> None:
        """Attach a file."""
        self._put(Call("artifact", [str(path), folder]))

    def log_table(self, file: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Attach a table, which MLflow's pages show as one; ``file`` ends with ``.json``."""
        self._put(Call("table", [file, list(head), [list(row) for row in rows]]))

    def log_dataset(self, name: str, digest: str, context: str) -> None:
        """Note data that the stage read, by its hash: the pictures themselves stay where they are."""
        self._put(Call("input", [name, digest, context]))

    def set_tag(self, key: str, value: str) -> None:
        """Tag the run."""
        self._put(Call("tag", [key, value]))

    def end(self, status: str) -> None:
        """Send all that waits, close the run, put by the rest, and say in one line what could not be logged."""
        if not self.started:
            return
        ended = _now()
        self.flush()
        self.queue.add(Call("end", [status, ended]))
        self.queue.end(ended)

    def _put(self, call: Call) -> None:
        self.queue.add(call)
        self.queue.drain()


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
def stage_run(name: str, params: Mapping[str, object] | None, *, required: bool = False) -> Iterator[StageRun]:
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
        "logged": not run.queue.missed,
        "seconds": round(time.perf_counter() - began, 1),
    }
    write_json(Path("runs") / f"{name}.json", {**facts, **run.result})


class ParentRun(StageRun):
    """The run above a flow's stages."""

    def link(self, stage: str, executed: bool) -> None:
        """Note the run that made a stage's result, also where DVC took it from its cache.

        Raises: IntegrityError: the stage left no ``runs/STAGE.json``.
        """
        record = read_json(Path("runs") / f"{stage}.json")
        child = {"child": record.get("run_id"), "key": record.get("run_key")}
        self._put(Call("link", {"stage": stage, **child, "executed": executed}))


@contextmanager
def parent_run(name: str, params: Mapping[str, object] | None = None) -> Iterator[ParentRun]:
    """The MLflow run that a flow's stages hang under; ``run_id`` is ``None`` where it could not be made."""
    run = ParentRun(name)
    run.start(params or {})
    with _closing(run):
        yield run
