"""The one table: a row a picture."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable

import pandas as pd

from stages.data.images import content_id, open_picture, to_png
from stages.data.sources import Raw
from stages.errors import DataError

COLUMNS = ["sample_id", "image", "concept", "split", "origin", "width", "height", "mode", "source", "readable"]


def curate_table(
    raw: Iterable[Raw], *, image_size: int | None, mode: str | None, test_fraction: float, max_per_concept: int | None
) -> tuple[pd.DataFrame, int]:
    """Pictures of any size and mode to the table, and how many exact duplicates within a concept were left out.

    A picture that cannot be read stays as a row with ``readable`` false, for the validation to name.
    Raises: DataError: there is no picture at all.
    """
    pictures, unreadable = [], []
    for name, concept, content in raw:
        try:
            pictures.append((name, concept, open_picture(content)))
        except (OSError, ValueError, SyntaxError):
            unreadable.append((name, concept, content))
    if not pictures:
        raise DataError(f"no readable picture found ({len(unreadable)} unreadable): look at curate.path")
    if image_size is None:
        side = statistics.median_low(min(p.size) for _, _, p in pictures)
        image_size = min(64, max(8, side // 8 * 8))
    mode = mode or ("RGB" if any(p.mode == "RGB" for _, _, p in pictures) else "L")
    rows, seen = [], set()
    for name, concept, picture in pictures:
        png = to_png(picture, image_size, mode)
        key = (content_id(png), concept)
        if key not in seen:
            seen.add(key)
            rows.append((key[0], png, concept, "train", "real", image_size, image_size, mode, name, True))
    duplicates = len(pictures) - len(rows)
    rows = _split(rows, test_fraction, max_per_concept)
    rows += [(content_id(c), c, concept, "train", "real", 0, 0, "", n, False) for n, concept, c in unreadable]
    return pd.DataFrame(rows, columns=COLUMNS), duplicates


def _split(rows: list[tuple], test_fraction: float, max_per_concept: int | None) -> list[tuple]:
    """Per concept in the order of the content's hash: independent of names, of file order, of other concepts."""
    by_concept = defaultdict(list)
    for row in sorted(rows):
        by_concept[row[2]].append(row)
    result = []
    for concept in sorted(by_concept):
        group = by_concept[concept][:max_per_concept]
        n_test = min(len(group) - 1, max(1, round(test_fraction * len(group))))
        result += [(*row[:3], "test" if i < n_test else "train", *row[4:]) for i, row in enumerate(group)]
    return result


def counts(table: pd.DataFrame) -> dict[str, int]:
    """Pictures by concept."""
    return dict(sorted(Counter(table["concept"]).items()))


def generated_table(images: list[bytes], concepts: list[str], size: tuple[int, int], mode: str) -> pd.DataFrame:
    """Rows for pictures that a model drew."""
    rows = [
        (content_id(png), png, concept, "train", "generated", size[1], size[0], mode, "base model", True)
        for png, concept in zip(images, concepts, strict=True)
    ]
    return pd.DataFrame(rows, columns=COLUMNS)
