"""What all families have in common."""

import inspect

import pytest
import tiny_pipelines
import torch
from diffusers import DDIMScheduler, DDPMPipeline, StableDiffusionPipeline, UNet2DModel
from tiny_stable_diffusion import tiny_stable_diffusion

from erasediff.data.images import decode, encode_png
from erasediff.families import family_of
from erasediff.families.class_conditional import ClassConditionalPipeline, build_pipeline
from erasediff.families.drawing import draw, drawn_table
from erasediff.families.family import DenoiserArguments
from erasediff.randomness import FORGET_SET_BLOCKS, image_seeds


def unconditional():
    unet = UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(8,),
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
        norm_num_groups=4,
    )
    return DDPMPipeline(unet, DDIMScheduler())


def class_conditional():
    return build_pipeline(["a", "b"], (1, 8, 8), block_out_channels=(8,), attention=(False,), norm_num_groups=4)


PIPELINES = {"class_conditional": class_conditional, "unconditional": unconditional, **tiny_pipelines.PIPELINES}


@pytest.fixture(params=PIPELINES, scope="module")
def family(request):
    return family_of(PIPELINES[request.param]())


@pytest.mark.unit
def test_nobody_says_how_and_the_family_does(family):
    known = family.concepts or ("a red circle",)
    how = {"steps": family.default_steps, "guidance_scale": family.default_guidance_scale}
    said = family.sample(known[:1], [3], **how)
    assert torch.equal(family.sample(known[:1], [3]), said)
    assert torch.equal(draw(family.pipeline, known[0], seed=3), said)


@pytest.mark.unit
@pytest.mark.parametrize("pipeline_class", [StableDiffusionPipeline, ClassConditionalPipeline])
def test_the_defaults_are_those_of_the_pipeline_itself(pipeline_class):
    family = family_of(tiny_stable_diffusion() if pipeline_class is StableDiffusionPipeline else class_conditional())
    given = inspect.signature(pipeline_class.__call__).parameters
    assert family.default_steps == given["num_inference_steps"].default
    assert family.default_guidance_scale == given["guidance_scale"].default


@pytest.mark.unit
def test_samples_of_a_condition_are_the_condition_of_samples(family):
    prompts = list(family.concepts or ["a red circle", "a blue star"])[:2] * 2
    noisy = torch.randn(4, *family.encode(torch.zeros(1, *family.image_shape)).shape[1:])
    timesteps = torch.tensor([1, 10, 100, 500])
    taken = family.condition(prompts).take(torch.tensor([1, 2]))
    with torch.no_grad():
        part = family.predict(family.denoiser, noisy[1:3], timesteps[1:3], taken)
        own = family.predict(family.denoiser, noisy[1:3], timesteps[1:3], family.condition(prompts[1:3]))
    assert torch.equal(part, own)


@pytest.mark.unit
def test_a_condition_may_be_nested():
    """As SDXL's ``added_cond_kwargs``."""
    added = {"text_embeds": torch.arange(8.0).view(4, 2), "time_ids": torch.arange(4)}
    condition = DenoiserArguments({"added_cond_kwargs": added, "labels": torch.arange(4)})
    part = condition.take(torch.tensor([1, 2]))
    assert part["labels"].tolist() == [1, 2]
    assert part["added_cond_kwargs"]["text_embeds"].tolist() == [[2, 3], [4, 5]]
    assert part["added_cond_kwargs"]["time_ids"].tolist() == [1, 2]
    half = part.to(torch.device("cpu"), torch.bfloat16)
    assert half["labels"].dtype == torch.int64 and half["added_cond_kwargs"]["text_embeds"].dtype == torch.bfloat16
    assert set(condition.flat()) == {"added_cond_kwargs.text_embeds", "added_cond_kwargs.time_ids", "labels"}
    again = DenoiserArguments.of_flat(part.flat())
    assert again.batched == part.batched and set({**part}) == {"added_cond_kwargs", "labels"}


@pytest.mark.unit
def test_a_drawn_forget_set_has_its_own_seeds_and_every_concept():
    family = family_of(class_conditional())
    done = []

    def every_second(concept, images):
        return torch.arange(len(images)) % 2 == 0

    how = {"steps": 2, "on_progress": lambda *numbers: done.append(numbers)}
    table, discarded = drawn_table(family, {"a": ["a"], "b": ["b"]}, every_second, 2, seed=5, **how)
    assert table["concept"].tolist() == ["a", "a", "b", "b"] and set(table["origin"]) == {"generated"}
    assert discarded == {"a": 2, "b": 2} and done == [(1, 2), (2, 2)]
    seeds = image_seeds(5, 1, 20, FORGET_SET_BLOCKS)
    drawn = family.sample(["b"] * 2, [seeds[0], seeds[2]], steps=2)
    again = decode([encode_png(image) for image in drawn], (1, 8, 8))
    assert torch.allclose(decode(table["image"].tolist()[2:], (1, 8, 8)), again, atol=2 / 127)
