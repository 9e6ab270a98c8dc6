"""Randomness as a function of (seed, stream, step), so that a training can stop and go on anywhere.

No generator outlives a step: nothing about it has to be saved, and a resumed run draws what an uninterrupted one does.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

import torch
from torch import Tensor

from erasediff.errors import OutOfSeeds

#: Seeds of pictures stand in blocks of a million, a thousand blocks to each seed of a run. Every use has blocks of its
#: own, so that no two of them draw from the same noise: evaluation a block a draw, the forget set a block a concept,
#: ``erase`` one for the pictures to forget and one for those to keep, a judge one to learn from
#: and one for its test, attacks two.
EVALUATION_BLOCKS, FORGET_SET_BLOCKS, ERASE_BLOCKS = range(100), range(100, 900), range(900, 902)
JUDGE_BLOCKS, ATTACK_BLOCKS = range(902, 904), range(904, 906)
SEEDS_A_BLOCK, BLOCKS_A_SEED = 10**6, 1000


def generator(seed: int, stream: str, step: int = 0) -> torch.Generator:
    """A CPU generator for one stream of draws at one step."""
    digest = hashlib.sha256(f"{seed}/{stream}/{step}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def image_seeds(seed: int, block: int, n: int, blocks: range = EVALUATION_BLOCKS) -> list[int]:
    """Seeds of ``n`` pictures, no two of which are equal for different ``(seed, block, blocks)``.

    Args:
        seed: of the whole run.
        block: counted from the first of ``blocks``.
        blocks: those of one use, such as :data:`EVALUATION_BLOCKS`.

    Raises: OutOfSeeds: there is no such block, or it holds fewer than ``n`` seeds.
    """
    if not 0 <= block < len(blocks):
        raise OutOfSeeds(f"block {block} of image seeds, where there are {len(blocks)}: draw fewer sets of pictures")
    if n > SEEDS_A_BLOCK:
        raise OutOfSeeds(f"{n} pictures from one block of {SEEDS_A_BLOCK} image seeds: draw fewer pictures at once")
    first = (seed * BLOCKS_A_SEED + blocks[block]) * SEEDS_A_BLOCK
    return list(range(first, first + n))


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
