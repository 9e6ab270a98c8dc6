"""How flows end, on a real Prefect server: a stated failure is a state of its name, and no traceback."""

import json
import logging
import re
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.events.filters import EventFilter, EventNameFilter, EventOccurredFilter
from prefect.exceptions import CancelledRun, FailedRun
from prefect.flow_engine import run_flow
from prefect.server.events.schemas.automations import EventTrigger
from prefect.server.events.schemas.events import ReceivedEvent
from prefect.states import Completed, State
from prefect.testing.utilities import prefect_test_harness

from erasediff import errors
from erasediff.errors import ApprovalTimeout, CannotWrite, OutOfMemory, PromotionRefused
from flows.jobs.erase import erase_flow
from flows.jobs.promotion import promote_flow
from flows.jobs.states import cancelled, failures_as_states, finished, require_success

OPERATIONS = Path(__file__).parents[2] / "docs/operations.md"
STAGES = """
stages:
  fails:
    cmd: "echo 'WARNING: old cache'; echo '{said}' >&2; echo 'WARNING: older' >&2; exit 1"
    outs: [a]
  waits:
    cmd: "true"
    deps: [a]
"""


@pytest.fixture(scope="module")
def prefect_server():
    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A checkout of stages of our own, with an MLflow store of its own."""
    monkeypatch.chdir(tmp_path)
    for name in ("MLFLOW_TRACKING_URI", "ERASEDIFF_ROOT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q", "--no-scm"], check=True)
    shutil.copy(OPERATIONS.parents[1] / "params.yaml", tmp_path)
    return tmp_path


def told(name):
    """The event of a state's name, as the server has it, once it has."""
    hour = EventOccurredFilter(since=datetime.now(UTC) - timedelta(hours=1))
    wanted = EventFilter(event=EventNameFilter(name=[f"prefect.flow-run.{name}"]), occurred=hour).model_dump(
        mode="json"
    )
    until = time.monotonic() + 60
    with get_client(sync_client=True) as client:
        while not (found := client._client.post("/events/filter", json={"filter": wanted}).json()["events"]):
            assert time.monotonic() < until, f"no event of {name}"
            time.sleep(0.5)
    return ReceivedEvent.model_validate(found[0])


def log_of(state, until):
    """What the server keeps of a run's log, its tasks' too, once it has a line; Prefect sends it from time to time."""
    run_id, last = str(state.state_details.flow_run_id), time.monotonic() + 60
    with get_client(sync_client=True) as client:
        wanted = {"logs": {"flow_run_id": {"any_": [run_id]}}}
        while True:
            log = "\n".join(line["message"] for line in client._client.post("/logs/filter", json=wanted).json())
            if until in log or time.monotonic() > last:
                return log
            time.sleep(0.2)


@pytest.mark.pipeline
@pytest.mark.parametrize(
    "said, name",
    [
        ("ClassifierTooWeak: it reads 0.4 of the pictures", "ClassifierTooWeak"),
        ("OutOfMemory: erase ran out of memory (x): lower the batch size", "OutOfMemory"),
        ("ZeroDivisionError: division by zero", "StageFailed"),
    ],
)
def test_a_stages_failure_is_the_state_of_its_flow(prefect_server, folder, said, name):
    (folder / "dvc.yaml").write_text(STAGES.format(said=said))
    state = erase_flow(return_state=True)
    reason = said if name == "StageFailed" else said.partition(": ")[2]
    assert (state.type.value, state.name) == ("FAILED", name)
    assert state.message == f"stage fails failed: {reason}"
    (trigger,) = re.findall(r"```json\n(.*?)```", OPERATIONS.read_text(), re.S)  # what an operator is told to wait for
    assert EventTrigger.model_validate(json.loads(trigger)).covers(told(name)) == (name == "OutOfMemory")
    log = log_of(state, said)
    assert said in log and "Traceback" not in log and "exception" not in log.lower()


@pytest.mark.pipeline
@pytest.mark.parametrize("lock", [b"<<<<<<< HEAD\nschema: '2.0'\n=======\n", b"\xff\x00", b"[]", b"stages: 3"])
def test_a_lock_that_cannot_be_read_is_told_at_once_and_to_the_server(prefect_server, folder, lock):
    (folder / "dvc.yaml").write_text(STAGES.format(said="x"))
    (folder / "dvc.lock").write_bytes(lock)
    state = erase_flow(return_state=True)
    assert (state.type.value, state.name) == ("FAILED", "StageFailed")
    assert "dvc.lock" in state.message and len(state.message) < 400 and "mend dvc.yaml" not in state.message
    with get_client(sync_client=True) as client:  # which still runs
        run = client.read_flow_run(state.state_details.flow_run_id)
        assert run.state.name == "StageFailed" and "8" in run.tags


@pytest.mark.pipeline
def test_a_promotion_is_shown_step_by_step_and_its_failure_is_that_of_a_step(prefect_server, folder):
    state = promote_flow("request 17", version="3", return_state=True)
    assert (state.type.value, state.name) == ("FAILED", "ModelError")
    assert state.message.startswith("the registry has no model 'erasediff-digits'")
    with get_client(sync_client=True) as client:
        only = FlowRunFilter(id=FlowRunFilterId(any_=[state.state_details.flow_run_id]))
        (step,) = client.read_task_runs(flow_run_filter=only)
    assert (step.name, step.state.name, step.state.message) == ("find the version", "ModelError", state.message)
    assert "Traceback" not in log_of(state, "ModelError")


@pytest.mark.unit
def test_every_failure_has_its_line_in_the_table_of_alerts():
    table = re.findall(r"^\| ([^|]+) \|", OPERATIONS.read_text().partition("## Alerts")[2], re.M)
    named = {name for cell in table for name in re.findall(r"\b[A-Z][a-z]+(?:[A-Z][a-z]+)+\b", cell)}
    kinds = {
        name
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, errors.EraseDiffError)
    }
    # A server's start is no run of a flow; the base class is never raised.
    assert named - {"AwaitingConcurrencySlot"} == kinds - {"EraseDiffError", "ServerFailed"}


@flow
@failures_as_states
def ends(error: str) -> State:
    if error == "disk":
        raise OSError(28, "No space left on device")
    if error == "memory":
        raise MemoryError
    if error == "time":
        raise ApprovalTimeout("nobody decided")
    if error == "refused":
        return cancelled(PromotionRefused("no"))
    if error == "unforeseen":
        raise ZeroDivisionError("a fault of ours")
    return Completed(message="well")


@pytest.mark.unit
@pytest.mark.parametrize(
    "error, raised, told", [("time", FailedRun, 0), ("refused", CancelledRun, 0), ("unforeseen", ZeroDivisionError, 1)]
)
def test_a_workers_log_has_a_traceback_of_what_nobody_foresaw_alone(prefect_server, error, raised, told):
    logger, heard = logging.getLogger("prefect.flow_runs"), []
    handler = logging.Handler()
    handler.emit = heard.append
    logger.addHandler(handler)
    try:
        with pytest.raises(raised):
            run_flow(ends, parameters={"error": error}, error_logger=logger)  # as Prefect's engine does
    finally:
        logger.removeHandler(handler)
    assert sum("unexpected exception" in record.getMessage() for record in heard) == told


@pytest.mark.unit
def test_a_state_is_the_failure_again(prefect_server):
    assert finished(ends("nothing", return_state=True)) == "well"
    wanted = {"disk": CannotWrite, "memory": OutOfMemory, "time": ApprovalTimeout, "refused": PromotionRefused}
    for error, kind in wanted.items():
        state = ends(error, return_state=True)
        assert state.name == kind.__name__
        with pytest.raises(kind):
            require_success(state)
    with pytest.raises(ZeroDivisionError):
        require_success(ends("unforeseen", return_state=True))
