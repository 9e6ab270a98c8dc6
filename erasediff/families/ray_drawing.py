"""Drawing by the workers of a Ray cluster, each of which is sent the model once."""

from __future__ import annotations

import copy
import logging
import socket
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from erasediff.device import device
from erasediff.errors import ServerFailed
from erasediff.families.family import Family


def join(cluster: str) -> int:
    """Join a Ray cluster, and return how many batches its workers draw at once: one a GPU, where there are any.

    Args:
        cluster: its address, or ``local`` for one of this machine, which ends with this process.

    Raises: ServerFailed: Ray is not installed, or there is no such cluster.
    """
    try:
        import ray
    except ModuleNotFoundError:
        what = f"a Ray cluster, {cluster}, is named, but ray is not installed"
        raise ServerFailed(f"{what}: take the extra ray, or name none") from None
    if not ray.is_initialized():
        try:
            _require_answer(cluster)
            ray.init(address=cluster, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        except (OSError, RuntimeError, ValueError) as error:
            raise ServerFailed(f"there is no Ray cluster at {cluster} ({error}): start it, or name none") from None
    held, each = ray.cluster_resources(), _taken()
    return max(1, int(held.get("GPU", 0) or held.get("CPU", 1) // each["num_cpus"]))


def _require_answer(cluster: str) -> None:
    """Raises: OSError: nobody listens at an address; Ray itself would try for minutes."""
    host, colon, port = cluster.rpartition("://")[2].rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


def _taken() -> dict[str, float]:
    """What a batch takes of the cluster: no more processors than one node has, or Ray would wait for ever."""
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    most = max(node.get("CPU", 1) for node in nodes)
    return {"num_cpus": min(torch.get_num_threads(), most), "num_gpus": int(any(node.get("GPU") for node in nodes))}


def ray_drawing(family: Family) -> Family:
    """The same family, each call of whose ``sample`` is drawn by a worker of the cluster that was joined.

    A worker computes with as many threads as this process, so that not a bit differs. Where one dies, another draws.
    """
    import ray

    networks, home = (family.pipeline, family.denoiser), next(family.denoiser.parameters()).device
    for network in networks:
        network.to("cpu")
    held = [ray.put(family)]  # in a list: Ray would open it for each task anew
    for network in networks:
        network.to(home)
    task: Any = ray.remote(_draw)
    draw = task.options(**_taken())

    def sample(prompts: Sequence[str], seeds: Sequence[int], **how: object) -> Tensor:
        images: Tensor = ray.get(draw.remote(held, torch.get_num_threads(), list(prompts), list(seeds), how))
        return images

    remote = copy.copy(family)
    vars(remote)["sample"] = sample
    return remote


def _draw(held: list[Any], threads: int, prompts: list[str], seeds: list[int], how: Mapping[str, Any]) -> Tensor:
    torch.set_num_threads(threads)
    return _opened(held[0]).sample(prompts, seeds, **how)


@lru_cache(maxsize=2)  # base and erased
def _opened(held: Any) -> Family:
    import ray

    family: Family = ray.get(held)
    for network in (family.pipeline, family.denoiser):
        network.to(device())
    return family
