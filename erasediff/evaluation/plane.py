"""Forgetting against utility: where a model stands, the region that its gates allow, and where earlier ones stood."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from erasediff.evaluation.charts import chart_png
from erasediff.metrics.intervals import Estimate
from erasediff.metrics.table import RETAIN_ACCURACY, UNLEARNING_ACCURACY, Numbers
from erasediff.pages import Section
from erasediff.records import Evaluation

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Gates that bound the region.
FORGETTING, DROP = UNLEARNING_ACCURACY.name, f"{RETAIN_ACCURACY.name}_drop"
#: Word by which :func:`erasediff.pages.filled` finds the section again.
SLOT = "plane"


@dataclass(frozen=True)
class Point:
    """A model in the plane.

    Attributes:
        alike: it was measured by the same judge, in the same way, as the model that the page is about.
    """

    label: str
    utility: Estimate
    forgetting: Estimate
    alike: bool = True


def plane_section(evaluation: Evaluation, earlier: Mapping[str, Evaluation] | None = None) -> Section | None:
    """The plot as a section of a page; ``None`` where no concept was to be forgotten.

    Args:
        earlier: how earlier versions of the same model were evaluated, by what they are called.
    """
    base, erased = _point("base", evaluation.base), _point("erased", evaluation.erased)
    if base is None or erased is None:
        return None
    before = []
    for label, other in (earlier or {}).items():
        alike = other.judge.get("fingerprint") == evaluation.judge.get("fingerprint") and (
            other.protocol == evaluation.protocol
        )
        if (point := _point(label, other.erased, alike=alike)) is not None:
            before.append(point)
    text = (
        "Right: the retained concepts are recognised; up: the forgotten ones are not. Bars are intervals. The gates of "
        "these two allow the green region."
    )
    if before:
        text += " Grey: earlier versions of this model."
    if not all(point.alike for point in before):
        text += " Hollow: measured by another judge or in another way, which does not compare."
    left = base.utility.value - evaluation.gates[DROP].limit if DROP in evaluation.gates else 0.0
    below = evaluation.gates[FORGETTING].limit if FORGETTING in evaluation.gates else 0.0
    png = plane_png(base, erased, before, left, below)
    shows = (
        f"base at {_at(base)}, erased at {_at(erased)}; allowed from {left:.3f} to the right and {below:.3f} upwards"
    )
    return Section("Forgetting against utility", text, pictures={shows: png}, slot=SLOT)


def _point(label: str, numbers: Numbers, *, alike: bool = True) -> Point | None:
    if not {RETAIN_ACCURACY.name, FORGETTING} <= numbers.keys():
        return None
    return Point(label, Estimate.of(numbers, RETAIN_ACCURACY.name), Estimate.of(numbers, FORGETTING), alike)


def _at(point: Point) -> str:
    return f"({point.utility.value:.3f}, {point.forgetting.value:.3f})"


def plane_png(base: Point, erased: Point, earlier: list[Point], left: float, below: float) -> bytes:
    """The plot, legible on a phone.

    Args:
        left, below: the least utility and forgetting that the gates allow.
    """
    return chart_png(partial(_drawn, base=base, erased=erased, earlier=earlier, left=left, below=below), height=4.2)


def _drawn(axes: Axes, base: Point, erased: Point, earlier: list[Point], left: float, below: float) -> None:
    from matplotlib.patches import Rectangle

    axes.add_patch(Rectangle((left, below), 1 - left, 1 - below, facecolor="#bfe8c9", edgecolor="#2e7d43"))
    for line, point in enumerate(reversed(earlier), 1):  # beside the erased model, as a rule: labels one below another
        _mark(axes, point, "o", "#777777", 7, line)
    _mark(axes, base, "s", "black", 9)
    _mark(axes, erased, "D", "#c00000", 10)
    axes.annotate(
        "",
        (erased.utility.value, erased.forgetting.value),
        (base.utility.value, base.forgetting.value),
        arrowprops={"arrowstyle": "->", "color": "#999999", "linestyle": ":"},
    )
    least = min(p.utility.low for p in (base, erased, *earlier))
    axes.set_xlim(max(-0.02, min(least, left) - 0.08), 1.02)
    axes.set_ylim(-0.04, 1.06)
    axes.set(xlabel="retained concepts recognised", ylabel="forgotten ones not recognised")


def _mark(axes: Axes, point: Point, marker: str, colour: str, size: float, line: int = 0) -> None:
    x, y = point.utility, point.forgetting
    axes.errorbar(
        x.value,
        y.value,
        xerr=[[max(0.0, x.value - x.low)], [max(0.0, x.high - x.value)]],
        yerr=[[max(0.0, y.value - y.low)], [max(0.0, y.high - y.value)]],
        marker=marker,
        markersize=size,
        color=colour,
        markerfacecolor=colour if point.alike else "white",
        linestyle="none",
        elinewidth=1.4,
        capsize=3,
    )
    above, away = y.value < 0.5, 9 + 15 * line
    axes.annotate(
        point.label,
        (x.value, y.value),
        xytext=(-9, away if above else -away),
        textcoords="offset points",
        ha="right",
        va="bottom" if above else "top",
        color=colour,
    )
