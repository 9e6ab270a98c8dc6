"""Files of the pipeline: written whole or not at all, and known by their SHA-256. Never a pickle."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from erasediff.errors import IntegrityError

#: In every model folder written here: SHA-256 by file, so that a truncated or altered file is noticed at load.
MANIFEST = "sha256.json"


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's content, hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_folder(folder: Path) -> str:
    """One digest of a folder: names and contents of all its files except the manifest."""
    return sha256_text(json.dumps(_hashes(folder), sort_keys=True))


def sha256_text(text: str) -> str:
    """SHA-256 of a text in UTF-8, hex."""
    return hashlib.sha256(text.encode()).hexdigest()


def _hashes(folder: Path) -> dict[str, str]:
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST)
    return {p.relative_to(folder).as_posix(): sha256_file(p) for p in files}


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically: after a crash there is the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_json(path: Path, content: object) -> None:
    """Write JSON atomically, keys in the order given, NaN refused."""
    write_bytes(path, (json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """Read JSON. Raises: IntegrityError: the file is missing or broken."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise IntegrityError(f"{path} cannot be read ({error}): run the stage that writes it again") from None


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Fill a folder atomically: yields a temporary one that takes ``path``'s place, with a manifest, on success."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        yield temporary
        write_json(temporary / MANIFEST, _hashes(temporary))
        temporary.chmod(0o755)
        if path.exists():
            shutil.rmtree(path)
        os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def verify_folder(folder: Path) -> None:
    """Raises: IntegrityError: a file of the manifest is missing or altered. Without a manifest nothing is checked."""
    if not folder.is_dir():
        raise IntegrityError(f"{folder} is missing: run the stage that writes it (dvc repro), or dvc pull")
    manifest = folder / MANIFEST
    if not manifest.exists():
        return
    for name, expected in read_json(manifest).items():
        file = folder / name
        if not file.exists():
            raise IntegrityError(f"{file} is missing though {manifest} lists it: fetch or make the folder again")
        if (seen := sha256_file(file)) != expected:
            raise IntegrityError(
                f"{file} has SHA-256 {seen[:12]}…, {manifest.name} says {expected[:12]}…: it is truncated or was "
                "altered; fetch or make the folder again"
            )
