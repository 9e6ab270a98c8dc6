"""What the teacher answers: asked when an update needs it, or for a whole run before the first."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor


class Answers:
    """The teacher's predictions of one step after another; within a step each is made once.

    Args:
        device: where they are given.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self._step, self._known = -1, dict[str, Tensor]()
        self._folder: TemporaryDirectory[str] | None = None

    @torch.no_grad()
    def of(self, step: int, name: str, predict: Callable[[], Tensor]) -> Tensor:
        """Return the prediction of a name: the one that was made for this step, or a new one."""
        if step != self._step:
            file = self._file(step)
            self._known = load_file(file, str(self.device)) if file is not None and file.exists() else {}
            self._step = step
        if name not in self._known:
            self._known[name] = predict()
        return self._known[name]

    def keep(self) -> None:
        """Write the predictions of the present step to a file, from which this step will read them."""
        if self._folder is None:
            self._folder = TemporaryDirectory(prefix="erasediff-answers-")
        file = self._file(self._step)
        if self._known and file is not None:
            save_file({name: answer.contiguous() for name, answer in self._known.items()}, file)

    def _file(self, step: int) -> Path | None:
        return Path(self._folder.name) / f"{step}.safetensors" if self._folder else None
