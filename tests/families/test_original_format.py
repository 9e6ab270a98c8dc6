"""A pipeline written as one file in the original format: diffusers' own reader gives back every weight."""

import json
import warnings

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from diffusers.loaders.single_file_utils import infer_diffusers_model_type, load_single_file_checkpoint
from safetensors import safe_open
from safetensors.torch import save_file
from tiny_pipelines import clip, sana, stable_diffusion_xl
from tiny_stable_diffusion import tiny_stable_diffusion

import erasediff
from erasediff import cli
from erasediff.errors import IntegrityError, ModelError, ParamsError
from erasediff.examples import open_example
from erasediff.families.original_format import original_tensors, save_single_file
from erasediff.loading import erased_before


def stable_diffusion_2():
    """Its text encoder is one of OpenCLIP, which stable diffusion 2.x has; it predicts v."""
    pipeline = tiny_stable_diffusion()
    pipeline.register_modules(text_encoder=_exact(clip(pipeline.tokenizer)))
    pipeline.scheduler.register_to_config(prediction_type="v_prediction")
    return pipeline


def sdxl():
    """Its two text encoders are of two widths, by which diffusers tells them apart."""
    pipeline = stable_diffusion_xl()
    encoders = clip(pipeline.tokenizer, width=24), _exact(clip(pipeline.tokenizer, width=40, projection=40))
    pipeline.register_modules(text_encoder=encoders[0], text_encoder_2=encoders[1])
    return pipeline


def _exact(encoder):
    config = encoder.config
    config.hidden_act = "gelu"
    return type(encoder)(config).eval()


KINDS = {
    "1.x": (tiny_stable_diffusion, StableDiffusionPipeline),
    "shapes": (lambda: open_example("shapes").pipeline, StableDiffusionPipeline),
    "2.x": (stable_diffusion_2, StableDiffusionPipeline),
    "XL": (sdxl, StableDiffusionXLPipeline),
}


@pytest.mark.reference
@pytest.mark.parametrize("kind", KINDS)
def test_diffusers_reads_back_every_weight(kind, tmp_path):
    make, pipeline_class = KINDS[kind]
    pipeline = make()
    pipeline.save_pretrained(tmp_path / "config")
    save_single_file(pipeline, tmp_path / "one.safetensors", {})
    for weights in (tmp_path / "config").glob("*/*.safetensors"):
        weights.unlink()
    read = pipeline_class.from_single_file(
        str(tmp_path / "one.safetensors"), config=str(tmp_path / "config"), torch_dtype=pipeline.unet.dtype
    )
    for name, part in pipeline.components.items():
        if isinstance(part, torch.nn.Module):
            expected, found = part.state_dict(), getattr(read, name).state_dict()
            assert list(expected) == list(found)
            assert all(torch.equal(expected[key], found[key]) for key in expected), name


@pytest.mark.reference
def test_a_file_of_the_true_size_is_known_for_what_it_is():
    """Names of the published checkpoints, from a network without memory."""
    pipeline = tiny_stable_diffusion()
    with torch.device("meta"):
        pipeline.register_modules(unet=UNet2DConditionModel(cross_attention_dim=768, sample_size=64))
    tensors = original_tensors(pipeline)
    unet = [name for name in tensors if name.startswith("model.diffusion_model.")]
    assert len(unet) == 686
    attention = "model.diffusion_model.output_blocks.11.1.transformer_blocks.0.attn2.to_k.weight"
    assert tensors[attention].shape == (320, 768)
    assert infer_diffusers_model_type(tensors) == "v1"
    assert tensors["first_stage_model.decoder.mid.attn_1.q.weight"].ndim == 4


@pytest.mark.unit
def test_what_the_format_has_no_place_for_is_one_line(tmp_path):
    with pytest.raises(ModelError, match="SanaPipeline is not written as one file, .*name a folder"):
        save_single_file(sana(), tmp_path / "one.safetensors", {})
    pipeline = tiny_stable_diffusion()
    pipeline.unet.register_module("more", torch.nn.Linear(1, 1))
    with pytest.raises(ModelError, match="has no place for more.weight of this UNet"):
        save_single_file(pipeline, tmp_path / "one.safetensors", {})
    pipeline = sdxl()
    pipeline.register_modules(text_encoder=None)
    with pytest.raises(ModelError, match="second text encoder alone"):
        original_tensors(pipeline)
    assert not list(tmp_path.iterdir())


@pytest.mark.unit
def test_a_result_is_saved_as_one_file_and_says_what_was_erased(tmp_path):
    how = {"outer_steps": 1, "generate": 1, "progress": False, "preserve": ["circle"]}
    with warnings.catch_warnings(action="ignore"):  # one update of a tiny model
        result = erasediff.erase(tiny_stable_diffusion(), "star", **how)
    one = tmp_path / "one.safetensors"
    result.save(one)
    assert one.stat().st_mode & 0o777 == 0o644  # another user may read it
    with safe_open(one, "pt") as file:
        assert file.metadata()["modelspec.prediction_type"] == "epsilon"
        assert json.loads(file.metadata()["erasure.json"])["concepts"] == ["star"]
    assert erased_before(str(one)) == ["star"]
    assert len(load_single_file_checkpoint(str(one))) == len(original_tensors(result.pipeline))
    with pytest.raises(ParamsError, match="a LoRA is written as two: name a folder"):
        result.save(one, fused=False)
    with pytest.raises(ParamsError, match="published with its card: name a folder"):
        result.publish(one)


@pytest.mark.unit
def test_the_command_goes_on_from_its_own_file(tmp_path, capsys):
    small = ["--steps", "1", "--generate", "1", "--set", "forget_batch_size=2", "--set", "retain_batch_size=2"]
    first, second = str(tmp_path / "first.safetensors"), str(tmp_path / "second.safetensors")
    folder = str(tmp_path / "model")
    tiny_stable_diffusion().save_pretrained(folder)
    assert cli.main(["erase", folder, "star", "--output", first, "--preserve", "circle", *small]) == 0
    more = ["--config", folder, "--preserve", "square"]
    assert cli.main(["erase", first, "circle", "--output", second, *more, *small]) == 0
    assert erased_before(second) == ["circle", "star"]
    capsys.readouterr()
    assert cli.main(["erase", first, "circle", "--output", second, *more]) == 2
    assert "is there already: name a new one" in capsys.readouterr().err


@pytest.mark.unit
def test_a_format_that_is_not_there_is_told_before_anything_is_erased(tmp_path, capsys):
    sana().save_pretrained(tmp_path / "sana")
    assert cli.main(["erase", str(tmp_path / "sana"), "star", "--output", str(tmp_path / "one.safetensors")]) == 1
    assert "SanaPipeline is not written as one file" in capsys.readouterr().err


@pytest.mark.unit
def test_metadata_that_nobody_can_read_are_one_line(tmp_path):
    file = tmp_path / "one.safetensors"
    for said, told in (
        ("{", "cannot be read"),
        ("[]", "says .*of what was erased"),
        ('{"concepts": 3}', "does not list"),
    ):
        save_file({"a": torch.zeros(1)}, file, {"erasure.json": said})
        with pytest.raises(IntegrityError, match=told):
            erased_before(str(file))
    save_file({"a": torch.zeros(1)}, file)
    assert erased_before(str(file)) == []
