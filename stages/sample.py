"""Draw pictures from any model folder or registry version."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

COLUMNS, TILE = 8, 64


def main(model: str, concept: str, n: int, out: str, seed: int, steps: int, guidance_scale: float) -> None:
    """Draw ``n`` pictures of a concept, seeds ``seed`` to ``seed + n - 1``.

    Args:
        out: a PNG for all of them, eight a row; or a folder, which ends in ``/``, for a file ``SEED.png`` each.

    Raises: UnknownConcept, ModelError, IntegrityError, TrackingError; DataError: ``out`` cannot be written.
    """
    from stages.artifacts import write_bytes
    from stages.data.images import encode_png
    from stages.diffusion import family_of
    from stages.errors import DataError
    from stages.loading import device
    from stages.registry import load_pipeline

    family = family_of(load_pipeline(model).to(device()))
    seeds = list(range(seed, seed + n))
    images = family.sample([concept] * n, seeds, steps=steps, guidance_scale=guidance_scale)
    if out.endswith("/"):
        files = {f"{out}{number}.png": encode_png(image) for number, image in zip(seeds, images, strict=True)}
    else:
        files = {out: _grid(images, concept, f"seeds {seed} to {seed + n - 1}")}
    try:
        for path, content in files.items():
            write_bytes(Path(path), content)
    except OSError as error:
        raise DataError(f"{out} cannot be written ({error.strerror}): give a PNG file, or FOLDER/, of yours") from None
    print(out)


def _grid(images: Tensor, concept: str, title: str) -> bytes:
    import torch

    from stages.evaluation.report import grid_png

    n = len(images)
    columns = min(n, COLUMNS)
    rows = -(-n // columns)
    blank = torch.ones(rows * columns - n, *images.shape[1:])
    grid = torch.cat([images, blank]).view(rows, columns, *images.shape[1:])
    side = max(images.shape[2:])
    # grid_png enlarges by whole factors and rounds down: ask for the next multiple, so that a tile is TILE at least.
    tile = side * -(-TILE // side)
    return grid_png(grid, [concept] * rows, title, tile=tile)


def _run() -> None:
    parser = argparse.ArgumentParser(prog="python -m stages.sample", description=__doc__)
    parser.add_argument("--model", required=True, help="diffusers folder, models:/NAME@ALIAS or models:/NAME/VERSION")
    parser.add_argument("--concept", required=True)
    parser.add_argument("--n", type=_at_least(1), default=16, help="pictures (default 16)")
    parser.add_argument("--out", required=True, help="PNG to write, or FOLDER/ for a file each")
    parser.add_argument("--seed", type=_at_least(0), default=0, help="of the first picture (default 0)")
    parser.add_argument("--steps", type=_at_least(1), default=25, help="sampling steps (default 25)")
    parser.add_argument("--guidance-scale", type=float, default=1.0, help="1: no guidance (default)")
    arguments = parser.parse_args()
    from stages.door import fail, is_out_of_memory, quiet_environment
    from stages.errors import EraseDiffError, OutOfMemory

    quiet_environment()
    try:
        main(**vars(arguments))
    except EraseDiffError as error:
        sys.exit(fail(error))
    except KeyboardInterrupt:
        print("sample: interrupted; nothing was written", file=sys.stderr)
        sys.exit(130)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        sys.exit(fail(OutOfMemory(f"not enough memory for {arguments.n} pictures at once: lower --n")))


def _at_least(least: int):  # type: ignore[no-untyped-def]
    def number(text: str) -> int:
        if int(text) < least:
            raise argparse.ArgumentTypeError(f"{text} is less than {least}")
        return int(text)

    number.__name__ = "whole number"
    return number


if __name__ == "__main__":
    _run()
