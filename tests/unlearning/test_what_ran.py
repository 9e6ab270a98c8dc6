"""What a loop does with what it is told."""

import copy

import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator

from erasediff import erase
from erasediff.data.concept_images import ConceptImages
from erasediff.families import family_of
from erasediff.families.class_conditional import build_pipeline
from erasediff.randomness import generator
from erasediff.training.state import draw_noise
from erasediff.unlearning import method_for
from erasediff.unlearning.loop import run_loop
from erasediff.unlearning.losses import Losses
from stages.params import load_params

SHORT = {"outer_steps": 3, "forget_batch_size": 3, "retain_batch_size": 4}


def tiny():
    small = {"block_out_channels": (8, 16), "attention": (False, False), "norm_num_groups": 4}
    family = family_of(build_pipeline(["a", "b", "c"], (1, 8, 8), **small))
    images = torch.rand(12, 1, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1
    return family, ConceptImages(images[:4], ["a"] * 4), ConceptImages(images[4:], ["b", "c"] * 4)


def flat(denoiser):
    return torch.cat([p.detach().flatten() for p in denoiser.parameters()])


def losses_of(family, forget, retain, **settings):
    method = method_for("erasediff", **{**SHORT, **settings})
    return Losses(family, family.denoiser, forget, retain, method.settings, 0, Accelerator(), method.sample_weights)


@pytest.mark.unit
def test_the_erased_weights_are_the_average(monkeypatch):
    """θ̄ ← d θ̄ + (1 − d) θ with d = min(decay, (1 + k) / (10 + k)) at the k-th update."""
    family, followed, students = tiny(), [], []
    plain = copy.deepcopy

    def noting(value, *memo):
        made = plain(value, *memo)
        if isinstance(value, type(family[0].denoiser)):
            students.append(made)
        return made

    monkeypatch.setattr("erasediff.unlearning.loop.copy.deepcopy", noting)
    start = flat(family[0].denoiser)
    method = method_for("erasediff", **SHORT, ema_decay=0.5)
    erased = run_loop(*family, method, on_step=lambda *_: followed.append(flat(students[0]))).denoiser
    average = start
    for k, weights in enumerate(followed):
        decay = 0.0 if k == 0 else min(0.5, (1 + k) / (10 + k))
        average = decay * average + (1 - decay) * weights
    assert torch.allclose(flat(erased), average, atol=1e-6)
    assert not torch.allclose(flat(erased), followed[-1], atol=1e-5)


@pytest.mark.unit
def test_a_dropped_condition_is_taught_by_the_noise_and_never_by_the_teacher():
    """Without a condition the teacher draws what is to be forgotten too."""
    family, forget, retain = tiny()
    losses = losses_of(family, forget, retain, condition_dropout=1.0)
    index, _ = losses.batch("retain", 0, 4, retain)
    clean = losses.encoded(retain, index)
    noise, timesteps = draw_noise(family, clean, 4, slice(None), generator(0, "retain-noise", 0))
    noisy, target = family.noised(clean, noise, timesteps)
    with torch.no_grad():
        expected = F.mse_loss(family.predict(family.denoiser, noisy, timesteps, family.condition([""] * 4)), target)
        assert losses.retain(0)["retain"].item() == pytest.approx(expected.item(), rel=1e-5)
        assert losses_of(family, forget, retain, condition_dropout=0.0).retain(0)["retain"].item() < 1e-10


@pytest.mark.unit
@pytest.mark.parametrize("weight", [0.0, 3.5])
def test_the_fixed_multiplier_of_params_is_the_weight_of_every_update(weight):
    given = load_params().erase.model_copy(update={"multiplier": "fixed", "fixed_multiplier": weight})
    method = method_for("erasediff", **{**given.settings(), **SHORT})
    rows = []
    run_loop(*tiny(), method, on_step=lambda step, row: rows.append(row["multiplier"]))
    assert rows == [weight] * 3


@pytest.mark.unit
def test_every_setting_of_params_reaches_the_loop():
    """Each entry of the section but those of the plan; a value that is no default."""
    section = load_params().erase
    changed = {"eta": 0.25, "outer_steps": 7, "learning_rate": 1e-6, "max_grad_norm": 0.125, "retain_batch_size": 5}
    changed |= {"forget_batch_size": 6, "ema_decay": 0.625, "condition_dropout": 0.375, "forget_source": "mixed"}
    settings = method_for("erasediff", **section.model_copy(update=changed).settings()).settings
    assert {name: getattr(settings, name) for name in changed} == changed


@pytest.mark.unit
def test_the_pipeline_given_is_left_as_it_was_and_the_result_is_another():
    family, forget, retain = tiny()
    before, modes = flat(family.denoiser), family.denoiser.training
    frozen = [p.requires_grad for p in family.denoiser.parameters()]
    result = erase(family.pipeline, "a", forget=forget, retain=retain, **SHORT)
    assert torch.equal(flat(family.denoiser), before) and family.denoiser.training == modes
    assert [p.requires_grad for p in family.denoiser.parameters()] == frozen
    assert not torch.equal(flat(result.pipeline.unet), before)
