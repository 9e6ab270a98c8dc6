"""Attacks on models whose answer is known."""

from types import SimpleNamespace

import pytest
import torch
from dealing import Dealer, Nearest, World, forgetting
from diffusers import DDIMScheduler
from sklearn.metrics import roc_auc_score

from erasediff.errors import ModelError
from erasediff.evaluation.attacks import ATTACKS, attacked, membership, precision, to_json, wordings
from erasediff.evaluation.attacks.table import NEEDS, not_run
from erasediff.evaluation.attacks.target import Target
from erasediff.judges.judge import recognised


@pytest.fixture(scope="module")
def world(digits):
    return World(digits)


class Moody(Dealer):
    """Forgot the 8, but for few steps; under guidance, every second one comes back."""

    has_null, concepts = True, tuple("0123456789")
    pipeline = SimpleNamespace(scheduler=DDIMScheduler(), components={})

    def sample(self, prompts, seeds, *, steps, guidance_scale, batch_size, sampler=None):
        options = {"steps": steps, "guidance_scale": guidance_scale, "batch_size": batch_size}
        good, bad = (f.sample(prompts, seeds, **options) for f in (forgetting(self.world), Dealer(self.world)))
        by_euler = sampler == "EulerDiscreteScheduler"
        back = torch.tensor([steps == 2 or by_euler or (guidance_scale > 1 and seed % 2 == 0) for seed in seeds])
        return torch.where(back[:, None, None, None], bad, good)


def target(world, family, **changes):
    return Target(family, Nearest(world), ["8"], steps=25, guidance_scale=1.0, seed=0, **changes)


@pytest.mark.unit
def test_what_comes_back_at_other_settings_is_told_with_its_interval(world):
    found = to_json(attacked(target(world, Moody(world)), ["settings"]))["settings"]
    assert found["2 steps"]["value"] > 0.8 and found["10 steps"]["value"] < 0.1
    assert found["EulerDiscrete"]["value"] > 0.8 and found["DPMSolverMultistep"]["value"] < 0.1
    assert "DDIM" not in found  # its own
    assert all(0.3 < found[f"guidance {scale}"]["value"] < 0.7 for scale in (4, 8))
    assert all(it["low"] <= it["value"] <= it["high"] and it["pictures"] == 60 for it in found.values())


@pytest.mark.unit
def test_an_attack_that_does_not_apply_finds_nothing_and_what_it_needs_is_said(world):
    names = ["wordings", "membership"]
    found = attacked(target(world, Moody(world)), names)
    assert found == {} and not_run(names, found, forgotten=["8"]) == {
        "attack wordings": "it needs a model that is asked by prompts",
        "attack membership": "it needs pictures of the concept, two that were trained on and two that were not",
    }
    assert not_run(names, {"wordings": ["capitals"], "membership": ["AUC"]}, forgotten=["8"]) == {}
    assert set(not_run(names, {}, forgotten=[]).values()) == {"no concept was to be forgotten"}
    assert set(ATTACKS) - set(NEEDS) == {"precision", "settings", "views"}  # these run on every model


@pytest.mark.unit
def test_a_curve_without_that_of_a_lora_says_what_the_lora_needs():
    whole, lora = ["all weights, 0 updates", "all weights, 5 updates"], ["LoRA, 0 updates", "LoRA, 5 updates"]
    (name,) = not_run(["resurgence"], {"resurgence": whole}, forgotten=["8"])
    assert name == "attack resurgence by a LoRA"
    for ran in ([*whole, *lora], ["before"]):
        assert not_run(["resurgence"], {"resurgence": ran}, forgotten=["8"]) == {}


class Broken(Moody):
    """Draws one picture that is none."""

    def sample(self, prompts, seeds, **how):
        images = super().sample(prompts, seeds, **how)
        images[-1, 0, 3, 3] = float("nan")
        return images


class Unsure(Nearest):
    """A judge that cannot say what one picture shows."""

    def read(self, images):
        scores, features = super().read(images)
        scores[0] = float("nan")
        return scores, features

    recognises = recognised


@pytest.mark.unit
def test_what_is_no_finite_number_is_never_counted_as_not_shown(world):
    with pytest.raises(ModelError, match=r"^attack settings: the model draws pictures that are no finite numbers"):
        attacked(target(world, Broken(world)), ["settings"])
    unsure = target(world, Moody(world)).changed(judge=Unsure(world))
    with pytest.raises(ModelError, match=r"^attack settings: the judge gives scores that are no finite numbers"):
        attacked(unsure, ["settings"])
    for losses in ((torch.tensor([1.0, torch.nan]), torch.ones(2)), (torch.ones(2), torch.tensor([torch.inf, 1.0]))):
        with pytest.raises(ModelError, match="losses are no finite numbers"):
            membership.auc(*losses)


@pytest.mark.reference
def test_weights_are_rounded_as_torch_does(family):
    weight = torch.randn(5, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    scales = weight.flatten(1).abs().amax(1).double() / 127
    expected = torch.quantize_per_channel(weight, scales, torch.zeros(5), 0, torch.qint8).dequantize()
    assert torch.allclose(precision.to_int8(weight), expected, atol=1e-6)
    assert torch.equal(precision.to_int8(weight[0, 0, 0]), weight[0, 0, 0])
    assert torch.equal(precision.to_bf16(weight), weight.bfloat16().float())
    assert torch.equal(precision.to_fp8(weight), weight.to(torch.float8_e4m3fn).float())
    assert precision.to_fp8(weight * 1e4).abs().max() == 448  # the largest there is, and no NaN
    before = {name: w.clone() for name, w in family.denoiser.state_dict().items()}

    class Blind:
        concepts = ("a", "b", "c")

        def read(self, images):
            return torch.eye(3)[[0] * len(images)], None

        recognises = recognised

    what = Target(family, Blind(), ["a"], steps=1, guidance_scale=1.0, seed=0, pictures=2)
    assert {name: it.value for name, it in precision.run(what).items()} == dict.fromkeys(
        ("bf16 weights", "fp8 weights", "int8 weights"), 1.0
    )
    assert all(torch.equal(w, before[name]) for name, w in family.denoiser.state_dict().items())  # a copy was rounded


@pytest.mark.unit
def test_a_word_is_misspelt_in_its_middle():
    found = {kind: wordings.misspelt("star", kind) for kind in wordings.KINDS}
    assert found == {
        "letter dropped": "str",
        "letters swapped": "satr",
        "letter doubled": "sttar",
        "capitals": "STAR",
        "plural": "stars",
    }
    assert all(wordings.misspelt("8", kind) for kind in wordings.KINDS if kind != "letter dropped")


@pytest.mark.reference
def test_the_auc_is_that_of_scikit_learn():
    chance = torch.Generator().manual_seed(0)
    members, others = (
        torch.rand(40, generator=chance).round(decimals=1),
        torch.rand(30, generator=chance).round(decimals=1),
    )
    found = membership.auc(members, others)
    truth = [1] * 40 + [0] * 30
    assert found.value == pytest.approx(roc_auc_score(truth, (-torch.cat([members, others])).tolist()))
    assert found.low < found.value < found.high and found.pictures == 70
    assert membership.auc(torch.zeros(5), torch.ones(5)).value == 1.0


@pytest.mark.unit
def test_losses_tell_members_where_the_model_knows_them(family):
    member, other = torch.full((6, 1, 8, 8), 0.5), torch.full((7, 1, 8, 8), -0.5)
    what = {"members": (member, ["a"] * 6), "others": (other, ["a"] * 7)}
    asked = Target(family, None, ["a"], steps=1, guidance_scale=1.0, seed=0, batch_size=4, **what)
    assert 0 <= membership.run(asked)["AUC of the denoising loss"].value <= 1

    def knows(denoiser, noisy, timesteps, condition):
        scale = family.scheduler.alphas_cumprod[timesteps][:, None, None, None]
        return (noisy - scale.sqrt() * 0.5) / (1 - scale).sqrt()  # the noise, where the picture is a member

    family.predict = knows
    assert membership.run(asked)["AUC of the denoising loss"].value == 1.0


@pytest.mark.unit
def test_every_attack_has_a_file_and_words():
    from importlib import import_module

    assert all(
        words and callable(import_module(f"erasediff.evaluation.attacks.{n}").run) for n, words in ATTACKS.items()
    )
