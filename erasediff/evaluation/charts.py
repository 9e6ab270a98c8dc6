"""Charts of an erasing, as PNG by what they show."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from erasediff.data.figures import LOSSES, SMOOTHED, WEIGHTS, plot_curves
from erasediff.records import EffectiveSettings

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def charts_of(trace: Path, erase: EffectiveSettings) -> dict[str, bytes]:
    """Charts of an erasing over its updates, as PNG by what they show; lines that a method does not have are left out.

    Args:
        trace: ``plots/erase.csv``.
        erase: what the erasing did.
    """
    import pandas as pd

    rows = pd.read_csv(trace).to_dict("records")
    ascent = float(erase.settings.get("forget_weight") or 0) < 0
    eta = float(given) if (given := erase.settings.get("eta")) is not None else None
    losses = (
        f"Losses: thick lines are means over {SMOOTHED} updates, thin ones single batches. The retain loss tells how "
        "far the pictures to keep are from their target; it should stay low. The forget loss "
        + (
            "is driven up."
            if ascent
            else "tells how far the forgotten concept is from its substitute, and should fall."
        )
    )
    weights = (
        "Cosine: whether forgetting and keeping agree (above 0) or contradict each other (below 0). Multiplier: the "
        "weight of forgetting in an update"
        + (f"; η = {eta:g} (dotted) is what it is where the two have nothing in common." if eta is not None else ".")
    )
    return {
        losses: chart_png(lambda axes: plot_curves(rows, axes, LOSSES)),
        weights: chart_png(lambda axes: plot_curves(rows, axes, WEIGHTS, eta=eta)),
    }


def chart_png(draw: Callable[[Axes], object], height: float = 3.8) -> bytes:
    """A plot whose text is legible on a phone, as PNG.

    Args:
        draw: on axes that are empty.
        height: in inches; it is 6 wide.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    with plt.rc_context({"font.size": 13, "legend.fontsize": 11}):
        figure, axes = plt.subplots(figsize=(6, height), layout="constrained")
        draw(axes)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=120)
        plt.close(figure)
    return buffer.getvalue()
