"""Pictures: from any file to square PNG of one size and mode, and to tensors."""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
from PIL import ExifTags, Image, ImageFile, ImageOps, PngImagePlugin, UnidentifiedImageError

if TYPE_CHECKING:
    from torch import Tensor

#: Formats that are read, whatever a file's name says. Not those that Pillow hands to other programs (EPS).
FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "BMP", "GIF", "TIFF", "JPEG2000", "PPM")

#: EXIF's orientation, as the turn that puts a picture upright.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

#: Raw modes of PNG whose transparent colour Pillow leaves at the file's depth, and what brings it to 8 bits.
DEPTHS: dict[str, Callable[[int], int]] = {
    "L;2": lambda value: value * 85,
    "L;4": lambda value: value * 17,
    "RGB;16B": lambda value: value >> 8,
}


class Unreadable(ValueError):
    """A file that is no picture, is broken, or has pixels whose meaning is not known. The message says why."""


@contextmanager
def _reading(content: bytes) -> Iterator[Image.Image]:
    """A picture that is not decoded yet. Raises: Unreadable: whatever goes wrong within.

    What a decoder stumbles over decides what it raises: TypeError, struct.error, ZeroDivisionError, KeyError and many
    more. So every error of it counts, but for a lack of memory.
    """
    try:
        with warnings.catch_warnings():  # of metadata, which are not used
            warnings.simplefilter("ignore")
            yield Image.open(io.BytesIO(content), formats=FORMATS)
    except (MemoryError, Unreadable):
        raise
    except UnidentifiedImageError:
        what = "it is empty" if not content else f"it is no {', '.join(FORMATS)}"
        raise Unreadable(what) from None
    except Exception as error:
        raise Unreadable(f"{type(error).__name__}: {' '.join(str(error).split())[:100]}") from None


def header(content: bytes) -> tuple[int, bool]:
    """``(shorter side, whether the format has no colour)`` without decoding. Raises: Unreadable."""
    with _reading(content) as picture:
        return min(picture.size), picture.mode in ("1", "L", "LA", "I", "F") or picture.mode.startswith("I;16")


def open_picture(content: bytes) -> Image.Image:
    """A picture as L or RGB, upright, over white where it is transparent. Raises: Unreadable."""
    with _reading(content) as picture:
        clear = _transparent_colour(picture)
        picture.load()
        turn = _turn(picture)  # after loading, which turns a TIFF itself
        if picture.mode.startswith("I;16") or picture.mode in ("I", "F"):
            picture = _eight_bits(picture, clear)
        elif "A" in picture.getbands() or clear is not None:
            if clear is not None:
                picture.info["transparency"] = clear
            # What lies under a transparent pixel was never meant to be seen.
            layer = picture.convert("RGBA")
            picture = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
        picture = _grey_where_it_is(picture)
        return picture if turn is None else picture.transpose(turn)


def _transparent_colour(picture: Image.Image) -> object:
    """The colour that a file calls transparent, as its pixels hold it; ``None``: there is none."""
    colour = picture.info.get("transparency")
    tiles = picture.tile if isinstance(picture, ImageFile.ImageFile) and picture.format == "PNG" else []
    scale = DEPTHS.get(str(tiles[0].args)) if tiles else None
    if colour is None or scale is None:
        return colour
    return tuple(map(scale, colour)) if isinstance(colour, tuple) else scale(colour)


def _turn(picture: Image.Image) -> Image.Transpose | None:
    """What puts a picture upright. Metadata that cannot be read say nothing: it stays as it is stored."""
    try:
        return TURNS.get(picture.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # of any kind, as in _reading: the pixels do not depend on it
        return None


def _grey_where_it_is(picture: Image.Image) -> Image.Image:
    if picture.mode in ("L", "1"):
        return picture.convert("L")
    picture = picture.convert("RGB")
    red, green, blue = (np.asarray(band) for band in picture.split())
    return picture.convert("L") if np.array_equal(red, green) and np.array_equal(red, blue) else picture


def _eight_bits(picture: Image.Image, clear: object) -> Image.Image:
    """Grey of more than 8 bits to 8, by one scale for all pictures: each by its own would undo its exposure.

    Fractions run from 0 to 1, as scikit-image and ImageJ write them; whole numbers from 0 to 65535.
    """
    values, most = np.asarray(picture, dtype=np.float64), 1 if picture.mode == "F" else 65535
    if picture.mode == "I" and picture.format == "TIFF":
        raise Unreadable("whole numbers of 32 bits say no scale: save it with 8 or 16 bits")
    if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= most):
        raise Unreadable(f"pixels run from {values.min():g} to {values.max():g}: 0 to {most} is what can be read")
    if clear is not None:
        values = np.where(values == clear, most, values)
    return Image.fromarray((values * 255 / most).round().astype(np.uint8))


def to_png(picture: Image.Image, size: int, mode: str) -> bytes:
    """Centre square, ``size × size``, mode L or RGB, as PNG bytes without metadata."""
    return png_bytes(ImageOps.fit(picture.convert(mode), (size, size), Image.Resampling.LANCZOS))


def png_bytes(picture: Image.Image, **text: str) -> bytes:
    """A picture as PNG; ``text``: what is written into it, by keyword."""
    buffer, info = io.BytesIO(), PngImagePlugin.PngInfo()
    for key, value in text.items():
        info.add_text(key, value)
    picture.save(buffer, "PNG", pnginfo=info if text else None)
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


class Undecoded:
    """PNG bytes as images: each is decoded when it is asked for, so that memory does not grow with their number."""

    def __init__(self, pngs: Sequence[bytes], image_shape: tuple[int, int, int]):
        self.pngs, self.image_shape = pngs, image_shape

    def __getitem__(self, index: Tensor) -> Tensor:
        return decode([self.pngs[i] for i in index.tolist()], self.image_shape)

    def __len__(self) -> int:
        return len(self.pngs)


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
