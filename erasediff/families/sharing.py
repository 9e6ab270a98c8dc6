"""Drawing that is spread over the processes of a launch, or over Ray; what is drawn does not depend on their number."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from erasediff.families.family import Family
from erasediff.families.ray_drawing import join, ray_drawing

T = TypeVar("T")
R = TypeVar("R")


class Places:
    """Where batches are drawn: in this process, in those of its launch, or by the workers of a Ray cluster.

    Attributes:
        number: how many are drawn at once.

    Args:
        cluster: of Ray; a launch of several processes draws in these, and leaves Ray alone.

    Raises: ServerFailed: there is no such cluster.
    """

    def __init__(self, accelerator: Accelerator | None = None, cluster: str | None = None):
        self._accelerator, processes = accelerator, 1 if accelerator is None else accelerator.num_processes
        self._by_ray = cluster is not None and processes == 1
        self.number = join(cluster) if cluster is not None and self._by_ray else processes

    def drawing(self, family: Family, kept: Callable[[Family], Family] = lambda family: family) -> Family:
        """The same family, which draws there.

        Args:
            kept: makes of a family one that keeps each batch that it is asked for, or reads it.
        """
        if self._by_ray:
            return at_once(kept(ray_drawing(family)), self.number)
        return kept(family) if self._accelerator is None else shared_drawing(kept(family), self._accelerator)


def at_once(family: Family, number: int) -> Family:
    """The same family, whose ``sample`` draws so many batches at once, in threads: of one that draws elsewhere."""
    draw, usual = family.sample, _batch_size(family)

    def sample(prompts: Sequence[str], seeds: Sequence[int], *, batch_size: int = usual, **how: object) -> Tensor:
        batches = [slice(first, first + batch_size) for first in range(0, len(prompts), batch_size)]

        def drawn(these: slice) -> Tensor:
            return draw(prompts[these], seeds[these], batch_size=batch_size, **how)  # type: ignore[arg-type]

        return torch.cat([images for _, images in each_at_once(drawn, batches, number)])

    spread = copy.copy(family)
    vars(spread)["sample"] = sample
    return spread


def each_at_once(work: Callable[[T], R], parts: Sequence[T], number: int) -> Iterator[tuple[T, R]]:
    """Each part with what the work on it gives, in their order; so many are worked on at once, in threads."""
    with ThreadPoolExecutor(number) as threads:
        for first in range(0, len(parts), number):
            some = parts[first : first + number]
            yield from zip(some, threads.map(work, some) if number > 1 else map(work, some), strict=True)


def shared_drawing(family: Family, accelerator: Accelerator) -> Family:
    """The same family, whose ``sample`` gives each process every n-th batch to draw, and all of them all pictures.

    Every process has to ask for the same. The batches are those that one process would draw, so that not a bit differs.
    """
    if accelerator.num_processes == 1:
        return family
    draw, usual = family.sample, _batch_size(family)

    def sample(prompts: Sequence[str], seeds: Sequence[int], *, batch_size: int = usual, **how: object) -> Tensor:
        firsts = range(0, len(prompts), batch_size)
        own = {}
        for first in firsts[accelerator.process_index :: accelerator.num_processes]:
            these = slice(first, first + batch_size)
            own[first] = draw(prompts[these], seeds[these], batch_size=batch_size, **how)  # type: ignore[arg-type]
        parts = {first: images for part in gather_object([own]) for first, images in part.items()}
        return torch.cat([parts[first] for first in firsts])

    shared = copy.copy(family)
    vars(shared)["sample"] = sample
    return shared


def _batch_size(family: Family) -> int:
    """How many pictures a family draws at once where nobody says."""
    usual = inspect.signature(type(family).sample).parameters["batch_size"].default
    return int(getattr(family, "at_once", None) or usual)
