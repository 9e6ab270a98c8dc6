"""The only caller of DVC: the order of the stages, one stage run, one run a checkout."""

from __future__ import annotations

import ctypes
import fcntl
import getpass
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from erasediff.command import cannot_write
from erasediff.errors import CheckoutBusy, PushFailed, StageFailed

LOCK = Path(".work/flow.lock")
DVC_LOCK = "dvc.lock"
RUNS, EVALUATION, REPORT = Path("runs"), Path("metrics/evaluation.json"), Path("reports/report.html")
REGISTERED = RUNS / "register.json"
#: DVC's advice for a run by hand, which the flow does or does not need.
HINTS = (
    "To track the changes with git",
    "git add",
    "To enable auto staging",
    "dvc config core.autostage",
    "Use `dvc push`",
    "WARNING: No file hash info found",  # of outs that an experiment is yet to make
    "To apply the results of an experiment",
    "dvc exp apply",
)
IDENTITY = ["-c", "user.name=EraseDiff Pipeline", "-c", "user.email=erasediff-pipeline@localhost"]
#: Loaded before a fork: the child may not import.
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


def environment() -> dict[str, str]:
    """The caller's environment with this interpreter's folder first on PATH."""
    folder = str(Path(sys.executable).parent)
    return {**os.environ, "PATH": folder + os.pathsep + os.environ.get("PATH", ""), "PYTHONUNBUFFERED": "1"}


def threads(jobs: int) -> int:
    """Processor threads for each of so many jobs at once."""
    return max(1, (os.cpu_count() or 1) // jobs)


def dvc(*arguments: str) -> list[str]:
    """The command line of this environment's DVC."""
    return [sys.executable, "-m", "dvc", *arguments]


def stage_order() -> dict[str, list[str]]:
    """Stages in an order that can be run, each with the stages it waits for; from ``dvc dag``. Raises: StageFailed."""
    done = subprocess.run(dvc("dag", "--dot"), capture_output=True, text=True, env=environment(), check=False)
    if done.returncode:
        raise StageFailed(f"dvc dag failed: {(done.stderr.strip().splitlines() or ['no output'])[-1]}: mend dvc.yaml")
    return parse_dag(done.stdout)


def parse_dag(dot: str) -> dict[str, list[str]]:
    """``dvc dag --dot`` to ``{stage: stages it waits for}`` in topological order."""
    from graphlib import TopologicalSorter

    before: dict[str, set[str]] = {}
    for line in dot.splitlines():
        names = re.findall(r'"([^"]+)"', line)
        if names:
            before.setdefault(names[-1], set()).update(names[:-1])
    return {name: sorted(before.get(name, ())) for name in TopologicalSorter(before).static_order()}


def is_clean() -> bool:
    """Whether DVC has nothing to run."""
    done = subprocess.run(dvc("status", "--quiet"), capture_output=True, env=environment(), check=False)
    return done.returncode == 0


def parent_variable(run_id: str | None) -> dict[str, str]:
    """What puts a process's MLflow run under another."""
    return {"ERASEDIFF_PARENT_RUN_ID": run_id} if run_id else {}


def run_experiment(
    name: str, overrides: Mapping[str, Any], targets: Sequence[str], say: Callable[[str], None], extra: dict[str, str]
) -> None:
    """Run stages as a DVC experiment in a folder of its own, beside others. Raises: StageFailed.

    Args:
        overrides: params by their dotted names.
    """
    settings = [part for key, value in overrides.items() for part in ("-S", f"{key}={json.dumps(value)}")]
    _follow(dvc("exp", "run", "--temp", "--name", name, *settings, *targets), f"experiment {name}", say, extra)


def experiment_metrics() -> dict[str, dict[str, Any]]:
    """``{experiment: {"evaluation": …, "erase": …}}`` of this commit's experiments that ended. Raises: StageFailed."""
    done = subprocess.run(
        dvc("exp", "show", "--json", "--hide-queued"), capture_output=True, text=True, env=environment(), check=False
    )
    if done.returncode:
        raise StageFailed(f"dvc exp show failed: {(done.stderr.strip().splitlines() or ['no output'])[-1]}")
    found = {}
    for baseline in json.loads(done.stdout):
        for experiment in baseline.get("experiments") or []:
            # Of one whose process was killed DVC says that it runs for ever: it has no result, nor a name to remove.
            if (experiment.get("executor") or {}).get("state") == "running":
                continue
            metrics = (experiment["revs"][0].get("data") or {}).get("metrics") or {}
            found[experiment["name"]] = {
                Path(path).stem: content["data"] for path, content in metrics.items() if content and "data" in content
            }
    return found


def remove_experiments(names: Sequence[str]) -> None:
    """Let their names be used again; what they made stays in DVC's cache. Raises: StageFailed."""
    if names:
        _follow(dvc("exp", "remove", *names), "removing experiments", lambda line: None, {})


def head_commit() -> str:
    """The checkout's commit, or ``unknown``."""
    return git("rev-parse", "HEAD").stdout.strip() or "unknown"


def run_stage(name: str, say: Callable[[str], None], extra_environment: dict[str, str], *, force: bool = False) -> bool:
    """Run one stage through DVC, its output line by line to ``say``; whether it executed (not cached or unchanged).

    Args:
        force: run it though nothing that it reads has changed.

    Raises: StageFailed: with the stage's own last stated error.
    """
    command = dvc("--wait-for-lock", "repro", "-s", *(["-f"] if force else []), name)
    lines = _follow(command, f"stage {name}", say, extra_environment)
    return any(line.startswith("Running stage") for line in lines)


def run_door(name: str, *arguments: str, say: Callable[[str], None], extra: dict[str, str] | None = None) -> None:
    """Run a door that is no stage of DVC's. Raises: StageFailed: with its own last stated error."""
    _follow([sys.executable, "-m", f"stages.{name}", *arguments], f"stage {name}", say, extra or {})


def _follow(command: list[str], what: str, say: Callable[[str], None], extra: dict[str, str]) -> list[str]:
    """What a command printed, line by line to ``say`` too; it ends with this process. Raises: StageFailed: with the
    last stated error."""

    def with_parent() -> None:
        if _LIBC is not None:
            _LIBC.prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG: a killed flow leaves no writer behind

    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment() | extra,
        preexec_fn=with_parent,
    )
    lines: list[str] = []
    assert process.stdout is not None
    try:
        for line in process.stdout:  # universal newlines: a progress bar's refresh is a line too, a few seconds apart
            if line.strip() and not line.strip().startswith(HINTS):
                lines.append(line.rstrip())
                say(line.rstrip())
        code = process.wait()
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()
    if code:
        raise StageFailed(f"{what} failed: {reason(lines, code)}")
    return lines


def reason(lines: Sequence[str], code: int = 1) -> str:
    """Why a command failed, from what it printed: the signal that ended the stage, or the last stated error.

    Args:
        code: its own exit code; negative where a signal ended it.
    """
    codes = [int(found[1]) for line in lines if (found := re.search(r"failed to run: .*, exited with (-?\d+)$", line))]
    number = -last if (last := (codes or [code])[-1]) < 0 else last - 128  # of DVC's shell: 128 more
    if number in set(signal.Signals) - {signal.SIGINT}:
        return f"it was ended by {signal.Signals(number).name}, as where memory runs out: run it again to go on"
    stated = [x for x in lines if re.match(r"[A-Z]\w+: ", x) and not x.startswith("ERROR")]
    return (stated or list(lines) or ["no output"])[-1]


def git(*arguments: str, at: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run git, here by default."""
    return subprocess.run(["git", *arguments], cwd=at, capture_output=True, text=True, check=False)


def commit(message: str, *paths: str) -> str:
    """Commit changes of these files and nothing else; git's complaint, empty where there is none."""
    paths = tuple(p for p in paths if git("status", "--porcelain", "--", p).stdout.strip())
    if not paths:
        return ""
    # A fresh machine has no identity; one that is set is used.
    identity = [] if git("config", "user.email").stdout.strip() else IDENTITY
    git("add", "--", *paths)
    done = git(*identity, "commit", "--quiet", "--only", "-m", message, "--", *paths)
    return f"git commit failed: {' '.join((done.stderr or done.stdout).split())[:200]}" if done.returncode else ""


def record_lock(message: str) -> tuple[str | None, str]:
    """Commit ``dvc.lock`` and nothing else: checking that commit out and ``dvc pull`` bring this very model back.

    Only from a checkout without other changes, so that the commit's code and params are those that made the model.

    Returns: the commit that holds the lock as it is, or ``None`` with the reason.
    """
    changes = git("status", "--porcelain", "--", ":/", f":(exclude,top){DVC_LOCK}")
    if changes.returncode:
        return None, "this is no git repository"
    if changes.stdout.strip():
        return None, f"there are other changes ({changes.stdout.split()[1]}, …): commit them with {DVC_LOCK}"
    if complaint := commit(message, DVC_LOCK):
        return None, complaint
    return git("rev-parse", "HEAD").stdout.strip(), ""


def temporary_server() -> None:
    """Let Prefect start a server for this run alone, unless one is named; Ctrl-C then ends it too.

    Raises: CannotWrite: the folder is read-only, or the disk full.
    """
    os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")
    if "PREFECT_API_URL" not in os.environ:
        home = Path(os.environ.setdefault("PREFECT_HOME", str(Path(".work/prefect").resolve())))
        try:
            home.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise cannot_write("the flow", error) or error from None
        end_on_interrupt()


def share_storage(checkout: Path, place: Path) -> None:
    """Have another checkout use this one's DVC cache and remotes, whatever they are relative to."""
    from dvc.config import Config, merge
    from dvc.config_schema import RelPath

    ours = Config(str(checkout / ".dvc"), validate=False)
    with Config(str(place / ".dvc"), validate=False).edit("local", validate=False) as theirs:
        for level in ("repo", "local"):
            merge(theirs, ours.read(level))
        # Written as a relative path: DVC's file holds ASCII alone, and the checkout's own path may not be that.
        theirs["cache"].setdefault("dir", RelPath(checkout / ".dvc" / "cache"))


def remote() -> str | None:
    """The default DVC remote, where one is configured."""
    from dvc.config import Config

    return Config(".dvc").get("core", {}).get("remote")


def push() -> None:
    """Send what ``dvc.lock`` names to the DVC remote. Raises: PushFailed."""
    done = subprocess.run(dvc("push", "--quiet"), capture_output=True, text=True, env=environment(), check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise PushFailed(f"dvc push failed: {reason}: the results are in the local cache; mend the remote and push")


def outs_only_missing() -> bool:
    """Whether DVC has nothing to run, where outs need not be checked out: ``dvc.lock`` says what they are."""
    done = subprocess.run(dvc("status", "--json"), capture_output=True, text=True, env=environment(), check=False)
    if done.returncode or not Path(DVC_LOCK).exists():
        return False
    from erasediff.registry.lineage import read_lock

    outs = {out["path"] for stage in read_lock()["stages"].values() for out in stage.get("outs", [])}

    def only_missing(change: object) -> bool:
        return isinstance(change, dict) and all(
            isinstance(files, dict) and state == "deleted" and path in outs
            for files in change.values()
            for path, state in (files.items() if isinstance(files, dict) else [("", "")])
        )

    return all(only_missing(change) for changes in json.loads(done.stdout or "{}").values() for change in changes)


def fetch_outs(*paths: Path) -> bool:
    """Bring outs of ``dvc.lock`` from the cache; whether they are there."""
    command = dvc("checkout", "--quiet", *map(str, paths))
    return subprocess.run(command, capture_output=True, env=environment(), check=False).returncode == 0


def end_children(patience: float = 20) -> None:
    """Terminate what works below this one, and wait for all of it: a stage keeps its checkpoint, DVC sees it end.

    Never reaped here: who started them waits for their exit code, and would otherwise be told 0.
    """
    import psutil

    def lives(process: psutil.Process) -> bool:
        with suppress(psutil.NoSuchProcess):
            return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
        return False

    left, until = psutil.Process().children(recursive=True), time.monotonic() + patience
    for process in left:
        with suppress(psutil.NoSuchProcess):
            if not process.children():  # a stage; once it has ended DVC does
                process.terminate()
    while (left := [process for process in left if lives(process)]) and time.monotonic() < until:
        time.sleep(0.1)
    for process in left:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def end_on_interrupt() -> None:
    """Ctrl-C ends this process once its children have ended: for a flow on Prefect's temporary server.

    The terminal interrupts that server too, and Prefect would try for minutes to tell it. The stages are interrupted
    likewise and keep their checkpoints; where only this process was, they are terminated.
    """

    def end(*_: object) -> None:
        import psutil

        children = psutil.Process().children(recursive=True)
        psutil.wait_procs(children, timeout=10)
        end_children()
        print("interrupted; the next run goes on from here", file=sys.stderr, flush=True)
        os._exit(130)

    signal.signal(signal.SIGINT, end)


@contextmanager
def only_run(path: Path = LOCK) -> Iterator[None]:
    """Hold this checkout.

    Raises: CheckoutBusy: another run has it; the message says who. CannotWrite: it is read-only, or the disk full.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "a+", encoding="utf-8")  # noqa: SIM115 (closed below)
    except OSError as error:
        raise cannot_write("the flow", error) or error from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = json.loads(file.read() or "{}")
            who = ", ".join(f"{k} {v}" for k, v in holder.items()) or "an unknown process"
            raise CheckoutBusy(f"another run works in this checkout ({who}): wait for it or stop it") from None
        file.truncate(0)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        holder = {"pid": os.getpid(), "user": getpass.getuser(), "host": socket.gethostname(), "since": now}
        file.write(json.dumps(holder))
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)
