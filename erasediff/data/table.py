"""The one table: a row a picture."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import pandas as pd

from erasediff.data.images import Unreadable, content_id, header, open_picture, to_png
from erasediff.data.sources import Raw
from erasediff.errors import DataError

COLUMNS = ["sample_id", "image", "concept", "split", "origin", "width", "height", "mode", "source", "readable"]


@dataclass(frozen=True)
class Curated:
    """A curated table, and what is not in it.

    Attributes:
        table: see :data:`COLUMNS`.
        left_out: numbers of pictures that were read and not taken, by reason.
        problems: why a picture cannot be read, by its name; its row has ``readable`` false.
    """

    table: pd.DataFrame
    left_out: dict[str, int]
    problems: dict[str, str]


def curate_table(
    raw: Iterable[Raw],
    *,
    image_size: int | None,
    mode: str | None,
    test_fraction: float,
    max_per_concept: int | None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Curated:
    """Pictures of any size and mode to the table; of exact duplicates within a concept one is taken.

    Reads ``raw`` twice, one picture in memory at a time; an iterator, which cannot be read again, is kept whole.
    A picture that cannot be read stays as a row with ``readable`` false, for the validation to name.

    Args:
        on_progress: called with the pictures done and their number.

    Raises: DataError: no picture can be read.
    """
    raw = list(raw) if iter(raw) is raw else raw
    total, side, coloured = _survey(raw, look_for_colour=mode is None)
    if image_size is None:
        image_size = min(64, max(8, side // 8 * 8))
    mode = mode or ("RGB" if coloured else "L")
    rows: dict[tuple[str, str], tuple] = {}
    unreadable: list[tuple] = []
    problems: dict[str, str] = {}
    for done, (name, concept, content) in enumerate(raw, 1):
        try:
            png = to_png(open_picture(content), image_size, mode)
        except Unreadable as error:
            unreadable.append((content_id(content), content, concept, "train", "real", 0, 0, "", name, False))
            problems[name] = str(error)
        else:
            key = (content_id(png), concept)
            row = (key[0], png, concept, "train", "real", image_size, image_size, mode, name, True)
            rows[key] = min(rows.get(key, row), row)  # of duplicates the first name, whatever the order
        if on_progress is not None:
            on_progress(done, total)
    if not rows:
        first = "".join(f", first: {name} ({why})" for name, why in list(problems.items())[:1])
        raise DataError(f"no readable picture found ({len(unreadable)} unreadable{first}): look at curate.path")
    split = _split(list(rows.values()), test_fraction, max_per_concept)
    left_out = {"duplicates": total - len(unreadable) - len(rows), "beyond max_per_concept": len(rows) - len(split)}
    table = pd.DataFrame(split + unreadable, columns=COLUMNS)
    return Curated(table, {reason: n for reason, n in left_out.items() if n}, problems)


def _survey(raw: Iterable[Raw], look_for_colour: bool) -> tuple[int, int, bool]:
    """Number of files, median shorter side, whether any has colour; decodes only until colour is found."""
    total, sides, coloured = 0, [], False
    for total, (_, _, content) in enumerate(raw, 1):  # noqa: B007
        try:
            side, grey = header(content)
            sides.append(side)
            if look_for_colour and not coloured and not grey:
                coloured = open_picture(content).mode == "RGB"
        except Unreadable:
            continue  # reported by the second reading
    return total, statistics.median_low(sides or [8]), coloured


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


def generated_table(
    images: list[bytes],
    concepts: list[str],
    size: tuple[int, int],
    mode: str,
    *,
    prompts: list[str] | None = None,
    split: str = "train",
) -> pd.DataFrame:
    """Rows for pictures that a model drew.

    Args:
        size: height and width.
        prompts: what the model was asked, one a picture; the concepts by default.
    """
    rows = [
        (content_id(png), png, concept, split, "generated", size[1], size[0], mode, "base model", True)
        for png, concept in zip(images, concepts, strict=True)
    ]
    return pd.DataFrame(rows, columns=COLUMNS).assign(prompt=prompts or concepts)
