"""The servers of docker/compose.yaml, natively: a request to forget from pictures to a version that others load."""

import base64
import json
import subprocess
import sys
import urllib.error
import urllib.request

import pytest
from deployments import ended, scheduled, submitted
from servers import postgres_binary

from stages.params import load_params

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(1800)]


def ask(url, user="", content=None):
    headers = {"Content-Type": "application/json"}
    if user:
        headers["Authorization"] = "Basic " + base64.b64encode(user.encode()).decode()
    data = None if content is None else json.dumps(content).encode()
    return json.loads(urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=20).read())


def test_the_flow_runs_on_the_servers(stack, flow_run):
    project, said = flow_run
    assert "model    erasediff-digits version 1, alias challenger, champion" in said
    api = stack.client["PREFECT_API_URL"]
    runs = ask(f"{api}/flow_runs/filter", stack.client["PREFECT_API_AUTH_STRING"], {})
    assert [run["state"]["type"] for run in runs] == ["COMPLETED"]
    assert not (project.root / "mlflow.db").exists()
    stored = [item.key for item in stack.bucket("mlflow").objects.all()]
    assert any(key.startswith("artifacts/") and key.endswith(WEIGHTS) for key in stored)
    with stack.connect("mlflow") as database:
        statuses = database.execute("SELECT status, count(*) FROM runs GROUP BY status").fetchall()
        assert dict(statuses) == {"FINISHED": 12}  # the flow, nine stages, two aliases
        assert "mlflow-artifacts:" in database.execute("SELECT artifact_uri FROM runs").fetchone()[0]


def test_without_the_password_nothing_answers(stack):
    for url in (
        f"{stack.client['MLFLOW_TRACKING_URI']}/api/2.0/mlflow/experiments/search?max_results=1",
        f"{stack.client['PREFECT_API_URL']}/flows/count",
    ):
        for user in ("", "admin:wrong", "erasediff:wrong"):
            with pytest.raises(urllib.error.HTTPError, match="401"):
                ask(url, user, {} if "flows" in url else None)


def test_another_clone_pulls_the_very_model(project, tmp_path):
    project.git("add", "dvc.lock")
    project.git("commit", "-qm", "model line")
    project.run("dvc", "push")
    other = tmp_path / "other"
    subprocess.run(["git", "clone", "-q", str(project.root), str(other)], check=True)
    there = type(project)(other)
    there.environment |= project.environment | {"PYTHONPATH": str(other)}
    there.run("dvc", "pull")
    for name in (WEIGHTS, "sha256.json"):
        assert (other / "models/erased" / name).read_bytes() == (project.root / "models/erased" / name).read_bytes()
    assert "Running stage" not in there.run("dvc", "repro")


def test_a_version_is_loaded_without_keys_of_the_store(project, tmp_path):
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    there = type(project)(folder)
    keyless = {k: v for k, v in project.environment.items() if not k.startswith("AWS_")}
    there.environment = keyless | {"AWS_EC2_METADATA_DISABLED": "true"}
    uri = "models:/erasediff-digits@champion"
    there.run("stages.sample", "--model", uri, "--concept", "3", "--n", "1", "--steps", "2", "--out", "three.png")
    assert (folder / "three.png").exists()
    (cached,) = folder.glob(f".work/models/*/{WEIGHTS}")
    assert cached.read_bytes() == (project.root / "models/erased" / WEIGHTS).read_bytes()


def test_a_scheduled_run_ends_in_store_and_remote(stack, project, tmp_path):
    project.git("add", "dvc.lock")
    project.git("commit", "-qm", "model line")
    command = [word.replace("/tmp/", f"{tmp_path}/") for word in stack.services["deployments"]["command"]]
    subprocess.run([sys.executable, *command[1:]], cwd=project.root, env=project.environment, check=True)
    with stack.worker():
        run = ended(project, scheduled(project, {"concepts": ["3"]}), 600)
        assert run.state.name == "Completed", run.state.message
        url = f"{stack.client['PREFECT_API_URL']}/work_pools/erasediff/workers/filter"
        (worker,) = ask(url, stack.client["PREFECT_API_AUTH_STRING"], {})
        assert worker["status"] == "ONLINE"
        again = ended(project, submitted(project, {"concepts": ["3"]}))
        assert again.state.message == "nothing to do: everything is up to date"
    other = tmp_path / "other"
    subprocess.run(["git", "clone", "-q", str(project.root), str(other)], check=True)
    there = type(project)(other)
    there.environment |= project.environment | {"PYTHONPATH": str(other)}
    (tag,) = there.git("tag").split()
    there.git("checkout", "-q", tag)
    there.run("dvc", "pull", "models/erased")
    assert load_params(other / "params.yaml").forget_set.concepts == ["3"]
    weights = (other / "models/erased" / WEIGHTS).read_bytes()
    stored = [item for item in stack.bucket("mlflow").objects.all() if item.key.endswith(WEIGHTS)]
    assert [item.get()["Body"].read() == weights for item in stored].count(True) == 1


def test_no_secret_is_shown(stack, flow_run):
    project, said = flow_run
    hidden = stack.secrets()
    assert not [s for s in hidden if s in said]
    files = [p for root in (project.root, stack.folder) for p in root.rglob("*") if p.is_file()]
    files = [p for p in files if not p.is_relative_to(stack.folder / "store")]
    assert any(p.name == "report.html" for p in files) and any(p.name == "mlflow.log" for p in files)
    for path in [*files, stack.postgres.log]:
        content = path.read_bytes()
        assert not [s for s in hidden if s.encode() in content], path
    for database in ("mlflow", "prefect"):
        dump = subprocess.run(
            [postgres_binary("pg_dump"), stack.url(database)], capture_output=True, text=True, check=True
        ).stdout
        assert "COPY public." in dump and not [s for s in hidden if s in dump], database
    for item in stack.bucket("mlflow").objects.all():
        content = item.get()["Body"].read()
        assert not [s for s in hidden if s.encode() in content], item.key
