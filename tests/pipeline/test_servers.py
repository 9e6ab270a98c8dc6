"""The servers of a checkout, and what its deployments do when a schedule fires, a job is cancelled or killed."""

import json
import os
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer

import mlflow
import psutil
import pytest
from deployments import (
    LONG,
    client,
    ended,
    erasing,
    processes_in,
    scheduled,
    submitted,
    taken,
    versions,
    with_ports,
    worktrees,
)
from prefect.states import Cancelling

from erasediff.artifacts import sha256_folder
from flows.jobs.runner import ACCELERATOR

pytestmark = pytest.mark.timeout(900)  # starting all servers is part of the first test


@pytest.mark.system
def test_a_schedule_fires_and_there_is_nothing_to_do(served):
    run = ended(served, scheduled(served, {}))
    assert (run.state.name, run.state.message) == ("Completed", "nothing to do: everything is up to date")
    assert run.total_run_time < timedelta(seconds=60)  # 3 s; a busy machine, yet far from nine stages
    assert worktrees(served) == []


@pytest.mark.system
def test_parameters_are_checked_before_anything_runs(served):
    run = ended(served, submitted(served, {"settings": {"erase.etaa": 1, "erase.eta": -1}}))
    assert run.state.name == "ParamsError"
    assert "erase.etaa: unknown key; did you mean eta?" in run.state.message
    assert "erase.eta: give a finite number above 0, not -1" in run.state.message
    with client(served) as prefect:
        form = prefect.read_deployment_by_name("erase/erase").parameter_openapi_schema
    asked = form["definitions"]["EraseRequest"]["properties"]
    assert asked["concepts"]["description"] and "salun" in json.dumps(asked["method"])


@pytest.mark.system
def test_a_stages_failure_is_the_state_of_a_deployed_run(served):
    run = ended(served, submitted(served, {"concepts": ["88"]}))
    assert run.state.name == "UnknownConcept", run.state.message
    assert run.state.message.startswith("stage forget_set failed: forget_set.concepts: no concept '88'")
    assert worktrees(served) == [] and taken(served) == 0
    log = (served.root / ".work/servers/worker.log").read_text().partition("forget 88")[2]
    assert "no concept '88'" in log and "Traceback" not in log and "unexpected exception" not in log


@pytest.mark.system
def test_prefects_pages_that_ask_a_third_party_are_not_the_ones_that_open(served):
    pages = f"http://127.0.0.1:{served.environment['PREFECT_SERVER_API_PORT']}/ui-settings"
    with urllib.request.urlopen(pages, timeout=30) as answer:
        assert json.load(answer)["default_ui"] == "v1"
    noted = json.loads((served.root / ".work/servers/prefect.json").read_text())
    assert psutil.Process(noted["pid"]).environ()["PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT"] == "false"


@pytest.mark.system
def test_what_is_deployed(served):
    with client(served) as prefect:
        found = {d.name: d for d in prefect.read_deployments()}
        assert set(found) == {"erase", "promote", "rollback", "recheck-champion", "compare"}
        assert [s.schedule.cron for s in found["recheck-champion"].schedules] == ["0 3 * * 1"]
        why = {"why": "request 17"}
        first = prefect.create_flow_run_from_deployment(found["promote"].id, parameters=why).id
        second = prefect.create_flow_run_from_deployment(found["rollback"].id, parameters=why).id
    run = ended(served, first)
    assert (run.state.name, run.state.message) == ("ModelError", "version 1 of erasediff-digits is champion already")
    assert ended(served, second).state.name == "ModelError"  # there is no previous champion
    assert found["compare"].parameters == {"file": "comparisons/methods.yaml"}
    for deployment in found.values():  # the form in the UI explains every field
        fields = deployment.parameter_openapi_schema["properties"]
        assert all(f.get("description") or "$ref" in json.dumps(f) for f in fields.values()), deployment.name
    api = f"http://127.0.0.1:{served.environment['PREFECT_SERVER_API_PORT']}/api"
    assert served.run("flows.servers", "register", PREFECT_API_URL=api) == f"registered on {api}\n"


@pytest.mark.slow
@pytest.mark.system
def test_a_recheck_brings_what_it_measures_with_and_leaves_the_checkout_alone(served, tmp_path):
    judge = served.root / "models/classifier"
    judge.rename(tmp_path / "classifier")  # of a checkout in which only deployed jobs ever ran
    try:
        with client(served) as prefect:
            deployment = prefect.read_deployment_by_name("recheck/recheck-champion")
            run = ended(served, prefect.create_flow_run_from_deployment(deployment.id).id)
        assert (run.name, run.state.name) == ("champion", "Completed"), run.state.message
        assert "is sound: every gate passed again" in run.state.message
        assert not judge.exists() and not (served.root / "metrics/recheck.json").exists()
        assert served.git("status", "--porcelain") == "" and worktrees(served) == [] and taken(served) == 0
    finally:
        (tmp_path / "classifier").rename(judge)


@pytest.mark.slow
@pytest.mark.system
def test_a_failed_run_is_told(served):
    heard = queue.Queue()

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self):  # noqa: N802 (the library's name)
            heard.put((self.path, json.loads(self.rfile.read(int(self.headers["content-length"])))))
            self.send_response(200)
            self.end_headers()

    with HTTPServer(("127.0.0.1", 0), Hook) as hook, client(served) as prefect:
        threading.Thread(target=hook.serve_forever, daemon=True).start()
        where = {"PREFECT_API_URL": f"http://127.0.0.1:{served.environment['PREFECT_SERVER_API_PORT']}/api"}
        for _ in range(2):  # the second renews it
            served.run(
                "flows.servers", "register", ERASEDIFF_ALERT_URL=f"http://127.0.0.1:{hook.server_port}/s3cret", **where
            )
        deployment = prefect.read_deployment_by_name("promote/rollback")
        asked = {"why": "it looks worse", "model_name": "no-such-model"}
        run = ended(served, prefect.create_flow_run_from_deployment(deployment.id, parameters=asked).id)
        path, told = heard.get(timeout=60)
        hook.shutdown()
        shown = prefect.read_block_document_by_name("erasediff-alert", "custom-webhook", include_secrets=False)
        assert "s3cret" not in str(shown)  # as the UI asks
    assert run.name == "previous_champion: it looks worse" and path == "/s3cret" and heard.empty()
    assert told["text"].startswith(f"promote, {run.name}: ModelError\nthe registry has no model 'no-such-model'")
    assert str(run.id) in told["text"]


@pytest.mark.slow
@pytest.mark.system
def test_a_scheduled_run_makes_a_model_that_comes_back_byte_for_byte(served, tmp_path):
    head = served.git("rev-parse", "HEAD")
    run = ended(served, scheduled(served, {"eta": 0.5, "concepts": ["3"]}))
    assert run.state.name == "Completed", run.state.message
    assert served.git("rev-parse", "HEAD") == head and served.git("status", "--porcelain") == ""
    assert worktrees(served) == []
    registry = mlflow.MlflowClient(f"sqlite:///{served.root / 'mlflow.db'}")
    version = registry.get_model_version_by_alias("erasediff-digits", "challenger")
    assert version.tags["forgotten"] == "3" and version.tags["git_dirty"] == "false"
    commit = version.tags["dvc_lock_commit"]
    assert commit in served.git("for-each-ref", "--format=%(objectname)", "refs/tags/erased")
    runs = registry.search_runs([registry.get_experiment_by_name("erasediff").experiment_id])
    parent = next(r for r in runs if r.data.tags.get("dvc_lock_commit") == commit)
    attached = {a.path for a in registry.list_artifacts(parent.info.run_id)}
    assert {"params.yaml", "dvc.lock", "report.html"} <= attached
    other = tmp_path / "other"
    subprocess.run(["git", "clone", "-q", str(served.root), str(other)], check=True)
    (other / ".venv").symlink_to(sys.prefix)
    there = type(served)(other)
    there.git("checkout", "-q", commit)
    there.run("dvc", "remote", "modify", "store", "url", str(served.root.parent / "store"))
    there.run("dvc", "pull")
    assert sha256_folder(other / "models/erased") == version.tags["x.erased_sha256"]
    again = ended(served, submitted(served, {"eta": 0.5, "concepts": ["3"]}))
    assert again.state.message == "nothing to do: everything is up to date"


@pytest.mark.slow
@pytest.mark.system
def test_two_at_once_both_finish(served):
    with client(served) as prefect:
        prefect.upsert_global_concurrency_limit_by_name(ACCELERATOR, 2)
    first, second = [ended(served, r) for r in [submitted(served, {"eta": eta}) for eta in (0.2, 0.3)]]
    with client(served) as prefect:
        prefect.upsert_global_concurrency_limit_by_name(ACCELERATOR, 1)
    assert {first.state.name, second.state.name} == {"Completed"}
    assert first.start_time < second.end_time and second.start_time < first.end_time
    tags = served.git("tag", "--list", "erased/*").splitlines()
    etas = {re.search(r"^  eta: (\S+)", served.git("show", f"{tag}:params.yaml"), re.M)[1] for tag in tags}
    assert {"0.2", "0.3"} <= etas
    assert worktrees(served) == []


@pytest.mark.slow
@pytest.mark.system
def test_a_comparison_runs_one_cell_after_the_other_and_moves_no_alias(served):
    before = mlflow.MlflowClient(f"sqlite:///{served.root / 'mlflow.db'}").search_model_versions("")
    (served.root / ".work/c.yaml").write_text(
        "concepts: ['3', '8']\nseeds: [0]\nvariants: {short: {erase.outer_steps: 2}}\n"
    )
    with client(served) as prefect:
        deployment = prefect.read_deployment_by_name("compare/compare").id
        asked = [{"file": file} for file in (".work/c.yaml", "comparisons/none.yaml")]
        runs = [prefect.create_flow_run_from_deployment(deployment, parameters=file).id for file in asked]
    done, refused = (ended(served, run) for run in runs)
    assert done.state.name == "Completed", done.state.message
    assert refused.state.name == "ParamsError" and "comparisons/none.yaml is missing" in refused.state.message
    cells = json.loads((served.root / "reports/comparison.json").read_text())["cells"]
    assert [c["concept"] for c in cells if c["evaluation"]] == ["3", "8"]
    assert served.git("status", "--porcelain") == "" and taken(served) == 0
    after = mlflow.MlflowClient(f"sqlite:///{served.root / 'mlflow.db'}").search_model_versions("")
    assert [v.version for v in after] == [v.version for v in before]


@pytest.mark.slow
@pytest.mark.system
def test_a_cancelled_run_stops_dvc_and_its_stage(served):
    run_id, place = erasing(served)
    assert taken(served) == 1 and any("dvc" in p.cmdline() for p in processes_in(place))
    with client(served) as prefect:
        prefect.set_flow_run_state(run_id, Cancelling())
    assert ended(served, run_id, 60).state.name == "Cancelled"
    until = time.monotonic() + 30
    while processes_in(place) or worktrees(served) or taken(served):
        assert time.monotonic() < until, (processes_in(place), worktrees(served), taken(served))
        time.sleep(0.5)
    registry = mlflow.MlflowClient(f"sqlite:///{served.root / 'mlflow.db'}")
    runs = registry.search_runs([registry.get_experiment_by_name("erasediff").experiment_id], max_results=2)
    assert {r.info.status for r in runs} == {"KILLED"}


@pytest.mark.slow
@pytest.mark.system
def test_a_killed_worker_frees_its_slot_and_its_run_is_crashed(served):
    run_id, place = erasing(served)
    worker = json.loads((served.root / ".work/servers/worker.json").read_text())["pid"]
    for process in [psutil.Process(worker), *psutil.Process(worker).children()]:
        process.kill()
    killed = time.monotonic()
    until = killed + 10
    while processes_in(place):  # DVC and the stage follow
        assert time.monotonic() < until, processes_in(place)
        time.sleep(0.2)
    assert place.exists()
    assert "worker   not running" in served.run("flows.servers", "status", code=1)
    assert served.run("flows.servers", "up").count("running, pid") == 3  # before the run was found silent
    assert ended(served, run_id, 120).state.name == "Crashed"
    while taken(served):
        assert time.monotonic() < killed + 150, "the slot is taken still"
        time.sleep(0.5)
    again, log = submitted(served, LONG), served.root / ".work/servers/worker.log"
    until = time.monotonic() + 120
    while "going on from step" not in log.read_text():
        assert time.monotonic() < until, "the next run did not go on from the checkpoint"
        time.sleep(0.5)
    with client(served) as prefect:
        prefect.set_flow_run_state(again, Cancelling())
    assert ended(served, again).state.name == "Cancelled"
    assert worktrees(served) == []


@pytest.mark.slow
@pytest.mark.system
def test_a_killed_stage_is_one_line_and_the_next_run_goes_on(served):
    request = {"eta": 0.35, "settings": {"erase.outer_steps": 150, "erase.checkpoint_every": 5}}
    run_id, place = erasing(served, request)
    (stage,) = [p for p in processes_in(place) if "stages.erase" in p.cmdline()]
    stage.kill()
    run = ended(served, run_id, 60)
    why = "stage erase failed: it was ended by SIGKILL, as where memory runs out: run it again to go on"
    assert (run.state.name, run.state.message) == ("StageFailed", why)
    assert processes_in(place) == [] and worktrees(served) == [] and taken(served) == 0
    log = served.root / ".work/servers/worker.log"
    before = log.read_text().count("going on from step")
    run = ended(served, submitted(served, request))
    assert run.state.name == "Completed", run.state.message
    assert log.read_text().count("going on from step") == before + 1


@pytest.mark.slow
@pytest.mark.system
def test_a_run_outlives_a_restart_of_the_prefect_server(served):
    before = len(versions(served))
    run_id, place = erasing(served, {"eta": 0.45, "settings": {"erase.outer_steps": 600, "erase.checkpoint_every": 5}})
    psutil.Process(json.loads((served.root / ".work/servers/prefect.json").read_text())["pid"]).kill()
    assert served.run("flows.servers", "up").count("running, pid") == 3
    run = ended(served, run_id)
    assert run.state.name == "Completed", run.state.message
    assert len(versions(served)) == before + 1
    assert processes_in(place) == [] and worktrees(served) == [] and taken(served) == 0


@pytest.mark.slow
@pytest.mark.system
def test_down_ends_the_jobs_and_they_tidy_up(served):
    run_id, place = erasing(served)
    assert served.run("flows.servers", "down").count(" stopped") == 3
    assert processes_in(place) == [] and worktrees(served) == []
    served.run("flows.servers", "up")
    assert ended(served, run_id, 120).state.name == "Crashed" and taken(served) == 0


@pytest.fixture
def bare(tmp_path):
    """A folder that is a checkout to the servers' command and no more."""
    from checkout import REPOSITORY, Project

    (tmp_path / "dvc.yaml").touch()
    project = with_ports(Project(tmp_path))
    project.environment["PYTHONPATH"] = str(REPOSITORY)
    return project


@pytest.mark.system
def test_a_taken_port_is_one_line_and_nothing_is_left_running(bare):
    with socket.socket() as other:
        other.bind(("127.0.0.1", int(bare.environment["MLFLOW_PORT"])))
        other.listen()
        said = bare.run("flows.servers", "up", code=1)
    port = bare.environment["MLFLOW_PORT"]
    assert (
        said.splitlines(True)[-1]
        == f"ServerFailed: port {port} for mlflow is taken by another program: free it, or set MLFLOW_PORT\n"
    )
    assert bare.run("flows.servers", "status", code=1).count("not running") == 3
    assert processes_in(bare.root) == []


@pytest.mark.system
def test_a_server_that_does_not_start_is_named_with_its_last_words(bare):
    said = bare.run("flows.servers", "up", code=1, MLFLOW_BACKEND_STORE_URI="nonsense://store")
    last = said.splitlines(True)[-1]
    assert re.fullmatch(r"ServerFailed: mlflow ended with code \d+: .*nonsense.* \(log: .*mlflow\.log\)\n", last), said
    assert processes_in(bare.root) == []


@pytest.mark.system
def test_down_leaves_alone_what_it_did_not_start(bare):
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as other:
        file = bare.root / ".work/servers/worker.json"
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps({"pid": other.pid, "process_start": "1", "since": "", "url": ""}))
        assert bare.run("flows.servers", "down").count("was not running") == 3
        assert other.poll() is None and not file.exists()
        os.kill(other.pid, signal.SIGKILL)


@pytest.mark.unit
def test_a_port_that_is_none_is_a_usage_error(bare):
    said = bare.run("flows.servers", "up", code=2, PREFECT_SERVER_API_PORT="http")
    assert said == "ParamsError: PREFECT_SERVER_API_PORT is 'http': give a number from 1 to 65535\n"
    assert "PREFECT_API_URL is not set" in bare.run("flows.servers", "register", code=2)
    said = bare.run("flows.servers", "register", code=1, PREFECT_API_URL="http://127.0.0.1:9/api")
    assert said.startswith("ServerFailed: no Prefect server answers at http://127.0.0.1:9/api")
