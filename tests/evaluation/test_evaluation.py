import json

import pytest
import torch

from erasediff.errors import ParamsError
from erasediff.evaluation.gates import evaluation_of, gates, sentences
from erasediff.evaluation.measure import over_draws, score
from erasediff.evaluation.pictures import grid_png
from erasediff.evaluation.report import how_measured, report_html
from erasediff.evaluation.table import table_rows
from erasediff.metrics.draw import Draw
from erasediff.records import EffectiveSettings, Measured, failed_gates

LIMITS = {
    "min_unlearning_accuracy": 0.9,
    "min_base_accuracy": 0.5,
    "max_retain_accuracy_drop": 0.02,
    "max_distance_ratio": 1.25,
}
BASE = {"unlearning_accuracy": 0.03, "in_domain_retain_accuracy": 0.97, "fd_classifier": 1.0}
ERASED = {"unlearning_accuracy": 0.95, "in_domain_retain_accuracy": 0.96, "fd_classifier": 1.1}
JUDGE = {"accuracy": 0.99, "test_samples": 7, "sha256": "j"}


def evaluated(base=BASE, erased=ERASED):
    return evaluation_of(Measured(base, "b"), Measured(erased, "e"), JUDGE, LIMITS)


@pytest.mark.unit
@pytest.mark.parametrize(
    ("change", "failing"),
    [
        ({}, None),
        ({"unlearning_accuracy": 1 - torch.tensor([1.0] + [0.0] * 9).mean().item()}, None),
        ({"unlearning_accuracy": 0.89}, "unlearning_accuracy"),
        ({"in_domain_retain_accuracy": 0.94}, "in_domain_retain_accuracy_drop"),
        ({"fd_classifier": 1.3}, "fd_classifier_ratio"),
    ],
)
def test_gates_are_two_sided(change, failing):
    evaluation = evaluated(erased=ERASED | change)
    assert [k for k, g in evaluation.gates.items() if not g.passed] == ([failing] if failing else [])
    assert evaluation.passed == (failing is None) and failed_gates(evaluation.gates).startswith(failing or "")
    for unseen in ({"unlearning_accuracy": 0.6}, {"in_domain_retain_accuracy": 0.4}):
        assert not gates(BASE | unseen, ERASED, LIMITS)["base_accuracy"].passed
    assert len(table_rows(evaluation)) == 3
    html = report_html(evaluation, "chat <noir>", {"how": "so"}, {"base": b"x"})
    assert "chat &lt;noir&gt;" in html and ("FAILED" in html) == bool(failing)


@pytest.mark.unit
def test_a_gate_without_a_limit_is_told():
    with pytest.raises(ParamsError, match="fd_classifier_ratio has no limit: give verdict.max_distance_ratio"):
        gates(BASE, ERASED, {k: v for k, v in LIMITS.items() if k != "max_distance_ratio"})


@pytest.mark.unit
def test_under_another_protocol_the_distance_is_not_judged():
    assert set(gates(BASE, ERASED, LIMITS)) - set(gates(BASE, ERASED, LIMITS, same_protocol=False)) == {
        "fd_classifier_ratio"
    }


@pytest.mark.unit
def test_a_gate_reads_alike_in_the_table_and_as_a_sentence_says_its_limit():
    evaluation = evaluated(BASE | {"seconds": 1.0}, ERASED | {"seconds": 3.0, "unlearning_accuracy_sd": 0.02})
    assert table_rows(evaluation) == [
        ("unlearning_accuracy", "0.030", "0.950 ± 0.020", "0.9500 ≥ 0.9 passed"),
        ("in_domain_retain_accuracy", "0.970", "0.960", "drop 0.0100 ≤ 0.02 passed"),
        ("fd_classifier", "1.000", "1.100", "ratio 1.1000 ≤ 1.25 passed"),
    ]
    assert sentences(evaluation, "8") == [
        "95.0% of the pictures drawn for 8 are not recognised as such (at least 90%): passed",
        "97.0% of the base's pictures are recognised, forgotten or retained, whichever is less (at least 50%): passed",
        "96.0% of the pictures drawn for retained concepts are recognised, of the base's 97.0% (at most 2 percentage "
        "points less): passed",
        "retained pictures are 1.10 times as far from real ones as the base's (at most 1.25): passed",
    ]


@pytest.mark.unit
def test_the_evaluation_names_what_was_measured_and_what_changed():
    content = evaluated(BASE | {"accuracy.a": 1.0}, ERASED | {"accuracy.a": 0.0}).to_json()
    assert content["models"] == {"base": "b", "erased": "e"} and content["classifier"] == JUDGE
    assert content["delta"] == {name: ERASED[name] - BASE[name] for name in BASE}
    assert content["gates"]["fd_classifier_ratio"] == {
        "value": 1.1,
        "limit": 1.25,
        "direction": "max",
        "passed": True,
    }
    json.dumps(content, allow_nan=False)


@pytest.mark.unit
def test_the_report_says_what_ran_not_what_was_asked_for():
    ran = EffectiveSettings("graddiff", {"eta": 0.1, "multiplier": "fixed", "forget_source": "forget"}, 17, 900)
    evaluate = {"samples_per_concept": 2, "draws": 3, "inference_steps": 4, "guidance_scale": 1.0}
    how = how_measured(evaluated(BASE | {"recognised": 0.5}), evaluate, ran)
    assert how["method"] == "graddiff, 17 updates, multiplier fixed, eta 0.1"
    assert how["deviation from the paper"].startswith(
        "method: graddiff (paper: erasediff); multiplier: fixed (paper: paper); "
    )
    assert "forget_source" not in how["deviation from the paper"]


def drawn(read, features, forgotten, reference, earlier=()):
    return Draw(torch.eye(3)[read], features, ["a", "a", "b", "b", "c", "c"], "abc", forgotten, reference, earlier)


@pytest.mark.unit
def test_score_on_a_known_case():
    features = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    read = torch.tensor([0, 1, 1, 1, 2, 0])
    result = score(drawn(read, features, ["a"], features[2:]))
    assert result["unlearning_accuracy"] == 0.5
    assert result["in_domain_retain_accuracy"] == 0.75
    assert result["forget_class_probability"] == 0.5 and result["forget_class_entropy_nats"] == 0
    assert result["fd_classifier"] == pytest.approx(0, abs=1e-6)
    assert result["accuracy.c"] == 0.5
    none = score(drawn(read, features, [], features))
    assert "unlearning_accuracy" not in none and "earlier_unlearning_accuracy" not in none


@pytest.mark.unit
def test_what_was_forgotten_before_is_not_counted_as_retained_and_has_to_stay_forgotten():
    features = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    result = score(drawn(torch.tensor([0, 1, 2, 2, 2, 2]), features, ["a"], features[4:], ["b"]))
    assert result["earlier_unlearning_accuracy"] == 1.0 and result["unlearning_accuracy"] == 0.5
    assert result["in_domain_retain_accuracy"] == 1.0  # c alone
    assert result["fd_classifier"] == pytest.approx(0, abs=1e-6)
    assert result["recognised"] == 0.75
    back = score(drawn([0, 1, 1, 2, 2, 2], features, ["a"], features[4:], ["b"]))
    erased = BASE | {"unlearning_accuracy": 1.0, "earlier_unlearning_accuracy": back["earlier_unlearning_accuracy"]}
    assert [k for k, g in gates(BASE, erased, LIMITS).items() if not g.passed] == ["earlier_unlearning_accuracy"]


@pytest.mark.unit
def test_numbers_have_a_spread_over_draws_but_for_single_concepts():
    rows = [{"recognised": 0.5, "accuracy.a": 1.0}, {"recognised": 1.0, "accuracy.a": 0.5}]
    assert over_draws(rows) == {
        "recognised": 0.75,
        "recognised_sd": pytest.approx(0.3535534),
        "accuracy.a": 0.75,
    }
    assert over_draws(rows[:1]) == {"recognised": 0.5, "recognised_sd": 0.0, "accuracy.a": 1.0}


@pytest.mark.unit
def test_grid_is_a_picture():
    assert grid_png(torch.zeros(2, 3, 1, 8, 8), ["a", "chat noir"], "base").startswith(b"\x89PNG")
