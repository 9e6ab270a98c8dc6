"""What runs below a flow: DVC, the stages' own failures, one run a checkout."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from erasediff.checkout import process_start
from erasediff.errors import (
    CheckoutBusy,
    ClassifierTooWeak,
    DataError,
    EraseDiffError,
    OutOfMemory,
    ParamsError,
    ServerFailed,
    StageFailed,
)
from erasediff.records import Registered
from flows.tools.doors import start_door
from flows.tools.dvc import as_hydra, parse_dag, run_stage, stage_order
from flows.tools.lock import only_run
from flows.tools.names import STARTED_FOR
from flows.tools.processes import (
    TEMPORARY_SERVER,
    end_abandoned_servers,
    end_children,
    ending_children,
    environment,
    failure,
    told_error,
)
from flows.tools.results import mlflow_page
from flows.tools.servers import require_listening
from stages.yaml_files import read_yaml

BAR = "erase:   0%|          | 0/400 [00:00<?, ?it/s]"
DVC = "ERROR: failed to reproduce 'erase': failed to run: x, exited with 1"


@pytest.mark.unit
def test_dvc_has_a_number_for_a_user_without_a_name_and_leaves_names(monkeypatch):
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 54321)
    assert environment()["USER"] == "54321"
    monkeypatch.setenv("USER", "anna")
    assert environment()["USER"] == "anna"


@pytest.mark.unit
def test_order_and_dependencies_from_dot():
    order = parse_dag('strict digraph {\n"a";\n"b";\n"a" -> "b";\n"b" -> "c@base";\n"a" -> "c@base";\n}')
    assert list(order) == ["a", "b", "c@base"] and order["c@base"] == ["a", "b"]


@pytest.mark.unit
@pytest.mark.parametrize(
    "lines, kind, reason",
    [
        (["DataError: no picture", DVC], DataError, "no picture"),
        ([BAR, "OutOfMemory: lower it", DVC], OutOfMemory, "lower it"),
        (["TrackingError: down", "ClassifierTooWeak: 0.4", DVC], ClassifierTooWeak, "0.4"),
        (["ClassifierTooWeak: 0.4", "WARNING: old cache", DVC], ClassifierTooWeak, "0.4"),
        (["DataError: a", "UserWarning: old", "Note: see b", "Computing: 3", DVC], DataError, "a"),
        (["ParamsError: 2 error(s)", "  - a: b", "  - c: d", "", DVC], ParamsError, "2 error(s)\n  - a: b\n  - c: d"),
        (["DataError: one", "Traceback", "ValueError: x", DVC], StageFailed, "ValueError: x"),
        (["torch.OutOfMemoryError: CUDA", DVC], StageFailed, "torch.OutOfMemoryError: CUDA"),
        (["erase: interrupted", DVC], StageFailed, DVC),
        (["EraseDiffErrors: no class", "annotations: none", DVC], StageFailed, DVC),
        ([], StageFailed, "no output"),
    ],
)
def test_the_last_error_that_a_stage_tells_is_its_failure(lines, kind, reason):
    assert told_error(lines) == (kind, reason)


@pytest.mark.unit
def test_a_signal_is_told_before_any_error():
    for code in (-9, 137):
        error = failure("stage erase", ["DataError: before"], code)
        assert type(error) is StageFailed
        assert str(error).startswith("stage erase failed: it was ended by SIGKILL, as where memory runs out")
    for code in (143, -15):  # somebody's wish: no word of memory
        assert (
            str(failure("stage erase", [], code))
            == "stage erase failed: it was ended by SIGTERM: run it again to go on"
        )
    assert str(failure("stage erase", ["erase: interrupted"], 130)) == "stage erase failed: erase: interrupted"


@pytest.mark.unit
def test_a_second_run_is_told_who_holds_the_checkout(tmp_path):
    with only_run(tmp_path / "lock"):
        busy = pytest.raises(CheckoutBusy, match="another run works in this checkout .pid [0-9]+, user")
        with busy, only_run(tmp_path / "lock"):
            pass
    with only_run(tmp_path / "lock"):
        pass


@pytest.mark.unit
def test_a_door_that_is_no_stage_fails_by_its_own_class(tmp_path, monkeypatch):
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages/weak.py").write_text("import sys\nprint(sys.argv[1])\nsys.exit('ClassifierTooWeak: 0.4')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    said: list[str] = []
    with pytest.raises(ClassifierTooWeak, match="^weak failed: 0.4$"):
        start_door("weak", "--now", say=said.append)
    assert said == ["--now", "ClassifierTooWeak: 0.4"]


def stages_of(tmp_path, text):
    """A DVC project with these stages, without git."""
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q", "--no-scm"], check=True, cwd=tmp_path)
    (tmp_path / "dvc.yaml").write_text(f"stages:\n{text}")


@pytest.mark.pipeline
def test_stages_through_dvc(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stages_of(
        tmp_path,
        "  one:\n    cmd: echo hello > one.txt && echo working\n    outs: [one.txt]\n"
        "  two:\n    cmd: \"echo 'DataError: it is broken' >&2; exit 1\"\n    deps: [one.txt]\n    outs: [two.txt]\n",
    )
    assert stage_order() == {"one": [], "two": ["one"]}
    said: list[str] = []
    assert run_stage("one", said.append, {}) is True
    assert "working" in said
    assert run_stage("one", said.append, {}) is False
    with pytest.raises(DataError, match="^stage two failed: it is broken$"):
        run_stage("two", said.append, {})


@pytest.mark.pipeline
def test_a_stage_that_is_ended_has_failed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stages_of(tmp_path, "  long:\n    cmd: touch begun && sleep 60\n    outs: [begun]\n")
    with ThreadPoolExecutor() as threads:
        future = threads.submit(run_stage, "long", lambda line: None, {})
        while not (tmp_path / "begun").exists():
            assert not future.done()
            time.sleep(0.1)
        end_children()
        with pytest.raises(EraseDiffError) as ended:
            future.result(timeout=20)
        assert type(ended.value) is StageFailed and "stage long failed" in str(ended.value)


@pytest.mark.unit
def test_a_server_that_nobody_started_is_told_at_once(monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/api"
        with pytest.raises(ServerFailed, match=f"no server answers at {url[:-4]} .*correct or unset PREFECT_API_URL"):
            require_listening(url, "PREFECT_API_URL")
        taken.listen()
        require_listening(url, "PREFECT_API_URL")
    for wrong in ("127.0.0.1:4200", "http://[", "ftp://there", "http://there:0x1/"):
        with pytest.raises(ServerFailed, match="^PREFECT_API_URL is .*: give an address such as"):
            require_listening(wrong, "PREFECT_API_URL")


@pytest.mark.unit
def test_a_temporary_server_ends_where_its_command_was_killed_and_no_other_does(monkeypatch):
    monkeypatch.setenv(STARTED_FOR, "")
    sleeper = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)"]
    dead, alive = subprocess.Popen(["true"]), f"{os.getpid()} {process_start(os.getpid())}"
    dead.wait()
    marks = {"killed": f"{dead.pid} 1", "running": alive, "somebody's own": ""}
    servers = {
        name: subprocess.Popen(
            [*sleeper, TEMPORARY_SERVER], env=os.environ | {STARTED_FOR: mark}, stdout=subprocess.PIPE, text=True
        )
        for name, mark in marks.items()
    }
    other = subprocess.Popen(sleeper, env=os.environ | {STARTED_FOR: marks["killed"]}, stdout=subprocess.PIPE)
    try:
        for process in (*servers.values(), other):
            process.stdout.readline()
        end_abandoned_servers()
        assert servers.pop("killed").wait(10) == -signal.SIGKILL
        assert os.environ[STARTED_FOR] == alive
        assert [process.poll() for process in (*servers.values(), other)] == [None, None, None]
    finally:
        for process in (*servers.values(), other):
            process.kill()
            process.wait()


@pytest.mark.unit
def test_what_ran_before_goes_on_where_a_block_ends_its_own_processes():
    before = subprocess.Popen(["sleep", "60"])
    try:
        with pytest.raises(ZeroDivisionError), ending_children():
            inside = subprocess.Popen(["sleep", "60"])
            raise ZeroDivisionError
        assert inside.wait(timeout=10) == -signal.SIGTERM and before.poll() is None
    finally:
        before.kill()
        before.wait()


INTERRUPTED = """
import logging, subprocess, signal, sys, threading, time
from flows.tools.processes import ending_children, on_interrupt
AT_ONCE = sys.argv[1] == "True"
def tell(child):
    print(child.pid, flush=True)
    child.wait()
    time.sleep(0.3)  # a stage's end is known later still: DVC has to end, and its output to be read
    for _ in range(100):
        logging.error("the stage failed: it was ended")
        time.sleep(0.02)
with on_interrupt(lambda: None, at_once=AT_ONCE):
    signal.signal(signal.SIGTERM, lambda *_: print("as Prefect does", file=sys.stderr))
    with ending_children():
        child = subprocess.Popen(["sleep", "60"])
        threading.Thread(target=tell, args=[child], daemon=True).start()
        time.sleep(50)
"""


@pytest.mark.pipeline
@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interruption_is_one_line_and_no_cause_is_told_that_is_none(at_once, sign):
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, str(at_once)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    child = int(process.stdout.readline())
    os.killpg(process.pid, sign)  # as a terminal does
    said = process.communicate(timeout=60)[1].splitlines()
    assert not Path(f"/proc/{child}").exists()
    if at_once:
        assert (process.returncode, said) == (128 + sign, ["interrupted; the next run goes on from here"])
    else:  # its command tells it
        assert said[-1] == "KeyboardInterrupt" and not [line for line in said if "ended" in line]


NAMES = [
    "été",
    "日本",
    "🐈",
    'a"b',
    "a\\b",
    "a\\",
    "a\\\\",
    '\\"',
    "\\n",
    "${x}",
    "\\${x}",
    "a$b{c}",
    "${",
    "{{ y }}",
    "[r]q",
    "no",
    "3",
]


@pytest.mark.unit
@given(st.sampled_from(NAMES) | st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1))
def test_any_name_of_a_concept_reaches_the_cell_of_a_comparison(name):
    from dvc.utils.hydra import apply_overrides

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "params.yaml"
        file.write_text("forget_set:\n  concepts: []\n")
        apply_overrides(file, [f"forget_set.concepts={as_hydra([name, 'b'])}"])
        assert read_yaml(file) == {"forget_set": {"concepts": [name, "b"]}}
    assert as_hydra([1, 0.5, True, None]) == "[1,0.5,true,null]"


@pytest.mark.unit
def test_a_version_is_seen_on_its_server_or_by_a_command():
    made = Registered("m", "3", "d", True)
    page = "/#/models/m/versions/3?workflowType=machine_learning"
    assert mlflow_page(made, "https://me:secret@mlflow.example/") == f"https://mlflow.example{page}"
    command = ".venv/bin/mlflow ui --backend-store-uri sqlite:////a/b.db"
    assert mlflow_page(made, "sqlite:////a/b.db") == f"{command}   # http://127.0.0.1:5000{page}"
