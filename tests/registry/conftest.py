"""A project with an erased model on disk and an empty registry."""

import shutil
from pathlib import Path

import pytest

from erasediff.artifacts import new_folder, sha256_folder, write_json
from erasediff.evaluation.report import report_html
from erasediff.records import EffectiveSettings, Erasures, Evaluation, ForgetSummary, Gate

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory):
    """MLflow's tables without a row: to make them takes seconds."""
    from mlflow.store.db.utils import _initialize_tables, create_sqlalchemy_engine

    path = tmp_path_factory.mktemp("database") / "mlflow.db"
    engine = create_sqlalchemy_engine(f"sqlite:///{path}")
    _initialize_tables(engine)
    engine.dispose()
    return path


@pytest.fixture
def store(tmp_path, monkeypatch, pipeline, empty_database):
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with new_folder(Path("models/erased")) as folder:
        pipeline.save_pretrained(folder)
    return tmp_path


@pytest.fixture
def project(store, monkeypatch, pipeline):
    """What the door ``register`` reads, as the stages before it leave it."""
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    shutil.copy(REPOSITORY / "params.yaml", store)
    with new_folder(Path("models/base")) as folder:
        pipeline.save_pretrained(folder)
    models = {which: sha256_folder(Path("models") / which) for which in ("base", "erased")}
    numbers = {"unlearning_accuracy": 0.5, "in_domain_retain_accuracy": 0.9}
    gates = {"unlearning_accuracy": Gate(0.5, 0.9, "min", False)}
    evaluation = Evaluation(numbers, numbers, {}, gates, False, {"accuracy": 0.99, "test_samples": 7}, models)
    write_json(Path("metrics/evaluation.json"), evaluation.to_json())
    ran = EffectiveSettings("erasediff", {"forget_source": "retain", "retain_target": "noise"}, 17, 12345)
    write_json(Path("metrics/erase.json"), ran.to_json())
    sets = ForgetSummary(Erasures(("b",), (), ("c",)), {"b": 2}, {"a": 3}, "selected", {}, "f" * 64)
    write_json(Path("data/forget_set/summary.json"), sets.to_json())
    write_json(Path("data/curated/summary.json"), {"sha256": "c" * 64})
    write_json(Path("runs/erase.json"), {"run_id": "r1"})
    Path("reports").mkdir()
    Path("reports/report.html").write_text(report_html(evaluation, sets, ran, {}, {}))
    made = ("data/curated", "models/base", "data/forget_set", "models/erased", "metrics/evaluation.json")
    outs = [{"path": path, "hash": "md5", "md5": "0" * 32} for path in made]
    erase = {"cmd": "x", "params": {"params.yaml": {"seed": 7}}, "outs": outs}
    write_json(Path("dvc.lock"), {"stages": {"erase": erase}})  # JSON is YAML
    return store
