"""The rooms of flows: which flow a deployment and a command end in, and what a command imports before it works."""

import ast
import importlib
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest
from prefect import Flow
from ruamel.yaml import YAML

import flows
import flows.jobs
from flows.jobs.registration import silent_runs_crash
from flows.tools.names import BEAT, WORK_POOL

REPOSITORY = Path(__file__).parents[2]
COMMANDS = [m.name for m in pkgutil.iter_modules(flows.__path__) if not m.ispkg and m.name != "command"]
JOBS = [importlib.import_module(f"flows.jobs.{m.name}") for m in pkgutil.iter_modules(flows.jobs.__path__)]


def defined():
    """Every Prefect flow, with the module that defines it."""
    return [(f.name, m.__name__) for m in JOBS for f in vars(m).values() if isinstance(f, Flow)]


@pytest.mark.unit
def test_every_flow_has_a_name_and_a_file_of_its_own():
    names, modules = zip(*defined(), strict=True)
    assert sorted(names) == ["compare", "erase", "promote", "recheck", "sample"]
    assert len(set(modules)) == len(modules)


@pytest.mark.unit
def test_deployments_lead_to_these_flows():
    deployments = YAML(typ="safe").load(REPOSITORY / "prefect.yaml")["deployments"]
    found = {}
    for deployment in deployments:
        module, _, name = deployment["entrypoint"].rpartition(".")
        found[deployment["name"]] = getattr(importlib.import_module(module), name).name
        assert deployment["work_pool"]["name"] == WORK_POOL
    assert found == {
        "erase": "erase",
        "promote": "promote",
        "rollback": "promote",
        "recheck-champion": "recheck",
        "compare": "compare",
    }


@pytest.mark.unit
def test_a_command_loads_nothing_heavy_before_it_has_read_its_arguments():
    assert sorted(COMMANDS) == ["compare", "erase", "evaluate", "promote", "recheck", "sample", "serve", "servers"]
    code = f"import sys, {', '.join(f'flows.{name}' for name in COMMANDS)}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert not {"prefect", "torch", "mlflow", "dvc", "psutil", "pydantic", "flows.jobs"} & set(done.stdout.split())


@pytest.mark.unit
def test_every_option_of_a_command_says_what_it_is():
    adding = [
        (f"{path.name}:{node.lineno}", {keyword.arg for keyword in node.keywords})
        for room in ("erasediff", "flows", "stages")
        for path in (REPOSITORY / room).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "add_argument"
    ]
    assert len(adding) > 50
    # argparse says itself what --version does; None: the words are among ``**options``.
    assert [where for where, given in adding if given.isdisjoint({"help", "version", None})] == []


@pytest.mark.unit
def test_flows_compute_nothing():
    code = f"import sys, {', '.join(job.__name__ for job in JOBS)}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY).returncode == 0


@pytest.mark.unit
def test_a_run_that_somebody_starts_by_hand_beats_as_often_as_a_job():
    told = "print(prefect.settings.get_current_settings().flows.heartbeat_frequency)"
    work = f"import prefect.settings; {told}"
    code = f"from flows.command import run_command; run_command('x', lambda: exec({work!r}))"
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, env=kept, capture_output=True, text=True)
    assert done.stdout.split() == [str(BEAT)], done.stderr


@pytest.mark.unit
def test_a_run_of_which_two_beats_are_lost_has_crashed_and_one_of_which_one_is_has_not():
    found = silent_runs_crash()
    silence = found.trigger.within.total_seconds()
    assert 2 * BEAT < silence < 3 * BEAT and f"{silence:.0f} s" in found.actions[0].message
    assert found.trigger.posture == "Proactive" and found.actions[0].state == "CRASHED"
