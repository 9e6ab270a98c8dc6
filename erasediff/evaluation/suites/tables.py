"""A suite's result as tables: one for each protocol, so that no column holds figures of two.

Behind a figure of one model its interval stands in brackets, where it has one. A mean of several models has none: its
spread is that of the concepts, not of the pictures.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from erasediff.evaluation.suites.scoring import is_end
from erasediff.evaluation.suites.suite import READ, Suite, metric_of
from erasediff.metrics.intervals import Estimate
from erasediff.records import Json

#: Figures of which each has a row of its own, not a column.
MANY = 9
#: A row of a table: a model, its figures in the units of tables, and where they are from.
Row: TypeAlias = "tuple[str, dict[str, Estimate], str]"
#: What brackets say.
INTERVALS = (
    "In brackets: the 95 % interval over the pictures of one model, Wilson's where the figure is a share. A mean of "
    "several models and published figures have none here."
)
#: Of a run on an embedded world: nothing published is comparable with it.
STAND_IN = "stand-in on an embedded world: comparable with nothing published"


@dataclass(frozen=True)
class ProtocolTable:
    """Figures of one protocol: a row a model or method, a column a figure.

    Attributes:
        rows: cells of text under ``head``; of many figures each has a row, and each model a column.
    """

    protocol: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def markdown(self) -> str:
        """As a Markdown table under its protocol."""
        lines = [self.head, tuple("---" for _ in self.head), *self.rows]
        return f"### Protocol: {self.protocol}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines)


def protocol_of(suite: Suite, *, stand_in: bool, quick: bool = False, judge: bool = False) -> str:
    """The protocol of a run: the suite's only where it ran whole, read by what the suite says."""
    if stand_in:
        return STAND_IN
    changed = [", cut short by --quick"] * quick + [", judge given by --judge"] * judge
    return suite.protocol + "".join(changed)


def tables(suite: Suite, cells: Sequence[Json], own: str) -> list[ProtocolTable]:
    """Ours first, with what was published under the same protocol; then each other protocol by itself.

    Args:
        own: :func:`protocol_of` the run.
    """
    rows: dict[str, list[Row]] = {own: _ours(suite, cells)}
    for it in suite.published:
        name = f"{it.method}, {it.concept}" if it.concept else it.method
        figures = {figure: Estimate(value, value, value) for figure, value in it.figures.items()}
        rows.setdefault(it.protocol, []).append((name, figures, f"{it.source} ({READ[it.read]})"))
    return [_table(suite, protocol, found) for protocol, found in rows.items() if found]


def _ours(suite: Suite, cells: Sequence[Json]) -> list[Row]:
    """Means over the concepts of each method, those of each domain apart, in the units of tables."""
    found: dict[str, Row] = {}
    for method in dict.fromkeys(cell["method"] for cell in cells):
        own = [cell for cell in cells if cell["method"] == method]
        for which in ("base", "figures"):
            figures = means(own, which, of_domains=suite.scoring == "domains" and not suite.sequential)
            scaled = {
                n: _scaled(it, 100 if (m := metric_of(n, suite)) and m.percent else 1) for n, it in figures.items()
            }
            key = f"base {figures}" if which == "base" else method  # where all methods had the same base, one row
            found.setdefault(key, (method if which == "figures" else "base", scaled, f"this run, {_many(len(own))}"))
    return list(found.values())


def means(cells: Sequence[Json], which: str, *, of_domains: bool) -> dict[str, Estimate]:
    """The mean of each figure over cells, ``FIGURE.DOMAIN`` where domains are told apart; of one cell its interval."""
    values: dict[str, list[Estimate]] = {}
    for cell in cells:
        for name, it in estimates(cell[which]).items():
            values.setdefault(f"{name}.{cell['domain']}" if of_domains else name, []).append(it)
    return {name: each[0] if len(each) == 1 else _mean(each) for name, each in values.items()}


def estimates(figures: Mapping[str, float]) -> dict[str, Estimate]:
    """Figures with the ends of their intervals, where they have these; a dot in a name may be that of a threshold."""
    return {
        name: Estimate(value, *(figures.get(f"{name}{end}", value) for end in ("_low", "_high")))
        for name, value in figures.items()
        if not is_end(name, figures)
    }


def _mean(each: Sequence[Estimate]) -> Estimate:
    value = statistics.fmean(it.value for it in each)
    return Estimate(value, value, value)


def _scaled(it: Estimate, factor: float) -> Estimate:
    return Estimate(it.value * factor, it.low * factor, it.high * factor)


def _many(number: int) -> str:
    return "1 model" if number == 1 else f"mean of {number} models"


def _table(suite: Suite, protocol: str, rows: Sequence[Row]) -> ProtocolTable:
    names = list(dict.fromkeys(name for _, figures, _ in rows for name in figures))
    arrows = {"higher": " ↑", "lower": " ↓", "neither": ""}
    heads = []
    for name in names:
        metric = metric_of(name, suite)
        heads.append(name + (arrows[metric.better] + (" %" if metric.percent else "") if metric else ""))
    head = ("model", *heads, "source")
    cells = [(model, *(_estimate(figures.get(name)) for name in names), source) for model, figures, source in rows]
    if len(names) > MANY:  # models side by side
        head, *cells = zip(head, *cells, strict=True)
    return ProtocolTable(protocol, head, tuple(cells))


def _estimate(it: Estimate | None) -> str:
    if it is None:
        return ""
    ends = "" if it.is_exact else f" [{_number(it.low)}, {_number(it.high)}]"
    return f"{_number(it.value)}{ends}"


def _number(value: float) -> str:
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"


def cells_table(cells: Sequence[Json]) -> str:
    """Every cell by itself, as a Markdown table: shares in [0, 1], with their intervals."""
    found = [estimates(cell["figures"]) for cell in cells]
    names = list(dict.fromkeys(name for figures in found for name in figures if "." not in name))
    lines = [("method", "forgotten", "domain", *names, "seconds"), ("---",) * (4 + len(names))]
    for cell, own in zip(cells, found, strict=True):
        figures = tuple(_estimate(own.get(name)) for name in names)
        forgotten = ", ".join(cell["forgotten"]) or "nothing"
        lines.append((cell["method"], forgotten, cell["domain"], *figures, f"{cell['seconds']:.0f}"))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
