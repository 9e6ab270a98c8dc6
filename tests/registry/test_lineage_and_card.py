import json
from pathlib import Path

import pytest

from erasediff.errors import IntegrityError
from erasediff.registry.lineage import collect, digest, read_lock, stage_params, stage_runs
from erasediff.registry.model_card import model_card, paper_deviations


def lock(eta=1, metrics="a", model="b", cmd="x"):
    outs = [{"path": "metrics/m.json", "md5": metrics}, {"path": "models/erased", "hash": "md5", "md5": model}]
    stages = {"erase": {"cmd": cmd, "params": {"params.yaml": {"erase": {"eta": eta}}}, "outs": outs}}
    return {"stages": stages | {"register": {"cmd": metrics}}}


@pytest.mark.unit
def test_digest_ignores_timings_and_sees_what_matters():
    assert digest(lock()) == digest(lock(metrics="c"))
    assert len({digest(x) for x in (lock(), lock(eta=2), lock(model="c"), lock(cmd="y"))}) == 4


@pytest.mark.unit
def test_a_lock_is_read_as_dvc_writes_it(tmp_path):
    path = tmp_path / "dvc.lock"
    with pytest.raises(IntegrityError, match="is missing"):
        read_lock(path)
    path.write_text(
        "stages:\n  erase:\n    cmd: x\n    params:\n      params.yaml:\n        erase:\n          trainable: no\n"
    )
    assert stage_params(read_lock(path), "erase") == {"trainable": "no"}
    assert stage_params(read_lock(path), "other") == {}
    path.write_text("stages: {")
    with pytest.raises(IntegrityError, match="cannot be read"):
        read_lock(path)


@pytest.mark.unit
def test_what_a_version_was_made_from(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folders = [Path(f) for f in ("data/curated", "data/forget_set", "models/base", "models/erased")]
    for folder in (*folders, Path("runs")):
        folder.mkdir(parents=True)
    with pytest.raises(IntegrityError, match="data/curated/summary.json"):
        collect(lock(), *folders)
    for name in ("curated", "forget_set"):
        (tmp_path / "data" / name / "summary.json").write_text(json.dumps({"sha256": name}))
    facts = collect(lock(), *folders)
    assert facts["dataset_sha256"] == "curated" and facts["lineage_digest"] == digest(lock())
    for name, run_id in (("erase", "r1"), ("curate", None), ("register", "old")):
        (tmp_path / "runs" / f"{name}.json").write_text(json.dumps({"run_id": run_id}))
    assert stage_runs(Path("runs")) == {"run.erase": "r1"}


@pytest.mark.unit
def test_card_tells_verdict_numbers_and_limits():
    gate = {"value": 0.5, "limit": 0.9, "direction": "min", "passed": False}
    evaluation = {
        "base": {"accuracy.a|b": 0.9, "accuracy.a|b_sd": 0.01, "seconds": 1.0},
        "erased": {"accuracy.a|b": 0.1, "accuracy.a|b_sd": 0.02},
        "gates": {"unlearning_accuracy": gate},
        "passed": False,
    }
    deviations = paper_deviations({"forget_source": "retain", "retain_target": "noise"})
    assert deviations == ["forget_source: retain (paper: forget)"]
    card = model_card(evaluation, ["chat noir"], "a base model trained here", {"base_sha256": "ff"}, deviations)
    assert "# Forgotten: chat noir" in card and "FAILED: do not use" in card
    assert "| unlearning_accuracy | 0.5000 | ≥ 0.9 | FAILED |" in card
    assert "| accuracy.a\\|b | 0.9000 ± 0.0100 | 0.1000 ± 0.0200 |" in card and "seconds" not in card
    for part in (deviations[0], "Not promised", "`ff`", "Licence"):
        assert part in card
