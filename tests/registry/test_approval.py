"""A promotion that waits for somebody's decision, on a real Prefect server; the decision is made elsewhere."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from erasediff import tracking
from erasediff.artifacts import sha256_folder, write_json
from erasediff.registry.history import champion_at, history
from erasediff.registry.promotion import promote_initial
from erasediff.registry.publishing import register_version
from erasediff.registry.versions import aliases, version_of

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(600)]
REPOSITORY = Path(__file__).parents[2]
FOLDER = Path("models/erased")
NUMBERS = {"unlearning_accuracy": 0.0417, "unlearning_accuracy_sd": 0.01}
GATE = {"value": 0.9731, "limit": 0.9, "direction": "min", "passed": True}
STEPS = (
    "find the version",
    "check its gates",
    "check what it has forgotten",
    "check its files",
    "draw a picture",
    "show what is decided",
    "move the alias",
)
DECIDE = """
import sys
from prefect.flow_runs import resume_flow_run
approve = {"approve": True} if sys.argv[2] == "yes" else {}  # the switch is off: that is no
resume_flow_run(sys.argv[1], run_input={**approve, "by": "ann", "why": "I looked\\nat the pictures"})
"""


def api(url, path, body=None):
    content = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{url}{path}", content, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.loads(answer.read())


def until(seconds, found):
    """What ``found`` returns, once that is true; an error before a server is up counts as not yet."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if result := found():
                return result
        except OSError:
            pass
        time.sleep(0.5)
    raise AssertionError(f"not within {seconds} s")


@pytest.fixture(scope="module")
def prefect_server(tmp_path_factory):
    """The API's address of a server on a free port, ended by its process's id."""
    home = tmp_path_factory.mktemp("prefect")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    environment = {**kept, "PREFECT_HOME": str(home), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with open(home / "log", "w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}/api"
    try:
        until(120, lambda: api(url, "/health"))
        yield url
    finally:
        process.terminate()
        process.wait(60)


@pytest.fixture
def asked(store, prefect_server, tmp_path, monkeypatch):
    """Starts the command for version 2 of a registry whose champion is version 1; the command and its flow run."""
    write_json(Path("evaluation.json"), {
        "base": NUMBERS, "erased": {"unlearning_accuracy": 0.9731, "unlearning_accuracy_sd": 0.02},
        "delta": {}, "gates": {"unlearning_accuracy": GATE}, "passed": True, "classifier": {}})  # fmt: skip
    for number in "12":
        with tracking.stage_run("evaluate-erased", {}) as run:
            Path("samples_erased.png").write_bytes(b"\x89PNG picture")
            run.log_artifact("samples_erased.png")
        tags = {"lineage_digest": number, "gates_passed": "true", "erased_sha256": sha256_folder(FOLDER)}
        forgotten = {"1": '["b", "c"]', "2": '["b"]'}[number]
        tags |= {"example_concept": "a", "erasures": forgotten, "concepts": '["b"]', "run.evaluate-erased": run.run_id}
        with tracking.stage_run("register", {}) as run:
            register_version("m", run.run_id, FOLDER, tags, [Path("evaluation.json")], lambda version: "card", "a")
        promote_initial("m", number)
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    environment = {**kept, "PYTHONPATH": str(REPOSITORY), "PREFECT_HOME": str(tmp_path / "home")}
    environment["PREFECT_API_URL"] = prefect_server
    started = []

    def start(*arguments, paused=True):
        """``paused``: wait until it asks."""
        command = [
            "-m",
            "flows.promote",
            "--model",
            "m",
            "challenger",
            "--why",
            "request 17",
            "--brings-back",
            "c",
            "--approve",
            *arguments,
        ]
        process = subprocess.Popen([sys.executable, *command], env=environment, text=True,
                                   stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip
        started.append(process)
        if not paused:
            return process
        asking = {"flow_runs": {"state": {"type": {"any_": ["PAUSED"]}}}}
        run = until(300, lambda: process.poll() is None and api(prefect_server, "/flow_runs/filter", asking))
        return process, run[0]["id"], environment

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
            process.wait()


def decide(run_id, environment, decision):
    subprocess.run([sys.executable, "-c", DECIDE, run_id, decision], env=environment, check=True, timeout=60)


def test_approved_elsewhere_it_becomes_champion(asked, prefect_server):
    process, run_id, environment = asked()
    assert aliases("m") == {"challenger": "2", "champion": "1"}
    described = until(60, lambda: described_form(prefect_server, run_id))
    assert "Make version 2 of m the champion, in place of 1? Asked because: request 17" in described
    assert "- Version 2 has forgotten: **b**" in described
    assert "- The champion, version 1, has forgotten: **b, c**" in described
    assert "- **Approving lets this be drawn again: c**" in described
    assert "- 97.3% of the pictures drawn for b are not recognised as such (at least 90%): passed" in described
    shown = {a["key"]: a for a in api(prefect_server, "/artifacts/filter", {}) if a["flow_run_id"] == run_id}
    table = shown["approval"]["data"]
    assert "| unlearning_accuracy | 0.042 ± 0.010 | 0.973 ± 0.020 | 0.9731 ≥ 0.9 passed |" in table
    assert "request 17" in table and shown["approval"]["id"] in described
    assert shown["approval-erased"]["data"].startswith("data:image/png;base64,")
    decide(run_id, environment, "yes")
    said = process.communicate(timeout=60)[0]
    assert process.returncode == 0 and "champion of m is version 2" in said, said
    assert aliases("m") == {"challenger": "2", "champion": "2", "previous_champion": "1"}
    assert history("m")[-1].why == "request 17; brings back c; approved by ann: I looked at the pictures"
    steps = api(prefect_server, "/task_runs/filter", {"flow_runs": {"id": {"any_": [run_id]}}, "sort": "ID_DESC"})
    assert {(step["name"], step["state_name"]) for step in steps} == {(name, "Completed") for name in STEPS}


def described_form(url, run_id):
    """The description that the UI shows above the form."""
    keyset = api(url, f"/flow_runs/{run_id}")["state"]["state_details"]["run_input_keyset"]
    request = urllib.request.Request(f"{url}/flow_runs/{run_id}/input/{keyset['description']}")
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.loads(answer.read())


def test_refused_nothing_moves_and_it_is_said(asked, prefect_server):
    process, run_id, environment = asked()
    decide(run_id, environment, "no")
    said = process.communicate(timeout=60)[0]
    assert process.returncode == 1 and "Traceback" not in said, said
    stated = "version 2 of m was refused by ann: I looked at the pictures; nothing was moved"
    assert f"PromotionRefused: {stated}" in said
    state = api(prefect_server, f"/flow_runs/{run_id}")["state"]
    assert (state["type"], state["name"], state["message"]) == ("CANCELLED", "PromotionRefused", stated)
    assert aliases("m") == {"challenger": "2", "champion": "1"}
    last = history("m")[-1]
    assert (last.alias, last.before, last.after) == ("refused", "1", "2")
    assert (last.by, last.why) == ("ann", "I looked at the pictures")
    assert champion_at("m", last.at) == "1"
    assert version_of("m", "2").tags["promotion_refused"] == "by ann: I looked at the pictures"


def test_nobody_decides(asked, prefect_server):
    said = asked("--wait", "2", paused=False).communicate(timeout=400)[0]
    assert "ApprovalTimeout: nobody decided on version 2 of m within 2 s: nothing was moved" in said, said
    ended = {"flow_runs": {"state": {"name": {"any_": ["ApprovalTimeout"]}}}}
    (run,) = api(prefect_server, "/flow_runs/filter", ended)
    assert run["state"]["type"] == "FAILED"
    assert aliases("m") == {"challenger": "2", "champion": "1"}


def test_an_approval_needs_a_server(store):
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    environment = {**kept, "PYTHONPATH": str(REPOSITORY), "PREFECT_HOME": str(store / "home")}
    command = [sys.executable, "-m", "flows.promote", "--model", "m", "challenger", "--why", "x", "--approve"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and done.stderr.startswith("ParamsError: --approve asks in Prefect's UI"), done.stderr
