"""A version of the registry on its way to the Hugging Face hub: a server on this machine stands in for the hub."""

import base64
import json
import os
import subprocess
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from diffusers import StableDiffusionPipeline
from huggingface_hub import ModelCard
from registering import FOLDER, tags
from test_lora_version import BASE, erased_beside
from test_register import MODEL, register
from tiny_stable_diffusion import tiny_stable_diffusion

import erasediff
from erasediff import tracking
from erasediff.artifacts import new_folder, read_json, write_json
from erasediff.cli import main
from erasediff.registry.hub import publish_version
from erasediff.registry.publishing import register_version


@contextmanager
def hub():
    """The routes that an upload of small files takes; yields the address, what was asked, and the files it holds."""
    asked, files = [], {}

    class Hub(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
            asked.append((self.path, body, self.headers.get("Authorization")))
            answer = {}
            if self.path.endswith("/preupload/main"):
                answer = {
                    "files": [
                        {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                        for f in json.loads(body)["files"]
                    ]
                }
            elif self.path.endswith("/commit/main"):
                for line in map(json.loads, body.splitlines()):
                    if line["key"] == "file":
                        files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                answer = {"commitUrl": f"{self.address()}/you/erased/commit/c0ffee", "commitOid": "c0ffee"}
            elif self.path == "/api/repos/create":
                answer = {"url": f"{self.address()}/you/erased"}
            self.answer(answer)

        def do_GET(self):
            asked.append((self.path, "", self.headers.get("Authorization")))
            self.answer({"sha": "0" * 40, "siblings": [], "id": "you/erased"})

        def answer(self, what):
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(what).encode())

        def address(self):
            return f"http://127.0.0.1:{self.server.server_port}"

        def log_message(self, *_): ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked, files
    finally:
        server.shutdown()
        server.server_close()


def push(*arguments, endpoint):
    """The command, to the hub at an address."""
    environment = {**os.environ, "HF_ENDPOINT": endpoint, "HF_TOKEN": "hf_test", "HF_HUB_OFFLINE": "0"}
    command = [sys.executable, "-m", "erasediff.cli", "push", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)


@pytest.fixture
def version(project):
    found = {"value": 0.25, "low": 0.125, "high": 0.5, "pictures": 20}
    attacks = {which: {"settings": {"2 steps": found}} for which in ("base", "erased")}
    file = Path("metrics/evaluation.json")
    write_json(file, {**read_json(file), "attacks": attacks})
    assert register().returncode == 0
    return f"models:/{MODEL}/1"


@pytest.mark.pipeline
def test_a_version_is_pushed_with_a_card_of_its_own_numbers(version, tmp_path):
    assert main(["push", version, "you/erased", "--output", "out"]) == 0
    card = ModelCard.load("out/README.md")
    assert card.data.library_name == "diffusers" and "concept-erasure" in card.data.tags
    lines = card.text.splitlines()
    assert 'pipeline = erasediff.load("hf://you/erased")' in lines and "import erasediff" in lines
    assert "| unlearning_accuracy | 0.5000 | ≥ 0.9 | FAILED |" in lines and "- updates: 17" in lines
    assert "| settings | 2 steps | 0.250 (0.125 to 0.500) | 0.250 (0.125 to 0.500) |  |" in lines
    told = card.text.casefold()
    assert not any(name in told for name in ("mlflow", "registered by", "asked for", str(tmp_path).casefold()))
    assert erasediff.load("out").names == ("a", "b", "c")
    with hub() as (endpoint, asked, files):
        done = push(version, "you/erased", endpoint=endpoint)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{endpoint}/you/erased/commit/c0ffee\n"
    created = next(json.loads(body) for path, body, _ in asked if path == "/api/repos/create")
    assert created["name"] == "erased" and created["organization"] == "you" and created["visibility"] == "private"
    assert {token for *_, token in asked} == {"Bearer hf_test"}
    written = {str(path.relative_to("out")): path for path in Path("out").rglob("*") if path.is_file()}
    assert files == {name: path.read_bytes() for name, path in written.items()}

    refused = push(version, "you/erased", endpoint="http://127.0.0.1:9")
    assert refused.returncode == 1 and refused.stderr.count("\n") == 1
    assert refused.stderr.startswith(f"ModelError: {version} cannot be pushed to you/erased (")
    assert main(["push", f"models:/{MODEL}/7", "you/erased", "--output", "other"]) == 1 and not Path("other").exists()


@pytest.mark.pipeline
@pytest.mark.filterwarnings("ignore:.*another concept")
def test_a_lora_goes_alone_and_no_folder_of_this_machine_is_named(project, tmp_path):
    pipeline = tiny_stable_diffusion()
    pipeline.save_pretrained(BASE)
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / BASE)
    result = erased_beside(pipeline, str(BASE))
    files = [Path(name) for name in ("metrics/evaluation.json", "metrics/erase.json", "dvc.lock")]
    with tracking.stage_run("register", {}) as run:
        for number in "12":
            of = tags(number, erasures=["star"])
            assert register_version("m", run.run_id, FOLDER, of, files, lambda version: "card", "a star") == number
            publish_version(f"models:/m/{number}", "you/star", Path("out") / number)
            with new_folder(FOLDER) as folder:
                result.save(folder, fused=True)
    lora = {path.name for path in Path("out/1").iterdir()}
    assert lora == {"README.md", "pytorch_lora_weights.safetensors", "kohya_lora.safetensors", "sha256.json"}
    card = Path("out/1/README.md").read_text()
    assert 'pipeline.load_lora_weights("you/star"' in card and "erasediff.load" not in card
    assert 'erasediff.load("hf://you/star")' in Path("out/2/README.md").read_text()
    card = ModelCard.load("out/1/README.md")
    assert "lora" in card.data.tags and "lora" not in ModelCard.load("out/2/README.md").data.tags
    assert "It is put on its base, `the model with SHA-256 " in card.text
    assert (Path("models/erased/model_index.json")).exists()
    texts = [path.read_text() for path in Path("out").rglob("*.*") if path.suffix in (".json", ".md")]
    assert texts and not any(str(tmp_path) in text or str(BASE) in text for text in texts)
    StableDiffusionPipeline.from_pretrained(Path("out/2")).load_lora_weights(Path("out/1"))
