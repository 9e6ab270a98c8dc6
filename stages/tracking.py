"""One MLflow run a stage. No result needs it: with the server down a stage finishes, and what was not logged waits."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from numbers import Real
from pathlib import Path
from typing import Any, NamedTuple

from stages.artifacts import read_json, sha256_text, write_json
from stages.errors import TrackingError

EXPERIMENT = "erasediff"
PARENT_VARIABLE = "ERASEDIFF_PARENT_RUN_ID"
#: The checkout whose store and locks a run in another folder (a worktree) uses.
ROOT_VARIABLE = "ERASEDIFF_ROOT"
#: Tag by which a run is found again, also one whose number is not known: the answer was lost, or it was made later.
KEY_TAG = "run_key"
#: Seconds between two sendings of gathered metrics; MLflow's limits of one call.
FLUSH_SECONDS, METRICS_A_CALL, PARAMS_A_CALL, PARAM_LENGTH = 2.0, 1000, 100, 6000
#: Seconds after a failure in which the server is left alone; doubled at each further one.
FIRST_PAUSE, LONGEST_PAUSE, LAST_TRY_AFTER = 60.0, 600.0, 15.0
#: Answers that the next try would get too.
REFUSALS = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "INVALID_STATE", "RESOURCE_DOES_NOT_EXIST"}


def project_root() -> Path:
    """The real checkout, also from a worktree, or an experiment's temporary copy (DVC sets ``DVC_ROOT``)."""
    if root := os.environ.get(ROOT_VARIABLE) or os.environ.get("DVC_ROOT"):
        return Path(root).resolve()
    here = Path.cwd().resolve()
    return next((p for p in (here, *here.parents) if (p / "dvc.yaml").exists() or (p / ".git").exists()), here)


def tracking_uri() -> str:
    """``MLFLOW_TRACKING_URI``, else a SQLite file in the checkout."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{project_root() / 'mlflow.db'}"


def without_credentials(text: str) -> str:
    """A URI, or a message with URIs in it, that may be shown."""
    # Also a password with an unquoted slash: no valid URI, but people write it and errors repeat it.
    text = re.sub(r"(//)([^/\s'\":]*:[^\s'\"]*|[^/\s'\"]*)@", r"\1", text)
    return re.sub(r"(?i)\b(password|token|secret)=[^&\s'\"]*", r"\1=…", text)


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold a lock file."""
    import fcntl

    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def patience(seconds: int, retries: int) -> Iterator[None]:
    """How long MLflow's HTTP calls in the block wait. What is set already stays: a person's setting, an outer block's.

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


def client() -> Any:
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


def _with_experiment(result: Any, artifacts: str | None) -> Any:
    from mlflow.exceptions import MlflowException

    if result.get_experiment_by_name(EXPERIMENT) is None:
        try:
            result.create_experiment(EXPERIMENT, artifact_location=artifacts)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":  # another stage was faster
                raise
    return result


def git_state() -> dict[str, str]:
    """Commit, and whether there are uncommitted changes. ``dvc.lock`` does not count: running writes it.

    Read in the working folder: a DVC experiment's temporary copy has a commit of its own.
    """

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
        except OSError:
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    commit, changes = git("rev-parse", "HEAD"), git("status", "--porcelain", "--", ":/", ":(exclude,top)dvc.lock")
    return {
        "git_commit": commit or "unknown",
        "git_dirty": "unknown" if changes is None else str(bool(changes)).lower(),
    }


def flat(params: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested params as ``{"a.b": text}``, cut at what MLflow takes."""
    result: dict[str, str] = {}
    for key, value in params.items():
        if isinstance(value, Mapping) and value:
            result |= flat(value, f"{prefix}{key}.")
        else:
            result[f"{prefix}{key}"] = str(value)[:PARAM_LENGTH]
    return result


def metric_name(name: str) -> str:
    """A name MLflow takes: a concept may be called ``dogs & cats`` or ``../x``; a digest keeps two such apart."""
    clean = re.sub(r"[^\w.\- ]", "_", name).strip(" .")[:230]
    return clean if clean == name and clean else f"{clean} {sha256_text(name)[:6]}".strip()


def process_start(pid: int) -> str | None:
    """When a process of this host started (kernel ticks), so that a reused id is not taken for it; ``None``: dead."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if after_name[0] == "Z" else after_name[19]
    except OSError:
        if Path("/proc/self").exists():
            return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return "unknown"


class Call(NamedTuple):
    """Something to log as plain data, so that it can wait on disk too. ``n``: how many of its kind."""

    kind: str
    content: Any
    n: int = 1


#: What a person is told is missing.
WORDS = {"params": "params", "metrics": "metric values", "artifact": "artifacts", "artifacts": "artifacts"}


def run_with_key(mlflow_client: Any, key: str | None) -> str | None:
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


def made_run(mlflow_client: Any, about: Mapping[str, Any]) -> str:
    """The run of ``about`` (``key``, ``started``, ``tags``, ``continues``), made where it is not there yet."""
    if (there := run_with_key(mlflow_client, about["key"])) is not None:
        return there
    if (before := about["continues"]) and _is_run_of(mlflow_client, before, about["tags"]["stage"]):
        return before
    experiment = mlflow_client.get_experiment_by_name(EXPERIMENT)
    made = mlflow_client.create_run(experiment.experiment_id, start_time=about["started"], tags=about["tags"])
    return made.info.run_id


def _is_run_of(mlflow_client: Any, run_id: str, stage: str) -> bool:
    from mlflow.exceptions import MlflowException

    try:
        run = mlflow_client.get_run(run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return False
    return run.info.lifecycle_stage == "active" and run.data.tags.get("stage") == stage


def not_logged_yet(mlflow_client: Any, run_id: str, values: list[Any]) -> list[Any]:
    """Of metric values those whose step the run does not have: a resumed training measures some steps again."""
    steps = {k: {m.step for m in mlflow_client.get_metric_history(run_id, k)} for k in {value[0] for value in values}}
    return [value for value in values if value[3] == 0 or value[3] not in steps[value[0]]]


def send(mlflow_client: Any, run_id: str, call: Call) -> None:
    """Make a call; made twice it has the effect of one."""
    from mlflow.entities import Metric, Param

    if call.kind == "params":
        mlflow_client.log_batch(run_id, params=[Param(k, v) for k, v in call.content])
    elif call.kind == "metrics":
        mlflow_client.log_batch(run_id, metrics=[Metric(*value) for value in call.content])
    elif call.kind == "artifact":
        mlflow_client.log_artifact(run_id, *call.content)
    elif call.kind == "artifacts":
        mlflow_client.log_artifacts(run_id, *call.content)
    elif call.kind == "tag":
        mlflow_client.set_tag(run_id, *call.content)
    elif call.kind == "link":
        _send_link(mlflow_client, run_id, **call.content)
    else:
        status, ended = call.content
        mlflow_client.set_terminated(run_id, status, ended)


def _send_link(mlflow_client: Any, run_id: str, stage: str, child: str | None, key: str | None, executed: bool) -> None:
    child = child or run_with_key(mlflow_client, key)
    mlflow_client.set_tag(run_id, f"stage.{stage}.run_id", child or "not logged")
    mlflow_client.set_tag(run_id, f"stage.{stage}.origin", "executed" if executed else "cached")
    if child and executed:  # it may have been made before this run was
        mlflow_client.set_tag(child, "mlflow.parentRunId", run_id)


class StageRun:
    """The MLflow run of a stage; every call is safe with the server down.

    What is logged waits in a queue. While the server cannot be reached it stays there and is tried again a minute
    later and at the end, so that a restart of the server during a long training loses nothing; what is left then
    goes to ``stages.outbox``.

    Attributes:
        key: by which the run is found, whenever it is made.
        run_id: ``None`` where the server could not be reached.
        experiment_id: likewise.
        result: further entries for ``runs/STAGE.json``.
        missed: what was not logged, by kind; final after the run's end.

    Args:
        continues: id of the run that a killed process of the same stage left: it is gone on with where it exists.
    """

    def __init__(self, name: str, continues: str | None = None):
        self.name, self.key, self._continues = name, uuid.uuid4().hex, continues
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

    def start(self, params: Mapping[str, Any], *, required: bool = False) -> None:
        """Create the run. Raises: TrackingError: ``required`` and the server cannot be used."""
        from stages.door import quiet_environment

        quiet_environment()
        self._about = {"key": self.key, "started": _now(), "tags": self._tags(), "continues": self._continues}
        self._queue.append(Call("run", None))
        items = list(flat(params).items())
        for i in range(0, len(items), PARAMS_A_CALL):
            part = items[i : i + PARAMS_A_CALL]
            self._queue.append(Call("params", part, len(part)))
        self._drain(warn=not required)
        if required and self.run_id is None:
            raise TrackingError(f"MLflow at {without_credentials(tracking_uri())} unreachable ({self._reason})")

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
        from stages import outbox

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
            self._client = client()
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
        from stages import outbox

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


def short_reason(error: BaseException) -> str:
    """An MLflow error in a few words, without credentials."""
    text = " ".join(str(error).split())
    if "Connection refused" in text:
        return "connection refused"
    if "timed out" in text.lower():
        return "no answer in time"
    return without_credentials(text)[:160]


def is_refusal(error: Exception) -> bool:
    """Whether the next try would get the same answer."""
    return getattr(error, "error_code", None) in REFUSALS or isinstance(error, FileNotFoundError)


@contextmanager
def _sigterm_raises() -> Iterator[None]:
    """SIGTERM as an exception, so that the run is closed; further ones are ignored.

    Whoever ends a process group sends one, and the parent's death brings another while the run is being closed. Left
    alone where someone else handles it (Prefect), and outside the main thread, where Python cannot.
    """
    main_thread = threading.current_thread() is threading.main_thread()
    if not main_thread or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def stop(number: int, frame: Any) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGTERM) is stop:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextmanager
def _closing(run: StageRun) -> Iterator[None]:
    with _sigterm_raises():
        try:
            yield
        except BaseException as error:
            # KeyboardInterrupt, SIGTERM and Prefect's own signal are no Exception.
            run.end("FAILED" if isinstance(error, Exception) else "KILLED")
            raise
        run.end("FINISHED")


@contextmanager
def stage_run(
    name: str, params: Mapping[str, Any], *, required: bool = False, continues: str | None = None
) -> Iterator[StageRun]:
    """Log a stage; at its success write ``runs/NAME.json``, which tells a cached result's run.

    Args:
        params: logged flattened.
        required: the stage is pointless without MLflow.
        continues: the run of a killed process that this one goes on for.

    Raises: TrackingError: ``required`` and the server cannot be used.
    """
    run, started = StageRun(name, continues), time.perf_counter()
    run.start(params, required=required)
    with _closing(run):
        yield run
    facts = {
        "stage": name,
        "run_id": run.run_id,
        "run_key": run.key,
        "experiment_id": run.experiment_id,
        "tracking_uri": without_credentials(tracking_uri()),
        "logged": not run.missed,
        "seconds": round(time.perf_counter() - started, 1),
    }
    write_json(Path("runs") / f"{name}.json", {**facts, **run.result})


class ParentRun(StageRun):
    """The run above a flow's stages."""

    def link(self, stage: str, executed: bool) -> None:
        """Note the run that made a stage's result, also where DVC took it from its cache.

        Raises: IntegrityError: the stage left no ``runs/STAGE.json``.
        """
        self._put(Call("link", _link(stage, Path("runs") / f"{stage}.json", executed)))


def link_stage(parent_run_id: str, stage: str, run_json: Path, executed: bool = False) -> None:
    """:meth:`ParentRun.link` from a process that has only the parent's id.

    Raises: TrackingError: the server cannot be used. IntegrityError: ``run_json`` is missing or broken.
    """
    link = _link(stage, run_json, executed)
    try:
        with patience(5, 1):
            send(client(), parent_run_id, Call("link", link))
    except Exception as error:  # MLflow raises whatever its store's driver does
        where = without_credentials(tracking_uri())
        raise TrackingError(f"MLflow at {where}: {stage} is not linked ({short_reason(error)})") from None


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
