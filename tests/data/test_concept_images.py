import pytest
import torch

from erasediff.data.concept_images import ConceptImages


@pytest.mark.unit
def test_a_prompt_is_the_concept_unless_one_is_given():
    assert ConceptImages(torch.zeros(2, 1, 8, 8), ["a", "b"]).prompts == ["a", "b"]
    told = ConceptImages(torch.zeros(2, 1, 8, 8), ["a", "b"], ["a photo of a", ""])
    assert told.prompts == ["a photo of a", ""] and told.concepts == ["a", "b"]


@pytest.mark.unit
@pytest.mark.parametrize(("concepts", "prompts"), [(["a"], []), (["a", "b"], ["x"])])
def test_one_of_each_a_sample(concepts, prompts):
    with pytest.raises(ValueError, match=r"2 images, \d concepts and \d prompts: give one of each a sample"):
        ConceptImages(torch.zeros(2, 1, 8, 8), concepts, prompts)
