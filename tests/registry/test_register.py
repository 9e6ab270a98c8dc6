"""What is registered is what was measured."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from pydantic import ValidationError
from registering import version

from erasediff import tracking
from erasediff.artifacts import new_folder, read_json, sha256_folder, write_json
from erasediff.errors import IntegrityError, ModelError
from erasediff.loading import erased_before, load
from erasediff.registry import publishing
from erasediff.registry.store import verify_stored
from erasediff.registry.versions import (
    aliases,
    earlier_evaluations,
    erasures_of,
    evaluation_of_version,
    evidence,
    version_exists,
    version_of,
)
from erasediff.tracking import server
from stages.params import Register
from stages.register import main as register_door

MODEL = "erasediff-digits"


def register():
    return subprocess.run([sys.executable, "-m", "stages.register"], capture_output=True, text=True, timeout=120)


@pytest.mark.pipeline
@pytest.mark.parametrize("which", ["base", "erased"])
def test_a_model_that_was_not_measured_is_refused(project, pipeline, which):
    measured = sha256_folder(Path("models") / which)
    pipeline.unet.conv_out.bias.data.add_(1)
    with new_folder(Path("models") / which) as folder:
        pipeline.save_pretrained(folder)
    done = register()
    here = sha256_folder(Path("models") / which)
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith(
        f"IntegrityError: models/{which} has SHA-256 {here[:12]}…, but what was evaluated is one with {measured[:12]}…"
    )
    assert not version_exists(MODEL, "1") and not Path("runs/register.json").exists()


@pytest.mark.pipeline
def test_an_evaluation_that_names_no_model_is_refused(project):
    evaluation = read_json(Path("metrics/evaluation.json"))
    del evaluation["models"]
    write_json(Path("metrics/evaluation.json"), evaluation)
    done = register()
    assert done.returncode == 1 and "what was evaluated is a model that it does not name: run dvc repro" in done.stderr


@pytest.mark.pipeline
def test_the_card_tells_what_ran(project):
    assert register().returncode == 0
    found = version_of(MODEL, "1")
    assert aliases(MODEL) == {} and found.tags["run.erase"] == "r1"
    for line in ("- updates: 17", "- images through the network: 12,345", "- forget_source: retain (paper: forget)"):
        assert line in found.description.splitlines()
    assert "retain_target" not in found.description and not found.description.startswith("---")


@pytest.mark.pipeline
def test_the_example_is_a_concept_that_was_measured(project):
    """And not a word that is kept beside these, or everyday pictures."""
    for name, entries in {
        "data/forget_set/summary.json": {"retain": {"": 4, "ant": 2, "a": 3}},
        "metrics/evaluation.json": {"counts": {"kept.a": 30}},
    }.items():
        write_json(Path(name), {**read_json(Path(name)), **entries})
    assert register().returncode == 0
    assert version_of(MODEL, "1").tags["example_concept"] == "a"


@pytest.mark.pipeline
def test_links_of_dvcs_cache_are_followed(project):
    cache = project / ".dvc" / "cache" / "files" / "md5" / "ab"
    cache.mkdir(parents=True)
    for number, path in enumerate(sorted(p for p in Path("models/erased").rglob("*") if p.is_file())):
        path.rename(cache / str(number))
        path.symlink_to(cache / str(number))
    assert main(project) == "1"
    assert load(f"models:/{MODEL}/1").names == ("a", "b", "c")


@pytest.mark.pipeline
def test_what_killed_registrations_left_is_cleared_up_and_the_version_is_named(project, monkeypatch):
    client = server.client()
    with pytest.raises(KeyboardInterrupt), tracking.stage_run("register", {}) as killed:
        for status in ("PENDING", "READY"):
            left = client.create_logged_model(killed.experiment_id, "left", killed.run_id)
            if status == "READY":
                client.finalize_logged_model(left.model_id, status)
        raise KeyboardInterrupt
    with tracking.stage_run("register", {}) as other:  # at work
        kept = client.create_logged_model(other.experiment_id, "kept", other.run_id).model_id
        assert main(project) == "1"
    found = {model.model_id: model for model in client.search_logged_models([killed.experiment_id])}
    (made,) = set(found) - {kept}
    assert found[made].tags["mlflow.modelVersions"] == f'[{{"name": "{MODEL}", "version": 1}}]'
    assert found[made].status == "READY" and found[made].name == MODEL
    assert {metric.key: metric.value for metric in found[made].metrics}["unlearning_accuracy"] == 0.5


@pytest.mark.pipeline
def test_a_register_that_was_killed_after_its_version_was_made_is_completed_by_the_next(project, monkeypatch):
    class Killed(BaseException):
        pass

    def killed(*arguments):
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(publishing, "_complete", killed)
        main(project)
    assert "files_sha256" not in version_of(MODEL, "1").tags
    with pytest.raises(ModelError, match="has no hash of its code: register it again"):
        verify_stored(version_of(MODEL, "1"))
    assert main(project) == "1"
    verify_stored(version_of(MODEL, "1"))
    assert version_of(MODEL, "1").description.startswith("Forgotten: b\n===\n")


@pytest.mark.pipeline
def test_evidence_stays_with_the_model_when_its_run_is_gone(project):
    main(project)
    found = version_of(MODEL, "1")
    server.client().delete_run(found.run_id)
    assert evaluation_of_version(found).erased["unlearning_accuracy"] == 0.5
    assert evidence(found, "dvc.lock")["stages"]["erase"]["cmd"] == "x"
    gone = replace(found, run_id="0" * 32)
    assert evaluation_of_version(gone).erased["unlearning_accuracy"] == 0.5
    with pytest.raises(ModelError, match=f"has no nothing.json: .* its run {'0' * 32} was deleted"):
        evidence(gone, "nothing.json")
    number = version([])  # which was never evaluated
    assert earlier_evaluations(MODEL, "1") == earlier_evaluations("m", str(int(number) + 1)) == {}
    assert {name: it.erased for name, it in earlier_evaluations(MODEL, "2").items()} == {
        "version 1": evaluation_of_version(found).erased
    }


@pytest.mark.pipeline
def test_what_the_base_had_forgotten_is_inherited(project):
    main(project)
    found = version_of(MODEL, "1")
    assert erasures_of(found).all == ["b", "c"] and erasures_of(found).concepts == ("b",)
    assert erased_before(f"models:/{MODEL}/1") == ["b", "c"]
    raw = server.client().get_model_version(MODEL, "1").tags
    assert raw["forgotten"] == "b (before: c)" and json.loads(raw["erasures"]) == ["b", "c"]
    assert {"x.base_sha256", "x.erased_sha256", "x.lineage_digest", "x.run.erase", "x.files_sha256"} <= set(raw)
    run = server.client().get_run(found.run_id)
    assert {d.dataset.name for d in run.inputs.dataset_inputs} == {"data/curated", "data/forget_set"}
    assert run.data.tags["mlflow.source.name"] == "python -m stages.register" and run.data.tags["mlflow.user"]
    for line in (f"- version: {MODEL}, version 1", "- seed: 7", "- forget set: 2 pictures, SHA-256 ffffffffffffffff…"):
        assert line in found.description.splitlines()
    assert f'pipeline = erasediff.load("models:/{MODEL}/1")' in found.description


@pytest.mark.pipeline
def test_half_a_lock_is_refused(project):
    write_json(Path("dvc.lock"), {"stages": {"erase": {"cmd": "x"}}})
    with pytest.raises(IntegrityError, match=r"dvc\.lock does not tell how data/curated was made"):
        main(project)
    assert not version_exists(MODEL, "1")


@pytest.mark.pipeline
@pytest.mark.parametrize("name", ["a\n", "é", "", "a b", "-a"])
def test_a_name_is_one_or_none_everywhere(project, name):
    with pytest.raises(ModelError, match="is no name of a model"):
        main(project, name)
    with pytest.raises(ModelError, match="is no name of a model"):
        aliases(name)
    with pytest.raises(ValidationError):
        Register(model_name=name)


def main(project, name=MODEL):
    """The door in this process; the number of the version."""
    with tracking.stage_run("register", {}) as run:
        register_door(run, SimpleNamespace(model_name=name, request=None))
        return run.result["version"]
