"""What every stage's command shares: usage, one line for a stated failure, exit codes, and dying with its parent."""

from __future__ import annotations

import argparse
import ctypes
import errno
import os
import shlex
import signal
import sys
from collections.abc import Callable, Mapping, Sequence

from stages.errors import CannotWrite, EraseDiffError, OutOfMemory


def run_door(
    name: str,
    main: Callable[..., None],
    description: str | None,
    choices: Mapping[str, Sequence[str] | None] | None = None,
    *,
    trains: bool = False,
) -> None:
    """Run ``main`` as the command ``python -m stages.NAME`` and exit.

    Exit codes: 0 done, 1 a stated failure, 2 wrong usage or parameters, 130 interrupted.

    Args:
        choices: positional arguments by name with what they may be (``None``: anything); ``main`` gets them by keyword.
        trains: ``main`` can be run by several processes, as ``ERASEDIFF_LAUNCH`` says: torchrun's options.
    """
    parser = argparse.ArgumentParser(prog=f"python -m stages.{name}", description=description)
    for argument, values in (choices or {}).items():
        parser.add_argument(argument, choices=values)
    arguments = vars(parser.parse_args())
    die_with_parent()
    quiet_environment()
    if trains and os.environ.get(LAUNCH) and "RANK" not in os.environ:
        sys.exit(launched(name, shlex.split(os.environ[LAUNCH])))
    try:
        main(**arguments)
    except EraseDiffError as error:
        sys.exit(fail(error))
    except KeyboardInterrupt:
        print(f"{name}: interrupted; nothing half-written counts, run it again to go on", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if (unwritable := cannot_write(name, error)) is not None:
            sys.exit(fail(unwritable))
        if not is_out_of_memory(error):
            raise
        reason = " ".join(str(error).split())[:120]
        advice = f"lower {name}'s batch size in params.yaml, or curate.image_size"
        sys.exit(fail(OutOfMemory(f"{name} ran out of memory ({reason}): {advice}")))


def launched(name: str, options: list[str]) -> int:
    """Run a stage's command in several processes; the exit code of the first that failed, which has said why."""
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as torchrun

    try:
        torchrun([*options, "-m", f"stages.{name}"])
    except ChildFailedError as error:
        code = min(error.failures.values(), key=lambda failure: failure.timestamp).exitcode
        return 128 - code if code < 0 else code or 1  # of one that a signal ended, as a shell says it
    return 0


def fail(error: EraseDiffError) -> int:
    """Print a stated failure in one line; its exit code."""
    print(f"{type(error).__name__}: {error}", file=sys.stderr)
    return error.exit_code


def cannot_write(name: str, error: BaseException) -> CannotWrite | None:
    """The stated failure that an error of the disk is, and ``None`` for any other error."""
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
    """Whether an error says that host or device memory ran out."""
    if not isinstance(error, MemoryError | RuntimeError):
        return False
    text = str(error).lower()
    return isinstance(error, MemoryError) or "out of memory" in text or "can't allocate memory" in text


def die_with_parent() -> None:
    """Linux: end this process when the one that started it (DVC) ends, so that no stage writes on unseen."""
    if sys.platform == "linux" and os.environ.get("DVC_STAGE"):
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def quiet_environment() -> None:
    """No telemetry: this software handles erasure requests. Before torch is imported, which reads its setting once."""
    for name, value in {**TELEMETRY_OFF, **QUIET}.items():
        os.environ.setdefault(name, value)


#: Options of torchrun for the stages that train, such as ``--standalone --nproc_per_node 4``.
LAUNCH = "ERASEDIFF_LAUNCH"
#: What the system says of a disk, a quota or a file's limit that is used up; and of a place that may not be written.
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)
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
    # On a GPU: what cuBLAS needs to give the same bits at every run (stages.loading.repeatable).
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
}
