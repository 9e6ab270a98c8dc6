"""What a version was made from: one digest, and the hashes a person may ask for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from erasediff.artifacts import read_json, sha256_folder, sha256_text
from erasediff.checkout import git_state
from erasediff.errors import IntegrityError
from erasediff.tracking import find_run

#: Outs that hold timings and run ids: two runs of the same thing differ there and nowhere else.
NOT_LINEAGE = ("metrics/", "plots/", "reports/", "runs/")


def digest(lock: dict[str, Any], stage: str = "register") -> str:
    """SHA-256 over the commands, params, deps and outs in ``dvc.lock`` of every stage but ``stage``."""

    def entries(files: list[dict[str, Any]]) -> list[list[str]]:
        return sorted(
            [f["path"], str(f.get(f.get("hash", "md5"), ""))] for f in files if not f["path"].startswith(NOT_LINEAGE)
        )

    upstream = {
        name: [entry["cmd"], entry.get("params", {}), entries(entry.get("deps", [])), entries(entry.get("outs", []))]
        for name, entry in lock.get("stages", {}).items()
        if name != stage
    }
    return sha256_text(json.dumps(upstream, sort_keys=True))


def read_lock(path: Path = Path("dvc.lock")) -> dict[str, Any]:
    """``dvc.lock``, which DVC writes after each stage. Raises: IntegrityError: it is missing or broken.

    Read as the YAML 1.2 that DVC writes: PyYAML (1.1) would take a class called ``no`` or ``off`` for false.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    if not path.exists():
        raise IntegrityError(f"{path} is missing: a version's lineage is read from it, so register with dvc repro")
    try:
        return YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except YAMLError as error:
        reason = " ".join(str(error).split())[:200]
        raise IntegrityError(f"{path} cannot be read ({reason}): delete it and run dvc repro") from None


def stage_params(lock: dict[str, Any], stage: str) -> dict[str, Any]:
    """The params that a stage's cached result was made with: a section of params.yaml, empty where there is none."""
    return lock.get("stages", {}).get(stage, {}).get("params", {}).get("params.yaml", {}).get(stage, {})


def collect(lock: dict[str, Any], dataset: Path, forget_set: Path, base: Path, erased: Path) -> dict[str, str]:
    """Digest, hashes of dataset, forget set, base and erased model, commit and ``git_dirty``.

    Args:
        dataset, forget_set: folders with a ``summary.json`` that holds their hash.
        base, erased: model folders.

    Raises: IntegrityError: an out of an earlier stage is missing or broken.
    """
    return {
        "lineage_digest": digest(lock),
        "dataset_sha256": read_json(dataset / "summary.json")["sha256"],
        "forget_set_sha256": read_json(forget_set / "summary.json")["sha256"],
        "base_sha256": sha256_folder(base),
        "erased_sha256": sha256_folder(erased),
        **git_state(),
    }


def stage_runs(folder: Path) -> dict[str, str]:
    """``{"run.STAGE": MLflow run id}`` of the stages whose run is in MLflow by now; ``register`` is not there yet.

    A recheck and a comparison leave records too, of other things.

    Args:
        folder: with ``STAGE.json``, a stage's MLflow run each.

    Raises: TrackingError.
    """
    records = {path.stem: read_json(path) for path in sorted(folder.glob("*.json"))}
    found = {
        stage: r.get("run_id") or find_run(r.get("run_key"))
        for stage, r in records.items()
        if stage not in ("register", "recheck", "comparison")
    }
    return {f"run.{stage}": run_id for stage, run_id in found.items() if run_id}
