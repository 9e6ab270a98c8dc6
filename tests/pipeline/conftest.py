"""A checkout with tiny settings in which the flow has run once."""

import shutil

import pytest
from checkout import Project, new_project
from deployments import with_ports
from filelock import FileLock


@pytest.fixture(scope="session")
def flow_run(tmp_path_factory, worker_id):
    """``(project, what the flow said)`` after one whole run, which several workers share: tests read it, or copy it."""
    root = tmp_path_factory.getbasetemp()
    root = (root if worker_id == "master" else root.parent) / "flow"
    said = root / "said.txt"
    with FileLock(f"{root}.lock"):
        if not said.exists():
            shutil.rmtree(root, ignore_errors=True)  # what a run that failed left
            output = new_project(root / "project").run("flows.erase", timeout=600)
            said.write_text(output)
    return Project(root / "project"), said.read_text()


@pytest.fixture
def project(flow_run, tmp_path):
    """A copy of the project after its run."""
    return flow_run[0].copy(tmp_path / "project")


@pytest.fixture(scope="module")
def served(flow_run, tmp_path_factory):
    """A project after its first run, with all servers up and a DVC remote whose address is relative."""
    project = with_ports(flow_run[0].copy(tmp_path_factory.mktemp("served") / "project"))
    project.run("dvc", "remote", "add", "-d", "store", "../store")
    project.git("commit", "-qam", "remote")
    try:
        assert project.run("flows.servers", "up").count("running, pid") == 3
        yield project
    finally:
        project.run("flows.servers", "down")
