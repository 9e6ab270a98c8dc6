"""Grids of drawn pictures and the trace of an erasing, as PNG."""

from __future__ import annotations

import io
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def grid_png(
    images: Tensor, concepts: Sequence[str], title: str, tile: int = 48, marked: Collection[str] = ()
) -> bytes:
    """A row a concept, its name at the left, under a title.

    Args:
        images: ``(concepts, columns, C, H, W)`` in [-1, 1].
        tile: least pixels a side of a picture; small ones are enlarged without smoothing.
        marked: concepts framed and named in red: those to forget.
    """
    from erasediff.data.figures import picture_grid
    from erasediff.data.images import png_bytes

    return png_bytes(picture_grid(images, concepts, title, tile=tile, marked=marked))


def trace_png(trace: Path) -> bytes:
    """Losses, and multiplier with cosine, over the updates."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import pandas as pd

    from erasediff.data.figures import plot_trace

    rows = pd.read_csv(trace)
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.5), layout="constrained")
    plot_trace(rows.to_dict("records"), axes)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    plt.close(figure)
    return buffer.getvalue()


def tiled_png(images: Tensor, label: str, title: str, columns: int = 8, tile: int = 64) -> bytes:
    """Pictures ``(N, C, H, W)`` in rows of ``columns`` under one label; a short last row is filled with white."""
    import torch

    n = len(images)
    columns = min(n, columns)
    rows = -(-n // columns)
    blank = torch.ones(rows * columns - n, *images.shape[1:])
    grid = torch.cat([images, blank]).view(rows, columns, *images.shape[1:])
    side = max(images.shape[2:])
    # grid_png enlarges by whole factors and rounds down: ask for the next multiple, so that a tile is that at least.
    return grid_png(grid, [label] * rows, title, tile=side * -(-tile // side))
