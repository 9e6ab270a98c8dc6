"""What a request to a served version asks for: read from whatever was posted, or refused in one line."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real

import pandas as pd

from erasediff.errors import ParamsError, UnknownConcept, did_you_mean

COLUMNS = ("concept", "seed")
OPTIONS = ("num_inference_steps", "guidance_scale")
#: Rows × steps of one request: 1,000 pictures of 25 steps.
MAX_COST = 25_000
MAX_GUIDANCE = 100.0
#: Beyond this a JSON number is no longer a whole one that is kept exactly.
MAX_SEED = 2**53 - 1


@dataclass(frozen=True)
class Request:
    """One picture a concept, each from its seed. ``steps`` and ``guidance_scale``: ``None`` where not given."""

    concepts: list[str]
    seeds: list[int]
    steps: int | None
    guidance_scale: float | None


def read_request(
    rows: object, options: Mapping[str, object] | None, *, known: Sequence[str], default_steps: int, max_steps: int
) -> Request:
    """Read rows of the columns ``concept`` and, for all, some or none, ``seed``.

    Args:
        rows: a DataFrame, or what one is made from.
        options: ``num_inference_steps`` and ``guidance_scale``; what is missing or ``None`` is the model's own.
        known: the concepts that the model draws; empty: any text.
        default_steps: counted for the bound where no steps are given.
        max_steps: of one picture.

    Raises: ParamsError: it is no request, or asks for more than ``MAX_COST``. UnknownConcept.
    """
    table = _table(rows)
    require_known(options)
    given = {name: value for name, value in (options or {}).items() if value is not None}
    steps = _number("num_inference_steps", given, 1, max_steps, whole=True)
    scale = _number("guidance_scale", given, 0, MAX_GUIDANCE)
    cost = len(table) * int(steps or default_steps)
    if cost > MAX_COST:
        raise ParamsError(
            f"{len(table)} rows × {int(steps or default_steps)} steps are {cost}, more than {MAX_COST}: "
            "send fewer rows at once, or fewer steps"
        )
    concepts = [_concept(value, place, known) for place, value in enumerate(table["concept"])]
    seeds = [_seed(value, place) for place, value in enumerate(table["seed"])] if "seed" in table else []
    return Request(concepts, seeds or list(range(len(concepts))), None if steps is None else int(steps), scale)


def require_known(options: object) -> None:
    """Raises: ParamsError: these are no options, or one has another name than those of ``OPTIONS``."""
    if options is not None and not isinstance(options, Mapping):
        raise ParamsError(f'params are {_shown(options)}: give them by name, such as {{"{OPTIONS[0]}": 50}}')
    if unknown := [name for name in options or () if name not in OPTIONS]:
        near = did_you_mean(str(unknown[0]), OPTIONS)
        raise ParamsError(f"unknown param {_shown(unknown[0])}: give {' or '.join(OPTIONS)}{near}")


def _table(rows: object) -> pd.DataFrame:
    if isinstance(rows, list) and not all(isinstance(row, Mapping) for row in rows):
        raise ParamsError(f"a row is no object: {_EXAMPLE}")
    try:
        table = rows if isinstance(rows, pd.DataFrame) else pd.DataFrame(rows)  # type: ignore[arg-type]
    except (ValueError, TypeError, AttributeError) as error:
        raise ParamsError(f"these are no rows ({' '.join(str(error).split())[:100]}): {_EXAMPLE}") from None
    if unknown := [column for column in table.columns if column not in COLUMNS]:
        raise ParamsError(f"unknown column {_shown(unknown[0])}: {_EXAMPLE}{did_you_mean(str(unknown[0]), COLUMNS)}")
    if "concept" not in table or not table.columns.is_unique:
        raise ParamsError(f"there has to be one column 'concept': {_EXAMPLE}")
    if table.empty:
        raise ParamsError(f"there are no rows: {_EXAMPLE}")
    return table


_EXAMPLE = 'give rows such as {"concept": "3", "seed": 7}, where seed may be left out'


def _number(name: str, given: Mapping[str, object], low: float, high: float, *, whole: bool = False) -> float | None:
    if name not in given:
        return None
    value = given[name]
    kind = "a whole number" if whole else "a number"
    if _is_number(value, whole) and low <= float(value) <= high:  # type: ignore[arg-type]
        return float(value)  # type: ignore[arg-type]
    raise ParamsError(f"{name} is {_shown(value)}: give {kind} from {low:g} to {high:g}")


def _is_number(value: object, whole: bool) -> bool:
    try:
        if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
            return False
    except OverflowError:  # a whole number beyond every float
        return False
    return not whole or float(value).is_integer()


def _concept(value: object, place: int, known: Sequence[str]) -> str:
    # CSV has no quotes around a class that is called 3.
    if not isinstance(value, str) and not (_is_number(value, whole=True)):
        raise ParamsError(f"row {place}: concept is {_shown(value)}: give its name as text")
    name = value if isinstance(value, str) else str(int(value))  # type: ignore[call-overload]
    if known and name not in known:
        near = did_you_mean(name, known)
        raise UnknownConcept(f"the model does not know {_shown(name)}; it knows: {', '.join(known)[:300]}{near}")
    if not _is_text(name):
        raise ParamsError(f"row {place}: concept is {_shown(name)}, which is no valid text")
    return name


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:  # a lone surrogate
        return False
    return bool(name.strip())


def _seed(value: object, place: int) -> int:
    if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return place
    if _is_number(value, whole=True) and 0 <= int(value) <= MAX_SEED:  # type: ignore[call-overload]
        return int(value)  # type: ignore[call-overload]
    raise ParamsError(f"row {place}: seed is {_shown(value)}: give a whole number from 0 to 2**53 - 1, or none")


def _shown(value: object) -> str:
    """A value in one short line of ASCII: it may hold anything."""
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
