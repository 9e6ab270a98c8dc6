"""One ``.safetensors`` file in the original format, as people keep their models."""

import shutil

import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import load_file, save_file
from tiny_pipelines import flux
from tiny_stable_diffusion import tiny_stable_diffusion

import erasediff
from erasediff import cli
from erasediff.errors import ModelError
from erasediff.families import family_of
from erasediff.families.original_format import save_single_file

HOW = {"prompts": ["a red circle"], "seeds": [3], "steps": 2}


@pytest.fixture(scope="module")
def base():
    return tiny_stable_diffusion()


@pytest.fixture
def config(base, tmp_path):
    """A folder that says how such a model is built; its weights are of another one."""
    other = tiny_stable_diffusion(seed=7)
    other.tokenizer = base.tokenizer  # two that learn from the same captions may order what is equally frequent apart
    other.save_pretrained(tmp_path / "config")
    return tmp_path / "config"


@pytest.fixture
def file(base, tmp_path):
    save_single_file(base, tmp_path / "model.safetensors", {})
    return tmp_path / "model.safetensors"


@pytest.fixture
def assert_is_it(base):
    def assert_is_it(pipeline):
        expected = family_of(base).sample(**HOW)
        assert torch.allclose(family_of(pipeline).sample(**HOW), expected, atol=1e-5)

    return assert_is_it


@pytest.mark.reference
def test_a_single_file_opens_with_the_configuration_of_a_folder(file, config, assert_is_it):
    assert_is_it(erasediff.load(file, config=config))


@pytest.mark.unit
def test_the_file_s_own_folder_may_say_how_it_is_built(file, config, assert_is_it):
    shutil.copy(file, config / "model.safetensors")
    for weights in config.glob("*/*.safetensors"):
        weights.unlink()
    assert_is_it(erasediff.load(config / "model.safetensors"))
    assert_is_it(erasediff.load(config))  # as DVC watches it whole


@pytest.mark.unit
def test_else_the_hub_says_it_as_diffusers_knows_the_file(file, config, assert_is_it, monkeypatch):
    asked = []

    def snapshot_download(repo, allow_patterns):
        asked.append((repo, allow_patterns))
        return str(config)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    assert_is_it(erasediff.load(file))
    assert asked == [("stable-diffusion-v1-5/stable-diffusion-v1-5", ["*.json", "*.txt", "*.model"])]


@pytest.mark.unit
def test_a_hub_that_cannot_be_reached_is_told_with_what_would_do(file, monkeypatch):
    def offline(repo, allow_patterns):
        raise LocalEntryNotFoundError("outgoing traffic has been disabled")

    monkeypatch.setattr("huggingface_hub.snapshot_download", offline)
    with pytest.raises(
        ModelError, match="configuration is that of hf://stable-.* give a diffusers folder .* as config"
    ):
        erasediff.load(file)


@pytest.mark.unit
def test_half_precision_stays(file, config):
    save_file({name: tensor.half() for name, tensor in load_file(file).items()}, file)
    pipeline = erasediff.load(file, config=config)
    assert pipeline.unet.dtype == pipeline.vae.dtype == pipeline.text_encoder.dtype == torch.float16


def _truncated(file):
    file.write_bytes(file.read_bytes()[:-100])


def _without(name):
    def drop(file):
        save_file({key: tensor for key, tensor in load_file(file).items() if not key.startswith(name)}, file)

    return drop


def _broken(file):
    tensors = load_file(file)
    tensors["model.diffusion_model.out.2.bias"].fill_(float("nan"))
    save_file(tensors, file)


@pytest.mark.unit
@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        (_truncated, "is no whole safetensors file"),
        (_broken, "unet: conv_out.bias is absent, NaN or infinite"),
        (_without("model.diffusion_model.out.2.bias"), "unet: conv_out.bias is absent|cannot be loaded with"),
        (_without("first_stage_model"), "cannot be loaded with the configuration of"),
        (_without("cond_stage_model"), "cannot be loaded with the configuration of"),
        (_without("model.diffusion_model"), "its configuration in .* describes"),
    ],
)
def test_a_file_that_is_none_or_not_whole_is_told_in_one_line(file, config, spoil, match):
    spoil(file)
    for weights in config.glob("*/*.safetensors"):
        weights.unlink()
    with pytest.raises(ModelError, match=match) as told:
        erasediff.load(file, config=config)
    assert "\n" not in str(told.value) and len(str(told.value)) < 1000


@pytest.mark.unit
@pytest.mark.parametrize(("name", "part"), [("first_stage_model", "vae"), ("cond_stage_model", "text_encoder")])
def test_an_encoder_that_the_file_does_not_hold_is_taken_from_the_folder(file, config, name, part):
    _without(name)(file)
    found = getattr(erasediff.load(file, config=config), part).state_dict()
    expected = getattr(tiny_stable_diffusion(seed=7), part).state_dict()
    assert all(torch.equal(found[key], value) for key, value in expected.items())


@pytest.mark.unit
def test_a_configuration_that_is_none_is_told(file, config, tmp_path):
    with pytest.raises(ModelError, match="config .*none is no folder"):
        erasediff.load(file, config=tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="config .*empty has no model_index.json"):
        erasediff.load(file, config=tmp_path / "empty")
    with pytest.raises(ModelError, match="is for a single file, and .* is none"):
        erasediff.load(config, config=config)
    flux().save_pretrained(tmp_path / "flux")
    with pytest.raises(ModelError, match="cannot be loaded with|describes"):
        erasediff.load(file, config=tmp_path / "flux")
    pickle = tmp_path / "model.ckpt"
    pickle.write_bytes(b"")
    with pytest.raises(ModelError, match="is a pickle, which can run code"):
        erasediff.load(pickle, config=config)


@pytest.mark.unit
def test_the_command_erases_from_a_single_file(base, file, config, tmp_path, capsys):
    out = str(tmp_path / "erased")
    how = ["--config", str(config), "--preserve", "circle", "--method", "uce"]
    assert cli.main(["erase", str(file), "star", "--output", out, *how]) == 0, capsys.readouterr().err
    erased = erasediff.load(out).unet.state_dict()
    changed = {name for name, weight in base.unet.state_dict().items() if not torch.equal(weight, erased[name])}
    assert changed and all("attn2" in name for name in changed)
