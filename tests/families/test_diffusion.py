import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, UNet2DModel

from erasediff.errors import IntegrityError, ModelError, UnknownConcept
from erasediff.families import family_of, open_pipeline
from erasediff.families.class_conditional import build_pipeline
from erasediff.families.family import initial_noise
from erasediff.randomness import batch_indices
from erasediff.training.denoising import Recipe, train_denoiser


@pytest.mark.reference
def test_golden_alphas():
    alphas = DDPMScheduler(1000, 1e-4, 0.02, "linear").alphas_cumprod
    assert alphas[499].item() == pytest.approx(0.0785872429, rel=1e-5)
    assert alphas[999].item() == pytest.approx(4.03582977e-5, rel=1e-5)


@pytest.mark.reference
def test_noised_is_the_closed_form(family):
    clean, noise, t = torch.rand(3, 1, 8, 8), torch.randn(3, 1, 8, 8), torch.tensor([0, 500, 999])
    noisy, target = family.noised(clean, noise, t)
    alpha = family.scheduler.alphas_cumprod[t].view(-1, 1, 1, 1)
    assert torch.allclose(noisy, alpha.sqrt() * clean + (1 - alpha).sqrt() * noise, atol=1e-6)
    assert torch.equal(target, noise)


@pytest.mark.reference
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_the_target_is_what_the_model_predicts(kind):
    """v = √ᾱ ε − √(1 − ᾱ) x₀ (arXiv 2202.00512, section 4)."""
    small = {"block_out_channels": (8,), "attention": (False,), "norm_num_groups": 4}
    family = family_of(build_pipeline(["a"], (1, 8, 8), prediction_type=kind, **small))
    clean, noise, t = torch.rand(3, 1, 8, 8), torch.randn(3, 1, 8, 8), torch.tensor([1, 500, 990])
    _, target = family.noised(clean, noise, t)
    alpha = family.scheduler.alphas_cumprod[t].view(-1, 1, 1, 1)
    expected = {"epsilon": noise, "sample": clean, "v_prediction": alpha.sqrt() * noise - (1 - alpha).sqrt() * clean}
    assert torch.allclose(target, expected[kind], atol=1e-6)


@pytest.mark.reference
@pytest.mark.parametrize("scale", [0.0, 1.0, 3.0])
def test_guidance_goes_from_the_null_class_to_the_concept_and_beyond(family, scale):
    """ε(∅) + w (ε(c) − ε(∅)), arXiv 2207.12598."""
    unet, scheduler = family.pipeline.unet, DDIMScheduler.from_config(family.pipeline.scheduler.config)
    scheduler.set_timesteps(3)
    images = initial_noise((1, 8, 8), [7])
    with torch.no_grad():
        for t in scheduler.timesteps:
            null, asked = (unet(images, t, class_labels=torch.tensor([label])).sample for label in (3, 1))
            images = scheduler.step(null + scale * (asked - null), t, images).prev_sample
    drawn = family.sample(["b"], [7], steps=3, guidance_scale=scale)
    assert torch.allclose(drawn, images.clamp(-1, 1), atol=1e-4)


@pytest.mark.unit
def test_every_timestep_is_drawn_from_the_first_to_the_last(family):
    drawn = family.timesteps(20_000, torch.Generator().manual_seed(0))
    assert torch.equal(drawn.unique(), torch.arange(1000))


@pytest.mark.unit
def test_folder_round_trip_and_plain_diffusers(pipeline, family, tmp_path):
    pipeline.save_pretrained(tmp_path / "m")
    again = family_of(open_pipeline(tmp_path / "m"))
    assert again.concepts == ("a", "b", "c")
    draw = {"prompts": ["a", "c"], "seeds": [1, 2], "steps": 3, "guidance_scale": 2.0}
    assert torch.equal(again.sample(**draw), family.sample(**draw))
    assert UNet2DModel.from_pretrained(tmp_path / "m", subfolder="unet").config.num_class_embeds == 4


@pytest.mark.unit
def test_an_image_does_not_depend_on_its_batch(family):
    both = family.sample(["a", "b"], [5, 6], steps=3, guidance_scale=1.0)
    alone = family.sample(["b"], [6], steps=3, guidance_scale=1.0)
    assert torch.allclose(both[1:], alone, atol=1e-4)


@pytest.mark.unit
def test_bad_folders(pipeline, tmp_path):
    with pytest.raises(IntegrityError, match="is missing"):
        open_pipeline(tmp_path / "none")
    pipeline.save_pretrained(tmp_path / "m")
    weights = tmp_path / "m" / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelError, match="cannot be loaded"):
        open_pipeline(tmp_path / "m")


@pytest.mark.unit
def test_messages(pipeline):
    with pytest.raises(UnknownConcept, match="does not know 'd'; it knows: a, b, c"):
        pipeline("d")
    with pytest.raises(ModelError, match="divisible by 2"):
        build_pipeline(["a"], (1, 9, 9))


@pytest.mark.property
@pytest.mark.parametrize(("n", "batch"), [(7, 3), (3, 7), (5, 5), (1, 4)])
def test_batches_see_everything_equally_often(n, batch):
    seen = torch.cat([batch_indices(n, batch, seed=0, stream="s", step=step) for step in range(n)])
    assert torch.bincount(seen, minlength=n).tolist() == [batch] * n


@pytest.mark.unit
def test_training_learns(family, digits):
    images, concepts = digits
    keep = [i for i, c in enumerate(concepts) if c in "012"][:100]
    names = ["abc"[int(concepts[i])] for i in keep]
    losses = []
    train_denoiser(
        family,
        images[keep],
        names,
        Recipe(steps=60, batch_size=32, learning_rate=3e-3),
        on_step=lambda step, row: losses.append(row["loss"]),
    )
    assert sum(losses[-10:]) < 0.7 * sum(losses[:10])
