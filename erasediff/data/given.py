"""Pictures as somebody gives them: checked, and brought to what a model takes. Nothing is guessed in silence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias, TypeGuard

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from erasediff.data.images import as_shape, decode, open_picture, png_bytes
from erasediff.errors import DataError

#: Pictures in any form that :func:`as_images` reads.
Pictures: TypeAlias = "Tensor | np.ndarray | Image.Image | Sequence[Image.Image] | Sequence[Tensor]"


def as_images(given: object, image_shape: tuple[int, int, int], what: str) -> Tensor:
    """Pictures to float32 ``(B, *image_shape)`` in [-1, 1]. Those that are so already are returned as they are.

    Args:
        given: Pillow pictures of any size and mode; or one tensor or array, uint8 in [0, 255] or floating in [-1, 1],
            of one picture or several, channels first or last.
        what: they are, for messages.

    Raises: DataError: no pictures; another type, shape or range; NaN.
    """
    if isinstance(given, Image.Image):
        given = [given]
    if isinstance(given, list | tuple):
        return _of_list(given, image_shape, what)
    if isinstance(given, np.ndarray):
        given = torch.from_numpy(given)
    if not isinstance(given, Tensor):
        raise DataError(f"{what} are a {type(given).__name__}: give Pillow pictures, or a tensor (B, C, H, W)")
    return as_shape(_in_range(_channels_first(given, image_shape[0], what), what), image_shape)


def _of_list(given: Sequence[object], image_shape: tuple[int, int, int], what: str) -> Tensor:
    if not given:
        raise DataError(f"{what} are none: give at least one")
    if _all_pictures(given):
        return torch.cat([_picture(picture, image_shape) for picture in given])
    return torch.cat([as_images(one, image_shape, what) for one in given])


def _all_pictures(given: Sequence[object]) -> TypeGuard[Sequence[Image.Image]]:
    return all(isinstance(one, Image.Image) for one in given)


def _picture(picture: Image.Image, image_shape: tuple[int, int, int]) -> Tensor:
    """A Pillow picture, its centre at the model's size, ``(1, C, H, W)``."""
    _, height, width = image_shape
    upright = open_picture(png_bytes(ImageOps.exif_transpose(picture)))
    return decode([png_bytes(ImageOps.fit(upright, (width, height), Image.Resampling.LANCZOS))], image_shape)


def _channels_first(images: Tensor, channels: int, what: str) -> Tensor:
    """``(B, C, H, W)`` of one picture or several, channels first or last."""
    images = images[None] if images.ndim == 3 else images
    possible = {1, 3, channels}
    if images.ndim == 4 and images.shape[1] not in possible and images.shape[3] in possible:
        images = images.permute(0, 3, 1, 2)
    if images.ndim != 4 or images.shape[1] not in possible or not images.numel():
        raise DataError(f"{what} have shape {tuple(images.shape)}: give (B, C, H, W), with 1 or 3 channels")
    return images


def _in_range(images: Tensor, what: str) -> Tensor:
    """Float32 in [-1, 1]."""
    if images.dtype == torch.uint8:
        return images.float() / 127.5 - 1
    low, high = require_range(images, what)
    if 0 <= low < high:
        raise DataError(
            f"{what} run from {low:g} to {high:g}, which looks like [0, 1]: give 2 * images - 1. If that is how they "
            "are, give them as erasediff.data.concept_images.ConceptImages, which are taken as they are"
        )
    return images.float()


def require_range(images: Tensor, what: str) -> tuple[float, float]:
    """Return the least and the largest value. Raises: DataError: images are no floats in [-1, 1]."""
    if not images.is_floating_point():
        raise DataError(f"{what} are of {images.dtype}: give uint8 in [0, 255], or floats in [-1, 1]")
    low, high = (float(bound) for bound in images.aminmax())
    if not (low >= -1.01 and high <= 1.01):  # NaN too
        raise DataError(f"{what} run from {low:g} to {high:g}: give floats in [-1, 1], or uint8 in [0, 255]")
    return low, high
