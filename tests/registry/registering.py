"""Versions to try things with, and MLflow commands that listen."""

import base64
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager, suppress
from pathlib import Path

from erasediff import tracking
from erasediff.artifacts import sha256_folder
from erasediff.registry.publishing import register_version

FOLDER = Path("models/erased")


def tags(digest="d1", passed="true", erasures=()):
    """What a version needs to be promoted."""
    facts = {"lineage_digest": digest, "gates_passed": passed, "erased_sha256": sha256_folder(FOLDER)}
    return facts | {"erasures": json.dumps(list(erasures)), "example_concept": "a"}


def register(of=None, card="card", example="a", files=(FOLDER / "model_index.json",)):
    """Register models/erased as a version of ``m``; its number."""
    with tracking.stage_run("register", {}) as run:
        return register_version("m", run.run_id, FOLDER, of or tags(), list(files), card, example)


def picture(text):
    from PIL import Image

    image = Image.open(io.BytesIO(base64.b64decode(text)))
    image.load()
    return image


@contextmanager
def listening(*arguments, ready, folder):
    """An MLflow command that listens, ended by the id of the group that it was started in."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    environment.pop("PYTHONPATH", None)  # a served model brings its own code
    command = [sys.executable, "-m", "mlflow", *arguments, "-p", str(port)]
    with open(folder / "log", "w") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True)
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
        process.wait(30)
