"""What LoRA trains, and that plain diffusers loads it."""

import json

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors import safe_open
from test_words import SMALL, sets
from tiny_stable_diffusion import tiny_stable_diffusion

from erasediff.errors import ModelError, ParamsError
from erasediff.families import family_of
from erasediff.unlearning import METHODS, method_for
from erasediff.unlearning.erasing import erase

#: Methods with a mask or a penalty on the base's weights, and those without the loop.
OTHERS = {"salun", "sfr_on", "selective_amnesia", "retrain", "uce", "speed"}
HOW = {**SMALL, "adapter": "lora", "rank": 2, "lora_alpha": 4.0, "learning_rate": 1e-2, "trainable": "xattn"}


@pytest.fixture(scope="module")
def pipeline():
    return tiny_stable_diffusion()


@pytest.fixture(scope="module")
def result(pipeline):
    return erase(pipeline, "star", **sets(), **HOW)


def pictures(pipeline):
    return family_of(pipeline).sample(["a red star"], [3], steps=2, guidance_scale=2.0)


@pytest.mark.unit
def test_the_base_is_left_and_the_result_is_a_plain_network(pipeline, result):
    base = dict(pipeline.unet.named_parameters())
    assert not any("lora" in name for name in base) and all(p.requires_grad for p in base.values())
    erased = dict(result.pipeline.unet.named_parameters())
    assert set(erased) == set(base) and not any(p.requires_grad for p in erased.values())
    changed = {name for name in base if not torch.equal(base[name], erased[name])}
    assert changed and all("attn2" in name and name.endswith("weight") for name in changed)
    assert not {p.data_ptr() for p in base.values()} & {p.data_ptr() for p in erased.values()}


@pytest.mark.reference
@pytest.mark.parametrize("file", ["pytorch_lora_weights.safetensors", "kohya_lora.safetensors"])
def test_plain_diffusers_loads_either_file(pipeline, result, tmp_path, file):
    result.save(tmp_path)
    pipeline.save_pretrained(tmp_path / "base")
    plain = StableDiffusionPipeline.from_pretrained(tmp_path / "base")
    assert not torch.allclose(pictures(plain), pictures(result.pipeline), atol=1e-3)
    plain.load_lora_weights(tmp_path, weight_name=file)
    assert torch.allclose(pictures(plain), pictures(result.pipeline), atol=1e-4)
    with safe_open(tmp_path / file, "pt") as opened:
        about = opened.metadata()
    assert json.loads(about["erased"]) == ["star"] and about["method"] == "erasediff" and about["updates"] == "3"
    assert json.loads(about["settings"])["rank"] == 2


@pytest.mark.unit
def test_the_fused_folder_is_a_whole_pipeline(result, tmp_path):
    result.save(tmp_path, fused=True)
    assert torch.equal(pictures(StableDiffusionPipeline.from_pretrained(tmp_path)), pictures(result.pipeline))


@pytest.mark.unit
def test_without_a_lora_the_whole_pipeline_is_saved(pipeline, tmp_path):
    plain = erase(pipeline, "star", **sets(), **SMALL)
    plain.save(tmp_path)
    assert (tmp_path / "model_index.json").exists() and plain.lora is None
    with pytest.raises(ParamsError, match="there is no LoRA to save"):
        plain.save(tmp_path, fused=False)


@pytest.mark.unit
def test_the_same_seed_gives_the_same_lora_and_another_another(pipeline, result):
    again = erase(pipeline, "star", **sets(), **HOW)
    other = erase(pipeline, "star", **sets(), **HOW, seed=1)
    for name, weight in result.lora.weights.items():
        assert torch.equal(weight, again.lora.weights[name])
    assert any(not torch.equal(w, other.lora.weights[name]) for name, w in result.lora.weights.items())


@pytest.mark.unit
def test_what_goes_with_a_lora(pipeline):
    with pytest.raises(ValueError, match="adapter lora goes with no mask"):
        method_for("salun", adapter="lora")
    with pytest.raises(ValueError, match="adapter lora does not go with method selective_amnesia"):
        method_for("selective_amnesia", adapter="lora")
    with pytest.raises(ValueError, match="rank 4 has no effect with adapter none"):
        method_for("erasediff", rank=4)
    with pytest.raises(ModelError, match="none of the selected parameters"):
        erase(pipeline, "star", **sets(), **{**HOW, "trainable": "norm1"})


@pytest.mark.unit
def test_a_pipeline_that_loads_no_lora_is_refused():
    from erasediff.families.class_conditional import build_pipeline

    small = {"block_out_channels": (8,), "attention": (False,), "norm_num_groups": 4}
    images = {name: torch.zeros(2, 1, 8, 8) for name in "ab"}
    with pytest.raises(ModelError, match="a ClassConditionalPipeline does not load one"):
        erase(build_pipeline(["a", "b"], (1, 8, 8), **small), "a", forget=images["a"], retain={"b": images["b"]},
              adapter="lora", **SMALL)  # fmt: skip


@pytest.mark.unit
@pytest.mark.parametrize(
    "method", sorted(set(METHODS) - {"retrain", "salun", "sfr_on", "selective_amnesia", "uce", "speed"})
)
def test_every_method_without_a_mask_trains_one(pipeline, method):
    how = {**HOW, "outer_steps": 1}
    result = erase(pipeline, "star", method=method, **sets(), **how)
    assert any(weight.any() for name, weight in result.lora.weights.items() if "lora_B" in name)


@pytest.mark.unit
def test_a_lora_is_trained_and_written_without_a_second_network(pipeline, tmp_path, monkeypatch):
    def whole(*networks):
        raise AssertionError("a second network was made")

    with monkeypatch.context() as patched:
        patched.setattr("erasediff.unlearning.erasing.fused", whole)
        result = erase(pipeline, "star", **sets(), **HOW)
        result.publish(tmp_path)
    assert (tmp_path / "pytorch_lora_weights.safetensors").exists()
    assert result.pipeline is result.pipeline and not torch.allclose(pictures(pipeline), pictures(result.pipeline))
