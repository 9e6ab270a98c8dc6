"""What each setting of the loop does, and what it costs."""

import copy
import math

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from erasediff.data.concept_images import ConceptImages
from erasediff.unlearning import METHODS, erase, planned, settings_for
from erasediff.unlearning.importance import TIMESTEP_PARTS, add_gradient, timestep_density
from erasediff.unlearning.loop import Losses, run_loop, trainable_parameters, update_direction
from erasediff.unlearning.timesteps import draw_timesteps, part_of

SMALL = {"outer_steps": 4, "forget_batch_size": 3, "retain_batch_size": 5, "fisher_samples": 2}


def pictures(n, concepts, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return ConceptImages(
        torch.rand(n, 1, 8, 8, generator=draw) * 2 - 1, [concepts[i % len(concepts)] for i in range(n)]
    )


@pytest.fixture
def data():
    return {"forget": pictures(4, "a"), "retain": pictures(7, "bc", seed=1)}


def flat(denoiser):
    return torch.cat([p.detach().flatten() for p in denoiser.parameters()])


def losses_of(family, data, method="erasediff", **settings):
    chosen = settings_for(method, **{**SMALL, **settings})
    return Losses(family, copy.deepcopy(family.denoiser), *data.values(), chosen, 0, Accelerator())


#: Settings that cost something, for methods that neither fix them nor lack what they are for.
COSTLY = [
    {"timestep_sampling": "importance"},
    {"mask": "saliency"},
    {"repeat": 3},
    {"repeat": 2, "teacher": "moving"},
    {"retain_every": 2},
    {"repeat": 2, "retain_every": 3},
]
TAUGHT = ["erasediff", "graddiff", "munba", "esd"]


@pytest.mark.unit
@pytest.mark.parametrize(
    "method, settings",
    [(m, {}) for m in sorted(set(METHODS) - {"retrain"})]
    + [(m, c) for m in TAUGHT for c in COSTLY]
    + [
        (m, {"shared_batch": True, "retain_batch_size": 3, "repeat": n}) for m in ("erasediff", "munba") for n in (1, 2)
    ],
    ids=str,
)
def test_the_passes_are_those_that_are_made(method, settings, family, data):
    """Counted at the network: a forward pass with a graph is followed by a backward pass a loss, of twice the cost."""
    forward, backward = [], []

    def predict(denoiser, noisy, *arguments, plain=family.predict):
        prediction = plain(denoiser, noisy, *arguments)
        forward.append(len(noisy))
        if prediction.requires_grad:
            prediction.register_hook(lambda grad: backward.append(len(noisy)))
        return prediction

    family.predict = predict
    run_loop(family, *data.values(), settings_for(method, **{**SMALL, **settings}))
    updates, passes = planned(method, 4, 7, None, {}, **{**SMALL, **settings})
    assert (updates, passes) == (4, sum(forward) + 2 * sum(backward))


@pytest.mark.unit
@pytest.mark.parametrize("method", sorted(set(METHODS) - {"retrain"}))
def test_a_budget_is_used_and_not_exceeded(method):
    updates, passes = planned(method, 100, 900, 50_000, {})
    one_more = planned(method, 100, 900, None, {}, outer_steps=updates + 1)[1]
    assert 0 < passes <= 50_000 < one_more
    assert planned("retrain", 100, 900, 1, {"steps": 10, "batch_size": 4}) == (10, 120)


@pytest.mark.unit
@pytest.mark.parametrize("multiplier", ["paper", "cosine", "fixed"])
def test_unit_gradients_join_directions_not_sizes(multiplier):
    """The sizes of the losses do not matter, and the paper's rule is the cosine's, with the guarantee."""
    draw = torch.Generator().manual_seed(0)
    retain, forget = torch.randn(2, 50, generator=draw)
    forget -= 0.5 * retain
    settings = settings_for("erasediff", unit_gradients=True, multiplier=multiplier, eta=0.6)
    joined, _, row = update_direction(retain.clone(), forget.clone(), settings)
    larger, _, other = update_direction(1e3 * retain, 1e-3 * forget, settings)
    cosine = torch.cosine_similarity(retain, forget, dim=0).item()
    assert cosine < 0
    assert row["gradient_cosine"] == pytest.approx(cosine, abs=1e-6) == other["gradient_cosine"]
    assert row["multiplier"] == pytest.approx(0.6 if multiplier == "fixed" else 0.6 - cosine, abs=1e-6)
    assert row["forget_grad_norm"] == pytest.approx(forget.norm().item())
    torch.testing.assert_close(joined, larger)
    if multiplier != "fixed":
        assert torch.dot(joined, forget / forget.norm()).item() == pytest.approx(0.6, abs=1e-5)
    torch.testing.assert_close(update_direction(retain.clone(), 0 * forget, settings)[0], retain / retain.norm())


@pytest.mark.unit
def test_a_batch_in_parts_is_the_batch(family, data):
    sizes = {"forget_batch_size": 6, "retain_batch_size": 7, "outer_steps": 4, "gap_every": 2}
    rows = {}
    for parts in (1, 3):
        rows[parts] = []
        settings = settings_for("erasediff", **sizes, accumulate=parts, forget_source="mixed")
        denoiser = run_loop(family, *data.values(), settings, on_step=lambda step, row, r=rows[parts]: r.append(row))
        rows[parts].append(flat(denoiser))
    assert torch.allclose(rows[1].pop(), rows[3].pop(), atol=1e-5)
    for one, three in zip(rows[1], rows[3], strict=True):
        for name in ("retain_loss", "forget_loss", "multiplier", "gradient_cosine", "constraint_gap"):
            assert three[name] == pytest.approx(one[name], abs=1e-5, nan_ok=True)
    with pytest.raises(ValueError, match="a batch of 2 cannot be computed in 3 parts: lower accumulate"):
        settings_for("erasediff", forget_batch_size=2, accumulate=3)


@pytest.mark.unit
@pytest.mark.parametrize("method", ["erasediff", "siss"])
def test_gradient_checkpointing_keeps_less_and_changes_nothing(family, data, method):
    kept, weights, passes = {}, {}, {}
    for on in (False, True):
        settings = settings_for(method, **SMALL, gradient_checkpointing=on)
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x, s=sizes: s.append(x.nbytes) or x, lambda x: x):
            weights[on] = flat(run_loop(family, *data.values(), settings))
        kept[on], passes[on] = sum(sizes), planned(method, 4, 7, None, {}, **SMALL, gradient_checkpointing=on)[1]
    assert torch.equal(weights[False], weights[True])
    assert kept[True] < 0.5 * kept[False]
    assert passes[True] > passes[False]
    assert not family.denoiser.is_gradient_checkpointing


@pytest.mark.unit
def test_a_batch_may_be_used_for_several_updates(family, data):
    losses = losses_of(family, data, repeat=2, forget_target="uniform_noise", forget_source="forget")
    values = [losses.forget(step)["forget"].item() for step in range(4)]
    assert values[0] == values[1] != values[2] == values[3]
    fresh = losses_of(family, data, forget_target="uniform_noise", forget_source="forget")
    assert [fresh.forget(step)["forget"].item() for step in range(2)] == [values[0], values[2]]


@pytest.mark.unit
def test_a_batch_may_serve_both_losses(family, data):
    """The same x_t under its own concept and under the forgotten one; the teacher answers once, as it would anew."""
    asked = []
    plain = family.predict

    def predict(denoiser, noisy, timesteps, condition):
        asked.append((denoiser is family.denoiser, noisy, timesteps, condition))
        return plain(denoiser, noisy, timesteps, condition)

    family.predict = predict
    losses = losses_of(family, data, shared_batch=True, forget_batch_size=5, accumulate=2, condition_dropout=0.0)
    (retain, forget) = (losses.retain(5, 1)["retain"], losses.forget(5, 1)["forget"])
    assert [teacher for teacher, *_ in asked] == [True, False, False]
    for _, noisy, timesteps, _ in asked[1:]:
        assert torch.equal(noisy, asked[0][1]) and torch.equal(timesteps, asked[0][2])
    _, noisy, timesteps, own = asked[0]
    error = plain(losses.denoiser, noisy, timesteps, family.condition(["a"])) - plain(
        family.denoiser, noisy, timesteps, own
    )
    assert torch.isclose(forget, error.square().sum() / (5 * 64)) and retain == 0
    with pytest.raises(ValueError, match="shared_batch goes with forget_source retain alone, not forget"):
        settings_for("graddiff", shared_batch=True)
    with pytest.raises(ValueError, match="shared_batch goes with forget_batch_size 64 alone, not 32"):
        settings_for("erasediff", shared_batch=True, forget_batch_size=32)


class Last:
    """A checkpoint in memory, of one step, with the training ended there."""

    def __init__(self, every):
        self.every, self.state = every, None

    def load(self):
        return self.state

    def save(self, state):
        self.state = {name: value.clone() for name, value in state.items()}
        raise KeyboardInterrupt


@pytest.mark.unit
@pytest.mark.parametrize("stopped", [1, 2, 3])
def test_a_retain_gradient_is_used_again(family, data, stopped):
    """Measured at every third update; in between the same. A training that was stopped goes on with it."""
    settings = settings_for("erasediff", **{**SMALL, "outer_steps": 5}, retain_every=3)
    rows = []
    whole = run_loop(family, *data.values(), settings, on_step=lambda step, row: rows.append(row))
    norms, losses = [r["retain_grad_norm"] for r in rows], [r["retain_loss"] for r in rows]
    assert norms[0] == norms[1] == norms[2] != norms[3] == norms[4]
    assert [math.isnan(loss) for loss in losses] == [False, True, True, False, True]
    assert len({r["forget_grad_norm"] for r in rows}) == 5
    last = Last(stopped)
    with pytest.raises(KeyboardInterrupt):
        run_loop(family, *data.values(), settings, checkpoint=last)
    last.every = 100
    assert torch.equal(flat(run_loop(family, *data.values(), settings, checkpoint=last)), flat(whole))
    with pytest.raises(ValueError, match="shard goes with no mask"):
        settings_for("salun", shard=True)
    with pytest.raises(ValueError, match="retain_every 2 does not go with this method: it takes the two losses in tu"):
        settings_for("sfr_on", retain_every=2)


@pytest.mark.unit
def test_a_gradient_is_that_of_autograd(family, data):
    """Added a parameter at a time, twice over one forward pass; nothing is left behind at the parameters."""
    losses = losses_of(family, data, "siss")
    parameters = list(losses.denoiser.parameters())
    total = torch.ones(sum(p.numel() for p in parameters))
    found = losses.mixture(0)
    for left, loss in ((1, found["retain"]), (0, found["forget"])):
        add_gradient(total, loss, parameters, again=left > 0)
    sum_of_both = sum(losses.mixture(0).values())
    grads = torch.autograd.grad(sum_of_both, parameters, allow_unused=True, materialize_grads=True)
    torch.testing.assert_close(total, 1 + torch.cat([g.flatten() for g in grads]), atol=1e-6, rtol=1e-4)
    assert all(p.grad is None for p in parameters)


@pytest.mark.unit
def test_antithetic_timesteps_are_mirrored(family):
    drawn = draw_timesteps(family, 7, torch.Generator().manual_seed(0), mirrored=True)
    assert drawn[4:].tolist() == (999 - drawn[:3]).tolist()
    assert drawn.min() >= 0 and drawn.max() < 1000


@pytest.mark.unit
def test_importance_draws_where_the_base_and_the_target_differ(family, data):
    density = torch.zeros(TIMESTEP_PARTS)
    density[3], density[8] = 3.0, 1.0
    drawn = draw_timesteps(family, 400, torch.Generator().manual_seed(0), density=density)
    parts = part_of(drawn, TIMESTEP_PARTS, 1000)
    assert set(parts.tolist()) == {3, 8}
    assert (parts == 3).float().mean().item() == pytest.approx(0.75, abs=0.06)
    losses = losses_of(family, data, forget_batch_size=100)

    def predict(denoiser, noisy, timesteps, condition):
        # The teacher's answer is off at the first fifth of timesteps alone.
        asked = (condition["class_labels"] == 0).float()
        return torch.zeros_like(noisy) + (asked * (timesteps < 200)).view(-1, 1, 1, 1)

    family.predict = predict
    measured = timestep_density(losses, losses.accelerator)
    assert measured.sum().item() == pytest.approx(1)
    assert (measured[:4] > 10 * measured[4:].max()).all() and (measured > 0).all()


@pytest.mark.reference
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_min_snr_is_an_error_in_the_picture(family, prediction_type):
    """The weight of any parametrisation's error is min(SNR, γ) of the error in x₀."""
    family.scheduler.register_to_config(prediction_type=prediction_type)
    timesteps, clean, noise = torch.tensor([5, 300, 990]), torch.rand(3, 1, 8, 8) * 2 - 1, torch.randn(3, 1, 8, 8)
    noisy, target = family.noised(clean, noise, timesteps)
    alpha = family.scheduler.alphas_cumprod[timesteps].double().sqrt().view(-1, 1, 1, 1)
    sigma = (1 - alpha**2).sqrt()
    guess = target + 0.1 * torch.randn(3, 1, 8, 8)
    picture = {
        "epsilon": (noisy - sigma * guess) / alpha,
        "v_prediction": alpha * noisy - sigma * guess,
        "sample": guess,
    }[prediction_type]
    snr = (alpha / sigma).square().flatten()
    expected = snr.clamp(max=5) * (picture - clean).square().flatten(1).mean(1)
    got = family.min_snr_weights(timesteps, 5.0) * (guess - target).square().flatten(1).mean(1)
    assert got.tolist() == pytest.approx(expected.tolist(), rel=1e-3)


@pytest.mark.unit
def test_min_snr_weighs_the_retain_loss(family, data):
    plain, weighted = (
        losses_of(family, data, retain_target="noise", min_snr_gamma=g).retain(0)["retain"].item() for g in (None, 0.5)
    )
    assert 0 < weighted < plain


@pytest.mark.unit
def test_the_gap_stops_the_loop(family, data):
    def steps(**settings):
        rows = []
        run_loop(
            family,
            *data.values(),
            settings_for("erasediff", **{**SMALL, "outer_steps": 6}, **settings),
            on_step=lambda step, row: rows.append(row["constraint_gap"]),
        )
        return rows

    gaps = steps(gap_every=2)
    assert len(gaps) == 6 and [math.isnan(g) for g in gaps] == [False, True] * 3
    assert len(steps(gap_every=2, gap_tolerance=gaps[2])) <= 3
    assert len(steps(gap_every=2, gap_tolerance=max(gaps[0], gaps[2], gaps[4]))) in (1, 3, 5)
    assert len(steps(gap_every=2, gap_tolerance=-1e9)) == 6


@pytest.mark.unit
@pytest.mark.parametrize("selection", ["full", "no_time_embedding", "mid_block", "class_embedding"])
def test_selections(family, data, selection):
    denoiser = run_loop(family, *data.values(), settings_for("erasediff", **SMALL, trainable=selection))
    before = dict(family.denoiser.named_parameters())
    changed = {n for n, p in denoiser.named_parameters() if not torch.equal(p, before[n])}
    unchanged = set(before) - changed
    assert changed
    if selection == "no_time_embedding":
        assert not any("time_emb" in n for n in changed) and any("time_embedding" in n for n in unchanged)
    elif selection != "full":
        assert all(selection in n for n in changed)


@pytest.mark.unit
def test_attention_alone():
    from erasediff.families import family_of
    from erasediff.families.class_conditional import build_pipeline

    small = {"block_out_channels": (8, 16), "attention": (False, True), "norm_num_groups": 4}
    denoiser = family_of(build_pipeline(["a", "b"], (1, 8, 8), **small)).denoiser
    chosen = trainable_parameters(denoiser, "attention")
    assert chosen and all("attentions" in n for n in chosen) and len(chosen) < len(list(denoiser.parameters()))
    assert {n for n, p in denoiser.named_parameters() if p.requires_grad} == set(chosen)


@pytest.mark.unit
@pytest.mark.parametrize("n", [1, 10, 100])
@pytest.mark.parametrize("method", ["erasediff", "siss", "neggrad", "sfr_on", "selective_amnesia"])
def test_forget_sets_of_any_size(pipeline, method, n):
    result = erase(pipeline, "a", method=method, forget=pictures(n, "a"), retain=pictures(7, "bc"), **SMALL)
    assert all(torch.isfinite(p).all() for p in result.pipeline.unet.parameters())
    assert not torch.equal(flat(result.pipeline.unet), flat(pipeline.unet))


@pytest.mark.unit
@pytest.mark.parametrize("method", ["erasediff", "siss", "munba"])
def test_several_concepts_at_once(pipeline, method):
    result = erase(pipeline, ["a", "b"], method=method, forget=pictures(8, "ab"), retain=pictures(5, "c"), **SMALL)
    moved = (result.pipeline.unet.class_embedding.weight - pipeline.unet.class_embedding.weight).abs().sum(1)
    assert moved[0] > 0 and moved[1] > 0


@pytest.mark.unit
def test_bf16_gives_the_gradients_of_fp32(family, data):
    """Losses in bfloat16, gradients joined in float32: the direction agrees."""
    rows = {}
    for precision in ("bf16", "no"):
        rows[precision] = []
        AcceleratorState._reset_state(True)  # it keeps the precision of the first Accelerator
        run_loop(
            family,
            *data.values(),
            settings_for("erasediff", **{**SMALL, "outer_steps": 2}, retain_target="noise"),
            accelerator=Accelerator(mixed_precision=precision, cpu=True),
            on_step=lambda step, row, r=rows[precision]: r.append(row),
        )
    for plain, half in zip(rows["no"], rows["bf16"], strict=True):
        assert plain["retain_loss"] != half["retain_loss"]
        for name in ("retain_loss", "forget_loss", "retain_grad_norm", "forget_grad_norm"):
            assert half[name] == pytest.approx(plain[name], rel=0.03)
