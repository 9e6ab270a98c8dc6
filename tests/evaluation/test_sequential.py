"""Drawing stops where the decision is sure, and goes on where it is not."""

import pytest
import torch
from dealing import LIMITS, PROTOCOL, Dealer, Nearest, World, evaluated, forgetting, measured, shorter

from erasediff.errors import IntegrityError
from erasediff.evaluation.measure import Measuring, Reader, measure
from erasediff.evaluation.sequential import until_told
from erasediff.records import FAILED, PASSED, UNDECIDED

LOOKING = shorter(PROTOCOL, samples_per_concept=40, draws=2, max_draws=4, decide_at=0.9)
PLANNED = shorter(LOOKING, max_draws=None, decide_at=None)


@pytest.fixture(scope="module")
def world(digits):
    return World(digits)


def every(world, nth):
    """A model that draws an 8 as before for every so many."""
    good = Dealer(world)

    def deal(seeds):
        as_before = (torch.tensor(seeds) % nth == 0)[:, None, None, None]
        return torch.where(as_before, good.deal("8", seeds), good.deal("3", [s + 1 for s in seeds]))

    return forgetting(world, of_8=deal)


@pytest.mark.unit
@pytest.mark.parametrize(
    ("nth", "draws"), [(1, 1), (2, 1), (10, 4), (10**9, 2)], ids=["not at all", "half", "at the limit", "for good"]
)
def test_the_erased_model_is_drawn_as_far_as_its_forgetting_needs(nth, draws, world):
    found = measured(every(world, nth), world, LOOKING)
    assert found.protocol["drawn_pictures"] == 400 * draws
    assert found.protocol["confidence"] == pytest.approx(1 - 0.05 / 3) and found.protocol["max_draws"] == 4


@pytest.mark.unit
def test_a_model_that_passes_at_an_early_look_is_drawn_as_planned_all_the_same(world):
    """Its other numbers need the pictures that were planned; 60 tell its forgetting already."""
    assert (
        measured(forgetting(world), world, shorter(LOOKING, samples_per_concept=60)).protocol["drawn_pictures"] == 1200
    )


@pytest.mark.unit
def test_an_interval_that_is_looked_at_repeatedly_is_wider_and_the_number_is_the_same(world):
    how = {"draw_on": False, "on_progress": lambda n: None}
    found = measure(Dealer(world), Nearest(world), world.plan(), LOOKING, **how)
    wide, narrow = found.numbers.flat, measured(Dealer(world), world, PLANNED).numbers.flat
    assert found.protocol["drawn_pictures"] == 800 and wide["recognised"] == narrow["recognised"]
    for name in ("recognised", "fd_classifier", "kid_classifier", "forget_class_entropy_nats"):
        assert wide[f"{name}_low"] <= narrow[f"{name}_low"] <= narrow[f"{name}_high"] <= wide[f"{name}_high"]
    assert (
        wide["recognised_low"] < narrow["recognised_low"] and wide["fd_classifier_high"] > narrow["fd_classifier_high"]
    )


@pytest.mark.unit
def test_models_of_different_numbers_of_draws_are_held_against_each_other(world):
    base = measure(Dealer(world), Nearest(world), world.plan(), LOOKING, draw_on=False, on_progress=lambda n: None)
    failed = evaluated(base, measured(Dealer(world), world, LOOKING))
    assert failed.outcome == FAILED and failed.pairing["in_domain_retain_accuracy"] == pytest.approx(0.5**0.5)
    assert "fd_classifier" not in failed.pairing and failed.counts["in_domain_retain_accuracy"] == 360
    with pytest.raises(IntegrityError, match="measured with different decide_at"):
        evaluated(base, measured(Dealer(world), world, shorter(LOOKING, decide_at=0.8)))


def side_by_side(world, erased, protocol, **limits):
    reader = Reader(Nearest(world), world.plan())
    pair = Measuring(Dealer(world), reader, protocol), Measuring(erased, reader, protocol)
    evaluation, before, after = until_told(*pair, {"fingerprint": "nearest"}, LIMITS | limits)
    assert before.protocol["drawn_pictures"] == after.protocol["drawn_pictures"]
    return evaluation.outcome, after.protocol["drawn_pictures"] // 400


@pytest.mark.unit
def test_both_models_are_drawn_until_the_whole_verdict_is_sure(world):
    most = shorter(LOOKING, draws=1, max_draws=2)
    assert side_by_side(world, Dealer(world), most) == (FAILED, 1)
    assert side_by_side(world, every(world, 10), most) == (UNDECIDED, 2)
    assert side_by_side(world, forgetting(world), most) == (PASSED, 2)
    with pytest.raises(ValueError, match="under one protocol"):
        reader = Reader(Nearest(world), world.plan())
        until_told(Measuring(Dealer(world), reader, LOOKING), Measuring(Dealer(world), reader, PROTOCOL), {}, LIMITS)
