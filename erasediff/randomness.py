"""Randomness as a function of (seed, stream, step), so that a training can stop and go on anywhere.

No generator outlives a step: nothing about it has to be saved, and a resumed run draws what an uninterrupted one does.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

import torch
from torch import Tensor


def generator(seed: int, stream: str, step: int = 0) -> torch.Generator:
    """A CPU generator for one stream of draws at one step."""
    digest = hashlib.sha256(f"{seed}/{stream}/{step}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


@lru_cache(maxsize=8)
def _permutation(n: int, seed: int, stream: str, epoch: int) -> Tensor:
    return torch.randperm(n, generator=generator(seed, stream, epoch))


def batch_indices(n: int, batch_size: int, *, seed: int, stream: str, step: int) -> Tensor:
    """Indices ``(batch_size,)`` of the ``step``-th batch of an endless shuffled pass over ``n`` samples.

    Each epoch is a new permutation of all samples and batches run over the ends of epochs, so the whole set is
    seen equally often whatever the batch size, also where ``n < batch_size``.
    """
    positions = range(step * batch_size, (step + 1) * batch_size)
    return torch.stack([_permutation(n, seed, stream, p // n)[p % n] for p in positions])
