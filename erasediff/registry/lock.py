"""``dvc.lock`` and other YAML that somebody else wrote: read as what it has to be, or refused in one line."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from erasediff.artifacts import sha256_text
from erasediff.errors import IntegrityError
from erasediff.records import Json

#: Outs that hold timings and run ids: two runs of the same thing differ there and nowhere else.
NOT_LINEAGE = ("metrics/", "plots/", "reports/", "runs/")


def yaml_object(content: bytes, where: str) -> Json:
    """A mapping with names as keys, read as the YAML 1.2 that DVC writes; JSON is YAML.

    PyYAML (1.1) would take a class called ``no`` or ``off`` for false.

    Raises: IntegrityError: it is something else.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        found = YAML(typ="safe", pure=True).load(content.decode())
    except (YAMLError, ValueError, TypeError, AttributeError, KeyError, IndexError, RecursionError) as error:
        raise IntegrityError(f"{where} cannot be read ({' '.join(str(error).split())[:200]})") from None
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        raise IntegrityError(f"{where} cannot be read (it holds {type(found).__name__}, no mapping of names)")
    return found


def read_lock(path: Path = Path("dvc.lock")) -> Json:
    """``dvc.lock``, which DVC writes after each stage. Raises: IntegrityError: it is missing or broken."""
    if not path.is_file():
        raise IntegrityError(f"{path} is missing: a version's lineage is read from it, so register with dvc repro")
    try:
        lock = yaml_object(path.read_bytes(), str(path))
        _require_stages(lock, path)
    except IntegrityError as error:
        raise IntegrityError(f"{error}: delete it and run dvc repro") from None
    return lock


def _require_stages(lock: Json, path: Path) -> None:
    stages = lock.get("stages")
    if not isinstance(stages, dict) or not stages:
        raise IntegrityError(f"{path} has no stages")
    for name, stage in stages.items():
        if not isinstance(name, str) or not isinstance(stage, dict) or not isinstance(stage.get("cmd"), str | list):
            raise IntegrityError(f"{path}: stage {str(name)[:40]!r} has no command")
        params = stage.get("params", {})
        if not isinstance(params, dict) or not all(isinstance(section, dict) for section in params.values()):
            raise IntegrityError(f"{path}: params of stage {name[:40]!r} are no mapping")
        for kind in ("deps", "outs"):
            entries = stage.get(kind, [])
            if not isinstance(entries, list) or not all(
                isinstance(entry, dict) and isinstance(entry.get("path"), str) for entry in entries
            ):
                raise IntegrityError(f"{path}: {kind} of stage {name[:40]!r} are no list of files")


def require_made(lock: Json, files: Iterable[Path]) -> None:
    """Raises: IntegrityError: the lock does not tell how one of these was made, as where half of it is gone."""
    made = {entry["path"] for stage in lock["stages"].values() for entry in stage.get("outs", []) if _hash(entry)}
    if missing := [path.as_posix() for path in files if path.as_posix() not in made]:
        raise IntegrityError(f"dvc.lock does not tell how {missing[0]} was made: delete it and run dvc repro")


def _hash(entry: Json) -> str:
    return str(entry.get(str(entry.get("hash", "md5")), ""))


def digest(lock: Json, stage: str = "register") -> str:
    """SHA-256 over the commands, params, deps and outs in ``dvc.lock`` of every stage but ``stage``.

    Raises: IntegrityError: params hold what no params.yaml can.
    """

    def entries(files: list[Json]) -> list[list[str]]:
        return sorted([f["path"], _hash(f)] for f in files if not f["path"].startswith(NOT_LINEAGE))

    upstream = {
        name: [entry["cmd"], entry.get("params", {}), entries(entry.get("deps", [])), entries(entry.get("outs", []))]
        for name, entry in lock.get("stages", {}).items()
        if name != stage
    }
    try:
        return sha256_text(json.dumps(upstream, sort_keys=True))
    except (TypeError, ValueError, RecursionError) as error:
        raise IntegrityError(f"dvc.lock holds what no params can be ({error}): delete it and run dvc repro") from None


def stage_params(lock: Json, stage: str) -> Json:
    """The params that a stage's cached result was made with: a section of params.yaml, empty where there is none."""
    found = lock.get("stages", {}).get(stage, {}).get("params", {}).get("params.yaml", {}).get(stage, {})
    return found if isinstance(found, dict) else {}
