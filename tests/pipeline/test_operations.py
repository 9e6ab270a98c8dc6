"""The operator's page: its commands are run as they stand there, and it knows every failure."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from checkout import REPOSITORY
from test_servers import client, with_ports

from erasediff.artifacts import sha256_folder

PAGE = (REPOSITORY / "docs/operations.md").read_text(encoding="utf-8")
MODEL = "erasediff-digits"


def commands(heading):
    """The first block of commands below a heading of the page."""
    return re.search(rf"^## {heading}\n.*?^```bash\n(.*?)^```", PAGE, re.M | re.S)[1]


def follow(project, heading):
    """Run a block of the page in the checkout, by a shell that stops at the first failure."""
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands(heading)],
        cwd=project.root,
        env=project.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def install(root):
    """This environment as the checkout's .venv, which make takes for installed."""
    (root / ".venv").mkdir(parents=True)
    for path in Path(sys.prefix).iterdir():
        if path.name != ".installed":
            (root / ".venv" / path.name).symlink_to(path)
    (root / ".venv/.installed").touch()


def picture(project):
    """What the champion draws."""
    project.run("stages.sample", f"--model=models:/{MODEL}@champion", "--concept=3", "--n=4", "--out=../drawn.png")
    return (project.root.parent / "drawn.png").read_bytes()


def state(project):
    """Picture, model folder, commit."""
    return picture(project), sha256_folder(project.root / "models/erased"), project.git("rev-parse", "HEAD")


def runs(project):
    with client(project) as prefect:
        return {run.id for run in prefect.read_flow_runs()}


@pytest.mark.slow
@pytest.mark.system
@pytest.mark.timeout(1200)
def test_backup_wipe_restore_and_upgrade_bring_the_same_back(flow_run, tmp_path):
    project = with_ports(flow_run[0].copy(tmp_path / "project"))
    project.environment["BACKUP"] = str(tmp_path / "backup")
    (tmp_path / "backup").mkdir()
    install(project.root)
    try:
        project.run("flows.servers", "up")
        with client(project) as prefect:
            deployment = prefect.read_deployment_by_name("promote/promote")
            asked = prefect.create_flow_run_from_deployment(deployment.id, parameters={"why": "request 17"}).id
        before = state(project)
        follow(project, "Back up")
        project.run("flows.servers", "down")
        shutil.rmtree(project.root)
        install(project.root)
        said = follow(project, "Restore")
        assert said.count("running, pid") == 3 and "up to date" in said
        assert state(project) == before
        assert (project.root / "three.png").read_bytes() == before[0]
        assert asked in runs(project)
        assert "gates passed" in project.run("flows.promote", "history")
        assert "nothing to do" in project.run("flows.erase")
        project.git("clone", "-q", "--bare", ".", "../origin")
        project.git("remote", "add", "origin", "../origin")
        project.git("fetch", "-q", "origin")
        project.git("branch", "-q", "-u", f"origin/{project.git('branch', '--show-current')}")
        assert follow(project, "Upgrade").count("running, pid") == 3
        assert picture(project) == before[0] and asked in runs(project)
    finally:
        project.run("flows.servers", "down")
