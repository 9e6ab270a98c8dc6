from pathlib import Path

import pytest
import torch

from stages import tracking
from stages.artifacts import new_folder, read_json, sha256_folder
from stages.diffusion import family_of
from stages.errors import GateFailed, IntegrityError, ModelError
from stages.registry import load_pipeline
from stages.registry.lineage import lineage_digest
from stages.registry.versions import aliases, promote_initial, register_version


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


@pytest.mark.unit
def test_digest_ignores_timings_and_sees_what_matters():
    def lock(eta=1, metrics="a", model="b"):
        outs = [{"path": "metrics/m.json", "md5": metrics}, {"path": "models/erased", "md5": model}]
        return {"stages": {"erase": {"cmd": "x", "params": {"params.yaml": {"erase.eta": eta}}, "outs": outs}}}

    assert lineage_digest(lock()) == lineage_digest(lock(metrics="c"))
    assert len({lineage_digest(x) for x in (lock(), lock(eta=2), lock(model="c"))}) == 3


@pytest.mark.pipeline
def test_one_version_a_digest_and_back_again(store, pipeline):
    with new_folder(Path("models/erased")) as folder:
        pipeline.save_pretrained(folder)
    tags = {"lineage_digest": "d1", "gates_passed": "true", "erased_sha256": sha256_folder(Path("models/erased"))}
    with tracking.stage_run("register", {"a": 1}) as run:
        run.log_metrics({"x": 1.0})
        first = register_version("m", run.run_id, Path("models/erased"), tags, [], "card")
    assert read_json(Path("runs/register.json"))["logged"] is True
    assert register_version("m", run.run_id, Path("models/erased"), tags, [], "card") == first == "1"
    failed = tags | {"lineage_digest": "d2", "gates_passed": "false"}
    second = register_version("m", run.run_id, Path("models/erased"), failed, [], "card")
    assert promote_initial("m", first) == {"challenger": "1", "champion": "1"} == aliases("m")
    with pytest.raises(GateFailed, match="did not pass"):
        promote_initial("m", second)
    again = family_of(load_pipeline("models:/m@champion"))
    for one, two in zip(again.denoiser.parameters(), pipeline.unet.parameters(), strict=True):
        assert torch.equal(one, two)
    with pytest.raises(ModelError, match="no alias 'best'; it has: challenger, champion"):
        load_pipeline("models:/m@best")
    with pytest.raises(ModelError, match="no version 7"):
        load_pipeline("models:/m/7")
    import mlflow
    import pandas as pd

    served = mlflow.pyfunc.load_model("models:/m/1").predict(pd.DataFrame({"concept": ["a", "b"], "seed": [0, 1]}))
    assert list(served["concept"]) == ["a", "b"] and served["png_base64"].str.startswith("iVBOR").all()
    for stored in Path("mlartifacts").rglob("diffusion_pytorch_model.safetensors"):
        stored.write_bytes(stored.read_bytes()[:-4] + b"xxxx")
    with pytest.raises(IntegrityError, match="is not what was registered"):
        load_pipeline("models:/m/1")


@pytest.mark.pipeline
def test_a_stage_finishes_with_the_server_down(store, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@127.0.0.1:9")
    with tracking.stage_run("erase", {"a": 1, "b": 2}) as run:
        run.log_metrics({"x": 1.0, "y": 2.0})
    record = read_json(Path("runs/erase.json"))
    assert record["run_id"] is None and record["logged"] is False
    told = capsys.readouterr().err
    assert "not logged to http://127.0.0.1:9: 1 runs, 2 params, 2 metric values of erase" in told
    assert "secret" not in told
