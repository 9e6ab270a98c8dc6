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
    from flows.tools.names import BEAT, HEARTBEAT

    quiet_environment()
    os.environ.setdefault(HEARTBEAT, str(BEAT))
    sys.exit(exit_code(name, work, interrupted="the next run goes on from here"))


def prefect_server() -> None:
    """Have Prefect start a server for this run alone, unless one is named, which has to be there.

    Call it before Prefect is imported, which reads its settings once.

    Raises: ServerFailed: the named one cannot be reached. CannotWrite: the folder is read-only, or the disk full.
    """
    from flows.tools.names import PREFECT_API, PREFECT_HOME
    from flows.tools.processes import end_abandoned_servers
    from flows.tools.servers import require_listening

    os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")
    if named := os.environ.get(PREFECT_API):
        require_listening(named, PREFECT_API)
        return
    end_abandoned_servers()
    home = Path(os.environ.setdefault(PREFECT_HOME, str(Path(".work/prefect").resolve())))
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write("the flow", error) or error from None
