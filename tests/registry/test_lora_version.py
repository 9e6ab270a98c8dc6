"""A version with a LoRA: whole for who serves it, small for who has the base."""

from pathlib import Path

import mlflow
import pytest
import torch
from registering import FOLDER, tags
from tiny_stable_diffusion import tiny_stable_diffusion

from erasediff import tracking
from erasediff.artifacts import new_folder, sha256_folder
from erasediff.families import family_of
from erasediff.loading import load
from erasediff.registry.logged_model import Base
from erasediff.registry.publishing import register_version
from erasediff.unlearning.erasing import erase

SETTINGS = {"outer_steps": 2, "forget_batch_size": 2, "retain_batch_size": 2, "learning_rate": 1e-2, "rank": 2}


def drawn(pipeline):
    return family_of(pipeline).sample(["a red star"], [3], steps=2, guidance_scale=2.0)


@pytest.mark.pipeline
def test_mlflows_own_flavor_loads_the_lora_onto_the_base_that_the_version_names(store):
    base = tiny_stable_diffusion()
    base.save_pretrained("models/base")
    how = {"preserve": ["circle"], "anchor": "circle", "generate": 2, "adapter": "lora", "progress": False}
    result = erase(base, "star", **how, **SETTINGS)
    with new_folder(FOLDER) as folder:
        result.save(folder, fused=True)
        result.save(folder / "lora", fused=False)
    whole = sha256_folder(Path("models/base"))
    named = Base.of({"source": "train"}, whole, Path("models/base"))
    with tracking.stage_run("register", {}) as run:
        register_version("m", run.run_id, FOLDER, tags(), [], lambda version: "card", "a red star", base=named)
    found = mlflow.diffusers.load_model("models:/m/1")
    size = sum(file.stat().st_size for file in Path(found.adapter_path).glob("pytorch_lora_weights*"))
    assert 0 < size < 0.2 * sum(file.stat().st_size for file in FOLDER.rglob("*") if file.is_file())
    flavors = mlflow.models.get_model_info("models:/m/1").flavors
    assert (found.base_model, flavors["diffusers"]["base_sha256"]) == ("models/base", whole)
    small, fused, before = (drawn(p) for p in (found.load_pipeline(device="cpu"), load("models:/m/1"), base))
    assert torch.allclose(small, fused, atol=1e-4) and not torch.allclose(small, before, atol=1e-3)
    assert "python_function" in flavors


@pytest.mark.unit
@pytest.mark.parametrize(
    ("pretrain", "where", "revision"),
    [
        ({"source": "hub", "repo": "org/name", "revision": "c0ffee"}, "org/name", "c0ffee"),
        ({"source": "registry", "repo": "m", "revision": "3"}, "models:/m/3", ""),
        ({"source": "folder", "path": "own/model", "revision": "x"}, "own/model", ""),
        ({"source": "train"}, "models/base", ""),
    ],
)
def test_a_base_is_named_as_it_was_given(pretrain, where, revision):
    assert Base.of(pretrain, "ff", Path("models/base")) == Base(where, revision, "ff")
