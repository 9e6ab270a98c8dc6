"""Sources of pictures, each ``(name, concept, content)``: embedded digits, a folder. What is left out is counted."""

from __future__ import annotations

import io
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from erasediff.data.names import concept_name, text_of
from erasediff.errors import DataError, shown

#: Name to tell the picture by in a message, its concept, the file's bytes.
Raw = tuple[str, str, bytes]

#: What a picture's file is called. Every other file is left out, and counted.
EXTENSIONS = {
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".avif", ".bmp", ".gif", ".tif", ".tiff"),
    *(".jp2", ".j2k", ".jpx", ".ppm", ".pgm", ".pbm", ".pnm"),
}

#: What folders of a data set's splits are called. A concept may be called so too, but not all of them.
SPLITS = {"train", "training", "val", "valid", "validation", "dev", "test", "testing", "eval"}


@dataclass(frozen=True)
class Source:
    """Pictures that can be read again and again: no pass over them holds more than one at a time.

    Attributes:
        read: begins a reading.
        left_out: numbers of files that are not read, by kind.
        classes: names of the classes in their order, where the source says one.
    """

    read: Callable[[], Iterator[Raw]]
    left_out: Mapping[str, int] = field(default_factory=dict)
    classes: Sequence[str] = ()

    def __iter__(self) -> Iterator[Raw]:
        return self.read()


def read_digits() -> Source:
    """scikit-learn's 1,797 real handwritten digits, 8×8, grey."""

    def read() -> Iterator[Raw]:
        import numpy as np
        from PIL import Image
        from sklearn.datasets import load_digits

        digits = load_digits()
        for number, (pixels, label) in enumerate(zip(digits.images, digits.target, strict=True)):
            buffer = io.BytesIO()
            Image.fromarray((pixels * 255 / 16).round().astype(np.uint8)).save(buffer, "PNG")
            yield f"digit {number}", str(label), buffer.getvalue()

    return Source(read)


def read_image_folder(path: Path) -> Source:
    """A folder with a sub-folder per concept. Hidden files and other kinds of file are left out, and counted.

    Raises: DataError: there is no sub-folder, one holds no picture or is a split, a folder is a link, or pictures lie
        in no concept.
    """
    if not path.is_dir():
        raise DataError(f"{path} is no folder: curate.path should hold one folder of pictures per concept")
    files, left_out = visible_files(path)
    pictures = [file for file in files if file.suffix.lower() in EXTENSIONS]
    left_out.update(_kind(file) for file in files if file.suffix.lower() not in EXTENSIONS)
    by_folder: dict[str, list[Path]] = {
        entry.name: [] for entry in sorted(path.glob("*")) if entry.is_dir() and not entry.name.startswith(".")
    }
    if not by_folder:
        raise DataError(f"{path} has no sub-folder: curate.path should hold one folder of pictures per concept")
    loose = [text_of(file.name) for file in pictures if file.parent == path]
    if loose:
        raise DataError(
            f"{len(loose)} picture(s) lie directly in {path}, in no concept, first: {', '.join(loose[:5])}: move each "
            "into the folder of its concept, or out of curate.path"
        )
    for file in pictures:
        by_folder[file.relative_to(path).parts[0]].append(file)
    _refuse_splits(path, by_folder)
    empty = [text_of(folder) for folder, found in by_folder.items() if not found]
    if empty:
        raise DataError(
            f"no picture in {', '.join(map(repr, empty[:5]))} of {path}: put some in ({', '.join(sorted(EXTENSIONS))}) "
            "or remove the folder"
        )
    concepts = {folder: concept_name(text_of(folder), str(path)) for folder in by_folder}

    def read() -> Iterator[Raw]:
        for folder, found in by_folder.items():
            for file in found:
                yield text_of(str(file.relative_to(path))), concepts[folder], _content(file)

    return Source(read, left_out)


def visible_files(path: Path) -> tuple[list[Path], Counter[str]]:
    """Files under a folder, sorted, and how many hidden files and folders there are.

    Raises: DataError: a folder is a link, or cannot be read.
    """
    found: list[Path] = []
    hidden: Counter[str] = Counter()

    def refuse(error: OSError) -> None:
        raise DataError(f"{shown(error.filename)} cannot be read ({error.strerror}): change its rights")

    for folder, folders, files in os.walk(path, onerror=refuse):
        hidden["hidden"] += sum(name.startswith(".") for name in (*files, *folders))
        folders[:] = [name for name in folders if not name.startswith(".")]
        if linked := sorted(name for name in folders if os.path.islink(os.path.join(folder, name))):
            raise DataError(
                f"{text_of(os.path.join(folder, linked[0]))} is a link to a folder: a change behind it would not be "
                "seen; put the pictures themselves there, or set curate.path to a folder without links"
            )
        found += [Path(folder, name) for name in files if not name.startswith(".")]
    return sorted(found), +hidden


def _kind(file: Path) -> str:
    return shown(text_of(file.suffix.lower()), 20) or "without extension"


def _content(file: Path) -> bytes:
    """A file's bytes; none where there is nothing to read, so that it is named with the broken pictures."""
    try:
        return file.read_bytes() if file.is_file() else b""
    except OSError:
        return b""


def _refuse_splits(path: Path, by_folder: Mapping[str, list[Path]]) -> None:
    """Raises: DataError: the folders are train, test and the like, and the concepts lie in them."""
    nested = [name for name, found in by_folder.items() if found and all(f.parent.parent != path for f in found)]
    if nested and all(name.lower() in SPLITS for name in by_folder):
        raise DataError(
            f"{path} holds splits ({', '.join(sorted(by_folder))}), and the concepts lie in these: set curate.path to "
            f"one of them, such as {path / sorted(nested)[0]}; curate.test_fraction holds pictures out by itself"
        )
