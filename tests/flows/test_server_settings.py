"""What the servers of a checkout are started with, and how one is told from a process of the same number."""

import json
import os

import pytest

from erasediff.checkout import process_start
from flows.servers import servers
from flows.tools.names import PREFECT_API
from flows.tools.servers import Server, alive, folder, last_line, log_of, noted_of, start


@pytest.fixture(autouse=True)
def checkout(tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith(("PREFECT_", "MLFLOW_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def settings():
    return {server.name: server.settings for server in servers()}


@pytest.mark.unit
def test_prefects_pages_ask_no_third_party_and_a_killed_jobs_place_becomes_free_again():
    given = settings()["prefect"]
    assert given["PREFECT_SERVER_UI_V2_ENABLED"] == given["PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT"] == "false"
    assert given["PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE"].endswith("filesystem")
    assert all("127.0.0.1" in server.arguments for server in servers() if server.port)


@pytest.mark.unit
def test_mlflows_files_lie_in_the_checkout_unless_they_are_kept_elsewhere(checkout, monkeypatch):
    given = settings()["mlflow"]
    assert given["MLFLOW_BACKEND_STORE_URI"] == f"sqlite:///{checkout}/mlflow.db"
    assert given["MLFLOW_DEFAULT_ARTIFACT_ROOT"] == (checkout / "mlartifacts").as_uri()
    assert given["MLFLOW_SERVE_ARTIFACTS"] == "false"
    monkeypatch.setenv("MLFLOW_ARTIFACTS_DESTINATION", "s3://bucket")
    assert not {"MLFLOW_DEFAULT_ARTIFACT_ROOT", "MLFLOW_SERVE_ARTIFACTS"} & set(settings()["mlflow"])


@pytest.mark.unit
def test_a_person_may_set_what_they_like_but_not_which_server_it_is(checkout, monkeypatch):
    (checkout / "tell.py").write_text(f"import os; print(os.environ['MLFLOW_WORKERS'], os.environ[{PREFECT_API!r}])\n")
    monkeypatch.setenv("MLFLOW_WORKERS", "4")
    monkeypatch.setenv(PREFECT_API, "http://elsewhere/api")
    given = {"MLFLOW_WORKERS": "1", PREFECT_API: "http://127.0.0.1:1/api"}
    process = start(Server("tell", ["tell"], lambda: True, settings=given))
    assert process.wait(60) == 0
    assert last_line(log_of("tell")) == "4 http://127.0.0.1:1/api"
    assert alive("tell") is None and noted_of("tell").pid == process.pid


@pytest.mark.unit
def test_a_process_that_has_the_number_of_an_ended_server_is_not_taken_for_it():
    noted = {"pid": os.getpid(), "process_start": process_start(os.getpid()), "since": "", "url": ""}
    folder().mkdir(parents=True)
    (folder() / "mlflow.json").write_text(json.dumps(noted))
    (folder() / "worker.json").write_text(json.dumps(noted | {"process_start": "1"}))
    assert alive("mlflow") is not None and alive("worker") is None and alive("prefect") is None
