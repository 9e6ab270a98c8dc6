"""A comparison through real experiments: run, interrupted, killed, run again."""

import json
import signal
import sqlite3

import psutil
import pytest
from checkout import new_project

FILE = """
concepts: ["8"]
seeds: [0]
set: {erase.passes: 1500}
gold: retrain
search:
  concepts: ["1"]
  seeds: [1]
  over: {erase.learning_rate: [0.0002, 0.002]}
variants:
  siss: {erase.method: siss}
  broken: {erase.method: neggrad, erase.trainable: nothing_at_all}
  retrain: {erase.method: retrain}
"""


def experiments(project):
    """What each experiment has measured, by its name."""
    (commit,) = [c for c in json.loads(project.run("dvc", "exp", "show", "--json")) if c["rev"] != "workspace"]
    return {
        e["name"]: {path for path, out in e["revs"][0]["data"]["outs"].items() if out["hash"]}
        for e in commit.get("experiments") or []
    }


@pytest.mark.pipeline
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_comparison_goes_on_where_it_was_and_moves_no_alias(tmp_path):
    project = new_project(tmp_path)
    (tmp_path / "c.yaml").write_text(FILE)
    project.git("add", "-A"), project.git("commit", "-qm", "comparison")
    first = project.start("flows.compare", "c.yaml")
    for line in first.stdout:
        if "Ran experiment(s)" in line and "base, seed" not in line:
            break
    for line in first.stdout:
        if "Running stage 'erase'" in line:
            break
    first.send_signal(signal.SIGINT)
    first.communicate()
    # Of one that was interrupted DVC keeps the name, and what was done until then.
    done = {name for name, result in experiments(project).items() if "metrics/evaluation.json" in result}
    assert len(done) >= 1
    second = project.start("flows.compare", "c.yaml")
    for line in second.stdout:
        if "base, seed 0" in line and "Running stage 'pretrain'" in line:
            break
    for process in [psutil.Process(second.pid), *psutil.Process(second.pid).children(recursive=True)]:
        process.kill()
    second.communicate()
    output = project.run("flows.compare", "c.yaml", code=1)
    assert output.count("Running stage 'pretrain'") == 1
    assert "3 of 3 cells" not in output and "1 of 3 cells failed: broken, 8, seed 0" in output
    assert not any(f"--name {name}" in output or f"experiment '{name}'" in output for name in done)
    found = json.loads((tmp_path / "reports/comparison.json").read_text())
    assert {c["variant"]: c["evaluation"] is not None for c in found["cells"]} == {
        "siss": True,
        "broken": False,
        "retrain": True,
    }
    siss, _, retrain = found["cells"]
    assert siss["erase"]["passes"] <= 1500 < retrain["erase"]["passes"]
    assert found["chosen"]["siss"] in ("erase.learning_rate 0.002", "erase.learning_rate 0.0002")
    assert "gold standard" in (tmp_path / "reports/comparison.html").read_text()
    names = project.run("dvc", "exp", "list", "--name-only").split()
    assert len(names) == len(set(names))
    database = sqlite3.connect(tmp_path / "mlflow.db")
    assert database.execute("select count(*) from registered_models").fetchone() == (0,)
