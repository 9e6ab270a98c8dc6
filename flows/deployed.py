"""The flows that a worker runs for ``prefect.yaml``; each works on the checkout that it was deployed from."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.concurrency.sync import concurrency
from prefect.states import Completed
from prefect.task_runners import ThreadPoolTaskRunner
from pydantic import BaseModel, ConfigDict, Field

from flows import champion, pipeline
from flows.tasks import failed, stages_to_aliases
from stages.errors import EraseDiffError
from stages.params import Method, Positive, Seed

#: Global concurrency limit of the jobs that compute; made by ``flows.servers up``.
ACCELERATOR = "accelerator"
#: Seconds after which a killed job's slot is free again.
LEASE = 60


class EraseRequest(BaseModel):
    """What to forget, and how. What is left empty is as in params.yaml of the commit."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    concepts: list[str] | None = Field(default=None, min_length=1, description="What to forget: concepts of the data")
    method: Method | None = Field(default=None, description="How to forget: an entry of erase.method")
    eta: Positive | None = Field(default=None, description="Required rate at which the forget loss shrinks")
    seed: Seed | None = Field(default=None, description="Seed of training and drawing")
    model_name: str | None = Field(default=None, description="Registered model that gets the version")
    settings: dict[str, Any] = Field(
        default={}, description='Other entries of params.yaml by their full name, such as {"erase.outer_steps": 300}'
    )
    commit: str = Field(default="HEAD", description="Commit of the checkout to run")

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


@flow(name="erase", task_runner=ThreadPoolTaskRunner(max_workers=2))
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
                return stages_to_aliases(keep)
    except EraseDiffError as error:
        return failed(error)


@flow(name="recheck")
def recheck_flow(model_name: str | None = None, withdraw: bool = False) -> Any:
    """Measure the champion again, once no other job computes; a failed gate is an alert.

    Args:
        model_name: registered model; register.model_name of params.yaml by default.
        withdraw: take the alias from a champion that fails.
    """
    with computing():
        return champion.recheck_flow.fn(model_name, withdraw)
