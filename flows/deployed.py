"""The flows that a worker runs for ``prefect.yaml``; each works on the checkout that it was deployed from."""

from __future__ import annotations

from typing import Any

from prefect import flow, get_run_logger
from prefect.concurrency.sync import concurrency
from prefect.states import Completed
from prefect.task_runners import ThreadPoolTaskRunner
from pydantic import BaseModel, ConfigDict, Field

from erasediff.errors import CheckoutBusy, EraseDiffError
from flows import champion, compare_tasks, pipeline
from flows.compare import LOCK
from flows.runner import task_runner
from flows.tasks import failed, stages_to_aliases
from stages.params import Method, Positive, Seed

#: Global concurrency limit of the jobs that compute; made by ``flows.servers up``.
ACCELERATOR = "accelerator"
#: Stages whose results a recheck measures with: of the commit, from DVC's cache where they were made before.
JUDGE = ("curate", "classifier")
#: Seconds after which a killed job's slot is free again.
LEASE = 60


class EraseRequest(BaseModel):
    """What to forget, and how. What is left at None is as in params.yaml of the commit."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    concepts: list[str] | None = Field(default=None, min_length=1, description='What to forget, such as ["8"]')
    method: Method | None = Field(default=None, description="How to forget; README says what they are")
    eta: Positive | None = Field(default=None, description="Required rate at which the forget loss shrinks")
    seed: Seed | None = Field(default=None, description="Seed of training and drawing")
    model_name: str | None = Field(default=None, description="Registered model that gets the version")
    settings: dict[str, Any] = Field(
        default={}, description='Other entries of params.yaml by their full name, such as {"erase.outer_steps": 300}'
    )
    commit: str = Field(default="HEAD", description="Commit, branch or tag of the checkout to run")

    def changes(self) -> dict[str, Any]:
        """Entries of params.yaml that differ from the commit's."""
        named = {
            "forget_set.concepts": self.concepts,
            "erase.method": self.method,
            "erase.eta": self.eta,
            "seed": self.seed,
            "register.model_name": self.model_name,
        }
        return {**self.settings, **{key: value for key, value in named.items() if value is not None}}


def computing() -> Any:
    """Wait for one of the places of jobs that compute, and hold it."""
    return concurrency(ACCELERATOR, strict=True, lease_duration=LEASE)


def _request_name() -> str:
    """Of a run, in Prefect's lists."""
    from prefect.runtime import flow_run

    changes = EraseRequest.model_validate(flow_run.parameters.get("request") or {}).changes()
    what = ", ".join(map(str, changes.pop("forget_set.concepts", None) or ["as in params.yaml"]))
    return f"forget {what}{''.join(f', {key} {value}' for key, value in changes.items())}"[:80]


@flow(name="erase", flow_run_name=_request_name, task_runner=ThreadPoolTaskRunner(max_workers=2))
def erase_flow(request: EraseRequest = EraseRequest()) -> Any:  # noqa: B008  (frozen into the deployment's schema)
    """Request to forget → verified, registered model with aliases, made in a git worktree of its own."""
    from flows.erase import is_registered
    from flows.worktree import record, worktree

    def keep(model: str, version: str) -> str:
        commit = record(model, version, earlier)
        if pipeline.remote():
            pipeline.push()  # before an alias moves: a champion's weights are not on this disk alone
        return commit

    try:
        with worktree(request.changes(), request.commit) as earlier:
            if pipeline.outs_only_missing() and pipeline.fetch_outs(pipeline.REGISTERED) and is_registered():
                return Completed(message="nothing to do: everything is up to date")
            with computing():
                held = stages_to_aliases(keep)
                return Completed(message="gates passed; " + ", ".join(f"{a} is version {v}" for a, v in held.items()))
    except EraseDiffError as error:
        return failed(error)


@flow(name="recheck", flow_run_name="champion")
def recheck_flow(model_name: str | None = None, withdraw: bool = False) -> Any:
    """Measure the champion again in a git worktree, once no other job computes; a failed gate is an alert.

    Args:
        model_name: Registered model. None: register.model_name of params.yaml.
        withdraw: Take the alias from a champion that fails. There is no champion then until one is promoted.
    """
    from flows.worktree import worktree

    def judge() -> None:
        for stage in JUDGE:
            pipeline.run_stage(stage, get_run_logger().info, {})

    try:
        with computing(), worktree({}):
            return champion.rechecked(model_name, withdraw, judge)
    except EraseDiffError as error:
        return failed(error)
    except BaseException:
        pipeline.end_children()  # cancelled: DVC would go on
        raise


@flow(name="compare", flow_run_name="{file}", task_runner=task_runner(1))
def compare_flow(file: str = "comparisons/methods.yaml", threads: int = 1) -> Any:
    """Compare methods, cell by cell as DVC experiments, once no other job computes. Moves no alias.

    Args:
        file: What to compare: a path in the checkout.
        threads: Processor threads of each cell. Another number may change the last digits.
    """
    try:
        with pipeline.only_run(LOCK), computing():
            return compare_tasks.compare_flow.fn(file, threads)
    except CheckoutBusy as error:
        return failed(error)
    except BaseException:
        pipeline.end_children()  # cancelled: DVC would go on
        raise
