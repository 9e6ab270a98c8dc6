"""Servers that end, and a store that was tampered with: nothing is lost, nothing is there twice."""

import json

import mlflow
import pytest
from checkout import stated

LONG = {"erase__outer_steps": 150, "erase__checkpoint_every": 5}
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture
def registry(stack, monkeypatch):
    for name, value in stack.client.items():
        if name.startswith("MLFLOW_"):
            monkeypatch.setenv(name, value)
    return mlflow.MlflowClient(stack.client["MLFLOW_TRACKING_URI"])


def is_whole(registry, project, steps):
    """The one run of the project's ``runs/erase.json``, with every step once."""
    experiment = registry.get_experiment_by_name("erasediff").experiment_id
    key = json.loads((project.root / "runs/erase.json").read_text())["run_key"]
    (run,) = registry.search_runs([experiment], f"tags.run_key = '{key}'")
    assert run.info.status == "FINISHED" and run.data.params["outer_steps"] == str(steps)
    history = registry.get_metric_history(run.info.run_id, "multiplier")
    assert sorted(m.step for m in history) == list(range(1, steps + 1))
    assert not list(project.root.glob(".work/mlflow-outbox/*/[0-9]*"))


def test_mlflow_is_down_before_a_stage(stack, project, registry):
    with stack.mlflow.down():
        said = project.run("stages.erase")
        assert "connection refused; erase goes on without it" in said
        assert "were not logged; the next run sends it, or: python -m stages.outbox" in said
        line = stated(project.run("stages.outbox", code=1), "TrackingError")
        assert "connection refused" in line and "goes on waiting" in line
        line = stated(project.run("stages.register", code=1), "TrackingError")
        assert "once that is settled, run: dvc repro register" in line
    assert "1 run sent to MLflow at" in project.run("stages.outbox")
    is_whole(registry, project, 4)
    assert "0 runs sent" in project.run("stages.outbox")


@pytest.mark.parametrize("until_the_end", [False, True])
def test_mlflow_ends_during_a_stage(stack, project, registry, until_the_end):
    project.set_params(**LONG)
    process = project.start_erase()
    with stack.mlflow.down():
        if until_the_end:
            said = process.communicate(timeout=200)[0]
            assert process.returncode == 0 and "the next run sends it" in said
    if not until_the_end:
        said = process.communicate(timeout=200)[0]
    assert process.returncode == 0 and "Traceback" not in said, said
    project.run("stages.outbox")
    is_whole(registry, project, 150)


def test_postgres_is_restarted_during_a_stage(stack, project, registry):
    project.set_params(**LONG)
    process = project.start_erase()
    with stack.postgres.down():
        pass
    said = process.communicate(timeout=200)[0]
    assert process.returncode == 0 and "Traceback" not in said, said
    project.run("stages.outbox")
    is_whole(registry, project, 150)


def test_the_flow_goes_on_once_mlflow_is_back(stack, project, registry):
    project.set_params(erase__eta=0.7)
    with stack.mlflow.down():
        said = project.run("flows.erase", "--no-commit", code=1, timeout=800)
        assert "TrackingError: stage register failed: " in said and "Traceback" not in said
    said = project.run("flows.erase", "--no-commit", timeout=800)
    assert "Running stage 'register'" in said and "Running stage 'erase'" not in said
    is_whole(registry, project, 4)
    version = json.loads((project.root / "runs/register.json").read_text())["version"]
    experiment = registry.get_experiment_by_name("erasediff").experiment_id
    key = json.loads((project.root / "runs/erase.json").read_text())["run_key"]
    (run,) = registry.search_runs([experiment], f"tags.run_key = '{key}'")
    tags = registry.get_model_version("erasediff-digits", version).tags
    assert tags["x.run.erase"] == run.info.run_id and tags["gates_passed"] == "true"


def test_a_version_that_was_altered_in_the_store_is_refused(stack, project, registry, tmp_path):
    project.set_params(erase__eta=0.4)
    project.run("flows.erase", "--no-commit", timeout=800)
    held = registry.get_registered_model("erasediff-digits").aliases
    version = held["challenger"]
    assert version != held["champion"]
    model = registry.get_model_version("erasediff-digits", version).source.rsplit("/")[-1]
    (stored,) = [o for o in stack.bucket("mlflow").objects.all() if model in o.key and o.key.endswith(WEIGHTS)]
    whole = stored.get()["Body"].read()
    stored.put(Body=whole[:-1] + bytes([whole[-1] ^ 1]))
    uri = f"models:/erasediff-digits/{version}"
    sample = ("stages.sample", "--model", uri, "--concept", "3", "--n", "1", "--steps", "2", "--out", "three.png")
    line = stated(project.run(*sample, code=1), "IntegrityError")
    assert "is not what was registered" in line
    promote = ("flows.promote", "challenger", "--why", "request 1")
    assert "is not what was registered" in stated(project.run(*promote, code=1), "IntegrityError")
    assert registry.get_registered_model("erasediff-digits").aliases["champion"] == held["champion"]
    stored.put(Body=whole)
    assert f"is version {version}" in project.run(*promote)
