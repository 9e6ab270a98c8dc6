"""Every text-to-image family against diffusers' own pipeline: what its call computes inside is what is trained."""

import copy
import functools
import logging

import pytest
import torch
from diffusers import (
    AutoencoderTiny,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinInpaintPipeline,
    FluxImg2ImgPipeline,
    FluxPipeline,
    KandinskyV22Pipeline,
    LatentConsistencyModelPipeline,
    LCMScheduler,
    PixArtSigmaPAGPipeline,
    SanaPAGPipeline,
    SanaPipeline,
    SanaSprintImg2ImgPipeline,
    SanaSprintPipeline,
    SCMScheduler,
    StableDiffusion3InpaintPipeline,
    StableDiffusion3Pipeline,
    StableDiffusionControlNetPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPAGPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLInpaintPipeline,
    UNet2DConditionModel,
)
from peft import LoraConfig
from tiny_pipelines import PIPELINES, dit, flux, flux2_klein, sana, sana_sprint, stable_diffusion_3, stable_diffusion_xl
from tiny_stable_diffusion import tiny_stable_diffusion
from transformers import CLIPImageProcessor

from erasediff import erase
from erasediff.data.concept_images import ConceptImages
from erasediff.errors import ModelError, ParamsError, UnknownConcept
from erasediff.families import FAMILIES, family_of, open_pipeline
from erasediff.families.flow_matching import FlowMatching, flow_shift
from erasediff.families.sana_sprint import SanaSprintFamily
from erasediff.families.selections import selected
from erasediff.families.text_to_image import How, built
from erasediff.families.weights import dtypes_of
from erasediff.randomness import generator
from erasediff.unlearning.adapters import LORA_FILE

NAMES = sorted(PIPELINES)
#: DiT has no attention to a prompt; in the others picture and prompt attend in one place.
NO_PART = {"DiTFamily": ("xattn", "xattn_kv", "xattn_v")}
NO_PART |= dict.fromkeys(("StableDiffusion3Family", "FluxFamily", "Flux2KleinFamily"), ("selfattn",))


@pytest.fixture(scope="module", params=NAMES)
def family(request):
    return family_of(PIPELINES[request.param]())


def prompts_of(family):
    return list(family.concepts[:2]) if family.concepts else ["a red circle", "a blue star"]


def own_call(family, prompts, seeds, **how):
    """Pictures in [0, 1] that the pipeline's own call gives, first noise included."""
    named = {"class_labels": family.pipeline.get_label_ids(prompts)} if family.concepts else {"prompt": prompts}
    if type(family.pipeline).__name__.startswith(("Sana", "PixArt")):
        named |= {"use_resolution_binning": False}
    if type(family.pipeline).__name__ == "SanaSprintPipeline" and how["num_inference_steps"] != 2:
        named |= {"intermediate_timesteps": None}
    if not family.concepts:
        named |= {"height": family.image_shape[1], "width": family.image_shape[2]}
    family.pipeline.set_progress_bar_config(disable=True)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    return family.pipeline(**named, generator=generators, output_type="pt", **how).images


@pytest.mark.reference
def test_drawing_is_the_pipelines_own_call(family):
    prompts = prompts_of(family)
    drawn = family.sample(prompts, [5, 6], steps=3, batch_size=1)
    assert torch.allclose(drawn, own_call(family, prompts, [5, 6], num_inference_steps=3) * 2 - 1, atol=1e-4)
    assert not torch.allclose(drawn[0], drawn[1], atol=1e-2)


@pytest.mark.reference
def test_a_prediction_is_what_the_pipeline_computes_inside(family):
    """Under a prompt, and under the null prompt, which is what the pipeline guides away from."""
    prompts, calls = prompts_of(family), []

    def note(network, positional, named, output):
        noisy = positional[0] if positional else named.get("hidden_states", named.get("sample"))
        timestep = positional[1] if len(positional) > 1 else named["timestep"]
        calls.append((noisy, timestep, output[0] if isinstance(output, tuple) else output.sample))

    hook = family.denoiser.register_forward_hook(note, with_kwargs=True)
    guidance = family.default_guidance_scale
    own_call(family, prompts, [5, 6], num_inference_steps=2, guidance_scale=guidance)
    hook.remove()
    noisy, timestep, output = calls[0]
    timesteps = timestep.reshape(-1)[:1].expand(2)
    guided = len(noisy) == 4
    if type(family.pipeline).__name__ in ("FluxPipeline", "Flux2KleinPipeline", "SanaSprintPipeline"):
        timesteps = timesteps * 1000
    if type(family.pipeline).__name__ in ("FluxPipeline", "Flux2KleinPipeline"):
        noisy, output = (family.unpacked(x, *family.latent_shape[1:]) for x in (noisy, output))
    first = ["", ""] if guided and not family.concepts else prompts
    with torch.no_grad():
        for half, asked in enumerate([first, prompts if first != prompts else ["", ""]] if guided else [prompts]):
            rows = slice(2 * half, 2 * half + 2)
            ours = family.predict(family.denoiser, noisy[rows], timesteps, family.condition(asked))
            assert torch.allclose(ours, output[rows, : ours.shape[1]], atol=1e-5)


@pytest.mark.reference
def test_latents_are_decoded_to_what_the_vae_says_of_the_picture(family):
    images = torch.rand(2, *family.image_shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    latents = family.encode(images)
    assert latents.shape == (2, *family.latent_shape) and latents.dtype == torch.float32
    code = family.encoder.encode(images)
    mean = code.latent_dist.mean if hasattr(code, "latent_dist") else code.latent
    with torch.no_grad():
        expected = family.encoder.decode(mean).sample.clamp(-1, 1)
    assert torch.allclose(family.decode(latents), expected, atol=1e-5)


@pytest.mark.unit
def test_timesteps_are_of_the_family_s_own_kind(family):
    drawn = family.timesteps(2000, generator(0, "timesteps"))
    assert drawn.min() >= 0 and drawn.max() <= family.num_timesteps == 1000
    if not isinstance(family, FlowMatching):
        assert drawn.dtype == torch.int64
        return
    assert drawn.dtype == torch.float32 and not torch.equal(drawn, drawn.round())
    if isinstance(family, SanaSprintFamily):
        start = drawn == 1000
        assert start.float().mean().item() == pytest.approx(0.5, abs=0.04)
        drawn = drawn[~start]
    middle = family.shift * 0.5 / (1 + (family.shift - 1) * 0.5)
    assert drawn.median().item() == pytest.approx(1000 * middle, rel=0.03)


@pytest.mark.reference
@pytest.mark.parametrize("make", [stable_diffusion_3, flux, sana])
def test_flow_matching_noises_along_a_line_and_teaches_the_velocity(make):
    family = family_of(make())
    draw = torch.Generator().manual_seed(0)
    clean, noise = torch.randn(2, 3, *family.latent_shape, generator=draw)
    timesteps = torch.tensor([0.0, 250.0, 1000.0])
    noisy, velocity = family.noised(clean, noise, timesteps)
    assert torch.equal(noisy[0], clean[0]) and torch.equal(noisy[2], noise[2])
    assert torch.allclose(noisy[1], 0.75 * clean[1] + 0.25 * noise[1])
    assert torch.allclose(noisy - timesteps.view(-1, 1, 1, 1) / 1000 * velocity, clean, atol=1e-5)


@pytest.mark.reference
def test_what_sana_sprint_is_taught_is_what_its_sampler_steps_by():
    """A network that knows the velocity makes the sampler's first step find the picture, in its coordinates."""
    family = family_of(sana_sprint())
    clean, noise = torch.randn(2, 1, *family.latent_shape, generator=torch.Generator().manual_seed(0))
    found = {}

    def knows(network, noisy, timestep, **asked):
        sigma = float(timestep[0])
        ours, velocity = family.noised(clean, noise, torch.tensor([1000 * sigma]))
        found.setdefault("noisy", []).append(torch.allclose(noisy, ours, atol=1e-4))
        return (velocity,)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(family.denoiser), "forward", knows)
        generators = [torch.Generator().manual_seed(1)]
        latents = family.drawn(["a red circle"], noise, generators, How(1, 4.5, None))
    assert found["noisy"] == [True] and torch.allclose(latents, clean, atol=1e-4)


@pytest.mark.unit
@pytest.mark.parametrize("steps", [1, 2, 4])
def test_sana_sprint_draws_in_as_few_steps_as_it_is_told(steps):
    family = family_of(sana_sprint())
    assert family.default_steps == 2
    assert family.sample(["a red circle"], [0], steps=steps).shape == (1, *family.image_shape)


@pytest.mark.unit
def test_pixart_alpha_draws_in_one_step_where_its_sampler_predicts_a_picture():
    """Its own call reads that prediction then, which a solver of several orders does not give: an IndexError."""
    family = family_of(PIPELINES["pixart_alpha"]())
    with pytest.raises(ParamsError, match="a DPMSolverMultistepScheduler does not draw this model in 1 step: give 2"):
        family.sample(["a red circle"], [0], steps=1)
    drawn = family.sample(["a red circle"], [0], steps=1, sampler="DDIMScheduler")
    assert drawn.shape == (1, *family.image_shape)


@pytest.mark.unit
def test_a_sana_of_another_kind_than_its_pipeline_says_is_refused():
    sprint = sana_sprint()
    plain = built(SanaPipeline, sprint, {})
    with pytest.raises(ModelError, match="a SCMScheduler does not sample a flow"):
        family_of(plain)
    sprint.scheduler = FlowMatchEulerDiscreteScheduler()
    with pytest.raises(ModelError, match="a FlowMatchEulerDiscreteScheduler does not sample a SANA-Sprint: use SCM"):
        family_of(sprint)
    with pytest.raises(ModelError, match="the transformer takes no guidance: it is a SANA"):
        family_of(built(SanaSprintPipeline, sana(), {"scheduler": SCMScheduler()}))


@pytest.mark.unit
def test_no_network_draws_at_random_while_it_is_trained(family):
    """What a training draws comes from the seed, and the step; torch's global generator has no part in it."""
    latents = family.encode(torch.zeros(4, *family.image_shape))
    condition = family.condition(prompts_of(family) * 2)
    timesteps = torch.tensor([500] * 4).to(family.timesteps(1, generator(0, "timesteps")))
    state = torch.get_rng_state()
    network = copy.deepcopy(family.denoiser).train()
    with torch.no_grad():
        for _ in range(8):
            family.predict(network, latents, timesteps, condition)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.reference
@pytest.mark.parametrize("make", [stable_diffusion_3, flux])
def test_the_shift_of_training_is_that_of_sampling(make):
    """The scheduler's own sigmas are plain ones shifted by it."""
    family = family_of(make())
    seen = []
    plain = FlowMatchEulerDiscreteScheduler.set_timesteps

    @functools.wraps(plain)  # pipelines look at what it takes
    def noting(self, *arguments, **named):
        plain(self, *arguments, **named)
        seen.append(self.sigmas[:-1])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FlowMatchEulerDiscreteScheduler, "set_timesteps", noting)
        family.sample(["a red circle"], [0], steps=4)
    sigmas = seen[0]
    unshifted = sigmas / (family.shift - (family.shift - 1) * sigmas)
    steps = unshifted.diff()
    assert family.shift > 1 and torch.allclose(steps, steps[:1].expand(3), atol=1e-4)


@pytest.mark.unit
def test_erasing_works_and_gives_the_class_that_came_in(family):
    prompts = prompts_of(family)
    images = torch.rand(4, *family.image_shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    sets = [ConceptImages(images[i : i + 2], [prompts[i // 2]] * 2) for i in (0, 2)]
    how = {"outer_steps": 2, "forget_batch_size": 2, "retain_batch_size": 2, "learning_rate": 1e-2, "ema_decay": 0.0}
    result = erase(family.pipeline, prompts[0], forget=sets[0], retain=sets[1], **how)
    assert type(result.pipeline) is type(family.pipeline)
    before, after = (family_of(p).sample(prompts, [1, 2], steps=2) for p in (family.pipeline, result.pipeline))
    assert torch.isfinite(after).all() and not torch.allclose(before, after, atol=1e-3)


@pytest.mark.unit
@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("dit", "pixart_alpha", "pixart_sigma")])
def test_plain_diffusers_loads_a_lora_of_it_and_draws_what_the_fused_network_draws(name, tmp_path):
    family = family_of(PIPELINES[name]())
    prompts = prompts_of(family)
    images = torch.rand(4, *family.image_shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    sets = [ConceptImages(images[i : i + 2], [prompts[i // 2]] * 2) for i in (0, 2)]
    how = {"outer_steps": 2, "forget_batch_size": 2, "retain_batch_size": 2, "learning_rate": 3e-2, "ema_decay": 0.0}
    result = erase(family.pipeline, prompts[0], forget=sets[0], retain=sets[1], adapter="lora", rank=2, **how)
    result.save(tmp_path / "erased")
    family.pipeline.save_pretrained(tmp_path / "base")
    plain = family_of(type(family.pipeline).from_pretrained(tmp_path / "base"))
    before, fused = (own_call(f, prompts, [1, 2], num_inference_steps=2) for f in (plain, family_of(result.pipeline)))
    plain.pipeline.load_lora_weights(tmp_path / "erased", weight_name=LORA_FILE)
    loaded = own_call(plain, prompts, [1, 2], num_inference_steps=2)
    assert not torch.allclose(before, fused, atol=1e-3) and torch.allclose(loaded, fused, atol=1e-4)


@pytest.mark.unit
@pytest.mark.parametrize("selection", ["xattn", "xattn_kv", "xattn_v", "noxattn", "selfattn", "notime", "attention"])
def test_each_selection_is_a_part_of_every_network(family, selection):
    """But where a network has no such part: then nothing is selected, which is refused, or all but that."""
    names = [name for name, _ in family.denoiser.named_parameters()]
    chosen, missing = selected(names, selection, family.selections), NO_PART.get(type(family).__name__, ())
    assert bool(chosen) == (selection not in missing)
    assert len(chosen) < len(names) or selection.replace("no", "") in missing


@pytest.mark.unit
@pytest.mark.parametrize("name", ["flux", "sana", "dit", "stable_diffusion_xl"])
def test_a_folder_of_it_opens_and_draws_the_same(name, tmp_path):
    family = family_of(PIPELINES[name]())
    family.with_denoiser(family.denoiser).pipeline.save_pretrained(tmp_path / "first")
    open_pipeline(tmp_path / "first").save_pretrained(tmp_path / "second")
    again = family_of(open_pipeline(tmp_path / "second"))
    assert again.concepts == family.concepts
    how = {"prompts": prompts_of(family)[:1], "seeds": [3], "steps": 2}
    assert torch.allclose(again.sample(**how), family.sample(**how), atol=1e-4)


@pytest.mark.unit
def test_a_folder_without_the_text_encoder_that_is_often_left_out_opens(tmp_path):
    """SD 3 works without its T5, which is larger than the rest; diffusers saves it so, but opens it when told alone."""
    family = family_of(
        built(StableDiffusion3Pipeline, stable_diffusion_3(), {"text_encoder_3": None, "tokenizer_3": None})
    )
    family.pipeline.save_pretrained(tmp_path)
    again = family_of(open_pipeline(tmp_path))
    how = {"prompts": ["a red circle"], "seeds": [3], "steps": 2}
    assert again.pipeline.text_encoder_3 is None
    assert torch.allclose(again.sample(**how), family.sample(**how), atol=1e-4)


@pytest.mark.unit
@pytest.mark.parametrize(
    ("make", "pipeline_class", "more"),
    [
        (tiny_stable_diffusion, StableDiffusionImg2ImgPipeline, {}),
        (tiny_stable_diffusion, StableDiffusionInpaintPipeline, {}),
        (tiny_stable_diffusion, StableDiffusionPAGPipeline, {}),
        (tiny_stable_diffusion, StableDiffusionControlNetPipeline, {"controlnet": None}),
        (stable_diffusion_xl, StableDiffusionXLImg2ImgPipeline, {}),
        (stable_diffusion_xl, StableDiffusionXLInpaintPipeline, {}),
        (stable_diffusion_3, StableDiffusion3InpaintPipeline, {}),
        (flux, FluxImg2ImgPipeline, {}),
        (flux2_klein, Flux2KleinInpaintPipeline, {}),
        (sana, SanaPAGPipeline, {}),
        (sana_sprint, SanaSprintImg2ImgPipeline, {}),
        (PIPELINES["pixart_sigma"], PixArtSigmaPAGPipeline, {}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_pipeline_of_a_known_familys_parts_is_of_that_family(make, pipeline_class, more):
    plain = make()
    pipeline = built(pipeline_class, plain, more)
    family = family_of(pipeline)
    how = {"prompts": ["a red circle"], "seeds": [3], "steps": 2, "guidance_scale": 3.0}
    assert torch.equal(family.sample(**how), family_of(plain).sample(**how))
    assert type(family.with_denoiser(family.denoiser).pipeline) is pipeline_class


@pytest.mark.reference
def test_a_latent_consistency_model_is_asked_with_its_guidance():
    plain = tiny_stable_diffusion()
    config = {k: v for k, v in plain.unet.config.items() if not k.startswith("_")} | {"time_cond_proj_dim": 8}
    parts = {"unet": UNet2DConditionModel.from_config(config).eval(), "scheduler": LCMScheduler()}
    pipeline = built(LatentConsistencyModelPipeline, plain, {**parts, "requires_safety_checker": False})
    family = family_of(pipeline)
    assert (family.default_steps, family.default_guidance_scale) == (4, 8.5)
    drawn = family.sample(["a red circle"], [5])
    own = pipeline("a red circle", generator=[torch.Generator().manual_seed(5)], output_type="pt").images
    assert torch.allclose(drawn, own * 2 - 1, atol=1e-4)
    assert family.condition(["a", "b"])["timestep_cond"].shape == (2, 8)


@pytest.mark.unit
def test_a_sampler_that_draws_noise_draws_it_from_the_seed():
    pipeline = tiny_stable_diffusion()
    pipeline.scheduler = EulerAncestralDiscreteScheduler.from_config(pipeline.scheduler.config)
    family = family_of(pipeline)
    both = family.sample(["a red circle"] * 2, [5, 6], steps=3)
    assert torch.allclose(both[1:], family.sample(["a red circle"], [6], steps=3), atol=1e-4)
    own = own_call(family, ["a red circle"], [6], num_inference_steps=3)
    assert torch.allclose(both[1:], own * 2 - 1, atol=1e-4)


@pytest.mark.unit
def test_what_no_family_handles_gets_the_list():
    parts = tiny_stable_diffusion()
    pipeline = KandinskyV22Pipeline(unet=parts.unet, scheduler=DDIMScheduler(), movq=parts.vae)
    with pytest.raises(ModelError, match="no family handles a KandinskyV22Pipeline; there are those of: Class.*Flux"):
        family_of(pipeline)
    assert len(FAMILIES) == 14


@pytest.mark.unit
def test_an_inpainting_network_is_refused():
    pipeline = tiny_stable_diffusion()
    unet = UNet2DConditionModel.from_config({**pipeline.unet.config, "in_channels": 9})
    with pytest.raises(ModelError, match="the unet takes 9 channels, the VAE gives 4: .*inpainting"):
        family_of(built(StableDiffusionInpaintPipeline, pipeline, {"unet": unet}))


@pytest.mark.unit
@pytest.mark.parametrize(("size", "shape"), [([4, 8], (3, 8, 16)), ((8, 4), (3, 16, 8)), (None, (3, 16, 16))])
def test_pictures_need_not_be_square_nor_the_size_be_given(size, shape):
    pipeline = tiny_stable_diffusion()
    pipeline.unet.register_to_config(sample_size=size)
    family = family_of(pipeline)
    assert family.image_shape == shape
    assert family.sample(["a red circle"], [0], steps=2).shape == (1, *shape)
    assert family.encode(torch.zeros(1, *shape)).shape == (1, *family.latent_shape)


def tiny_autoencoder():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AutoencoderTiny(
            encoder_block_out_channels=(8, 8),
            decoder_block_out_channels=(8, 8),
            num_encoder_blocks=(1, 1),
            num_decoder_blocks=(1, 1),
            latent_channels=4,
        ).eval()


@pytest.mark.unit
def test_a_tiny_autoencoder_works():
    pipeline = tiny_stable_diffusion()
    tiny = tiny_autoencoder()
    family = family_of(built(StableDiffusionPipeline, pipeline, {"vae": tiny}))
    assert family.image_shape == (3, 16, 16)
    images = torch.rand(1, 3, 16, 16) * 2 - 1
    with torch.no_grad():
        assert torch.allclose(family.encode(images), tiny.encode(images).latents)
    own = own_call(family, ["a red circle"], [5], num_inference_steps=2)
    assert torch.allclose(family.sample(["a red circle"], [5], steps=2), own * 2 - 1, atol=1e-4)


@pytest.mark.unit
@pytest.mark.parametrize("size", [16, None])
def test_flux_with_a_tiny_autoencoder_is_as_large_as_its_own_call_says(size):
    """AutoencoderTiny has no size of its own."""
    tiny = tiny_autoencoder()
    if size:
        tiny.register_to_config(sample_size=size)
    pipeline = built(FluxPipeline, flux(), {"vae": tiny})
    assert family_of(pipeline).image_shape == (
        3,
        *[size or pipeline.default_sample_size * pipeline.vae_scale_factor] * 2,
    )


@pytest.mark.unit
@pytest.mark.parametrize("part", ["vae", "unet", "all"])
def test_parts_may_be_of_different_precision(part):
    pipeline = tiny_stable_diffusion()
    exact = family_of(copy.deepcopy(pipeline))
    for module in [pipeline.vae, pipeline.unet, pipeline.text_encoder] if part == "all" else [getattr(pipeline, part)]:
        module.to(torch.bfloat16)
    family = family_of(pipeline)
    images = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    latents = family.encode(images)
    assert latents.dtype == torch.float32 and torch.allclose(latents, exact.encode(images), atol=0.05)
    noise, timesteps = torch.ones_like(latents), torch.tensor([500])
    noisy, _ = family.noised(latents, noise, timesteps)
    with torch.no_grad():
        said = family.predict(family.denoiser, noisy, timesteps, family.condition(["a red circle"]))
        expected = exact.predict(exact.denoiser, noisy, timesteps, exact.condition(["a red circle"]))
    assert said.dtype == torch.float32 and torch.allclose(said, expected, atol=0.1)
    if part != "unet":
        assert family.sample(["a red circle"], [0], steps=2).dtype == torch.float32


@pytest.mark.unit
def test_a_vae_that_overflows_in_half_precision_is_computed_in_float32_without_a_word(monkeypatch, caplog):
    monkeypatch.setattr(logging.getLogger("diffusers"), "propagate", True)
    pipeline = tiny_stable_diffusion()
    pipeline.vae.half()
    pipeline.vae.register_to_config(force_upcast=True)
    seen = []
    pipeline.vae.encoder.register_forward_pre_hook(lambda network, inputs: seen.append(inputs[0].dtype))
    with caplog.at_level("WARNING", "diffusers"):
        family_of(pipeline).encode(torch.zeros(1, 3, 16, 16))
    assert seen == [torch.float32] and pipeline.vae.dtype == torch.float16 and caplog.messages == []


class FlagsAll(torch.nn.Module):
    """A safety checker that blacks out everything."""

    config = {}
    dtype, device = torch.float32, torch.device("cpu")

    def forward(self, images, clip_input):
        return images * 0, [True] * len(images)


@pytest.mark.unit
def test_a_safety_checker_is_off_while_drawing_and_stays_with_the_pipeline():
    pipeline = tiny_stable_diffusion()
    plain = family_of(copy.deepcopy(pipeline))
    pipeline.safety_checker = checker = FlagsAll()
    pipeline.feature_extractor = CLIPImageProcessor()
    family = family_of(pipeline)
    with pytest.warns(UserWarning, match="the safety checker, which blacks out pictures, is off"):
        drawn = family.sample(["a red circle"], [0], steps=2)
    assert torch.equal(drawn, plain.sample(["a red circle"], [0], steps=2))
    assert pipeline.safety_checker is checker
    assert family.with_denoiser(family.denoiser).pipeline.safety_checker is checker


@pytest.mark.unit
def test_pictures_that_are_nan_are_told():
    pipeline = tiny_stable_diffusion()
    with torch.no_grad():
        pipeline.vae.decoder.conv_out.bias.fill_(float("nan"))
    with pytest.raises(ModelError, match="pictures are NaN in torch.float32: load the VAE"):
        family_of(pipeline).sample(["a red circle"], [0], steps=1)


@pytest.mark.unit
@pytest.mark.parametrize("make", [tiny_stable_diffusion, stable_diffusion_xl])
def test_a_flow_scheduler_on_a_model_of_noise_is_refused(make):
    pipeline = make()
    pipeline.scheduler = FlowMatchEulerDiscreteScheduler()
    with pytest.raises(ModelError, match="a FlowMatchEulerDiscreteScheduler has no alphas_cumprod"):
        family_of(pipeline)


@pytest.mark.unit
def test_a_scheduler_that_samples_noise_as_if_it_were_a_flow_is_refused():
    """Its levels of noise are none that a model of noise was trained on, whatever the model predicts."""
    pipeline = tiny_stable_diffusion()
    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config, use_flow_sigmas=True)
    assert pipeline.scheduler.config.prediction_type == "epsilon"
    with pytest.raises(ModelError, match="a DPMSolverMultistepScheduler with use_flow_sigmas samples a flow"):
        family_of(pipeline)


@pytest.mark.unit
@pytest.mark.parametrize("make", [stable_diffusion_3, flux, sana])
def test_a_scheduler_of_noise_on_a_flow_is_refused(make):
    pipeline = make()
    pipeline.scheduler = DDIMScheduler()
    with pytest.raises(ModelError, match="a DDIMScheduler does not sample a flow"):
        family_of(pipeline)


@pytest.mark.unit
def test_a_flow_whose_shift_is_fixed_or_goes_with_the_size():
    assert flow_shift(FlowMatchEulerDiscreteScheduler(shift=3.0), 64) == 3.0
    dynamic = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    assert flow_shift(dynamic, 4096) == pytest.approx(2.718281828**1.15, rel=1e-6)
    assert flow_shift(dynamic, 256) == pytest.approx(2.718281828**0.5, rel=1e-6)


@pytest.mark.unit
def test_weights_that_are_not_there_are_told():
    pipeline = tiny_stable_diffusion()
    pipeline.unet.to("meta")
    with pytest.raises(ModelError, match=r"unet is on the meta device, without weights: load"):
        family_of(pipeline)


@pytest.mark.unit
def test_an_adapter_beside_the_weights_draws_and_is_refused_by_erasing_with_the_way_on():
    pipeline = tiny_stable_diffusion()
    unet = pipeline.unet
    plain = family_of(pipeline).sample(["a red circle"], [0], steps=2)
    unet.add_adapter(LoraConfig(r=2, target_modules=["to_k", "to_v"], init_lora_weights=False), "style")
    assert not torch.allclose(family_of(pipeline).sample(["a red circle"], [0], steps=2), plain, atol=1e-4)
    with pytest.raises(ModelError, match=r"an adapter is loaded into unet \(style\): call fuse_lora\(\) and"):
        erase(pipeline, "a red circle", preserve=["a blue star"])


@pytest.mark.unit
def test_a_class_of_dit_has_its_first_name_and_is_known_by_all():
    family = family_of(PIPELINES["dit"]())
    assert family.concepts == ("Tinca tinca", "goldfish", "great white shark")
    labels = family.condition(["tench", "Tinca tinca", "goldfish", ""])["class_labels"].tolist()
    assert labels == [0, 0, 1, 1000]
    with pytest.raises(UnknownConcept, match="does not know 'cat'; it knows: Tinca tinca, goldfish"):
        family.condition(["cat"])


@pytest.mark.unit
def test_a_dit_of_another_number_of_classes_draws_without_guidance_alone():
    """``DiTPipeline`` guides away from class 1000, which such a model has not, or means something else by."""
    family = family_of(dit(classes=3))
    assert family.default_guidance_scale == 1.0 and family_of(dit()).default_guidance_scale == 4.0
    assert family.sample(["goldfish"], [0], steps=2).shape == (1, 3, 16, 16)
    with pytest.raises(
        ParamsError, match="guidance_scale 4.0: a DiTPipeline guides away from class 1000, .* class at 3"
    ):
        family.sample(["goldfish"], [0], steps=2, guidance_scale=4.0)


@pytest.mark.unit
def test_the_null_prompt_of_sdxl_is_zeros_where_the_pipeline_says_so():
    pipeline = stable_diffusion_xl()
    for zeros in (True, False):
        pipeline.register_to_config(force_zeros_for_empty_prompt=zeros)
        condition = family_of(pipeline).condition(["", "a red circle"])
        assert (condition["encoder_hidden_states"][0] == 0).all() == zeros
        assert (condition["added_cond_kwargs"]["text_embeds"][0] == 0).all() == zeros
        assert condition["added_cond_kwargs"]["time_ids"].tolist() == [[16, 16, 0, 0, 16, 16]] * 2


@pytest.mark.unit
def test_sana_is_asked_with_its_instruction():
    """As ``SanaPipeline.__call__`` does, and a bare ``encode_prompt`` does not."""
    family = family_of(sana())
    asked = family.condition(["a red circle"])["encoder_hidden_states"]
    bare = family.pipeline.encode_prompt(["a red circle"], do_classifier_free_guidance=False)[0]
    assert asked.shape == bare.shape and not torch.allclose(asked, bare)


@pytest.mark.unit
def test_a_cpu_draws_half_precision_in_float32_and_leaves_every_weight_as_it_was():
    pipeline = tiny_stable_diffusion().to(torch.float16)
    pipeline.text_encoder.final_layer_norm.float()  # as T5 keeps some of its weights
    before = {name: dtypes_of(part) for name, part in pipeline.components.items() if isinstance(part, torch.nn.Module)}
    seen = set()
    pipeline.unet.register_forward_pre_hook(lambda unet, inputs: seen.add(unet.dtype))
    family_of(pipeline).sample(["a star"], [0], steps=1, guidance_scale=1.0)
    assert seen == {torch.float32}
    assert before == {name: dtypes_of(pipeline.components[name]) for name in before}


@pytest.mark.unit
@pytest.mark.parametrize("make", [tiny_stable_diffusion, stable_diffusion_xl])
@pytest.mark.parametrize(
    ("scheduler", "expected"),
    [
        (EulerAncestralDiscreteScheduler(timestep_spacing="trailing"), (4, 1.0)),
        (EulerDiscreteScheduler(timestep_spacing="trailing"), (4, 1.0)),
        (EulerDiscreteScheduler(timestep_spacing="leading"), (50, None)),
        (EulerDiscreteScheduler(timestep_spacing="trailing", prediction_type="v_prediction"), (50, None)),
        (EulerDiscreteScheduler(timestep_spacing="trailing", rescale_betas_zero_snr=True), (50, None)),
    ],
)
def test_a_model_that_was_distilled_to_few_steps_draws_in_few_by_default(make, scheduler, expected):
    """The schedulers that SDXL-Turbo, SD-Turbo, SDXL and models of zero terminal SNR come with."""
    pipeline = make()
    pipeline.scheduler = type(scheduler).from_config({**pipeline.scheduler.config, **scheduler.config})
    family = family_of(pipeline)
    steps, guidance = expected
    assert (family.default_steps, family.default_guidance_scale) == (steps, guidance or family.default_guidance_scale)
    assert guidance or family.default_guidance_scale > 1


@pytest.mark.unit
def test_distilled_transformers_draw_in_few_steps_by_default():
    assert family_of(flux()).default_steps == 28
    schnell = flux(guidance_embeds=False)
    schnell.scheduler = FlowMatchEulerDiscreteScheduler(shift=1.0)
    assert family_of(schnell).default_steps == 4
    assert family_of(flux2_klein()).default_steps == 50
    distilled = family_of(flux2_klein(is_distilled=True))
    assert (distilled.default_steps, distilled.default_guidance_scale) == (4, 1.0)
