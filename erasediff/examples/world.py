"""The world of shapes: small drawn pictures, each with its object, style and colour as truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

#: What a picture can show. Some are alike on purpose: square and cross, square and house, star and cross.
OBJECTS = ("circle", "square", "triangle", "star", "heart", "cross", "moon", "house")
#: How it can be drawn. Some are alike on purpose: dotted and hatched, outlined and neon.
STYLES = ("flat", "outlined", "hatched", "dotted", "inverted", "neon")
#: In which colour.
COLOURS = ("red", "orange", "green", "blue", "purple")

#: Side of a picture in pixels.
SIDE = 24

_PAINT = np.array([[214, 32, 44], [244, 148, 16], [36, 152, 62], [28, 98, 226], [138, 48, 186]], np.float32) / 255
_PAPER = np.array([250, 248, 242], np.float32) / 255
_NIGHT = np.array([20, 20, 34], np.float32) / 255


def _polygon(points: Sequence[tuple[float, float]]) -> np.ndarray:
    return np.array(points, np.float32)


def _regular(corners: int, radius: float, turn: float = 0.0) -> list[tuple[float, float]]:
    angles = [2 * np.pi * i / corners + turn for i in range(corners)]
    return [(radius * float(np.sin(a)), -radius * float(np.cos(a))) for a in angles]


def _star() -> np.ndarray:
    outer, inner = _regular(5, 1.12), _regular(5, 0.47, np.pi / 5)
    return _polygon([point for pair in zip(outer, inner, strict=True) for point in pair])


def _heart() -> np.ndarray:
    t = np.linspace(0, 2 * np.pi, 28, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([x / 16.5, -(y + 2.2) / 15.5], 1).astype(np.float32)


#: Outlines in a square from -1 to 1, y downwards. Circle and moon are made of discs instead.
_OUTLINES = {
    "square": _polygon([(-0.84, -0.84), (0.84, -0.84), (0.84, 0.84), (-0.84, 0.84)]),
    "triangle": _polygon([(0.0, -1.05), (1.05, 0.8), (-1.05, 0.8)]),
    "star": _star(),
    "heart": _heart(),
    "cross": _polygon(
        [(-0.34, -1), (0.34, -1), (0.34, -0.34), (1, -0.34), (1, 0.34), (0.34, 0.34)]
        + [(0.34, 1), (-0.34, 1), (-0.34, 0.34), (-1, 0.34), (-1, -0.34), (-0.34, -0.34)]
    ),
    "house": _polygon(
        [(0, -1.1), (1.08, -0.12), (0.72, -0.12), (0.72, 0.9), (-0.72, 0.9), (-0.72, -0.12), (-1.08, -0.12)]
    ),
}


@dataclass(frozen=True)
class Drawn:
    """Pictures with their truth.

    Attributes:
        pixels: uint8 ``(N, 24, 24, 3)``.
        objects: index into :data:`OBJECTS`, int64 ``(N,)``; likewise styles and colours.
    """

    pixels: np.ndarray
    objects: np.ndarray
    styles: np.ndarray
    colours: np.ndarray

    def __len__(self) -> int:
        return len(self.pixels)

    def take(self, index: np.ndarray) -> Drawn:
        """The pictures at those places, in that order."""
        return Drawn(self.pixels[index], self.objects[index], self.styles[index], self.colours[index])

    @property
    def images(self) -> Tensor:
        """Float32 ``(N, 3, 24, 24)`` in [-1, 1]."""
        import torch

        return torch.from_numpy(self.pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


def draw_world(
    n: int,
    seed: int,
    *,
    objects: Sequence[str] = OBJECTS,
    styles: Sequence[str] = STYLES,
    colours: Sequence[str] = COLOURS,
) -> Drawn:
    """Draw ``n`` pictures, their objects, styles and colours at random out of those given.

    Place, size, turn and texture differ from picture to picture. The same seed gives the same pictures.
    """
    random = np.random.default_rng(seed)
    o, s, c = (
        random.choice([all_of_them.index(name) for name in names], n)
        for names, all_of_them in ((objects, OBJECTS), (styles, STYLES), (colours, COLOURS))
    )
    return Drawn(_render(o, s, c, random), o, s, c)


def _render(objects: np.ndarray, styles: np.ndarray, colours: np.ndarray, random: np.random.Generator) -> np.ndarray:
    n = len(objects)
    middle = (SIDE - 1) / 2
    at = middle + random.uniform(-1.2, 1.2, (2, n, 1, 1)).astype(np.float32)
    radius = random.uniform(7.6, 9.4, (n, 1, 1)).astype(np.float32)
    turn = random.uniform(-0.2, 0.2, (n, 1, 1)).astype(np.float32)
    grid = np.arange(SIDE, dtype=np.float32)
    x, y = grid[None, None, :] - at[0], grid[None, :, None] - at[1]
    u = (np.cos(turn) * x + np.sin(turn) * y) / radius
    v = (np.cos(turn) * y - np.sin(turn) * x) / radius
    distance = np.empty((n, SIDE, SIDE), np.float32)
    for index, name in enumerate(OBJECTS):
        which = objects == index
        if which.any():
            distance[which] = _signed_distance(name, u[which], v[which])
    distance *= radius  # in pixels, negative inside
    return _paint(distance, x, y, styles, colours, random)


def _signed_distance(name: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Distance to an outline, negative inside, in units of its radius."""
    if name == "circle":
        return np.hypot(u, v) - 0.95
    if name == "moon":
        return np.maximum(np.hypot(u + 0.12, v) - 1.02, 0.8 - np.hypot(u - 0.5, v + 0.12))
    corners = _OUTLINES[name]
    nearest = np.full(u.shape, np.inf, np.float32)
    inside = np.zeros(u.shape, bool)
    for (ax, ay), (bx, by) in zip(corners, np.roll(corners, -1, 0), strict=True):
        ex, ey, px, py = bx - ax, by - ay, u - ax, v - ay
        along = np.clip((px * ex + py * ey) / (ex * ex + ey * ey), 0, 1)
        nearest = np.minimum(nearest, (px - ex * along) ** 2 + (py - ey * along) ** 2)
        if ay != by:
            inside ^= ((ay > v) != (by > v)) & (u < ex * py / ey + ax)
    return np.sqrt(nearest) * np.where(inside, -1, 1)


def _paint(
    distance: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    styles: np.ndarray,
    colours: np.ndarray,
    random: np.random.Generator,
) -> np.ndarray:
    n = len(distance)
    shade = random.uniform(0.93, 1.07, (n, 1, 1, 1)).astype(np.float32)
    phase = random.uniform(0, 1, (2, n, 1, 1)).astype(np.float32)
    tilt = (np.pi / 4 + random.uniform(-0.12, 0.12, (n, 1, 1))).astype(np.float32)
    paint = np.clip(_PAINT[colours][:, None, None] * shade, 0, 1)
    inside = np.clip(0.5 - distance, 0, 1)
    line = np.clip(1.35 - np.abs(distance + 0.75), 0, 1)
    strokes = _strokes(x * np.cos(tilt) + y * np.sin(tilt), phase[0], 3.2, 0.42)
    dots = _dots(x, y, phase, 3.6, 1.2)
    ink = np.select(
        [
            (styles == STYLES.index(name))[:, None, None]
            for name in ("flat", "outlined", "hatched", "dotted", "inverted")
        ],
        [inside, line, np.maximum(inside * strokes, 0.7 * line), inside * np.maximum(dots, 0.3), 1 - inside],
        0.0,
    )[..., None]
    pictures = _PAPER * (1 - ink) + paint * ink
    neon = styles == STYLES.index("neon")
    if neon.any():
        pictures[neon] = _neon(distance[neon], paint[neon])
    return np.rint(np.clip(pictures, 0, 1) * 255).astype(np.uint8)


def _strokes(across: np.ndarray, phase: np.ndarray, period: float, share: float) -> np.ndarray:
    """Parallel lines, anti-aliased: 1 on a line, 0 between."""
    offset = np.abs((across / period + phase) % 1 - 0.5) * period
    return np.clip(share * period / 2 - offset + 0.5, 0, 1)


def _dots(x: np.ndarray, y: np.ndarray, phase: np.ndarray, period: float, radius: float) -> np.ndarray:
    """A square lattice of dots, anti-aliased."""
    dx, dy = (((c / period + p) % 1 - 0.5) * period for c, p in zip((x, y), phase, strict=True))
    return np.clip(radius - np.hypot(dx, dy) + 0.5, 0, 1)


def _neon(distance: np.ndarray, paint: np.ndarray) -> np.ndarray:
    """A glowing tube along the outline, at night."""
    away = np.abs(distance + 0.4)
    glow, tube = np.exp(-away / 1.7)[..., None], np.clip(1.15 - away, 0, 1)[..., None]
    lit = _NIGHT + (0.15 + 0.85 * paint) * 0.9 * glow
    return lit * (1 - tube) + (0.45 + 0.55 * paint) * tube
