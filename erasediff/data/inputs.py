"""Reading a table back: its rows, the shape of its pictures, the pictures as tensors with their concepts."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import pandas as pd

    from erasediff.data.concept_images import ConceptImages

#: Bytes of a table's pictures as tensors, from which on they stay encoded until a batch needs them.
MANY_BYTES = 2**28


def read_table(path: Path, split: str | None = None) -> pd.DataFrame:
    """A parquet table of samples. Raises: IntegrityError: its folder was altered or is missing."""
    import pandas as pd

    from erasediff.artifacts import verify_folder

    verify_folder(path.parent)
    table = pd.read_parquet(path)
    return table if split is None else table[table["split"] == split].reset_index(drop=True)


def table_shape(table: pd.DataFrame) -> tuple[int, int, int]:
    """``(channels, height, width)`` of a table's pictures."""
    first = table.iloc[0]
    return (1 if first["mode"] == "L" else 3, int(first["height"]), int(first["width"]))


def has_pictures(table: pd.DataFrame) -> bool:
    """True if a table holds pictures; false if it holds words alone, from which a model draws."""
    return "image" in table and bool(table["image"].notna().any())


def prompts_by_concept(table: pd.DataFrame) -> dict[str, list[str]]:
    """The prompts of each concept of a table, each once; a concept without any is its own."""
    asked = table["prompt"] if "prompt" in table else table["concept"]
    pairs = dict.fromkeys(zip(table["concept"], asked, strict=True))
    return {concept: [p for c, p in pairs if c == concept] for concept in sorted({c for c, _ in pairs})}


def domains_by_concept(table: Path) -> dict[str, str]:
    """The kind of each concept of a curated table; nothing where all are of one kind, or the table does not say."""
    words = read_table(table)
    found = dict(zip(words["concept"], words["kind"], strict=True)) if "kind" in words else {}
    return found if len({*found.values()}) > 1 else {}


def evaluation_inputs(table: Path, held_out: Path) -> tuple[pd.DataFrame, dict[str, list[str]]]:
    """What a model is measured with: the pictures that distances are measured to, and its prompts by concept.

    Args:
        table: the curated one, of which the split ``test`` is read.
        held_out: pictures that the base drew instead of real ones; it need not be there.
    """
    words = read_table(table, "test")
    return read_table(held_out) if held_out.exists() else words, prompts_by_concept(words)


class Given(NamedTuple):
    """What the row of a prompt says of its picture; ``None``: nothing."""

    seed: int | None
    guidance_scale: float | None


def given_by_prompt(table: Path) -> dict[str, list[Given]]:
    """What the rows of a curated table's split ``test`` say, of each prompt that came with a seed or guidance."""
    words = read_table(table, "test")
    if "seed" not in words:
        return {}
    told = words[["prompt", "seed", "guidance_scale"]].drop_duplicates().astype(object)
    found: dict[str, list[Given]] = {}
    for prompt, seed, guidance in told.where(told.notna(), None).itertuples(index=False):
        said = Given(None if seed is None else int(seed), None if guidance is None else float(guidance))
        found.setdefault(prompt, []).append(said)
    return {prompt: rows for prompt, rows in found.items() if any(value is not None for row in rows for value in row)}


def training_pictures(table: Path) -> pd.DataFrame | None:
    """Pictures that a model may have copied, of a curated table: all but the split ``test``; ``None``: it has none."""
    everything = read_table(table)
    rest = everything[everything["split"] != "test"].reset_index(drop=True)
    return rest if has_pictures(rest) else None


def load_images(table: pd.DataFrame, image_shape: tuple[int, int, int]) -> ConceptImages:
    """A table's pictures as tensors of a model's shape, with their concepts, and their prompts where it has some.

    Of few pictures it is one tensor; many are decoded when a batch needs them, so that memory does not grow with them.
    """
    from erasediff.data.concept_images import ConceptImages
    from erasediff.data.images import Undecoded, decode

    pngs, prompts = table["image"].tolist(), table["prompt"].tolist() if "prompt" in table else ()
    many = 4 * math.prod(image_shape) * len(pngs) > MANY_BYTES  # float32
    images = Undecoded(pngs, image_shape) if many else decode(pngs, image_shape)
    return ConceptImages(images, table["concept"].tolist(), prompts)
