"""The drawn world: pictures with their truth, and the words for them."""

import time

import numpy as np
import pytest
import torch

import erasediff
from erasediff.errors import ModelError, UnknownConcept
from erasediff.examples import captions as words
from erasediff.examples.measuring import requests
from erasediff.examples.shapes import World
from erasediff.examples.shapes_judge import DOMAINS, NOTHING, draw_nothing, train_judge
from erasediff.examples.world import COLOURS, OBJECTS, SIDE, STYLES, draw_world


@pytest.mark.unit
def test_a_seed_draws_the_same_pictures_and_another_seed_others():
    one, again, other = draw_world(20, 3), draw_world(20, 3), draw_world(20, 4)
    assert np.array_equal(one.pixels, again.pixels) and np.array_equal(one.styles, again.styles)
    assert not np.array_equal(one.pixels, other.pixels)
    assert one.pixels.shape == (20, SIDE, SIDE, 3) and one.pixels.dtype == np.uint8
    assert one.images.shape == (20, 3, SIDE, SIDE) and one.images.min() >= -1 and one.images.max() <= 1


@pytest.mark.unit
def test_only_what_was_asked_for_is_drawn_and_everything_is_drawn_by_default():
    some = World().draw(30, objects=["star", "moon"], styles=["neon"], colours=["red"])
    assert {OBJECTS[i] for i in some.objects} == {"star", "moon"}
    assert {STYLES[i] for i in some.styles} == {"neon"} and {COLOURS[i] for i in some.colours} == {"red"}
    everything = draw_world(2000, 0)
    assert len({*zip(everything.objects, everything.styles, everything.colours, strict=True)}) == 8 * 6 * 5


@pytest.mark.unit
def test_a_thousand_pictures_take_less_than_two_seconds():
    began = time.process_time()
    draw_world(1000, 0)
    assert time.process_time() - began < 2


@pytest.mark.unit
def test_no_two_pictures_of_a_concept_are_the_same():
    stars = draw_world(200, 0, objects=["star"], styles=["flat"], colours=["blue"]).pixels
    assert len({picture.tobytes() for picture in stars}) == 200


@pytest.mark.unit
def test_a_picture_keeps_its_ink_inside_its_edges():
    """Else an object could be told by what is cut off."""
    drawn = draw_world(500, 1, styles=["flat", "hatched", "dotted"])
    edge = np.concatenate([drawn.pixels[:, 0], drawn.pixels[:, -1], drawn.pixels[:, :, 0], drawn.pixels[:, :, -1]], 1)
    assert (edge.min((1, 2)) < 128).mean() < 0.05


@pytest.mark.unit
def test_wordings_for_tests_are_no_training_captions():
    drawn = draw_world(4000, 5)
    trained = set(words.captions(drawn, np.random.default_rng(0)))
    tested = {prompt for prompt, _ in requests(words.TEST_WORDINGS)}
    assert len(tested) >= 5 * len(OBJECTS) * len(STYLES) and not trained & tested
    assert {"star", "hatched"} <= trained


@pytest.mark.unit
def test_a_caption_names_the_truth_of_its_picture():
    drawn = draw_world(200, 6)
    said = words.spoken(drawn, np.random.default_rng(0))
    for (text, wording), index in zip(said, drawn.objects, strict=True):
        names = (OBJECTS[index], *words.SYNONYMS[OBJECTS[index]])
        parts = [part for name in names for part in name.split()]
        assert ("{object}" in wording) <= any(part in text for part in parts)


@pytest.mark.unit
def test_requests_name_every_value_once_by_default():
    asked = requests(["a {object} in {style} style"])
    assert len(asked) == 48 and asked[0] == ("a circle in flat style", {"object": "circle", "style": "flat"})
    assert len(requests(["{object}"], 3)) == 24


@pytest.mark.unit
def test_an_example_that_is_not_there_is_refused_by_name(monkeypatch, tmp_path):
    with pytest.raises(ValueError, match="no example 'cats'; there are: digits, shapes"):
        erasediff.open_example("cats")
    monkeypatch.chdir(tmp_path)
    digits = erasediff.open_example("digits")
    assert len(digits.images) == 1797 and digits.images.concepts[0] == "0"
    with pytest.raises(ModelError, match="make demo"):
        _ = digits.pipeline


@pytest.mark.unit
def test_a_judge_learns_the_world_and_knows_nothing_when_it_sees_it():
    judge = train_judge(steps=150, batch_size=32)
    drawn, empty = draw_world(200, 10**8), draw_nothing(100, 5)
    assert min(judge.accuracy(drawn).values()) > 0.6
    assert judge.object.names(empty).count(NOTHING) > 60
    scores, features = judge.style.read(drawn.images)
    assert scores.shape == (200, len(STYLES) + 1) and features.shape == (200, 64)
    torch.testing.assert_close(scores.sum(1), torch.ones(200))
    assert set(judge.domains) == set(DOMAINS)
    with pytest.raises(UnknownConcept, match="no 'cat'"):
        judge.recognises("cat", drawn.images)
    with pytest.raises(UnknownConcept, match="does not know 'star'"):
        judge.style.recognises("star", drawn.images)
