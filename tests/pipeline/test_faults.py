"""Bad input and sudden ends: one clear line, and nothing half-written counts."""

import json
import random
import signal
import sqlite3
import time

import pandas as pd
import pytest
from checkout import stated

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
LONG = {"erase__outer_steps": 100, "erase__checkpoint_every": 5}


@pytest.mark.pipeline
def test_a_concept_that_does_not_exist(project):
    project.set_params(forget_set__concepts=["88"])
    line = stated(project.run("stages.forget_set", code=1), "UnknownConcept")
    assert "no concept '88' in the data, which has 0, 1, 2, 3, 4, 5, 6, 7, 8, 9; did you mean 8?" in line


@pytest.mark.pipeline
def test_everything_cannot_be_forgotten(project):
    project.set_params(forget_set__concepts=list("0123456789"))
    assert "forget_set selects everything" in stated(project.run("stages.forget_set", code=1), "DataError")


@pytest.mark.pipeline
def test_an_altered_model_is_refused(project):
    file = project.root / "models/base" / WEIGHTS
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.unlink()  # DVC's cache may share the file
    file.write_bytes(content)
    line = stated(project.run("stages.erase", code=1), "IntegrityError")
    assert f"models/base/{WEIGHTS} has SHA-256" in line and "altered" in line


@pytest.mark.pipeline
def test_out_of_memory_says_what_to_lower(project):
    project.set_params(erase__retain_batch_size=2_000_000)
    line = stated(project.run("stages.erase", code=1, most_memory=8 * 2**30), "OutOfMemory")
    assert "erase ran out of memory" in line and "lower forget_batch_size and retain_batch_size" in line


@pytest.mark.pipeline
def test_with_mlflow_down_the_stage_finishes_and_says_what_was_not_logged(project):
    said = project.run("stages.erase", MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    assert "warning: MLflow at http://127.0.0.1:9 unreachable: run erase" in said and "were not logged" in said
    assert json.loads((project.root / "runs/erase.json").read_text())["logged"] is False
    line = stated(project.run("stages.register", code=1, MLFLOW_TRACKING_URI="http://127.0.0.1:9"), "TrackingError")
    assert "once that is settled, run: dvc repro register" in line


@pytest.mark.pipeline
@pytest.mark.parametrize("sign", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGKILL])
def test_a_stopped_erase_goes_on_and_ends_bitwise_the_same(project, sign):
    project.set_params(**LONG)
    erased = project.root / "models/erased"
    project.run("stages.erase")
    whole = (erased / WEIGHTS).read_bytes()
    (erased / WEIGHTS).unlink()
    checkpoint = project.root / ".work/checkpoints/erase.json"
    process = project.start_erase()
    process.send_signal(sign)
    said = process.communicate()[0]
    assert process.returncode == (130 if sign == signal.SIGINT else -sign), said
    assert checkpoint.exists() and not (erased / WEIGHTS).exists()
    said = project.run("stages.erase")
    assert "going on from step " in said
    assert (erased / WEIGHTS).read_bytes() == whole
    assert pd.read_csv(project.root / "plots/erase.csv")["step"].tolist() == list(range(1, 101))
    assert not checkpoint.exists()


@pytest.mark.slow
@pytest.mark.pipeline
def test_killed_at_ten_points_it_is_bitwise_the_uninterrupted_one_in_one_mlflow_run(project):
    steps = 600
    project.set_params(erase__outer_steps=steps, erase__checkpoint_every=3)
    project.environment["OMP_NUM_THREADS"] = "1"
    erased = project.root / "models/erased" / WEIGHTS
    project.run("stages.erase")
    whole, trace = erased.read_bytes(), pd.read_csv(project.root / "plots/erase.csv")
    erased.unlink()
    database = sqlite3.connect(project.root / "mlflow.db")
    count = "select count(*) from runs where name = 'erase'"
    runs = database.execute(count).fetchone()[0]
    facts = project.root / ".work/checkpoints/erase.json"
    moment, reached = random.Random(0), []
    for kill in range(10):
        process = project.start("stages.erase")
        if kill % 2:  # at any time, while it starts too
            time.sleep(moment.uniform(0, 12))
        else:  # once it has gone further than before
            done = len(json.loads(facts.read_text())["rows"]) if facts.exists() else 0
            while not facts.exists() or len(json.loads(facts.read_text())["rows"]) <= done:
                assert process.poll() is None, process.communicate()[0]
                time.sleep(0.01)
            time.sleep(moment.uniform(0, 0.3))
        process.kill()
        said = process.communicate()[0]
        assert process.returncode == -signal.SIGKILL, said
        reached.append(len(json.loads(facts.read_text())["rows"]) if facts.exists() else 0)
    assert reached == sorted(reached) and len(set(reached)) >= 5 and not erased.exists()
    assert "going on from step " in project.run("stages.erase")
    assert erased.read_bytes() == whole
    timing = ["images_per_second", "peak_memory_bytes"]
    pd.testing.assert_frame_equal(
        pd.read_csv(project.root / "plots/erase.csv").drop(columns=timing), trace.drop(columns=timing)
    )
    assert database.execute(count).fetchone()[0] == runs + 1
    run = json.loads((project.root / "runs/erase.json").read_text())["run_id"]
    logged = "select count(*), count(distinct step) from metrics where run_uuid = ? and key = 'retain_loss'"
    assert database.execute(logged, [run]).fetchone() == (steps, steps)
    assert database.execute("select status from runs where run_uuid = ?", [run]).fetchone() == ("FINISHED",)


@pytest.mark.slow
@pytest.mark.pipeline
def test_a_truncated_checkpoint_is_refused(project):
    project.set_params(**LONG)
    facts = project.root / ".work/checkpoints/erase.json"
    process = project.start_erase()
    process.kill()
    process.communicate()
    state = facts.with_name(json.loads(facts.read_text())["file"])
    state.write_bytes(state.read_bytes()[:-10])
    line = stated(project.run("stages.erase", code=1), "IntegrityError")
    assert "is truncated or was altered: delete .work/checkpoints/erase.json to start this stage afresh" in line
