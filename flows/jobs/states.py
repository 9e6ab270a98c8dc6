"""A stated failure as the state of a Prefect run, and back: the name of the state is that of the class."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import wraps
from inspect import signature
from typing import ParamSpec, TypeVar

from prefect.exceptions import CancelledRun, FailedRun
from prefect.states import Cancelled, Failed, State

from erasediff.command import stated_failure
from erasediff.errors import EraseDiffError
from flows.tools.processes import stated_class

P = ParamSpec("P")
R = TypeVar("R")


def failed(error: EraseDiffError) -> State:
    """Return a stated failure as a state, for an automation to wait for."""
    _quieten_engine()
    return Failed(name=type(error).__name__, message=str(error))


def cancelled(error: EraseDiffError) -> State:
    """Return somebody's decision to stop as a state."""
    _quieten_engine()
    return Cancelled(name=type(error).__name__, message=str(error))


def _quieten_engine() -> None:
    """Have a worker's engine log no "unexpected exception" of a run that returned its end as a state."""
    for name in ("prefect.flow_runs", "prefect.engine"):
        logging.getLogger(name).addFilter(_is_unexpected)


def _is_unexpected(record: logging.LogRecord) -> bool:
    return not (record.exc_info and record.exc_info[0] in (FailedRun, CancelledRun))


def failures_as_states(work: Callable[P, R]) -> Callable[P, R | State]:
    """Have a flow or a task return a stated failure as its state: of an exception Prefect would log a traceback."""

    @wraps(work)
    def stated(*args: P.args, **kwargs: P.kwargs) -> R | State:
        try:
            return work(*args, **kwargs)
        except Exception as error:
            failure = stated_failure("the flow", error)
            if failure is None:
                raise
            return failed(failure)

    # Prefect checks parameters by their types, and would look for these by name in this file.
    stated.__signature__ = signature(work, eval_str=True)  # type: ignore[attr-defined]
    return stated


def require_success(state: State) -> None:
    """Raises: the stated failure that a run ended with; what was not foreseen."""
    if state.is_completed():
        return
    kind = stated_class(state.name)
    if kind is not None:
        raise kind(state.message)
    state.result()


def finished(state: State) -> str:
    """Return what a run's end says. Raises: as :func:`require_success`."""
    require_success(state)
    return str(state.message)
