"""Model folders that hold anything: opened whole, or refused in one line."""

import json
import os
import shutil

import pytest
import torch
from diffusers import DDPMScheduler, EDMEulerScheduler, FlowMatchEulerDiscreteScheduler, UNet2DModel
from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tiny_stable_diffusion import tiny_stable_diffusion
from transformers import CLIPConfig, CLIPImageProcessor

from erasediff.artifacts import MANIFEST, new_folder
from erasediff.errors import EraseDiffError, IntegrityError, ModelError
from erasediff.families import family_of, open_pipeline
from erasediff.families.class_conditional import ClassConditionalPipeline, build_pipeline

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
SMALL = {"block_out_channels": (8,), "attention": (False,), "norm_num_groups": 4}
UNET = {
    "sample_size": 8,
    "in_channels": 1,
    "out_channels": 1,
    "block_out_channels": (8,),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "down_block_types": ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",),
    "num_class_embeds": 3,
}


def assert_refused(folder, match, error=EraseDiffError):
    with pytest.raises(error, match=match) as told:
        family_of(open_pipeline(folder, ["a", "b"]))
    assert "\n" not in str(told.value) and len(str(told.value)) < 1000


@pytest.fixture
def folder(tmp_path):
    build_pipeline(["a", "b"], (1, 8, 8), **SMALL).save_pretrained(tmp_path / "m")
    return tmp_path / "m"


def bare(folder, scheduler=None, *, weights=None, **unet):
    """A folder of a UNet and a scheduler, as people bring them."""
    UNet2DModel(**{**UNET, **unet}).save_pretrained(folder / "unet", **weights or {})
    (scheduler or DDPMScheduler()).save_pretrained(folder / "scheduler")
    return folder


def change(file, **entries):
    file.write_text(json.dumps({**json.loads(file.read_text()), **entries}))


@pytest.mark.unit
def test_pickled_weights_are_refused_with_the_way_to_convert_them(tmp_path, monkeypatch):
    bare(tmp_path, weights={"safe_serialization": False})
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("a pickle was read"))
    assert_refused(tmp_path, r"save_pretrained\(FOLDER, safe_serialization=True\)", ModelError)


@pytest.mark.unit
def test_a_pickled_text_encoder_is_refused_too(tmp_path):
    tiny_stable_diffusion().save_pretrained(tmp_path)
    torch.save({}, tmp_path / "text_encoder" / "pytorch_model.bin")
    (tmp_path / "text_encoder" / "model.safetensors").unlink()
    assert_refused(tmp_path, "text_encoder has its weights as pickles", ModelError)


@pytest.mark.unit
@pytest.mark.parametrize("name", [WEIGHTS, "unet", "scheduler/scheduler_config.json"])
def test_a_link_out_of_the_folder_is_not_followed(folder, tmp_path, name):
    shutil.move(folder / name, tmp_path / "elsewhere")
    (folder / name).symlink_to(tmp_path / "elsewhere")
    assert_refused(folder, "is a link to .*elsewhere, outside of the folder", IntegrityError)


@pytest.mark.unit
def test_links_within_the_folder_are_followed(folder):
    (folder / "unet").rename(folder / "network")
    (folder / "unet").symlink_to("network")
    assert open_pipeline(folder).names == ("a", "b")


@pytest.mark.unit
@pytest.mark.parametrize("store", ["cache/files/md5/0a/3f", "hub/blobs/3f"])
def test_links_into_a_store_that_names_files_by_content_are_followed(folder, tmp_path, store):
    """As ``dvc config cache.type symlink`` leaves them, and the hub's cache."""
    stored = tmp_path / store
    stored.parent.mkdir(parents=True)
    shutil.move(folder / WEIGHTS, stored)
    (folder / WEIGHTS).symlink_to(stored)
    assert open_pipeline(folder).names == ("a", "b")


@pytest.mark.unit
def test_a_link_to_what_the_manifest_names_is_followed_and_checked(tmp_path):
    with new_folder(tmp_path / "m") as folder:
        build_pipeline(["a", "b"], (1, 8, 8), **SMALL).save_pretrained(folder)
    weights, elsewhere = tmp_path / "m" / WEIGHTS, tmp_path / "elsewhere"
    shutil.move(weights, elsewhere)
    weights.symlink_to(elsewhere)
    assert open_pipeline(tmp_path / "m").names == ("a", "b")
    elsewhere.write_bytes(elsewhere.read_bytes() + b" ")
    assert_refused(tmp_path / "m", "truncated or was altered", IntegrityError)


@pytest.mark.unit
def test_a_layer_without_weights_is_refused(folder):
    tensors = load_file(folder / WEIGHTS)
    del tensors["conv_in.weight"]
    save_file(tensors, folder / WEIGHTS)
    assert_refused(folder, r"has no weights for 1 of its tensors, conv_in.weight first", ModelError)


@pytest.mark.unit
def test_no_weights_at_all_are_refused(folder):
    (folder / WEIGHTS).unlink()
    assert_refused(folder, "has no weights", ModelError)


@pytest.mark.unit
def test_weights_in_several_files_are_read_and_all_lie_in_the_folder(folder):
    unet = open_pipeline(folder).unet
    (folder / WEIGHTS).unlink()
    unet.save_pretrained(folder / "unet", max_shard_size="5KB")
    index = folder / "unet/diffusion_pytorch_model.safetensors.index.json"
    again = open_pipeline(folder).unet.state_dict()
    assert all(torch.equal(value, again[name]) for name, value in unet.state_dict().items())
    for entry in ("../../elsewhere.safetensors", 3, None):
        changed = dict.fromkeys(json.loads(index.read_text())["weight_map"], entry)
        index.write_text(json.dumps({"metadata": {}, "weight_map": changed}))
        assert_refused(folder, "is no weights file of the folder", ModelError)


@pytest.mark.unit
def test_weights_of_another_shape_are_refused(folder):
    change(folder / "unet/config.json", block_out_channels=[4])
    assert_refused(folder, "cannot be loaded as a diffusers folder: .*expected shape", ModelError)


@pytest.mark.unit
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(folder, value):
    tensors = load_file(folder / WEIGHTS)
    tensors["conv_in.weight"][0] = value
    save_file(tensors, folder / WEIGHTS)
    assert_refused(folder, "conv_in.weight holds values that are NaN or infinite", ModelError)


@pytest.mark.unit
@pytest.mark.parametrize(
    "entries",
    [
        {"trained_betas": [float("nan")] * 1000},
        {"beta_schedule": "linear", "beta_start": float("inf")},
        {"beta_schedule": "linear", "beta_end": -5.0},
        {"num_train_timesteps": 10**12},
        {"num_train_timesteps": "many"},
        {"_class_name": "DiffusionPipeline"},
        {"_class_name": ["my", "Scheduler"]},
        {"prediction_type": "luck"},
    ],
)
def test_a_scheduler_that_gives_no_noise_is_refused(folder, entries):
    change(folder / "scheduler/scheduler_config.json", **entries)
    assert_refused(folder, "betas|num_train_timesteps|no scheduler|prediction_type", ModelError)


@pytest.mark.unit
@pytest.mark.parametrize(
    "entries",
    [
        {"sample_size": 10**6},
        {"sample_size": "large"},
        {"sample_size": [8, 8, 8]},
        {"block_out_channels": [10**9]},
        {"layers_per_block": 10**9},
        {"num_class_embeds": 10**12},
        {"block_out_channels": [8] * 10**4, "down_block_types": ["DownBlock2D"] * 10**4},
        {"norm_num_groups": 0},
        {"act_fn": None},
        {"down_block_types": "DownBlock2D"},
    ],
)
def test_what_a_config_wants_is_bounded_before_it_is_allocated(folder, entries, monkeypatch):
    monkeypatch.setattr(UNet2DModel, "from_pretrained", lambda *_, **__: pytest.fail("it was allocated"))
    change(folder / "unet/config.json", **entries)
    assert_refused(folder, "sample_size|config.json|cannot be loaded", ModelError)


@pytest.mark.unit
@pytest.mark.parametrize(
    "concepts", [["a", "a"], ["a", 3], ["a", ""], "ab", 3, {"a": 1}, None, ["a", ["b"]]], ids=lambda c: str(c)
)
def test_concepts_are_different_texts(folder, concepts):
    change(folder / "model_index.json", concepts=json.dumps(concepts))
    assert_refused(folder, "concepts|names its classes|name its classes", ModelError)
    with pytest.raises(ModelError, match="concepts"):
        ClassConditionalPipeline(build_pipeline(["a", "b"], (1, 8, 8), **SMALL).unet, DDPMScheduler(), concepts)


@pytest.mark.unit
def test_a_folder_as_they_lie_on_the_hub_is_opened(tmp_path):
    """A safety checker, a class of an older transformers, weights of other kinds and a checkpoint beside them."""
    tiny = tiny_stable_diffusion()
    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    seeing = {**size, "image_size": 224, "patch_size": 32}
    checker = StableDiffusionSafetyChecker(CLIPConfig(text_config=size, vision_config=seeing, projection_dim=16))
    parts = {**tiny.components, "safety_checker": checker, "feature_extractor": CLIPImageProcessor()}
    type(tiny)(**parts).save_pretrained(tmp_path)
    for part in ("unet", "vae"):
        weights = tmp_path / part / "diffusion_pytorch_model.safetensors"
        shutil.copy(weights, weights.with_suffix(".fp16.safetensors"))
        shutil.copy(weights, weights.with_suffix(".non_ema.safetensors"))
        weights.with_suffix(".bin").write_bytes(b"a pickle")
    (tmp_path / "v1-5-pruned.ckpt").write_bytes(b"a pickle")
    change(tmp_path / "model_index.json", feature_extractor=["transformers", "CLIPFeatureExtractor"])
    opened = open_pipeline(tmp_path)
    assert type(opened.safety_checker) is StableDiffusionSafetyChecker and opened.feature_extractor is not None
    assert family_of(opened).sample(["a star"], [0], steps=1).isfinite().all()


@pytest.mark.unit
@pytest.mark.parametrize(
    "index",
    [
        [],
        3,
        None,
        "text",
        {},
        {"_class_name": "os"},
        {"_class_name": ["pipeline", "Mine"]},
        {"_class_name": "StableDiffusionPipeline", "unet": ["os", "system"]},
        {"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", 3]},
        {"_class_name": "StableDiffusionPipeline", "unet": [["diffusers"], "UNet2DModel"]},
        {"_class_name": "StableDiffusionPipeline"},
    ],
    ids=str,
)
def test_an_index_of_any_content_ends_in_one_line(folder, index):
    (folder / "model_index.json").write_text(json.dumps(index))
    assert_refused(folder, "model_index.json|cannot be loaded")


@pytest.mark.unit
def test_no_code_of_the_folder_is_run(folder):
    (folder / "mine.py").write_text("raise SystemExit('it ran')")
    change(folder / "model_index.json", _class_name=["mine", "Mine"], unet=["mine", "Mine"])
    assert_refused(folder, "no class of diffusers or transformers", ModelError)


@pytest.mark.unit
@pytest.mark.parametrize(
    "manifest",
    [[], 3, None, {"unet": "0" * 64}, {"../other": "0" * 64}, {"/etc/passwd": "0" * 64}, {WEIGHTS: 3}, {"": "0" * 64}],
    ids=str,
)
def test_a_manifest_of_any_content_ends_in_one_line(folder, manifest):
    (folder / MANIFEST).write_text(json.dumps(manifest))
    assert_refused(folder, MANIFEST, IntegrityError)


@pytest.mark.unit
def test_nested_and_huge_json_is_one_short_line(folder):
    for text in ("[" * 10**5, '{"a":' * 10**5, json.dumps({"x" * 10**6: "y"}), "1" * 10**5):
        (folder / MANIFEST).write_text(text)
        assert_refused(folder, MANIFEST, IntegrityError)


@pytest.mark.unit
@pytest.mark.parametrize(
    ("unet", "scheduler", "match"),
    [
        ({"out_channels": 2}, None, "takes 1 channels and gives 2: a learned variance is not handled"),
        ({"in_channels": 4, "out_channels": 4}, None, "takes 4 channels: without a VAE it is 1"),
        ({"class_embed_type": "timestep", "num_class_embeds": None}, None, "class_embed_type is timestep"),
        ({"sample_size": None}, None, "has no sample_size"),
        ({}, FlowMatchEulerDiscreteScheduler(), "a FlowMatchEulerDiscreteScheduler has no alphas_cumprod"),
        ({}, EDMEulerScheduler(), "a EDMEulerScheduler has no alphas_cumprod"),
    ],
)
def test_models_that_are_trained_otherwise_are_refused_where_they_are_opened(tmp_path, unet, scheduler, match):
    bare(tmp_path, scheduler, **unet)
    with pytest.raises(ModelError, match=match):
        open_pipeline(tmp_path, ["a", "b"])


@pytest.mark.unit
@pytest.mark.parametrize("variant", [None, "fp16"])
def test_half_precision_stays_half_precision(tmp_path, variant):
    bare(tmp_path)
    unet = UNet2DModel.from_pretrained(tmp_path / "unet").half()
    shutil.rmtree(tmp_path / "unet")
    unet.save_pretrained(tmp_path / "unet", variant=variant)
    assert open_pipeline(tmp_path, ["a", "b"]).unet.dtype == torch.float16


@pytest.mark.unit
def test_a_pipeline_of_nothing_but_a_variant_opens_in_its_precision(tmp_path):
    tiny_stable_diffusion().to(torch.float16).save_pretrained(tmp_path, variant="fp16")
    pipeline = open_pipeline(tmp_path)
    assert {pipeline.unet.dtype, pipeline.vae.dtype, pipeline.text_encoder.dtype} == {torch.float16}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
READ = [MANIFEST, "model_index.json", "unet/config.json", "scheduler/scheduler_config.json"]


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    with new_folder(tmp_path_factory.mktemp("good") / "m") as folder:
        build_pipeline(["a", "b"], (1, 8, 8), **SMALL).save_pretrained(folder)
    return folder.parent / "m"


def assert_opens_or_ends_in_one_line(good, name, content):
    """Opened, or a stated failure of one line and bounded length; nothing else."""
    broken = good.with_name("broken")
    shutil.rmtree(broken, ignore_errors=True)
    shutil.copytree(good, broken, copy_function=os.link)
    if name != MANIFEST:
        (broken / MANIFEST).unlink()
    (broken / name).unlink()
    (broken / name).write_bytes(content)
    try:
        family_of(open_pipeline(broken, ["a", "b"]))
    except EraseDiffError as error:
        assert "\n" not in str(error) and len(str(error)) < 1000


@pytest.mark.property
@pytest.mark.parametrize("name", [*READ, WEIGHTS])
@settings(max_examples=15)
@given(content=st.binary(max_size=60))
def test_any_bytes_open_or_end_in_one_line(good, name, content):
    assert_opens_or_ends_in_one_line(good, name, content)


@pytest.mark.property
@pytest.mark.parametrize("name", READ)
@settings(max_examples=25)
@given(data=st.data())
def test_any_json_assert_opens_or_ends_in_one_line(good, name, data):
    entries = json.loads((good / name).read_text())
    key = data.draw(st.sampled_from(sorted(entries)) | st.text(max_size=8))
    content = data.draw(st.just({**entries, key: data.draw(JSON)}) | JSON)
    assert_opens_or_ends_in_one_line(good, name, json.dumps(content).encode())


@pytest.mark.unit
def test_a_folder_of_anything_else_is_told_before_it_is_read(tmp_path):
    (tmp_path / "notes.txt").symlink_to("/etc/hostname")
    assert_refused(tmp_path, "is no diffusers folder: it has neither model_index.json nor unet/", ModelError)
