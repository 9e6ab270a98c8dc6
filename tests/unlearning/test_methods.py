"""Each method on a model of one number a concept, where the right answer is known."""

import copy
import math
from types import SimpleNamespace

import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import nn

from erasediff.data.concept_images import ConceptImages
from erasediff.families import family_of
from erasediff.families.class_conditional import build_pipeline
from erasediff.families.family import DenoiserArguments, NoiseSchedule
from erasediff.training.denoising import Recipe, train_denoiser
from erasediff.unlearning import METHODS, method_for
from erasediff.unlearning.erasing import erase
from erasediff.unlearning.importance import top_fraction
from erasediff.unlearning.loop import run_loop, update_direction
from erasediff.unlearning.methods.siss import explained, mixture_weights

BASE = {"a": 1.0, "b": -1.0, "": 0.25}


class Numbers(nn.Module):
    """Predicts one number a concept, whatever the picture: ``a``, ``b`` and the null concept."""

    def __init__(self):
        super().__init__()
        self.number = nn.Parameter(torch.tensor(list(BASE.values())))

    def forward(self, noisy, index):
        return self.number[index].view(-1, 1, 1, 1).expand_as(noisy)


class Toy(NoiseSchedule):
    """The family of it; the truth is 0 for every picture, so that plain denoising pulls each number to 0."""

    concepts, has_null, image_shape, num_timesteps = ("a", "b"), True, (1, 1, 1), 10

    def __init__(self):
        self.denoiser = Numbers()
        self.pipeline = SimpleNamespace(components={})

    def encode(self, images):
        return images

    def condition(self, concepts):
        return DenoiserArguments({"index": torch.tensor([list(BASE).index(c) for c in concepts])})

    def noised(self, clean, noise, timesteps):
        return clean + noise, torch.zeros_like(clean)

    def predict(self, denoiser, noisy, timesteps, condition):
        return denoiser(noisy, condition["index"])


def small_family(seed=0):
    small = {"block_out_channels": (8, 16), "attention": (False, False), "norm_num_groups": 4}
    return family_of(build_pipeline(["a", "b"], (1, 8, 8), seed=seed, **small))


def after(method, steps=300, rows=None, **settings):
    """The numbers of ``a``, ``b`` and null after erasing ``a`` from a model of ``a`` and ``b``."""
    family = Toy()
    forget = ConceptImages(torch.zeros(4, 1, 1, 1), ["a"] * 4)
    retain = ConceptImages(torch.zeros(4, 1, 1, 1), ["b"] * 4)
    chosen = {"outer_steps": steps, "learning_rate": 0.02, "ema_decay": 0.0, **settings}
    if method not in ("neggrad", "esd", "siss"):  # these drop no condition
        chosen["condition_dropout"] = 0.0
    before = copy.deepcopy(family.denoiser.state_dict())
    record = None if rows is None else lambda step, row: rows.append(row)
    denoiser, *_ = run_loop(family, forget, retain, method_for(method, **chosen), on_step=record)
    assert torch.equal(family.denoiser.number, before["number"])
    return denoiser.number.tolist()


def near(value):
    return pytest.approx(value, abs=0.02)


@pytest.mark.unit
@pytest.mark.parametrize("source", ["forget", "retain", "mixed"])
@pytest.mark.parametrize("method", ["erasediff", "munba"])
def test_the_wrong_concept_is_learnt_and_the_retained_one_stays(method, source):
    assert after(method, forget_source=source) == [near(-1), near(-1), 0.25]
    assert after(method, forget_source=source, retain_target="noise", steps=600)[0] == near(-1)


@pytest.mark.unit
def test_graddiff_relabels_beside_denoising():
    assert after("graddiff", steps=600) == [near(-1), near(0), 0.25]


@pytest.mark.unit
def test_salun_denoises_and_relabels_within_its_mask():
    # Of the base, only a matters for a: with a third of the weights it alone moves.
    assert after("salun", mask_fraction=1 / 3) == [near(-1), -1.0, 0.25]
    a, b, null = after("salun", mask_fraction=1.0)
    assert (a, b, null) == (near(-1), near(0), 0.25)


@pytest.mark.unit
def test_erasediff_with_a_mask():
    assert after("erasediff", mask="saliency", mask_fraction=1 / 3) == [near(-1), -1.0, 0.25]


@pytest.mark.unit
def test_finetune_leaves_the_forgotten_concept():
    assert after("finetune", retain_target="noise") == [1.0, near(0), 0.25]


@pytest.mark.unit
def test_neggrad_climbs_the_forget_loss_alone():
    a, b, null = after("neggrad", steps=50)
    assert a > 1.3 and (b, null) == (-1.0, 0.25)


@pytest.mark.unit
def test_sfr_on_climbs_where_the_forget_set_matters_and_denoises_in_turns():
    rows = []
    a, b, null = after("sfr_on", steps=100, rows=rows)
    assert a > 1.3 and b == pytest.approx(0, abs=0.4) and null == 0.25
    assert [math.isnan(r["retain_loss"]) for r in rows] == [True, False] * 50
    assert [math.isnan(r["forget_loss"]) for r in rows] == [False, True] * 50


@pytest.mark.unit
def test_selective_amnesia_stops_where_the_penalty_balances():
    # Both sets' pictures have the error 1 (a) and 1 (b): of each, the squared gradient is 4, of four in eight images.
    # Minimum of a² + ½ w·2·(a - 1)², and of b² + ½ w·2·(b + 1)²: w / (1 + w) of the way is kept.
    weight = METHODS["selective_amnesia"].fisher_penalty
    kept = weight / (1 + weight)
    assert after("selective_amnesia", steps=600) == [near(kept), near(-kept), 0.25]


@pytest.mark.unit
def test_siss_leaves_the_other_numbers():
    rows = []
    a, b, null = after("siss", steps=20, rows=rows)
    assert a != 1.0 and (b, null) == (-1.0, 0.25)
    assert all(r["multiplier"] * r["forget_grad_norm"] == pytest.approx(0.1 * r["retain_grad_norm"]) for r in rows)


@pytest.mark.property
@given(st.floats(-3, 3), st.floats(-3, 3), st.floats(0.1, 2))
def test_a_mixture_weighted_is_either_set(retained, forgotten, sigma):
    """The mean over the mixture, weighted, is the mean over one image's noised versions; by a fine grid."""
    x = torch.linspace(-20, 20, 20001, dtype=torch.float64)
    near_to = {z: torch.exp(-((x - z) ** 2) / (2 * sigma**2)) for z in (retained, forgotten)}
    mixture = (near_to[retained] + near_to[forgotten]) / 2
    d_retain, d_forget = ((x - z) ** 2 / (2 * sigma**2) for z in (retained, forgotten))
    for z, weight in zip((retained, forgotten), mixture_weights(d_retain, d_forget), strict=True):
        value = torch.cos(x)
        expected = (near_to[z] * value).sum()
        assert (weight * mixture * value).sum().item() == pytest.approx(expected.item(), abs=1e-6)


@pytest.mark.unit
def test_the_mixture_knows_the_noise_of_either_image():
    family = small_family()
    clean, noise = torch.rand(2, 1, 8, 8), torch.randn(2, 1, 8, 8)
    timesteps = torch.tensor([10, 900])
    noisy, truth = family.noised(clean, noise, timesteps)
    target, half_square = explained(family, noisy, clean, timesteps)
    assert torch.allclose(target, truth, atol=1e-3)
    assert half_square.tolist() == pytest.approx((noise.square().flatten(1).sum(1) / 2).tolist(), rel=1e-3)


@pytest.mark.reference
def test_retrain_is_a_base_that_never_saw_the_forget_set():
    """Against the training of a base from the same seed; the forgotten concept's embedding is as it was made."""
    images = torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    recipe = Recipe(steps=3, batch_size=4, learning_rate=1e-3)
    result = erase(
        small_family().pipeline,
        "a",
        method="retrain",
        forget=images[:4],
        retain={"b": images[4:]},
        seed=3,
        recipe=recipe,
    )
    new = small_family(seed=3)
    made = new.denoiser.class_embedding.weight[0].clone()
    train_denoiser(new, images[4:], ["b"] * 4, recipe, seed=3)
    got = family_of(result.pipeline).denoiser
    for expected, parameter in zip(new.denoiser.parameters(), got.parameters(), strict=True):
        assert torch.equal(expected, parameter)
    assert torch.allclose(got.class_embedding.weight[0], made, atol=1e-5)
    assert len(result.history) == 3 and all(row["retain_loss"] > 0 for row in result.history)


@pytest.mark.unit
def test_an_unconditional_model_is_retrained_without_being_asked_for_anything():
    blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2, "norm_num_groups": 4}
    network = UNet2DModel(sample_size=8, in_channels=1, out_channels=1, block_out_channels=(8, 16), **blocks)
    images = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    sets = {"forget": images[:2], "retain": {"": images[2:]}}
    recipe = Recipe(steps=2, batch_size=2, learning_rate=1e-3)
    result = erase(DDPMPipeline(network, DDPMScheduler()), "", method="retrain", **sets, recipe=recipe)
    assert (result.method, result.updates) == ("retrain", 2)


@pytest.mark.unit
def test_esd_goes_to_the_other_side_of_the_null_concept():
    assert after("esd") == [near(0.25 - (1 - 0.25)), -1.0, 0.25]


vectors = arrays("float32", 5, elements=st.floats(-10, 10, width=32)).map(torch.from_numpy)


@pytest.mark.property
@given(vectors, vectors)
def test_the_bargain_is_the_papers(retain, forget):
    """Against the paper's weights in float64."""
    r, f = retain.double(), forget.double()
    if min(r.norm(), f.norm()) < 1e-2 or (cosine := torch.cosine_similarity(r, f, dim=0)) < -0.99:
        return
    expected = r / (r.norm() * (1 + cosine).sqrt()) + f / (f.norm() * (1 + cosine).sqrt())
    direction = update_direction(retain, forget, method_for("munba"))[0].double()
    assert expected.norm().item() == pytest.approx(2**0.5, abs=1e-6)
    assert torch.allclose(2**0.5 * direction / direction.norm(), expected, atol=1e-3)


@pytest.mark.unit
def test_the_largest_fraction():
    assert top_fraction(torch.tensor([3.0, 1.0, 2.0, 0.0]), 0.5).tolist() == [1, 0, 1, 0]
    assert top_fraction(torch.tensor([0.0, 1.0]), 0.1).tolist() == [0, 1]
