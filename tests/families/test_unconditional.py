"""A model that cannot be asked for anything forgets single pictures."""

import pytest
import torch
from diffusers import DDIMScheduler, DDPMPipeline, UNet2DModel

from erasediff import erase
from erasediff.errors import ModelError
from erasediff.families import family_of, open_pipeline
from erasediff.training.denoising import Recipe, train_denoiser


def new_pipeline():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = UNet2DModel(
            sample_size=8,
            in_channels=1,
            out_channels=1,
            layers_per_block=1,
            block_out_channels=(8, 16),
            down_block_types=("DownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "UpBlock2D"),
            norm_num_groups=8,
        )
    return DDPMPipeline(unet, DDIMScheduler(beta_schedule="squaredcos_cap_v2", timestep_spacing="trailing"))


@pytest.fixture(scope="module")
def trained():
    """A model of eight patterns, all black or white, and the patterns."""
    pictures = torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(0)).round() * 2 - 1
    pipeline = new_pipeline()
    train_denoiser(family_of(pipeline), pictures, [""] * 8, Recipe(300, 16, 3e-3))
    return pipeline, pictures


def error(pipeline, pictures):
    """Mean error of denoising these pictures from half-noised versions of them."""
    family, draw = family_of(pipeline), torch.Generator().manual_seed(1)
    clean = pictures.repeat(32, 1, 1, 1)
    timesteps = torch.full((len(clean),), 600)
    noisy, target = family.noised(clean, torch.randn(clean.shape, generator=draw), timesteps)
    condition = family.condition([""] * len(clean))
    with torch.no_grad():
        return (family.predict(family.denoiser, noisy, timesteps, condition) - target).square().mean().item()


@pytest.mark.unit
@pytest.mark.parametrize(
    "settings",
    [
        {"method": "siss", "learning_rate": 1e-3},
        {"forget_target": "uniform_noise", "forget_source": "forget", "learning_rate": 1e-3},
    ],
    ids=["siss", "erasediff"],
)
def test_one_picture_is_forgotten_and_the_others_stay(trained, settings):
    pipeline, pictures = trained
    result = erase(
        pipeline, "", forget=pictures[:1], retain={"": pictures[1:]}, outer_steps=60, ema_decay=0.0, **settings
    )
    forgotten = error(result.pipeline, pictures[:1]) / error(pipeline, pictures[:1])
    kept = error(result.pipeline, pictures[1:]) / error(pipeline, pictures[1:])
    assert forgotten > 1.5 * kept, (forgotten, kept)


@pytest.mark.unit
def test_it_goes_through_a_folder_and_draws(trained, tmp_path):
    pipeline, _ = trained
    pipeline.save_pretrained(tmp_path)
    again = family_of(open_pipeline(tmp_path))
    drawn = again.sample([""] * 3, [5, 6, 7], steps=5, guidance_scale=1.0)
    assert drawn.shape == (3, 1, 8, 8) and drawn.abs().max() <= 1
    assert torch.allclose(drawn, family_of(pipeline).sample([""] * 3, [5, 6, 7], steps=5, guidance_scale=1.0))
    assert torch.allclose(drawn[1:2], again.sample([""], [6], steps=5, guidance_scale=1.0), atol=1e-4)


@pytest.mark.unit
def test_what_needs_a_concept_is_refused(trained):
    pipeline, pictures = trained
    with pytest.raises(ModelError, match="forget_target relabel asks the model for a concept"):
        erase(pipeline, "", forget=pictures[:1], retain={"": pictures[1:]})


@pytest.mark.unit
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", ["unconditional", "class-conditional"])
def test_a_cpu_draws_half_precision_of_pixels_in_float32(kind, dtype, pipeline):
    model = new_pipeline() if kind == "unconditional" else pipeline
    drawn = {"prompts": ["a", "b"], "seeds": [1, 2], "steps": 3}
    model.unet.to(dtype)
    half = family_of(model).sample(**drawn)
    assert {p.dtype for p in model.unet.parameters()} == {dtype} and half.dtype == torch.float32
    model.unet.to(torch.float32)
    assert torch.equal(half, family_of(model).sample(**drawn))
