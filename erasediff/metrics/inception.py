"""Inception-v3's features, where its weights are at hand: the ones that "FID" means."""

from __future__ import annotations

import hashlib
import warnings
from pathlib import Path

import torch
from torch import Tensor

#: Entries of a picture's features, and pictures that are read at once.
WIDTH, BATCH = 2048, 64


def inception_file(folder: Path) -> Path | None:
    """The file of the network in a folder; ``None``: there is none."""
    return next(iter(sorted(folder.glob("*.pt"))), None)


class Inception:
    """The network of FID as TorchScript, as StyleGAN's authors publish it (``inception-2015-12-05.pt``).

    It resizes by itself. Nothing of the file is run as Python.

    Args:
        path: of the file.

    Raises: ValueError: it is no such network.
    """

    def __init__(self, path: Path):
        try:
            content = path.read_bytes()
            with warnings.catch_warnings():  # the only form in which it is published
                warnings.simplefilter("ignore", DeprecationWarning)
                self.network = torch.jit.load(str(path), map_location="cpu").eval()
        except (OSError, RuntimeError, ValueError) as error:
            said = " ".join(str(error).split())[:150]
            raise ValueError(f"{path} is no network as TorchScript ({said}): give inception-2015-12-05.pt") from None
        self.fingerprint = f"inception2048 {hashlib.sha256(content).hexdigest()}"

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """``(N, 2048)`` of pictures ``(N, C, H, W)`` in [-1, 1], grey or RGB.

        Raises: ValueError: the network gives something else.
        """
        pixels = ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        if pixels.shape[1] == 1:
            pixels = pixels.expand(-1, 3, -1, -1)
        found = torch.cat([self.network(some, return_features=True).float().cpu() for some in pixels.split(BATCH)])
        if found.shape != (len(images), WIDTH) or not bool(found.isfinite().all()):
            raise ValueError(f"Inception gives features of shape {tuple(found.shape)}, or no finite ones: use its file")
        return found
