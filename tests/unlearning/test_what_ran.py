"""What a loop does with what it is told."""

import functools

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
from erasediff.unlearning.importance import diagonal_fisher, saliency
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
    family, followed = tiny(), []
    plain = torch.optim.Adam.step

    def step(self, *arguments, **named):
        done = plain(self, *arguments, **named)
        followed.append(torch.cat([p.detach().flatten() for p in self.param_groups[0]["params"]]))
        return done

    monkeypatch.setattr(torch.optim.Adam, "step", step)
    start = flat(family[0].denoiser)
    erased = run_loop(*family, method_for("erasediff", **SHORT, ema_decay=0.5)).denoiser
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
    losses = losses_of(family, forget, retain, condition_dropout=1 - 1e-9)  # all of four
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


def stepped(monkeypatch, **settings):
    """Learning rates and lengths of gradients that the optimizer was given."""
    rates, lengths = [], []
    plain = torch.optim.Adam.step

    def step(self, *arguments, **named):
        (group,) = self.param_groups
        rates.append(group["lr"])
        lengths.append(torch.cat([p.grad.flatten() for p in group["params"]]).norm().item())
        return plain(self, *arguments, **named)

    monkeypatch.setattr(torch.optim.Adam, "step", step)
    run_loop(*tiny(), method_for("erasediff", **{**SHORT, "outer_steps": 4, **settings}))
    return rates, lengths


@pytest.mark.unit
def test_the_learning_rate_falls_to_zero_along_a_cosine(monkeypatch):
    rates, _ = stepped(monkeypatch, learning_rate=1e-3)
    assert rates == pytest.approx([1e-3, 8.5355e-4, 5e-4, 1.4645e-4], rel=1e-3)


@pytest.mark.unit
def test_no_update_is_longer_than_its_greatest_length(monkeypatch):
    _, lengths = stepped(monkeypatch, max_grad_norm=1e-3)
    assert lengths == pytest.approx([1e-3] * 4, rel=1e-2)


@pytest.mark.unit
def test_what_is_drawn_to_forget_and_to_keep_has_seeds_of_its_own(monkeypatch):
    family, _, _ = tiny()
    seeds = []
    plain = type(family).sample

    @functools.wraps(plain)
    def sample(self, prompts, these, **how):
        seeds.append(list(these))
        return plain(self, prompts, these, **{**how, "steps": 1})

    monkeypatch.setattr(type(family), "sample", sample)
    erase(family.pipeline, "a", generate=3, **{**SHORT, "forget_source": "forget"})
    forgotten, kept = seeds
    assert len(forgotten) == 3 and len(kept) == 6 and not set(forgotten) & set(kept)


@pytest.mark.unit
@pytest.mark.parametrize(("source", "forgotten"), [("forget", 6), ("mixed", 3), ("retain", 0)])
def test_the_forget_loss_is_made_from_the_pictures_that_its_source_names(source, forgotten):
    family, forget, retain = tiny()
    losses = losses_of(family, forget, retain, forget_source=source, forget_batch_size=6)
    clean = losses.forget_batch(0, generator(0, "any", 0)).clean
    known = {image.numpy().tobytes() for image in forget.images}
    assert sum(image.numpy().tobytes() in known for image in clean) == forgotten and len(clean) == 6


@pytest.mark.unit
def test_the_anchor_is_what_the_teacher_is_asked_for():
    family, forget, retain = tiny()
    asked, plain = [], family.predict

    def predict(denoiser, noisy, timesteps, condition):
        asked.append(set(condition["class_labels"].tolist()))
        return plain(denoiser, noisy, timesteps, condition)

    family.predict = predict
    losses_of(family, forget, retain, forget_target="anchor", anchor="c").forget(0)
    assert asked == [{2}, {0}]  # the teacher under c, the student under a


@pytest.mark.unit
def test_weights_of_samples_have_a_mean_of_one():
    family, forget, retain = tiny()
    losses = losses_of(family, forget, retain, forget_batch_size=4)
    plain = losses.forget(0)["forget"].item()
    losses.sample_weights = lambda errors: torch.full_like(errors, 7.0)
    assert losses.forget(0)["forget"].item() == pytest.approx(plain, rel=1e-5)


def gradients_of(losses, data, stream, n, batches):
    """Each batch's gradient of plain denoising, by autograd."""
    for step in range(batches):
        index, concepts = losses.batch(stream, step, n, data)
        clean = losses.encoded(data, index)
        noise, timesteps = draw_noise(losses.family, clean, n, slice(None), generator(0, f"{stream}-noise", step))
        noisy, target = losses.family.noised(clean, noise, timesteps)
        said = losses.family.predict(losses.denoiser, noisy, timesteps, losses.family.condition(concepts))
        found = torch.autograd.grad(F.mse_loss(said, target), list(losses.denoiser.parameters()))
        yield torch.cat([gradient.flatten() for gradient in found])


@pytest.mark.reference
def test_saliency_is_the_size_of_the_forget_set_s_gradients():
    losses = losses_of(*tiny(), forget_batch_size=2)
    expected = sum(g.abs() for g in gradients_of(losses, losses.forget_set, "saliency", 2, 2))
    found = saliency(losses, list(losses.denoiser.parameters()))
    assert torch.allclose(found, expected, rtol=1e-3, atol=1e-7)


@pytest.mark.reference
def test_fisher_information_is_the_mean_square_of_single_pictures_gradients():
    losses = losses_of(*tiny())
    expected = sum(g**2 for g in gradients_of(losses, losses.retain_set, "fisher-retain", 1, 8)) / 8
    found = diagonal_fisher(losses, losses.retain_set, list(losses.denoiser.parameters()), "retain")
    assert torch.allclose(found, expected, rtol=1e-3, atol=1e-9)
