import pytest
import torch

from erasediff.evaluation.gates import gates
from erasediff.evaluation.measure import score
from erasediff.evaluation.pictures import grid_png
from erasediff.evaluation.report import report_html
from erasediff.evaluation.table import table_rows

LIMITS = {
    "min_unlearning_accuracy": 0.9,
    "min_base_accuracy": 0.5,
    "max_retain_accuracy_drop": 0.02,
    "max_distance_ratio": 1.25,
}
BASE = {"unlearning_accuracy": 0.03, "in_domain_retain_accuracy": 0.97, "fd_classifier": 1.0}


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
    erased = {"unlearning_accuracy": 0.95, "in_domain_retain_accuracy": 0.96, "fd_classifier": 1.1} | change
    found = gates(BASE, erased, **LIMITS)
    assert [k for k, g in found.items() if not g["passed"]] == ([failing] if failing else [])
    for unseen in ({"unlearning_accuracy": 0.6}, {"in_domain_retain_accuracy": 0.4}):
        assert not gates(BASE | unseen, erased, **LIMITS)["base_accuracy"]["passed"]
    evaluation = {"base": BASE, "erased": erased, "gates": found, "passed": not failing}
    assert len(table_rows(evaluation)) == 3
    html = report_html(evaluation, ["chat <noir>"], {"how": "so"}, {"base": b"x"})
    assert "chat &lt;noir&gt;" in html and ("FAILED" in html) == bool(failing)


@pytest.mark.unit
def test_score_on_a_known_case():
    features = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    read = torch.tensor([0, 1, 1, 1, 2, 0])
    result = score(torch.eye(3)[read], features, ["a", "a", "b", "b", "c", "c"], ["a", "b", "c"], ["a"], features[2:])
    assert result["unlearning_accuracy"] == 0.5
    assert result["in_domain_retain_accuracy"] == 0.75
    assert result["forget_class_probability"] == 0.5 and result["forget_class_entropy_nats"] == 0
    assert result["fd_classifier"] == pytest.approx(0, abs=1e-6)
    assert result["accuracy.c"] == 0.5
    none = score(torch.eye(3)[read], features, ["a", "a", "b", "b", "c", "c"], ["a", "b", "c"], [], features)
    assert "unlearning_accuracy" not in none and "earlier_unlearning_accuracy" not in none


@pytest.mark.unit
def test_what_was_forgotten_before_is_not_counted_as_retained_and_has_to_stay_forgotten():
    features = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    asked, read = ["a", "a", "b", "b", "c", "c"], torch.tensor([0, 1, 2, 2, 2, 2])
    result = score(torch.eye(3)[read], features, asked, ["a", "b", "c"], ["a"], features[4:], ["b"])
    assert result["earlier_unlearning_accuracy"] == 1.0 and result["unlearning_accuracy"] == 0.5
    assert result["in_domain_retain_accuracy"] == 1.0  # c alone
    assert result["fd_classifier"] == pytest.approx(0, abs=1e-6)
    assert result["recognised"] == 0.75
    back = score(torch.eye(3)[[0, 1, 1, 2, 2, 2]], features, asked, ["a", "b", "c"], ["a"], features[4:], ["b"])
    found = gates(
        BASE, BASE | {"unlearning_accuracy": 1.0} | {k: back[k] for k in ["earlier_unlearning_accuracy"]}, **LIMITS
    )
    assert [k for k, g in found.items() if not g["passed"]] == ["earlier_unlearning_accuracy"]


@pytest.mark.unit
def test_grid_is_a_picture():
    assert grid_png(torch.zeros(2, 3, 1, 8, 8), ["a", "chat noir"], "base").startswith(b"\x89PNG")
