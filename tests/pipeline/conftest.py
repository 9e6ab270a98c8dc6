"""A checkout with tiny settings in which the flow has run once."""

import pytest
from checkout import new_project


@pytest.fixture(scope="session")
def flow_run(tmp_path_factory):
    """``(project, what the flow said)`` after one whole run."""
    project = new_project(tmp_path_factory.mktemp("project"))
    return project, project.run("flows.erase", timeout=600)


@pytest.fixture
def project(flow_run, tmp_path):
    """A copy of the project after its run."""
    return flow_run[0].copy(tmp_path / "project")
