"""Files and folders that are written whole or not at all, and that others may read."""

import os

import pytest
import torch
from safetensors.torch import save_file

from erasediff.artifacts import MANIFEST, new_folder, write_bytes, write_json


@pytest.fixture
def private():
    """A person whose files nobody else may read, unless they say so."""
    before = os.umask(0o077)
    yield
    os.umask(before)


@pytest.mark.unit
def test_another_user_may_read_what_is_written_and_the_writer_alone_may_change_it(tmp_path, private):
    write_json(tmp_path / "record.json", {})
    with new_folder(tmp_path / "model") as folder:
        write_bytes(folder / "weights", b"1")
        (folder / "part").mkdir()
        save_file({"a": torch.ones(1)}, folder / "part/more")
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.rglob("*")}
    files = ("record.json", "weights", "more", MANIFEST)
    assert modes == {"model": 0o755, "part": 0o755, **dict.fromkeys(files, 0o644)}


@pytest.mark.unit
def test_a_file_that_cannot_be_written_leaves_the_old_one_and_nothing_else(tmp_path):
    write_bytes(tmp_path / "a", b"old")
    with pytest.raises(TypeError):
        write_bytes(tmp_path / "a", "text")
    with pytest.raises(ValueError):
        write_json(tmp_path / "b", float("nan"))
    assert [path.name for path in tmp_path.iterdir()] == ["a"] and (tmp_path / "a").read_bytes() == b"old"


@pytest.mark.unit
def test_a_folder_that_is_not_finished_leaves_the_old_one_and_nothing_else(tmp_path):
    with new_folder(tmp_path / "model") as folder:
        (folder / "old").touch()
    with pytest.raises(KeyboardInterrupt), new_folder(tmp_path / "model") as folder:
        (folder / "new").touch()
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    with new_folder(tmp_path / "model") as folder:
        (folder / "new").touch()
    assert {path.name for path in (tmp_path / "model").iterdir()} == {"new", MANIFEST}
