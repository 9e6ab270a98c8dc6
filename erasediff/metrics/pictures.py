"""What is wrong with a picture whatever a judge sees in it: blank, noise, a near-copy of another one."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from erasediff.metrics.draw import Draw

#: Standard deviation of its pixels, which are in [-1, 1], below which a picture is blank.
BLANK = 0.05
#: Of the smoothness that 99 % of real pictures have: a picture below this share of it is noise.
ROUGH = 0.6
#: Of the median distance from a real picture to the nearest other one: two pictures nearer than this are copies.
NEAR = 0.25
#: Real pictures that these are learned from, at most.
LEARNED_FROM = 2000
#: Pictures whose neighbours are looked for at once, and bytes of the others that are held for it.
CHUNK, HELD = 512, 2**24
#: Held-out pictures whose distance to training pictures is looked at, at most.
UNSEEN = 500
#: What is wrong with a picture, by the names of its marks in a draw.
MARKS = ("blank", "noise", "copied", "repeated")


@dataclass(frozen=True)
class Yardstick:
    """What real pictures are like, by which drawn ones are marked.

    Attributes:
        smooth: smoothness below which a picture is noise.
        near: distance below which one picture is a copy of another.
        close: that of half of the pictures that no model has seen to the nearest training picture.
        training: pictures that a model may have copied, ``(M, D)``, flat; none: nothing is said of copies. A copy may
            be mirrored, and turned by quarters.
        image_shape: ``(channels, height, width)`` at which copies are looked for.
    """

    smooth: float
    near: float
    close: float
    training: Tensor | None
    image_shape: tuple[int, int, int]

    @classmethod
    def of(cls, held_out: Tensor, training: Tensor | None) -> Yardstick:
        """Learned from real pictures ``(N, C, H, W)`` in [-1, 1], ``N >= 2``: of training, where these are there."""
        real = held_out if training is None else training
        some = real[:: -(-len(real) // LEARNED_FROM)]
        flat = some.flatten(1)
        near = float(nearest(flat, flat, selves=True).median()) * NEAR
        smooth = float(smoothness(some).double().quantile(0.01)) * ROUGH
        channels, height, width = real.shape[1:]
        unseen = held_out[:: -(-len(held_out) // UNSEEN)]
        flat = None if training is None else training.flatten(1)
        close = 0.0 if flat is None else float(_to_training(unseen, flat).median())
        return cls(smooth, near, close, flat, (channels, height, width))

    def marks(self, images: Tensor, small: Tensor) -> dict[str, Tensor]:
        """What each picture of a draw is, bool ``(N,)``, by name; a blank one is nothing else.

        Args:
            images: ``(N, C, H, W)`` in [-1, 1], as they were drawn: a smaller one would smooth noise away.
            small: the same of :attr:`image_shape`, for copies.
        """
        smooth, blank = self.roughness(images)
        return self.marked(blank, smooth, small)

    def roughness(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """``(smoothness, whether it is blank)`` of each picture alone, ``(N,)`` each."""
        return smoothness(images), images.flatten(1).std(1) < BLANK

    def marked(self, blank: Tensor, smooth: Tensor, small: Tensor) -> dict[str, Tensor]:
        """:meth:`marks` of what :meth:`roughness` says of all pictures of a draw, and of the small ones."""
        found = {"blank": blank, "noise": ~blank & (smooth < self.smooth)}
        if self.training is not None:
            least = _to_training(small, self.training)
            found |= {"copied": ~blank & (least < self.near), "close": ~blank & (least < self.close)}
        flat = small.flatten(1)
        found["repeated"] = ~blank & (nearest(flat, flat, selves=True) < self.near)
        return found


def turned(images: Tensor) -> Iterator[Tensor]:
    """Pictures ``(N, C, H, W)`` as they are and mirrored, each also turned by quarters; not square: by halves."""
    quarters = range(4) if images.shape[2] == images.shape[3] else (0, 2)
    for sides in (images, images.flip(3)):
        for quarter in quarters:
            yield sides.rot90(quarter, (2, 3))


def _to_training(images: Tensor, training: Tensor) -> Tensor:
    """Distance of pictures ``(N, C, H, W)`` to the nearest training picture, however they are turned, ``(N,)``."""
    return torch.cat(
        [torch.stack([nearest(it.flatten(1), training) for it in turned(some)]).amin(0) for some in images.split(CHUNK)]
    )


def smoothness(images: Tensor) -> Tensor:
    """Correlation of neighbouring pixels, ``(N,)``: about 0 of white noise, and 0 of a blank picture."""
    return torch.cat([_smoothness(some) for some in images.split(64)])  # doubles of all would be large


def _smoothness(images: Tensor) -> Tensor:
    centred = images.double() - images.double().mean((2, 3), keepdim=True)
    beside = (centred[..., 1:] * centred[..., :-1]).mean((1, 2, 3))
    below = (centred[..., 1:, :] * centred[..., :-1, :]).mean((1, 2, 3))
    return (beside + below) / 2 / centred.square().mean((1, 2, 3)).clamp(min=1e-12)


def nearest(flat: Tensor, others: Tensor, *, selves: bool = False) -> Tensor:
    """Euclidean distance to the nearest of the others, ``(N,)``.

    Args:
        flat: ``(N, D)``; others: ``(M, D)``.
        selves: both are the same pictures; none is compared with itself.
    """
    at_once = max(CHUNK, HELD // (4 * flat.shape[1]))
    return torch.cat(
        [
            torch.stack(
                [_nearest(flat, start, others, at, at_once, selves) for at in range(0, len(others), at_once)]
            ).amin(0)
            for start in range(0, len(flat), CHUNK)
        ]
    )


def _nearest(flat: Tensor, start: int, others: Tensor, at: int, at_once: int, selves: bool) -> Tensor:
    """:func:`nearest` of some of the pictures among some of the others."""
    distances = torch.cdist(flat[start : start + CHUNK], others[at : at + at_once])
    if selves:
        rows = torch.arange(len(distances))
        own = rows + start - at
        there = (own >= 0) & (own < distances.shape[1])
        distances[rows[there], own[there]] = torch.inf
    return distances.min(1).values


def forget_blank(draw: Draw) -> Tensor | None:
    """Whether a picture drawn for a forgotten concept is blank."""
    return _marked(draw, draw.targets, ["blank"])


def forget_noise(draw: Draw) -> Tensor | None:
    """Whether a picture drawn for a forgotten concept is noise."""
    return _marked(draw, draw.targets, ["noise"])


def forget_copied(draw: Draw) -> Tensor | None:
    """Whether a picture drawn for a forgotten concept is a near-copy of a training picture."""
    return _marked(draw, draw.targets, ["copied"])


def forget_repeated(draw: Draw) -> Tensor | None:
    """Whether a picture drawn for a forgotten concept is a near-copy of another drawn one."""
    return _marked(draw, draw.targets, ["repeated"])


def forget_degenerate(draw: Draw) -> Tensor | None:
    """Whether a picture drawn for a forgotten concept is any of these."""
    return _marked(draw, draw.targets, MARKS)


def retain_close(draw: Draw) -> Tensor | None:
    """Whether a picture drawn for a retained concept lies close to a training picture."""
    return _marked(draw, draw.retained, ["close"])


def retain_degenerate(draw: Draw) -> Tensor | None:
    """Whether a picture drawn for a retained concept is any of these."""
    return _marked(draw, draw.retained, MARKS)


def _marked(draw: Draw, rows: Tensor, marks: Collection[str]) -> Tensor | None:
    known = [draw.marks[mark][rows] for mark in marks if mark in draw.marks]
    return torch.stack(known).any(0) if known and rows.any() else None
