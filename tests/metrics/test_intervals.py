"""Intervals, against other implementations; and the error of the decisions made from them, by simulation."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, pearsonr

from erasediff.evaluation import numbers
from erasediff.metrics import intervals
from erasediff.metrics.distance import Moments, frechet
from erasediff.metrics.draw import Draw
from erasediff.metrics.intervals import Estimate, difference, of_distance, outcome, pictures_needed, times, wilson
from erasediff.metrics.table import DISTANCE, GATES, HELD_OUT_VARIANCE

#: Simulated evaluations, each of a model whose truth is known.
TIMES = 10_000
#: Each end of an interval is wrong in 2.5 % of cases; a binomial has steps, and a simulation some chance of its own.
MOST = 0.025 + 0.008


def share(successes, n):
    return Estimate(successes / n, *wilson(successes, n))


@pytest.mark.reference
@pytest.mark.parametrize(("successes", "n"), [(0, 10), (3, 10), (292, 300), (300, 300), (1, 1)])
def test_the_interval_of_a_share_is_that_of_scipy(successes, n):
    expected = binomtest(successes, n).proportion_ci(0.95, method="wilson")
    assert wilson(successes, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


@pytest.mark.reference
@pytest.mark.parametrize(
    ("a", "b", "expected"),  # R. G. Newcombe, Statistics in Medicine 17 (1998) 873, table II, method 10
    [((56, 70), (48, 80), (0.0524, 0.3339)), ((9, 10), (3, 10), (0.1705, 0.8090)), ((10, 10), (0, 10), (0.6075, 1.0))],
)
def test_the_interval_of_a_difference_is_the_published_one(a, b, expected):
    found = difference(share(*a), share(*b))
    assert (found.low, found.high) == pytest.approx(expected, abs=6e-5)


@pytest.mark.reference
def test_the_correlation_of_pairs_is_that_of_scipy_and_nothing_where_one_does_not_vary():
    random = np.random.default_rng(0)
    a = random.random(50) < 0.5
    b = a ^ (random.random(50) < 0.2)
    assert intervals.correlation(a, b) == pytest.approx(pearsonr(a, b).statistic)
    assert intervals.correlation(a, np.ones(50)) == intervals.correlation([], []) == 0.0


@pytest.mark.property
@given(st.integers(1, 400), st.floats(0, 1), st.floats(0.01, 0.99))
def test_an_interval_holds_its_number_and_tells_one_thing(n, p, limit):
    found = share(round(p * n), n)
    assert 0 <= found.low <= found.value <= found.high <= 1
    told = outcome(found, limit, "min")
    opposite = Estimate(1 - found.value, 1 - found.high, 1 - found.low)
    assert told == outcome(opposite, 1 - limit, "max")
    assert (told == "passed") <= (found.value >= limit - 1e-6) and (told == "failed") <= (found.value < limit)


@pytest.mark.unit
@pytest.mark.parametrize("value", [0.9 + 0.1, 0.95, 0.91, 0.85, 0.0])
def test_the_number_of_pictures_that_would_do_does_and_a_tenth_less_does_not(value):
    needed = pictures_needed(share(value * 20, 20), 0.9, 20, share=True)
    assert outcome(Estimate(value, *wilson(value * needed, needed)), 0.9, "min") != "cannot be told"
    fewer = math.floor(0.9 * needed) - 1
    assert fewer < 1 or outcome(Estimate(value, *wilson(value * fewer, fewer)), 0.9, "min") == "cannot be told"


@pytest.mark.unit
def test_a_number_at_its_limit_needs_more_pictures_than_there_are():
    assert pictures_needed(Estimate(0.9, 0.8, 0.95), 0.9, 20, share=True) is None
    assert abs(pictures_needed(Estimate(0.02, 0.01, 0.04), 0.03, 100) - 401) <= 1  # half as wide: four times as many
    assert (
        abs(pictures_needed(Estimate(0.04, 0.02, 0.05), 0.03, 100) - 401) <= 1
    )  # the end that looks at the limit counts


@pytest.mark.unit
def test_a_ratio_to_nothing_is_finite_and_one_of_equals():
    nothing = Estimate(0.0, 0.0, 0.0)
    assert times(nothing, nothing) == Estimate(1.0, 1.0, 1.0)
    assert 1e8 < times(Estimate(1.0, 0.5, 2.0), nothing).low < math.inf
    whole = of_distance(2.0, [1.0, 3.0, 2.0])
    assert whole[0] * whole[1] == pytest.approx(4.0) and whole[0] < 2.0 < whole[1]


def decided(found, limit, direction):
    told = [outcome(it, limit, direction) for it in found]
    return {name: told.count(name) / len(told) for name in ("passed", "failed")}


@pytest.mark.unit
@pytest.mark.parametrize(("limit", "n"), [(0.9, 80), (0.9, 300), (0.5, 35), (0.9, 3000)])
def test_a_model_at_the_limit_passes_or_fails_wrongly_once_in_forty_evaluations(limit, n):
    random = np.random.default_rng(1)
    found = decided((share(int(k), n) for k in random.binomial(n, limit, TIMES)), limit, "min")
    assert found["passed"] <= MOST and found["failed"] <= MOST, found


@pytest.mark.unit
def test_a_point_would_have_passed_every_second_model_at_the_limit():
    """The decision that these intervals replace."""
    random = np.random.default_rng(1)
    assert (random.binomial(300, 0.9, TIMES) >= 270).mean() > 0.5


@pytest.mark.unit
@pytest.mark.parametrize(("base", "drop", "shared"), [(0.97, 0.03, 0.9), (0.97, 0.03, 0.0), (0.6, 0.05, 0.7)])
def test_a_drop_at_the_limit_passes_or_fails_wrongly_once_in_forty_evaluations(base, drop, shared):
    """``shared``: of the seeds, how many decide for both models alike whether a picture is recognised."""
    n, random = 900, np.random.default_rng(2)
    found = []
    for _ in range(TIMES // 20):
        u = random.random((20, n))
        v = np.where(random.random((20, n)) < shared, u, random.random((20, n)))
        before, after = u < base, v < base - drop
        for x, y in zip(before, after, strict=True):
            found.append(difference(share(x.sum(), n), share(y.sum(), n), intervals.correlation(x, y)))
    told = decided(found, drop, "max")
    assert told["passed"] <= MOST and told["failed"] <= MOST, told


def spreads(random, mean, n, resamples):
    """Fréchet distances of ``n`` numbers of N(mean, 1) to N(0, 1), in closed form: measured, and resampled."""
    x = random.normal(mean, 1, n)
    again = x[random.integers(n, size=(resamples, n))]
    return x.mean() ** 2 + (x.std() - 1) ** 2, again.mean(1) ** 2 + (again.std(1) - 1) ** 2


@pytest.mark.unit
def test_a_distance_ratio_at_the_limit_passes_or_fails_wrongly_once_in_forty_evaluations():
    random, n, limit, found = np.random.default_rng(3), 200, 1.25, []
    for _ in range(TIMES):
        base, erased = spreads(random, 0.6, n, 40), spreads(random, 0.6 * math.sqrt(limit), n, 40)
        both = [Estimate(value, *of_distance(value, replicates)) for value, replicates in (erased, base)]
        found.append(times(*both))
    told = decided(found, limit, "max")
    assert told["passed"] <= MOST and told["failed"] <= MOST, told


def ratios(random, d, n, m, base, erased, times_):
    """Ratios of Fréchet distances to ``m`` others of the same N(0, 1), of ``d`` features and ``n`` pictures a model.

    Args:
        base, erased: how far the two models truly are from N(0, 1).
    """
    found = []
    for _ in range(times_):
        held_out = Moments.of(torch.from_numpy(random.normal(size=(m, d))))
        both = []
        for true in (erased, base):
            x = torch.from_numpy(random.normal(size=(n, d)))
            x[:, 0] += math.sqrt(true)
            again = [frechet(held_out, Moments.of(x[random.integers(n, size=n)])) for _ in range(40)]
            value = frechet(held_out, Moments.of(x))
            both.append(Estimate(value, *of_distance(value, again)))
        found.append(times(*both))
    return found


@pytest.mark.unit
def test_of_the_distance_that_is_computed_a_ratio_at_the_limit_is_told_as_rightly():
    """The limit is the ratio that pictures so few, the fewest that a gate takes, measure on average."""
    found = ratios(np.random.default_rng(5), 8, DISTANCE.least, 60, 0.3, 0.45, 250)
    limit = float(np.mean([it.value for it in found]))
    told, most = decided(found, limit, "max"), 0.025 + 3 * math.sqrt(0.025 / 250)
    assert told["passed"] <= most and told["failed"] <= most, told


@pytest.mark.unit
def test_few_pictures_of_many_features_hide_a_distance():
    """Both models are too far by the same: the ratio of one twice as far is hardly above 1."""
    found = ratios(np.random.default_rng(6), 64, 300, 150, 0.3, 0.6, 5)
    assert 1.0 < float(np.mean([it.value for it in found])) < 1.05


@pytest.mark.unit
def test_pairs_tell_sooner():
    random, n = np.random.default_rng(4), 2700
    u = random.random(n)
    before, after = u < 0.97, u < 0.96
    paired = difference(share(before.sum(), n), share(after.sum(), n), intervals.correlation(before, after))
    alone = difference(share(before.sum(), n), share(after.sum(), n))
    assert paired.high - paired.low < 0.6 * (alone.high - alone.low)


def draws_of(random, apart, each, number, size, reference):
    """Draws of a model whose pictures are N(0, 1) in all features but the first, which is off by ``apart``."""
    found = []
    for _ in range(number):
        x = torch.from_numpy(random.normal(size=(size, each)))
        x[:, 0] += apart
        found.append(Draw(torch.ones(size, 1), x, ["a"] * size, "a", [], reference))
    return found


@pytest.mark.unit
def test_the_interval_of_a_distance_of_several_draws_holds_the_truth_alone_and_of_a_pair(monkeypatch):
    """Three draws: the truth is what as many pictures measure on average. Pairs: most of a picture is its seed's."""
    monkeypatch.setattr(numbers, "METRICS", {DISTANCE.name: DISTANCE})
    random, each, size, repeated = np.random.default_rng(7), 4, DISTANCE.least, 100
    held_out = torch.from_numpy(random.normal(size=(60, each)))
    alone, pairs = [], []
    for model in range(repeated):
        base = draws_of(random, 0.5, each, 3, size, held_out)
        erased = [
            replace(d, features=d.features + 0.2 * torch.from_numpy(random.normal(size=(size, each)))) for d in base
        ]
        both = [numbers.numbers_of(draws, model, 30) for draws in (base, erased)]
        before, after = (Estimate.of(it.flat, DISTANCE.name) for it in both)
        paired = intervals.correlation(*(it.readings[DISTANCE.name] for it in both))
        alone.append(before)
        pairs.append(times(after, before, paired))
    for found in (alone, pairs):
        truth = float(np.mean([it.value for it in found]))
        held = np.mean([it.low <= truth <= it.high for it in found])
        chance = 3 * math.sqrt(0.95 * 0.05 / repeated)
        assert 0.95 - chance <= held <= 0.95 + chance, held
    widths = [np.median([math.log(it.high / it.low) for it in found]) for found in (pairs, alone)]
    assert widths[0] < widths[1]


@pytest.mark.unit
def test_a_draw_has_no_share_of_its_own_so_that_draws_resampled_too_would_say_too_much_spread():
    """Means of 3 draws of 100 pictures, all of other seeds: the spread over evaluations, and what resamples say."""
    random, resamples = np.random.default_rng(8), 400
    spread = random.normal(size=(TIMES, 3, 100)).mean((1, 2)).std()
    within, both = [], []
    for _ in range(60):
        x = random.normal(size=(3, 100))
        again = np.take_along_axis(x[None], random.integers(100, size=(resamples, 3, 100)), 2).mean(2)
        within.append(again.mean(1).var())
        whole = x[random.integers(3, size=(resamples, 3, 1)), random.integers(100, size=(resamples, 3, 100))]
        both.append(whole.mean((1, 2)).var())
    assert math.sqrt(np.mean(within)) / spread == pytest.approx(1.0, abs=0.05)
    assert math.sqrt(np.mean(both)) / spread > 1.2


def risen(random, each, size, held_out, base, erased):
    """Both gates of the distance, of two models that truly are so far from N(0, 1); of equal seeds nearly all is alike.

    Returns: the ratio, the rise as a share of the variance, and that variance.
    """
    reference = torch.from_numpy(random.normal(size=(held_out, each)))
    (before,) = draws_of(random, math.sqrt(base), each, 1, size, reference)
    alike = before.features - torch.eye(each)[0] * math.sqrt(base)
    (chance,) = draws_of(random, 0.0, each, 1, size, reference)
    mixed = math.sqrt(0.9) * alike + math.sqrt(0.1) * chance.features
    after = replace(before, features=mixed + torch.eye(each)[0] * math.sqrt(erased))
    found = [numbers.numbers_of([it], 0, 30) for it in (before, after)]
    paired = {DISTANCE.name: intervals.correlation(*(it.readings[DISTANCE.name] for it in found))}
    gates = [
        GATES[name].estimate(found[0].flat, found[1].flat, paired) for name in ("fd_classifier_ratio", "distance_rise")
    ]
    return *gates, found[0].flat["held_out_variance"]


@pytest.fixture
def distances_alone(monkeypatch):
    monkeypatch.setattr(numbers, "METRICS", {it.name: it for it in (DISTANCE, HELD_OUT_VARIANCE)})


@pytest.mark.unit
def test_a_rise_at_its_limit_passes_wrongly_about_once_in_forty_and_is_no_smaller_for_few_pictures(distances_alone):
    random, repeated, rises, passed = np.random.default_rng(12), 120, [], []
    for _ in range(repeated):
        _, rise, variance = risen(random, 8, DISTANCE.least, 60, 0.3, 0.6)
        rises.append(rise.value * variance)
        passed.append(outcome(rise, 0.3 / variance, "max") == "passed")
    assert np.mean(rises) == pytest.approx(0.3, abs=3 * np.std(rises) / math.sqrt(repeated))
    assert np.mean(passed) <= 0.025 + 3 * math.sqrt(0.025 / repeated)


@pytest.mark.unit
def test_of_many_features_and_few_pictures_the_rise_tells_what_the_ratio_hides(distances_alone):
    """300 pictures beside 150, of 32 features: truly 1.0 where it was 0.3, a rise by 2 % of the variance."""
    random, limit = np.random.default_rng(13), 0.0075
    found = [risen(random, 32, 300, 150, 0.3, 1.0) for _ in range(15)]
    assert decided([it[0] for it in found], 1.25, "max")["failed"] <= 0.2
    assert decided([it[1] for it in found], limit, "max")["failed"] >= 0.8
    same = [risen(random, 32, 300, 150, 0.3, 0.3)[1] for _ in range(15)]
    assert decided(same, limit, "max")["failed"] == 0.0
