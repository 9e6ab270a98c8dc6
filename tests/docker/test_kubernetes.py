"""The Kubernetes manifests against the schemas of Kubernetes itself: no cluster is needed."""

import asyncio
import json
import shutil
import subprocess
from uuid import uuid4

import pytest
import yaml
from servers import DOCKER

FOLDER = DOCKER / "kubernetes"
VERSION = "1.33"
TEMPLATE = json.loads((FOLDER / "job-template.json").read_text())
pytestmark = pytest.mark.unit


def validate(manifest):
    validator = pytest.importorskip("kubernetes_validate", reason="needs the extra system: kubernetes-validate")
    validator.validate(manifest, VERSION, strict=True)


def configured(**values):
    """A flow run's job as Prefect's worker configures it, with the worker's settings."""
    pytest.importorskip("prefect_kubernetes", reason="needs the extra system: prefect-kubernetes")
    from prefect.client.schemas.objects import FlowRun
    from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings
    from prefect_kubernetes.worker import KubernetesWorkerJobConfiguration

    with temporary_settings({PREFECT_API_URL: "http://prefect:4200/api", PREFECT_API_AUTH_STRING: "user:hush-hush"}):
        configuration = asyncio.run(KubernetesWorkerJobConfiguration.from_template_and_values(TEMPLATE, values))
        configuration.prepare_for_flow_run(FlowRun(id=uuid4(), flow_id=uuid4(), name="humble-hare"))
    return configuration


def pod(configuration):
    return configuration.job_manifest["spec"]["template"]["spec"]


def test_a_flow_run_is_a_valid_job_with_a_gpu():
    configuration = configured()
    validate(configuration.job_manifest)
    (container,) = pod(configuration)["containers"]
    assert container["resources"]["limits"] == {"nvidia.com/gpu": 1, "memory": "16Gi"}
    assert container["args"][:2] == ["prefect", "flow-run"] and "{{" not in json.dumps(configuration.job_manifest)
    assert pod(configuration)["securityContext"]["runAsNonRoot"] is True


def test_what_the_variables_say_arrives():
    values = {
        "gpus": 4,
        "memory": "64Gi",
        "image": "registry.example/erasediff:gpu",
        "node_selector": {"gpu": "h100"},
        "checkout_claim": "mine",
        "env": {"OMP_NUM_THREADS": "1"},
    }
    configuration = configured(**values)
    validate(configuration.job_manifest)
    (container,) = pod(configuration)["containers"]
    assert container["resources"]["limits"] == {"nvidia.com/gpu": 4, "memory": "64Gi"}
    assert container["image"] == values["image"] and pod(configuration)["nodeSelector"] == {"gpu": "h100"}
    assert pod(configuration)["volumes"][0]["persistentVolumeClaim"]["claimName"] == "mine"
    assert {"name": "OMP_NUM_THREADS", "value": "1"} in container["env"]
    assert set(TEMPLATE["variables"]["properties"]) >= set(values)


def test_the_validator_sees_what_is_wrong():
    configuration = configured()
    pod(configuration)["completions"] = 1  # belongs to the job
    with pytest.raises(Exception, match="completions"):
        validate(configuration.job_manifest)


def kustomized():
    """The manifests as ``kubectl kustomize`` puts them together."""
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    done = subprocess.run(["kubectl", "kustomize", str(FOLDER)], capture_output=True, text=True, check=True)
    return list(yaml.safe_load_all(done.stdout))


def test_the_base_is_valid_and_refers_to_what_is_there():
    manifests = kustomized()
    for manifest in manifests:
        validate(manifest)
        assert manifest["metadata"]["namespace"] == "erasediff"
    there = {(m["kind"], m["metadata"]["name"]) for m in manifests}
    variables = {name: about.get("default") for name, about in TEMPLATE["variables"]["properties"].items()}
    assert ("ServiceAccount", variables["service_account_name"]) in there
    assert ("PersistentVolumeClaim", variables["checkout_claim"]) in there
    (deployment,) = [m for m in manifests if m["kind"] == "Deployment"]
    spec = deployment["spec"]["template"]["spec"]
    assert ("ServiceAccount", spec["serviceAccountName"]) in there
    assert ("ConfigMap", spec["volumes"][0]["configMap"]["name"]) in there
    (job_template,) = [m for m in manifests if m["metadata"]["name"] == "erasediff-job-template"]
    assert json.loads(job_template["data"]["job-template.json"]) == TEMPLATE
    assert not [kind for kind, _ in there if kind == "Secret"]


def test_no_password_is_in_a_job(monkeypatch):
    configuration = configured()
    from prefect_kubernetes.settings import KubernetesSettings
    from prefect_kubernetes.worker import KubernetesWorker

    worker_yaml = yaml.safe_load((FOLDER / "worker.yaml").read_text())
    for entry in worker_yaml["spec"]["template"]["spec"]["containers"][0]["env"]:
        if "value" in entry:
            monkeypatch.setenv(entry["name"], entry["value"])
    settings = KubernetesSettings()
    assert settings.observer.namespaces == {"erasediff"}
    name, key = settings.worker.api_auth_string_secret_name, settings.worker.api_auth_string_secret_key
    assert "hush-hush" in json.dumps(configuration.job_manifest)
    worker = KubernetesWorker(work_pool_name="erasediff-kubernetes")
    asyncio.run(
        worker._replace_env_variable_with_secret("PREFECT_API_AUTH_STRING", configuration, name, key)  # as it does
    )
    validate(configuration.job_manifest)
    assert "hush-hush" not in json.dumps(configuration.job_manifest)
