"""What an update does not need at once, off the device: in the host's memory, or of a CPU in files without a name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from tempfile import NamedTemporaryFile

import torch
from torch import Tensor

#: Elements of two vectors that meet on the device at once.
AT_ONCE = 2**24


def offloaded(tensor: Tensor) -> Tensor:
    """Return a copy that takes no memory of the device.

    A copy of a CPU's tensor is a mapped file in the folder of temporary files: the system keeps of it in memory what
    there is room for. The file goes when the tensor does.

    Raises: OSError: the disk is full.
    """
    if tensor.device.type != "cpu":
        return tensor.detach().cpu()
    with NamedTemporaryFile(prefix="erasediff-offload-") as file:
        # Written rather than reserved: a mapped file that has no room ends the process by a signal.
        file.write(tensor.detach().contiguous().flatten().view(torch.uint8).numpy().data)
        file.flush()
        kept = torch.from_file(file.name, shared=True, size=tensor.numel(), dtype=tensor.dtype)
    return kept.view(tensor.shape)


@contextmanager
def put_aside(tensors: Sequence[Tensor]) -> Iterator[None]:
    """Keep tensors off the device for a block; each then is where it was, with the same bits."""
    was = [(tensor.device, tensor.stride()) for tensor in tensors]
    try:
        for tensor in tensors:
            tensor.data = offloaded(tensor)
        yield
    finally:
        for tensor, (device, stride) in zip(tensors, was, strict=True):
            back = torch.empty_strided(tensor.shape, stride, dtype=tensor.dtype, device=device)
            tensor.data = back.copy_(tensor.detach())


def met(one: Tensor, other: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield two flat vectors part by part, those of the second on the device of the first."""
    for a, b in zip(one.split(AT_ONCE), other.split(AT_ONCE), strict=True):
        yield a, b.to(a.device)
