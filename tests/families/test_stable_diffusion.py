import subprocess
import sys

import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler, PNDMScheduler, StableDiffusionPipeline
from tiny_stable_diffusion import CAPTIONS, tiny_stable_diffusion
from transformers import CLIPTextModel

from erasediff import erase
from erasediff.errors import UnknownConcept
from erasediff.families import family_of, open_pipeline

SMALL = {"outer_steps": 2, "forget_batch_size": 2, "retain_batch_size": 3}
DRAW = {"steps": 3, "guidance_scale": 2.0}
PARTS = ("unet", "vae", "text_encoder")


@pytest.fixture(scope="module")
def pipeline():
    return tiny_stable_diffusion()


@pytest.fixture(scope="module")
def family(pipeline):
    return family_of(pipeline)


def weights(pipeline, part="unet"):
    return torch.cat([p.detach().flatten() for p in getattr(pipeline, part).parameters()])


@pytest.mark.unit
def test_a_picture_is_its_prompt_and_seed(family):
    both = family.sample(["a red circle", "a blue star"], [5, 6], **DRAW)
    alone = family.sample(["a blue star"], [6], **DRAW)
    assert both.shape == (2, 3, 16, 16) == (2, *family.image_shape)
    assert both.min() >= -1 and both.max() <= 1
    assert torch.allclose(both[1:], alone, atol=1e-4) and not torch.allclose(both[0], both[1], atol=1e-2)


@pytest.mark.unit
@pytest.mark.parametrize(("side", "together"), [(1024, 8), (512, 8), (256, 32), (128, 64), (16, 64)])
def test_small_pictures_are_drawn_more_at_once(pipeline, side, together):
    family, drawn = family_of(pipeline), []
    family.image_shape = (3, side, side)
    family.pictures = lambda prompts, generators, how: drawn.append(len(prompts)) or torch.zeros(len(prompts), 1)
    family.sample(["a"] * 100, range(100), **DRAW)
    family.sample(["a"] * 10, range(10), batch_size=3, **DRAW)
    assert drawn[0] == together and sum(drawn[:-4]) == 100 and drawn[-4:] == [3, 3, 3, 1]


@pytest.mark.reference
def test_sampling_is_the_stock_pipeline(pipeline, family):
    noise = torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(3))
    stock = pipeline(["a red circle"], latents=noise[None], num_inference_steps=3, guidance_scale=2.0, output_type="pt")
    assert torch.allclose(family.sample(["a red circle"], [3], **DRAW), stock.images * 2 - 1, atol=1e-5)


@pytest.mark.reference
@pytest.mark.parametrize("scheduler", [PNDMScheduler, DDIMScheduler, EulerDiscreteScheduler])
def test_training_noise_is_ddpm_whatever_samples(scheduler):
    pipeline = tiny_stable_diffusion()
    pipeline.scheduler = scheduler.from_config(pipeline.scheduler.config)
    family = family_of(pipeline)
    clean, noise, t = torch.rand(3, 4, 8, 8), torch.randn(3, 4, 8, 8), torch.tensor([0, 500, 999])
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    alpha = (1 - betas).cumprod(0)[t].view(-1, 1, 1, 1)
    noisy, target = family.noised(clean, noise, t)
    assert torch.allclose(noisy.double(), alpha.sqrt() * clean + (1 - alpha).sqrt() * noise, atol=1e-5)
    assert torch.equal(target, noise)


@pytest.mark.unit
def test_encode_and_condition(pipeline, family):
    latents = family.encode(torch.rand(2, 3, 16, 16) * 2 - 1)
    assert latents.shape == (2, 4, 8, 8) and latents.dtype == torch.float32
    condition = family.condition(["a red circle", "", "a red circle"])["encoder_hidden_states"]
    assert condition.shape == (3, 16, 32) and not condition.requires_grad
    assert torch.equal(condition[0], condition[2]) and not torch.equal(condition[0], condition[1])
    empty, _ = pipeline.encode_prompt("", "cpu", 1, do_classifier_free_guidance=False)
    assert torch.allclose(condition[1], empty[0], atol=1e-6)


@pytest.mark.unit
@pytest.mark.parametrize("target", ["relabel", "uniform_noise", "negative_guidance", "anchor"])
def test_erase_changes_the_unet_of_a_copy(pipeline, target):
    before = {part: weights(pipeline, part).clone() for part in PARTS}
    draw = torch.Generator().manual_seed(0)
    images = torch.rand(5, 3, 16, 16, generator=draw) * 2 - 1
    how = {"anchor": "a green square"} if target == "anchor" else {"forget_target": target}
    retain = {"a blue star": images[2:4], "a green square": images[4:]}
    result = erase(pipeline, "a red circle", forget=images[:2], retain=retain, **how, **SMALL)
    assert type(result.pipeline) is StableDiffusionPipeline
    for part in PARTS:
        assert torch.equal(weights(pipeline, part), before[part])
        assert torch.equal(weights(result.pipeline, part), before[part]) == (part != "unet")


@pytest.mark.unit
def test_erase_draws_its_own_pictures_and_goes_through_a_folder(pipeline, tmp_path):
    result = erase(pipeline, "a red circle", preserve=CAPTIONS[1:3], generate=2, trainable="attn2", **SMALL)
    base = dict(pipeline.unet.named_parameters())
    changed = {n for n, p in result.pipeline.unet.named_parameters() if not torch.equal(p, base[n])}
    assert changed and all("attn2" in name for name in changed)
    folder = tmp_path / "erased"
    result.pipeline.save_pretrained(folder)
    expected = family_of(result.pipeline).sample(["a blue star"], [1], **DRAW)
    for again in (StableDiffusionPipeline.from_pretrained(folder), open_pipeline(folder)):
        assert type(again) is StableDiffusionPipeline
        assert torch.equal(family_of(again).sample(["a blue star"], [1], **DRAW), expected)
    command = [sys.executable, "-m", "stages.sample", "--model", folder, "--concept", "a blue star"]
    done = subprocess.run([*command, "--n", "2", "--steps", "2", "--out", tmp_path / "x.png"], capture_output=True)
    assert done.returncode == 0 and (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG"), done.stderr


@pytest.mark.unit
def test_no_part_of_a_saved_text_encoder_is_lost(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path / "m")
    _, found = CLIPTextModel.from_pretrained(tmp_path / "m" / "text_encoder", output_loading_info=True)
    assert not found["missing_keys"] and not found["unexpected_keys"]


@pytest.mark.unit
def test_messages(pipeline):
    with pytest.raises(UnknownConcept, match="'nowhere' selects no parameter"):
        erase(pipeline, "a red circle", preserve=["a blue star"], generate=1, trainable="nowhere", **SMALL)
