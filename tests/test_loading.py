import argparse
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest
import torch
from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError

import erasediff
from erasediff.artifacts import write_json
from erasediff.errors import IntegrityError, ModelError, ParamsError
from erasediff.families import family_of
from erasediff.loading import erased_before
from stages import sample
from stages.params import load_params
from stages.pretrain import source_of

ROOT = Path(__file__).parents[1]


@pytest.fixture
def hub(pipeline, tmp_path, monkeypatch):
    """Stands for the Hugging Face hub: it has one model, and notes what it was asked for."""
    pipeline.save_pretrained(tmp_path / "model")
    asked = []

    def snapshot_download(repo, revision=None):
        asked.append((repo, revision))
        return str(tmp_path / "model")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    return asked


@pytest.mark.unit
def test_a_model_is_a_folder_or_of_the_hub(hub, tmp_path):
    assert family_of(erasediff.load(tmp_path / "model")).concepts == ("a", "b", "c")
    assert hub == []
    assert family_of(erasediff.load("hf://org/name@0123abc")).concepts == ("a", "b", "c")
    erasediff.load("hf://org/name")
    assert hub == [("org/name", "0123abc"), ("org/name", None)]
    with pytest.raises(ModelError, match="'models:here' is no model: give a folder, models:/NAME@ALIAS"):
        erasediff.load("models:here")


@pytest.mark.unit
def test_a_model_that_the_hub_does_not_give_is_told(monkeypatch):
    def offline(repo, revision=None):
        raise LocalEntryNotFoundError("outgoing traffic\n has been disabled")

    monkeypatch.setattr("huggingface_hub.snapshot_download", offline)
    with pytest.raises(
        ModelError, match=r"hf://org/name@0123abc cannot be fetched \(outgoing traffic has been disabled"
    ):
        erasediff.load("hf://org/name@0123abc")


@pytest.mark.unit
@pytest.mark.parametrize(
    ("source", "model"),
    [
        ("train", None),
        ("folder", "models/own"),
        ("hub", "hf://org/name@0123abc"),
        ("registry", "models:/org/name/0123abc"),
    ],
)
def test_params_name_a_model_as_load_takes_it(source, model):
    given = {"source": source, "repo": "org/name", "revision": "0123abc"}
    assert source_of(load_params().pretrain.model_copy(update=given)) == model


@pytest.mark.unit
@pytest.mark.parametrize("model", [None, "models/own", "hf://org/name@0123abc"])
def test_nothing_is_known_of_what_a_model_from_elsewhere_has_forgotten(model, hub):
    assert erased_before(model) == []


@pytest.mark.unit
def test_a_folder_says_what_its_model_has_forgotten_wherever_it_comes_from(hub, tmp_path):
    folder = tmp_path / "model"
    write_json(folder / "erasure.json", {"concepts": ["b"], "before": ["a", "0123456789abcdef"]})
    assert erased_before(str(folder)) == erased_before("hf://org/name") == ["0123456789abcdef", "a", "b"]
    write_json(folder / "erasures.json", ["b", "c"])
    assert erased_before(str(folder)) == ["0123456789abcdef", "a", "b", "c"]


@pytest.mark.unit
@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("erasure.json", {"concepts": "a", "before": []}),
        ("erasure.json", {"concepts": ["a"]}),
        ("erasure.json", ["a"]),
        ("erasures.json", {"a": 1}),
        ("erasures.json", [1]),
    ],
)
def test_a_folder_that_does_not_say_it_rightly_is_refused(tmp_path, file, content):
    write_json(tmp_path / file, content)
    with pytest.raises(IntegrityError, match=file):
        erased_before(str(tmp_path))


@pytest.mark.unit
def test_a_folder_that_is_not_there_is_told_before_torch_is_loaded(tmp_path):
    code = f"""
import sys
sys.modules["torch"] = None
from erasediff.errors import ModelError
from stages.sample import main
try:
    main({str(tmp_path / "none")!r}, "a", 1, "out.png", 0, None, None)
except ModelError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert "none is no folder: give a diffusers folder, a single file, models:/NAME@ALIAS" in done.stdout, done.stderr


@pytest.mark.unit
def test_a_gated_model_is_told_with_what_to_accept(monkeypatch):
    def gated(repo, revision=None):
        request = httpx2.Request("GET", "https://huggingface.co/org/name")
        raise GatedRepoError("403 Client Error", response=httpx2.Response(403, request=request))

    monkeypatch.setattr("huggingface_hub.snapshot_download", gated)
    with pytest.raises(ModelError, match="hf://org/name is gated: accept its terms at https://huggingface.co/org/name"):
        erasediff.load("hf://org/name")


@pytest.mark.unit
@pytest.mark.parametrize(
    ("model", "match"),
    [
        ("runwayml/stable-diffusion-v1-5", "is no folder: .*did you mean hf://runwayml/stable-diffusion-v1-5\\?"),
        ("here/and/there", "is no folder: .*hf://ORGANISATION/NAME@COMMIT or shapes$"),
        ("./erased", "is no folder: .*hf://ORGANISATION/NAME@COMMIT or shapes$"),
        (None, "None names no model"),
    ],
)
def test_what_names_no_model_is_told_with_what_was_meant(model, match):
    with pytest.raises(ModelError, match=match):
        erasediff.load(model)


@pytest.mark.unit
def test_a_name_that_the_hub_cannot_have_is_told():
    with pytest.raises(ModelError, match="hf://not a repo! cannot be fetched"):
        erasediff.load("hf://not a repo!")


@pytest.mark.unit
@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"steps": 1001}, "1001 sampling steps: this model takes from 1 to 1000"),
        ({"steps": 0}, "0 sampling steps"),
        ({"seeds": [2**64]}, "seed 18446744073709551616: a picture's seed is from 0 to"),
        ({"seeds": [-1]}, "seed -1"),
        ({"guidance_scale": float("nan")}, "guidance_scale is nan"),
        ({"guidance_scale": float("inf")}, "guidance_scale is inf"),
    ],
)
def test_what_cannot_be_drawn_is_told(family, wrong, match):
    with pytest.raises(ParamsError, match=match):
        family.sample(["a"], **{"seeds": [0], "steps": 1, "guidance_scale": 1.0, **wrong})


@pytest.mark.unit
@pytest.mark.parametrize(
    "wrong", [["--seed", str(2**64)], ["--seed", "-1"], ["--steps", "0"], ["--n", "0"], ["--n", str(10**9)]]
)
def test_wrong_numbers_of_sample_are_wrong_usage(wrong):
    parser = argparse.ArgumentParser()
    sample._arguments(parser)
    parser.parse_args(["--model", "m", "--concept", "a", "--out", "o"])
    with pytest.raises(SystemExit) as ended:
        parser.parse_args(["--model", "m", "--concept", "a", "--out", "o", *wrong])
    assert ended.value.code == 2


@pytest.mark.unit
def test_the_embedded_model_has_a_name_where_no_folder_has_it(pipeline, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    embedded = erasediff.load("shapes")
    assert embedded.unet.dtype == torch.float32 and type(embedded).__name__ == "StableDiffusionPipeline"
    assert erased_before("shapes") == []
    pipeline.save_pretrained("shapes")
    assert type(erasediff.load("shapes")) is type(pipeline)
