"""Sources of pictures: embedded digits, a folder, a parquet file. Each gives ``(name, concept, content)``."""

from __future__ import annotations

import functools
import io
import json
import os
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec

from erasediff.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

#: Name to tell the picture by in a message, its concept, the file's bytes.
Raw = tuple[str, str, bytes]

EXTENSIONS = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"}

P = ParamSpec("P")


class _Rereadable:
    def __init__(self, read: Callable[[], Iterator[Raw]]):
        self._read = read

    def __iter__(self) -> Iterator[Raw]:
        return self._read()


def _rereadable(read: Callable[P, Iterator[Raw]]) -> Callable[P, Iterable[Raw]]:
    """Read anew at each pass, so that a pass over the sizes and one over the pixels never hold all files at once."""

    @functools.wraps(read)
    def source(*args: P.args, **kwargs: P.kwargs) -> Iterable[Raw]:
        return _Rereadable(lambda: read(*args, **kwargs))

    return source


def _text(name: str) -> str:
    """A name as the file system gave it, as text that can be written: bytes that are no UTF-8 become U+FFFD."""
    return unicodedata.normalize("NFC", os.fsencode(name).decode("utf-8", "replace"))


@_rereadable
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


@_rereadable
def read_image_folder(path: Path) -> Iterator[Raw]:
    """A folder with a sub-folder per concept; hidden files and folders and other kinds of file are left out.

    Raises: DataError: there is no sub-folder, one holds no picture, or pictures lie beside them and so in no concept.
    """
    folders = sorted(p for p in path.glob("*") if p.is_dir() and not p.name.startswith("."))
    if not folders:
        raise DataError(f"{path} has no sub-folder: curate.path should hold one folder of pictures per concept")
    loose = sorted(_text(p.name) for p in path.glob("*") if _is_picture(p, path))
    if loose:
        raise DataError(
            f"{len(loose)} picture(s) lie directly in {path}, in no concept, first: {', '.join(loose[:5])}: move each "
            "into the folder of its concept, or out of curate.path"
        )
    pictures = {folder: sorted(p for p in folder.rglob("*") if _is_picture(p, folder)) for folder in folders}
    empty = [_text(folder.name) for folder, files in pictures.items() if not files]
    if empty:
        raise DataError(
            f"no picture in {', '.join(map(repr, empty[:5]))} of {path}: put some in ({', '.join(sorted(EXTENSIONS))}) "
            "or remove the folder"
        )
    for folder, files in pictures.items():
        for file in files:
            try:
                content = file.read_bytes()
            except OSError:
                content = b""  # reported by name as unreadable, with the broken ones
            yield _text(str(file.relative_to(path))), _text(folder.name), content


def _is_picture(file: Path, root: Path) -> bool:
    hidden = any(part.startswith(".") for part in file.relative_to(root).parts)
    return not hidden and file.suffix.lower() in EXTENSIONS and not file.is_dir()


@_rereadable
def read_parquet(path: Path, image_column: str, label_column: str) -> Iterator[Raw]:
    """Parquet in the Hugging Face schema: images as ``{bytes, path}`` or bytes; labels as text, or class numbers whose
    names are in the file's metadata.

    Raises: DataError: no such file or column, not parquet, a column of another type, or a picture without a label.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    files = sorted(path.glob("**/*.parquet")) if path.is_dir() else [path]
    if not files or not all(f.exists() for f in files):
        raise DataError(f"{path} is no parquet file and holds none: set curate.path")
    for file in files:
        try:
            table = pq.ParquetFile(file)
        except (pa.ArrowInvalid, OSError) as error:
            raise DataError(f"{file} cannot be read as parquet ({' '.join(str(error).split())[:160]})") from None
        for key, column in (("image_column", image_column), ("label_column", label_column)):
            if column not in table.schema_arrow.names:
                there = ", ".join(table.schema_arrow.names)
                raise DataError(f"{file} has no column {column!r}; it has {there}: set curate.{key}")
        _check_types(file, table.schema_arrow, image_column, label_column)
        names = _class_names(table.schema_arrow.metadata, label_column)
        row = 0
        for batch in table.iter_batches(1000, columns=[image_column, label_column]):
            for image, label in zip(batch[image_column].to_pylist(), batch[label_column].to_pylist(), strict=True):
                content = image["bytes"] if isinstance(image, dict) else image
                yield f"{file.name} row {row}", _concept(f"{file} row {row}", label, names), content or b""
                row += 1


def _check_types(file: Path, schema: pa.Schema, image_column: str, label_column: str) -> None:
    """Raises: DataError: the columns hold something other than pictures and labels."""
    import pyarrow.types as types

    def binary(kind: pa.DataType) -> bool:
        return types.is_binary(kind) or types.is_large_binary(kind)

    kind = schema.field(image_column).type
    if not binary(kind.field("bytes").type if types.is_struct(kind) and kind.get_field_index("bytes") >= 0 else kind):
        raise DataError(
            f"{file}: column {image_column!r} is {kind}, not bytes nor a struct with bytes: set curate.image_column, "
            "or embed the pictures"
        )
    kind = schema.field(label_column).type
    kind = kind.value_type if types.is_dictionary(kind) else kind
    if not (types.is_integer(kind) or types.is_string(kind) or types.is_large_string(kind) or types.is_boolean(kind)):
        raise DataError(
            f"{file}: column {label_column!r} is {kind}, not text or whole numbers: set curate.label_column"
        )


def _concept(where: str, label: str | int | None, names: list[str] | None) -> str:
    """A label's name. Raises: DataError: it has none; in the Hugging Face schema -1 stands for "not labelled"."""
    if isinstance(label, int) and names is not None:
        name = names[label] if 0 <= label < len(names) else ""
    else:
        name = "" if label is None else str(label)
    if not name:
        known = f"; the class numbers are 0 to {len(names) - 1}" if names else ""
        raise DataError(f"{where} has the label {label!r}, which is no concept{known}: label or remove such rows")
    return unicodedata.normalize("NFC", name)


def _class_names(metadata: dict[bytes, bytes] | None, column: str) -> list[str] | None:
    features = json.loads((metadata or {}).get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    return features.get(column, {}).get("names")
