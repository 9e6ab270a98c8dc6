"""Drawing in looks: the error of the decision, by simulation of models whose truth is known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from erasediff.metrics.intervals import CONFIDENCE, Estimate, correlation, difference, exact, of_share, outcome
from erasediff.metrics.looks import confidence_of, looks_at, told

#: Simulated evaluations of each model.
TIMES = 10_000
#: Each kind of error happens in 2.5 % of them at most; a simulation has some chance of its own.
MOST = 0.025 + 0.004
LIMIT, A_DRAW = 0.9, 100
LOOKS = looks_at(2, 16)


@pytest.mark.property
@given(st.integers(1, 100), st.integers(0, 100))
def test_looks_rise_from_one_draw_to_the_most_and_as_planned_is_one_of_them(draws, more):
    found = looks_at(draws, draws + more)
    assert found[0] == 1 and found[-1] == draws + more and draws in found
    assert list(found) == sorted(set(found)) and len(found) <= 2 + 2 * np.ceil(np.log2(draws + more + 1))
    assert looks_at(draws, None) == (draws,)


def decided(truth, confidence, looks=LOOKS):
    """``(share passed, share failed, mean pictures)`` of evaluations that stop at the first look that tells."""
    random = np.random.default_rng(0)
    seen, so_far, number = np.zeros(TIMES, int), 0, np.zeros(TIMES)
    result, open_ = np.full(TIMES, "cannot be told"), np.ones(TIMES, bool)
    for look in looks:
        seen += random.binomial((look - so_far) * A_DRAW, truth, TIMES)
        so_far, n = look, look * A_DRAW
        answers = {k: told(int(k), n, LIMIT, confidence) for k in np.unique(seen[open_])}
        result[open_], number[open_] = [answers[k] for k in seen[open_]], n
        open_ = result == "cannot be told"
    return (result == "passed").mean(), (result == "failed").mean(), number.mean()


@pytest.mark.unit
@pytest.mark.parametrize("looks", [looks_at(1, 4), LOOKS, looks_at(3, 100)])
def test_a_model_at_the_limit_passes_or_fails_wrongly_once_in_forty_however_often_it_is_looked_at(looks):
    passed, failed, _ = decided(LIMIT, confidence_of(len(looks)), looks)
    assert passed <= MOST and failed <= MOST, (passed, failed)


@pytest.mark.unit
def test_a_model_beyond_the_limit_is_decided_wrongly_hardly_ever():
    for truth in (0.88, 0.8, 0.5):
        assert decided(truth, confidence_of(len(LOOKS)))[0] < 0.002
    for truth in (0.92, 0.97):
        assert decided(truth, confidence_of(len(LOOKS)))[1] < 0.002


@pytest.mark.unit
def test_looking_as_if_each_look_were_the_only_one_would_err_twice_as_often():
    passed, failed, _ = decided(LIMIT, CONFIDENCE)
    assert passed + failed > 2 * 0.05


@pytest.mark.unit
def test_what_is_sure_is_drawn_once_and_what_is_near_the_limit_is_drawn_on():
    pictures = {truth: decided(truth, confidence_of(len(LOOKS)))[2] for truth in (0.2, 0.6, 0.8, 0.9, 0.97, 1.0)}
    assert pictures[0.2] == pictures[0.6] == A_DRAW and pictures[1.0] == A_DRAW
    assert pictures[0.8] < 2 * A_DRAW and pictures[0.97] < 4 * A_DRAW and pictures[0.9] > 15 * A_DRAW
    fixed = decided(0.94, CONFIDENCE, (2,))
    looked = decided(0.94, confidence_of(len(LOOKS)))
    assert fixed[0] < 0.6 and looked[0] > 0.98 and looked[2] < 8 * A_DRAW  # told, where two draws do not tell


@pytest.mark.unit
def test_a_drop_that_is_looked_at_when_something_else_stopped_the_drawing_errs_no_more_often():
    """The gate of a drop at its limit, read where the drawing stopped: at the look that makes it look best."""
    looks, base, drop, shared = (1, 2, 4), 0.97, 0.03, 0.8
    random, sure, n = np.random.default_rng(5), confidence_of(3), 300
    wrong = {"passed": 0, "failed": 0}
    times = TIMES // 10
    for _ in range(times):
        u = random.random(looks[-1] * n)
        v = np.where(random.random(len(u)) < shared, u, random.random(len(u)))
        before, after = u < base, v < base - drop
        outcomes = set()
        for look in looks:
            x, y = before[: look * n], after[: look * n]
            ends = [Estimate(a.mean(), *of_share(int(a.sum()), len(a), sure)) for a in (x, y)]
            outcomes.add(outcome(difference(*ends, correlation(x, y)), drop, "max"))
        for name in wrong:
            wrong[name] += name in outcomes
    assert all(count / times <= 0.025 + 0.012 for count in wrong.values()), wrong


@pytest.mark.unit
def test_nothing_is_told_of_fewer_pictures_than_a_metric_needs():
    assert told(29, 29, 0.5, CONFIDENCE, least=30) == "cannot be told" and told(30, 30, 0.5, CONFIDENCE, 30) == "passed"
    assert told(0, 30, 0.5, CONFIDENCE, 30) == "failed"


@pytest.mark.reference
@pytest.mark.parametrize(("successes", "n"), [(0, 10), (3, 10), (292, 300), (300, 300)])
def test_the_exact_interval_is_that_of_scipy(successes, n):
    expected = binomtest(successes, n).proportion_ci(0.99, method="exact")
    assert exact(successes, n, 0.99) == pytest.approx((expected.low, expected.high), abs=1e-12)
