"""What a version was made from, as one digest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from stages.artifacts import sha256_text
from stages.errors import IntegrityError

#: Outs that hold timings and run ids: two runs of the same thing differ there and nowhere else.
NOT_LINEAGE = ("metrics/", "plots/", "reports/", "runs/")


def lineage_digest(lock: dict[str, Any], stage: str = "register") -> str:
    """SHA-256 over the commands, params, deps and outs in ``dvc.lock`` of every stage but ``stage``."""

    def entries(files: list[dict[str, Any]]) -> list[list[str]]:
        return sorted([f["path"], f.get("md5", "")] for f in files if not f["path"].startswith(NOT_LINEAGE))

    upstream = {
        name: [entry["cmd"], entry.get("params", {}), entries(entry.get("deps", [])), entries(entry.get("outs", []))]
        for name, entry in lock.get("stages", {}).items()
        if name != stage
    }
    return sha256_text(json.dumps(upstream, sort_keys=True))


def read_lock(path: Path = Path("dvc.lock")) -> dict[str, Any]:
    """``dvc.lock``, which DVC writes after each stage. Raises: IntegrityError: it is missing."""
    import yaml

    if not path.exists():
        raise IntegrityError(f"{path} is missing: a version's lineage is read from it, so register with dvc repro")
    return yaml.safe_load(path.read_text(encoding="utf-8"))
