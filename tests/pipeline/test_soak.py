"""Many runs in a row with random kills; at the end nothing is lost, nothing is there twice, nothing is left lying.

SOAK_RUNS=20 SOAK_SEED=0 make soak
"""

import collections
import json
import os
import random
import time

import mlflow
import psutil
import pytest
from deployments import client, ended, processes_in, submitted, taken, versions, worktrees

from erasediff.loading import load

RUNS, SEED = int(os.environ.get("SOAK_RUNS", "20")), int(os.environ.get("SOAK_SEED", "0"))
VICTIMS = ("worker", "worker and job", "job", "stage", "dvc", "mlflow", "prefect", "nobody")
NAME = "erasediff-digits"


def request(number):
    """One of the requests; every third fails a gate."""
    settings = {"erase.outer_steps": 60, "erase.checkpoint_every": 5}
    if number % 3 == 2:
        settings["verdict.max_distance_ratio"] = 1e-6
    return {"eta": round(0.2 + number / 100, 2), "settings": settings}


def killed(project, victim):
    """Kill what is there of it; how many processes."""
    servers = {
        name: json.loads((project.root / f".work/servers/{name}.json").read_text())["pid"]
        for name in ("worker", "mlflow", "prefect")
    }
    worker = psutil.Process(servers["worker"])
    inside = processes_in(project.root / ".work/worktrees")
    found = {
        "worker": [worker],
        "worker and job": [worker, *worker.children()],
        "job": worker.children(),
        "stage": [p for p in inside if any(word.startswith("stages.") for word in p.cmdline()[1:3])],
        "dvc": [p for p in inside if p.cmdline()[1:3] == ["-m", "dvc"]],
        "mlflow": [psutil.Process(servers["mlflow"])],
        "prefect": [psutil.Process(servers["prefect"])],
        "nobody": [],
    }[victim]
    for process in found:
        process.kill()
    return len(found)


def survived(project, wanted, victim, moment):
    """A run, with a kill in it; how it ended."""
    run_id, until = submitted(project, wanted), time.monotonic() + 120
    while not worktrees(project) and time.monotonic() < until:
        time.sleep(0.1)
    time.sleep(moment)
    number = killed(project, victim)
    if victim in ("worker", "worker and job", "mlflow", "prefect"):
        project.run("flows.servers", "up")
    state = ended(project, run_id, 300).state
    print(f"{victim} ({number} processes) after {moment:.1f} s: {state.name}: {state.message}", flush=True)
    return state.name


@pytest.mark.soak
@pytest.mark.system
@pytest.mark.timeout(200 * RUNS + 900)
def test_runs_with_random_kills(served, monkeypatch, capsys):
    chance, started = random.Random(SEED), time.monotonic()
    choices = max(3, RUNS // 2)
    wanted = [chance.randrange(choices) for _ in range(RUNS)]
    victims = [victim for _ in range(RUNS) for victim in chance.sample(VICTIMS, len(VICTIMS))][:RUNS]
    with capsys.disabled():
        print()
        pairs = zip(wanted, victims, strict=True)
        ends = [survived(served, request(n), victim, chance.uniform(0, 25)) for n, victim in pairs]
        served.run("stages.outbox", MLFLOW_TRACKING_URI=f"http://127.0.0.1:{served.environment['MLFLOW_PORT']}")
        for number in set(wanted):  # once more in peace: what was killed is made, what was made is found
            state = ended(served, submitted(served, request(number))).state
            assert state.name == ("GateFailed" if number % 3 == 2 else "Completed"), state.message
        is_whole(served, len(set(wanted)) + 1, monkeypatch)
        print(f"{RUNS} runs, seed {SEED}, {time.monotonic() - started:.0f} s: {dict(collections.Counter(ends))}")
        print(f"{len(versions(served))} versions of {len(set(wanted))} requests and the first run; nothing left")


def is_whole(project, requests, monkeypatch):
    """One version a request, each of which loads; aliases on what passed; nothing left lying."""
    assert taken(project) == 0 and worktrees(project) == []
    with client(project) as prefect:
        assert not [run.name for run in prefect.read_flow_runs() if run.state.is_running()]
    store = f"sqlite:///{project.root / 'mlflow.db'}"
    found = {v.version: v.tags for v in versions(project)}
    assert len(found) == requests == len({tags["x.lineage_digest"] for tags in found.values()})
    held = mlflow.MlflowClient(store).get_registered_model(NAME).aliases
    assert "champion" in held and {found[v]["gates_passed"] for v in held.values()} == {"true"}
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    monkeypatch.chdir(project.root)
    for version in found:
        load(f"models:/{NAME}/{version}")
    assert project.run("flows.servers", "down").count(" stopped") == 3
    assert processes_in(project.root) == [psutil.Process()]
    assert leftovers(project.root) == []
    assert len(project.git("worktree", "list").splitlines()) == 1 and project.git("status", "--porcelain") == ""


def leftovers(root):
    """Files that only something unfinished needs."""
    temporary = [
        p for folder in ("data", "models", "metrics", "reports", "runs", "plots") for p in root.glob(f"{folder}/**/.*")
    ]
    checkpoints = [p for p in root.glob(".work/checkpoints/**/*") if p.is_file() and p.suffix != ".lock"]
    outbox = list(root.glob(".work/mlflow-outbox/*/[0-9.]*-*"))
    cached = [p for p in root.glob(".work/models/.*")]
    return [p for p in temporary + checkpoints + outbox + cached if p.name != ".gitignore"]
