"""How far predictions moved, the warning where they hardly did, and the anchor that lies nearest."""

import copy
import math
import re
import warnings

import pytest
import torch
from accelerate import Accelerator

import erasediff
from erasediff.data.concept_images import ConceptImages, Undrawn
from erasediff.errors import ParamsError
from erasediff.families import family_of
from erasediff.records import EffectiveSettings
from erasediff.unlearning import method_for
from erasediff.unlearning.anchor import nearest_anchor, nearest_anchors
from erasediff.unlearning.change import HARDLY, Change, change_of, doubt

FEW = {"preserve": ["circle", "square"], "generate": 2, "progress": False}
SMALL = {"forget_batch_size": 8, "retain_batch_size": 8}


@pytest.fixture(scope="module")
def shapes():
    return erasediff.open_example("shapes").pipeline


def of(names):
    return ConceptImages(Undrawn(len(names)), names)


def change(family, denoiser, settings=None):
    chosen = settings or method_for("erasediff", **SMALL).settings
    return change_of(
        family, denoiser, of(["star"]), of(["circle", "square"]), chosen, seed=0, accelerator=Accelerator()
    )


@pytest.mark.unit
def test_one_update_is_told_to_have_forgotten_nothing_and_the_record_has_the_number(shapes):
    with pytest.warns(UserWarning, match=r"star is hardly forgotten: the predictions went 0\.[0-2]") as told:
        result = erasediff.erase(shapes, "star", outer_steps=1, learning_rate=1e-4, **FEW, **SMALL)
    assert __file__ in {warning.filename for warning in told}  # where it was called
    assert 0 < result.record.concept_change < HARDLY and result.record.kept_change > 0
    assert f"concept moved {result.record.concept_change:.2f}" in repr(result)
    assert EffectiveSettings.from_json(result.record.to_json(), "it") == result.record


@pytest.mark.unit
def test_a_closed_form_that_forgets_moves_the_concept_and_little_else(shapes):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = erasediff.erase(shapes, "star", method="uce", **FEW)
    assert result.record.concept_change > 0.6 and result.record.kept_change < 0.1


@pytest.mark.unit
def test_nothing_moved_is_0_and_another_concepts_prediction_is_1(shapes):
    family = family_of(shapes)
    assert change(family, copy.deepcopy(family.denoiser)) == (0.0, 0.0)

    settings = method_for("erasediff", forget_target="anchor", anchor="circle", **SMALL).settings
    erased = copy.deepcopy(family.denoiser)
    circle = family.condition(["circle"])["encoder_hidden_states"]
    star = family.condition(["star"])["encoder_hidden_states"]

    def answer(module, args, kwargs):
        text = kwargs["encoder_hidden_states"]
        is_star = (text - star).abs().amax((1, 2), keepdim=True) < 1e-4
        return args, {**kwargs, "encoder_hidden_states": torch.where(is_star, circle, text)}

    erased.register_forward_pre_hook(answer, with_kwargs=True)
    found = change(family, erased, settings)
    assert found.concept == pytest.approx(1.0, abs=1e-4) and found.kept == 0.0


@pytest.mark.unit
def test_a_model_that_cannot_be_asked_is_not_measured_and_nothing_is_told():
    assert doubt(None, ["x"]) == "" and doubt(Change(HARDLY, HARDLY), ["x"]) == ""
    assert doubt(Change(0.6, 1.3), ["x"]).startswith("what is to be kept changed more than x: by 1.30 and 0.60 of")
    assert doubt(Change(0.0, 0.0), ["x", "y"]).startswith("x, y are hardly forgotten: the predictions went 0.00")
    for change in (Change(0.0, 0.0), Change(0.6, 1.3)):  # of a method without updates, none can be added
        assert "outer_steps" in doubt(change, ["x"]) and "outer_steps" not in doubt(change, ["x"], trained=False)


@pytest.mark.unit
def test_the_nearest_anchor_is_the_candidate_with_the_nearest_predictions(shapes):
    family = family_of(shapes)
    forget, retain = of(["star"]), of(["circle", "house", "moon", ""])
    how = {"batch": 8, "seed": 0, "accelerator": Accelerator()}
    found = nearest_anchor(family, forget, retain, **how)
    ways = {}
    for name in ("circle", "house", "moon"):
        noisy = torch.randn(16, *family.latent_shape, generator=torch.Generator().manual_seed(1))
        moments = torch.linspace(100, 900, 16).long()
        with torch.no_grad():
            said = [family.predict(family.denoiser, noisy, moments, family.condition([p] * 16)) for p in ("star", name)]
        ways[name] = float((said[0] - said[1]).square().mean())
    assert found == min(ways, key=ways.get) and math.isfinite(sum(ways.values()))
    assert nearest_anchor(family, forget, of(["house", "star"]), **how) == "star"  # itself is nearer than any


@pytest.mark.unit
def test_no_anchor_is_another_name_of_the_concept_or_a_word_that_the_model_does_not_know(shapes):
    how = {"batch": 8, "seed": 0, "accelerator": Accelerator(), "concept": "square"}
    known = ["circle", "house", "fire hydrant", "mailbox", "rake"]
    found = nearest_anchor(family_of(shapes), of(["square"]), of(known), **how)
    assert found in ("circle", "house")
    assert nearest_anchor(family_of(shapes), of(["square"]), of(["mailbox"]), **how) == "mailbox"  # there is no other


@pytest.mark.unit
def test_the_record_names_the_anchor_that_was_chosen(shapes):
    result = erasediff.erase(shapes, "star", method="uce", anchor="nearest", **FEW)
    assert result.settings["anchor"] in ("circle", "square") and result.record.concept_change > 0.6


@pytest.mark.unit
def test_an_object_and_a_style_that_go_together_each_get_an_anchor_of_their_kind(shapes):
    family = family_of(shapes)
    forget, retain = of(["star", "dotted"]), of(["circle", "hatched", "house", "neon"])
    found = nearest_anchors(family, forget, retain, batch=8, seed=0, accelerator=Accelerator())
    assert found["star"] in ("circle", "house") and found["dotted"] in ("hatched", "neon")
    alone = nearest_anchors(family, of(["star"]), retain, batch=8, seed=0, accelerator=Accelerator())
    assert alone == found["star"]


@pytest.mark.unit
def test_each_concept_may_be_given_its_anchor(shapes):
    asked = {"method": "uce", "preserve": ["circle", "square", "hatched"], "progress": False}
    anchors = {"star": "circle", "dotted": "hatched"}
    result = erasediff.erase(shapes, ["star", "dotted"], anchor=anchors, **asked)
    assert result.settings["anchor"] == "star: circle, dotted: hatched"
    for anchor, told in [
        ({"star": "circle"}, "anchor names ['star']: give one for each of star, dotted"),
        (3, "anchor 3 names nothing"),
        ({"star": "dotted", "dotted": "hatched"}, "anchor 'dotted' is to be forgotten itself"),
    ]:
        with pytest.raises(ParamsError, match=re.escape(told)):
            erasediff.erase(shapes, ["star", "dotted"], anchor=anchor, **asked)
