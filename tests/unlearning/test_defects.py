"""What is known to go wrong in public code of this method: each has a check here, and each check fails on such code.

A mutant is the product with one such defect put in; the test of the tests is that some check catches it.
"""

import copy
import math
import subprocess
import sys

import pytest
import torch
from accelerate import Accelerator

from erasediff import randomness
from erasediff.data.concept_images import ConceptImages
from erasediff.families import family_of
from erasediff.families.class_conditional import build_pipeline
from erasediff.families.family import NoiseSchedule
from erasediff.unlearning import loop, method_for, multipliers, targets
from erasediff.unlearning import losses as losses_module

SMALL = {"outer_steps": 4, "forget_batch_size": 3, "retain_batch_size": 5}


class Pictures:
    """Images that note which of them were asked for."""

    def __init__(self, n):
        self.images = torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(n)) * 2 - 1
        self.seen = set()

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        self.seen |= set(index.tolist())
        return self.images[index]


def tiny():
    """A family, forget set and retain set; the retained concepts are three."""
    names = ["a", "b", "c", "d"]
    small = {"block_out_channels": (8, 16), "attention": (False, False), "norm_num_groups": 4}
    family = family_of(build_pipeline(names, (1, 8, 8), **small))
    retain = ConceptImages(Pictures(12), ["b"] * 4 + ["c"] * 4 + ["d"] * 4)
    return family, ConceptImages(Pictures(9), ["a"] * 9), retain


def flat(denoiser):
    return torch.cat([p.detach().flatten() for p in denoiser.parameters()])


def losses_of(family, forget, retain, **settings):
    chosen = method_for("erasediff", **settings)
    denoiser = copy.deepcopy(family.denoiser)
    return loop.Losses(family, denoiser, forget, retain, chosen.settings, 0, Accelerator(), chosen.sample_weights)


def check_every_update_shrinks_the_constraint():
    draw = torch.Generator().manual_seed(0)
    for eta in (0.1, 1.0):
        for _ in range(50):
            retain, gap = torch.randn(2, 6, generator=draw)
            direction, _, row = loop.update_direction(retain, gap, method_for("erasediff", eta=eta))
            assert row["multiplier"] >= 0
            assert gap @ direction >= eta * gap @ gap - 1e-4


def check_each_batch_has_its_own_timesteps():
    family, forget, retain = tiny()
    drawn = []
    plain = family.timesteps
    family.timesteps = lambda n, draw: drawn.append(plain(n, draw)) or drawn[-1]
    losses = losses_of(family, forget, retain, forget_batch_size=6, retain_batch_size=6)
    losses.retain(0), losses.forget(0)
    assert not torch.equal(*drawn)
    losses = losses_of(family, forget, retain, forget_batch_size=2, retain_batch_size=6)
    losses.retain(1), losses.forget(1)
    assert [len(d) for d in drawn[2:]] == [6, 2]


def check_the_teacher_is_the_frozen_base():
    family, forget, retain = tiny()
    base, family.denoiser.training = flat(family.denoiser), True
    seen = []

    def predict(denoiser, *arguments, plain=family.predict):
        seen.append((denoiser.training, torch.is_grad_enabled(), torch.equal(flat(denoiser), base)))
        return plain(denoiser, *arguments)

    family.predict = predict
    loop.run_loop(family, forget, retain, method_for("erasediff", **SMALL))
    taught = [s for s in seen if not s[1]]
    # Two forward passes of the teacher an update, without a graph; two of the student; and no other.
    assert len(taught) == 2 * 4 and len(seen) == 4 * 4
    assert set(taught) == {(False, False, True)}
    assert not any(s[0] for s in seen)


def check_the_whole_of_both_sets_is_seen():
    family, forget, retain = tiny()
    loop.run_loop(family, forget, retain, method_for("erasediff", **SMALL, forget_source="forget"))
    assert forget.images.seen == set(range(9)) and retain.images.seen == set(range(12))


def check_measuring_the_gap_leaves_nothing_behind():
    def erased(**settings):
        return flat(loop.run_loop(*tiny(), method_for("erasediff", **SMALL, **settings)).denoiser)

    assert torch.equal(erased(), erased(gap_every=1))
    # More inner steps move the measured gap alone.
    assert torch.equal(erased(gap_every=1, inner_steps=1), erased(gap_every=1, inner_steps=3))


def check_each_sample_is_relabelled_by_itself():
    forget_concepts = ["a"] * 30 + ["c"] * 30
    drawn = targets.mismatched(forget_concepts, ["a", "b", "c"], torch.Generator().manual_seed(0))
    assert all(other != concept for other, concept in zip(drawn, forget_concepts, strict=True))
    assert len(set(drawn[:30])) == 2


def check_uniform_noise_is_uniform():
    family, forget, retain = tiny()
    chosen = {"forget_target": "uniform_noise", "forget_source": "forget", "forget_batch_size": 500}
    losses, seen = losses_of(family, forget, retain, **chosen), []
    plain = losses_module.forget_target
    try:
        losses_module.forget_target = lambda *arguments, **named: seen.append(plain(*arguments, **named)) or seen[-1]
        losses.forget(0)
    finally:
        losses_module.forget_target = plain
    (noise,) = seen
    assert noise.min() >= 0 and noise.max() < 1
    assert (noise.mean().item(), noise.std().item()) == pytest.approx((0.5, 12**-0.5), abs=0.01)


def check_a_parameter_that_no_loss_reaches_is_no_error():
    family, forget, retain = tiny()
    family.denoiser.register_parameter("unused", torch.nn.Parameter(torch.ones(2)))
    denoiser = loop.run_loop(family, forget, retain, method_for("erasediff", **SMALL)).denoiser
    assert denoiser.unused.tolist() == [1, 1] and not torch.equal(flat(denoiser), flat(family.denoiser))


CHECKS = {name.removeprefix("check_"): check for name, check in list(globals().items()) if name.startswith("check_")}


def flipped(patch):
    plain = multipliers.paper_multiplier
    patch.setattr(multipliers, "paper_multiplier", lambda r, g, eta: -plain(r, g, eta=eta))


def cosine(patch):
    patch.setattr(multipliers, "paper_multiplier", multipliers.cosine_multiplier)


def retain_timesteps_for_forget(patch):
    drawn = {}
    plain = NoiseSchedule.timesteps
    patch.setattr(NoiseSchedule, "timesteps", lambda self, n, draw: drawn.setdefault(id(self), plain(self, n, draw)))


def teacher(change):
    def put_in(patch):
        plain = loop.Losses.__init__

        def broken(self, *arguments, **named):
            plain(self, *arguments, **named)
            change(self)

        patch.setattr(loop.Losses, "__init__", broken)

    return put_in


def in_train_mode(losses):
    losses.teacher.train()


def moving(losses):
    losses.teacher = losses.denoiser


def always_the_first_batch(patch):
    plain = randomness.batch_indices

    def first(n, size, *, seed, stream, step):
        return plain(n, size, seed=seed, stream=stream, step=0)

    patch.setattr(randomness, "batch_indices", first)


def inner_loop_in_the_optimizer(patch):
    """The inner steps are taken by the training's own optimizer; then weights and gradients alone are put back."""
    made, plain = [], torch.optim.Adam
    patch.setattr(torch.optim, "Adam", lambda *arguments, **named: made.append(plain(*arguments, **named)) or made[-1])

    def broken(self, step, trainable):
        kept = [(p.detach().clone(), p.grad) for p in trainable.values()]
        for _ in range(self.settings.inner_steps):
            made[-1].zero_grad()
            self.forget(step)["forget"].backward()
            made[-1].step()
        with torch.no_grad():
            for parameter, (value, grad) in zip(trainable.values(), kept, strict=True):
                parameter.copy_(value)
                parameter.grad = grad
        return 0.0

    patch.setattr(loop.Losses, "constraint_gap", broken)


def one_label_a_batch(patch):
    patch.setattr(targets, "mismatched", lambda concepts, choices, generator, **how: [choices[1]] * len(concepts))


def normal_noise(patch):
    patch.setattr(torch, "rand", lambda *shape, generator: torch.randn(*shape, generator=generator))


def every_parameter_must_be_used(patch):
    def broken(total, loss, parameters, *, again):
        grads = torch.autograd.grad(loss, parameters, retain_graph=again)
        return total.add_(torch.cat([grad.flatten() for grad in grads]))

    patch.setattr(loop, "add_gradient", broken)


MUTANTS = {
    "λ with its sign flipped": flipped,
    "λ by the cosine": cosine,
    "the retain batch's timesteps for the forget batch": retain_timesteps_for_forget,
    "the teacher in train mode": teacher(in_train_mode),
    "the moving model as teacher": teacher(moving),
    "always the first batch": always_the_first_batch,
    "the inner loop in the training's optimizer": inner_loop_in_the_optimizer,
    "one wrong label a batch": one_label_a_batch,
    "normal noise called uniform": normal_noise,
    "a gradient of every parameter": every_parameter_must_be_used,
}


@pytest.mark.unit
@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_the_product(check):
    check()


@pytest.mark.unit
@pytest.mark.parametrize("mutant", MUTANTS.values(), ids=MUTANTS)
def test_a_mutant_is_caught(mutant, monkeypatch):
    mutant(monkeypatch)
    assert any(fails(check) for check in CHECKS.values())


def fails(check):
    try:
        check()
    except (AssertionError, RuntimeError):
        return True
    return False


@pytest.mark.unit
@pytest.mark.parametrize("raised", ["NameError('criteria')", "DataError('it is broken')"])
def test_a_stage_never_exits_with_0_after_a_failure(raised):
    code = f"from stages.door import run_door; from erasediff.errors import DataError\ndef main(): raise {raised}\n"
    done = subprocess.run(
        [sys.executable, "-c", code + "run_door('erase', main, None)"], capture_output=True, text=True
    )
    assert done.returncode == 1 and raised.split("(")[0] in done.stderr
    assert ("Traceback" in done.stderr) == ("NameError" in raised)


@pytest.mark.unit
def test_no_loss_is_nan_unless_it_was_not_computed():
    rows = []
    for method in ("erasediff", "finetune", "neggrad"):
        loop.run_loop(*tiny(), method_for(method, **SMALL), on_step=lambda step, row: rows.append(row))
    missing = [{k for k in ("retain_loss", "forget_loss") if math.isnan(row[k])} for row in rows]
    assert missing == [set()] * 4 + [{"forget_loss"}] * 4 + [{"retain_loss"}] * 4
