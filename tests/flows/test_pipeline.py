import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from erasediff.errors import CheckoutBusy, StageFailed
from flows.pipeline import end_children, only_run, parse_dag, reason, run_stage, stage_order


@pytest.mark.unit
def test_order_and_dependencies_from_dot():
    order = parse_dag('strict digraph {\n"a";\n"b";\n"a" -> "b";\n"b" -> "c@base";\n"a" -> "c@base";\n}')
    assert list(order) == ["a", "b", "c@base"] and order["c@base"] == ["a", "b"]


@pytest.mark.unit
def test_why_a_command_failed():
    bar, dvc = "erase:   0%|          | 0/400 [00:00<?, ?it/s]", "ERROR: failed to reproduce 'erase': failed to run: x"
    assert reason([f"{bar}{dvc}, exited with -9"]).startswith("it was ended by SIGKILL")
    assert reason(["UserWarning: old", f"{dvc}, exited with 143"]).startswith("it was ended by SIGTERM")
    assert reason(["DataError: no picture", f"{dvc}, exited with 1"]) == "DataError: no picture"
    assert reason(["erase: interrupted", f"{dvc}, exited with 130"]) == f"{dvc}, exited with 130"
    assert reason(["Stage 'evaluate@base' is cached"], -9).startswith("it was ended by SIGKILL")  # DVC itself
    assert reason([]) == "no output"


@pytest.mark.unit
def test_a_second_run_is_told_who_holds_the_checkout(tmp_path):
    with only_run(tmp_path / "lock"):
        busy = pytest.raises(CheckoutBusy, match="another run works in this checkout .pid [0-9]+, user")
        with busy, only_run(tmp_path / "lock"):
            pass
    with only_run(tmp_path / "lock"):
        pass


@pytest.mark.pipeline
def test_stages_through_dvc(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = [sys.executable, "-m", "dvc"]
    subprocess.run(["git", "init", "-q"], check=True)
    subprocess.run([*run, "init", "-q"], check=True)
    (tmp_path / "dvc.yaml").write_text(
        "stages:\n"
        "  one:\n    cmd: echo hello > one.txt && echo working\n    outs: [one.txt]\n"
        "  two:\n    cmd: \"echo 'DataError: it is broken' >&2; exit 1\"\n    deps: [one.txt]\n    outs: [two.txt]\n"
    )
    assert stage_order() == {"one": [], "two": ["one"]}
    said: list[str] = []
    assert run_stage("one", said.append, {}) is True
    assert "working" in said
    assert run_stage("one", said.append, {}) is False
    with pytest.raises(StageFailed, match="stage two failed: DataError: it is broken"):
        run_stage("two", said.append, {})


@pytest.mark.pipeline
def test_a_stage_that_is_ended_has_failed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = [sys.executable, "-m", "dvc"]
    subprocess.run([*run, "init", "-q", "--no-scm"], check=True)
    (tmp_path / "dvc.yaml").write_text("stages:\n  long:\n    cmd: touch begun && sleep 60\n    outs: [begun]\n")
    with ThreadPoolExecutor() as threads:
        future = threads.submit(run_stage, "long", lambda line: None, {})
        while not (tmp_path / "begun").exists():
            assert not future.done()
            time.sleep(0.1)
        end_children()
        with pytest.raises(StageFailed, match="stage long failed"):
            future.result(timeout=20)
