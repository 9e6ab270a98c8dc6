"""What is written down of a run is what ran."""

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from ruamel.yaml import YAML

from erasediff.artifacts import new_folder, read_json, write_json
from erasediff.data.concept_images import ConceptImages
from erasediff.data.images import encode_png
from erasediff.data.table import generated_table
from erasediff.records import EffectiveSettings
from erasediff.training.denoising import Recipe
from erasediff.unlearning import METHODS, PAPER_SETTING, Settings, deviations_from_paper, erasing, method_for
from erasediff.unlearning.loop import run_loop
from erasediff.unlearning.methods.method import BUDGET
from erasediff.unlearning.settings import CHOICES, DEFAULTS
from stages.params import load_params

ROOT = Path(__file__).parents[2]
SIZES = {"outer_steps": 3, "forget_batch_size": 4, "retain_batch_size": 5}
RECIPE = Recipe(steps=3, batch_size=4, learning_rate=1e-3, warmup_steps=1)
LOOPS = sorted(set(METHODS) - {"retrain", "uce", "speed"})


def pictures(n, concepts, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return ConceptImages(
        torch.rand(n, 1, 8, 8, generator=draw) * 2 - 1, [concepts[i % len(concepts)] for i in range(n)]
    )


SETS = {"forget": pictures(4, "a"), "retain": pictures(6, "bc", seed=1)}


def other(name):
    """A value that a setting does not have by default."""
    default = DEFAULTS[name]
    if name in CHOICES:
        return next(choice for choice in CHOICES[name] if choice not in (default, "anchor"))
    if isinstance(default, bool):
        return not default
    if isinstance(default, float):
        return default / 2 or 0.5
    given = {"anchor": "b", "trainable": "up_blocks", "gap_tolerance": 1e9, "lora_alpha": 4.0}
    return given.get(name) or default + 1


def weights(denoiser):
    return torch.cat([p.detach().flatten() for p in denoiser.parameters()])


@pytest.mark.unit
@pytest.mark.parametrize("method", [*LOOPS, "retrain"])
def test_the_record_is_what_the_loop_received(method, pipeline, monkeypatch):
    received = {}

    def noting(function):
        def noted(*arguments, **named):
            received["arguments"], received["function"] = arguments, function.__name__
            return function(*arguments, **named)

        return noted

    for name in ("run_loop", "train_denoiser"):
        monkeypatch.setattr(erasing, name, noting(getattr(erasing, name)))
    result = erasing.erase(pipeline, "a", method=method, **SETS, **SIZES, recipe=RECIPE)
    record = dict(result.settings)
    assert (result.method, result.updates) == (method, len(result.history)) == (method, 3)
    assert record.pop("mixed_precision") == "no"
    if method == "retrain":
        assert received["function"] == "train_denoiser"
        assert record == dataclasses.asdict(received["arguments"][3])
        assert result.record.passes == 3 * 3 * 4
        return
    ran = received["arguments"][3]
    assert received["function"] == "run_loop" and ran.name == method
    assert record == {name: getattr(ran.settings, name, getattr(ran, name, None)) for name in record}
    assert set(record) == set(DEFAULTS) - set(ran.ignored()) | set(ran.recorded)
    assert {name: record[name] for name in METHODS[method].fixes} == dict(METHODS[method].fixes)


@pytest.mark.unit
@pytest.mark.parametrize("method", LOOPS)
def test_a_setting_that_is_not_in_the_record_changes_nothing(method, family):
    """All of them at once, put past the check."""
    chosen = method_for(method, **SIZES)
    assert not chosen.ignored().keys() & (chosen.effective().keys() | chosen.fixes.keys())
    # One that changes nothing may yet not go together with the others.
    others = {name: other(name) for name in chosen.ignored().keys() - {"shared_batch"}}
    changed = METHODS[method](dataclasses.replace(chosen.settings, **others))
    runs = [run_loop(family, *SETS.values(), m).denoiser for m in (chosen, changed)]
    assert torch.equal(*map(weights, runs))


@pytest.mark.unit
@pytest.mark.parametrize("method", METHODS)
def test_what_a_method_fixes_is_refused_by_name(method):
    for name, value in METHODS[method].fixes.items():
        assert method_for(method, **{name: value}).settings == method_for(method, **{name: DEFAULTS[name]}).settings
        wrong = next(v for v in (*CHOICES.get(name, ()), 7.5) if v not in (value, DEFAULTS[name]) and v != "anchor")
        with pytest.raises(
            ValueError, match=f"{name} {wrong} does not go with method {method}, which fixes it at {value!r}"
        ):
            method_for(method, **{name: wrong})


@pytest.mark.unit
@pytest.mark.parametrize("method", METHODS)
def test_what_a_method_does_not_use_is_refused_by_name(method):
    for name in method_for(method).ignored().keys() - METHODS[method].fixes.keys():
        if name in BUDGET:  # which comparisons give to all alike
            method_for(method, **{name: 7})
        else:
            with pytest.raises(ValueError, match=f"{name} .* has no effect with|{name} .* alone, not"):
                method_for(method, **{name: other(name)})


@pytest.mark.unit
@pytest.mark.parametrize(
    "settings, message",
    [
        (
            {"eta": 0.5, "multiplier": "fixed"},
            "eta 0.5 has no effect with multiplier fixed: leave it at its default, 1.0",
        ),
        ({"fixed_multiplier": 0.5}, "fixed_multiplier 0.5 has no effect with multiplier paper"),
        ({"norm_ratio": 0.5}, "norm_ratio 0.5 has no effect with multiplier paper"),
        ({"mask_fraction": 0.2}, "mask_fraction 0.2 has no effect with mask none"),
        ({"inner_steps": 3}, "inner_steps 3 has no effect with gap_every 0"),
        ({"anchor": "b"}, "anchor b has no effect with forget_target relabel"),
        ({"forget_target": "anchor"}, "anchor names the concept of forget_target anchor"),
        ({"multiplier": "papr"}, "multiplier 'papr' is none of paper, cosine, fixed, norm_ratio"),
        ({"etta": 0.5}, "unexpected keyword argument 'etta'"),
    ],
)
def test_what_changes_nothing_is_refused_by_name(settings, message):
    with pytest.raises(ValueError, match=message):
        method_for("erasediff", **settings)


@pytest.mark.unit
def test_updates_and_passes_are_those_that_were_made(pipeline):
    """Where the gap ends a run early, and where a stopped run went on."""
    gap = {"gap_every": 2, "gap_tolerance": 1e9}
    stopped = erasing.erase(pipeline, "a", **SETS, **{**SIZES, "outer_steps": 6}, **gap)
    plain = erasing.erase(pipeline, "a", **SETS, **{**SIZES, "outer_steps": 1})
    assert stopped.updates == len(stopped.history) == 1 and stopped.settings["outer_steps"] == 6
    assert stopped.record.passes == plain.record.passes == 4 * (4 + 5)

    class Halfway:
        every, state = 2, None

        def load(self):
            return self.state

        def save(self, state):
            self.state = {name: value.clone() for name, value in state.items()}

    halfway = Halfway()
    for made in (3, 1):  # the second time from the state of two updates
        result = erasing.erase(pipeline, "a", **SETS, **SIZES, checkpoint=halfway)
        assert (len(result.history), result.updates, result.record.passes) == (made, 3, 3 * 4 * (4 + 5))


@pytest.mark.unit
def test_a_budget_is_written_down_as_the_updates_that_it_bought(pipeline):
    result = erasing.erase(pipeline, "a", **SETS, **{**SIZES, "outer_steps": 100}, passes=150)
    assert (result.updates, result.settings["outer_steps"], result.record.passes) == (4, 4, 144)


@pytest.mark.unit
def test_an_anchor_may_be_named_with_its_target_or_alone(pipeline):
    both = [
        erasing.erase(pipeline, "a", anchor="b", **SETS, **SIZES, **target)
        for target in ({}, {"forget_target": "anchor"})
    ]
    assert both[0].settings == both[1].settings and both[0].settings["anchor"] == "b"
    assert torch.equal(*(weights(result.pipeline.unet) for result in both))
    with pytest.raises(ValueError, match="anchor b has no effect with forget_target relabel"):
        erasing.erase(pipeline, "a", anchor="b", forget_target="relabel", **SETS)


@pytest.mark.unit
def test_how_a_run_deviates_from_the_paper():
    def deviations(method, **settings):
        return deviations_from_paper(EffectiveSettings(method, method_for(method, **settings).effective(), 1, 1))

    assert deviations("erasediff", **PAPER_SETTING) == []
    assert deviations("erasediff") == ["forget_source: retain (paper: forget)", "retain_target: teacher (paper: noise)"]
    assert deviations("graddiff") == ["method: graddiff (paper: erasediff)", "multiplier: fixed (paper: paper)"]
    assert deviations("finetune", trainable="up_blocks") == [
        "method: finetune (paper: erasediff)",
        "trainable: up_blocks (paper: full)",
    ]
    assert deviations_from_paper(EffectiveSettings("retrain", dataclasses.asdict(RECIPE), 3, 36)) == [
        "method: retrain (paper: erasediff)"
    ]


@pytest.mark.unit
def test_the_record_goes_through_json():
    record = EffectiveSettings("graddiff", method_for("graddiff").effective(), 140, 71_680)
    assert EffectiveSettings.from_json({**record.to_json(), "retain_loss": 0.1}, "here") == record


@pytest.mark.unit
def test_defaults_stand_once():
    """Those of params.yaml are the library's: either is a default that the other's refusals speak of."""
    params = load_params(ROOT / "params.yaml").erase.settings()
    assert params == {name: DEFAULTS[name] for name in params} and DEFAULTS.keys() - params == {"norm_ratio"}
    assert Settings() == method_for("erasediff").settings
    text = (ROOT / "params.yaml").read_text()
    listed = re.findall(r"\w+", text.partition("  method: ")[2].partition("  multiplier:")[0])
    assert [method for method in METHODS if method not in listed] == [], "name these in the comment of erase.method"
    assert YAML(typ="safe").load(text)


@pytest.mark.unit
def test_methods_are_known_before_torch_is_loaded():
    code = "import stages.params, sys; assert 'torch' not in sys.modules and stages.params.METHODS"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


class Run:
    """Stands in for an MLflow run."""

    run_id = None

    def __init__(self):
        self.params, self.metrics = {}, []

    def start(self, params, *, continues):
        self.params = params

    def log_metrics(self, metrics, step=None):
        self.metrics.append(metrics)

    def log_artifact(self, path):
        pass


@pytest.mark.unit
@pytest.mark.parametrize(
    "changes",
    [
        {"method": "graddiff"},
        {"method": "munba", "passes": 500},
        {"method": "retrain"},
        {"gap_every": 1, "gap_tolerance": 1e9},
        {"forget_target": "anchor", "anchor": "b"},
    ],
    ids=str,
)
def test_the_stage_logs_and_writes_what_ran(changes, pipeline, tmp_path, monkeypatch):
    from stages import erase, layout

    monkeypatch.chdir(tmp_path)
    with new_folder(layout.BASE) as folder:
        pipeline.save_pretrained(folder)
        write_json(folder / layout.ERASURES.name, [])
    with new_folder(layout.SETS) as folder:
        for path, images in ((layout.FORGET_TABLE, SETS["forget"]), (layout.RETAIN_TABLE, SETS["retain"])):
            table = generated_table([*map(encode_png, images.images)], images.concepts, (8, 8), "L")
            table.to_parquet(folder / path.name)
    params = load_params(ROOT / "params.yaml")
    section = type(params.erase).model_validate({**params.erase.model_dump(), **SIZES, **changes})
    pretrain = params.pretrain.model_copy(update={"steps": 3, "batch_size": 4})
    run = Run()
    erase.main(run, 0, pretrain, section)
    written = read_json(layout.ERASE_METRICS)
    record = EffectiveSettings.from_json(written, "metrics/erase.json")
    assert run.params == {"seed": 0, "method": record.method, **record.settings}
    *rows, made = run.metrics
    assert made == {"updates": record.updates, "passes": record.passes} and record.updates == len(rows) > 0
    assert "retain_loss" in written
    for name, value in changes.items():
        if name == "passes":
            assert record.passes <= value
        else:
            assert {"method": record.method, **record.settings}[name] == value
    if section.method == "graddiff":
        assert record.settings["retain_target"] == "noise" and record.settings["fixed_multiplier"] == 0.1
    if section.method == "retrain":
        assert record.settings["learning_rate"] == pretrain.learning_rate and record.updates == 3
    if section.gap_tolerance:
        assert record.updates == 1
