"""What could not be told to MLflow waits on disk, and is sent once."""

import time
from pathlib import Path

import pytest

from erasediff import tracking
from erasediff.artifacts import read_json
from erasediff.errors import TrackingError
from erasediff.registry.lineage import stage_runs
from erasediff.tracking import calls, outbox, server
from stages.outbox import main as outbox_door


def logged_while_down(name="erase"):
    """A run that could not be told to MLflow, with one of everything."""
    Path("a.txt").write_text("as it was")
    with tracking.stage_run(name, {"a": 1}) as run:
        run.log_steps([(i, {"x": float(i % 2), "y": 2.0}) for i in range(1200)])
        run.log_artifact("a.txt")
        run.set_tag("k", "v")
    Path("a.txt").write_text("changed since")
    return run


def all_runs(name):
    experiment = server.client().get_experiment_by_name(server.EXPERIMENT)
    return server.client().search_runs([experiment.experiment_id], f"tags.stage = '{name}'")


def is_whole(run):
    """Whether MLflow has everything of :func:`logged_while_down`, once."""
    (there,) = all_runs("erase")
    client = server.client()
    artifacts = {a.path for a in client.list_artifacts(there.info.run_id)}
    assert there.data.tags[calls.KEY_TAG] == run.key and there.info.status == "FINISHED"
    assert there.data.params == {"a": "1"} and there.data.tags["k"] == "v" and artifacts == {"a.txt"}
    steps = [m.step for m in client.get_metric_history(there.info.run_id, "x")]
    assert sorted(steps) == list(range(1200))
    stored = Path(client.download_artifacts(there.info.run_id, "a.txt")).read_text()
    assert stored == "as it was"
    return there


@pytest.mark.pipeline
def test_the_next_run_delivers_what_waits(switch, capsys):
    run = logged_while_down()
    ended = time.time() * 1000
    assert run.run_id is None and len(list(outbox.box().iterdir())) == 1
    switch.down = False
    with tracking.stage_run("verdict", {}):
        there = is_whole(run)
    assert there.info.start_time < there.info.end_time <= ended
    assert not list(outbox.box().glob("[0-9]*")) and len(all_runs("verdict")) == 1
    assert read_json(Path("runs/erase.json"))["run_key"] == run.key


@pytest.mark.pipeline
@pytest.mark.parametrize("n", range(1, 8))
def test_a_delivery_that_is_killed_makes_no_second_run(switch, monkeypatch, n):
    run = logged_while_down()
    switch.down = False
    real, made = calls.send, []

    def send(client, run_id, call):
        real(client, run_id, call)
        made.append(call.kind)
        if len(made) == n:
            raise KeyboardInterrupt

    monkeypatch.setattr(calls, "send", send)
    with pytest.raises(KeyboardInterrupt):
        outbox.deliver()
    assert len(all_runs("erase")) == 1
    assert outbox.deliver() == 1 and outbox.deliver() == 0
    is_whole(run)


@pytest.mark.pipeline
def test_a_flow_finds_the_runs_of_stages_that_had_to_wait(switch, monkeypatch):
    with tracking.parent_run("erase-flow") as parent:
        child = logged_while_down()
        switch.down = False
        parent.link("erase", executed=True)
    there = is_whole(child)
    flow = server.client().get_run(parent.run_id)
    assert flow.data.tags["stage.erase.run_id"] == there.info.run_id
    assert there.data.tags["mlflow.parentRunId"] == parent.run_id
    assert stage_runs({"stages": {"erase": {}}}, Path("runs")) == {"run.erase": there.info.run_id}


@pytest.mark.pipeline
def test_the_command_says_what_it_sent(switch, capsys):
    run = logged_while_down()
    capsys.readouterr()
    with pytest.raises(TrackingError, match="connection refused; what is in .*mlflow-outbox.* goes on waiting"):
        outbox.deliver_now()
    switch.down = False
    outbox_door()
    outbox_door()
    said = capsys.readouterr().out.splitlines()
    assert [line.split(" sent")[0] for line in said] == ["1 run", "0 runs"]
    is_whole(run)


@pytest.mark.pipeline
def test_what_was_harmed_while_it_waited_is_not_sent(switch, capsys):
    logged_while_down()
    (content,) = outbox.box().glob("*/run.json")
    content.write_text(content.read_text()[:-9])
    switch.down = False
    with tracking.stage_run("verdict", {}):
        pass
    assert "truncated or was altered" in capsys.readouterr().err
    assert not all_runs("erase") and len(list(outbox.box().glob(".broken-*"))) == 1


def put_by(ended):
    """A run that waits, without a client."""
    about = {"key": f"k{ended}", "name": "x", "continues": False}
    outbox.keep(about, None, [calls.Call("artifact", ["gone.txt", ""]), calls.Call("tag", ["k", "v"])], ended)


@pytest.mark.unit
def test_what_waits_for_another_server_is_left_alone(store, monkeypatch):
    put_by(1000)
    there = outbox.box()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:one@127.0.0.1:9")
    assert outbox.deliver() == 0 and outbox.box() != there
    elsewhere = outbox.box()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:two@127.0.0.1:9")
    assert outbox.box() == elsewhere  # a new password is no new server
    assert [path.name for path in there.glob("[0-9]*")] == ["1000-k1000"]


@pytest.mark.unit
def test_what_ended_first_is_sent_first_without_files_that_are_gone(store, monkeypatch):
    for ended in (3000, 1000, 2000):
        put_by(ended)
    sent = []
    monkeypatch.setattr(server, "client", lambda: None)
    monkeypatch.setattr(outbox, "_send", lambda client, folder: sent.append(read_json(folder / "run.json")))
    assert outbox.deliver() == 3
    assert [content["about"]["key"] for content in sent] == ["k1000", "k2000", "k3000"]
    assert all(content["calls"] == [["tag", ["k", "v"], 1]] for content in sent)
