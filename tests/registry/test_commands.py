"""The doors ``register`` and ``sample`` as commands."""

import json
import runpy
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from erasediff.artifacts import read_json
from erasediff.checkout import user_name
from erasediff.registry.versions import aliases, attached, version_of
from erasediff.tracking import server
from flows.jobs.sample import sample_flow


def door(monkeypatch, name, *arguments):
    """Run a door's command in this process; its exit code."""
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(f"stages.{name}", run_name="__main__")
    return ended.value.code


def command(*arguments):
    return subprocess.run([sys.executable, "-m", *arguments], capture_output=True, text=True, timeout=120)


@pytest.mark.pipeline
def test_register_makes_a_version_with_its_evidence_and_moves_no_alias(project, capsys, monkeypatch):
    for _ in range(2):  # the second finds the first's
        assert door(monkeypatch, "register") == 0
        assert capsys.readouterr().out.splitlines()[-1] == "registered erasediff-digits version 1; gates FAILED"
        record = read_json(Path("runs/register.json"))
        assert (record["version"], record["gates_passed"], record["logged"]) == ("1", False, True)
        Path("runs/register.json").unlink()
    version = version_of("erasediff-digits", "1")
    assert aliases("erasediff-digits") == {} and version.tags["gates_passed"] == "false"
    assert version.tags["gate.unlearning_accuracy"] == "0.5000 ≥ 0.9 FAILED"
    assert version.tags["run.erase"] == "r1" and version.tags["forgotten"] == "b (before: c)"
    assert json.loads(version.tags["erasures"]) == ["b", "c"]
    assert "made to forget **b**, from a base model, which had forgotten c before" in version.description
    assert "forget_source: retain (paper: forget)" in version.description
    files = {a.path for a in server.client().list_artifacts(version.run_id)}
    assert {"params.yaml", "dvc.lock", "evaluation.json", "report.html"} <= files


@pytest.mark.pipeline
def test_the_report_of_a_version_names_it_also_where_a_kill_came_before_it_was_attached(project, monkeypatch):
    params = Path("params.yaml").read_text()
    Path("params.yaml").write_text(params.replace("request: null", "request: 17 <by> J. Doe"))
    plain = Path("reports/report.html").read_bytes()
    for _ in range(2):
        assert door(monkeypatch, "register") == 0
        version = version_of("erasediff-digits", "1")
        report = Path("reports/version/report.html").read_text()
        day = datetime.fromtimestamp(
            server.client().get_model_version("erasediff-digits", "1").creation_timestamp / 1000, UTC
        )
        for text in (
            "erasediff-digits, version 1",
            f"{day:%Y-%m-%d %H:%M} UTC by {user_name()}",
            "17 &lt;by&gt; J. Doe",
            version.run_id,
        ):
            assert text in report
        assert version.tags["request"] == "17 <by> J. Doe" and version.tags["git_commit"] in report
        assert attached(version.run_id, "report.html").decode() == report
        assert Path("reports/report.html").read_bytes() == plain
        server.client().log_artifact(version.run_id, "reports/report.html")  # as a kill would have left it


@pytest.mark.pipeline
def test_register_without_its_server_is_one_line(project, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@127.0.0.1:9")
    done = command("stages.register")
    assert done.returncode == 1 and not Path("runs/register.json").exists()
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("TrackingError: MLflow at http://127.0.0.1:9 cannot be used")
    assert lines[0].endswith("the model is on disk in models/erased; once that is settled, run: dvc repro register")


@pytest.mark.pipeline
def test_sample_draws_from_a_folder_without_mlflow(project):
    code = "import sys; from stages.sample import main; main('models/erased', 'a', 3, 'out/a.png', 0, 2, 1.0)"
    done = command_code(code + "; sys.exit('mlflow' in sys.modules)")
    assert done.returncode == 0, done.stderr
    from PIL import Image

    width, height = Image.open("out/a.png").size
    assert width >= 3 * 64 and height >= 64


@pytest.mark.slow
@pytest.mark.pipeline
def test_many_pictures_are_drawn_in_parts_each_with_its_own_seed(project, tmp_path):
    folder = tmp_path / "a lot; of 'em"
    wanted = ["--model=models/erased", "--concept=a", "--n=5", "--seed=3", "--steps=2"]
    done = command("flows.sample", *wanted, "--batch=2", f"--out={folder}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith(f"5 pictures in {folder} (")  # and the time that it took
    assert sorted(p.name for p in folder.iterdir()) == [f"{seed}.png" for seed in range(3, 8)]
    command("stages.sample", *wanted, "--out=whole/")
    for path in folder.iterdir():
        difference = pixels(path) - pixels(Path("whole") / path.name)  # of a batch of another size: rounding
        assert abs(difference).max() <= 1
    assert any((pixels(path) != pixels(folder / "3.png")).any() for path in folder.iterdir())
    again = sample_flow.fn("models/erased", "a", str(folder), 5)
    assert again.is_failed() and again.message.startswith(f"{folder} is there already")


def pixels(path):
    import numpy as np
    from PIL import Image

    return np.asarray(Image.open(path), dtype=int)


def command_code(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)


@pytest.mark.pipeline
@pytest.mark.parametrize(
    "change, code, said",
    [
        ({"--concept": "z"}, 1, "UnknownConcept: the model does not know 'z'; it knows: a, b, c"),
        ({"--model": "models/none"}, 1, "ModelError: models/none is no folder"),
        ({"--n": "0"}, 2, "0 is not from 1 to"),
        ({"--out": "params.yaml/x.png"}, 1, "DataError: params.yaml/x.png cannot be written"),
    ],
)
def test_sample_says_what_is_wrong(project, monkeypatch, capsys, change, code, said):
    wanted = {"--model": "models/erased", "--concept": "a", "--n": "1", "--out": "a.png", "--steps": "2"} | change
    ended = door(monkeypatch, "sample", *[x for pair in wanted.items() for x in pair])
    assert ended == code and said in capsys.readouterr().err
    assert not Path("a.png").exists()


@pytest.mark.unit
@pytest.mark.parametrize("door", ["sample", "register", "erase"])
def test_help_is_quick(door):
    started = time.monotonic()
    assert command(f"stages.{door}", "--help").returncode == 0
    assert time.monotonic() - started < 3  # about 0.3 s; a busy machine, yet far from an import of torch and mlflow
