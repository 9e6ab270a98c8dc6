"""The comparison's plot, and its page: one HTML file that loads nothing."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from erasediff.comparison.table import (
    FARTHER,
    FORGETTING,
    Cell,
    against_gold,
    dominated_by,
    heads,
    summary,
    table_rows,
)
from erasediff.pages import Section, Table, Verdict
from erasediff.pages import page as html_page

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LEGEND = (
    "Mean ± standard deviation over cells (concepts × seeds). Weakest side: the least of unlearning accuracy, share of "
    "the base's retain accuracy kept, and the base's distance over the erased model's. Dominated: another variant "
    "forgets as much at as small a distance, and does better in one of both."
)

PLOT = (
    "A point a variant, bars are standard deviations over its cells. Up and to the left is better. The dotted line is "
    "the base's own distance; the dashed one joins the variants that none dominates."
)

#: Distance, as a ratio to the base's, up to which the plot's second panel shows variants where some lie beyond.
NEAR_THE_BASE = 2.0


def pareto_png(table: Mapping[str, Mapping[str, float]], gold: str | None) -> bytes:
    """Unlearning accuracy against distance, a point a variant with standard deviations; the gold standard a star.
    A line joins those that none dominates.

    Where some lie far off, a second panel shows those near the base alone.
    """
    panels = _panels(table)
    size = 13 if len(panels) > 1 else 9, 5.5
    return _drawn(panels, gold, list(table), figsize=size, legend_below=False)


def _narrow(table: Mapping[str, Mapping[str, float]], gold: str | None) -> dict[str, bytes]:
    """A figure a panel, legible on a phone, by what it shows."""
    return {
        f"{title}. {PLOT}" if title else PLOT: _drawn(
            {title: rows}, gold, list(table), figsize=(6, 6), legend_below=True
        )
        for title, rows in _panels(table).items()
    }


def _panels(table: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, Mapping[str, float]]]:
    """The variants to be shown, and once more those near the base where some are not, by titles."""
    shown = {v: row for v, row in table.items() if FARTHER in row}
    near = {v: row for v, row in shown.items() if row[FARTHER] <= NEAR_THE_BASE}
    apart = {f"At most {NEAR_THE_BASE:g} × as far as the base": near} if 1 < len(near) < len(shown) else {}
    return {"All variants" if apart else "": shown, **apart}


def _drawn(
    panels: Mapping[str, Mapping[str, Mapping[str, float]]],
    gold: str | None,
    order: Sequence[str],
    *,
    figsize: tuple[float, float],
    legend_below: bool,
) -> bytes:
    """Panels side by side, with one legend, at the right or below."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure = plt.figure(figsize=figsize, layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for panel, (title, rows) in zip(axes, panels.items(), strict=True):
        _draw(panel, title, rows, gold, order)
    axes[0].set(ylabel="unlearning accuracy (up: better)")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        fontsize=9,
        ncols=3 if legend_below else 1,
        loc="outside lower center" if legend_below else "outside right upper",
    )
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    plt.close(figure)
    return buffer.getvalue()


def _draw(
    panel: Axes, title: str, rows: Mapping[str, Mapping[str, float]], gold: str | None, order: Sequence[str]
) -> None:
    """Draw a panel; ``order`` gives each variant the same mark in all of them."""
    from matplotlib import colormaps
    from matplotlib.ticker import FuncFormatter, NullFormatter

    colours, dominated = colormaps["tab10"], dominated_by(rows, gold)
    for variant, row in rows.items():
        number, best_possible = order.index(variant), variant == gold
        panel.errorbar(
            row[FARTHER],
            row[FORGETTING],
            xerr=row[f"{FARTHER}_sd"],
            yerr=row[f"{FORGETTING}_sd"],
            marker="*" if best_possible else "os^DvP"[number % 6],
            markersize=15 if best_possible else 8,
            color="black" if best_possible else colours(number % 10),
            markeredgecolor="white",
            linestyle="none",
            elinewidth=1,
            alpha=0.9,
            label=f"{variant} (gold standard)" if best_possible else variant,
        )
    front = sorted((rows[v][FARTHER], rows[v][FORGETTING]) for v in rows if v != gold and not dominated[v])
    panel.plot([x for x, _ in front], [y for _, y in front], color="grey", linewidth=1, linestyle="--", zorder=0)
    panel.axvline(1.0, color="grey", linewidth=0.8, linestyle=":")
    panel.set_ylim(bottom=max(-0.02, panel.get_ylim()[0]), top=1.02)
    panel.set(xlabel="distance to held-out pictures, ratio to the base (left: better)", title=title)
    if max((row[FARTHER] for row in rows.values()), default=1.0) >= 5:
        panel.set(xscale="log")
        panel.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        panel.xaxis.set_minor_formatter(NullFormatter())


def page(title: str, how: Mapping[str, str], cells: Sequence[Cell], chosen: Mapping[str, str], gold: str | None) -> str:
    """The comparison as one HTML file that loads nothing."""
    table = summary(cells)
    failed = [f"{c.variant}, {c.concept}, seed {c.seed}" for c in cells if c.evaluation is None]
    sections = [
        Section(text=LEGEND, table=_html_table(table_rows(table, chosen, gold))),
        Section("Forgetting against distance", pictures=_narrow(table, gold)),
    ]
    if gold and (beside := against_gold(cells, gold)):
        sections.append(Section(f"Beside {gold}, cell by cell", table=_html_table(beside)))
    sections.append(Section("How it was measured", table=Table(list(how.items()))))
    sections.append(Section("Every cell", table=_html_table(_every_cell(cells, heads(table)))))
    verdict = Verdict(False, f"Failed or missing: {'; '.join(failed)}.") if failed else None
    return html_page(f"Comparison: {title}", sections, verdict)


def _every_cell(cells: Sequence[Cell], shown: Mapping[str, str]) -> list[dict[str, str]]:
    return [
        {"variant": c.variant, "concept": c.concept, "seed": str(c.seed)}
        | {head: f"{numbers[name]:.3f}" if name in numbers else "" for name, head in shown.items()}
        for c in cells
        if (numbers := c.numbers)
    ]


def _html_table(rows: Sequence[Mapping[str, str]]) -> Table:
    """Rows of equal keys."""
    return Table([list(row.values()) for row in rows], list(rows[0]) if rows else (), numbers=True)
