"""What text encoders and the image encoder say, computed once for a training.

Latents are read from disk, and prompts are encoded before the first update. So the encoders need not stay on the
device, and memory does not grow with the number of pictures.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory, mkstemp
from typing import Any

import numpy as np
import torch
from numpy.lib.format import open_memmap
from torch import Tensor, nn

from erasediff.data.concept_images import Images, Undrawn
from erasediff.families.family import Condition, Family, joined

#: Pictures, and prompts, that are encoded at once.
IMAGES_AT_ONCE, PROMPTS_AT_ONCE = 16, 32


class EncodedPrompts:
    """The conditions of prompts, each encoded once; kept on the CPU, given on a device.

    Args:
        prompts: all that will be asked for.
        dtype: of what is given; ``None`` leaves it as the text encoder made it.
    Raises: UnknownConcept: the model does not know one.
    """

    def __init__(self, family: Family, prompts: Iterable[str], device: torch.device, dtype: torch.dtype | None = None):
        names = list(dict.fromkeys(prompts))
        self.index = {name: i for i, name in enumerate(names)}
        self.device, self.dtype = device, dtype
        parts = [family.condition(names[i : i + PROMPTS_AT_ONCE]) for i in range(0, len(names), PROMPTS_AT_ONCE)]
        self.condition = joined([part.to(torch.device("cpu")) for part in parts])

    def __call__(self, prompts: Sequence[str]) -> Condition:
        """Return the condition of prompts, one a sample."""
        index = torch.tensor([self.index[prompt] for prompt in prompts], dtype=torch.long)
        return self.condition.take(index).to(self.device, self.dtype)


class Latents:
    """What a family's encoder makes of pictures, as pictures are read: ``latents[index]`` gives float32 ``(B, …)``.

    Args:
        folder: keeps them for the next training, under a name made of all pictures and of the encoder's weights. By
            default they last as long as this object.
    """

    def __init__(self, family: Family, images: Images, folder: Path | None = None):
        self._temporary = TemporaryDirectory(prefix="erasediff-latents-") if folder is None else None
        folder = Path(self._temporary.name) if self._temporary else folder
        assert folder is not None
        file = folder / f"{_fingerprint(family, images)}.npy"
        if not file.exists():
            folder.mkdir(parents=True, exist_ok=True)
            _encode(family, images, file)
        self.array = np.load(file, mmap_mode="r", allow_pickle=False)

    def __getitem__(self, index: Tensor) -> Tensor:
        return torch.from_numpy(self.array[index.numpy()])

    def __len__(self) -> int:
        return len(self.array)


def encoded(family: Family, images: Images, folder: Path | None = None) -> Images:
    """Return what is noised in the place of pictures: their latents, or themselves where no network encodes them."""
    if family.encoder is None or isinstance(images, Undrawn):
        return images
    return Latents(family, images, folder)


def _batches(images: Images) -> Iterator[tuple[slice, Tensor]]:
    for i in range(0, len(images), IMAGES_AT_ONCE):
        index = torch.arange(i, min(i + IMAGES_AT_ONCE, len(images)))
        yield slice(i, i + len(index)), images[index]


def _encode(family: Family, images: Images, file: Path) -> None:
    """Write latents beside their name and move them there, so that nobody reads a part of them."""
    handle, name = mkstemp(dir=file.parent, suffix=".unfinished")
    os.close(handle)
    unfinished, array = Path(name), None
    for rows, batch in _batches(images):
        latents = family.encode(batch).float().cpu().numpy()
        if array is None:
            array = open_memmap(unfinished, "w+", latents.dtype, (len(images), *latents.shape[1:]))
        array[rows] = latents
    if array is not None:
        array.flush()
        unfinished.replace(file)


def _fingerprint(family: Family, images: Images) -> str:
    """Return a digest of the encoder and of all pictures in their order."""
    encoder: Any = family.encoder
    config = {key: value for key, value in dict(encoder.config).items() if not key.startswith("_")}
    digest = hashlib.sha256(json.dumps([type(family).__name__, config], default=str, sort_keys=True).encode())
    for name, weight in encoder.state_dict().items():
        digest.update(name.encode())
        digest.update(_bytes(weight))
    for _, batch in _batches(images):
        digest.update(_bytes(batch))
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> Any:
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()


def encoders_of(family: Family) -> list[nn.Module]:
    """Return the networks of the pipeline beside the denoiser: text encoders and VAE."""
    parts = family.pipeline.components.values()
    return [part for part in parts if isinstance(part, nn.Module) and part is not family.denoiser]


@contextmanager
def placed(networks: Sequence[nn.Module], device: torch.device) -> Iterator[None]:
    """Keep networks on a device for a block, then put each back where it was."""
    where = [next((p.device for p in network.parameters()), device) for network in networks]
    try:
        for network in networks:
            network.to(device)
        yield
    finally:
        for network, was in zip(networks, where, strict=True):
            network.to(was)
