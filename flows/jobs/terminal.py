"""A flow that a command runs in this process: what is shown, Ctrl-C, a server that does not answer."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable

import httpx
from prefect.settings import PREFECT_API_URL
from prefect.states import State

from erasediff.errors import ServerFailed
from flows.jobs.states import finished
from flows.tools.processes import on_interrupt
from flows.tools.screen import Screen, duration


def run_flow(flow: Callable[[], State], *, quiet: bool = False) -> None:
    """Run a flow and print what its end says, with the time that it took.

    Args:
        flow: calls it with ``return_state=True``.
        quiet: show the result, warnings and errors alone.

    Raises: the stated failure that the run ends with; what was not foreseen; ServerFailed: Prefect's server is gone.
    """
    began, named = time.monotonic(), PREFECT_API_URL.value()
    logging.getLogger("prefect").addFilter(lambda record: record.levelno > logging.INFO)  # when its server starts, ends
    if not named and not quiet:
        print("starting Prefect …", file=sys.stderr, flush=True)
    try:
        with Screen(quiet=quiet) as screen, on_interrupt(screen.stop, at_once=not named):
            state = flow()
    except (httpx.TransportError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not str(error).startswith(UNREACHABLE):
            raise
        where = named or "the one that this command started"
        raise ServerFailed(
            f"Prefect's server, {where}, does not answer: {' '.join(str(error).split())[:200]}"
        ) from None
    print(f"{finished(state)} ({duration(time.monotonic() - began)})")


#: How Prefect says so.
UNREACHABLE = ("Failed to reach API", "Timed out while attempting to connect to ephemeral Prefect API server")
