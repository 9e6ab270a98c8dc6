"""Pictures that a judge learns from and is tested on, drawn by the base: for models that come without labelled ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from erasediff.data.images import encode_png
from erasediff.data.table import generated_table
from erasediff.data.wordings import in_turns
from erasediff.families.drawing import require_visible
from erasediff.families.family import Family
from erasediff.randomness import JUDGE_BLOCKS, image_seeds

if TYPE_CHECKING:
    import pandas as pd

#: Pictures that are drawn at once, between two calls of ``on_progress``.
CHUNK = 64


def judge_pictures(
    family: Family,
    prompts: Mapping[str, Sequence[str]],
    *,
    train: int,
    test: int,
    seed: int,
    steps: int | None = None,
    guidance_scale: float | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> pd.DataFrame:
    """A table of pictures that the base draws of each concept; those of the split ``test`` under other seeds.

    What the base cannot draw, a judge that learns from it cannot recognise: its test accuracy then tells.

    Args:
        prompts: of each concept, what the model is asked for it, in turns.
        train, test: pictures of a concept in each split.
        on_progress: called with the pictures drawn and their number.

    Raises: OutOfSeeds: too many pictures.
    """
    shape, total, done = family.image_shape, (train + test) * len(prompts), 0
    rows: list[tuple[bytes, str, str, str]] = []
    for block, (split, count) in enumerate({"train": train, "test": test}.items()):
        seeds = iter(image_seeds(seed, block, count * len(prompts), JUDGE_BLOCKS))
        for concept, wordings in prompts.items():
            asked = in_turns(wordings, count)
            for start in range(0, count, CHUNK):
                these = asked[start : start + CHUNK]
                images = family.sample(these, [next(seeds) for _ in these], steps=steps, guidance_scale=guidance_scale)
                require_visible(images, concept)
                rows += [(encode_png(image), concept, p, split) for image, p in zip(images, these, strict=True)]
                done += len(these)
                if on_progress is not None:
                    on_progress(done, total)
    pngs, concepts, used, splits = map(list, zip(*rows, strict=True))
    table = generated_table(pngs, concepts, shape[1:], "L" if shape[0] == 1 else "RGB", prompts=used)
    return table.assign(split=splits)
