"""What keeps the rest beside the retain loss: latent anchoring, and updates that are projected off what is kept."""

import copy
import math

import pytest
import torch
from accelerate import Accelerator
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_pipelines import PIPELINES
from tiny_stable_diffusion import tiny_stable_diffusion

from erasediff.data.concept_images import ConceptImages
from erasediff.errors import ModelError, ParamsError
from erasediff.families import family_of
from erasediff.families.class_conditional import build_pipeline
from erasediff.families.surrogates import LONGEST, SHORTEST, like, surrogates
from erasediff.unlearning import method_for
from erasediff.unlearning.erasing import erase
from erasediff.unlearning.losses import Losses
from erasediff.unlearning.projection import Projection

SMALL = {"outer_steps": 3, "forget_batch_size": 4, "retain_batch_size": 4, "learning_rate": 1e-2}


def sets():
    images = torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    forget = ConceptImages(images[:2], ["star"] * 2, ["a red star", "a blue star"])
    kept = ConceptImages(
        images[2:], ["circle", "square", "square", ""], ["a red circle", "a blue square", "square", "red"]
    )
    return {"forget": forget, "retain": kept}


@pytest.fixture(scope="module")
def pipeline():
    return tiny_stable_diffusion()


def losses_of(family, denoiser, **more):
    chosen = method_for("erasediff", **{**SMALL, "condition_dropout": 0.0, **more})
    return Losses(family, denoiser, *sets().values(), chosen.settings, 0, Accelerator(), chosen.sample_weights)


@pytest.mark.property
@settings(max_examples=20, deadline=None)
@given(st.integers(1, 8), st.integers(0, 10**6))
def test_a_surrogate_is_about_as_long_as_its_prompt(rows, seed):
    draw = torch.Generator().manual_seed(seed)
    known = torch.randn(rows, 3, 5, generator=draw)
    scale = torch.rand(rows, generator=draw) * (LONGEST - SHORTEST) + SHORTEST
    found = like(known, scale, draw)
    assert found.shape == known.shape
    torch.testing.assert_close(found.flatten(1).norm(dim=1), known.flatten(1).norm(dim=1) * scale)


@pytest.mark.reference
def test_the_likelier_the_less_it_is_alike():
    """In 4 dimensions a cosine u has the density sqrt(1 - u²); it is kept with probability min(1, 1 - u)."""
    known = torch.tensor([[1.0, 0.0, 0.0, 0.0]]).repeat(20_000, 1)
    cosines = like(known, torch.ones(len(known)), torch.Generator().manual_seed(0))[:, 0]
    assert float(cosines.mean()) == pytest.approx(-(math.pi / 16) / (math.pi / 2 - 1 / 3), abs=0.01)


@pytest.mark.unit
@pytest.mark.parametrize("name", ["stable_diffusion", "stable_diffusion_xl", "stable_diffusion_3", "flux", "sana"])
def test_every_family_of_words_is_asked_by_surrogates_that_are_none_of_its_prompts(name):
    family = family_of(PIPELINES[name]())
    condition = family.condition(["a red star", "a blue star"])
    found = surrogates(condition, torch.Generator().manual_seed(0))
    assert not torch.allclose(found["encoder_hidden_states"], condition["encoder_hidden_states"], atol=0.1)
    noisy = torch.randn(2, *family.latent_shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        said = [family.predict(family.denoiser, noisy, torch.tensor([500, 500]), c) for c in (condition, found)]
    assert said[0].shape == said[1].shape and torch.isfinite(said[1]).all() and not torch.equal(*said)


@pytest.mark.reference
def test_the_retain_loss_grows_by_the_weighted_error_under_surrogates(pipeline):
    family, seen = family_of(pipeline), []
    student = copy.deepcopy(family.denoiser)
    with torch.no_grad():
        next(p for n, p in student.named_parameters() if "attn2.to_k" in n).add_(0.3)

    class Spy:
        def __getattr__(self, name):
            return getattr(family, name)

        def predict(self, denoiser, noisy, timesteps, condition):
            seen.append((noisy, timesteps, condition))
            return family.predict(denoiser, noisy, timesteps, condition)

    plain = losses_of(family, student).retain(1)["retain"]
    found = losses_of(Spy(), student, latent_anchoring=10.0).retain(1)["retain"]
    noisy, timesteps, condition = seen[-1]
    assert len(seen) == 4 and seen[-1][2] is seen[-2][2] and torch.equal(noisy, seen[0][0])
    known = losses_of(family, student).condition.condition["encoder_hidden_states"]
    assert all(float((row - known).abs().amax((1, 2)).min()) > 0.1 for row in condition["encoder_hidden_states"])
    with torch.no_grad():
        a, b = (family.predict(d, noisy, timesteps, condition) for d in (student, family.denoiser))
    expected = plain + 10 * (a - b).square().mean()
    torch.testing.assert_close(found, expected)
    assert found > plain


@pytest.mark.unit
def test_a_student_that_is_its_teacher_has_nothing_to_anchor(pipeline):
    family = family_of(pipeline)
    plain, anchored = (losses_of(family, family.denoiser, latent_anchoring=w).retain(0)["retain"] for w in (0.0, 5.0))
    torch.testing.assert_close(plain, anchored)


@pytest.mark.unit
def test_it_is_counted_as_what_it_costs(pipeline):
    calls = []
    hook = pipeline.unet.register_forward_hook(lambda unet, args, out: calls.append(len(args[0])))
    target = {"forget_target": "relabel", "progress": False}
    plain, more = (erase(pipeline, "star", **sets(), **SMALL, **target, latent_anchoring=w) for w in (0.0, 1.0))
    hook.remove()
    assert more.record.passes - plain.record.passes == SMALL["outer_steps"] * SMALL["retain_batch_size"] * 4


@pytest.mark.unit
def test_a_model_of_classes_has_no_embeddings_to_sample():
    family = family_of(
        build_pipeline(["a", "b"], (1, 8, 8), block_out_channels=(8,), attention=(False,), norm_num_groups=4)
    )
    with pytest.raises(ModelError, match="samples among embeddings of prompts"):
        surrogates(family.condition(["a"]), torch.Generator())


def last_tokens(pipeline, concepts):
    family = family_of(pipeline)
    states = family.condition(concepts)["encoder_hidden_states"].double()
    ends = [len(pipeline.tokenizer(concept).input_ids) - 2 for concept in concepts]
    return torch.stack([row[i] for row, i in zip(states, ends, strict=True)])


@pytest.mark.property
@pytest.mark.parametrize("trainable", ["xattn_kv", "xattn", "full"])
def test_the_whole_update_is_orthogonal_to_what_is_protected(pipeline, trainable):
    """So keys and values of what is kept, and of what was forgotten before, are those of the base."""
    protected = last_tokens(pipeline, ["circle", "square", "moon"])
    how = {**SMALL, "ema_decay": 0.5, "trainable": trainable, "progress": False, "before": ["moon", "0123456789abcdef"]}
    erased = dict(erase(pipeline, "star", **sets(), **how, project_update=True).pipeline.unet.named_parameters())
    free = dict(erase(pipeline, "star", **sets(), **how).pipeline.unet.named_parameters())
    for name, weight in pipeline.unet.named_parameters():
        if "attn2.to_k.weight" not in name and "attn2.to_v.weight" not in name:
            continue
        change = (erased[name] - weight).double()
        assert change.norm() > 1e-3
        assert (change @ protected.T).norm() < 1e-4 * change.norm() * protected.norm()
        other = (free[name] - weight).double()
        assert (other @ protected.T).norm() > 1e-2 * other.norm() * protected.norm()


@pytest.mark.property
@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6))
def test_a_projection_takes_nothing_twice(pipeline, seed):
    family = family_of(pipeline)
    projection = Projection(family, dict(family.denoiser.named_parameters()), ["circle", "square"])
    change = torch.randn(5, 32, generator=torch.Generator().manual_seed(seed))
    once = projection.off(change)
    torch.testing.assert_close(projection.off(once), once)
    assert once.norm() < change.norm() and len(projection.basis) == 2


@pytest.mark.unit
@pytest.mark.parametrize(
    ("how", "error", "match"),
    [
        ({"trainable": "selfattn"}, ModelError, "project_update needs trained keys and values"),
        ({"adapter": "lora"}, ParamsError, "it goes with no shard and no adapter"),
    ],
)
def test_what_cannot_be_projected_is_told(pipeline, how, error, match):
    with pytest.raises(error, match=match):
        erase(pipeline, "star", **sets(), **SMALL, **how, project_update=True, progress=False)


@pytest.mark.unit
def test_so_much_to_protect_that_nothing_can_change_is_told(pipeline):
    family = family_of(pipeline)
    many = [f"{a} {b}" for a in ("red", "blue", "star") for b in "abcdefghijklmnopqrstuvwxyz"]
    with pytest.raises(ParamsError, match="kept concepts leave too little to change"):
        Projection(family, dict(family.denoiser.named_parameters()), many)
