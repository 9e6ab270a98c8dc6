"""A project with an erased model on disk and an empty registry."""

from pathlib import Path

import pytest

from erasediff.artifacts import new_folder


@pytest.fixture
def store(tmp_path, monkeypatch, pipeline):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with new_folder(Path("models/erased")) as folder:
        pipeline.save_pretrained(folder)
    return tmp_path
