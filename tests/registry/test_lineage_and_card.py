import json
from pathlib import Path

import pytest

from erasediff.errors import IntegrityError
from erasediff.records import EffectiveSettings, Erasures, Evaluation, Gate
from erasediff.registry.card import body_of, model_card
from erasediff.registry.lineage import collect, stage_runs
from erasediff.registry.lock import digest, read_lock, stage_params


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


@pytest.mark.unit
def test_runs_of_the_locks_stages_are_found_and_no_others(tmp_path):
    runs = {"erase": "r1", "curate": None, "register": "old", "recheck": "r2", "evaluate-base": "r3", "report": "r4"}
    for name, run_id in runs.items():
        (tmp_path / f"{name}.json").write_text(json.dumps({"run_id": run_id}))
    stages = {name: {} for name in ("curate", "erase", "evaluate@base", "verdict", "register")}
    assert stage_runs({"stages": stages}, tmp_path) == {"run.erase": "r1", "run.evaluate-base": "r3"}


EVALUATION = Evaluation(
    base={"fd_classifier": 0.9, "fd_classifier_sd": 0.01, "accuracy.a|b": 0.9, "seconds": 1.0},
    erased={"fd_classifier": 0.1, "fd_classifier_sd": 0.02, "accuracy.a|b": 0.1, "seconds": 1.0},
    delta={},
    gates={"unlearning_accuracy": Gate(0.5, 0.9, "min", False)},
    passed=False,
    judge={},
)
RAN = EffectiveSettings("graddiff", {"forget_source": "retain", "retain_target": "noise"}, 17, 12345)


def card(source="train", **pretrain):
    erasures = Erasures(("chat noir",), (), ("c",))
    made = {"registered": "2026-01-31 by ann", "seed": "0"}
    base = {"source": source, **pretrain}
    return model_card(EVALUATION, erasures, RAN, base, made, {"base_sha256": "ff"}, uri="models:/m/7", example="a|b")


@pytest.mark.unit
def test_card_tells_verdict_numbers_and_limits():
    text = card()
    assert "# Forgotten: chat noir" in text and "FAILED: do not use" in text
    assert "from a base model trained here, which had forgotten c before" in text
    assert "| unlearning_accuracy | 0.5000 | ≥ 0.9 | FAILED |" in text
    assert "| distance to held-out pictures ↓ | 0.900 ± 0.010 | 0.100 ± 0.020 |" in text and "seconds" not in text
    assert "| a\\|b: pictures recognised | 0.900 | 0.100 |" in text
    differs = ["- method: graddiff (paper: erasediff)", "- forget_source: retain (paper: forget)"]
    assert text.index("unlearning_accuracy") > text.index("## Which version this is\n- registered: 2026-01-31 by ann")
    for line in (*differs, "- updates: 17", "## Not promised", "- base_sha256: `ff`", "## Licence"):
        assert line in text.splitlines()
    assert "retain_target" not in text and "evidence/report.html" in text


@pytest.mark.unit
def test_a_card_tells_a_lora_and_its_base():
    made, hashes = {"version": "m, version 7"}, {"base_sha256": "ff"}
    how = {"uri": "models:/m/7", "example": "a"}
    told = "The version is a LoRA. It is put on its base, `hf://org/name@c0ffee`, which has to be there."
    erasures = Erasures(("8",), (), ())
    assert told in model_card(
        EVALUATION, erasures, RAN, {"source": "train"}, made, hashes, **how, lora_base="hf://org/name@c0ffee"
    )
    assert "LoRA" not in model_card(EVALUATION, erasures, RAN, {"source": "train"}, made, hashes, **how)


@pytest.mark.unit
def test_tools_of_the_hub_read_the_cards_front_matter():
    from huggingface_hub import ModelCard

    text = card("hub", repo="google/ddpm-cifar10-32", revision="abc")
    read = ModelCard(text)
    assert read.data.library_name == "diffusers" and read.data.base_model == "google/ddpm-cifar10-32"
    assert read.data.license == "other" and "machine-unlearning" in read.data.tags
    assert read.text.strip() == body_of(text).strip() and body_of(text).startswith("# Forgotten")
    assert ModelCard(card()).data.base_model is None
    assert body_of("a card of another maker") == "a card of another maker"
