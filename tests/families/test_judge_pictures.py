"""Pictures that the base draws for a judge."""

import pytest
import torch
from tiny_stable_diffusion import tiny_stable_diffusion

from erasediff.data.images import decode, encode_png
from erasediff.families import family_of
from erasediff.families.judge_pictures import judge_pictures
from erasediff.randomness import JUDGE_BLOCKS, image_seeds

pytestmark = pytest.mark.unit


def test_each_split_has_seeds_of_its_own_and_every_prompt_has_its_turn():
    family, done = family_of(tiny_stable_diffusion()), []
    prompts = {"circle": ["a circle", "one circle"], "star": ["a star"]}
    how = {"seed": 3, "steps": 2, "guidance_scale": 1.0, "on_progress": lambda *numbers: done.append(numbers)}
    table = judge_pictures(family, prompts, train=3, test=2, **how)
    assert done[-1] == (10, 10)
    train, test = table[table["split"] == "train"], table[table["split"] == "test"]
    assert train["concept"].tolist() == ["circle"] * 3 + ["star"] * 3
    assert train["prompt"].tolist() == ["a circle", "one circle", "a circle"] + ["a star"] * 3
    assert test["prompt"].tolist() == ["a circle", "one circle", "a star", "a star"]
    seeds = image_seeds(3, 1, 4, JUDGE_BLOCKS)
    drawn = family.sample(["a star"], seeds[2:3], steps=2, guidance_scale=1.0)
    kept = decode(test["image"].tolist()[2:3], family.image_shape)
    assert torch.allclose(kept, decode([encode_png(drawn[0])], family.image_shape), atol=2 / 127)
    assert set(train["sample_id"]).isdisjoint(test["sample_id"])
