"""The champion measured again: a sound one gets tags, one that fails is an alert."""

import json
import shutil
from dataclasses import fields

import mlflow
import pytest

from erasediff.records import Measured

MODEL = "erasediff-digits"


def registry(project):
    return mlflow.MlflowClient(f"sqlite:///{project.root / 'mlflow.db'}")


def recheck(project):
    return json.loads((project.root / "metrics/recheck.json").read_text())


@pytest.mark.pipeline
def test_a_sound_champion_is_tagged_and_stays(project):
    before = json.loads((project.root / "metrics/erased.json").read_text())
    said = project.run("stages.recheck", f"models:/{MODEL}@champion")
    assert f"version 1 of {MODEL}: gates passed" in said
    result, tags = recheck(project), registry(project).get_model_version(MODEL, "1").tags
    assert result["comparable"]
    others = {"seconds", *(field.name for field in fields(Measured))}
    assert result["numbers"] == {k: v for k, v in before.items() if k not in others}
    assert tags["recheck_passed"] == "true" and tags["recheck_at"].endswith("+00:00")
    assert float(tags["recheck.unlearning_accuracy"]) == pytest.approx(before["unlearning_accuracy"], abs=1e-4)
    runs = registry(project).search_runs([registry(project).get_experiment_by_name("erasediff").experiment_id])
    run = next(r for r in runs if r.data.tags["stage"] == "recheck")
    assert run.info.status == "FINISHED" and run.data.params["version"] == "1"
    assert project.git("status", "--porcelain") == ""
    project.set_params(evaluate__draws=1)  # another protocol: the distance is no multiple of the base's
    assert "the distance is not judged" in project.run("stages.recheck", f"models:/{MODEL}/1")
    assert not recheck(project)["comparable"] and "fd_classifier_ratio" not in recheck(project)["gates"]


@pytest.mark.pipeline
def test_what_cannot_be_rechecked_is_said(project):
    assert "ModelError: " + MODEL + " has no alias 'best'" in project.run(
        "stages.recheck", f"models:/{MODEL}@best", code=1
    )
    (project.root / "models/classifier").rename(project.root / "models/other")
    said = project.run("stages.recheck", f"models:/{MODEL}@champion", code=1)
    assert "IntegrityError: models/classifier" in said and "Traceback" not in said
    assert not (project.root / "metrics/recheck.json").exists()


@pytest.mark.slow
@pytest.mark.pipeline
@pytest.mark.timeout(900)  # seven commands on a busy machine
def test_a_champion_that_fails_is_an_alert_and_withdrawn_on_demand(project):
    assert "is sound: every gate passed again" in project.run("flows.recheck")
    project.set_params(verdict__max_distance_ratio=1e-6)
    said = project.run("flows.recheck", code=1)
    assert f"GateFailed: champion of {MODEL}, version 1, failed its recheck: fd_classifier_ratio" in said
    assert "it is champion still" in said and "Traceback" not in said
    assert registry(project).get_model_version(MODEL, "1").tags["recheck_passed"] == "false"
    assert registry(project).get_registered_model(MODEL).aliases["champion"]
    assert "the alias is withdrawn, there is no champion now" in project.run("flows.recheck", "--withdraw", code=1)
    assert "champion" not in registry(project).get_registered_model(MODEL).aliases
    last = project.run("flows.promote", "history").splitlines()[-1]
    assert "1 → -" in last and "failed its recheck: fd_classifier_ratio" in last
    assert "failed its recheck" in project.run("flows.promote", "challenger", "--why", "again", code=1)
    assert f"ModelError: {MODEL} has no alias 'champion'" in project.run("flows.recheck", code=1)
    project.set_params(verdict__max_distance_ratio=1e9)
    project.run("stages.recheck", f"models:/{MODEL}/1")
    project.run("flows.promote", "challenger", "--why", "mended")


@pytest.mark.slow
@pytest.mark.pipeline
@pytest.mark.timeout(900)
def test_a_champion_whose_files_were_altered_or_are_gone_is_an_alert_and_withdrawn(project):
    (weights,) = (project.root / "mlartifacts").rglob("unet/*.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1])
    said = project.run("flows.recheck", code=1)
    cannot = f"IntegrityError: champion of {MODEL}, version 1, cannot be loaded: version 1 of {MODEL} is not what was"
    assert cannot in said and "it is champion still" in said and "Traceback" not in said
    assert registry(project).get_model_version(MODEL, "1").tags["recheck_passed"] == "false"
    shutil.rmtree(weights.parents[2])
    said = project.run("flows.recheck", "--withdraw", code=1)
    assert (
        f"cannot be loaded: the files of version 1 of {MODEL} are gone from the store; the alias is withdrawn" in said
    )
    assert "champion" not in registry(project).get_registered_model(MODEL).aliases
    assert "cannot be loaded: the files" in project.run("flows.promote", "history").splitlines()[-1]


@pytest.mark.slow
@pytest.mark.pipeline
@pytest.mark.timeout(600)
def test_a_classifier_that_was_altered_is_no_fault_of_the_champion(project):
    (project.root / "models/classifier/model.safetensors").write_bytes(b"")
    said = project.run("flows.recheck", "--withdraw", code=1)
    assert "IntegrityError: recheck failed: models/classifier" in said
    assert registry(project).get_registered_model(MODEL).aliases["champion"]
