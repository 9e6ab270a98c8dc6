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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from stages.door import cannot_write
from stages.errors import CheckoutBusy, StageFailed

LOCK = Path(".work/flow.lock")
DVC_LOCK = "dvc.lock"
#: DVC's advice for a run by hand; the flow does it.
HINTS = (
    "To track the changes with git",
    "git add",
    "To enable auto staging",
    "dvc config core.autostage",
    "Use `dvc push`",
)
IDENTITY = ["-c", "user.name=EraseDiff Pipeline", "-c", "user.email=erasediff-pipeline@localhost"]
#: Loaded before a fork: the child may not import.
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


def environment() -> dict[str, str]:
    """The caller's environment with this interpreter's folder first on PATH."""
    folder = str(Path(sys.executable).parent)
    return {**os.environ, "PATH": folder + os.pathsep + os.environ.get("PATH", ""), "PYTHONUNBUFFERED": "1"}


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


def run_stage(name: str, say: Callable[[str], None], extra_environment: dict[str, str], *, force: bool = False) -> bool:
    """Run one stage through DVC, its output line by line to ``say``; whether it executed (not cached or unchanged).

    Args:
        force: run it though nothing that it reads has changed.

    Raises: StageFailed: with the stage's own last stated error.
    """

    def with_parent() -> None:
        if _LIBC is not None:
            _LIBC.prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG: a killed flow leaves no writer behind

    process = subprocess.Popen(
        dvc("--wait-for-lock", "repro", "-s", *(["-f"] if force else []), name),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment() | extra_environment,
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
        stated = [x for x in lines if re.match(r"[A-Z]\w+: ", x) and not x.startswith("ERROR")]
        raise StageFailed(f"stage {name} failed: {(stated or lines or ['no output'])[-1]}")
    return any(line.startswith("Running stage") for line in lines)


def record_lock(message: str) -> tuple[str | None, str]:
    """Commit ``dvc.lock`` and nothing else: checking that commit out and ``dvc pull`` bring this very model back.

    Only from a checkout without other changes, so that the commit's code and params are those that made the model.

    Returns: the commit that holds the lock as it is, or ``None`` with the reason.
    """

    def git(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)

    changes = git("status", "--porcelain", "--", ":/", f":(exclude,top){DVC_LOCK}")
    if changes.returncode:
        return None, "this is no git repository"
    if changes.stdout.strip():
        return None, f"there are other changes ({changes.stdout.split()[1]}, …): commit them with {DVC_LOCK}"
    if git("status", "--porcelain", "--", DVC_LOCK).stdout.strip():
        # A fresh machine has no identity; one that is set is used.
        identity = [] if git("config", "user.email").stdout.strip() else IDENTITY
        git("add", "--", DVC_LOCK)
        done = git(*identity, "commit", "--quiet", "--only", "-m", message, "--", DVC_LOCK)
        if done.returncode:
            return None, f"git commit failed: {' '.join((done.stderr or done.stdout).split())[:200]}"
    return git("rev-parse", "HEAD").stdout.strip(), ""


def end_on_interrupt() -> None:
    """Ctrl-C ends this process once its children have ended: for a flow on Prefect's temporary server.

    The terminal interrupts that server too, and Prefect would try for minutes to tell it. The stages are interrupted
    likewise and keep their checkpoints; where only this process was, they are terminated.
    """

    def end(*_: object) -> None:
        import psutil

        children = psutil.Process().children(recursive=True)
        _, left = psutil.wait_procs(children, timeout=10)
        for process in left:
            process.terminate()
        psutil.wait_procs(left, timeout=20)
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
