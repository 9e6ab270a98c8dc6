"""Rows of tensors in files: computed once, and read as they are needed, so that memory does not grow with them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from io import FileIO
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.lib.format import header_data_from_array_1_0, write_array_header_1_0
from torch import Tensor

#: In a file's name: what NumPy does not know, and keeps as whole numbers of the same bits.
BFLOAT16 = ".bfloat16"


def rows_on_disk(
    batches: Iterable[Mapping[str, Tensor]], total: int, folder: Path | None = None, name: str = "rows"
) -> dict[str, Tensor]:
    """Return tensors ``(total, …)`` by name, mapped from files. The system keeps of them what there is room for.

    Args:
        batches: gives their rows, some at a time; it is read where there are no such files yet.
        folder: keeps the files, for whoever asks for the same next. By default they go when the tensors do.
        name: of what is kept, made of all that it was computed from.
    Raises: OSError: the disk is full.
    """
    if folder is None:  # a mapped file stays readable without a name
        with TemporaryDirectory(prefix="erasediff-") as temporary:
            return rows_on_disk(batches, total, Path(temporary))
    place = folder / name
    if not place.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder, prefix=".", suffix=".unfinished") as unfinished:
            made = Path(unfinished) / name
            made.mkdir()
            _write(made, batches, total)
            try:
                os.replace(made, place)  # whole or not at all
            except OSError:
                if not place.is_dir():  # else another process was as fast
                    raise
    return {file.name.removesuffix(".npy").removesuffix(BFLOAT16): _mapped(file) for file in sorted(place.iterdir())}


def _write(folder: Path, batches: Iterable[Mapping[str, Tensor]], total: int) -> None:
    # Written and not mapped: a full disk is an error of the write, but ends a process that writes into a mapping.
    with ExitStack() as opened:
        files: dict[str, FileIO] = {}
        for batch in batches:
            for name, tensor in batch.items():
                narrow = tensor.dtype == torch.bfloat16
                rows = tensor.detach().cpu().contiguous()
                values = (rows.view(torch.int16) if narrow else rows).numpy()
                if name not in files:
                    path = folder / f"{name}{BFLOAT16 if narrow else ''}.npy"
                    files[name] = opened.enter_context(open(path, "wb", buffering=0))
                    header = header_data_from_array_1_0(values) | {"shape": (total, *values.shape[1:])}
                    write_array_header_1_0(files[name], header)
                _append(files[name], values.tobytes())


def _append(file: FileIO, content: bytes) -> None:
    left = memoryview(content)
    try:
        while left:
            left = left[file.write(left) :]
    except OSError as error:  # which disk is full? It may be that of TMPDIR
        raise OSError(error.errno, error.strerror, str(file.name)) from None


def _mapped(file: Path) -> Tensor:
    # Copy on write: what is changed in memory stays there, and PyTorch does not warn.
    tensor = torch.from_numpy(np.load(file, mmap_mode="c", allow_pickle=False))
    return tensor.view(torch.bfloat16) if file.name.endswith(f"{BFLOAT16}.npy") else tensor
