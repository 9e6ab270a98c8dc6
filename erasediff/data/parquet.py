"""Pictures of parquet files in the Hugging Face schema."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from erasediff.data.names import concept_name, text_of
from erasediff.data.sources import Raw, Source, visible_files
from erasediff.errors import DataError, shown

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq


def read_parquet(path: Path, image_column: str, label_column: str) -> Source:
    """A parquet file, or a folder of them: images as ``{bytes, path}`` or bytes; labels as text, or as class numbers
    whose names may be in the file's metadata.

    Raises: DataError: no such file or column, not parquet, a column of another type, a picture that is not in the
        file, or one without a label.
    """
    left_out: Counter[str] = Counter()
    files = [path]
    if path.is_dir():
        there, left_out = visible_files(path)
        files = [file for file in there if file.suffix == ".parquet"]
        left_out.update(file.suffix or "without extension" for file in there if file.suffix != ".parquet")
    if not files or not all(file.exists() for file in files):
        raise DataError(f"{path} is no parquet file and holds none: set curate.path")
    names: dict[Path, list[str] | None] = {}
    for file in files:
        with _opened(file) as opened:
            schema = opened.schema_arrow
        _check_column(file, schema, "image_column", image_column)
        _check_column(file, schema, "label_column", label_column)
        _check_types(file, schema, image_column, label_column)
        names[file] = _class_names(file, schema.metadata, label_column)

    def read() -> Iterator[Raw]:
        for file in files:
            name = text_of(str(file.relative_to(path))) if path.is_dir() else file.name
            yield from _rows(file, name, image_column, label_column, names[file])

    return Source(read, left_out, next((n for n in names.values() if n), ()))


@contextmanager
def _opened(file: Path) -> Iterator[pq.ParquetFile]:
    """A parquet file. Raises: DataError: also where a block of it, read later, is broken."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file) as opened:
            yield opened
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise DataError(f"{file} cannot be read as parquet ({reason}): fetch or write it again") from None


def _rows(file: Path, name: str, image_column: str, label_column: str, names: list[str] | None) -> Iterator[Raw]:
    row = 0
    with _opened(file) as opened:
        for batch in opened.iter_batches(1000, columns=[image_column, label_column]):
            for image, label in zip(batch[image_column].to_pylist(), batch[label_column].to_pylist(), strict=True):
                where = f"{file} row {row}"
                yield f"{name} row {row}", _concept(where, label, names), _content(where, image)
                row += 1


def _content(where: str, image: bytes | dict[str, Any] | None) -> bytes:
    """A picture's bytes; none where there is no picture, so that it is named with the broken ones."""
    if isinstance(image, dict):
        if image["bytes"] is None and image.get("path") is not None:
            raise DataError(
                f"{where} has the path '{shown(image['path'])}' in place of the picture's bytes: the pictures are not "
                "embedded; write the file again with them, or use curate.source image_folder"
            )
        return image["bytes"] or b""
    return image or b""


def _concept(where: str, label: str | int | None, names: list[str] | None) -> str:
    """A label's name. Raises: DataError: it has none; in the Hugging Face schema -1 stands for "not labelled"."""
    if isinstance(label, int) and names is not None:
        name = names[label] if 0 <= label < len(names) else ""
    else:
        name = "" if label is None else str(label)
    if not name:
        known = f"; the class numbers are 0 to {len(names) - 1}" if names else ""
        raise DataError(f"{where} has the label {shown(label)}, which is no concept{known}: label or remove such rows")
    return concept_name(name, where)


def _check_column(file: Path, schema: pa.Schema, key: str, column: str) -> None:
    """Raises: DataError: there is no such column, or more than one."""
    found = schema.names.count(column)
    if found != 1:
        there = shown(", ".join(schema.names), 300)
        what = f"has {found} columns {column!r}" if found else f"has no column {column!r}; it has {there}"
        raise DataError(f"{file} {what}: set curate.{key}")


def _check_types(file: Path, schema: pa.Schema, image_column: str, label_column: str) -> None:
    """Raises: DataError: the columns hold something other than pictures and labels."""
    import pyarrow.types as types

    def binary(kind: pa.DataType) -> bool:
        return types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind)

    def text(kind: pa.DataType) -> bool:
        return types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)

    kind = schema.field(image_column).type
    if not binary(kind.field("bytes").type if types.is_struct(kind) and kind.get_field_index("bytes") >= 0 else kind):
        raise DataError(
            f"{file}: column {image_column!r} is {_short(kind)}, not bytes nor a struct with bytes: set "
            "curate.image_column, or embed the pictures"
        )
    kind = schema.field(label_column).type
    kind = kind.value_type if types.is_dictionary(kind) else kind
    if not (types.is_integer(kind) or text(kind) or types.is_boolean(kind)):
        raise DataError(
            f"{file}: column {label_column!r} is {_short(kind)}, not text or whole numbers: set curate.label_column"
        )


def _short(kind: pa.DataType) -> str:
    return shown(str(kind))


def _class_names(file: Path, metadata: dict[bytes, bytes] | None, column: str) -> list[str] | None:
    """Names of the class numbers; ``None`` where the file's metadata say nothing of them.

    Raises: DataError: what they say are no names.
    """
    try:
        found = json.loads((metadata or {}).get(b"huggingface", b"{}"))
    except (ValueError, RecursionError):
        return None
    for key in ("info", "features", column, "names"):
        found = found.get(key) if isinstance(found, dict) else None
    if found is None:
        return None
    if not isinstance(found, list) or not all(isinstance(name, str) and name.strip() for name in found):
        raise DataError(f"{file}: the metadata name the classes {shown(found)}: a list of names is needed")
    return found
