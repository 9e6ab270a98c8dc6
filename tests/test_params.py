import copy
import itertools
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
from ruamel.yaml import YAML

from erasediff.data.names import concept_name
from erasediff.errors import ParamsError
from erasediff.ranges import RANGES
from stages.params import Classifier, Erase, Params, Pretrain, load_params

FILE = Path(__file__).parent.parent / "params.yaml"
COMPARISONS = sorted((FILE.parent / "comparisons").glob("*.yaml"))


def changed(tmp_path, *changes):
    raw = YAML(typ="safe").load(FILE)
    for key, value in changes:
        section, _, name = key.partition(".")
        if name:
            raw[section][name] = value
        else:
            raw[section] = value
    path = tmp_path / "params.yaml"
    YAML().dump(raw, path)
    return path


@pytest.mark.unit
def test_the_file_of_the_repository_is_valid():
    assert load_params(FILE).erase.method == "erasediff"


@pytest.mark.unit
@pytest.mark.parametrize("name", ["می\u200cخواهم", "👩\u200d🚒", "a\u00a0b", "\ue000"])
def test_every_name_that_a_folder_may_have_can_be_forgotten(tmp_path, name):
    """Letters and emoji are joined by characters that are not printable."""
    assert concept_name(name, "here") == name
    assert load_params(changed(tmp_path, ("forget_set.concepts", [name]))).forget_set.concepts == [name]


@pytest.mark.unit
def test_all_errors_in_one_message(tmp_path):
    path = changed(tmp_path, ("erase.etta", 1), ("erase.eta", -1), ("curate.source", "digit"), ("seed", "x"))
    with pytest.raises(ParamsError) as error:
        load_params(path)
    text = str(error.value)
    assert "4 error(s)" in text
    assert "erase.etta: unknown key; did you mean eta?" in text
    assert "erase.eta" in text and "-1" in text
    assert "did you mean digits?" in text


ANCHOR = [("erase.forget_target", "anchor")]


@pytest.mark.unit
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ([("forget_set.concepts", [])], "exactly one of the two"),
        ([("pretrain.source", "hub")], "source hub needs repo"),
        (
            [("pretrain.source", "registry"), ("pretrain.repo", "m"), ("pretrain.revision", "champion")],
            "alias can move",
        ),
        (
            [("pretrain.source", "hub"), ("pretrain.repo", "not a repo!"), ("pretrain.revision", "a")],
            "organisation/name",
        ),
        ([("pretrain.attention", [True])], "give one a level"),
        ([("pretrain.block_out_channels", [20, 40])], r"block_out_channels.0: .*multiple of 8, not 20"),
        ([("pretrain.block_out_channels", [8] * 9)], "at most 8 items"),
        ([("evaluate.inference_steps", 1001)], "evaluate.inference_steps: .*less than or equal to 1000, not 1001"),
        ([("forget_set.inference_steps", 1001)], "less than or equal to 1000, not 1001"),
        ([("classifier.inference_steps", 1001)], "less than or equal to 1000, not 1001"),
        (
            [("curate.source", "prompts"), ("curate.concepts", {"star": "object"})],
            "curate.source prompts gives no pictures, a model draws them: set pretrain.source to folder, hub or "
            "registry, classifier.pictures to models/base, forget_set.origin to generated",
        ),
        ([("classifier.labels", {"star": ["a star"]})], "labels has no effect with kind cnn"),
        ([("classifier.kind", "clip"), ("classifier.labels", {"star": []})], "labels.star: .*at least 1 item"),
        ([("classifier.kind", "nudity"), ("classifier.repo", "a/b")], "repo has no effect with kind nudity"),
        ([("classifier.kind", "clip"), ("classifier.repo", "a/b")], "repo .organisation/name. needs revision"),
        ([("classifier.kind", "nudty")], "did you mean nudity?"),
        ([("curate.concepts", {"star": "object"})], "curate.concepts has no effect with pictures"),
        ([("curate.concepts", {"star": "thing"})], "curate.concepts.star: .*'object', 'style', 'person' or 'scene'"),
        ([("seed", 2**31)], "seed: give a whole number at least 0 and below 2147483648, not 2147483648"),
        ([("curate.image_size", 5000)], "less than or equal to 4096"),
        ([("erase.outer_steps", 2**31)], "outer_steps: .*below 2147483648, not"),
        ([("curate.path", "")], "curate.path: .*at least 1 character"),
        ([("curate.path", "a\0b")], "curate.path: a line of text without control characters is needed"),
        ([("forget_set.concepts", ["cat\n"])], "concepts.0: a line of text without control characters"),
        ([("register.request", "17 \x1b[2J")], "register.request: a line of text without control characters"),
        ([("forget_set.concepts", ["a", "a"])], "names one twice"),
        ([("forget_set.preserve", ["8", "a"])], "8 is to be forgotten, and to be kept by preserve: take it out of one"),
        ([("forget_set.concepts", ["Star"]), ("forget_set.preserve", ["star"])], "star is to be forgotten, and to be"),
        ([("forget_set.preserve", "nearst")], "forget_set.preserve: Input should be 'nearest'"),
        ([("forget_set.preserve", "nearst")], "forget_set.preserve: Input should be a valid list"),
        ([("forget_set.preserve", ["a"])], "preserve names words beside a table of words: leave it at null"),
        ([*ANCHOR, ("erase.anchor", {"9": "1"})], "names 9: give one for each of forget_set.concepts, which are 8, or"),
        ([*ANCHOR, ("erase.anchor", {"8": "8"})], "erase.anchor 8 is to be forgotten itself: name another concept"),
        ([*ANCHOR, ("erase.anchor", "8")], "erase.anchor 8 is to be forgotten itself"),
        ([("erase.fused", True)], "fused has no effect with adapter none"),
        ([("erase.anchor", "x" * 1001)], "at most 1000 characters"),
        ([("erase.forget_target", "anchor")], "anchor names"),
    ],
)
def test_what_does_not_go_together(tmp_path, changes, message):
    with pytest.raises(ParamsError, match=message):
        load_params(changed(tmp_path, *changes))


@pytest.mark.unit
def test_each_of_several_concepts_can_have_an_anchor_of_its_own(tmp_path):
    two = [("forget_set.concepts", ["7", "8"]), *ANCHOR, ("erase.anchor", {"7": "1", "8": "3"})]
    assert load_params(changed(tmp_path, *two)).erase.settings()["anchor"] == {"7": "1", "8": "3"}


@pytest.mark.unit
def test_which_pictures_are_read_follows_from_the_method(tmp_path):
    assert load_params(FILE).reads == {"retain"}
    assert load_params(changed(tmp_path, ("erase.forget_source", "forget"))).reads == {"forget", "retain"}


#: Sections of a training, and their numbers that are of a network, or of drawing.
TRAINING = {
    Erase: set(),
    Pretrain: {"layers_per_block"},
    Classifier: {"count", "guidance_scale", "inference_steps", "width", "min_accuracy"},
}


@pytest.mark.unit
@pytest.mark.parametrize("section", TRAINING)
def test_every_number_of_a_training_has_its_range(section):
    """In the one table: a call of the library refuses what the file does."""
    numbers = {
        name
        for name, field in section.model_fields.items()
        if {int, float} & {field.annotation, *get_args(field.annotation)}
    }
    assert numbers - TRAINING[section] <= set(RANGES)


NUMBERS = [
    f"{section}.{name}"
    for section, values in YAML(typ="safe").load(FILE).items()
    if isinstance(values, dict)
    for name, value in values.items()
    if isinstance(value, float)
]


@pytest.mark.unit
@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("key", NUMBERS)
def test_no_number_is_infinite(tmp_path, key, value):
    with pytest.raises(ParamsError, match=rf"{key}: .*finite number, not -?(inf|nan)"):
        load_params(changed(tmp_path, (key, value)))


@pytest.mark.unit
def test_unquoted_no_is_text(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text(FILE.read_text().replace('"no"', "no"))  # what `dvc exp run -S` leaves
    assert load_params(path).erase.mixed_precision == "no"


@pytest.mark.unit
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            [("erase.method", "graddiff"), ("erase.retain_target", "teacher"), ("erase.fixed_multiplier", 0.5)],
            "fixed_multiplier 0.5 does not go with method graddiff, which fixes it at 0.1: "
            "leave it at its default, 1.0",
        ),
        ([("erase.method", "graddiff"), ("erase.eta", 0.5)], "eta 0.5 has no effect with multiplier fixed"),
        ([("erase.fixed_multiplier", 0.5)], "fixed_multiplier 0.5 has no effect with multiplier paper"),
        ([("erase.mask_fraction", 0.1)], "mask_fraction 0.1 has no effect with mask none"),
        ([("erase.method", "retrain"), ("erase.learning_rate", 0.1)], "no effect with method retrain, which has its"),
        ([("erase.gap_tolerance", 0.1)], "gap_tolerance 0.1 has no effect with gap_every 0"),
        ([("erase.accumulate", 65)], "a batch of 64 cannot be computed in 65 parts: lower accumulate"),
    ],
)
def test_what_does_not_go_together_in_a_method(tmp_path, changes, message):
    """Said by the stage, before it opens anything: there is no model here."""
    changed(tmp_path, *changes)
    command = [sys.executable, "-m", "stages.erase"]
    here = {**os.environ, "PYTHONPATH": str(FILE.parent)}
    done = subprocess.run(command, cwd=tmp_path, env=here, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    head, line = done.stderr.splitlines()
    assert head == "ParamsError: params.yaml: 1 error(s)"
    assert line.startswith("  - erase: ") and message in line


def variants(plan):
    """The params that a comparison sets, each variant with every choice of searched values that it is tried with."""
    search = plan.get("search") or {"over": {}, "set": {}}
    for name, own in plan["variants"].items():
        over = {k: v for k, v in search["over"].items() if k not in own} if name != plan.get("gold") else {}
        for values in itertools.product(*over.values()):
            yield name, {**plan.get("set", {}), **search.get("set", {}), **own, **dict(zip(over, values, strict=True))}


@pytest.mark.unit
@pytest.mark.parametrize("path", COMPARISONS, ids=lambda path: path.stem)
def test_every_variant_of_every_comparison_is_valid(path):
    """None of them asks for something that its method would not do."""
    base = YAML(typ="safe").load(FILE)
    found = list(variants(YAML(typ="safe").load(path)))
    assert found
    for _, changes in found:
        raw = copy.deepcopy(base)
        for key, value in changes.items():
            section, name = key.split(".")
            raw[section][name] = value
        Params.model_validate(raw)
