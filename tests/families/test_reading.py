"""What a text encoder reads of a prompt, and prompts that are the same to it."""

import warnings

import pytest
from tiny_pipelines import PIPELINES, flux
from tiny_stable_diffusion import tiny_stable_diffusion

import erasediff
from erasediff.data.concept_images import ConceptImages
from erasediff.errors import ParamsError
from erasediff.examples import open_example
from erasediff.families import family_of
from erasediff.families.reading import is_cut, is_spelled, read_by, require_told_apart
from erasediff.unlearning.words import neighbours

LONG = "a red star " * 300
GIVEN = {"outer_steps": 1, "forget_batch_size": 2, "retain_batch_size": 2, "progress": False}
SMALL = {**GIVEN, "generate": 2}


def tensors(batched):
    for value in batched.values():
        yield from tensors(value) if isinstance(value, dict) else [value]


@pytest.fixture(scope="module")
def pipeline():
    return tiny_stable_diffusion()


@pytest.mark.unit
@pytest.mark.parametrize("name", sorted(set(PIPELINES) - {"dit"}))
def test_every_family_s_prompt_is_cut_where_its_pipeline_cuts_it(name):
    """Two prompts are read alike if, and only if, the pipeline's own encoding of them is the same."""
    pipeline = PIPELINES[name]()
    family = family_of(pipeline)
    assert is_cut(pipeline, LONG) and not is_cut(pipeline, "a red star")
    assert read_by(pipeline, f"{LONG} circle") == read_by(pipeline, f"{LONG} square")
    assert read_by(pipeline, "a red star") != read_by(pipeline, "a red circle")
    for one, other in [(f"{LONG} circle", f"{LONG} square"), ("a red star", "a red circle")]:
        apart = any(bool((tensor[0] != tensor[1]).any()) for tensor in tensors(family.condition([one, other]).batched))
        assert apart == (read_by(pipeline, one) != read_by(pipeline, other))


@pytest.mark.unit
def test_one_of_two_encoders_is_enough_to_read_a_prompt():
    pipeline = flux()
    prompt = "a red star " * 7
    lengths = [len(read) for read in read_by(pipeline, LONG)]
    assert lengths[0] < len(pipeline.tokenizer_2(prompt).input_ids) < lengths[1] and not is_cut(pipeline, prompt)


@pytest.mark.unit
@pytest.mark.parametrize(
    "asked, match",
    [
        ({"concept": LONG}, "is too long: its text encoder reads 16 tokens: shorten it"),
        ({"concept": "star", "preserve": ["circle", LONG]}, "is too long"),
        ({"concept": "star", "anchor": LONG, "preserve": "circle"}, "is too long"),
        (
            {"concept": "star", "preserve": ["circle", "Star"]},
            "'star' is to be forgotten and 'Star' to be kept",
        ),
        ({"concept": "star", "preserve": ["star "]}, "'star' is to be forgotten and 'star ' to be kept"),
        (
            {"concept": "star", "anchor": "STAR", "preserve": "circle"},
            "'star' is .* and 'STAR' to be kept",
        ),
    ],
)
def test_names_that_the_model_cannot_tell_apart_are_refused_before_anything_is_drawn(
    pipeline, asked, match, monkeypatch
):
    monkeypatch.setattr("erasediff.families.text_to_image.TextToImage.sample", None)
    with pytest.raises(ParamsError, match=match) as told:
        erasediff.erase(pipeline, **asked, **SMALL)
    assert len(str(told.value)) < 300 and "\n" not in str(told.value)


@pytest.mark.unit
def test_prompts_of_pictures_that_differ_only_beyond_the_encoder_s_length_are_refused(pipeline):
    family = family_of(pipeline)
    images = family.sample(["star", "circle"], [1, 2], steps=1)
    forget = ConceptImages(images[:1], ["star"], [f"{LONG} star"])
    retain = ConceptImages(images[1:], ["circle"], [f"{LONG} circle"])
    with pytest.raises(ParamsError, match="cannot tell them apart: its text encoder reads 16 tokens"):
        erasediff.erase(pipeline, "star", forget=forget, retain=retain, **GIVEN)
    retain = ConceptImages(images[1:], ["circle"], ["a red circle"])
    with pytest.warns(UserWarning, match="1 prompts are too long, such as 'a red star .*what is beyond has no effect"):
        erasediff.erase(pipeline, "star", forget=forget, retain=retain, **GIVEN)
    forget = ConceptImages(images[:1], ["star"], ["a red star"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        require_told_apart(pipeline, forget.prompts, retain.prompts)


@pytest.mark.unit
def test_a_prompt_to_draw_is_read_to_its_end(pipeline):
    with pytest.raises(ParamsError, match="is too long"):
        erasediff.draw(pipeline, LONG, 1, steps=1)


@pytest.mark.unit
def test_a_word_that_is_read_like_the_concept_is_no_neighbour_of_it(pipeline):
    assert read_by(pipeline, "Star") == read_by(pipeline, "star\u2003")
    found = neighbours(family_of(pipeline), ["a star"], ["a  star", "a circle", "a square"])
    assert sorted(found) == ["a circle", "a square"]


@pytest.mark.unit
def test_a_word_that_a_tokenizer_has_is_not_spelled():
    pipeline = open_example("shapes").pipeline
    assert not any(is_spelled(pipeline, name) for name in ("star", "star and circle", "hatched"))
    assert all(is_spelled(pipeline, name) for name in ("crayon", "star and sqaure"))
    pipeline.tokenizer.add_tokens(["crayon"])
    assert not is_spelled(pipeline, "crayon")
    assert not is_spelled(PIPELINES["dit"](), "crayon")
