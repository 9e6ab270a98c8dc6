"""Files of the pipeline: written whole or not at all, and known by their SHA-256. Never a pickle."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from erasediff.errors import IntegrityError, shown

#: In every model folder written here: SHA-256 by file, so that a truncated or altered file is noticed at load.
MANIFEST = "sha256.json"
#: In the folder of a result, what a command drew so far; it is removed at the end, and nobody calls a folder so.
DRAWN = ".erasediff-drawn"
SHA256 = re.compile("[0-9a-f]{64}")


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
    """Read JSON of any content. Raises: IntegrityError: the file is missing or broken."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:  # the last: lists within lists within lists
        reason = shown(str(error), 200)
        raise IntegrityError(f"{path} cannot be read ({reason}): run the stage that writes it again") from None


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object. Raises: IntegrityError: the file is missing, broken, or holds something else."""
    if not isinstance(content := read_json(path), dict):
        raise IntegrityError(f"{path} holds no JSON object but {shown(content)}: fetch or make it again")
    return content


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Fill a folder atomically: yields a temporary one that takes ``path``'s place, with a manifest, on success."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        yield temporary
        write_json(temporary / MANIFEST, _hashes(temporary))
        for each in (temporary, *temporary.rglob("*")):  # safetensors lets nobody else read what it writes
            if not each.is_symlink():
                each.chmod(0o755 if each.is_dir() else 0o644)
        if path.exists():
            shutil.rmtree(path)
        os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def verify_folder(folder: Path) -> None:
    """Check a folder's files against its manifest; without one, only that no link leads out of it.

    Raises: IntegrityError: a file of the manifest is missing or altered, or a file is elsewhere.
    """
    if not folder.is_dir():
        raise IntegrityError(f"{folder} is missing: run the stage that writes it (dvc repro), or dvc pull")
    listed = _listed(folder / MANIFEST)
    _refuse_stray_links(folder, listed)
    for name, expected in listed.items():
        file = folder / name
        if not file.is_file():
            raise IntegrityError(f"{file} is missing though {MANIFEST} lists it: fetch or make the folder again")
        if (seen := sha256_file(file)) != expected:
            raise IntegrityError(
                f"{file} has SHA-256 {seen[:12]}…, {MANIFEST} says {expected[:12]}…: it is truncated or was "
                "altered; fetch or make the folder again"
            )


def _listed(manifest: Path) -> dict[str, str]:
    """SHA-256 by file as a manifest says. Raises: IntegrityError: it says something else."""
    listed = read_object(manifest) if manifest.exists() else {}
    for name, expected in listed.items():
        path = PurePosixPath(name)
        inside = bool(path.parts) and not path.is_absolute() and ".." not in path.parts and name.isprintable()
        if not inside or len(name) > 1000 or not (isinstance(expected, str) and SHA256.fullmatch(expected)):
            raise IntegrityError(
                f"{manifest} says {shown({name: expected})}, which is no file of the folder with its SHA-256: "
                "fetch or make the folder again"
            )
    return listed


def _refuse_stray_links(folder: Path, listed: dict[str, str]) -> None:
    """Follow a link out of the folder only to a file that is known by its hash.

    That is one of the manifest, or one of a store that names files by their content: DVC's cache, or the hub's.
    Raises: IntegrityError: another link leads out of the folder.
    """
    root = folder.resolve()
    for path in sorted(p for p in folder.rglob("*") if p.is_symlink()):
        target = Path(os.path.realpath(path))
        stored = target.parts[-4:-2] == ("files", "md5") or target.parent.name == "blobs"
        if not (target.is_relative_to(root) or path.relative_to(folder).as_posix() in listed or stored):
            raise IntegrityError(f"{path} is a link to {target}, outside of the folder: put the file itself there")
