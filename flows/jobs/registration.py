"""Tell the Prefect server of the work pool, the concurrency limit, the automations and the deployments."""

from __future__ import annotations

import subprocess
import sys
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path

from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import StateType, WorkerStatus
from prefect.events import ResourceSpecification
from prefect.events.actions import ChangeFlowRunState, SendNotification
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.exceptions import ObjectAlreadyExists

from erasediff.environment import environment
from erasediff.errors import ServerFailed
from flows.jobs.runner import ACCELERATOR
from flows.tools.names import WORK_POOL

CRASHED = "A flow run without a sign of life has crashed"
TOLD = "A flow run that failed is told"
#: The block that keeps the address encrypted where it is told.
ALERT = "erasediff-alert"
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
        _renew(client, silent_runs_crash())
        if address := environment().erasediff_alert_url:
            _renew(client, failed_runs_are_told(address))
    with open(log, "wb") as file:
        command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"]
        done = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        raise ServerFailed(f"the deployments of prefect.yaml are not registered: see {log}")


def _renew(client: SyncPrefectClient, automation: AutomationCore) -> None:
    there = client.read_automations_by_name(automation.name)
    if not there:
        client.create_automation(automation)
    elif _meaning(there[0]) != _meaning(automation):  # an update forgets the runs that it was about to find silent
        client.update_automation(there[0].id, automation)


def _meaning(automation: AutomationCore) -> tuple[dict[str, object], list[object]]:
    return automation.trigger.model_dump(mode="json", exclude={"id"}), list(automation.actions)


def failed_runs_are_told(address: str) -> AutomationCore:
    """Return the automation that posts ``{"text": …}`` to an address for each run that failed or crashed.

    Prefect's template "flow run enters Failed" would see none of them: it goes by the state's name, which is here that
    of the failure.
    """
    block = CustomWebhookNotificationBlock(
        name=ALERT, url="{{address}}", json_data={"text": "{{subject}}\n{{body}}"}, secrets={"address": address}
    )
    number = block.save(ALERT, overwrite=True, _sync=True)
    return AutomationCore(
        name=TOLD,
        trigger=EventTrigger(
            expect={"prefect.flow-run.*"},
            match=ResourceSpecification(
                {"prefect.resource.id": "prefect.flow-run.*", "prefect.state-type": ["FAILED", "CRASHED"]}
            ),
            posture=Posture.Reactive,
            threshold=1,
        ),
        actions=[
            SendNotification(
                block_document_id=number,
                subject="{{ flow.name }}, {{ flow_run.name }}: {{ flow_run.state.name }}",
                body="{{ flow_run.state.message }}\n{{ flow_run|ui_url }}",
            )
        ],
    )


def silent_runs_crash() -> AutomationCore:
    """Return the automation that marks the run of a killed process: nobody else could."""
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
    """Return True if a worker of the pool has reported since then."""
    with get_client(sync_client=True) as client:
        workers = client.read_workers_for_work_pool(WORK_POOL)
    return any(
        w.name == name and w.status == WorkerStatus.ONLINE and w.last_heartbeat_time and w.last_heartbeat_time >= since
        for w in workers
    )
