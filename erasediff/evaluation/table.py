"""Base and erased side by side, as text."""

from __future__ import annotations

from erasediff.metrics.table import Metric, compared, gate_of
from erasediff.records import Evaluation

#: Heads of the table's columns.
HEAD = ("metric", "base", "erased", "gate")


def table_rows(evaluation: Evaluation, *, each_concept: bool = True) -> list[tuple[str, str, str, str]]:
    """``(metric, base, erased, gate)`` as text, for the report, the card, the terminal and whoever approves.

    Args:
        each_concept: with the numbers of single concepts.
    """
    return [
        (name, metric.cell(evaluation.base, name), metric.cell(evaluation.erased, name), gate_cell(evaluation, metric))
        for name, metric in compared(evaluation.base, evaluation.erased).items()
        if each_concept or not metric.per_concept
    ]


def gate_cell(evaluation: Evaluation, metric: Metric) -> str:
    """The gate of a metric: ``drop 0.0033 ≤ 0.02 passed``; empty where nothing is held against a limit."""
    gated = gate_of(metric)
    return gated.text(evaluation.gates[gated.name]) if gated and gated.name in evaluation.gates else ""
