"""A version with a LoRA: a few MB for who has the base, which it names; whole where that was wanted."""

import logging
import shutil
from dataclasses import asdict
from pathlib import Path

import mlflow
import pandas as pd
import pytest
import torch
from registering import FOLDER, picture, stored, tags, version
from tiny_stable_diffusion import tiny_stable_diffusion

from erasediff import tracking
from erasediff.artifacts import new_folder, write_json
from erasediff.errors import IntegrityError, ModelError
from erasediff.families import family_of
from erasediff.families.lora import fused_lora, open_beside
from erasediff.loading import load, origin_of
from erasediff.records import LORA_BASE, Origin
from erasediff.registry.logged_model import WithLora
from erasediff.registry.publishing import register_version
from erasediff.registry.store import verify_stored
from erasediff.registry.versions import version_of
from erasediff.unlearning.erasing import erase

SETTINGS = {"outer_steps": 2, "forget_batch_size": 2, "retain_batch_size": 2, "learning_rate": 1e-2, "rank": 2}
HOW = {"preserve": ["circle"], "anchor": "circle", "generate": 2, "adapter": "lora", "progress": False, **SETTINGS}
BASE = Path("models/base")


def drawn(pipeline):
    return family_of(pipeline).sample(["a red star"], [3], steps=2, guidance_scale=2.0)


def size(folder):
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def erased_beside(base, where, *, fused=False, seed=0):
    """models/erased as the stage leaves it; what was erased."""
    result = erase(base, "star", seed=seed, **HOW)
    with new_folder(FOLDER) as folder:
        lora = folder / "lora" if fused else folder
        result.save(folder, fused=fused or None)
        result.save(lora, fused=False)
        write_json(lora / LORA_BASE, asdict(origin_of(where, base)))
    return result


def registered():
    with tracking.stage_run("register", {}) as run:
        return register_version("m", run.run_id, FOLDER, tags(), [], lambda version: "card", "a red star")


@pytest.fixture
def base(store):
    pipeline = tiny_stable_diffusion()
    pipeline.save_pretrained(BASE)
    return pipeline


@pytest.fixture
def told():
    """What diffusers says while LoRAs are loaded."""
    said, logger = [], logging.getLogger("diffusers.loaders.lora_base")
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: said.append(record.getMessage())
    logger.addHandler(handler)
    before = logger.level
    logger.setLevel(logging.WARNING)
    yield said
    logger.setLevel(before)
    logger.removeHandler(handler)


@pytest.mark.pipeline
def test_a_version_is_its_lora_alone_and_is_put_on_the_base_that_it_names(base, told):
    result = erased_beside(base, str(BASE))
    assert registered() == "1"
    assert size(stored("1") / "artifacts") < 0.2 * size(BASE)
    small, before = drawn(load("models:/m/1")), drawn(base)
    assert told == []  # diffusers warns of text encoders that the LoRA does not touch
    assert torch.allclose(small, drawn(result.pipeline), atol=1e-4) and not torch.allclose(small, before, atol=1e-3)
    assert torch.equal(small, drawn(open_beside(FOLDER, BASE))) and torch.equal(small, drawn(load(FOLDER)))
    found = mlflow.diffusers.load_model("models:/m/1")
    assert found.base_model == str(BASE)
    assert torch.allclose(drawn(found.load_pipeline(device="cpu")), small, atol=1e-4)
    served = mlflow.pyfunc.load_model("models:/m/1")
    rows = served.predict(pd.DataFrame({"concept": ["a red star"]}), params={"num_inference_steps": 1})
    assert picture(rows["png_base64"][0]).size == (16, 16)
    verify_stored(version_of("m", "1"))


@pytest.mark.pipeline
def test_the_whole_network_beside_the_lora_is_a_choice(base):
    erased_beside(base, str(BASE), fused=True)
    registered()
    shutil.rmtree(BASE)
    assert size(stored("1") / "artifacts") > 0.8 * size(FOLDER)
    assert torch.equal(drawn(load("models:/m/1")), drawn(load(FOLDER)))
    assert mlflow.models.get_model_info("models:/m/1").flavors["diffusers"]["base_model"] == str(BASE)


@pytest.mark.pipeline
def test_a_lora_on_a_version_that_is_a_lora_itself_goes_back_to_the_first_base(base):
    erased_beside(base, str(BASE))
    assert version(["star"]) == "1"
    first = load("models:/m/1")
    second = erased_beside(first, "models:/m/1", seed=1)
    assert version(["star"]) == "2"
    assert torch.allclose(drawn(load("models:/m/2")), drawn(second.pipeline), atol=1e-4)


@pytest.mark.pipeline
def test_a_base_that_is_gone_or_another_is_told_in_one_line(base):
    erased_beside(base, str(BASE))
    assert version(["star"]) == "1"
    with torch.no_grad():
        next(base.unet.parameters()).add_(1e-6)
    base.save_pretrained(BASE)
    with pytest.raises(IntegrityError, match=r"is a LoRA for the base models/base with SHA-256 \w{12}…, and what is"):
        load("models:/m/1")
    shutil.rmtree(BASE)
    with pytest.raises(ModelError, match="is a LoRA for the base models/base, which cannot be had .*: put it there"):
        load("models:/m/1")
    (FOLDER / "pytorch_lora_weights.safetensors").unlink()
    with pytest.raises(IntegrityError, match=r"pytorch_lora_weights.safetensors is missing though sha256.json lists"):
        fused_lora(base, FOLDER)


@pytest.mark.unit
def test_a_lora_that_names_itself_as_its_base_is_told_in_one_line(tmp_path):
    write_json(tmp_path / LORA_BASE, asdict(Origin(str(tmp_path), "ff")))
    with pytest.raises(IntegrityError, match="is the LoRA itself: name its base in base.json"):
        load(tmp_path)


@pytest.mark.pipeline
def test_a_base_of_the_checkout_is_found_from_another_folder(base, monkeypatch):
    erased_beside(base, str(BASE))
    here = Path.cwd() / FOLDER
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    assert torch.equal(drawn(load(here)), drawn(open_beside(here, Path.cwd().parent / BASE)))


@pytest.mark.unit
@pytest.mark.parametrize(
    ("where", "model", "revision"),
    [
        ("hf://org/name@c0ffee", "org/name", "c0ffee"),
        ("models:/m/3", "models:/m/3", None),
        ("own/model", "own/model", None),
    ],
)
def test_mlflow_gets_a_base_as_it_names_one(where, model, revision, monkeypatch):
    logged = mlflow.models.Model()
    dir(mlflow.pyfunc)  # it is loaded when it is first used, and would undo the next line
    monkeypatch.setattr(mlflow.pyfunc, "save_model", lambda *arguments, **options: None)
    WithLora(Origin(where, "ff"), "artifacts/erased").save_model("nowhere", logged)
    flavor = logged.flavors["diffusers"]
    assert (flavor["base_model"], flavor.get("base_model_revision"), flavor["base_sha256"]) == (model, revision, "ff")
