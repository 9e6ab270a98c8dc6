"""Somebody's own pictures and own models, to the verdict and the registry: nothing assumes digits."""

import json
import shutil

import mlflow
import numpy as np
import pytest
from checkout import new_project
from PIL import Image

PICTURES = {"chat noir": 37, "Éclair": 60, "grey": 30, "stripes": 45}


def draw_pictures(folder):
    """Four concepts, unequal counts, RGB and grey, most of them 24×24."""
    draw = np.random.default_rng(0)
    for number, (concept, n) in enumerate(PICTURES.items()):
        (folder / concept).mkdir(parents=True)
        for i in range(n):
            height, width = (24, 24) if i % 7 else (30, 40)
            pixels = draw.integers(0, 60, (height, width, 3))
            pixels[number * 5 : number * 5 + 8, 4 + i % 9 : 14 + i % 9] += 150
            picture = Image.fromarray(pixels.astype(np.uint8)).convert("L" if concept == "grey" else "RGB")
            picture.save(folder / concept / f"photo {i}.{'jpg' if i % 3 else 'png'}")


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A project over an image folder, two of its four classes forgotten, after one run of the flow."""
    project = new_project(
        tmp_path_factory.mktemp("own") / "project",
        curate__source="image_folder",
        curate__path="data/own/mes images",  # which git ignores
        curate__max_per_concept=None,
        forget_set__concepts=["chat noir", "stripes"],
        evaluate__samples_per_concept=30,  # two are retained, and a distance needs a hundred pictures
    )
    draw_pictures(project.root / "data/own/mes images")
    return project, project.run("flows.erase")


def version(project, number):
    return mlflow.MlflowClient(f"sqlite:///{project.root / 'mlflow.db'}").get_model_version("erasediff-digits", number)


@pytest.mark.slow
@pytest.mark.pipeline
def test_own_pictures(own):
    project, said = own
    assert "model    erasediff-digits version 1, alias challenger, champion" in said
    read = {n: json.loads((project.root / n).read_text()) for n in ("data/curated/summary.json", "metrics/erased.json")}
    assert read["data/curated/summary.json"]["counts"] == dict(sorted(PICTURES.items()))
    assert read["data/curated/summary.json"]["image_size"] == 24 and read["data/curated/summary.json"]["mode"] == "RGB"
    assert {"accuracy.chat noir", "accuracy.Éclair", "unlearning_accuracy"} <= set(read["metrics/erased.json"])
    assert "Erasure report: chat noir, stripes" in (project.root / "reports/report.html").read_text()
    assert version(project, "1").tags["forgotten"] == "chat noir, stripes"
    picture = project.root / "out.png"
    project.run("stages.sample", "--model", "models:/erasediff-digits@champion", "--concept", "Éclair", "--n", "2",
                "--steps", "2", "--out", str(picture))  # fmt: skip
    assert Image.open(picture).mode == "RGB"


@pytest.mark.slow
@pytest.mark.pipeline
def test_a_request_finds_the_pictures_that_no_commit_holds(own, tmp_path):
    project = own[0].copy(tmp_path / "project")
    said = project.run("flows.erase", "--set", "curate.min_per_concept=10", "--set", "forget_set.concepts=[stripes]")
    assert "curated 172 pictures of 4 concepts" in said and "model    erasediff-digits version 2" in said


@pytest.mark.slow
@pytest.mark.pipeline
@pytest.mark.parametrize("kind", ["class-conditional", "stable-diffusion"])
def test_own_model(own, tmp_path, kind):
    project = own[0].copy(tmp_path / "project")
    folder = tmp_path / "my model"
    if kind == "class-conditional":
        shutil.copytree(project.root / "models/base", folder)
    else:
        from tiny_stable_diffusion import tiny_stable_diffusion

        tiny_stable_diffusion().save_pretrained(folder)
    project.set_params(pretrain__source="folder", pretrain__path=str(folder))
    said = project.run("dvc", "repro")
    assert "registered erasediff-digits version 2; gates passed" in said
    index = json.loads((project.root / "models/erased/model_index.json").read_text())
    assert index == json.loads((folder / "model_index.json").read_text())
    weights = "unet/diffusion_pytorch_model.safetensors"
    assert (project.root / "models/base" / weights).read_bytes() == (folder / weights).read_bytes()
    assert (project.root / "models/erased" / weights).read_bytes() != (folder / weights).read_bytes()
    # Changing the folder is seen: it is a dependency.
    (folder / "note.txt").write_text("new")
    assert "pretrain" in json.loads(project.run("dvc", "status", "--json"))


@pytest.mark.slow
@pytest.mark.pipeline
def test_a_folder_that_is_no_model(own, tmp_path):
    project = own[0].copy(tmp_path / "project")
    (tmp_path / "empty").mkdir()
    project.set_params(pretrain__source="folder", pretrain__path=str(tmp_path / "empty"))
    said = project.run("stages.pretrain", code=1)
    told = f"ModelError: {tmp_path / 'empty'} is no diffusers folder: it has neither model_index.json nor unet/"
    assert "Traceback" not in said and told in said
