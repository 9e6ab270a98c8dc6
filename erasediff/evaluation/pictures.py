"""Grids of drawn pictures, as PNG."""

from __future__ import annotations

import io
import json
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

#: Keyword in a grid's PNG of the concepts of its rows, as JSON.
ROWS = "rows"


def grid_png(
    images: Tensor, concepts: Sequence[str], title: str, tile: int = 48, marked: Collection[str] = ()
) -> bytes:
    """A row a concept, its name at the left, under a title; the PNG says which row is which, for :func:`in_order`.

    Args:
        images: ``(concepts, columns, C, H, W)`` in [-1, 1].
        tile: least pixels a side of a picture; small ones are enlarged without smoothing.
        marked: concepts framed and named in red, and put first: those to forget.
    """
    from erasediff.data.figures import picture_grid
    from erasediff.data.images import png_bytes

    order = sorted(range(len(concepts)), key=lambda row: concepts[row] not in marked)
    names = [concepts[row] for row in order]
    grid = picture_grid(images[order], names, title, tile=tile, marked=marked)
    return png_bytes(grid, **{ROWS: json.dumps(names)})


def in_order(png: bytes, order: Sequence[str]) -> bytes:
    """A grid of :func:`grid_png` with its rows in another order; what is no such grid stays as it is.

    Args:
        order: concepts as they should stand, the framed ones first; rows of others follow as they stood.
    """
    from PIL import Image

    from erasediff.data.figures import HEADROOM
    from erasediff.data.images import png_bytes

    grid = Image.open(io.BytesIO(png))
    if ROWS not in grid.info:
        return png
    names, rank = json.loads(grid.info[ROWS]), {concept: number for number, concept in enumerate(order)}
    rows = sorted(range(len(names)), key=lambda row: rank.get(names[row], len(rank)))
    height, ordered = (grid.height - HEADROOM) // len(names), grid.copy()
    for place, row in enumerate(rows):
        strip = grid.crop((0, HEADROOM + row * height, grid.width, HEADROOM + (row + 1) * height))
        ordered.paste(strip, (0, HEADROOM + place * height))
    return png_bytes(ordered, **{ROWS: json.dumps([names[row] for row in rows])})


def side_by_side(*pictures: bytes) -> bytes:
    """PNGs beside each other on white, in their order."""
    from PIL import Image

    from erasediff.data.images import png_bytes

    images = [Image.open(io.BytesIO(picture)).convert("RGB") for picture in pictures]
    gap = 24
    width = sum(image.width for image in images) + gap * (len(images) - 1)
    canvas = Image.new("RGB", (width, max(image.height for image in images)), "white")
    left = 0
    for image in images:
        canvas.paste(image, (left, 0))
        left += image.width + gap
    return png_bytes(canvas)


def tiled_png(images: Tensor, label: str, title: str, columns: int = 8, tile: int = 64) -> bytes:
    """Pictures ``(N, C, H, W)`` in rows of ``columns`` under one label; a short last row is filled with white."""
    import torch

    n = len(images)
    columns = min(n, columns)
    rows = -(-n // columns)
    blank = torch.ones(rows * columns - n, *images.shape[1:])
    grid = torch.cat([images, blank]).view(rows, columns, *images.shape[1:])
    return grid_png(grid, [label] * rows, title, tile=tile)
