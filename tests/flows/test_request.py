"""What is asked for on a command line or in a form, and what becomes of it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest

from erasediff.errors import ModelError, ParamsError, UnknownConcept
from erasediff.git import git
from flows.tools.git import commit_files
from flows.tools.request import AS_IT_IS, EraseRequest, request_of

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A repository with the project's params and presets, and a registry of its own."""
    monkeypatch.chdir(tmp_path)
    for name in ("DVC_ROOT", "ERASEDIFF_ROOT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    shutil.copy(REPOSITORY / "params.yaml", tmp_path)
    shutil.copytree(REPOSITORY / "presets", tmp_path / "presets")
    (tmp_path / ".gitignore").write_text("mlflow.db*\n")
    git("init", "-q")
    git("add", "-A")
    assert commit_files("start", Path("params.yaml"), Path(".gitignore"), Path("presets")) == ""
    return tmp_path


@pytest.fixture
def champion(checkout):
    """Version 2 of the model is champion and has forgotten 8."""
    client = mlflow.MlflowClient(f"sqlite:///{checkout}/mlflow.db")
    client.create_registered_model("erasediff-digits")
    for _ in range(2):
        client.create_model_version("erasediff-digits", "nowhere", tags={"erasures": json.dumps(["8"])})
    client.set_registered_model_alias("erasediff-digits", "champion", "2")


@pytest.mark.unit
def test_a_request_says_what_differs_from_the_commit():
    request = EraseRequest(concepts=["3"], eta=0.5, settings={"erase.outer_steps": 3, "seed": 1}, seed=2)
    assert request.changes() == {"erase.outer_steps": 3, "seed": 2, "forget_set.concepts": ["3"], "erase.eta": 0.5}
    assert EraseRequest().changes() == {} and EraseRequest() == AS_IT_IS != EraseRequest(commit="main")
    assert request.label == "forget 3, erase.outer_steps 3, seed 2, erase.eta 0.5"
    assert EraseRequest(concepts=["3", "5"], base=2).label == "forget 3, 5 from version 2"
    assert EraseRequest(base="champion").label == "forget as in params.yaml from champion"


@pytest.mark.pipeline
def test_the_champion_is_a_number_before_anything_runs(champion):
    asked = request_of(concepts=["3"], base="champion").changes()
    assert asked == {
        "forget_set.concepts": ["3"],
        "pretrain.source": "registry",
        "pretrain.repo": "erasediff-digits",
        "pretrain.revision": "2",
    }
    assert request_of(base="1").changes()["pretrain.revision"] == "1"
    with pytest.raises(ModelError, match="the registry has no version 7 of erasediff-digits"):
        request_of(base="7")
    with pytest.raises(ModelError, match="the registry has no model 'other'; it has: erasediff-digits"):
        request_of(["register.model_name=other"], base="champion")


@pytest.mark.unit
@pytest.mark.parametrize(
    "settings, given, told",
    [
        (["erase.etaa=1"], {}, "erase.etaa: unknown key; did you mean eta"),
        (["erase.method=erasdiff"], {}, "did you mean erasediff"),
        (["erase.eta"], {}, "--set 'erase.eta': give SECTION.KEY=VALUE"),
        (["erase.eta={"], {}, "--set 'erase.eta={': give SECTION.KEY=VALUE"),
        ([], {"base": "challengr"}, "--base 'challengr': give params, champion or the number of a version$"),
        ([], {"base": "champoin"}, "--base 'champoin': give params, .* of a version; did you mean champion"),
        ([], {"base": "0" * 200}, "--base '0{98}…: give params, "),
        ([], {"preset": "cifar"}, "there is no preset 'cifar', but .*; did you mean cifar10"),
        ([], {"concepts": ["3", "3"]}, "names one twice"),
    ],
)
def test_what_is_wrong_is_told_before_anything_starts(checkout, settings, given, told):
    with pytest.raises(ParamsError, match=told.replace("={", "=\\{")) as error:
        request_of(settings, **given)
    assert len(str(error.value).splitlines()) <= 2


@pytest.mark.unit
def test_a_concept_that_the_params_alone_show_to_be_none_is_told_before_anything_starts(checkout):
    known = "circle, cross, heart, house, moon, square, star, triangle"
    with pytest.raises(UnknownConcept, match=f"no concept 'hart' in the data, which has {known}; did you mean heart?"):
        request_of(preset="shapes", concepts=["hart"])
    with pytest.raises(UnknownConcept, match="no concept 'bus' in the data, .*; add it to curate.concepts"):
        request_of(preset="shapes", concepts=["star", "bus"])
    with pytest.raises(UnknownConcept, match="no concept '88' in the data, .*; did you mean 8?"):
        request_of(concepts=["88"])
    assert request_of(preset="shapes", concepts=["heart"]) and request_of(["curate.source=parquet"], concepts=["hart"])
    Path("data/own").mkdir(parents=True)
    Path("data/own/mine.CSV").write_text("prompt,class\na hart,hart\n")  # what a file says is read when it is curated
    assert request_of(preset="shapes", concepts=["hart"])


@pytest.mark.pipeline
@pytest.mark.parametrize("on_the_command_line", [True, False])
def test_the_command_tells_a_misspelt_concept_without_loading_anything_heavy(checkout, on_the_command_line):
    if not on_the_command_line:
        Path("params.yaml").write_text(Path("params.yaml").read_text().replace('concepts: ["8"]', 'concepts: ["88"]'))
    words = ["erase", *(["--concept", "88"] if on_the_command_line else [])]
    without = "import runpy, sys; sys.modules.update(dict.fromkeys(['prefect', 'torch', 'pandas'])); "
    run = f"{without}sys.argv = {words}; runpy.run_module('flows.erase', run_name='__main__')"
    asked = {"capture_output": True, "text": True, "env": {**os.environ, "PYTHONPATH": str(REPOSITORY)}}
    done = subprocess.run([sys.executable, "-c", run], **asked)
    assert done.returncode == 1 and done.stderr.startswith("UnknownConcept: forget_set.concepts: no concept '88' in")


@pytest.mark.unit
def test_values_are_read_as_yaml(checkout):
    settings = ["erase.mixed_precision=no", "seed=3", "erase.passes=null", "forget_set.concepts=['3', '5']"]
    assert request_of(settings).settings == {
        "erase.mixed_precision": "no",
        "seed": 3,
        "erase.passes": None,
        "forget_set.concepts": ["3", "5"],
    }


@pytest.mark.unit
def test_a_preset_goes_before_params_and_what_is_asked_before_both(checkout):
    changes = request_of(["erase.eta=0.7"], preset="cifar10", concepts=["cat"]).changes()
    assert changes["erase.eta"] == 0.7 and changes["forget_set.concepts"] == ["cat"]
    assert changes["curate.image_size"] == 32


@pytest.mark.unit
def test_changes_that_the_commit_does_not_have_are_refused(checkout):
    text = Path("params.yaml").read_text()
    Path("params.yaml").write_text(text.replace("eta: 1.0", "eta: 0.9"))
    Path("presets/mine.yaml").write_text("seed: 3\n")
    with pytest.raises(ParamsError, match=r"^presets/mine\.yaml is not committed as it is"):
        request_of(preset="mine")
    with pytest.raises(ParamsError, match="^params.yaml has uncommitted changes"):
        request_of(concepts=["3"])
    assert request_of() == AS_IT_IS
    Path("params.yaml").write_text(text)
    Path("notes.txt").write_text("not ours")
    assert request_of(concepts=["3"]).concepts == ["3"]


@pytest.mark.unit
def test_a_forms_fields_can_be_filled_without_choosing_a_type():
    """Prefect shows a union as a choice of types, ``null`` among them."""
    fields = EraseRequest.model_json_schema()["properties"]
    assert {name: field.get("type") for name, field in fields.items()} == {
        "concepts": "array",
        "base": "string",
        "method": "string",
        "eta": "number",
        "seed": "integer",
        "model_name": "string",
        "preset": "string",
        "settings": "object",
        "commit": "string",
    }
    assert "erasediff" in fields["method"]["enum"] and fields["eta"]["exclusiveMinimum"] == 0
    assert all(field["description"] for field in fields.values())
    assert {name for name, field in fields.items() if "default" not in field} == {"method", "eta", "seed"}
    assert None not in AS_IT_IS.model_dump().values()
    full = EraseRequest(method="salun", eta=0.5, seed=3)
    assert EraseRequest.model_validate_json(full.model_dump_json()) == full
    with pytest.raises(ValueError, match="eta"):
        EraseRequest(eta=0)


@pytest.mark.unit
def test_the_command_says_how_it_is_used():
    done = subprocess.run(
        [sys.executable, "-m", "flows.erase", "--help"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    for option in ("--concept", "--base", "--method", "--preset", "--set", "--quiet", "--no-commit"):
        assert option in done.stdout
