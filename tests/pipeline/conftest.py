"""A checkout with tiny settings in which the flow has run once."""

import pytest
from checkout import new_project
from deployments import with_ports


@pytest.fixture(scope="session")
def flow_run(tmp_path_factory):
    """``(project, what the flow said)`` after one whole run."""
    project = new_project(tmp_path_factory.mktemp("project"))
    return project, project.run("flows.erase", timeout=600)


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
