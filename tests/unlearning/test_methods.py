"""Each method on a model of one number a concept, where the right answer is known."""

import copy
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import nn

from stages.diffusion.family import ConceptImages, NoiseSchedule
from stages.params import Erase
from stages.unlearning import METHODS, settings_for
from stages.unlearning.loop import run_loop, top_fraction, update_direction

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

    concepts, has_null, image_shape = ("a", "b"), True, (1, 1, 1)

    def __init__(self):
        self.denoiser = Numbers()

    def encode(self, images):
        return images

    def condition(self, concepts):
        return {"index": torch.tensor([list(BASE).index(c) for c in concepts])}

    def timesteps(self, n, generator):
        return torch.randint(0, 10, (n,), generator=generator)

    def noised(self, clean, noise, timesteps):
        return clean + noise, torch.zeros_like(clean)

    def predict(self, denoiser, noisy, timesteps, condition):
        return denoiser(noisy, condition["index"])


def after(method, steps=300, **settings):
    """The numbers of ``a``, ``b`` and null after erasing ``a`` from a model of ``a`` and ``b``."""
    family = Toy()
    forget = ConceptImages(torch.zeros(4, 1, 1, 1), ["a"] * 4)
    retain = ConceptImages(torch.zeros(4, 1, 1, 1), ["b"] * 4)
    chosen = {"outer_steps": steps, "learning_rate": 0.02, "condition_dropout": 0.0, "ema_decay": 0.0, **settings}
    before = copy.deepcopy(family.denoiser.state_dict())
    denoiser = run_loop(family, forget, retain, settings_for(method, **chosen))
    assert torch.equal(family.denoiser.number, before["number"])
    return denoiser.number.tolist()


def near(value):
    return pytest.approx(value, abs=0.02)


@pytest.mark.unit
@pytest.mark.parametrize("source", ["forget", "retain", "mixed"])
@pytest.mark.parametrize("method", ["erasediff", "graddiff", "munba"])
def test_the_wrong_concept_is_learnt_and_the_retained_one_stays(method, source):
    assert after(method, forget_source=source) == [near(-1), near(-1), 0.25]
    assert after(method, forget_source=source, retain_target="noise", steps=600)[0] == near(-1)


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
    direction = update_direction(retain, forget, settings_for("munba"))[0].double()
    assert expected.norm().item() == pytest.approx(2**0.5, abs=1e-6)
    assert torch.allclose(2**0.5 * direction / direction.norm(), expected, atol=1e-3)


@pytest.mark.unit
def test_the_largest_fraction():
    assert top_fraction(torch.tensor([3.0, 1.0, 2.0, 0.0]), 0.5).tolist() == [1, 0, 1, 0]
    assert top_fraction(torch.tensor([0.0, 1.0]), 0.1).tolist() == [0, 1]


@pytest.mark.unit
def test_params_name_every_method():
    assert set(get_args(Erase.model_fields["method"].annotation)) == set(METHODS)
