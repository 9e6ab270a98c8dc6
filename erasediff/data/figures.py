"""Grids of pictures with names beside them, and curves of an erasing."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont

from erasediff.data.images import to_pixels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from torch import Tensor

MARKED = "#c00000"
#: Pixels above the pictures, and between groups of columns.
HEADROOM, GAP = 34, 14


def picture_grid(
    images: Tensor,
    names: Sequence[str],
    title: str,
    *,
    tile: int = 48,
    marked: Collection[str] = (),
    groups: Sequence[str] = (),
) -> Image.Image:
    """A row a name, which stands at the left, under a title.

    Args:
        images: ``(names, columns, C, H, W)`` in [-1, 1].
        tile: least pixels a side of a picture; small ones are enlarged without smoothing.
        marked: names framed and written in red.
        groups: headings of as many equal groups of columns, instead of the title.
    """
    rows, columns, channels, height, width = images.shape
    scale = -(-tile // max(height, width))
    cell_h, cell_w = height * scale + 4, width * scale + 4
    font = _font()
    label = 16 + max(int(font.getlength(name[:24])) for name in names)
    a_group = columns // max(1, len(groups))
    lefts = [label + c * cell_w + GAP * (c // a_group) for c in range(columns)]
    right = lefts[-1] + cell_w
    canvas = Image.new("RGB", (right, HEADROOM + rows * cell_h), "white")
    pen = ImageDraw.Draw(canvas)
    headings = zip(lefts[::a_group], groups, strict=True) if groups else [(8, title)]
    for left, heading in headings:
        pen.text((left, 6), heading, fill="black", font=font)
    pixels = to_pixels(images)
    for r, name in enumerate(names):
        top = HEADROOM + r * cell_h
        pen.text((8, top + cell_h // 2), name[:24], fill=MARKED if name in marked else "black", font=font, anchor="lm")
        if name in marked:
            for first in lefts[::a_group]:
                pen.rectangle((first - 3, top - 3, first + a_group * cell_w - 2, top + cell_h - 2), fill=MARKED)
        for c, left in enumerate(lefts):
            array = pixels[r, c].permute(1, 2, 0).numpy()
            picture = Image.fromarray(array[..., 0] if channels == 1 else array)
            picture = picture.resize((width * scale, height * scale), Image.Resampling.NEAREST)
            canvas.paste(picture, (left, top))
    return canvas


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Matplotlib's font, where that is installed: Pillow's own has no accents."""
    try:
        from matplotlib import get_data_path
    except ImportError:
        return ImageFont.load_default(size=17)
    return ImageFont.truetype(Path(get_data_path(), "fonts/ttf/DejaVuSans.ttf"), size=17)


#: Updates that a thick line of a plot is the mean of.
SMOOTHED = 10
LOSSES, WEIGHTS = "losses", "multiplier and cosine of the two gradients"
#: Columns that share a plot, by its title.
CURVES = {LOSSES: ("retain_loss", "forget_loss"), WEIGHTS: ("multiplier", "gradient_cosine")}


def plot_trace(rows: Sequence[Mapping[str, float]], axes: Sequence[Axes]) -> None:
    """Plot the losses into the first of two axes; multiplier and cosine into the other."""
    for ax, title in zip(axes, CURVES, strict=True):
        plot_curves(rows, ax, title)


def plot_curves(rows: Sequence[Mapping[str, float]], ax: Axes, title: str, *, eta: float | None = None) -> None:
    """Plot what a title of :data:`CURVES` stands for: thin as measured, thick as the mean of the last updates.

    Losses are on a log axis, where all of them are above 0.

    Args:
        rows: what the loop measured, with its ``step``. What was not measured is left out.
        eta: drawn as a dotted line.
    """
    values: list[float] = []
    for number, name in enumerate(CURVES[title]):
        points = [(row["step"], row[name]) for row in rows if row.get(name, float("nan")) == row.get(name)]
        if points:
            steps, raw = zip(*points, strict=True)
            recent = [raw[max(0, i - SMOOTHED + 1) : i + 1] for i in range(len(raw))]
            colour, dash = f"C{number}", "--" if number else "-"
            ax.plot(steps, raw, color=colour, linewidth=0.8, alpha=0.35)
            ax.plot(steps, list(map(fmean, recent)), dash, color=colour, linewidth=2, label=name.replace("_", " "))
            values += raw
    if eta is not None:
        ax.axhline(eta, color="black", linewidth=1, linestyle=":", label="η")
    if title == LOSSES and values and min(values) > 0:
        ax.set_yscale("log")
    ax.set(xlabel="update", title=title)
    if ax.lines:
        ax.legend()
