import pytest

from erasediff.errors import OutOfSeeds
from erasediff.randomness import (
    ATTACK_BLOCKS,
    BLOCKS_A_SEED,
    ERASE_BLOCKS,
    EVALUATION_BLOCKS,
    FORGET_SET_BLOCKS,
    JUDGE_BLOCKS,
    SEEDS_A_BLOCK,
    image_seeds,
)

USES = (EVALUATION_BLOCKS, FORGET_SET_BLOCKS, ERASE_BLOCKS, JUDGE_BLOCKS, ATTACK_BLOCKS)


@pytest.mark.unit
@pytest.mark.parametrize(("seed", "draw"), [(0, 0), (0, 2), (7, 0), (2**31 - 1, 99)])
def test_evaluation_draws_what_it_always_drew(seed, draw):
    assert image_seeds(seed, draw, 3) == [seed * 10**9 + draw * 10**6 + i for i in range(3)]


@pytest.mark.unit
def test_no_two_uses_blocks_or_seeds_share_a_seed_of_a_picture():
    named = [block for blocks in USES for block in blocks]
    assert len(set(named)) == len(named) and max(named) < BLOCKS_A_SEED
    ends = [
        part
        for seed in (0, 1)
        for blocks in USES
        for block in (0, len(blocks) - 1)
        for part in (lambda all_: (all_[0], all_[-1]))(image_seeds(seed, block, SEEDS_A_BLOCK, blocks))
    ]
    assert ends == sorted(ends) and len(set(ends)) == len(ends)


@pytest.mark.unit
def test_running_out_of_seeds_is_told():
    with pytest.raises(OutOfSeeds, match="block 100 of image seeds, where there are 100"):
        image_seeds(0, 100, 1)
    with pytest.raises(OutOfSeeds, match="1000001 pictures from one block of 1000000"):
        image_seeds(0, 0, SEEDS_A_BLOCK + 1)
    assert issubclass(OutOfSeeds, ValueError)
