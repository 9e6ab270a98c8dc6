"""The device that trainings and drawings compute on, and kernels that give the same bits at every run."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def device() -> torch.device:
    """The device that accelerate would train on: the GPU where there is one."""
    from accelerate import PartialState

    return repeatable(PartialState().device)


def repeatable(device: torch.device) -> torch.device:
    """On a GPU, have PyTorch take the kernels that give the same bits at every run; where it has none it warns.

    It warns of attention too, whose repeatable kernel it takes only where any other would be an error.
    """
    if device.type == "cuda":
        import torch

        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # it costs time, and nothing here reads any
    return device
