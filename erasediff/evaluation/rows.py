"""Numbers of many pictures, held in a file: memory has those that are in use."""

from __future__ import annotations

import os
import tempfile

import torch
from torch import Tensor

from erasediff.errors import DataError

#: Bytes.
WRITTEN_AT_ONCE = 2**20


class Rows:
    """A row a picture, that come in parts.

    They lie in a file without a name in the folder for temporary files (``TMPDIR``), which is gone with the tensor. The
    system takes their memory back where it is needed.

    Args:
        n: rows in all.
    """

    def __init__(self, n: int):
        self.n, self.filled = n, 0
        self._held: Tensor | None = None

    def add(self, part: Tensor) -> None:
        """The next rows, ``(B, …)``."""
        if self._held is None:
            self._held = _on_disk((self.n, *part.shape[1:]), part.dtype)
        self._held[self.filled : self.filled + len(part)] = part
        self.filled += len(part)

    @property
    def tensor(self) -> Tensor:
        """All rows that came, ``(N, …)``. Raises: ValueError: none did."""
        if self._held is None:
            raise ValueError("no rows came: nothing is known of no pictures")
        return self._held[: self.filled]


def _on_disk(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    size = torch.Size(shape).numel()
    if not size:
        return torch.empty(shape, dtype=dtype)
    handle, path = tempfile.mkstemp(prefix="erasediff-")
    try:
        # Room is taken at once: on a full disk a later write into the mapping would kill the process.
        _take_room(handle, size * dtype.itemsize)
        return torch.from_file(path, shared=True, size=size, dtype=dtype).view(shape)
    except OSError as error:
        raise DataError(
            f"{size * dtype.itemsize:,} bytes cannot be held in {tempfile.gettempdir()} ({error.strerror}): "
            "let TMPDIR name a folder with more room"
        ) from None
    finally:
        os.close(handle)
        os.unlink(path)


def _take_room(handle: int, size: int) -> None:
    """Raises: OSError: the disk is full."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(handle, 0, size)
        return
    with open(os.dup(handle), "wb") as file:  # macOS has no such call
        for first in range(0, size, WRITTEN_AT_ONCE):
            file.write(bytes(min(WRITTEN_AT_ONCE, size - first)))
