"""The frame of every command here: no telemetry, one line for a stated failure, exit codes, a server for Prefect."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from erasediff.command import cannot_write, exit_code, quiet_environment


def run_command(name: str, work: Callable[[], None]) -> NoReturn:
    """Do the work of ``python -m flows.NAME`` and exit: 0 done, 1 a stated failure, 2 wrong usage, 130 interrupted."""
    quiet_environment()
    sys.exit(exit_code(name, work, interrupted="the next run goes on from here"))


def temporary_server() -> None:
    """Have Prefect start a server for this run alone, unless one is named; Ctrl-C then ends it too.

    Call it before Prefect is imported, which reads its settings once.

    Raises: CannotWrite: the folder is read-only, or the disk full.
    """
    from flows.tools.names import PREFECT_API, PREFECT_HOME
    from flows.tools.processes import end_on_interrupt

    os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")
    if PREFECT_API in os.environ:
        return
    home = Path(os.environ.setdefault(PREFECT_HOME, str(Path(".work/prefect").resolve())))
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write("the flow", error) or error from None
    end_on_interrupt()
