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
    from matplotlib import get_data_path
    from PIL import Image, ImageDraw, ImageFont

    from erasediff.data.images import to_pixels

    rows, columns, channels, height, width = images.shape
    scale = max(1, tile // max(height, width))
    cell_h, cell_w = height * scale + 4, width * scale + 4
    # Matplotlib's own font: Pillow's has no accents.
    font = ImageFont.truetype(Path(get_data_path(), "fonts/ttf/DejaVuSans.ttf"), size=17)
    label = 16 + max(int(font.getlength(c[:24])) for c in concepts)
    canvas = Image.new("RGB", (label + columns * cell_w, 34 + rows * cell_h), "white")
    pen = ImageDraw.Draw(canvas)
    pen.text((8, 6), title, fill="black", font=font)
    pixels = to_pixels(images)
    for r in range(rows):
        top = 34 + r * cell_h
        colour = "#c00000" if concepts[r] in marked else "black"
        pen.text((8, top + cell_h // 2), concepts[r][:24], fill=colour, font=font, anchor="lm")
        if concepts[r] in marked:
            pen.rectangle((label - 3, top - 3, label + columns * cell_w - 2, top + cell_h - 2), fill=colour)
        for c in range(columns):
            array = pixels[r, c].permute(1, 2, 0).numpy()
            picture = Image.fromarray(array[..., 0] if channels == 1 else array)
            picture = picture.resize((width * scale, height * scale), Image.Resampling.NEAREST)
            canvas.paste(picture, (label + c * cell_w, top))
    buffer = io.BytesIO()
    canvas.save(buffer, "PNG")
    return buffer.getvalue()


def trace_png(trace: Path) -> bytes:
    """Losses, and multiplier with cosine, over the updates."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import pandas as pd

    rows = pd.read_csv(trace)
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.5), layout="constrained")
    for name in ("retain_loss", "forget_loss"):
        left.plot(rows["step"], rows[name], label=name.replace("_", " "))
    for name in ("multiplier", "gradient_cosine"):
        right.plot(rows["step"], rows[name], label=name.replace("_", " "))
    left.set(xlabel="update", yscale="log", title="losses")
    right.set(xlabel="update", title="multiplier and cosine of the two gradients")
    left.legend()
    right.legend()
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
