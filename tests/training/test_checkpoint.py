import shutil
from pathlib import Path

import pytest
import torch
from ruamel.yaml import YAML

from erasediff.errors import IntegrityError
from erasediff.training.checkpoint import CODE, FileCheckpoint, code_digest

ROOT = Path(__file__).parents[2]

ROWS = [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.25}]
STATE = {"step": torch.tensor(2), "parameter/w": torch.arange(3.0)}


class Told:
    """Stands for an MLflow run."""

    def __init__(self, run_id="run-1"):
        self.run_id, self.heard = run_id, []

    def resumed(self, step, rows):
        self.heard.append((step, list(rows)))


def checkpoint(rows=None, key=("seed", 0)):
    return FileCheckpoint("erase", key, every=1, rows=[] if rows is None else rows)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.unit
def test_a_training_goes_on_where_it_was_in_the_run_it_had():
    first = checkpoint(list(ROWS))
    assert first.load() is None and first.run_id is None
    first.begin(Told())
    first.save(STATE)
    rows, told = [], Told("run-2")
    again = checkpoint(rows)
    assert again.run_id == "run-1"
    again.begin(told)
    state = again.load()
    assert state.keys() == STATE.keys() and torch.equal(state["parameter/w"], STATE["parameter/w"])
    assert rows == ROWS and told.heard == [(2, ROWS)]


@pytest.mark.unit
def test_one_that_was_killed_before_its_first_state_goes_on_in_its_run():
    checkpoint().begin(Told())
    again = checkpoint()
    assert again.run_id == "run-1" and again.load() is None


@pytest.mark.unit
def test_a_state_of_another_training_is_not_used():
    checkpoint().save(STATE)
    other = checkpoint(key=("seed", 1))
    assert other.load() is None and other.run_id is None


@pytest.mark.unit
def test_only_the_last_state_is_kept_and_none_at_the_end(tmp_path):
    kept = checkpoint()
    kept.save(STATE)
    kept.save({**STATE, "step": torch.tensor(3)})
    files = list((tmp_path / ".work/checkpoints").iterdir())
    assert len(files) == 2 and int(checkpoint().load()["step"]) == 3
    kept.clear()
    assert not list((tmp_path / ".work/checkpoints").iterdir())


@pytest.mark.unit
def test_a_truncated_state_is_told(tmp_path):
    checkpoint().save(STATE)
    (file,) = (tmp_path / ".work/checkpoints").glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(IntegrityError, match="truncated or was altered: delete .*erase.json"):
        checkpoint().load()


@pytest.mark.unit
@pytest.mark.parametrize("text", ["", "[]", "3", "{}", '{"key": null}', "\udcff", "[" * 10**5])
def test_facts_of_any_content_are_told(tmp_path, text):
    checkpoint().save(STATE)
    (tmp_path / ".work/checkpoints/erase.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(IntegrityError, match="erase.json"):
        checkpoint().load()


@pytest.mark.unit
def test_what_was_not_measured_is_left_out():
    checkpoint([{"step": 1, "loss": 0.5, "gap": float("nan")}]).save(STATE)
    rows = []
    checkpoint(rows).load()
    assert rows == [{"step": 1, "loss": 0.5}]


@pytest.mark.unit
@pytest.mark.parametrize("stage", ["pretrain", "erase"])
def test_a_state_is_of_all_code_that_dvc_runs_the_training_again_for(stage):
    deps = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"][stage]["deps"]
    code = {d.removeprefix("erasediff/") for d in deps if d.startswith("erasediff/")} - {"records.py"}
    assert code <= set(CODE)


@pytest.mark.unit
@pytest.mark.parametrize("name", CODE)
def test_a_state_of_other_code_is_not_used(name, tmp_path):
    library = tmp_path / "erasediff"
    shutil.copytree(ROOT / "erasediff", library, ignore=shutil.ignore_patterns("__pycache__"))
    before = code_digest(library)
    file = library / name if name.endswith(".py") else library / name / "__init__.py"
    file.write_text(file.read_text() + "# changed\n")
    assert before == code_digest(ROOT / "erasediff") != code_digest(library)
