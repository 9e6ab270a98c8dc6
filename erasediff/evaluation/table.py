"""Base and erased side by side, as text."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Collection

from erasediff.metrics.rules import Metric
from erasediff.metrics.table import CHANGE, METRICS, compared, gate_of, metric_of
from erasediff.records import Evaluation

#: Heads of the tables' columns.
HEAD = ("metric", "base", "erased", "gate")
CONCEPT_HEAD = ("concept", "base", "erased", "lost", "pictures moved")
#: In place of a number that is not given, where another cell of its row says why.
NONE = "–"


def table_rows(
    evaluation: Evaluation, *, each_concept: bool = True, words: bool = False
) -> list[tuple[str, str, str, str]]:
    """``(metric, base, erased, gate)`` as text, for the report, the card, the terminal and whoever approves.

    Args:
        each_concept: with the numbers of single concepts.
        words: metrics by their headings for people, instead of their names.
    """
    return [
        (heading(name, metric) if words else name, *cells(evaluation, name, metric), gate_cell(evaluation, metric))
        for name, metric in shown(evaluation).items()
        if each_concept or not metric.per_concept
    ]


def shown(evaluation: Evaluation) -> dict[str, Metric]:
    """The numbers of both models with their metrics, and those that stand on too few pictures, in the table's order."""
    counts, skipped = evaluation.counts, evaluation.skipped
    names = {**counts, **evaluation.base, **evaluation.erased}
    few = [n for n in names if (m := metric_of(n)) and (m.untold(counts.get(n)) or m.name in skipped)]
    both = [{**numbers, **dict.fromkeys(few, math.nan)} for numbers in (evaluation.base, evaluation.erased)]
    return compared(*both)


def cells(evaluation: Evaluation, name: str, metric: Metric) -> tuple[str, str]:
    """A number of the base and of the erased model as text; what cannot be told is said once, by a gate or here."""
    both = [metric.cell(numbers, name) if name in numbers else NONE for numbers in (evaluation.base, evaluation.erased)]
    gated = gate_of(metric)
    gate = evaluation.gates.get(gated.name) if gated else None
    if NONE in both and (gate is None or gate.value is not None):
        few = metric.untold(evaluation.counts.get(name)) or evaluation.skipped.get(metric.name, "")
        both[1 if both[1] == NONE else 0] = few or NONE
    return both[0], both[1]


def heading(name: str, metric: Metric) -> str:
    """What people call a number; of one of a single concept, whose better side depends on it, without an arrow."""
    return f"{name.partition('.')[2]}: {metric.title}" if metric.per_concept else metric.heading


def concepts_by_harm(evaluation: Evaluation, forgotten: Collection[str]) -> dict[str, str]:
    """Each concept with the name of its number: those to be forgotten first, then the retained ones that look most like
    them, then the others, the most harmed first; what stands on too few pictures as if nothing was lost.

    Args:
        forgotten: concepts that were to be forgotten.
    """
    near = _near(evaluation)

    def key(name: str) -> tuple[int, float]:
        concept = name.partition(".")[2]
        rank = 0 if concept in forgotten else 1 if concept in near else 2
        return rank, -(_lost(evaluation, name) or 0.0)

    names = [name for name, metric in shown(evaluation).items() if metric.per_concept]
    return {name.partition(".")[2]: name for name in sorted(names, key=key)}


def concept_rows(evaluation: Evaluation, forgotten: Collection[str]) -> list[tuple[str, ...]]:
    """A row of :data:`CONCEPT_HEAD` a concept, as text, in the order of :func:`concepts_by_harm`.

    Args:
        forgotten: concepts that say of themselves that they were to be forgotten.
    """
    near, rows = _near(evaluation), list[tuple[str, ...]]()
    for concept, name in concepts_by_harm(evaluation, forgotten).items():
        metric = METRICS[name.partition(".")[0]]
        said = " (to be forgotten)" if concept in forgotten else " (looks alike)" if concept in near else ""
        lost, moved = _lost(evaluation, name), evaluation.delta.get(f"{CHANGE.name}.{concept}")
        rows.append((concept + said, *cells(evaluation, name, metric), metric.text(lost), CHANGE.text(moved)))
    return rows


def _near(evaluation: Evaluation) -> set[str]:
    return {c for each in evaluation.neighbours.values() for c in each}


def _lost(evaluation: Evaluation, name: str) -> float | None:
    """How much less a number is of the erased model; ``None``: it is not given of both."""
    base, erased = evaluation.base.get(name), evaluation.erased.get(name)
    return None if base is None or erased is None else base - erased


def recognised_csv(evaluation: Evaluation) -> str:
    """The columns ``drawn``, such as "8, erased", and ``recognised``, the share of these pictures: a bar a row."""
    of = {name: metric for name, metric in compared(evaluation.base, evaluation.erased).items() if metric.per_concept}
    both = (("base", evaluation.base), ("erased", evaluation.erased))
    rows = [(f"{n.partition('.')[2]}, {which}", numbers[n]) for n in of for which, numbers in both if n in numbers]
    lines = io.StringIO()
    csv.writer(lines, lineterminator="\n").writerows([("drawn", "recognised"), *rows])
    return lines.getvalue()


def gate_cell(evaluation: Evaluation, metric: Metric) -> str:
    """The gate of a metric: ``drop 0.0033 ≤ 0.02 passed``, of the number itself ``≥ 0.9 passed``; empty without one."""
    gated = gate_of(metric)
    if gated is None or gated.name not in evaluation.gates:
        return ""
    gate = evaluation.gates[gated.name]
    return f"{gate.bound} {gate.outcome}" if gated.rule.value == "share" else gated.text(gate)
