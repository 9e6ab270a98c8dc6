"""What an erasing measured at each update, as a table, and in a few numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

#: Columns of the trace, in this order.
TRACE = [
    "step",
    "retain_loss",
    "forget_loss",
    "constraint_gap",
    "retain_grad_norm",
    "forget_grad_norm",
    "gradient_cosine",
    "multiplier",
    "images_per_second",
    "peak_memory_bytes",
]


def trace_of(rows: Sequence[Mapping[str, float]]) -> tuple[pd.DataFrame, dict[str, float]]:
    """A row an update, and means: of the last ten updates, and over all (``_mean``). What was not measured is absent.

    Args:
        rows: what the loop measured, with its ``step``.
    """
    import pandas as pd  # the bare library lives without it

    trace = pd.DataFrame(rows, columns=TRACE)
    numbers = trace.drop(columns=["step", "constraint_gap"]).iloc[-10:].mean().dropna().to_dict()
    numbers |= {f"{name}_mean": value for name, value in trace[["gradient_cosine"]].mean().dropna().items()}
    return trace, numbers
