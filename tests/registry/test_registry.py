"""Versions and aliases on a real SQLite registry."""

import json
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from registering import FOLDER, listening, picture, register, tags

from erasediff import tracking
from erasediff.artifacts import new_folder, sha256_folder
from erasediff.errors import GateFailed, IntegrityError, ModelError, TrackingError
from erasediff.families import family_of
from erasediff.loading import load
from erasediff.registry import logged_model, publishing
from erasediff.registry.history import history
from erasediff.registry.promotion import promote, promote_initial
from erasediff.registry.store import fetch_pipeline_folder
from erasediff.registry.versions import aliases, version_of
from erasediff.tracking import server


@pytest.mark.pipeline
def test_one_version_a_digest_and_back_again(store, pipeline):
    first = register(card="card " * 2000)
    # As after a kill between creating the version and writing runs/register.json.
    Path("runs/register.json").unlink()
    assert register() == first == "1"
    second = register(tags("d2", "false"))
    assert promote_initial("m", first) == {"challenger": "1", "champion": "1"} == aliases("m")
    with pytest.raises(GateFailed, match="did not pass"):
        promote_initial("m", second)
    found = version_of("m", first)
    assert found.tags["lineage_digest"] == "d1" and len(found.description) == publishing.DESCRIPTION_LENGTH
    again = family_of(load("models:/m@champion"))
    for one, two in zip(again.denoiser.parameters(), pipeline.unet.parameters(), strict=True):
        assert torch.equal(one, two)


@pytest.mark.pipeline
def test_what_is_not_there_is_named(store):
    with pytest.raises(ModelError, match="no model 'm'; it has: none"):
        load("models:/m@champion")
    first = register()
    with pytest.raises(ModelError, match="no alias 'best'; it has: none"):
        load("models:/m@best")
    promote_initial("m", first)
    with pytest.raises(ModelError, match="no alias 'best'; it has: challenger, champion"):
        load("models:/m@best")
    with pytest.raises(ModelError, match="no version 7"):
        load("models:/m/7")
    with pytest.raises(ModelError, match="no model 'x'; it has: m"):
        load("models:/x/1")
    for uri in ("models:/m", "models:/m/latest", "models:/../m/1"):
        with pytest.raises(ModelError, match="is no model: give a folder, models:/NAME@ALIAS"):
            load(uri)
    for name in ("../m", "m' or tags.model = 'x", "a/b", ""):
        for look_up in (aliases, history, lambda name: promote(name, why="x")):
            with pytest.raises(ModelError, match="is no name of a model"):
                look_up(name)
    assert not (store / "m.lock").exists()


@pytest.mark.pipeline
@pytest.mark.parametrize("harm", ["altered", "truncated", "deleted", "added"])
def test_a_stored_model_that_was_altered_is_refused(store, harm):
    register()
    for stored in Path("mlartifacts").rglob("diffusion_pytorch_model.safetensors"):
        content = stored.read_bytes()
        if harm == "deleted":
            stored.unlink()
        elif harm == "added":
            stored.with_name("extra.bin").write_bytes(b"x")
        else:
            stored.write_bytes(content[:-4] + (b"xxxx" if harm == "altered" else b""))
    with pytest.raises(IntegrityError, match="is not what was registered"):
        load("models:/m/1")


@pytest.mark.pipeline
def test_the_slower_of_two_machines_takes_the_others_version(store, monkeypatch):
    first = register()
    real, asked = publishing.find_version, []

    def find_version(name, digest):  # the other machine's version appears only after the first look
        asked.append(digest)
        return None if len(asked) == 1 else real(name, digest)

    monkeypatch.setattr(publishing, "find_version", find_version)
    assert register() == first
    assert kept() == [first]


def kept():
    return [str(v.version) for v in server.client().search_model_versions("name = 'm'")]


RACER = """
import os, sys
from pathlib import Path
from erasediff import tracking
from erasediff.registry.publishing import register_version
os.environ["DVC_ROOT"] = sys.argv[1]  # another checkout: its lock does not help
tags = {"lineage_digest": "d1", "erased_sha256": sys.argv[2]}
with tracking.stage_run("register", {}) as run:
    print(register_version("m", run.run_id, Path("models/erased"), tags, [], lambda version: "card", "a"), flush=True)
"""


@pytest.mark.pipeline
def test_two_racing_checkouts_make_one_version(store, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{store}/shared.db")
    monkeypatch.setenv("PYTHONPATH", str(Path(tracking.__file__).parents[2]))
    server.client()
    command = [sys.executable, "-c", RACER]
    digest = sha256_folder(FOLDER)
    started = [
        subprocess.Popen([*command, str(store / name), digest], stdout=subprocess.PIPE, text=True) for name in "ab"
    ]
    said = [process.communicate(timeout=120)[0].split()[-1:] for process in started]
    assert [process.returncode for process in started] == [0, 0]
    assert len(kept()) == 1 and said == [kept()] * 2


@pytest.mark.pipeline
def test_an_unreachable_registry_is_one_line(store, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://user:secret@127.0.0.1:{port}")
    started = time.monotonic()
    with pytest.raises(TrackingError, match=f"registry at http://127.0.0.1:{port} cannot be used: connection refused"):
        load("models:/m@champion")
    assert time.monotonic() - started < 30


@pytest.mark.pipeline
def test_the_version_draws(store, pipeline):
    import mlflow
    import pandas as pd

    register()
    stored = Path(mlflow.artifacts.download_artifacts("models:/m/1"))
    assert not list(stored.rglob("__pycache__"))  # loading it compiles what is loaded
    model = mlflow.pyfunc.load_model("models:/m/1")
    ask = pd.DataFrame({"concept": ["a", "b", "a"], "seed": [0, 1, 7]})
    served = model.predict(ask, params={"num_inference_steps": 3})
    assert list(served["concept"]) == ["a", "b", "a"]
    assert [picture(p).size for p in served["png_base64"]] == [(8, 8)] * 3
    alone = model.predict(pd.DataFrame({"concept": ["a"]}), params={"num_inference_steps": 3})
    assert alone["png_base64"][0] == served["png_base64"][0]  # seed 0, whatever else is asked for
    assert served["png_base64"][2] != served["png_base64"][0]
    equal = model.predict(pd.DataFrame({"concept": ["a", "a", "a"]}), params={"num_inference_steps": 3})["png_base64"]
    assert len(set(equal)) == 3 and equal[0] == alone["png_base64"][0]  # a row without a seed takes its place
    with pytest.raises(mlflow.exceptions.MlflowException, match="does not know 'z'; it knows: a, b, c"):
        model.predict(pd.DataFrame({"concept": ["z"]}))
    assert (stored / "README.md").read_text() == "card" and (stored / "input_example.json").exists()
    needs = (stored / "requirements.txt").read_text()
    assert "torch==" in needs and "transformers" not in needs and "prefect" not in needs and "+cpu" not in needs
    kept = {p.relative_to(stored).parts[1:3] for p in (stored / "code").rglob("*") if p.is_file()}
    assert ("erasediff", "families") in kept
    assert not list((stored / "code").rglob("*.safetensors"))  # of the examples
    assert {p.relative_to(stored).parts[1] for p in (stored / "code").rglob("*.py")} == {"erasediff"}


@pytest.mark.pipeline
def test_a_promotion_takes_effect_at_the_next_load_and_an_altered_model_is_not_served(store, pipeline):
    import mlflow
    import pandas as pd

    def served():
        model = mlflow.pyfunc.load_model("models:/m@champion")
        return model.predict(pd.DataFrame({"concept": ["a"], "seed": [3]}), params={"num_inference_steps": 3})

    promote_initial("m", register())
    first = served()["png_base64"][0]
    with torch.no_grad():
        for parameter in pipeline.unet.parameters():
            parameter.mul_(1.5)
    with new_folder(FOLDER) as folder:
        pipeline.save_pretrained(folder)
    assert promote_initial("m", register(tags("d2"))) == {"challenger": "2", "champion": "1"}
    assert served()["png_base64"][0] == first
    promote("m", why="better")
    assert served()["png_base64"][0] != first
    promote("m", "previous_champion", why="worse")
    assert served()["png_base64"][0] == first
    for stored in Path("mlartifacts").rglob("diffusion_pytorch_model.safetensors"):
        stored.write_bytes(stored.read_bytes()[:-4] + b"xxxx")
    with pytest.raises(IntegrityError, match="altered"):
        served()


@pytest.mark.unit
def test_transformers_is_needed_where_the_pipeline_has_a_part_of_it(tmp_path):
    (tmp_path / "model_index.json").write_text(json.dumps({"text_encoder": ["transformers", "CLIPTextModel"]}))
    assert any(r.startswith("transformers==") for r in logged_model.requirements(tmp_path))


@pytest.mark.system
def test_a_server_holds_versions_and_its_password_is_shown_nowhere(store, tmp_path_factory, monkeypatch, capfd):
    folder = tmp_path_factory.mktemp("server")
    stores = ("--backend-store-uri", f"sqlite:///{folder}/s.db", "--artifacts-destination", str(folder / "artifacts"))
    with listening("mlflow", "server", *stores, "--workers", "1", ready="health", folder=folder) as port:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:hush-hush@127.0.0.1:{port}")
        assert register() == "1"
        cached = fetch_pipeline_folder("models:/m/1")
        assert cached.is_relative_to(store / ".work" / "models") and sha256_folder(cached) == sha256_folder(FOLDER)
        weights = next(cached.rglob("*.safetensors"))
        weights.write_bytes(b"broken")  # a cache that was harmed is filled again
        assert sha256_folder(fetch_pipeline_folder("models:/m/1")) == sha256_folder(FOLDER)
    said = capfd.readouterr()
    assert "hush-hush" not in said.out + said.err + Path("runs/register.json").read_text()
    for stored in (p for p in folder.rglob("*") if p.is_file() and p.name != "log"):
        assert b"hush-hush" not in stored.read_bytes(), stored
