"""Runs on a real SQLite store, and on a server that is not there."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from erasediff import checkout, tracking
from erasediff.artifacts import read_json
from erasediff.errors import TrackingError
from erasediff.tracking import calls, outbox, server
from erasediff.tracking.remote import close_abandoned
from erasediff.tracking.run import PARENT_VARIABLE


def all_runs(name):
    experiment = server.client().get_experiment_by_name(server.EXPERIMENT)
    return server.client().search_runs([experiment.experiment_id], f"tags.stage = '{name}'")


def run_of(name):
    return server.client().get_run(read_json(Path(f"runs/{name}.json"))["run_id"])


@pytest.mark.unit
@pytest.mark.parametrize(
    "uri, shown",
    [
        ("http://user:pass@host:5000", "http://host:5000"),
        ("http://user:p/a@ss@host/x", "http://host/x"),
        ("postgresql+psycopg://u:p@db/mlflow?password=x&a=1", "postgresql+psycopg://db/mlflow?password=…&a=1"),
        ("sqlite:////work/mlflow.db", "sqlite:////work/mlflow.db"),
    ],
)
def test_no_credentials_are_shown(uri, shown):
    assert server.without_credentials(uri) == shown


@pytest.mark.unit
def test_names_that_mlflow_takes():
    assert calls.metric_name("accuracy.chat noir é") == "accuracy.chat noir é"
    odd = ["accuracy.dogs & cats", "accuracy.dogs + cats", "../x", "", "a" * 300, "a//b", " padded "]
    names = [calls.metric_name(n) for n in odd]
    assert len(set(names)) == len(odd)
    from mlflow.utils.validation import _validate_metric_name

    for name in names:
        _validate_metric_name(name)


@pytest.mark.unit
def test_root_is_the_nearest_project(tmp_path, monkeypatch):
    monkeypatch.delenv("DVC_ROOT", raising=False)
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    (tmp_path / "dvc.yaml").touch()
    monkeypatch.chdir(inner)
    assert checkout.project_root() == tmp_path
    monkeypatch.setenv("DVC_ROOT", str(inner))  # an experiment's real root
    assert checkout.project_root() == inner


@pytest.mark.unit
def test_import_and_uri_need_no_mlflow():
    code = (
        "import sys, erasediff.tracking as t; t.tracking_uri(); print(*(m in sys.modules for m in ('mlflow', 'torch')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False False\n"


@pytest.mark.pipeline
def test_a_run_holds_what_was_logged(store, monkeypatch):
    monkeypatch.setenv("MLFLOW_RUN_ID", "f" * 32)  # a caller's run is not written into
    monkeypatch.setenv("DVC_EXP_NAME", "exp-1")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    (store / "grid.png").write_bytes(b"png")
    with tracking.stage_run("erase", {"a": {"b": 1, "c": [1]}, "long": "x" * 9000}) as run:
        run.log_steps([(i, {"loss": float(i), "gap": float("nan"), "note": "text"}) for i in range(2500)])
        run.log_metrics({"accuracy.dogs & cats": 0.5, "passed": True})
        run.log_artifact("grid.png", "pictures")
        run.set_tag("k", "v")
        for _ in range(2):  # as where the answer to the first call was lost
            run.log_table("numbers.json", ("metric", "base"), [("kept ↑", "0.97 ± 0.01")])
        run.result["version"] = "1"
    record = read_json(Path("runs/erase.json"))
    assert record["logged"] is True and record["version"] == "1" and record["experiment_id"]
    client, logged = server.client(), run_of("erase")
    assert logged.info.status == "FINISHED"
    assert logged.data.params == {"a.b": "1", "a.c": "[1]", "long": "x" * 6000}
    assert len(client.get_metric_history(record["run_id"], "loss")) == 2500
    assert "gap" not in logged.data.metrics and logged.data.metrics["passed"] == 1
    assert logged.data.metrics[calls.metric_name("accuracy.dogs & cats")] == 0.5
    assert logged.data.tags["stage"] == "erase" and logged.data.tags["dvc_exp_name"] == "exp-1"
    assert logged.data.tags["omp_num_threads"] == "3" and int(logged.data.tags["cpus"]) > 0
    assert logged.data.tags["k"] == "v" and "git_commit" in logged.data.tags
    assert (store / "mlartifacts" / record["run_id"] / "artifacts" / "pictures" / "grid.png").exists()
    table = client.load_table(record["experiment_id"], "numbers.json", [record["run_id"]])
    assert table.to_dict("list") == {"metric": ["kept ↑"], "base": ["0.97 ± 0.01"]}
    assert "MLFLOW_HTTP_REQUEST_TIMEOUT" not in os.environ  # a later upload keeps MLflow's own patience


@pytest.mark.pipeline
def test_a_failure_fails_the_run_and_leaves_no_record(store):
    with pytest.raises(ValueError), tracking.stage_run("erase", {}) as run:
        raise ValueError("no")
    with pytest.raises(KeyboardInterrupt), tracking.stage_run("erase", {}) as stopped:
        raise KeyboardInterrupt
    client = server.client()
    assert client.get_run(run.run_id).info.status == "FAILED"
    assert client.get_run(stopped.run_id).info.status == "KILLED"
    assert not Path("runs/erase.json").exists()


@pytest.mark.pipeline
def test_parent_and_children(store, monkeypatch):
    with tracking.parent_run("erase-flow", {"concepts": ["8"]}) as parent:
        monkeypatch.setenv(PARENT_VARIABLE, parent.run_id)
        with tracking.stage_run("curate", {}) as child:
            pass
        monkeypatch.delenv(PARENT_VARIABLE)
        with tracking.stage_run("erase", {}) as earlier:
            pass
        parent.link("curate", executed=True)
        parent.link("erase", executed=False)
    client = server.client()
    assert client.get_run(child.run_id).data.tags["mlflow.parentRunId"] == parent.run_id
    assert "mlflow.parentRunId" not in client.get_run(earlier.run_id).data.tags
    tags = client.get_run(parent.run_id).data.tags
    assert (tags["stage.curate.run_id"], tags["stage.curate.origin"]) == (child.run_id, "executed")
    assert (tags["stage.erase.run_id"], tags["stage.erase.origin"]) == (earlier.run_id, "cached")


STAGE = """
import sys, time
from erasediff import tracking
with tracking.stage_run("erase", {"a": 1}) as run:
    print(run.run_id, flush=True)
    time.sleep(float(sys.argv[1]))
"""


def start_stage(seconds):
    # A process ends by itself after that time, whatever becomes of the test.
    process = subprocess.Popen([sys.executable, "-c", STAGE, str(seconds)], stdout=subprocess.PIPE, text=True)
    return process, process.stdout.readline().strip()


@pytest.mark.pipeline
def test_killed_runs_are_told_from_living_ones(store):
    (terminated, first), (killed, second) = start_stage(60), start_stage(60)
    until = time.monotonic() + 30
    while terminated.poll() is None and time.monotonic() < until:  # the sender's, the parent's death, a person's
        terminated.send_signal(signal.SIGTERM)
        time.sleep(0.005)
    assert terminated.returncode == 143
    client = server.client()
    assert client.get_run(first).info.status == "KILLED"
    killed.kill()
    killed.wait()
    living, third = start_stage(60)
    try:
        assert client.get_run(second).info.status == "KILLED"
        with tracking.stage_run("erase", {}):
            assert client.get_run(third).info.status == "RUNNING"
    finally:
        living.kill()
        living.wait()


@pytest.mark.pipeline
def test_runs_of_other_hosts_and_other_checkouts_are_left_alone(store):
    client, here = server.client(), {"host": socket.gethostname(), "root": str(checkout.project_root())}
    experiment = client.get_experiment_by_name(server.EXPERIMENT).experiment_id
    gone = {"pid": "1", "process_start": "of a process that has ended"}
    places = ({}, {"host": "elsewhere"}, {"root": "/elsewhere"})
    runs = [client.create_run(experiment, tags=here | gone | place).info.run_id for place in places]
    close_abandoned(client, experiment)
    assert [client.get_run(run).info.status for run in runs] == ["KILLED", "RUNNING", "RUNNING"]


@pytest.mark.pipeline
def test_processes_create_the_store_at_once(store):
    started = [subprocess.Popen([sys.executable, "-c", STAGE, "0"], stdout=subprocess.DEVNULL) for _ in range(3)]
    assert [process.wait(120) for process in started] == [0, 0, 0]
    client = server.client()
    assert len(client.search_experiments(filter_string=f"name = '{server.EXPERIMENT}'")) == 1
    experiment = client.get_experiment_by_name(server.EXPERIMENT)
    assert len(client.search_runs([experiment.experiment_id])) == 3


@pytest.mark.pipeline
def test_a_stage_finishes_with_the_server_down(closed_port, capsys):
    started = time.monotonic()
    Path("a.txt").write_text("a")
    with tracking.stage_run("erase", {"a": 1, "b": 2}) as run:
        run.log_steps([(i, {"x": 1.0, "y": 2.0}) for i in range(420)])
        for _ in range(3):
            run.log_artifact("a.txt")
    assert time.monotonic() - started < 30
    record = read_json(Path("runs/erase.json"))
    assert record["run_id"] is None and record["logged"] is False
    told = capsys.readouterr().err.strip().splitlines()
    assert len(told) == 2 and "connection refused; erase goes on without it" in told[0]
    assert told[1] == (
        f"warning: MLflow at http://127.0.0.1:{closed_port} unreachable: run erase, 2 params, 840 metric values, "
        "3 artifacts were not logged; the next run sends it, or: python -m stages.outbox"
    )
    assert "cr@t" not in json.dumps(record) + "".join(told)


@pytest.mark.pipeline
def test_required_is_one_stated_error(closed_port, capsys):
    with (
        pytest.raises(TrackingError, match="cannot be used .connection refused"),
        tracking.stage_run("r", {}, required=True),
    ):
        pytest.fail("the stage must not run")
    assert capsys.readouterr().err == ""


@pytest.mark.pipeline
def test_a_server_that_comes_back_gets_everything(switch, capsys):
    with tracking.stage_run("erase", {"a": 1}) as run:
        run.log_metrics({"x": 1.0}, 1)
        run.flush()
        assert run.run_id is None
        switch.down = False
    assert read_json(Path("runs/erase.json"))["logged"] is True
    assert run_of("erase").data.params == {"a": "1"} and run_of("erase").data.metrics == {"x": 1.0}
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.pipeline
def test_what_mlflow_refuses_costs_only_itself(store, capsys):
    with tracking.stage_run("erase", {}) as run:
        run.set_tag("k" * 300, "too long a key")
        run.log_metrics({"x": 1.0})
        run.log_artifact("missing.png")
    assert run_of("erase").data.metrics == {"x": 1.0}
    assert "refused a part: 1 artifact, 1 tag were not logged" in capsys.readouterr().err


@pytest.mark.pipeline
@pytest.mark.parametrize("down", [False, True])
def test_a_resumed_training_goes_on_in_its_run(switch, down):
    switch.down = False
    with tracking.stage_run("erase", {}) as first:
        first.log_steps([(i, {"x": 1.0}) for i in range(1, 8)])
    switch.down = down
    with tracking.stage_run("erase", None) as second:
        second.start({}, continues=first.run_id)
        second.log_steps([(i, {"x": 1.0}) for i in range(5, 12)])
    switch.down = False
    outbox.deliver()
    (there,) = all_runs("erase")
    assert there.info.run_id == first.run_id and there.info.status == "FINISHED"
    assert [m.step for m in server.client().get_metric_history(first.run_id, "x")] == list(range(1, 12))


@pytest.mark.unit
@pytest.mark.parametrize(
    "given, used",
    [
        ("sqlite:///mlflow.db", "sqlite:///{root}/mlflow.db"),
        ("sqlite:///./a/b.db?timeout=9", "sqlite:///{root}/a/b.db?timeout=9"),
        ("sqlite:////abs/mlflow.db", "sqlite:////abs/mlflow.db"),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("", "sqlite:///{root}/mlflow.db"),
    ],
)
def test_a_relative_database_is_one_of_the_checkout(store, tmp_path, monkeypatch, given, used):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", given)
    (tmp_path / "copy").mkdir()
    monkeypatch.chdir(tmp_path / "copy")  # as an experiment's, which is deleted when it is done
    assert tracking.tracking_uri() == used.format(root=store)


@pytest.mark.unit
def test_a_checkout_whose_path_ends_an_address_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "a?b"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(TrackingError, match=r"a\?b/mlflow.db has a '\?' in its path"):
        tracking.tracking_uri()


@pytest.mark.unit
def test_an_error_of_the_database_keeps_its_remedy(store):
    words = "Detected out-of-date database schema (found version x, but expected y). Take a backup of your database, "
    said = server.short_reason(RuntimeError(words + "then run 'mlflow db upgrade <database_uri>' to migrate it"))
    assert said.endswith(f"then run mlflow db upgrade {tracking.tracking_uri()}")
    assert "install that driver" in server.short_reason(ModuleNotFoundError("No module named 'psycopg2'"))


@pytest.mark.pipeline
def test_a_database_without_its_driver_is_one_line(store, monkeypatch):
    from erasediff.registry.versions import aliases

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql+nothing://me:secret@127.0.0.1:9/mlflow")
    with pytest.raises(TrackingError, match="cannot be used") as told:
        aliases("m")
    assert "\n" not in str(told.value) and "secret" not in str(told.value)


@pytest.mark.pipeline
def test_a_deleted_experiment_is_named_with_how_to_restore_it(store, capsys):
    with tracking.stage_run("erase", {}) as run:
        pass
    server.client().delete_experiment(run.experiment_id)
    remedy = f"experiment erasediff was deleted: mlflow experiments restore -x {run.experiment_id}"
    with pytest.raises(TrackingError) as told, tracking.stage_run("register", {}, required=True):
        pytest.fail("the stage must not run")
    assert remedy in str(told.value)
    with tracking.stage_run("erase", {}):
        pass
    assert remedy in capsys.readouterr().err
    server.client().restore_experiment(run.experiment_id)
    assert outbox.deliver() == 1


@pytest.mark.pipeline
def test_a_run_tells_who_made_it_by_what_and_from_which_data(store):
    with tracking.stage_run("evaluate-base", {}) as run:
        run.log_dataset("data/curated", "c" * 64, "curated")
    logged = server.client().get_run(run.run_id)
    assert logged.data.tags["mlflow.user"] == checkout.user_name()
    assert logged.data.tags["mlflow.source.name"] == "python -m stages.evaluate"
    (data,) = logged.inputs.dataset_inputs
    assert (data.dataset.name, data.dataset.digest) == ("data/curated", "c" * 36)
    with tracking.parent_run("erase-flow") as parent:
        pass
    assert server.client().get_run(parent.run_id).data.tags["mlflow.source.name"] == "python -m flows.erase"
    told = server.client().get_experiment(run.experiment_id).tags
    assert told["mlflow.note.content"] == server.ABOUT and told.items() >= server.KIND.items()
