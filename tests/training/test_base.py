import dataclasses

import pytest
import torch

from erasediff.data.concept_images import ConceptImages
from erasediff.families import family_of
from erasediff.families.class_conditional import build_pipeline
from erasediff.training.base import ARCHITECTURE, train_base
from erasediff.training.denoising import RECIPE, Recipe, train_denoiser
from stages.params import Pretrain

SMALL = {"block_out_channels": [8], "attention": [False], "norm_num_groups": 4}
SHORT = Recipe(steps=2, batch_size=4, learning_rate=1e-3)


@pytest.mark.unit
def test_a_base_is_a_new_pipeline_of_the_concepts_trained():
    images = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    data = ConceptImages(images, list("abcabc"))
    base = train_base(data, (1, 8, 8), architecture=SMALL, recipe=SHORT, seed=3)
    expected = build_pipeline(["a", "b", "c"], (1, 8, 8), **SMALL, seed=3)
    train_denoiser(family_of(expected), images, data.concepts, SHORT, seed=3)
    assert base.names == ("a", "b", "c")
    for ours, theirs in zip(base.unet.parameters(), expected.unet.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.unit
def test_prompts_are_what_a_base_is_asked_with():
    images = torch.zeros(2, 1, 8, 8)
    data = ConceptImages(images, ["a", "b"], ["a", "c"])
    with pytest.raises(ValueError, match="does not know 'c'; it knows: a, b"):
        train_base(
            data, (1, 8, 8), architecture=SMALL, recipe=dataclasses.replace(SHORT, condition_dropout=0.0), seed=0
        )


@pytest.mark.unit
def test_what_a_base_is_made_of_and_how_it_is_trained_are_params():
    assert set(Pretrain.model_fields) >= ARCHITECTURE | RECIPE and not ARCHITECTURE & RECIPE
