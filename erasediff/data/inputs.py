"""Reading a table back: its rows, the shape of its pictures, the pictures as tensors with their concepts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

    from erasediff.data.concept_images import ConceptImages


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


def load_images(table: pd.DataFrame, image_shape: tuple[int, int, int]) -> ConceptImages:
    """A table's pictures as tensors of a model's shape, with their concepts."""
    from erasediff.data.concept_images import ConceptImages
    from erasediff.data.images import decode

    return ConceptImages(decode(table["image"].tolist(), image_shape), table["concept"].tolist())
