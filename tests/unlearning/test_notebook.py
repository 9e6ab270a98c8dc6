"""What somebody sees who erases in a notebook."""

import inspect
import sys
import warnings
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image

from erasediff.data.concept_images import ConceptImages
from erasediff.errors import DataError, EraseDiffError, ModelError, OutOfMemory, ParamsError
from erasediff.families import family_of
from erasediff.unlearning.erased import Erased
from erasediff.unlearning.erasing import erase
from erasediff.unlearning.settings import DEFAULTS

GIVEN = {"outer_steps": 3, "forget_batch_size": 2, "retain_batch_size": 2}
SMALL = {**GIVEN, "generate": 2}


@pytest.fixture
def result(pipeline):
    return erase(pipeline, "a", **SMALL)


@pytest.mark.unit
def test_a_bar_is_shown_with_the_losses_unless_nobody_looks(pipeline, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    erase(pipeline, "a", **SMALL)
    shown = capsys.readouterr().err
    assert "drawing what to keep" in shown and "erasing: 100%" in shown and "3/3" in shown
    assert "retain=" in shown and "forget=" in shown
    erase(pipeline, "a", **SMALL, progress=False)
    steps = []
    erase(pipeline, "a", **SMALL, on_step=lambda step, row: steps.append(step))
    assert capsys.readouterr().err == "" and steps == [1, 2, 3]


@pytest.mark.unit
def test_in_a_file_each_phase_is_a_line(pipeline, capsys):
    """Every redrawing of a bar would be a line there."""
    erase(pipeline, "a", **SMALL)
    said = capsys.readouterr().err
    assert "\r" not in said and [line.partition(":")[0] for line in said.splitlines()] == [
        *["drawing what to keep"] * 2,
        "encoding pictures and prompts",
        *["erasing"] * 2,
        "comparing predictions before and after",
    ]
    assert "drawing what to keep: 0 % (0 of 4 pictures)" in said and "erasing: 100 % (3 of 3 updates)" in said


@pytest.mark.unit
def test_a_result_is_one_line(result):
    assert repr(result).startswith("Erased('a', erasediff, 3 updates, retain ")
    assert ", forget " in repr(result) and len(repr(result)) < 100


@pytest.mark.unit
def test_a_losses_text_is_the_mean_of_the_last_ten(result):
    rows = [{"retain_loss": 100.0}, *({"retain_loss": float(n)} for n in range(10))]
    told = repr(Erased(result.pipeline, rows, record=result.record, base=result.base, forgotten=("a",), kept=()))
    assert told.startswith("Erased('a', erasediff, 3 updates, retain 4.5, concept moved 0.")


@pytest.mark.unit
def test_a_result_shows_the_same_seeds_before_and_after(result, pipeline):
    shown = np.array(result.show(2, steps=2))
    for changed in ({"seed": 5}, {"concepts": ["b"]}):
        assert not np.array_equal(shown, np.array(result.show(2, steps=2, **changed)))
    unchanged = Erased(pipeline, record=result.record, base=pipeline, forgotten=("a",), kept=("b",))
    halves = np.array(unchanged.show(2, concepts=["b"], steps=2))[34:]
    pictures = [column for column in range(halves.shape[1]) if (halves[:, column] != 255).any()][20:]
    tile = 8 * (64 // 8)
    before, after = halves[:64, -4 * 68 - 14 :][:, : 2 * 68], halves[:64, -2 * 68 :]
    assert pictures and tile == 64 and np.array_equal(before, after)


@pytest.mark.unit
def test_a_notebook_shows_pictures_where_they_are_quickly_drawn(result):
    for row in result.history:
        row["images_per_second"] = 1e6
    assert '<img alt="the same seeds before and after" src="data:image/png;base64,' in result._repr_html_()
    for row in result.history:
        row["images_per_second"] = 1.0
    assert "<code>result.show()</code>" in result._repr_html_() and "<img" not in result._repr_html_()
    result.history.clear()
    assert "<code>result.show()</code>" in result._repr_html_()


@pytest.mark.unit
def test_a_concepts_name_is_no_markup(result):
    named = Erased(result.pipeline, record=result.record, base=result.base, forgotten=("<b>",), kept=())
    assert "&lt;b&gt;" in named._repr_html_() and "<b>," not in named._repr_html_()


@pytest.mark.unit
def test_a_plot_has_losses_on_a_log_axis_and_no_memory(result):
    matplotlib.use("Agg")
    for row in result.history:
        row["retain_loss"] += 0.01  # the first is exactly 0: the student still is its teacher
    losses, others = result.plot()
    assert losses.get_yscale() == "log" and losses.get_xlabel() == others.get_xlabel() == "update"
    drawn = [line.get_label() for line in (*losses.lines, *others.lines) if not line.get_label().startswith("_")]
    assert drawn == ["retain loss", "forget loss", "multiplier", "gradient cosine"]


@pytest.mark.unit
def test_a_plot_without_matplotlib_is_one_line(result, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(EraseDiffError, match="plot.. needs matplotlib: pip install matplotlib"):
        result.plot()


@pytest.mark.unit
def test_every_setting_is_listed_once():
    listed = inspect.signature(erase).parameters
    assert set(DEFAULTS) < set(listed) and not any(p.kind is p.VAR_KEYWORD for p in listed.values())
    assert all(listed[name].default == value for name, value in DEFAULTS.items())


@pytest.mark.unit
@pytest.mark.parametrize(
    ("misspelt", "meant"),
    [
        ("outer_step", "outer_steps"),
        ("steps", "outer_steps"),
        ("num_inference_steps", "inference_steps"),
        ("preserv", "preserve"),
        ("learning_rat", "learning_rate"),
    ],
)
def test_a_misspelt_keyword_is_told_with_the_one_that_was_meant(pipeline, misspelt, meant):
    with pytest.raises(ParamsError, match=rf"erase\(\) has no '{misspelt}'; did you mean {meant}\?"):
        erase(pipeline, "a", **{misspelt: 5})


@pytest.mark.unit
def test_a_misspelt_method_is_told_with_the_one_that_was_meant(pipeline):
    with pytest.raises(ParamsError, match="unknown method 'sallun'; there are: .*; did you mean salun?"):
        erase(pipeline, "a", method="sallun")


@pytest.mark.unit
@pytest.mark.parametrize(
    ("concept", "how", "told"),
    [
        ("", {}, "concept '' is empty"),
        (["a", " "], {}, "concept ' ' is empty"),
        ([], {}, "concept is empty: name at least one"),
        (3, {}, "concept 3 is no text: give '3'"),
        ("a", {"preserve": ["a", "b"]}, "'a' is to be forgotten and to be kept"),
        ("a", {"preserve": []}, "preserve is empty"),
        ("a", {"retain": {"a": torch.zeros(1, 1, 8, 8)}}, "'a' is to be forgotten and to be kept"),
        ("a", {"retain": {}}, "nothing to keep"),
        ("a", {"retain": {"b": torch.zeros(1, 1, 8, 8)}, "preserve": ["c"]}, "retain and preserve both say"),
        ("a", {"anchor": "a"}, "anchor 'a' is to be forgotten itself"),
        ("a", {"anchor": "z"}, "the model does not know 'z'"),
        ("a", {"anchor": ""}, "anchor '' names nothing: give one concept, or leave it out"),
        ("a", {"anchor": " "}, "anchor ' ' names nothing"),
        ("a", {"anchor": ["b"]}, r"anchor \['b'\] names nothing"),
        ("a", {"forget_target": "anchor", "anchor": ""}, "anchor '' names nothing"),
        ("a", {"before": 3}, "before 3 is no text: give '3'"),
        ("a", {"before": ["b", ""]}, "before '' is empty"),
        ("a", {"preserve": "z"}, "the model does not know 'z'"),
        ("a", {"generate": 0}, "generate 0: give a whole number at least 1"),
        ("a", {"forget_target": "anchor"}, "anchor names the concept of forget_target anchor"),
    ],
)
def test_a_request_that_cannot_be_is_one_line_before_anything_is_drawn(pipeline, monkeypatch, concept, how, told):
    monkeypatch.setattr(type(family_of(pipeline)), "sample", None)
    with pytest.raises(EraseDiffError, match=told):
        erase(pipeline, concept, **{**SMALL, **how})


@pytest.mark.unit
@pytest.mark.parametrize(
    ("concept", "forget", "told"),
    [
        (["a", "b"], torch.zeros(2, 1, 8, 8), "images for 2 concepts: give them as a mapping"),
        ("a", {"b": torch.zeros(2, 1, 8, 8)}, "forget has images of 'b', which is not"),
        (["a", "b"], {"a": torch.zeros(2, 1, 8, 8)}, "forget has no images of 'b'"),
        ("a", torch.full((2, 1, 8, 8), 255.0), "forget images of 'a' run from 255 to 255"),
        ("a", ConceptImages(torch.full((2, 1, 8, 8), 255.0), ["a"] * 2), "forget images run from 255 to 255: give"),
        ("a", ConceptImages(torch.zeros(2, 1, 8, 8).byte(), ["a"] * 2), "forget images are of torch.uint8: give uint8"),
        ("a", ConceptImages(torch.zeros(2, 1, 9, 9), ["a"] * 2), r"forget images have shape \(1, 9, 9\), the model"),
        ("a", ConceptImages(torch.zeros(2, 1, 8, 8), ["b"] * 2), "forget has images of 'b', which is not"),
        ("a", ConceptImages(torch.zeros(2, 1, 8, 8), ["a"] * 2, ["", "a"]), "forget has 1 empty prompts: say what"),
    ],
)
def test_pictures_that_do_not_fit_are_one_line(pipeline, concept, forget, told):
    with pytest.raises(DataError, match=told):
        erase(pipeline, concept, forget=forget, **SMALL)


@pytest.mark.unit
def test_pictures_to_keep_that_are_taken_as_they_are_have_to_fit(pipeline):
    for images, told in ((torch.full((2, 1, 8, 8), 255.0), "run from 255 to 255"), (torch.zeros(2, 3, 8, 8), "shape")):
        with pytest.raises(DataError, match=f"^retain images .*{told}"):
            erase(pipeline, "a", retain=ConceptImages(images, ["b"] * 2), **SMALL)


@pytest.mark.unit
@pytest.mark.parametrize("given", [("ab",), (["a", "b"], "ab")])
def test_one_text_for_several_pictures_is_not_taken_for_its_letters(given):
    with pytest.raises(ValueError, match="is one text: give a list, with one an image"):
        ConceptImages(torch.zeros(2, 1, 8, 8), *given)


@pytest.mark.unit
def test_text_where_a_list_is_meant_is_one_concept(pipeline):
    assert erase(pipeline, "a", preserve="b", **SMALL).kept == ("b",)


@pytest.mark.unit
def test_a_concept_named_twice_is_forgotten_once(pipeline):
    assert erase(pipeline, ["a", "a"], **SMALL).forgotten == ("a",)


@pytest.mark.unit
def test_pictures_of_pillow_and_uint8_are_those_of_tensors(pipeline):
    pixels = torch.randint(0, 256, (3, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    floats = pixels.float() / 127.5 - 1
    pictures = [Image.fromarray(p[0].numpy()) for p in pixels]
    forms = [(floats, {"b": floats}), (pixels, {"b": pixels}), (pictures, {"b": pictures})]
    made = [erase(pipeline, "a", forget=f, retain=r, **GIVEN).pipeline.unet.state_dict() for f, r in forms]
    for other in made[1:]:
        assert all(torch.equal(value, other[name]) for name, value in made[0].items())


@pytest.mark.unit
def test_other_pictures_of_a_forgotten_concept_may_be_kept(pipeline):
    images = torch.zeros(2, 1, 8, 8)
    kept = ConceptImages(torch.cat([images, images]), ["a", "a", "b", "b"])
    assert erase(pipeline, "a", forget=images, retain=kept, **GIVEN).kept == ("a", "b")


@pytest.mark.unit
@pytest.mark.parametrize("given", ["runwayml/stable-diffusion-v1-5", None, Path("models"), 3])
def test_what_is_no_pipeline_is_told(given):
    with pytest.raises(ModelError, match="no diffusers pipeline: give what erasediff.load"):
        erase(given, "a")


@pytest.mark.unit
@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()])
def test_too_little_memory_is_told_with_what_to_lower(pipeline, monkeypatch, error):
    def fail(*arguments, **named):
        raise error

    monkeypatch.setattr(type(pipeline.unet), "forward", fail)
    with pytest.raises(OutOfMemory, match="erase ran out of memory .*: lower forget_batch_size and retain_batch_size"):
        erase(pipeline, "a", generate=2, progress=False)


@pytest.mark.unit
def test_an_error_of_another_kind_stays_what_it_is(pipeline, monkeypatch):
    def fail(*arguments, **named):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(type(pipeline.unet), "forward", fail)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        erase(pipeline, "a", generate=2, progress=False)


@pytest.mark.unit
def test_pictures_to_forget_that_are_not_looked_at_are_told(pipeline):
    images = torch.rand(2, *family_of(pipeline).image_shape) * 2 - 1
    how = {"retain": {"b": images}, "outer_steps": 1, "forget_batch_size": 2, "retain_batch_size": 2}
    with pytest.warns(UserWarning, match="forget are not looked at, .*forget_source='forget'"):
        erase(pipeline, "a", forget=images, **how)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        erase(pipeline, "a", forget=images, forget_source="forget", **how)
    assert not [w for w in told if "looked at" in str(w.message)]
