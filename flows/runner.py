"""Where tasks run: threads of this process, or a Ray cluster. Imports Prefect: commands import this late."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from prefect.task_runners import ThreadPoolTaskRunner

from erasediff.errors import ServerFailed

#: Ray's own: the cluster to spread tasks over, an address or ``local``.
RAY = "RAY_ADDRESS"
#: How often a task is begun again whose Ray worker died.
RETRIES = 3


def task_runner(jobs: int) -> Any:
    """Ray's workers where ``RAY_ADDRESS`` names a cluster, so many threads of this process otherwise.

    Raises: ServerFailed: Ray is not installed.
    """
    if RAY not in os.environ:
        return ThreadPoolTaskRunner(max_workers=jobs)
    try:
        from prefect_ray import RayTaskRunner
    except ModuleNotFoundError:
        raise ServerFailed(f"{RAY} is set, but prefect-ray is not installed: take the extra ray, or unset it") from None
    return RayTaskRunner(address=os.environ[RAY])


def resources(threads: int) -> AbstractContextManager[Any]:
    """What a task takes of a Ray cluster: its threads, and a GPU where there are any."""
    if RAY not in os.environ:
        return nullcontext()
    import ray
    from prefect_ray.context import remote_options

    gpus = int(ray.cluster_resources().get("GPU", 0) > 0)
    return remote_options(num_cpus=threads, num_gpus=gpus, max_retries=RETRIES)
