"""The frame of every command: one line for a stated failure, exit codes, no telemetry, dying with its parent."""

from __future__ import annotations

import ctypes
import errno
import io
import math
import os
import select
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import TextIO

from erasediff.errors import CannotWrite, EraseDiffError, OutOfMemory


def exit_code(
    name: str,
    work: Callable[[], None],
    *,
    interrupted: str = "nothing half-written counts, run it again to go on",
    less_memory: str = "lower the batch size",
) -> int:
    """Do a command's work and return its exit code: 0 done, 1 a stated failure, 2 wrong parameters, 130 interrupted.

    A stated failure is printed in one line, and so is a warning. Whatever was not foreseen is raised. A reader that has
    seen enough, as ``| head``, ends the command as its signal would: 141.

    Args:
        interrupted: what Ctrl-C leaves behind.
        less_memory: what to do where memory ran out.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # what a terminal of another alphabet cannot show
    try:
        with _plain_warnings():
            work()
        sys.stdout.flush()
    except BrokenPipeError:
        if not _nobody_reads(sys.stdout):
            raise
        return 128 + signal.SIGPIPE
    except KeyboardInterrupt:
        print(f"{name}: interrupted; {interrupted}", file=sys.stderr)
        return 130
    except Exception as error:
        stated = stated_failure(name, error, less_memory)
        if stated is None:
            raise
        print(f"{type(stated).__name__}: {stated}", file=sys.stderr)
        return stated.exit_code
    return 0


@contextmanager
def _plain_warnings() -> Iterator[None]:
    """Show a warning as one line without the place in the code, which says nothing to who gave a command."""
    before = warnings.formatwarning
    warnings.formatwarning = lambda message, *place: f"warning: {' '.join(str(message).split())}\n"
    try:
        yield
    finally:
        warnings.formatwarning = before


def _nobody_reads(stream: TextIO) -> bool:
    """True if the other end of a stream is closed; then nothing more is tried, also at the process's end."""
    end = select.poll()
    end.register(stream, 0)
    closed = bool(end.poll(0))
    if closed:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return closed


def stated_failure(name: str, error: Exception, less_memory: str = "lower the batch size") -> EraseDiffError | None:
    """The stated failure that an error is, or amounts to: a full disk, no memory. ``None``: it was not foreseen."""
    if isinstance(error, EraseDiffError):
        return error
    if (unwritable := cannot_write(name, error)) is not None:
        return unwritable
    if is_out_of_memory(error):
        reason = " ".join(str(error).split())[:120]
        return OutOfMemory(f"{name} ran out of memory ({reason}): {less_memory}")
    return None


def cannot_write(name: str, error: BaseException) -> CannotWrite | None:
    """The stated failure that an error of the disk amounts to; ``None`` for any other error."""
    text = str(error)
    full = getattr(error, "errno", None) in DISK_FULL or any(reason in text for reason in map(os.strerror, DISK_FULL))
    if full:  # safetensors and pyarrow raise errors of their own with the system's words
        cannot, advice = "cannot write", "free some space and run it again to go on"
    elif isinstance(error, OSError) and error.errno in READ_ONLY:
        cannot, advice = "may not read or write", "change the rights of that, or work in a copy of the checkout"
    else:
        return None
    return CannotWrite(f"{name} {cannot} ({' '.join(text.split())[:200]}): {advice}")


def is_out_of_memory(error: BaseException) -> bool:
    """Return True if an error says that host or device memory ran out."""
    if not isinstance(error, MemoryError | RuntimeError):
        return False
    text = str(error).lower()
    return isinstance(error, MemoryError) or "out of memory" in text or "can't allocate memory" in text


def enter_environment() -> None:
    """Go on as the Python of the checkout's ``.venv`` where this one lacks the pipeline's packages.

    So ``python -m stages.sample`` needs no activated environment. Nothing happens to whoever imports a module.
    """
    command = getattr(sys, "orig_argv", [])
    asked = command[command.index("-m") + 1] if "-m" in command[:-1] else ""
    if not asked.startswith(("stages.", "flows.")) or all(map(find_spec, ("torch", "mlflow", "ruamel"))):
        return
    home = Path(__file__).parents[1] / ".venv"
    python = home / "bin/python"
    if python.exists() and Path(sys.prefix) != home:
        os.execv(python, [str(python), *command[1:]])
    print(f"{sys.executable} lacks the pipeline's packages: run make demo, or use .venv/bin/python", file=sys.stderr)
    sys.exit(1)


def tenths(
    label: str, unit: str = "", delay: float = 0, seconds: float = 2, *, begins: bool = False
) -> Callable[[int, int], None]:
    """What prints a line for each further tenth of a work, such as ``erase: 40 % (56 of 140, 12 s left)``.

    Args:
        unit: of what is counted, such as " pictures".
        delay: seconds before the first line.
        seconds: between two lines, at least.
        begins: the first call is told, too.
    """
    began = time.monotonic()
    printed, at, any_yet = (-1, -math.inf, True) if begins else (0, began + delay, False)

    def on_progress(done: int, total: int) -> None:
        nonlocal printed, at, any_yet
        now, tenth = time.monotonic(), 10 * done // max(total, 1)
        if tenth > printed and (now - at >= seconds or (done == total and any_yet)):
            percent = 100 * done // max(total, 1)
            then = f", {(now - began) * (total - done) / done:.0f} s left" if 0 < done < total else ""
            print(f"{label}: {percent} % ({done} of {total}{unit}{then})", file=sys.stderr, flush=True)
            printed, at, any_yet = tenth, now, True

    return on_progress


def die_with_parent() -> None:
    """On Linux, end this process when the one that started it (DVC) ends, so that no stage writes on unseen."""
    if sys.platform == "linux" and os.environ.get("DVC_STAGE"):
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def quiet_environment() -> None:
    """Turn telemetry off: this software handles erasure requests. Ask no proxy for this machine's own servers.

    Call it before torch is imported: torch reads its settings once.
    """
    for name, value in {**TELEMETRY_OFF, **QUIET}.items():
        os.environ.setdefault(name, value)
    past_proxies()


def past_proxies() -> None:
    """Have every library ask this machine's own servers directly, where a proxy is set."""
    spellings = ("no_proxy", "NO_PROXY")  # libraries differ in which they read
    if any(name.lower().endswith("_proxy") and name not in spellings for name in os.environ):
        given = next(filter(None, map(os.environ.get, spellings)), "").split(",")
        hosts = ",".join(dict.fromkeys([*filter(None, given), *LOOPBACK]))
        os.environ.update(dict.fromkeys(spellings, hosts))


#: The system's errors for a disk, a quota or a file's limit that is used up, and for a place that may not be written.
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)


#: Of servers on this machine, as lists of hosts that no proxy is asked for name them.
LOOPBACK = ("127.0.0.1", "localhost", "::1")


TELEMETRY_OFF = {
    "DO_NOT_TRACK": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DVC_NO_ANALYTICS": "1",
    "GX_ANALYTICS_ENABLED": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}


QUIET = {
    # Two stages at once share the cores: threads that spin for long while they wait slow both down many times over;
    # threads that never spin make one alone a third slower.
    "GOMP_SPINCOUNT": "1000",
    "TRANSFORMERS_VERBOSITY": "error",
    "DIFFUSERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",  # of transformers too: a line each in a log
    # On a GPU: what cuBLAS needs to give the same bits at every run (erasediff.device).
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
}


@contextmanager
def sigterm_raises() -> Iterator[None]:
    """Raise SIGTERM as an exception, so that the run is closed; further ones are ignored.

    Whoever ends a process group sends one, and the parent's death brings another while the run is being closed. The
    signal is left alone where someone else handles it (Prefect), and outside the main thread, where Python cannot.
    """
    main_thread = threading.current_thread() is threading.main_thread()
    if not main_thread or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGTERM) is stop:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
