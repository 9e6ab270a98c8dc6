"""The comparison's plot, and its page: one HTML file that loads nothing."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape

from erasediff.comparison.table import COLUMNS, Cell, against_gold, summary, table_rows

#: Distance, as a ratio to the base's, up to which the plot's second panel shows variants where some lie beyond.
NEAR_THE_BASE = 2.0


def pareto_png(table: Mapping[str, Mapping[str, float]], gold: str | None) -> bytes:
    """Unlearning accuracy against distance, a point a variant with standard deviations; the gold standard a star.

    Where some lie far off, a second panel shows those near the base alone.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.axes import Axes
    from matplotlib.ticker import FuncFormatter, NullFormatter

    shown = {v: row for v, row in table.items() if "distance_ratio" in row}
    near = {v: row for v, row in shown.items() if row["distance_ratio"] <= NEAR_THE_BASE}
    apart = 1 < len(near) < len(shown)
    figure = plt.figure(figsize=(13 if apart else 9, 5.5), layout="constrained")
    axes, *zoomed = figure.subplots(1, 1 + apart, squeeze=False)[0]
    colours = plt.get_cmap("tab10")

    def draw(panel: Axes, variant: str, row: Mapping[str, float]) -> None:
        number, best_possible = list(shown).index(variant), variant == gold
        panel.errorbar(
            row["distance_ratio"],
            row["unlearning_accuracy"],
            xerr=row["distance_ratio_sd"],
            yerr=row["unlearning_accuracy_sd"],
            marker="*" if best_possible else "os^DvP"[number % 6],
            markersize=15 if best_possible else 8,
            color="black" if best_possible else colours(number % 10),
            markeredgecolor="white",
            linestyle="none",
            elinewidth=1,
            alpha=0.9,
            label=f"{variant} (gold standard)" if best_possible else variant,
        )

    for panel, rows in zip([axes, *zoomed], (shown, near), strict=False):
        for variant, row in rows.items():
            draw(panel, variant, row)
        panel.axvline(1.0, color="grey", linewidth=0.8, linestyle=":")
        panel.set_ylim(bottom=max(-0.02, panel.get_ylim()[0]), top=1.02)
        panel.set(xlabel="distance to real pictures, ratio to the base (left: better)")
    axes.set(ylabel="unlearning accuracy (up: better)")
    if max((row["distance_ratio"] for row in shown.values()), default=1.0) >= 5:
        axes.set(xscale="log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    if apart:
        axes.set(title="all")
        zoomed[0].set(title=f"at most {NEAR_THE_BASE:g} × as far as the base")
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", fontsize=9)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    plt.close(figure)
    return buffer.getvalue()


def html_table(rows: Sequence[Mapping[str, str]]) -> str:
    """Rows of equal keys as an HTML table."""
    if not rows:
        return "<p>none</p>"
    head = "".join(f"<th>{escape(name)}</th>" for name in rows[0])
    body = "".join("<tr>" + "".join(f"<td>{escape(v)}</td>" for v in row.values()) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><tr>{head}</tr>{body}</table></div>'


def page(title: str, how: Mapping[str, str], cells: Sequence[Cell], chosen: Mapping[str, str], gold: str | None) -> str:
    """The comparison as one HTML file that loads nothing."""
    table = summary(cells)
    picture = base64.b64encode(pareto_png(table, gold)).decode()
    failed = [f"{c.variant}, {c.concept}, seed {c.seed}" for c in cells if c.evaluation is None]
    each = [
        {"variant": c.variant, "concept": c.concept, "seed": str(c.seed)}
        | {head: f"{n[name]:.3f}" for name, head in COLUMNS.items()}
        for c in cells
        if (n := c.numbers)
    ]
    beside = ""
    if gold and (rows := against_gold(cells, gold)):
        beside = f"<h2>Beside {escape(gold)}, cell by cell</h2>{html_table(rows)}"
    missing = f"<p><strong>Failed or missing: {escape('; '.join(failed))}.</strong></p>" if failed else ""
    said = html_table([{"": k, "value": v} for k, v in how.items()])
    return f"""<!doctype html><html lang="en"><meta charset="utf-8"><title>Comparison: {escape(title)}</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><style>
body{{font:16px/1.5 system-ui;max-width:80em;margin:1em auto;padding:0 1em;color:#222;background:#fff}}
img{{max-width:100%;height:auto}}.scroll{{overflow-x:auto}}table{{border-collapse:collapse;font-size:.9em}}
td,th{{text-align:left;padding:.25em .7em;border-bottom:1px solid #ddd;vertical-align:top}}
td{{white-space:nowrap}}th{{vertical-align:bottom}}</style>
<h1>Comparison: {escape(title)}</h1>{missing}
<p>Mean ± standard deviation over cells (concepts × seeds). Weakest side: the least of unlearning accuracy, share of the
base's retain accuracy kept, and the base's distance over the erased model's. Dominated: another variant forgets as much
at as small a distance, and does better in one of both.</p>
{html_table(table_rows(table, chosen, gold))}
<img alt="Unlearning accuracy against distance" src="data:image/png;base64,{picture}">{beside}
<h2>How it was measured</h2>{said}<h2>Every cell</h2>{html_table(each)}</html>
"""
