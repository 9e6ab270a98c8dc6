"""Pictures: from any file to square PNG of one size and mode, and to tensors."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor


def open_picture(content: bytes) -> Image.Image:
    """A picture as L or RGB, upright. Raises: OSError, ValueError, SyntaxError: unreadable."""
    picture: Image.Image = Image.open(io.BytesIO(content))
    picture.load()
    picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith("I;16") or picture.mode in ("I", "F"):
        values = np.asarray(picture, dtype=np.float64)
        return Image.fromarray((values / max(values.max(), 1) * 255).round().astype(np.uint8))
    if picture.mode in ("L", "1", "LA"):
        return picture.convert("L")
    picture = picture.convert("RGB")
    red, green, blue = (np.asarray(band) for band in picture.split())
    return picture.convert("L") if np.array_equal(red, green) and np.array_equal(red, blue) else picture


def to_png(picture: Image.Image, size: int, mode: str) -> bytes:
    """Centre square, ``size × size``, mode L or RGB, as PNG bytes without metadata."""
    picture = ImageOps.fit(picture.convert(mode), (size, size), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def content_id(png: bytes) -> str:
    """SHA-256 of a PNG's bytes, hex."""
    return hashlib.sha256(png).hexdigest()


def decode(pngs: Sequence[bytes], image_shape: tuple[int, int, int]) -> Tensor:
    """PNG bytes to float32 ``(N, C, H, W)`` in [-1, 1], converted and resized where they are not of that shape."""
    channels, height, width = image_shape
    mode = "L" if channels == 1 else "RGB"
    arrays = []
    for png in pngs:
        picture = Image.open(io.BytesIO(png)).convert(mode)
        arrays.append(
            torch.from_numpy(np.array(picture, dtype=np.float32)).view(picture.height, picture.width, channels)
        )
    images = torch.stack(arrays).permute(0, 3, 1, 2) / 127.5 - 1
    if images.shape[2:] != (height, width):
        images = F.interpolate(images, (height, width), mode="bilinear", antialias=True, align_corners=False)
    return images.contiguous()


def encode_png(image: Tensor) -> bytes:
    """An image ``(C, H, W)`` in [-1, 1], C of 1 or 3, to PNG bytes."""
    pixels = ((image.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()
