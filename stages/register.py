"""Register: a version with its lineage in the MLflow registry. It moves no alias."""

from __future__ import annotations

import json
from pathlib import Path

from stages.door import run_door


def main() -> None:
    """params.yaml, models, ``metrics/evaluation.json``, ``dvc.lock`` → a version, ``runs/register.json``."""
    from stages.params import load_params

    name = load_params().register_.model_name
    from stages import tracking
    from stages.artifacts import read_json, sha256_folder, verify_folder
    from stages.erase import FOLDER
    from stages.registry.lineage import lineage_digest, read_lock
    from stages.registry.model_card import model_card
    from stages.registry.versions import register_version
    from stages.verdict import EVALUATION, REPORT

    verify_folder(FOLDER)
    evaluation = read_json(EVALUATION)
    forgotten = read_json(Path("data/forget_set/summary.json"))["concepts"]
    facts = {
        "lineage_digest": lineage_digest(read_lock()),
        "dataset_sha256": read_json(Path("data/curated/summary.json"))["sha256"],
        "forget_set_sha256": read_json(Path("data/forget_set/summary.json"))["sha256"],
        "base_sha256": sha256_folder(Path("models/base")),
        "erased_sha256": sha256_folder(FOLDER),
        **tracking.git_state(),
    }
    tags = {**facts, "gates_passed": str(evaluation["passed"]).lower(), "forgotten": json.dumps(forgotten)}
    tags |= {
        f"gate.{k}": f"{g['value']:.4f} {g['direction']} {g['limit']:g} passed={g['passed']}"
        for k, g in evaluation["gates"].items()
    }
    with tracking.stage_run("register", {"model_name": name}) as run:
        files = [Path("params.yaml"), Path("dvc.lock"), EVALUATION, REPORT]
        version = register_version(name, run.run_id, FOLDER, tags, files, model_card(evaluation, forgotten, facts))
        run.result |= {"model_name": name, "version": version, "lineage_digest": facts["lineage_digest"]}
        run.result |= {"gates_passed": evaluation["passed"]}
        print(f"registered {name} version {version}; gates {'passed' if evaluation['passed'] else 'FAILED'}")


if __name__ == "__main__":
    run_door("register", main, __doc__)
