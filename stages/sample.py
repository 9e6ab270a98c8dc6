"""Draw pictures from any model folder or registry version."""

from __future__ import annotations

import sys
from pathlib import Path


def main(model: str, concept: str, n: int, out: str, seed: int, steps: int, guidance_scale: float) -> None:
    """Draw ``n`` pictures of a concept into one PNG, eight a row."""
    import torch

    from stages.artifacts import write_bytes
    from stages.diffusion import family_of
    from stages.evaluation.report import grid_png
    from stages.registry import load_pipeline

    family = family_of(load_pipeline(model))
    images = family.sample([concept] * n, [seed + i for i in range(n)], steps=steps, guidance_scale=guidance_scale)
    rows = -(-n // 8)
    blank = torch.ones(rows * 8 - n, *images.shape[1:])
    grid = torch.cat([images, blank]).view(rows, 8, *images.shape[1:])
    write_bytes(Path(out), grid_png(grid, [concept] * rows, f"{concept}, seeds {seed} to {seed + n - 1}", tile=64))
    print(out)


def _run() -> None:
    import argparse

    from stages.door import fail
    from stages.errors import EraseDiffError

    parser = argparse.ArgumentParser(prog="python -m stages.sample", description=__doc__)
    parser.add_argument("--model", required=True, help="diffusers folder, models:/NAME@ALIAS or models:/NAME/VERSION")
    parser.add_argument("--concept", required=True)
    parser.add_argument("--n", type=int, default=16)
    parser.add_argument("--out", required=True, help="PNG to write")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--guidance-scale", type=float, default=1.0)
    arguments = parser.parse_args()
    if arguments.n < 1:
        parser.error(f"--n must be at least 1, not {arguments.n}")
    try:
        main(**vars(arguments))
    except EraseDiffError as error:
        sys.exit(fail(error))


if __name__ == "__main__":
    _run()
