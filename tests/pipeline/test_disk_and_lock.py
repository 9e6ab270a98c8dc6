"""A full disk, a checkout that may not be written, and a DVC that someone else is using."""

import os
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest
from checkout import stated

WEIGHTS = "models/erased/unet/diffusion_pytorch_model.safetensors"
mounts = pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0 or subprocess.run(["unshare", "-m", "true"]).returncode != 0,
    reason="mounting needs root on Linux",
)


@contextmanager
def mounted(folder, *options):
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", *options, str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def fill(folder, leave):
    """Fill a disk but for so many bytes."""
    disk = os.statvfs(folder)
    with open(folder / "filler", "wb") as file:
        file.write(b"x" * (disk.f_bavail * disk.f_frsize - leave))
    return folder / "filler"


@mounts
@pytest.mark.slow
@pytest.mark.pipeline
@pytest.mark.parametrize("checkpoint_every", [1, 1000], ids=["checkpoint", "model"])
def test_a_full_disk_is_one_line_and_leaves_nothing_half_written(flow_run, tmp_path, checkpoint_every):
    with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", "size=64m", "tmpfs") as disk:
        project = flow_run[0].copy(disk / "project")
        project.set_params(erase__checkpoint_every=checkpoint_every)
        before = (project.root / WEIGHTS).read_bytes()
        filler = fill(disk, leave=40_000)
        line = stated(project.run("stages.erase", code=1), "CannotWrite")
        assert line.startswith("CannotWrite: erase cannot write (") and "No space left on device" in line
        assert not list(project.root.glob("models/.erased*")) and (project.root / WEIGHTS).read_bytes() == before
        assert not [p for p in project.root.glob(".work/checkpoints/*") if p.name.startswith(".erase")]
        filler.unlink()
        project.run("stages.erase")
        assert (project.root / WEIGHTS).read_bytes() == before


ROWS = """
import sys
from pathlib import Path
import torch
from erasediff.command import exit_code
from erasediff.data.rows import rows_on_disk

rows = ({"x": torch.ones(16, 3, 64, 64)} for _ in range(8))
sys.exit(exit_code("erase", lambda: rows_on_disk(rows, 128, Path(sys.argv[1]), "name")))
"""


@mounts
@pytest.mark.unit
def test_a_disk_that_rows_fill_is_one_line_and_leaves_nothing(tmp_path):
    with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", "size=2m", "tmpfs") as disk:
        told = subprocess.run([sys.executable, "-c", ROWS, str(disk)], capture_output=True, text=True, check=False)
        assert told.returncode == 1 and not list(disk.iterdir()), told
        line = stated(told.stderr, "CannotWrite")
        assert "No space left on device" in line and "/name/x.npy" in line


@mounts
@pytest.mark.pipeline
def test_a_checkout_that_may_not_be_written_is_one_line(project, tmp_path):
    with mounted(tmp_path / "ro", "--bind", str(project.root)) as folder:
        subprocess.run(["mount", "-o", "remount,bind,ro", str(folder)], check=True)
        there = type(project)(folder)
        for command in ("flows.erase", "stages.erase"):
            line = stated(there.run(command, code=1), "CannotWrite")
            assert "may not read or write" in line and "Read-only file system" in line


HOLDER = """
import zc.lockfile
lock = zc.lockfile.LockFile(".dvc/tmp/lock")
print("held", flush=True)
input()
"""


@pytest.mark.slow
@pytest.mark.pipeline
def test_the_flow_waits_for_another_that_uses_dvc(project):
    project.set_params(verdict__max_distance_ratio=1e8)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER], cwd=project.root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout.readline() == "held\n"
        process = project.start("flows.erase")
        time.sleep(40)
        assert process.poll() is None, process.communicate()[0]
    finally:
        holder.communicate("\n")
    said = process.communicate(timeout=200)[0]
    assert process.returncode == 0, said
    assert "Running stage 'verdict'" in said and "Traceback" not in said
