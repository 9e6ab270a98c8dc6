"""Runs of deployments in a checkout with servers: started, followed, looked into."""

import socket
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import mlflow
import psutil
import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.schedules import IntervalSchedule

from flows.jobs.runner import ACCELERATOR

#: A job that takes until it is stopped.
LONG = {"settings": {"erase.outer_steps": 100_000, "erase.checkpoint_every": 5}}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def with_ports(project):
    """The project on free ports, a DVC remote beside it, no activated environment."""
    project.environment |= {"PREFECT_SERVER_API_PORT": str(free_port()), "MLFLOW_PORT": str(free_port())}
    project.environment |= {"OMP_NUM_THREADS": "1", "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "2"}
    del project.environment["VIRTUAL_ENV"]
    return project


def client(project):
    """Of the Prefect server that the project's environment names, or of its own."""
    there = project.environment
    url = there.get("PREFECT_API_URL") or f"http://127.0.0.1:{there['PREFECT_SERVER_API_PORT']}/api"
    return SyncPrefectClient(url, auth_string=there.get("PREFECT_API_AUTH_STRING"))


def scheduled(project, request):
    """A schedule of the deployment that fires in a moment; its first run."""
    with client(project) as prefect:
        deployment = prefect.read_deployment_by_name("erase/erase")
        soon = datetime.now(UTC) + timedelta(seconds=15)
        every = IntervalSchedule(interval=timedelta(days=100), anchor_date=soon)
        before = {run.id for run in prefect.read_flow_runs()}
        made = prefect._client.post(
            f"/deployments/{deployment.id}/schedules",
            json=[{"schedule": every.model_dump(mode="json"), "active": True, "parameters": {"request": request}}],
        )
        made.raise_for_status()
        until = time.monotonic() + 90
        while time.monotonic() < until:
            new = [r for r in prefect.read_flow_runs() if r.id not in before and r.auto_scheduled]
            new = [r for r in new if r.expected_start_time < soon + timedelta(days=1)]
            if new:
                return new[0].id
            time.sleep(0.5)
    pytest.fail("the schedule made no run")


def submitted(project, request):
    """A run of the deployment, on demand."""
    with client(project) as prefect:
        deployment = prefect.read_deployment_by_name("erase/erase")
        return prefect.create_flow_run_from_deployment(deployment.id, parameters={"request": request}).id


def ended(project, run_id, seconds=600):
    """A run once it has ended."""
    until = time.monotonic() + seconds
    with client(project) as prefect:
        while not (run := prefect.read_flow_run(run_id)).state.is_final():
            assert time.monotonic() < until, f"{run.name} is {run.state.name} still"
            time.sleep(0.5)
    return run


def taken(project):
    with client(project) as prefect:
        return prefect.read_global_concurrency_limit_by_name(ACCELERATOR).active_slots


def worktrees(project):
    return sorted(p.name for p in (project.root / ".work/worktrees").glob("*"))


def processes_in(folder):
    """Processes that work below a folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if Path(process.cwd()).is_relative_to(folder):
                found.append(process)
        except (psutil.AccessDenied, psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return found


def erasing(project, request=LONG):
    """A job, a long one by default, once its stage has written a checkpoint: its run, and its worktree."""
    run_id, until = submitted(project, request), time.monotonic() + 120
    while not (found := list((project.root / ".work/worktrees").glob("*/.work/checkpoints/erase.*.safetensors"))):
        assert time.monotonic() < until, "the stage was not started"
        time.sleep(0.2)
    return run_id, found[0].parents[2]


def versions(project):
    """All registered versions, read from the store itself."""
    return mlflow.MlflowClient(f"sqlite:///{project.root / 'mlflow.db'}").search_model_versions()
