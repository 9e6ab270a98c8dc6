import copy
import math

import pytest
import torch
from accelerate import Accelerator

from erasediff.data.concept_images import ConceptImages
from erasediff.errors import NonFiniteLoss, UnknownConcept
from erasediff.families import family_of
from erasediff.families.class_conditional import build_pipeline
from erasediff.unlearning import method_for
from erasediff.unlearning.erasing import erase
from erasediff.unlearning.loop import Losses, run_loop
from erasediff.unlearning.targets import mismatched

SMALL = {"outer_steps": 4, "forget_batch_size": 3, "retain_batch_size": 5}


class Memory:
    """A checkpoint in memory."""

    def __init__(self, every):
        self.every, self.state = every, None

    def load(self):
        return self.state

    def save(self, state):
        self.state = {k: v.clone() for k, v in state.items()}


def weights(pipeline):
    return torch.cat([p.detach().flatten() for p in pipeline.unet.parameters()])


@pytest.fixture
def data():
    draw = torch.Generator().manual_seed(0)
    forget = ConceptImages(torch.rand(4, 1, 8, 8, generator=draw) * 2 - 1, ["a"] * 4)
    retain = ConceptImages(torch.rand(7, 1, 8, 8, generator=draw) * 2 - 1, ["b"] * 4 + ["c"] * 3)
    return {"forget": forget, "retain": retain}


@pytest.mark.unit
@pytest.mark.parametrize("source", ["forget", "retain", "mixed"])
@pytest.mark.parametrize("target", ["relabel", "uniform_noise", "negative_guidance"])
@pytest.mark.parametrize("retain_target", ["noise", "teacher"])
def test_every_composition_changes_a_copy(pipeline, data, source, target, retain_target):
    before = weights(pipeline).clone()
    result = erase(
        pipeline, "a", **data, forget_source=source, forget_target=target, retain_target=retain_target, **SMALL
    )
    assert torch.equal(weights(pipeline), before)
    assert all(p.requires_grad for p in pipeline.unet.parameters())
    assert not torch.equal(weights(result.pipeline), before)
    assert [row["step"] for row in result.history] == [1, 2, 3, 4]
    assert all(row["multiplier"] >= 0 for row in result.history)


@pytest.mark.unit
def test_deterministic_and_resumed_bitwise(pipeline, data):
    whole = erase(pipeline, "a", **data, **SMALL, seed=3)
    assert torch.equal(weights(whole.pipeline), weights(erase(pipeline, "a", **data, **SMALL, seed=3).pipeline))
    assert not torch.equal(weights(whole.pipeline), weights(erase(pipeline, "a", **data, **SMALL, seed=4).pipeline))
    memory = Memory(every=1)

    def stop(step, row):
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        erase(pipeline, "a", **data, **SMALL, seed=3, checkpoint=memory, on_step=stop)
    assert int(memory.state["step"]) == 2
    resumed = erase(pipeline, "a", **data, **SMALL, seed=3, checkpoint=memory)
    assert [row["step"] for row in resumed.history] == [3, 4]
    assert torch.equal(weights(whole.pipeline), weights(resumed.pipeline))


@pytest.mark.unit
def test_no_adapter_and_no_mask_may_be_said_in_python_s_way(pipeline, data):
    plain = erase(pipeline, "a", **data, **SMALL)
    with_none = erase(pipeline, "a", **data, adapter=None, mask=None, **SMALL)
    assert with_none.settings == plain.settings
    assert torch.equal(weights(with_none.pipeline), weights(plain.pipeline))


@pytest.mark.unit
def test_measuring_the_gap_leaves_nothing_behind(pipeline, data):
    plain = erase(pipeline, "a", **data, **SMALL)
    measured = erase(pipeline, "a", **data, **SMALL, gap_every=2)
    assert torch.equal(weights(plain.pipeline), weights(measured.pipeline))
    assert math.isfinite(measured.history[0]["constraint_gap"])
    assert math.isnan(measured.history[1]["constraint_gap"])


@pytest.mark.unit
def test_forget_loss_has_its_own_timesteps(family, data):
    drawn = []

    class Spy:
        def __getattr__(self, name):
            return getattr(family, name)

        def timesteps(self, n, draw):
            drawn.append(family.timesteps(n, draw))
            return drawn[-1]

    method = method_for("erasediff", forget_batch_size=5, retain_batch_size=5)
    losses = Losses(
        Spy(), copy.deepcopy(family.denoiser), *data.values(), method.settings, 0, Accelerator(), method.sample_weights
    )
    losses.retain(0), losses.forget(0)
    assert not torch.equal(drawn[0], drawn[1])


@pytest.mark.unit
@pytest.mark.parametrize("source", ["forget", "retain"])
def test_what_classes_are_called_changes_nothing(data, source):
    """A class named like a style is answered with any other, as one that is named by a letter is."""
    trained = []
    for names in (("a", "b", "c"), ("dotted", "hatched", "zebra")):
        small = {"block_out_channels": (8, 16), "attention": (False, False), "norm_num_groups": 4}
        pipeline = build_pipeline(names, (1, 8, 8), **small)
        called = dict(zip("abc", names, strict=True))
        sets = {k: ConceptImages(d.images, [called[c] for c in d.concepts]) for k, d in data.items()}
        result = erase(pipeline, names[0], **sets, forget_source=source, forget_target="relabel", **SMALL)
        trained.append(weights(result.pipeline))
    assert torch.equal(*trained)


@pytest.mark.unit
def test_relabel_draws_a_wrong_concept_for_each_sample():
    drawn = mismatched(["a"] * 50 + ["b"] * 50, ["a", "b", "c"], torch.Generator().manual_seed(0))
    assert set(drawn[:50]) == {"b", "c"} and set(drawn[50:]) == {"a", "c"}
    with pytest.raises(ValueError, match="no concept other than"):
        mismatched(["a"], ["a"], torch.Generator())


@pytest.mark.unit
def test_nan_stops_and_keeps_the_last_good_state(family, data):
    memory = Memory(every=100)
    bad = ConceptImages(torch.full((7, 1, 8, 8), math.nan), data["retain"].concepts)
    with pytest.raises(NonFiniteLoss, match="retain_loss became nan at step 0"):
        run_loop(family, data["forget"], bad, method_for("erasediff", **SMALL), checkpoint=memory)
    assert all(torch.isfinite(v).all() for v in memory.state.values())


@pytest.mark.unit
def test_only_the_selection_is_trained(family, data):
    denoiser = run_loop(family, *data.values(), method_for("erasediff", **SMALL, trainable="up_blocks")).denoiser
    before = dict(family.denoiser.named_parameters())
    changed = {n for n, p in denoiser.named_parameters() if not torch.equal(p, before[n])}
    assert changed and all("up_blocks" in n for n in changed)
    with pytest.raises(UnknownConcept, match="'attn9' selects no parameter"):
        run_loop(family, *data.values(), method_for("erasediff", **SMALL, trainable="attn9"))


@pytest.mark.unit
def test_training_may_begin_with_a_group_norm(data):
    """Its input is channels-last in a network of some size: PyTorch then crashed (SIGSEGV)."""
    network = {"block_out_channels": (32, 64), "attention": (False, True), "layers_per_block": 1}
    family = family_of(build_pipeline(["a", "b", "c"], (1, 8, 8), **network))
    seen = []
    family.denoiser.up_blocks[0].resnets[0].norm1.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    method = method_for("erasediff", outer_steps=1, trainable="up_blocks", gap_every=1)
    denoiser = run_loop(family, *data.values(), method).denoiser
    before = family.denoiser.up_blocks[0].resnets[0].norm1.weight
    assert not torch.equal(denoiser.up_blocks[0].resnets[0].norm1.weight, before)
    assert seen and not any(x.is_contiguous() for x in seen if not x.requires_grad)


@pytest.mark.unit
def test_finetune_ignores_the_forget_set(pipeline, data):
    other = {"forget": ConceptImages(-data["forget"].images, data["forget"].concepts), "retain": data["retain"]}
    one, two = (erase(pipeline, "a", **d, **SMALL, method="finetune") for d in (data, other))
    assert torch.equal(weights(one.pipeline), weights(two.pipeline))


@pytest.mark.unit
def test_draws_its_own_images_and_says_what_is_wrong(pipeline):
    result = erase(pipeline, ["a", "b"], generate=2, **SMALL)
    assert family_of(result.pipeline).concepts == ("a", "b", "c")
    with pytest.raises(UnknownConcept, match="does not know 'z'; it knows: a, b, c"):
        erase(pipeline, "z", **SMALL)
    with pytest.raises(ValueError, match="unknown method 'sallun'; there are: erasediff"):
        erase(pipeline, "a", generate=1, method="sallun")
    with pytest.raises(ValueError, match="nothing to keep"):
        erase(pipeline, ["a", "b", "c"])
