"""Serve a registered version by MLflow's own server, once a copy of its files is checked: weights and code."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import NoReturn

from erasediff.arguments import Parser, within
from flows.command import run_command

#: Beside MLflow's own, 5000, where ``make up`` listens.
PORT = 5001


def main() -> None:
    """The command ``python -m flows.serve``."""
    parser = Parser(prog="python -m flows.serve", description=__doc__)
    parser.add_argument("version", nargs="?", default="champion", help="a number or an alias (default: %(default)s)")
    parser.add_argument("--model", help="registered model (default: register.model_name of params.yaml)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s, this machine)")
    parser.add_argument("--port", type=within(1, 65535), default=PORT, help="default: %(default)s")
    parser.add_argument("--workers", type=within(1, 1000), default=1, help="processes, a model each (default: 1)")
    asked = parser.parse_args()
    run_command("serve", lambda: serve(asked.version, asked.model, asked.host, asked.port, asked.workers))


def serve(version: str, model: str | None, host: str, port: int, workers: int) -> NoReturn:
    """Copy a version, check the copy, and become the server of it. Nothing of the version runs before.

    Raises: IntegrityError: its files are not what was registered. ServerFailed: the port is taken. ModelError.
    """
    from erasediff.checkout import project_root
    from erasediff.registry.store import verified_copy
    from erasediff.registry.versions import version_of
    from flows.tools.processes import environment
    from flows.tools.results import model_name
    from flows.tools.servers import require_free

    require_free(port, "serve", "--port")
    found = version_of(model_name(model), version)
    place = project_root() / ".work" / "served" / str(port)
    shutil.rmtree(place, ignore_errors=True)  # of a server that has ended: its port is free
    folder = verified_copy(found, place)
    told = f"version {found.version} of {found.name} is what was registered: MLflow serves it at http://{host}:{port}"
    print(told, flush=True)
    _become(folder, place.parent, environment(), ["--host", host, "--port", str(port), "--workers", str(workers)])


def _become(folder: Path, place: Path, variables: dict[str, str], options: list[str]) -> NoReturn:
    """Go on as MLflow's server, which brings the version's code: that of this checkout is out of its way."""
    variables.pop("PYTHONPATH", None)
    os.chdir(place)
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--env-manager", "local", "--model-uri", str(folder)]
    os.execve(sys.executable, [*command, *options], variables)


if __name__ == "__main__":
    main()
