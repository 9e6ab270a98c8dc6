"""One request to forget, through Prefect, DVC, MLflow and the registry."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest

from flows.tools.lock import only_run

STAGES = {
    "curate",
    "pretrain",
    "classifier",
    "forget_set",
    "erase",
    "evaluate@base",
    "evaluate@erased",
    "verdict",
    "register",
}


def client(project):
    return mlflow.MlflowClient(f"sqlite:///{project.root / 'mlflow.db'}")


def aliases(registry):
    return {a: str(v) for a, v in registry.get_registered_model("erasediff-digits").aliases.items()}


def executed(output):
    return set(re.findall(r"Running stage '([^']+)'", output))


@pytest.mark.pipeline
def test_the_flow_runs_every_stage_and_sets_the_aliases(flow_run, tmp_path):
    project, said = flow_run
    assert executed(said) == STAGES
    interval = r"\d\.\d+ \(\d\.\d+ to \d\.\d+\)"
    assert re.search(rf"unlearning_accuracy +{interval} +{interval} +≥ 0 passed", said)
    assert "model    erasediff-digits version 1, alias challenger, champion" in said
    registry = client(project)
    assert aliases(registry) == {"champion": "1", "challenger": "1"}
    runs = registry.search_runs([registry.get_experiment_by_name("erasediff").experiment_id])
    parent = next(r for r in runs if r.data.tags["stage"] == "erase-flow")
    children = [r for r in runs if r.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert {r.data.tags["stage"] for r in children} == {s.replace("@", "-") for s in STAGES}
    assert {r.info.status for r in runs} == {"FINISHED"}
    erase = next(r for r in children if r.data.tags["stage"] == "erase")
    assert len(registry.get_metric_history(erase.info.run_id, "multiplier")) == 4
    assert parent.data.tags["stage.erase.run_id"] == erase.info.run_id
    assert parent.info.run_name == "forget 8 · v1" and parent.data.metrics["passed"] == 1.0
    digests = {read.dataset.name: read.dataset.digest for read in parent.inputs.dataset_inputs}
    assert digests.keys() == {"data/curated", "data/forget_set"} and all(digests.values())
    table = json.loads(Path(registry.download_artifacts(parent.info.run_id, "numbers.json", str(tmp_path))).read_text())
    assert table["columns"] == ["metric", "base", "erased", "gate"] and "passed" in table["data"][0][3]
    # The commit that brings this very model back.
    assert project.git("status", "--porcelain") == ""
    version = registry.get_model_version("erasediff-digits", "1")
    assert version.tags["dvc_lock_commit"] == project.git("rev-parse", "HEAD") and version.tags["git_dirty"] == "false"


@pytest.mark.pipeline
def test_the_trace_tells_the_multiplier_that_its_gradients_ask_for(flow_run):
    trace = pd.read_csv(flow_run[0].root / "plots/erase.csv").astype(np.float64)
    assert len(trace) == 4 and (trace["multiplier"] >= 0).all()
    asked = 1.0 - trace["gradient_cosine"] * trace["retain_grad_norm"] / trace["forget_grad_norm"]
    assert trace["multiplier"].to_numpy() == pytest.approx(np.maximum(0, asked), rel=1e-4, abs=1e-5)


@pytest.mark.pipeline
def test_again_there_is_nothing_to_do(project):
    assert project.run("flows.erase").startswith("nothing to do: everything is up to date")
    assert not executed(project.run("dvc", "repro"))


@pytest.mark.slow
@pytest.mark.pipeline
def test_an_experiment_runs_what_depends_on_it_and_moves_no_alias(project):
    said = project.run("dvc", "exp", "run", "--temp", "-n", "half", "-S", "erase.eta=0.5")
    assert executed(said) == {"erase", "evaluate@erased", "verdict", "register"}
    registry = client(project)
    assert aliases(registry) == {"champion": "1", "challenger": "1"}
    runs = registry.search_runs([registry.get_experiment_by_name("erasediff").experiment_id])
    assert {r.data.tags["stage"] for r in runs if r.data.tags.get("dvc_exp_name") == "half"} == {
        "erase",
        "evaluate-erased",
        "verdict",
        "register",
    }
    shown = json.loads(project.run("dvc", "exp", "show", "--json"))
    experiment = shown[-1]["experiments"][0]["revs"][0]
    assert experiment["name"] == "half"
    assert experiment["data"]["params"]["params.yaml"]["data"]["erase"]["eta"] == 0.5
    assert list(experiment["data"]["metrics"]) == ["metrics/headline.json"]
    assert "unlearning_accuracy" in experiment["data"]["metrics"]["metrics/headline.json"]["data"]
    project.git("checkout", "-q", "--", ".")
    assert "erase.eta" in project.run("dvc", "params", "diff", "HEAD", "half")
    assert "multiplier" in project.run("dvc", "plots", "diff", "HEAD", "half", "--json", "--targets", "plots/erase.csv")
    assert "fd_classifier_ratio" in project.run("dvc", "metrics", "diff", "HEAD", "half")


@pytest.mark.pipeline
@pytest.mark.parametrize(
    ("touched", "stages"),
    [
        # A method says what is drawn for it; attacks train; verdict and register say how it differs from the paper.
        (
            "erasediff/unlearning/loop.py",
            {"forget_set", "erase", "evaluate@base", "evaluate@erased", "verdict", "register"},
        ),
        ("erasediff/registry/card.py", {"register"}),
        ("erasediff/tracking/run.py", set()),
        ("data/own/new.png", {"curate"}),
    ],
)
def test_what_is_read_is_declared(project, touched, stages):
    with open(project.root / touched, "a") as file:
        file.write("\n")
    status = json.loads(project.run("dvc", "status", "--json"))
    assert set(status) == stages


@pytest.mark.pipeline
def test_another_clone_pulls_and_has_nothing_to_run(project, tmp_path):
    project.run("dvc", "remote", "add", "-d", "store", str(tmp_path / "store"))
    project.git("commit", "-qam", "remote")
    project.run("dvc", "push")
    other = tmp_path / "other"
    subprocess.run(["git", "clone", "-q", str(project.root), str(other)], check=True)
    (other / ".venv").symlink_to(sys.prefix)
    there = type(project)(other)
    del there.environment["VIRTUAL_ENV"]
    there.run("dvc", "pull")
    assert not executed(there.run("dvc", "repro"))
    for name in ("unet/diffusion_pytorch_model.safetensors", "sha256.json"):
        assert (other / "models/erased" / name).read_bytes() == (project.root / "models/erased" / name).read_bytes()


@pytest.mark.slow
@pytest.mark.pipeline
def test_a_failed_gate_registers_and_fails_the_flow(project):
    project.set_params(verdict__min_unlearning_accuracy=1.0, verdict__max_retain_accuracy_drop=0.0)
    project.set_params(verdict__max_distance_ratio=1e-6)
    said = project.run("flows.erase", code=1)
    assert executed(said) == {"verdict", "register"}
    assert re.search(
        r"^GateFailed: gates failed: .*fd_classifier_ratio [\d.]+ \([\d. to]+\) ≤ 1e-06 FAILED", said, re.M
    )
    assert "Traceback" not in said
    registry = client(project)
    assert registry.get_model_version("erasediff-digits", "2").tags["gates_passed"] == "false"
    assert aliases(registry) == {"champion": "1", "challenger": "1"}
    assert "dvc.lock is not committed: there are other changes (params.yaml" in said


@pytest.mark.pipeline
def test_a_failed_stage_fails_the_flow_in_one_line(project):
    project.set_params(forget_set__concepts=[], forget_set__sample_ids=["0" * 64])
    said = project.run("flows.erase", code=1)
    assert executed(said) == {"forget_set"}
    assert "\nDataError: stage forget_set failed: forget_set.sample_ids: " in said
    assert "Traceback" not in said
    registry = client(project)
    runs = registry.search_runs([registry.get_experiment_by_name("erasediff").experiment_id])
    assert [r.info.status for r in runs[:2]] == ["FAILED", "FAILED"]  # the stage's, and its parent's


@pytest.mark.slow
@pytest.mark.pipeline
def test_a_wiped_registry_gets_the_version_again(project):
    for path in project.root.glob("mlflow.db*"):
        path.unlink()
    shutil.rmtree(project.root / "mlartifacts")
    said = project.run("flows.erase")
    assert executed(said) == {"register"}
    assert aliases(client(project))["champion"] == "1"


@pytest.mark.pipeline
def test_a_second_run_in_the_checkout_is_told_who_has_it(project):
    with only_run(project.root / ".work" / "flow.lock"):
        assert "CheckoutBusy: another run works in this checkout (pid " in project.run("flows.erase", code=1)


@pytest.mark.pipeline
def test_dvc_shows_a_few_numbers_and_two_plots_of_the_erasing_and_leaves_the_checkout_committable(project):
    head = json.loads(project.run("dvc", "exp", "show", "--json"))[0]["data"]["metrics"]
    assert list(head) == ["metrics/headline.json"]
    numbers = head["metrics/headline.json"]["data"]
    assert len(numbers) <= 7 and numbers["passed"] is True
    shown = json.loads(project.run("dvc", "plots", "show", "--json"))["data"]
    losses, weights = (shown[name][0]["content"] for name in ("erase_losses", "erase_multiplier"))
    assert losses["encoding"]["y"]["scale"] == {"type": "log"} and "type" not in weights["encoding"]["y"]["scale"]
    for plot, names in ((losses, {"retain_loss", "forget_loss"}), (weights, {"multiplier", "gradient_cosine"})):
        assert {row["field"] for row in plot["data"]["values"]} == names
        assert plot["encoding"]["color"]["field"] == "field"
    bars = shown["recognised"][0]["content"]["data"]["values"]
    assert {"0, base", "0, erased", "8, erased"} <= {bar["drawn"] for bar in bars}
    assert all(0 <= float(bar["recognised"]) <= 1 for bar in bars)
    found = shown["attacks"][0]["content"]["data"]["values"]
    assert {"settings: 2 steps, base", "settings: 2 steps, erased"} <= {bar["attack"] for bar in found}
    project.run("dvc", "plots", "show")
    assert (project.root / "dvc_plots/index.html").exists() and project.git("status", "--porcelain") == ""
