"""Versions to try things with, and commands that listen."""

import base64
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from contextlib import contextmanager, suppress
from pathlib import Path

from mlflow.exceptions import MlflowException

from erasediff import tracking
from erasediff.artifacts import sha256_folder
from erasediff.registry.publishing import register_version
from erasediff.registry.store import FILES_TAG, files_digest
from erasediff.registry.versions import LAST, stored_tags
from erasediff.tracking import server

FOLDER = Path("models/erased")


def tags(digest="d1", passed="true", erasures=()):
    """What a version needs to be promoted."""
    facts = {"lineage_digest": digest, "gates_passed": passed, "erased_sha256": sha256_folder(FOLDER)}
    return facts | {"erasures": json.dumps(list(erasures)), "example_concept": "a"}


def register(of=None, card="card", example="a", files=(FOLDER / "model_index.json",)):
    """Register models/erased as a version of ``m``; its number."""
    with tracking.stage_run("register", {}) as run:
        return register_version("m", run.run_id, FOLDER, of or tags(), list(files), lambda version: card, example)


def version(erasures, passed="true", **more):
    """A version of ``m`` that has forgotten these, stored as MLflow would; its number.

    Without the drawing of an example that logging a model brings, which takes seconds.
    """
    client = server.client()
    of = {**tags(f"d{uuid.uuid4().hex}", passed, erasures), **more}
    with tracking.stage_run("register", {}) as run:
        model = client.create_logged_model(run.experiment_id, "m", run.run_id)
        with tempfile.TemporaryDirectory() as temporary:
            shutil.copytree(FOLDER, Path(temporary) / "artifacts" / "erased")
            (Path(temporary) / "served_model.py").write_text("import mlflow\n")
            (Path(temporary) / "code").mkdir()
            (Path(temporary) / "code" / "part.py").write_text("x = 1\n")
            client.log_model_artifacts(model.model_id, temporary)
        client.finalize_logged_model(model.model_id, "READY")
        with suppress(MlflowException):
            client.create_registered_model("m")
        made = client.create_model_version("m", f"models:/{model.model_id}", run.run_id, stored_tags(of))
    client.set_model_version_tag("m", made.version, LAST + FILES_TAG, files_digest(f"models:/m/{made.version}"))
    return str(made.version)


def stored(number):
    """The folder in which the store keeps a version of ``m``."""
    model = server.client().get_model_version("m", number).source.rpartition("/")[2]
    return next(Path("mlartifacts").rglob(model)) / "artifacts"


def picture(text):
    from PIL import Image

    image = Image.open(io.BytesIO(base64.b64decode(text)))
    image.load()
    return image


@contextmanager
def listening(*arguments, ready, folder):
    """A module's command that listens, ended by the id of the group that it was started in."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", *arguments, "--port", str(port)]
    with open(folder / "log", "w") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, start_new_session=True)
    try:
        until = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/{ready}", timeout=5)
                break
            except OSError:
                assert process.poll() is None and time.monotonic() < until, (folder / "log").read_text()
                time.sleep(1)
        yield port
    finally:
        with suppress(ProcessLookupError):  # it ended by itself: the assertion above says so
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(120)  # on a busy machine a server takes its time
