"""The places of work: threads of this process or a Ray cluster for tasks, one of a few for a deployed job."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from prefect.concurrency.sync import concurrency
from prefect.runtime import deployment
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from erasediff.environment import environment
from erasediff.errors import ServerFailed
from flows.tools.names import RAY

#: How often a task is begun again whose Ray worker died.
RETRIES = 3
#: Global concurrency limit of the deployed jobs that compute; ``flows.servers up`` makes it.
ACCELERATOR = "accelerator"
#: Seconds after which a killed job's place is free again.
LEASE = 60


def is_deployed() -> bool:
    """Return True in a run that a worker started from a deployment."""
    return bool(deployment.id)


def computing() -> AbstractContextManager[None]:
    """Wait for one of the places of deployed jobs that compute, and hold it. A run by hand needs none."""
    if not is_deployed():
        return nullcontext()
    place: AbstractContextManager[None] = concurrency(ACCELERATOR, strict=True, lease_duration=LEASE)
    return place


def task_runner(jobs: int) -> TaskRunner:
    """Return Ray's workers where ``RAY_ADDRESS`` names a cluster, else so many threads of this process.

    Raises: ServerFailed: Ray is not installed.
    """
    if (cluster := environment().ray_address) is None:
        return ThreadPoolTaskRunner(max_workers=jobs)
    try:
        from prefect_ray import RayTaskRunner
    except ModuleNotFoundError:
        raise ServerFailed(f"{RAY} is set, but prefect-ray is not installed: take the extra ray, or unset it") from None
    return RayTaskRunner(address=cluster)


def resources(threads: int) -> AbstractContextManager[None]:
    """Ask a Ray cluster for what a task takes: its threads, and a GPU where there are any."""
    if environment().ray_address is None:
        return nullcontext()
    import ray
    from prefect_ray.context import remote_options

    gpus = int(ray.cluster_resources().get("GPU", 0) > 0)
    asked: AbstractContextManager[None] = remote_options(num_cpus=threads, num_gpus=gpus, max_retries=RETRIES)
    return asked
