"""Processes below this one: followed line by line, their failure told, ended with this one."""

from __future__ import annotations

import ctypes
import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import takewhile
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, TypeAlias

from erasediff import errors
from erasediff.checkout import process_start, user_name
from erasediff.errors import EraseDiffError, StageFailed
from erasediff.git import without_elsewhere
from flows.tools.names import STARTED_FOR, THREADS

if TYPE_CHECKING:
    import psutil

#: A line that tells an error: a stated failure, or the last line of a traceback.
TOLD = re.compile(r"((?:\w+\.)*[A-Z]\w+): ")
#: How Python's own errors are called. Others with a colon (``WARNING: …``, ``Note: …``) tell no error.
PYTHON_ERROR = ("Error", "Exception", "Exit", "Expired", "Interrupt")
#: Loaded before a fork: the child may not import.
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


def environment() -> dict[str, str]:
    """Return the caller's environment with this interpreter's folder first on PATH, and no lead to another git.

    A user without a name, as in a pod, has one there: DVC asks for it.
    """
    folder = str(Path(sys.executable).parent)
    return {
        "USER": user_name(),
        **without_elsewhere(),
        "PATH": folder + os.pathsep + os.environ.get("PATH", ""),
        "PYTHONUNBUFFERED": "1",
        "PYTHONIOENCODING": "utf-8",
    }


def threads(jobs: int) -> int:
    """Return the number of processor threads for each of ``jobs`` processes at once."""
    return max(1, (os.cpu_count() or 1) // jobs)


def settings(parent: str | None = None, threads: int | None = None) -> dict[str, str]:
    """Return environment variables for a stage.

    Args:
        parent: the MLflow run that the stage's own hangs under.
        threads: how many processor threads it may use; another number may change the last digits of a result.
    """
    from erasediff.tracking.run import PARENT_VARIABLE

    wanted = {PARENT_VARIABLE: parent, THREADS: threads}
    return {name: str(value) for name, value in wanted.items() if value is not None}


def follow(
    command: Sequence[str], say: Callable[[str], None], extra: Mapping[str, str], ignore: tuple[str, ...] = ()
) -> tuple[list[str], int]:
    """Run a command, pass each line of its output to ``say``; return all lines and the exit code.

    The command ends with this process.

    Args:
        extra: environment variables beside :func:`environment`.
        ignore: starts of lines that are left out.
    """

    def with_parent() -> None:
        if _LIBC is not None:
            _LIBC.prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG: a killed flow leaves no writer behind

    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,  # nobody is asked
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        env={**environment(), **extra},
        preexec_fn=with_parent,
    )
    lines: list[str] = []
    assert process.stdout is not None
    try:
        for line in process.stdout:  # universal newlines: a progress bar's refresh is a line too, a few seconds apart
            if line.strip() and not line.strip().startswith(ignore):
                lines.append(line.rstrip())
                say(line.rstrip())
        return lines, process.wait()
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()


def failure(what: str, lines: Sequence[str], code: int) -> EraseDiffError:
    """Return the failure of a command: of the class that its last told error names, else StageFailed.

    Args:
        what: the command, for a person.
        lines: what it printed.
        code: its exit code; negative, or 128 more (a shell's), where a signal ended it.
    """
    number = -code if code < 0 else code - 128
    if number in set(signal.Signals) - {signal.SIGINT}:
        why = ", as where memory runs out" if number == signal.SIGKILL else ""
        ended = f"it was ended by {signal.Signals(number).name}{why}"
        return StageFailed(f"{what} failed: {ended}: run it again to go on")
    kind, reason = told_error(lines)
    return kind(f"{what} failed: {reason}")


def told_error(lines: Sequence[str]) -> tuple[type[EraseDiffError], str]:
    """Return the class and the message of the last error that a command's output tells."""
    for number, line in reversed(list(enumerate(lines))):
        if not (found := TOLD.match(line)):
            continue
        if (kind := stated_class(found[1])) is not None:
            mistakes = takewhile(lambda more: more.startswith("  - "), lines[number + 1 :])
            return kind, "\n".join([line[found.end() :], *mistakes])
        if found[1].endswith(PYTHON_ERROR):
            return StageFailed, line
    return StageFailed, (lines or ["no output"])[-1]


def stated_class(name: str) -> type[EraseDiffError] | None:
    """Return the class of :mod:`erasediff.errors` that has this name, ``None`` where none has."""
    kind = getattr(errors, name, None)
    return kind if isinstance(kind, type) and issubclass(kind, EraseDiffError) else None


@contextmanager
def ending_children() -> Iterator[None]:
    """End the processes that the block started where a cancellation or an unforeseen error leaves it.

    DVC would go on, and tasks wait for it. What was there before, as Prefect's temporary server, is still to be told.
    """
    before = set(_children())
    try:
        with _handled_by(_end):  # Prefect has put its own in place meanwhile
            yield
    except EraseDiffError:
        raise  # nothing runs any more
    except BaseException:
        end_children(spared=before)
        raise


@contextmanager
def _handled_by(handler: Handler | None) -> Iterator[None]:
    """Have a handler get the signals that end a command."""
    before = {number: signal.signal(number, handler) for number in ENDING} if handler else {}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def _children() -> list[psutil.Process]:
    import psutil

    return psutil.Process().children(recursive=True)


def end_children(patience: float = 20, spared: Collection[psutil.Process] = ()) -> None:
    """Terminate the processes below this one, and wait for all of them: a stage keeps its checkpoint, DVC sees it end.

    They are never reaped here: who started them waits for their exit code, and would otherwise be told 0.

    Args:
        spared: those that go on.
    """
    import psutil

    left, until = [process for process in _children() if process not in spared], time.monotonic() + patience
    for process in left:
        with suppress(psutil.NoSuchProcess):
            if not process.children():  # a stage; once it has ended DVC does
                process.terminate()
    while (left := [process for process in left if _lives(process)]) and time.monotonic() < until:
        time.sleep(0.1)
    for process in left:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def _lives(process: psutil.Process) -> bool:
    import psutil

    with suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


@contextmanager
def on_interrupt(tidy: Callable[[], None], *, at_once: bool) -> Iterator[None]:
    """Have Ctrl-C, a closed terminal or SIGTERM say one thing and end the block; stages keep their checkpoints.

    Whatever fails because of it is not told, here or later: it is no cause.

    Args:
        tidy: leaves the terminal as it was found.
        at_once: end this process as soon as its children have ended: for a flow on Prefect's temporary server. The
            terminal interrupts that server too, and Prefect would try for minutes to tell it.
    """
    global _end

    def end(number: int, frame: FrameType | None) -> None:
        for ending in ENDING:
            signal.signal(ending, signal.SIG_IGN)
        logging.disable(logging.CRITICAL)
        tidy()
        if not at_once:
            raise KeyboardInterrupt
        with suppress(OSError):  # a terminal that was closed
            print("interrupted; the next run goes on from here", file=sys.stderr, flush=True)
        _end_stages()
        os._exit(128 + number)

    _end = end
    try:
        with _handled_by(end):
            yield
    finally:
        _end = None


def _end_stages() -> None:
    """End the processes below this one: those that were interrupted too by themselves, at most 10 s later all."""
    import psutil

    stages = []
    for process in _children():
        with suppress(psutil.NoSuchProcess):
            if TEMPORARY_SERVER in process.cmdline():
                process.kill()  # it would wait for this process, and holds nothing that a kill could spoil
            else:
                stages.append(process)
    psutil.wait_procs(stages, timeout=10)
    end_children()


def end_abandoned_servers() -> None:
    """End temporary servers of this user whose command was killed; those to come are marked as of this command."""
    import psutil

    os.environ[STARTED_FOR] = f"{os.getpid()} {process_start(os.getpid())}"
    for process in psutil.process_iter():
        with suppress(psutil.Error):  # of somebody else's, or one that has just ended, nothing can be read
            if TEMPORARY_SERVER in process.cmdline() and _is_abandoned(process.environ().get(STARTED_FOR, "")):
                process.kill()


def _is_abandoned(mark: str) -> bool:
    pid, _, started = mark.partition(" ")
    return pid.isdigit() and process_start(int(pid)) != started


Handler: TypeAlias = Callable[[int, FrameType | None], None]
#: What ends a command, of which the first is Ctrl-C and the last a terminal that is closed.
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
#: What these do while a command runs a flow.
_end: Handler | None = None
#: An argument of the server that Prefect starts for a run alone.
TEMPORARY_SERVER = "prefect.server.api.server:create_app"
