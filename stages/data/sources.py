"""Where pictures come from: embedded digits, a folder, a parquet file. Each gives ``(name, concept, content)``."""

from __future__ import annotations

import io
import json
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from stages.errors import DataError

#: Name to tell the picture by in a message, its concept, the file's bytes.
Raw = tuple[str, str, bytes]

EXTENSIONS = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"}


def read_digits() -> Iterator[Raw]:
    """scikit-learn's 1,797 real handwritten digits, 8×8, grey."""
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    for number, (pixels, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        buffer = io.BytesIO()
        Image.fromarray((pixels * 255 / 16).round().astype(np.uint8)).save(buffer, "PNG")
        yield f"digit {number}", str(label), buffer.getvalue()


def read_image_folder(path: Path) -> Iterator[Raw]:
    """A folder with a sub-folder per concept. Raises: DataError: it has none."""
    folders = sorted(p for p in path.glob("*") if p.is_dir() and not p.name.startswith("."))
    if not folders:
        raise DataError(f"{path} has no sub-folder: curate.path should hold one folder of pictures per concept")
    for folder in folders:
        for file in sorted(folder.rglob("*")):
            if file.suffix.lower() in EXTENSIONS and not file.name.startswith("."):
                yield str(file.relative_to(path)), unicodedata.normalize("NFC", folder.name), file.read_bytes()


def read_parquet(path: Path, image_column: str, label_column: str) -> Iterator[Raw]:
    """Parquet in the Hugging Face schema: images as ``{bytes, path}`` or bytes; labels as text, or class numbers whose
    names are in the file's metadata.

    Raises: DataError: no such file or column.
    """
    import pyarrow.parquet as pq

    files = sorted(path.glob("**/*.parquet")) if path.is_dir() else [path]
    if not files or not all(f.exists() for f in files):
        raise DataError(f"{path} is no parquet file and holds none: set curate.path")
    for file in files:
        table = pq.ParquetFile(file)
        for key, column in (("image_column", image_column), ("label_column", label_column)):
            if column not in table.schema_arrow.names:
                there = ", ".join(table.schema_arrow.names)
                raise DataError(f"{file} has no column {column!r}; it has {there}: set curate.{key}")
        names = _class_names(table.schema_arrow.metadata, label_column)
        row = 0
        for batch in table.iter_batches(1000, columns=[image_column, label_column]):
            for image, label in zip(batch[image_column].to_pylist(), batch[label_column].to_pylist(), strict=True):
                content = image["bytes"] if isinstance(image, dict) else image
                concept = names[label] if names and isinstance(label, int) else str(label)
                yield f"{file.name} row {row}", concept, content or b""
                row += 1


def _class_names(metadata: dict[bytes, bytes] | None, column: str) -> list[str] | None:
    features = json.loads((metadata or {}).get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    return features.get(column, {}).get("names")
