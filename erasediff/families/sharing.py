"""Drawing that is spread over the processes of a launch; what is drawn does not depend on their number."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from erasediff.families.family import Family


def shared_drawing(family: Family, accelerator: Accelerator) -> Family:
    """The same family, whose ``sample`` gives each process every n-th batch to draw, and all of them all pictures.

    Every process has to ask for the same. The batches are those that one process would draw, so that not a bit differs.
    """
    if accelerator.num_processes == 1:
        return family
    draw = family.sample
    usual = getattr(family, "at_once", None) or inspect.signature(type(family).sample).parameters["batch_size"].default

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
