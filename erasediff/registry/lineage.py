"""The lineage of a version: the hashes of what it was made from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from erasediff.artifacts import read_json, sha256_folder
from erasediff.checkout import git_state
from erasediff.errors import IntegrityError
from erasediff.records import Evaluation, ForgetSummary, Json
from erasediff.registry.lock import digest
from erasediff.tracking import find_run


def collect(lock: Json, dataset: Path, forget_set: Path, base: Path, erased: Path) -> dict[str, str]:
    """Digest, hashes of dataset, forget set, base and erased model, commit and ``git_dirty``.

    Args:
        dataset, forget_set: folders with a ``summary.json`` that holds their hash.
        base, erased: model folders.

    Raises: IntegrityError: an out of an earlier stage is missing or broken.
    """
    return {
        "lineage_digest": digest(lock),
        "dataset_sha256": _noted_sha256(dataset / "summary.json"),
        "forget_set_sha256": _noted_sha256(forget_set / "summary.json"),
        "base_sha256": sha256_folder(base),
        "erased_sha256": sha256_folder(erased),
        **git_state(),
    }


def _noted_sha256(path: Path) -> str:
    found = read_json(path)
    if not isinstance(found, dict) or not isinstance(found.get("sha256"), str):
        raise IntegrityError(f"{path} has no sha256: run the stage that writes it again")
    return str(found["sha256"])


def identity(lock: Json, sets: ForgetSummary, facts: Mapping[str, str]) -> dict[str, str]:
    """What a version was made from, in words by subject: seed, forget set, retain set, models.

    Args:
        facts: what :func:`collect` gives.
    """
    seeds = [stage.get("params", {}).get("params.yaml", {}).get("seed") for stage in lock["stages"].values()]
    seed = next((str(found) for found in seeds if found is not None), "not noted")
    return {
        "seed": seed,
        "forget set": f"{sum(sets.forget.values())} pictures, SHA-256 {facts['forget_set_sha256'][:16]}…",
        "retain set": f"{sum(sets.retain.values())} pictures",
        "base": f"SHA-256 {facts['base_sha256'][:16]}…",
        "erased": f"SHA-256 {facts['erased_sha256'][:16]}…",
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
    noted = {label: record for label, record in records.items() if isinstance(record, dict)}
    found = {label: record.get("run_id") or find_run(record.get("run_key")) for label, record in noted.items()}
    return {f"run.{label}": run_id for label, run_id in found.items() if run_id}
