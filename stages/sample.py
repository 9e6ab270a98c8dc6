"""Draw pictures from any model folder or registry version."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from stages.door import run_door


def main(
    model: str, concept: str, n: int, out: str, seed: int, steps: int | None, guidance_scale: float | None
) -> None:
    """Draw ``n`` pictures of a concept, seeds ``seed`` to ``seed + n - 1``.

    Args:
        out: a PNG for all of them, eight a row; or a folder, which ends in ``/``, for a file ``SEED.png`` each.

    Raises: ParamsError, UnknownConcept, ModelError, IntegrityError, TrackingError. DataError: no such ``out``.
    """
    from erasediff.loading import load, require_model

    require_model(model)  # before torch is loaded: most wrong commands name a folder that is not there
    from erasediff.artifacts import write_bytes
    from erasediff.data.images import encode_png
    from erasediff.device import device
    from erasediff.errors import DataError
    from erasediff.evaluation.pictures import tiled_png
    from erasediff.families import family_of

    family = family_of(load(model).to(device()))
    seeds = list(range(seed, seed + n))
    images = family.sample([concept] * n, seeds, steps=steps, guidance_scale=guidance_scale)
    if out.endswith("/"):
        files = {f"{out}{number}.png": encode_png(image) for number, image in zip(seeds, images, strict=True)}
    else:
        files = {out: tiled_png(images, concept, f"seeds {seed} to {seed + n - 1}")}
    try:
        for path, content in files.items():
            write_bytes(Path(path), content)
    except OSError as error:
        raise DataError(f"{out} cannot be written ({error.strerror}): give a PNG file, or FOLDER/, of yours") from None
    print(out)


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        required=True,
        help="diffusers folder, models:/NAME@ALIAS, models:/NAME/VERSION or hf://ORG/NAME@COMMIT",
    )
    parser.add_argument("--concept", required=True, help="what to draw: the name of a class, or a prompt")
    parser.add_argument("--n", type=_within(1, 10**6), default=16, help="pictures (default 16)")
    parser.add_argument("--out", required=True, help="PNG to write, or FOLDER/ for a file each")
    parser.add_argument("--seed", type=_within(0, 2**64 - 1), default=0, help="of the first picture (default 0)")
    parser.add_argument("--steps", type=_within(1, 10**5), help="sampling steps (default: the model's own)")
    parser.add_argument("--guidance-scale", type=float, help="1: no guidance (default: the model's own)")


def _within(least: int, most: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"{text} is not from {least} to {most}")
        return int(text)

    number.__name__ = "whole number"
    return number


if __name__ == "__main__":
    run_door("sample", main, __doc__, _arguments, interrupted="nothing was written", less_memory="lower --n")
