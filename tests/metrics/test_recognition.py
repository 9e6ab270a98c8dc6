import pytest
import torch

from erasediff.metrics import recognition
from erasediff.metrics.draw import Draw


def mean(readings):
    return readings.double().mean().item()


def draw(probabilities, asked, forgotten=(), earlier=()):
    rows = torch.tensor(probabilities)
    return Draw(rows, rows, asked, ("a", "b", "c"), forgotten, rows, earlier)


@pytest.mark.unit
def test_seen_as_another_forgotten_concept_is_not_forgotten():
    found = draw([[0.1, 0.8, 0.1], [0.1, 0.1, 0.8]], ["a", "a"], forgotten=["a", "b"])
    assert mean(recognition.unlearning_accuracy(found)) == 0.5
    assert mean(recognition.forget_class_probability(found)) == pytest.approx((0.9 + 0.2) / 2)


@pytest.mark.unit
def test_the_entropy_of_a_judge_that_cannot_tell_is_that_of_a_fair_die():
    found = draw([[1 / 3, 1 / 3, 1 / 3]], ["a"], forgotten=["a"])
    assert mean(recognition.forget_class_entropy_nats(found)) == pytest.approx(torch.tensor(3.0).log().item())


@pytest.mark.unit
def test_without_a_concept_to_forget_there_is_nothing_to_say_of_forgetting():
    found = draw([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]], ["a", "b"])
    for metric in ("unlearning_accuracy", "forget_class_probability", "forget_class_entropy_nats"):
        assert getattr(recognition, metric)(found) is None
    assert recognition.earlier_unlearning_accuracy(found) is None
    assert {c: mean(v) for c, v in recognition.accuracy(found).items()} == {"a": 1.0, "b": 0.0}  # c was not asked for


@pytest.mark.unit
def test_of_several_forgotten_concepts_each_counts_and_neither_passes_for_the_other():
    a, b, c = torch.eye(3).tolist()
    found = draw([b, c, b, a, c, c], ["a", "a", "b", "b", "c", "c"], forgotten=["a", "b"])
    assert mean(recognition.unlearning_accuracy(found)) == 0.25
    assert mean(recognition.forget_class_probability(found)) == 0.75
    assert mean(recognition.in_domain_retain_accuracy(found)) == 1.0
    again = draw([b, c, b, a, c, c], ["a", "a", "b", "b", "c", "c"], forgotten=["b", "a"])
    assert mean(recognition.unlearning_accuracy(again)) == 0.25  # in whatever order they are named
    before = draw([b, c, b, a, c, c], ["a", "a", "b", "b", "c", "c"], earlier=["a", "b"])
    assert mean(recognition.earlier_unlearning_accuracy(before)) == 0.25
    assert mean(recognition.recognised(before)) == mean(recognition.in_domain_retain_accuracy(before)) == 1.0


@pytest.mark.unit
def test_a_retained_concept_that_turns_into_another_is_not_retained():
    a, b, c = torch.eye(3).tolist()
    found = draw([a, c, b], ["a", "b", "c"], forgotten=["a"])
    assert mean(recognition.in_domain_retain_accuracy(found)) == 0.0
    assert mean(recognition.recognised(found)) == pytest.approx(1 / 3)
    assert {c: mean(v) for c, v in recognition.accuracy(found).items()} == {"a": 1.0, "b": 0.0, "c": 0.0}
