import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from erasediff.metrics.rules import GatedMetric, GateRule, Metric
from erasediff.metrics.table import GATES, METRICS, compared, metric_of
from erasediff.records import Gate

PARAMS = YAML(typ="safe").load((Path(__file__).parents[2] / "params.yaml").read_text())


@pytest.mark.unit
@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_an_entry_says_what_a_person_and_the_code_need(metric):
    assert metric.words and metric.better in ("higher", "lower")
    if metric.function:
        module, name = metric.function.split(".")
        assert callable(getattr(import_module(f"erasediff.metrics.{module}"), name))
    if metric.gate:
        texts = {"value": 0.5, "limit": 0.5, "points": 50, "base": 0.5, "erased": 0.5, "forgotten": "8"}
        metric.gate.sentence.format(**texts)


@pytest.mark.unit
def test_every_limit_of_params_is_a_gates_and_every_gate_has_one():
    assert {gated.rule.limit for gated in GATES.values()} == set(PARAMS["verdict"])
    assert {name for gated in GATES.values() for name in gated.rule.of} <= METRICS.keys(), "whose pictures it counts"


@pytest.mark.unit
@pytest.mark.parametrize(
    ("base", "erased", "rise"),
    [(0.4, 1.0, 0.5), (0.9, 0.95, 0.05), (0.1, 0.4, 0.0), (0.9, 0.6, 0.0)],
    ids=["copies", "as a base that copies", "better than a bad base", "fewer copies"],
)
def test_closeness_to_training_pictures_is_more_than_of_the_base_and_of_real_pictures(base, erased, rise):
    gated = GATES["retain_closeness_rise"]
    found = gated.estimate({"retain_close": base}, {"retain_close": erased, "retain_close_low": erased - 0.01})
    assert found.value == pytest.approx(rise) and 0.0 <= found.low <= found.value
    assert gated.estimate({}, {"retain_close": erased}) is None


@pytest.mark.unit
def test_a_number_belongs_to_its_metric():
    assert metric_of("fd_classifier").name == "fd_classifier"
    for concept in ("8", "a.b", "render_low", "x_sd"):
        assert metric_of(f"accuracy.{concept}").name == "accuracy"
    for other in ("fd_classifier_sd", "accuracy", "fd_classifier.8", "something"):
        assert metric_of(other) is None
    both = {"seconds": 1.0, "recognised": 1.0, "fd_classifier": 1.0, "fd_classifier_sd": 0.0, "accuracy.8": 1.0}
    assert list(compared(both, both)) == ["fd_classifier", "accuracy.8"]


def gated(value, better="higher"):
    return GatedMetric(Metric("m", "words", better), GateRule("limit", value))


@pytest.mark.unit
@pytest.mark.parametrize(
    ("value", "name", "number", "directions"),
    [("share", "m", 3.0, "min max"), ("drop", "m_drop", 1.0, "max"), ("ratio", "m_ratio", 0.75, "min max")],
)
def test_what_a_gate_holds_against_its_limit(value, name, number, directions):
    gate = gated(value)
    assert gate.name == name and gate.value({"m": 4.0}, {"m": 3.0}) == number
    assert [gated(value, better).direction for better in ("higher", "lower")[: len(directions.split())]] == (
        directions.split()
    )
    assert gate.value({"m": 4.0}, {}) is None and gate.same_protocol == (value == "ratio")
    assert (gate.value({}, {"m": 3.0}) is None) == (value != "share")


@pytest.mark.unit
def test_a_drop_of_what_should_be_low_is_refused():
    with pytest.raises(ValueError, match="m: a drop is judged where higher is better; use ratio"):
        gated("drop", "lower")


@pytest.mark.unit
@pytest.mark.parametrize("better", ["highest", "", None])
@pytest.mark.parametrize("value", ["share", "drop", "rise", "ratio"])
def test_a_gate_without_a_direction_is_refused(value, better):
    with pytest.raises(ValueError, match=f"m: better is {better!r}: a gate needs 'higher' or 'lower'"):
        gated(value, better)


@pytest.mark.unit
def test_a_ratio_to_nothing_is_a_number_that_can_be_written_down():
    assert 1e9 < gated("ratio").value({"m": 0.0}, {"m": 3.0}) < 1e10
    assert gated("ratio").value({"m": 0.0}, {"m": 0.0}) == 1.0


@pytest.mark.unit
@pytest.mark.parametrize("metric", [m for m in METRICS.values() if m.compared], ids=lambda m: m.name)
def test_people_read_a_metric_in_words_with_an_arrow_to_the_better_side(metric):
    assert metric.title and "_" not in metric.heading
    assert metric.heading.endswith("↑" if metric.better == "higher" else "↓")


@pytest.mark.unit
def test_every_gate_says_what_to_try_where_it_fails():
    for gated_metric in GATES.values():
        remedy = gated_metric.rule.remedy
        for name in re.findall(r"\b(?:pretrain|erase|evaluate)\.[a-z_]+", remedy):
            section, key = name.split(".")
            assert key in PARAMS[section], f"{name} is no param"
        assert remedy


@pytest.mark.unit
def test_a_gate_in_words():
    assert Gate(0.96333, 0.9, "min", True).text == "0.9633 ≥ 0.9 passed"
    drop = GATES["in_domain_retain_accuracy_drop"]
    assert drop.text(Gate(0.5, 0.02, "max", False)) == "drop 0.5000 ≤ 0.02 FAILED"


@pytest.mark.unit
def test_the_table_is_read_without_torch():
    code = "import sys, erasediff.evaluation.table, erasediff.evaluation.gates; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


@pytest.mark.unit
def test_what_rounds_to_nothing_has_no_sign():
    metric = METRICS["kid_classifier"]
    assert metric.cell(
        {"kid_classifier": -2e-6, "kid_classifier_low": -0.01, "kid_classifier_high": 0.0}, metric.name
    ) == ("0.0000 (-0.0100 to 0.0000)")
