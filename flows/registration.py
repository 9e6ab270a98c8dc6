"""What the Prefect server has to know: work pool, limit, automation, deployments. Imports Prefect: imported late."""

from __future__ import annotations

import subprocess
import sys
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path

from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import StateType, WorkerStatus
from prefect.events import ResourceSpecification
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.exceptions import ObjectAlreadyExists

from flows.deployed import ACCELERATOR
from stages.errors import ServerFailed

WORK_POOL = "erasediff"
CRASHED = "A flow run without a sign of life has crashed"
#: Seconds without a heartbeat after which a run is Crashed. A job beats every 30: one may be lost.
SILENCE = 75


def register(log: Path, jobs: int) -> None:
    """Make or renew all of it.

    Args:
        log: what ``prefect deploy`` says.
        jobs: how many may compute at once.

    Raises: ServerFailed: a deployment of prefect.yaml cannot be registered.
    """
    with get_client(sync_client=True) as client:
        with suppress(ObjectAlreadyExists):
            client.create_work_pool(WorkPoolCreate(name=WORK_POOL, type="process"))
        client.upsert_global_concurrency_limit_by_name(ACCELERATOR, jobs)
        there = client.read_automations_by_name(CRASHED)
        if there:
            client.update_automation(there[0].id, silent_runs_crash())
        else:
            client.create_automation(silent_runs_crash())
    with open(log, "wb") as file:
        command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"]
        done = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        raise ServerFailed(f"the deployments of prefect.yaml are not registered: see {log}")


def silent_runs_crash() -> AutomationCore:
    """The automation that marks the run of a killed process: nobody else could."""
    return AutomationCore(
        name=CRASHED,
        trigger=EventTrigger(
            after={"prefect.flow-run.heartbeat"},
            expect={"prefect.flow-run.*"},  # the next heartbeat or the end, which bears the name of its failure
            match=ResourceSpecification({"prefect.resource.id": "prefect.flow-run.*"}),
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=SILENCE),
        ),
        actions=[
            ChangeFlowRunState(
                state=StateType.CRASHED, message=f"No sign of life for {SILENCE} s: its process was killed, or its host"
            )
        ],
    )


def worker_is_online(name: str, since: datetime) -> bool:
    """Whether a worker of the pool has reported since then."""
    with get_client(sync_client=True) as client:
        workers = client.read_workers_for_work_pool(WORK_POOL)
    return any(
        w.name == name and w.status == WorkerStatus.ONLINE and w.last_heartbeat_time and w.last_heartbeat_time >= since
        for w in workers
    )
