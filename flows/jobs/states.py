"""A stated failure as the state of a Prefect run, and back: the name of the state is that of the class."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from inspect import signature
from typing import ParamSpec, TypeVar

from prefect.states import Failed, State

from erasediff.command import stated_failure
from erasediff.errors import EraseDiffError
from flows.tools.processes import stated_class

P = ParamSpec("P")
R = TypeVar("R")


def failed(error: EraseDiffError) -> State:
    """Return a stated failure as a state, for an automation to wait for."""
    return Failed(name=type(error).__name__, message=str(error))


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
