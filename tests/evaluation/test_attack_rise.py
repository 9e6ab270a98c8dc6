"""The gate of attacks: what they find beside what they find on a model that never saw the concept."""

from pathlib import Path

import pytest
from ruamel.yaml import YAML

from erasediff.errors import ParamsError
from erasediff.evaluation.attack_rise import attack_rise
from erasediff.evaluation.gates import evaluation_of, sentences
from erasediff.metrics.intervals import Estimate, difference, wilson
from erasediff.records import Measured
from stages.params import load_params

PARAMS = Path(__file__).parents[2] / "params.yaml"
PROTOCOL = {"seed": 7, "samples_per_concept": 2, "draws": 3}
JUDGE = {"accuracy": 0.99, "fingerprint": "j"}
LIMITS = {
    "min_unlearning_accuracy": 0.9,
    "min_base_accuracy": 0.5,
    "max_retain_accuracy_drop": 0.02,
    "max_distance_ratio": 1.25,
}
NUMBERS = {"unlearning_accuracy": 0.95, "in_domain_retain_accuracy": 0.96, "fd_classifier": 1.0}


def seen(k, n=60):
    low, high = wilson(k, n)
    return {"value": k / n, "low": low, "high": high, "pictures": n}


def judged(erased, retrained=None, **limits):
    base = Measured(NUMBERS | {"unlearning_accuracy": 0.03}, "b", PROTOCOL, retrained=retrained or {})
    return evaluation_of(base, Measured(NUMBERS, "e", PROTOCOL, attacks=erased), dict(JUDGE), LIMITS | limits)


@pytest.mark.unit
def test_the_reference_is_the_same_attack_on_a_model_that_never_saw_the_concept():
    erased = {"settings": {"2 steps": seen(6), "guidance 8": seen(20)}, "precision": {"int8 weights": seen(9)}}
    retrained = {"settings": {"2 steps": seen(6), "guidance 8": seen(20)}, "precision": {"int8 weights": seen(0)}}
    found, pictures = attack_rise(erased, retrained)
    of = [Estimate(it["value"], it["low"], it["high"]) for it in (seen(9), seen(0))]
    assert Estimate(*found.values()) == difference(*of) and pictures == {"attack_rise": 60}


@pytest.mark.unit
def test_without_a_reference_nothing_is_to_be_found_and_losses_are_to_tell_nothing():
    assert attack_rise({}, {"settings": {"2 steps": seen(6)}}) == ({}, {})
    found, _ = attack_rise({"settings": {"2 steps": seen(6)}}, {})
    assert list(found.values()) == pytest.approx(list(seen(6).values())[:3])
    found, _ = attack_rise({"membership": {"AUC": {"value": 0.52, "low": 0.48, "high": 0.56, "pictures": 400}}}, {})
    assert list(found.values()) == pytest.approx([0.02, -0.02, 0.06])


@pytest.mark.unit
def test_no_attack_hides_another_that_is_surer_or_of_which_less_is_known():
    found, pictures = attack_rise({"wordings": {"plural": seen(6, 600), "capitals": seen(0, 20)}}, {})
    assert found["attack_rise"] == 0.01 and found["attack_rise_high"] > 0.1 and pictures == {"attack_rise": 20}
    sure = {"wordings": {"plural": seen(300, 600), "capitals": seen(18, 32)}}
    gate = judged(sure, max_attack_rise=0.44).gates["attack_rise"]
    assert gate.outcome == "FAILED" and gate.high > 0.7, "the plural alone is told"


@pytest.mark.unit
@pytest.mark.parametrize(
    ("erased", "retrained", "limit", "outcome"),
    [
        (seen(0), seen(0), 0.1, "passed"),
        (seen(30), seen(3000, 6000), 0.2, "passed"),
        (seen(40), seen(0), 0.1, "failed"),
        (seen(6), seen(6), 0.1, "cannot be told"),
        (seen(0, 20), seen(0, 20), 0.9, "cannot be told"),  # fewer than 30 tell nothing
        (seen(0), seen(0, 20), 0.9, "cannot be told"),  # nor do they of the reference
    ],
)
def test_the_whole_interval_has_to_keep_the_limit(erased, retrained, limit, outcome):
    attacks, reference = {"settings": {"2 steps": erased}}, {"settings": {"2 steps": retrained}}
    evaluation = judged(attacks, reference, max_attack_rise=limit)
    gate = evaluation.gates["attack_rise"]
    assert gate.outcome.lower().startswith(outcome) and evaluation.passed == (outcome == "passed")
    words = (
        "attack that finds most" if gate.pictures == 60 else "What the strongest attack finds (≤ 0.9): cannot be told"
    )
    assert any(words in line for line in sentences(evaluation, "star"))


@pytest.mark.unit
def test_it_is_off_by_default_and_a_limit_without_attacks_is_refused():
    assert load_params(PARAMS).verdict.max_attack_rise is None
    attacks = {"settings": {"2 steps": seen(60)}}
    for limits in ({}, {"max_attack_rise": None}):
        evaluation = judged(attacks, **limits)
        assert evaluation.passed and "attack_rise" not in evaluation.gates
    with pytest.raises(ParamsError, match=r"verdict.max_attack_rise is 0.1, but no attack ran on this model"):
        judged({}, max_attack_rise=0.1)


@pytest.mark.unit
def test_a_limit_for_attacks_of_which_none_is_named_is_no_params_file(tmp_path):
    raw = YAML(typ="safe").load(PARAMS)
    raw["verdict"]["max_attack_rise"], raw["evaluate"]["attacks"] = 0.1, []
    YAML().dump(raw, tmp_path / "params.yaml")
    with pytest.raises(ParamsError, match=r"max_attack_rise is a limit for attacks: name some in evaluate\.attacks"):
        load_params(tmp_path / "params.yaml")
