"""The lineage of a version: one digest, and the hashes of what it was made from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from erasediff.artifacts import read_json, sha256_folder, sha256_text
from erasediff.checkout import git_state
from erasediff.errors import IntegrityError
from erasediff.records import Evaluation, Json
from erasediff.tracking import find_run

#: Outs that hold timings and run ids: two runs of the same thing differ there and nowhere else.
NOT_LINEAGE = ("metrics/", "plots/", "reports/", "runs/")


def digest(lock: Json, stage: str = "register") -> str:
    """SHA-256 over the commands, params, deps and outs in ``dvc.lock`` of every stage but ``stage``."""

    def entries(files: list[Json]) -> list[list[str]]:
        return sorted(
            [f["path"], str(f.get(f.get("hash", "md5"), ""))] for f in files if not f["path"].startswith(NOT_LINEAGE)
        )

    upstream = {
        name: [entry["cmd"], entry.get("params", {}), entries(entry.get("deps", [])), entries(entry.get("outs", []))]
        for name, entry in lock.get("stages", {}).items()
        if name != stage
    }
    return sha256_text(json.dumps(upstream, sort_keys=True))


def read_lock(path: Path = Path("dvc.lock")) -> Json:
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


def stage_params(lock: Json, stage: str) -> Json:
    """The params that a stage's cached result was made with: a section of params.yaml, empty where there is none."""
    return lock.get("stages", {}).get(stage, {}).get("params", {}).get("params.yaml", {}).get(stage, {})


def collect(lock: Json, dataset: Path, forget_set: Path, base: Path, erased: Path) -> dict[str, str]:
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


def require_measured(evaluation: Evaluation, facts: Mapping[str, str]) -> None:
    """Raises: IntegrityError: the models are not those that were evaluated.

    Args:
        facts: what :func:`collect` gives.
    """
    for which in ("base", "erased"):
        here, measured = facts[f"{which}_sha256"], evaluation.models.get(which)
        if here != measured:
            of = f"one with {measured[:12]}…" if measured else "a model that it does not name"
            raise IntegrityError(
                f"models/{which} has SHA-256 {here[:12]}…, but what was evaluated is {of}: "
                "run dvc repro, which measures it anew, or put the evaluated model back (dvc checkout)"
            )


def stage_runs(lock: Json, folder: Path) -> dict[str, str]:
    """``{"run.STAGE": MLflow run id}`` of the lock's stages whose run is in MLflow by now.

    Args:
        folder: with ``STAGE.json``, a stage's MLflow run each. The stage ``register`` is not there yet.

    Raises: TrackingError.
    """
    labels = [name.replace("@", "-") for name in lock.get("stages", {}) if name != "register"]
    records = {label: read_json(folder / f"{label}.json") for label in labels if (folder / f"{label}.json").exists()}
    found = {label: record.get("run_id") or find_run(record.get("run_key")) for label, record in records.items()}
    return {f"run.{label}": run_id for label, run_id in found.items() if run_id}
