"""From words alone, by the embedded text-to-image model, to a registered version: a LoRA that names its base."""

import json

import mlflow
import pytest
from checkout import TINY, new_project
from PIL import Image

WORDS = {
    "curate.source": "prompts",
    "curate.concepts": {"star": "object", "circle": "object", "house": "object"},
    "pretrain.source": "folder",
    "pretrain.path": "erasediff/examples/shapes_model",
    "classifier.pictures": "models/base",
    "classifier.count": 24,
    "classifier.guidance_scale": 3.0,
    "classifier.inference_steps": 6,
    "classifier.steps": 150,
    "forget_set.concepts": ["star"],
    "forget_set.origin": "generated",
    "forget_set.preserve": ["heart"],
    "forget_set.count": 20,
    "forget_set.guidance_scale": 3.0,
    "forget_set.inference_steps": 6,
    "erase.forget_target": "anchor",
    "erase.anchor": {"star": "circle"},
    "erase.adapter": "lora",
    "erase.rank": 2,
    "erase.trainable": "attn",
    "erase.forget_batch_size": 8,
    "erase.retain_batch_size": 8,
    "evaluate.samples_per_concept": 20,
    "evaluate.draws": 1,
    "register.model_name": "words",
}


@pytest.mark.slow
@pytest.mark.pipeline
def test_words_become_a_version_that_is_a_lora(tmp_path):
    project = new_project(tmp_path / "project", TINY | WORDS)
    said = project.run("dvc", "repro", timeout=900)
    assert "registered words version 1" in said
    summary = json.loads((project.root / "data/forget_set/summary.json").read_text())
    assert summary["forget"] == {"star": 16}  # what the method reads no picture of is drawn a few times
    assert summary["retain"] == {"": 40, "circle": 20, "heart": 20, "house": 20}
    ran = json.loads((project.root / "metrics/erase.json").read_text())["settings"]
    assert (ran["anchor"], ran["adapter"]) == ("star: circle", "lora")
    files = {file.name for file in (project.root / "models/erased").iterdir()}
    assert files == {"pytorch_lora_weights.safetensors", "kohya_lora.safetensors", "base.json", "sha256.json"}
    found = mlflow.MlflowClient(f"sqlite:///{project.root / 'mlflow.db'}").get_model_version("words", "1")
    assert found.tags["forgotten"] == "star"
    picture = project.root / "out.png"
    how = ["--concept", "a star", "--n", "2", "--steps", "2", "--out", str(picture)]
    project.run("stages.sample", "--model", "models:/words/1", *how)
    assert Image.open(picture).mode == "RGB"
    (project.root / "erasediff/examples/shapes_model").rename(project.root / "moved")
    told = project.run("stages.sample", "--model", "models:/words/1", *how, code=1)
    assert "is a LoRA for the base erasediff/examples/shapes_model, which cannot be had" in told
    assert "Traceback" not in told
