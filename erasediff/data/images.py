"""Pictures: from any file to square PNG of one size and mode, and to tensors."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageOps

if TYPE_CHECKING:
    from torch import Tensor

#: What Pillow raises on a file that it cannot or will not read.
UNREADABLE = (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError)


def header(content: bytes) -> tuple[int, bool]:
    """``(shorter side, whether the format has no colour)`` without decoding. Raises: :data:`UNREADABLE`."""
    picture = Image.open(io.BytesIO(content))
    return min(picture.size), picture.mode in ("1", "L", "LA", "I", "F") or picture.mode.startswith("I;16")


def open_picture(content: bytes) -> Image.Image:
    """A picture as L or RGB, upright, over white where it is transparent. Raises: :data:`UNREADABLE`."""
    picture: Image.Image = Image.open(io.BytesIO(content))
    picture.load()
    picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith("I;16") or picture.mode in ("I", "F"):
        return _eight_bits(np.asarray(picture, dtype=np.float64))
    if picture.mode in ("L", "1"):
        return picture.convert("L")
    if "A" in picture.getbands() or "transparency" in picture.info:
        # What lies under a transparent pixel was never meant to be seen.
        layer = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    picture = picture.convert("RGB")
    red, green, blue = (np.asarray(band) for band in picture.split())
    return picture.convert("L") if np.array_equal(red, green) and np.array_equal(red, blue) else picture


def _eight_bits(values: np.ndarray) -> Image.Image:
    """16 bits to 8 by one scale for all pictures: stretching each to its own maximum would undo its exposure."""
    if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 65535):
        raise ValueError(f"pixels run from {values.min()} to {values.max()}: 0 to 65535 is what can be read")
    return Image.fromarray((values / 257).round().astype(np.uint8))


def to_png(picture: Image.Image, size: int, mode: str) -> bytes:
    """Centre square, ``size × size``, mode L or RGB, as PNG bytes without metadata."""
    return png_bytes(ImageOps.fit(picture.convert(mode), (size, size), Image.Resampling.LANCZOS))


def png_bytes(picture: Image.Image) -> bytes:
    """A picture as PNG."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def content_id(png: bytes) -> str:
    """SHA-256 of a PNG's bytes, hex."""
    return hashlib.sha256(png).hexdigest()


def decode(pngs: Sequence[bytes], image_shape: tuple[int, int, int]) -> Tensor:
    """PNG bytes to float32 ``(N, C, H, W)`` in [-1, 1], converted and resized where they are not of that shape."""
    import torch

    images = torch.empty(len(pngs), *image_shape)
    for i, png in enumerate(pngs):
        picture: Image.Image = Image.open(io.BytesIO(png))
        picture = picture if picture.mode in ("L", "RGB") else picture.convert("RGB")
        pixels = torch.from_numpy(np.array(picture, dtype=np.float32)).view(picture.height, picture.width, -1)
        images[i] = as_shape(pixels.permute(2, 0, 1)[None] / 127.5 - 1, image_shape)[0]
    return images


def as_shape(images: Tensor, image_shape: tuple[int, int, int]) -> Tensor:
    """Images ``(N, C, H, W)`` in [-1, 1] of any size, grey or RGB, to ``(N, *image_shape)``; those of it stay.

    Colour becomes grey by its luma (ITU-R BT.601, as Pillow does it); sizes change bilinearly, smoothed first.
    """
    import torch
    import torch.nn.functional as F

    channels, height, width = image_shape
    if images.shape[1] != channels:
        luma = torch.tensor([0.299, 0.587, 0.114], device=images.device, dtype=images.dtype).view(1, 3, 1, 1)
        images = (images * luma).sum(1, keepdim=True) if channels == 1 else images.expand(-1, channels, -1, -1)
    if images.shape[2:] != (height, width):
        images = F.interpolate(images, (height, width), mode="bilinear", antialias=True, align_corners=False)
    return images


def to_pixels(images: Tensor) -> Tensor:
    """Images in [-1, 1] of any shape to uint8 of the same."""
    return ((images.clamp(-1, 1) + 1) * 127.5).round().byte()


def encode_png(image: Tensor) -> bytes:
    """An image ``(C, H, W)`` in [-1, 1], C of 1 or 3, to PNG bytes."""
    pixels = to_pixels(image).permute(1, 2, 0).cpu().numpy()
    return png_bytes(Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels))
