"""A real SQLite store, and a server that is not there, or not yet."""

import socket
from pathlib import Path

import pytest

from erasediff import tracking
from erasediff.tracking import queue, server


@pytest.fixture
def store(tmp_path, monkeypatch):
    root = tmp_path / "chat noir é"  # the store's URI must survive blanks and accents
    root.mkdir()
    monkeypatch.chdir(root)
    monkeypatch.setenv("DVC_ROOT", str(root))
    monkeypatch.setenv("PYTHONPATH", str(Path(tracking.__file__).parents[2]))  # of the processes started here
    for name in ("MLFLOW_TRACKING_URI", "ERASEDIFF_PARENT_RUN_ID", "DVC_EXP_NAME"):
        monkeypatch.delenv(name, raising=False)
    return root


@pytest.fixture
def closed_port(store, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://user:se-cr@t@127.0.0.1:{port}")
    return port


class Switch:
    """True while the store cannot be reached."""

    down = True


@pytest.fixture
def switch(store, monkeypatch):
    real = server.client

    def client():
        if Switch.down:
            raise ConnectionError("Connection refused")
        return real()

    monkeypatch.setattr(server, "client", client)
    monkeypatch.setattr(queue, "FIRST_PAUSE", 0.0)
    monkeypatch.setattr(queue, "LAST_TRY_AFTER", 0.0)
    monkeypatch.setattr(Switch, "down", True)
    return Switch
