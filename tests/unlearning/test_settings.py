"""What each setting of the loop does, and what it costs."""

import copy
import math

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from erasediff.data.concept_images import ConceptImages
from erasediff.errors import ParamsError
from erasediff.training.denoising import Recipe
from erasediff.unlearning import METHODS, Method, method_for
from erasediff.unlearning.erasing import erase
from erasediff.unlearning.importance import add_gradient
from erasediff.unlearning.loop import Losses, run_loop, update_direction
from erasediff.unlearning.methods.siss import mixture
from erasediff.unlearning.network import trainable_parameters
from erasediff.unlearning.plan import planned

SMALL = {"outer_steps": 4, "forget_batch_size": 3, "retain_batch_size": 5}
#: For methods that need Fisher information.
FISHER = {method: {"fisher_samples": 2} for method in ("sfr_on", "selective_amnesia")}
LOOPS = sorted(set(METHODS) - {"retrain", "uce", "speed"})


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
    chosen = method_for(method, **{**SMALL, **settings})
    return Losses(
        family, copy.deepcopy(family.denoiser), *data.values(), chosen.settings, 0, Accelerator(), chosen.sample_weights
    )


#: Settings that cost something, for methods that neither fix them nor lack what they are for.
COSTLY = [{"mask": "saliency"}, {"mask": "fisher_ratio", "fisher_samples": 2}]
TAUGHT = ["erasediff", "graddiff", "munba", "esd"]


@pytest.mark.unit
@pytest.mark.parametrize(
    "method, settings",
    [(m, {}) for m in LOOPS]
    + [(m, c) for m in TAUGHT for c in COSTLY]
    + [(m, {"shared_batch": True, "retain_batch_size": 3}) for m in ("erasediff", "munba")],
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
    chosen = method_for(method, **{**SMALL, **FISHER.get(method, {}), **settings})
    run_loop(family, *data.values(), chosen)
    plan = planned(chosen, 4, 7)
    assert (plan.updates, plan.passes) == (4, sum(forward) + 2 * sum(backward))


@pytest.mark.unit
@pytest.mark.parametrize("method", LOOPS)
def test_a_budget_is_used_and_not_exceeded(method):
    plan = planned(method_for(method), 100, 900, passes=50_000)
    one_more = planned(method_for(method, outer_steps=plan.updates + 1), 100, 900).passes
    assert 0 < plan.passes <= 50_000 < one_more
    assert planned(method_for(method), 100, 900, passes=1).updates == 1


@pytest.mark.unit
def test_a_budget_does_not_bind_retrain():
    plan = planned(method_for("retrain"), 100, 900, passes=1, recipe=Recipe(10, 4, 1e-3))
    assert (plan.updates, plan.passes) == (10, 120)
    with pytest.raises(ValueError, match="method retrain needs a recipe"):
        planned(method_for("retrain"), 100, 900)


@pytest.mark.unit
@pytest.mark.parametrize("multiplier", ["paper", "cosine", "fixed"])
def test_gradients_of_unit_length_join_directions_not_sizes(multiplier):
    """The sizes of the losses do not matter, and the paper's rule is the cosine's, with the guarantee."""
    draw = torch.Generator().manual_seed(0)
    retain, forget = torch.randn(2, 50, generator=draw)
    forget -= 0.5 * retain
    number = "fixed_multiplier" if multiplier == "fixed" else "eta"

    class Units(Method):
        name = "units"
        unit_lengths = True

    chosen = Units.from_settings({"multiplier": multiplier, number: 0.6})
    joined, _, row = update_direction(retain.clone(), forget.clone(), chosen)
    larger, _, other = update_direction(1e3 * retain, 1e-3 * forget, chosen)
    cosine = torch.cosine_similarity(retain, forget, dim=0).item()
    assert cosine < 0
    assert row["gradient_cosine"] == pytest.approx(cosine, abs=1e-6) == other["gradient_cosine"]
    assert row["multiplier"] == pytest.approx(0.6 if multiplier == "fixed" else 0.6 - cosine, abs=1e-6)
    assert row["forget_grad_norm"] == pytest.approx(forget.norm().item())
    torch.testing.assert_close(joined, larger)
    if multiplier != "fixed":
        assert torch.dot(joined, forget / forget.norm()).item() == pytest.approx(0.6, abs=1e-5)
    torch.testing.assert_close(update_direction(retain.clone(), 0 * forget, chosen)[0], retain / retain.norm())


@pytest.mark.unit
def test_a_batch_in_parts_is_the_batch(family, data):
    sizes = {"forget_batch_size": 6, "retain_batch_size": 7, "outer_steps": 4, "gap_every": 2}
    rows = {}
    for parts in (1, 3):
        rows[parts] = []
        chosen = method_for("erasediff", **sizes, accumulate=parts, forget_source="mixed")
        record = rows[parts].append
        denoiser, *_ = run_loop(family, *data.values(), chosen, on_step=lambda step, row, r=record: r(row))
        rows[parts].append(flat(denoiser))
    assert torch.allclose(rows[1].pop(), rows[3].pop(), atol=1e-5)
    for one, three in zip(rows[1], rows[3], strict=True):
        for name in ("retain_loss", "forget_loss", "multiplier", "gradient_cosine", "constraint_gap"):
            assert three[name] == pytest.approx(one[name], abs=1e-5, nan_ok=True)
    with pytest.raises(ValueError, match="a batch of 2 cannot be computed in 3 parts: lower accumulate"):
        method_for("erasediff", forget_batch_size=2, accumulate=3)


@pytest.mark.unit
@pytest.mark.parametrize("method", ["erasediff", "siss"])
def test_gradient_checkpointing_keeps_less_and_changes_nothing(family, data, method):
    kept, weights, passes = {}, {}, {}
    for on in (False, True):
        chosen = method_for(method, **SMALL, gradient_checkpointing=on)
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x, s=sizes: s.append(x.nbytes) or x, lambda x: x):
            weights[on] = flat(run_loop(family, *data.values(), chosen).denoiser)
        kept[on], passes[on] = sum(sizes), planned(chosen, 4, 7).passes
    assert torch.equal(weights[False], weights[True])
    assert kept[True] < 0.5 * kept[False]
    assert passes[True] > passes[False]
    assert not family.denoiser.is_gradient_checkpointing


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
        method_for("graddiff", shared_batch=True)
    with pytest.raises(ValueError, match="shared_batch goes with forget_batch_size 64 alone, not 32"):
        method_for("erasediff", shared_batch=True, forget_batch_size=32)


@pytest.mark.unit
def test_a_gradient_is_that_of_autograd(family, data):
    """Added a parameter at a time, twice over one forward pass; nothing is left behind at the parameters."""
    losses = losses_of(family, data, "siss")
    parameters = list(losses.denoiser.parameters())
    total = torch.ones(sum(p.numel() for p in parameters))
    found = mixture(losses, 0)
    for left, loss in ((1, found["retain"]), (0, found["forget"])):
        add_gradient(total, loss, parameters, again=left > 0)
    sum_of_both = sum(mixture(losses, 0).values())
    grads = torch.autograd.grad(sum_of_both, parameters, allow_unused=True, materialize_grads=True)
    torch.testing.assert_close(total, 1 + torch.cat([g.flatten() for g in grads]), atol=1e-6, rtol=1e-4)
    assert all(p.grad is None for p in parameters)


@pytest.mark.unit
def test_the_gap_stops_the_loop(family, data):
    def steps(**settings):
        rows = []
        run_loop(
            family,
            *data.values(),
            method_for("erasediff", **{**SMALL, "outer_steps": 6}, **settings),
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
    denoiser, *_ = run_loop(family, *data.values(), method_for("erasediff", **SMALL, trainable=selection))
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
    family = family_of(build_pipeline(["a", "b"], (1, 8, 8), **small))
    chosen = trainable_parameters(family, family.denoiser, "attention")
    assert chosen and all("attentions" in n for n in chosen) and len(chosen) < len(list(family.denoiser.parameters()))


@pytest.mark.unit
@pytest.mark.parametrize("n", [1, 10, 100])
@pytest.mark.parametrize("method", ["erasediff", "siss", "neggrad", "sfr_on", "selective_amnesia"])
def test_forget_sets_of_any_size(pipeline, method, n):
    sets = {"forget": pictures(n, "a"), "retain": pictures(7, "bc")}
    result = erase(pipeline, "a", method=method, **sets, **SMALL, **FISHER.get(method, {}))
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
            method_for("erasediff", **{**SMALL, "outer_steps": 2}, retain_target="noise"),
            accelerator=Accelerator(mixed_precision=precision, cpu=True),
            on_step=lambda step, row, r=rows[precision]: r.append(row),
        )
    for plain, half in zip(rows["no"], rows["bf16"], strict=True):
        assert plain["retain_loss"] != half["retain_loss"]
        for name in ("retain_loss", "forget_loss", "retain_grad_norm", "forget_grad_norm"):
            assert half[name] == pytest.approx(plain[name], rel=0.03)


#: Of each kind of number that is out of its range.
OUT_OF_RANGE = {
    "outer_steps": [0, -1, 2.5, True, None, "3", 2**31],
    "learning_rate": [0, -1e-4, math.nan, math.inf, "1e-4", 10**400],
    "eta": [0.0, -1, math.nan, math.inf],
    "ema_decay": [1.0, 1.5, -0.1, math.nan],
    "condition_dropout": [1, -0.1],
    "rank": [0, 1.5],
    "lora_alpha": [0, math.inf],
    "forget_batch_size": [0, -4],
    "retain_batch_size": [0],
    "accumulate": [0],
    "gap_every": [-1],
    "gap_tolerance": [math.nan],
    "mask_fraction": [0, 1.1],
    "max_grad_norm": [0, math.nan],
    "fixed_multiplier": [-1.0],
    "norm_ratio": [-1.0, math.nan],
    "inner_steps": [0],
    "fisher_samples": [0],
    "generate": [0, -1, 1.5],
    "passes": [0, -1],
    "seed": [-1, 2**31, 0.5],
}


@pytest.mark.unit
@pytest.mark.parametrize("name, value", [(name, value) for name, values in OUT_OF_RANGE.items() for value in values])
def test_a_number_out_of_its_range_is_told_before_anything_is_drawn(pipeline, name, value, monkeypatch):
    monkeypatch.setattr("erasediff.unlearning.erasing.family_of", None)
    with pytest.raises(ParamsError, match=f"^{name} .{{0,100}}: give a (whole|finite) number") as told:
        erase(pipeline, "a", **{name: value})
    assert len(str(told.value)) < 200


@pytest.mark.unit
@pytest.mark.parametrize(
    "name, value", [("steps", 0), ("batch_size", 0), ("learning_rate", math.nan), ("ema_decay", 1)]
)
def test_a_recipe_has_the_same_ranges(name, value):
    with pytest.raises(ValueError, match=f"^{name} .*: give a (whole|finite) number"):
        Recipe(**{"steps": 1, "batch_size": 1, "learning_rate": 0.1, name: value})


@pytest.mark.unit
def test_a_number_of_numpy_is_one():
    settings = method_for("erasediff", outer_steps=np.int64(3), learning_rate=np.float32(0.1), ema_decay=0).settings
    assert (settings.outer_steps, settings.ema_decay) == (3, 0)


@pytest.mark.unit
@pytest.mark.parametrize(
    ("name", "value", "match"),
    [
        ("gradient_checkpointing", "no", "gradient_checkpointing no is not true or false"),
        ("project_update", 1, "project_update 1 is not true or false"),
        ("trainable", ["attn2"], "trainable .*attn2.* is not a text"),
    ],
)
def test_a_setting_of_another_kind_is_told(pipeline, name, value, match):
    with pytest.raises(ParamsError, match=match):
        erase(pipeline, "a", **{name: value})
