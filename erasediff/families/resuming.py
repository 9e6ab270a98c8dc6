"""Drawing that goes on where it was killed: each batch is kept until all of them are drawn."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import diffusers
import torch
from safetensors.torch import load_file
from safetensors.torch import save as serialised
from torch import Tensor

from erasediff.artifacts import sha256_file, sha256_text, write_bytes
from erasediff.families.family import Family


def resumable(family: Family, folder: Path, model: str) -> Family:
    """The same family, whose ``sample`` keeps what it draws: the same batch, asked for again, is read.

    What is kept is float32, to the bit what was drawn: a picture of 512×512 takes 3 MB until the folder is removed.

    Args:
        folder: outside of DVC's outs, which a stage that runs again deletes.
        model: a digest of its files.
    """
    draw, device = family.sample, next(family.denoiser.parameters()).device
    code = [sha256_file(path) for path in sorted(Path(__file__).parent.glob("*.py"))]
    made_by = (model, code, torch.__version__, diffusers.__version__, str(device))

    def sample(prompts: Sequence[str], seeds: Sequence[int], **how: object) -> Tensor:
        asked = (made_by, family.image_shape, list(prompts), list(seeds), sorted(how.items()))
        file = folder / f"{sha256_text(repr(asked))}.safetensors"
        if not file.exists():
            write_bytes(file, serialised({"images": draw(prompts, seeds, **how).contiguous()}))  # type: ignore[arg-type]
        return load_file(file)["images"]

    resumed = copy.copy(family)
    vars(resumed)["sample"] = sample
    return resumed
