"""A run as the MLflow server has it: made, or gone on with, by the first call that gets through."""

from __future__ import annotations

import os
import socket
import sys
from typing import TYPE_CHECKING

from erasediff.checkout import git_state, process_start, project_root, user_name
from erasediff.environment import environment
from erasediff.tracking import outbox, server
from erasediff.tracking.calls import KEY_TAG, About, Call, made_run, send
from erasediff.tracking.server import EXPERIMENT, short_reason

if TYPE_CHECKING:
    from mlflow import MlflowClient


class RemoteRun:
    """A run on the server.

    Attributes:
        about: what it is made from.
        key: by which it is found, whenever it is made.
        run_id: ``None`` before :meth:`send` was called with a call of kind ``run`` and got through.
        experiment_id: likewise.
        logged_until: the last step that a run which is gone on with has already.
    """

    def __init__(self, about: About):
        self.about, self.key = about, about["key"]
        self.run_id: str | None = None
        self.experiment_id: str | None = None
        self.logged_until = 0
        self._client: MlflowClient | None = None

    def send(self, call: Call) -> None:
        """Make a call. Raises: whatever MLflow's client does, where the server cannot be used or refuses."""
        if call.kind == "run":
            self._open()
            return
        if call.kind == "link":
            deliver_earlier()  # the stage's run may be waiting
        assert self._client is not None and self.run_id is not None  # "run" came first
        send(self._client, self.run_id, call)

    def _open(self) -> None:
        self._client = server.client()
        experiment = self._client.get_experiment_by_name(EXPERIMENT)
        server.require_active(experiment)
        close_abandoned(self._client, experiment.experiment_id)
        self.run_id, self.experiment_id = made_run(self._client, self.about), experiment.experiment_id
        if self.run_id == self.about["continues"]:
            self._reopen(self._client)
        deliver_earlier()

    def _reopen(self, client: MlflowClient) -> None:
        """Go on with a run, whose steps are not logged twice."""
        run = client.get_run(self.run_id)
        self.key = run.data.tags.get(KEY_TAG, self.key)
        client.update_run(self.run_id, status="RUNNING")
        for key in ("host", "pid", "process_start"):
            client.set_tag(self.run_id, key, self.about["tags"][key])
        for name in run.data.metrics:
            steps = [m.step for m in client.get_metric_history(self.run_id, name)]
            self.logged_until = max([self.logged_until, *steps])


def run_tags(name: str, key: str) -> dict[str, str]:
    """Tags of a new run: the process, the checkout, the commit, and the threads, which may change the last digits."""
    given = environment()
    tags = {
        KEY_TAG: key,
        "stage": name,
        "mlflow.runName": name,
        "mlflow.user": user_name(),
        "mlflow.source.name": _command(name),
        "mlflow.source.type": "LOCAL",
        "host": socket.gethostname(),
        "pid": str(os.getpid()),
        "process_start": process_start(os.getpid()) or "unknown",
        "root": str(project_root()),
        "omp_num_threads": given.omp_num_threads or "not set",
        "cpus": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
        **git_state(),
    }
    tags["mlflow.source.git.commit"] = tags["git_commit"]
    if given.erasediff_parent_run_id:
        tags["mlflow.parentRunId"] = given.erasediff_parent_run_id
    if given.dvc_exp_name:
        tags["dvc_exp_name"] = given.dvc_exp_name
    return tags


def _command(name: str) -> str:
    """What makes a run: ``evaluate-base`` is one of the stage ``evaluate``, ``erase-flow`` that of a flow."""
    first, _, rest = name.partition("-")
    return f"python -m {'flows' if rest == 'flow' else 'stages'}.{first}"


def close_abandoned(client: MlflowClient, experiment_id: str) -> None:
    """Runs of this checkout that a killed process of this host left RUNNING are KILLED."""
    here = (socket.gethostname(), str(project_root()))
    for run in client.search_runs([experiment_id], "attributes.status = 'RUNNING'", max_results=1000):
        tags = run.data.tags
        if (tags.get("host"), tags.get("root")) != here:
            continue
        if process_start(int(tags.get("pid", "0"))) != tags.get("process_start"):
            client.set_terminated(run.info.run_id, "KILLED")


def deliver_earlier() -> None:
    """Send what earlier runs left; where that fails, say so and go on."""
    try:
        outbox.deliver()
    except Exception as error:  # MLflow raises whatever its store's driver does
        print(f"warning: earlier runs still wait in {outbox.box()}: {short_reason(error)}", file=sys.stderr)
