"""Comparisons, pictures and evaluations on Ray's workers, in a network of their own: Ray listens on every interface."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress

import psutil
import pytest
from checkout import new_project
from deployments import processes_in
from ruamel.yaml import YAML

FILE = """
concepts: ["1", "8"]
seeds: [0]
variants:
  erasediff: {erase.method: erasediff, erase.outer_steps: 30}
  siss: {erase.method: siss, erase.outer_steps: 30}
"""
FILES = ["metrics/base_readings.safetensors", "plots/samples_base.png"]
ALONE = ["unshare", "--net", "--pid", "--fork", "--mount-proc", "--kill-child"]

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(autouse=True)
def ray_alone():
    pytest.importorskip("prefect_ray", reason="needs the extra system: prefect-ray")
    if not shutil.which("unshare") or subprocess.run([*ALONE, "ip", "link"], capture_output=True).returncode:
        pytest.skip("needs the right to make a network namespace, and iproute2")


def run_on_ray(project, words, victim=None):
    """A command with a Ray of its own; the worker above the first process of module ``victim`` is killed."""
    command = f"ip link set lo up && exec {shlex.join([sys.executable, '-m', *words])}"
    with open(project.root.parent / "ray.log", "w+") as log:
        alone = subprocess.Popen(
            [*ALONE, "bash", "-c", command],
            cwd=project.root,
            env=project.environment | {"RAY_ADDRESS": "local", "RAY_AUTH_MODE": "disabled"},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        killed, until = victim is None, time.monotonic() + 600
        while alone.poll() is None and time.monotonic() < until:
            time.sleep(0.05)
            for process in [] if killed else processes_in(project.root):
                with suppress(psutil.NoSuchProcess):
                    if victim in process.cmdline():
                        worker = next(p for p in process.parents() if p.cmdline()[0].startswith("ray::"))
                        os.kill(worker.pid, signal.SIGKILL)
                        killed = True
                        break
        alone.kill()
        log.seek(0)
        output = log.read()
    assert alone.wait() == 0, output
    assert killed, output


def cells(project):
    """Of each experiment, by its name: the hash of the erased model, and what was measured but the seconds."""
    found = {}
    for line in project.git("for-each-ref", "--format=%(refname)", "refs/exps").splitlines():
        if "compare-" in line:
            stages = YAML(typ="safe").load(project.git("show", f"{line}:dvc.lock"))["stages"]
            if "verdict" in stages:  # not what cells share
                outs = {out["path"]: out["md5"] for name in ("erase", "verdict") for out in stages[name]["outs"]}
                digest = outs["metrics/evaluation.json"]
                measured = json.loads((project.root / ".dvc/cache/files/md5" / digest[:2] / digest[2:]).read_text())
                for part in ("base", "erased", "delta"):
                    del measured[part]["seconds"]
                found[line.rsplit("/", 1)[1]] = outs["models/erased"], measured
    return found


def test_cells_on_ray_are_bitwise_those_of_threads_also_where_a_worker_is_killed(tmp_path):
    serial = new_project(tmp_path / "serial")
    (serial.root / "c.yaml").write_text(FILE)
    serial.git("add", "-A"), serial.git("commit", "-qm", "comparison")
    spread = serial.copy(tmp_path / "spread")
    serial.run("flows.compare", "c.yaml", timeout=600)
    run_on_ray(spread, ["flows.compare", "c.yaml"], "stages.erase")
    found = cells(spread)
    assert len(found) == 4 and found == cells(serial)


def test_pictures_on_ray_are_bitwise_those_of_threads_also_where_a_worker_is_killed(tmp_path):
    project = new_project(tmp_path / "project")
    project.run("dvc", "repro", "pretrain")
    wanted = ["flows.sample", "--model=models/base", "--concept=3", "--n=100", "--batch=30", "--steps=25"]
    project.run(*wanted, "--out=serial", "--jobs=2")
    run_on_ray(project, [*wanted, "--out=spread"], "stages.sample")
    serial, spread = [{p.name: p.read_bytes() for p in (project.root / out).iterdir()} for out in ("serial", "spread")]
    assert len(serial) == 100 and spread == serial


def test_an_evaluation_on_ray_is_bitwise_that_of_one_process(tmp_path):
    project = new_project(tmp_path / "project")
    project.environment["OMP_NUM_THREADS"] = "1"  # as many batches at once as there are processors
    project.run("dvc", "repro", "evaluate@base")

    def measured():
        numbers = json.loads((project.root / "metrics/base.json").read_text())
        del numbers["seconds"]
        return numbers, *((project.root / file).read_bytes() for file in FILES)

    serial = measured()
    for path in (project.root / "metrics").glob("base*"):
        path.unlink()
    run_on_ray(project, ["stages.evaluate", "base"])
    assert measured() == serial
