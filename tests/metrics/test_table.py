import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from erasediff.metrics.table import METRICS, compared, drop, gate_rules, metric_of, ratio, share
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
    assert {rule.limit for _, rule in gate_rules().values()} == set(PARAMS["verdict"])


@pytest.mark.unit
def test_a_number_belongs_to_its_metric():
    assert metric_of("fd_classifier").name == "fd_classifier" and metric_of("accuracy.8").name == "accuracy"
    for other in ("fd_classifier_sd", "accuracy", "fd_classifier.8", "something"):
        assert metric_of(other) is None
    both = {"seconds": 1.0, "recognised": 1.0, "fd_classifier": 1.0, "fd_classifier_sd": 0.0, "accuracy.8": 1.0}
    assert list(compared(both, both)) == ["fd_classifier", "accuracy.8"]


@pytest.mark.unit
def test_what_a_gate_holds_against_its_limit():
    base, erased = {"m": 4.0}, {"m": 3.0}
    assert (share("m")(base, erased), drop("m")(base, erased), ratio("m")(base, erased)) == (3.0, 1.0, 0.75)
    assert ratio("m")({"m": 0.0}, erased) == float("inf")
    for value in (share("m"), drop("m"), ratio("m")):
        assert value(base, {}) is None


@pytest.mark.unit
def test_a_gate_in_words():
    assert Gate(0.96333, 0.9, "min", True).text == "0.9633 ≥ 0.9 passed"
    assert gate_rules()["in_domain_retain_accuracy_drop"][1].text(Gate(0.5, 0.02, "max", False)) == (
        "drop 0.5000 ≤ 0.02 FAILED"
    )


@pytest.mark.unit
def test_the_table_is_read_without_torch():
    code = "import sys, erasediff.evaluation.table, erasediff.evaluation.gates; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
