"""Start, stop or show this checkout's servers: Prefect, MLflow and a worker, on this machine alone."""

from __future__ import annotations

import os
import socket
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from erasediff.arguments import Parser
from erasediff.checkout import exclusive, project_root
from erasediff.errors import ParamsError, ServerFailed
from flows.command import run_command
from flows.tools.names import (
    BEAT,
    HEARTBEAT,
    MLFLOW_PORT,
    MLFLOW_TRACKING,
    PREFECT_API,
    PREFECT_HOME,
    PREFECT_PORT,
    WORK_POOL,
)
from flows.tools.servers import Server, alive, answers, folder, log_of, start, stop, wait_for

if TYPE_CHECKING:
    from erasediff.environment import Environment


def given() -> Environment:
    """Return the environment variables as they are now. Raises: ParamsError: a port is no number."""
    from erasediff.environment import environment  # not before a command has said how it is used

    return environment()


def servers() -> list[Server]:
    """Return all of them in the order in which they are started. Raises: ParamsError: a port is no number."""
    from erasediff.tracking import page  # not before a command has said how it is used

    root = project_root()
    prefect, mlflow = given().prefect_server_api_port, given().mlflow_port
    api, tracking = f"http://127.0.0.1:{prefect}/api", f"http://127.0.0.1:{mlflow}"
    home = {PREFECT_HOME: str(folder() / "prefect"), PREFECT_API: api}
    # Leases in files: with the default, in memory, a restart of the server would leave a killed job's slot taken.
    leases = {"PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem"}
    # The newer pages ask a third party for the settings of its analytics, whatever is set; both show advertisements.
    pages = {"PREFECT_SERVER_UI_V2_ENABLED": "false", "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false"}
    name = f"{socket.gethostname()}-{prefect}"
    return [
        Server(
            "prefect",
            ["prefect", "server", "start", "--host", "127.0.0.1", "--port", str(prefect)],
            lambda: answers(f"{api}/health"),
            f"http://127.0.0.1:{prefect}",
            home | leases | pages,
            (prefect, PREFECT_PORT),
        ),
        Server(
            "mlflow",
            ["mlflow", "server", "--host", "127.0.0.1", "--port", str(mlflow)],
            lambda: answers(f"{tracking}/health"),
            page("experiments", tracking),
            mlflow_settings(root),
            (mlflow, MLFLOW_PORT),
        ),
        Server(
            "worker",
            ["prefect", "worker", "start", "--pool", WORK_POOL, "--type", "process", "--name", name],
            lambda: _worker_is_online(name),
            settings=home | {MLFLOW_TRACKING: tracking, HEARTBEAT: str(BEAT)},
        ),
    ]


def mlflow_settings(root: Path) -> dict[str, str]:
    """Return MLflow's own variables: the store that the checkout uses without a server too. Raises: TrackingError."""
    from erasediff.tracking.server import sqlite_uri  # not before a command has said how it is used

    settings = {
        "MLFLOW_BACKEND_STORE_URI": sqlite_uri(root / "mlflow.db"),
        "MLFLOW_WORKERS": "1",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # eight processes that nothing here asks for
    }
    if given().mlflow_artifacts_destination is None:
        # Files at a path that both sides see, not behind the server: what one writes the other can read.
        local = {"MLFLOW_SERVE_ARTIFACTS": "false", "MLFLOW_DEFAULT_ARTIFACT_ROOT": (root / "mlartifacts").as_uri()}
        settings |= local
    return settings


def _worker_is_online(name: str) -> bool:
    process = alive("worker")
    if process is None or not answers(os.environ[PREFECT_API] + "/health"):
        return False
    from flows.jobs.registration import worker_is_online

    return worker_is_online(name, datetime.fromisoformat(process.since))


def up() -> None:
    """Start what is not running, wait until it is healthy, register the deployments; say how each server is.

    Raises: ServerFailed: what this call started is stopped again.
    """
    (prefect, mlflow, worker), jobs = servers(), given().erasediff_jobs
    started: list[str] = []

    def start_missing(*wanted: Server) -> None:
        new = []
        for server in wanted:
            if alive(server.name) is None:
                print(f"starting {server.title} …", flush=True)
                new.append((server, start(server)))
                started.append(server.name)
        wait_for(new)

    with exclusive(folder().with_suffix(".lock")):
        os.environ.update(worker.settings)
        try:
            start_missing(prefect, mlflow)
            from flows.jobs.registration import register

            register(log_of("deploy"), jobs)
            start_missing(worker)
        except BaseException:
            for name in reversed(started):
                stop(name)
            raise
    status()


def register_elsewhere() -> None:
    """Register the deployments on a server that is not of this checkout. Raises: ParamsError, ServerFailed."""
    api = given().prefect_api_url
    if not api:
        raise ParamsError(f"{PREFECT_API} is not set: name the server, such as http://127.0.0.1:4200/api")
    if not answers(f"{api.rstrip('/')}/health"):
        raise ServerFailed(f"no Prefect server answers at {api}: start it, or correct {PREFECT_API}")
    from flows.jobs.registration import register

    folder().mkdir(parents=True, exist_ok=True)
    register(log_of("deploy"), given().erasediff_jobs)
    print(f"registered on {api}")


def down() -> None:
    """Stop what :func:`up` started, the worker and its jobs first."""
    with exclusive(folder().with_suffix(".lock")):
        for server in reversed(servers()):
            print(f"{server.name:8} {'stopped' if stop(server.name) else 'was not running'}")


def status() -> None:
    """Say how each server is; exit with 1 unless all are well."""
    well = True
    os.environ.update(servers()[-1].settings)
    for server in servers():
        noted = alive(server.name)
        healthy = noted is not None and server.healthy()
        well &= healthy
        said = "not running" if noted is None else f"{'running' if healthy else 'NOT HEALTHY'}, pid {noted.pid}"
        print(f"{server.name:8} {said:24} {noted.url if noted else ''}".rstrip())
    print(f"logs     {folder()}")
    if not well:
        sys.exit(1)


COMMANDS = {"up": up, "down": down, "status": status, "register": register_elsewhere}


def main() -> None:
    """The command ``python -m flows.servers``."""
    parser = Parser(
        prog="python -m flows.servers",
        description=__doc__,
        epilog="Environment variables set ports, databases, the number of jobs and where failures are posted: "
        "docs/environment.md.",
    )
    parser.add_argument(
        "command",
        choices=COMMANDS,
        help=f"status exits 1 unless all are well; register: only the deployments, on the server of {PREFECT_API}",
    )
    run_command("servers", COMMANDS[parser.parse_args().command])


if __name__ == "__main__":
    main()
