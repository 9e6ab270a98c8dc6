"""Pictures of another size than a model's own, on every family: what is trained on them, and what is drawn."""

import pytest
import torch
from diffusers import (
    Flux2KleinInpaintPipeline,
    FluxImg2ImgPipeline,
    PixArtTransformer2DModel,
    StableDiffusion3InpaintPipeline,
    StableDiffusionXLInpaintPipeline,
)
from test_text_to_image import own_call
from tiny_pipelines import PIPELINES, flux, flux2_klein, pixart_alpha, stable_diffusion_3, stable_diffusion_xl

from erasediff import draw, erase
from erasediff.errors import ParamsError
from erasediff.families import family_of
from erasediff.families.text_to_image import built

#: Families that are asked in words; DiT has a size of its own alone.
NAMES = sorted(set(PIPELINES) - {"dit"})
#: Height and width, as small as a pipeline's own call takes them.
SIZES = {"sana": (32, 64), "sana_sprint": (32, 64)}
PROMPTS = ["a red circle", "a blue star"]


@pytest.fixture(scope="module", params=NAMES)
def family(request):
    return family_of(PIPELINES[request.param](), SIZES.get(request.param, (8, 24)))


@pytest.mark.reference
def test_drawing_is_the_pipelines_own_call_at_this_size(family):
    drawn = family.sample(PROMPTS, [5, 6], steps=2)
    assert drawn.shape == (2, 3, *family.size) == (2, *family.image_shape)
    own = own_call(family, PROMPTS, [5, 6], num_inference_steps=2)
    assert torch.allclose(drawn, own * 2 - 1, atol=1e-4)
    assert torch.allclose(draw(family.pipeline, PROMPTS[0], seed=5, steps=2, size=family.size), drawn[:1], atol=1e-4)


@pytest.mark.unit
def test_an_update_is_made_on_pictures_of_this_size_and_the_result_is_shown_so(family):
    seen = []
    hook = family.encoder.encoder.register_forward_pre_hook(lambda network, inputs: seen.append(tuple(inputs[0].shape)))
    images = torch.rand(2, 3, 12, 12, generator=torch.Generator().manual_seed(0)) * 2 - 1
    how = {"outer_steps": 1, "forget_batch_size": 2, "retain_batch_size": 2, "forget_target": "relabel"}
    given = {"forget": {PROMPTS[0]: images}, "retain": {PROMPTS[1]: images}}
    result = erase(family.pipeline, PROMPTS[0], size=family.size, forget_source="forget", **given, **how)
    hook.remove()
    assert seen and {shape[1:] for shape in seen} == {(3, *family.size)}
    assert result.settings["size"] == "{}×{}".format(*family.size)
    again = family_of(result.pipeline, family.size)
    assert again.with_denoiser(again.denoiser).image_shape == family.image_shape
    shown = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("erasediff.unlearning.erased.picture_grid", lambda images, *given, **how: shown.append(images))
        result.show(1, steps=2, concepts=PROMPTS[:1])
    assert shown[0].shape == (1, 2, 3, *family.size)


@pytest.mark.unit
@pytest.mark.parametrize(
    ("make", "size", "told"),
    [
        (flux, (16, 20), "size 16×20: this model takes multiples of 8, and 20 is none"),
        (stable_diffusion_3, (16, 72), "size 16×72: this model knows no more than 64 pixels a side"),
        (PIPELINES["sana"], (32, 40), "size 32×40: this model takes multiples of 32, and 40 is none"),
        (PIPELINES["dit"], (16, 16), r"size \(16, 16\): a DiTPipeline draws at its own size alone: give none"),
    ],
)
def test_a_size_that_a_model_cannot_have_is_told(make, size, told):
    with pytest.raises(ParamsError, match=told):
        family_of(make(), size)


@pytest.mark.unit
def test_a_model_of_classes_has_its_own_size_alone(pipeline):
    with pytest.raises(ParamsError, match=r"size \(8, 8\): a ClassConditionalPipeline draws at its own size alone"):
        erase(pipeline, "a", size=(8, 8))


@pytest.mark.reference
def test_pixart_alpha_of_1024_pixels_is_told_the_size_of_its_picture_as_its_own_call_tells_it():
    """The network for 128×128 latents is conditioned on it, those for smaller ones are not."""
    plain = pixart_alpha()
    assert "added_cond_kwargs" not in family_of(plain).condition(PROMPTS)
    config = {**plain.transformer.config, "sample_size": 128, "use_additional_conditions": True}
    # A third of the network's width goes to height, width and ratio each.
    config |= {"num_attention_heads": 3, "cross_attention_dim": 24}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformer = PixArtTransformer2DModel.from_config(config).eval()
    pipeline = built(type(plain), plain, {"transformer": transformer})
    assert family_of(pipeline).image_shape == (3, 256, 256)
    family, calls = family_of(pipeline, (16, 32)), []
    added = family.condition(PROMPTS)["added_cond_kwargs"]
    assert added["resolution"].tolist() == [[16, 32]] * 2 and added["aspect_ratio"].tolist() == [[0.5]] * 2

    def note(network, positional, named, output):
        calls.append((positional[0], named["timestep"], named["added_cond_kwargs"], output[0]))

    hook = transformer.register_forward_hook(note, with_kwargs=True)
    own_call(family, PROMPTS, [5, 6], num_inference_steps=2, guidance_scale=3.0)
    hook.remove()
    noisy, timestep, told, output = calls[0]
    assert torch.equal(told["resolution"][2:].float(), added["resolution"])
    with torch.no_grad():
        ours = family.predict(transformer, noisy[2:], timestep[2:], family.condition(PROMPTS))
        assert torch.allclose(ours, output[2:, :4], atol=1e-5)
        other = family_of(pipeline, (32, 16)).condition(PROMPTS)
        assert not torch.allclose(family.predict(transformer, noisy[2:], timestep[2:], other), ours, atol=1e-5)


@pytest.mark.unit
@pytest.mark.parametrize(
    ("make", "pipeline_class"),
    [
        (flux, FluxImg2ImgPipeline),
        (flux2_klein, Flux2KleinInpaintPipeline),
        (stable_diffusion_3, StableDiffusion3InpaintPipeline),
        (stable_diffusion_xl, StableDiffusionXLInpaintPipeline),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_pipeline_that_draws_from_a_picture_is_asked_as_the_one_that_draws_from_a_prompt(make, pipeline_class):
    """Its own defaults are those of changing a picture: of FLUX a guidance of 7.0, where it draws with 3.5."""
    plain = make()
    families = family_of(plain), family_of(built(pipeline_class, plain, {}))
    assert len({(family.default_steps, family.default_guidance_scale) for family in families}) == 1
    conditions = [family.condition(PROMPTS).flat() for family in families]
    assert all(torch.equal(value, conditions[1][name]) for name, value in conditions[0].items())
