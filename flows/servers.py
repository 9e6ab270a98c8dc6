"""Start, stop or show this checkout's servers: Prefect, MLflow and a worker, on this machine alone."""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from erasediff.checkout import exclusive, process_start, project_root
from erasediff.errors import ParamsError, ServerFailed
from flows.pipeline import environment

#: Seconds that a server may take to become healthy, and to end.
PATIENCE, END = 180, 30


@dataclass(frozen=True)
class Server:
    """A process of our own.

    Attributes:
        name: of its files.
        arguments: of ``python -m``.
        healthy: whether it does its work.
        url: for a person; empty where it listens to nobody.
        settings: environment variables; what a person has set goes first.
        port: what has to be free.
    """

    name: str
    arguments: list[str]
    healthy: Callable[[], bool]
    url: str = ""
    settings: dict[str, str] = field(default_factory=dict)
    port: int | None = None


def folder() -> Path:
    """Where process files, logs and Prefect's own database are."""
    return project_root() / ".work" / "servers"


def servers() -> list[Server]:
    """All of them in the order in which they are started. Raises: ParamsError: a port is no number."""
    root = project_root()
    prefect, mlflow = number("PREFECT_SERVER_API_PORT", 4200), number("MLFLOW_PORT", 5000)
    api, tracking = f"http://127.0.0.1:{prefect}/api", f"http://127.0.0.1:{mlflow}"
    home = {"PREFECT_HOME": str(folder() / "prefect"), "PREFECT_API_URL": api}
    # Leases in files: with the default, in memory, a restart of the server would leave a killed job's slot taken.
    leases = {"PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem"}
    name = f"{socket.gethostname()}-{prefect}"
    return [
        Server(
            "prefect",
            ["prefect", "server", "start", "--host", "127.0.0.1", "--port", str(prefect)],
            lambda: answers(f"{api}/health"),
            f"http://127.0.0.1:{prefect}",
            home | leases,
            prefect,
        ),
        Server(
            "mlflow",
            ["mlflow", "server", "--host", "127.0.0.1", "--port", str(mlflow)],
            lambda: answers(f"{tracking}/health"),
            tracking,
            mlflow_settings(root),
            mlflow,
        ),
        Server(
            "worker",
            ["prefect", "worker", "start", "--pool", "erasediff", "--type", "process", "--name", name],
            lambda: _worker_is_online(name),
            settings=home | {"MLFLOW_TRACKING_URI": tracking, "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30"},
        ),
    ]


def mlflow_settings(root: Path) -> dict[str, str]:
    """MLflow's own variables: the store that the checkout uses without a server too."""
    settings = {
        "MLFLOW_BACKEND_STORE_URI": f"sqlite:///{root / 'mlflow.db'}",
        "MLFLOW_WORKERS": "1",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # eight processes that nothing here asks for
    }
    if "MLFLOW_ARTIFACTS_DESTINATION" not in os.environ:
        # Files at a path that both sides see, not behind the server: what one writes the other can read.
        local = {"MLFLOW_SERVE_ARTIFACTS": "false", "MLFLOW_DEFAULT_ARTIFACT_ROOT": (root / "mlartifacts").as_uri()}
        settings |= local
    return settings


def number(variable: str, default: int, most: int = 65535) -> int:
    """A port, or another number, from the environment. Raises: ParamsError."""
    value = os.environ.get(variable, str(default))
    if not value.isdigit() or not 0 < int(value) <= most:
        raise ParamsError(f"{variable} is {value!r}: give a number from 1 to {most}")
    return int(value)


def answers(url: str) -> bool:
    """Whether a server says that it is well."""
    from urllib.error import URLError
    from urllib.request import ProxyHandler, build_opener

    try:
        with build_opener(ProxyHandler({})).open(url, timeout=5) as answer:
            return answer.status == 200
    except (URLError, OSError):
        return False


def _worker_is_online(name: str) -> bool:
    process = alive("worker")
    if process is None or not answers(os.environ["PREFECT_API_URL"] + "/health"):
        return False
    from flows.registration import worker_is_online

    return worker_is_online(name, datetime.fromisoformat(process["since"]))


def log_of(name: str) -> Path:
    """The log of a server."""
    return folder() / f"{name}.log"


def last_line(path: Path) -> str:
    """The last line of a log that says anything."""
    lines = path.read_text(errors="replace").splitlines() if path.exists() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")


def noted_of(name: str) -> dict[str, Any] | None:
    """What is noted of a server's process, whether or not that still runs."""
    from erasediff.artifacts import read_json

    file = folder() / f"{name}.json"
    return read_json(file) if file.exists() else None


def alive(name: str) -> dict[str, Any] | None:
    """What is noted of a server's process, where that still runs: a number that went to another is not taken for it."""
    noted = noted_of(name)
    return noted if noted and process_start(noted["pid"]) == noted["process_start"] else None


def family(name: str) -> list[Any]:
    """A server's processes, itself first where it lives. Of one that was killed those that it left: its session."""
    import psutil

    noted = noted_of(name)
    if noted is None or process_start(noted["pid"]) not in (None, noted["process_start"]):
        return []
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if os.getsid(process.pid) == noted["pid"] and Path(process.cwd()).is_relative_to(project_root()):
                found += [process, *process.children(recursive=True)]
    return sorted(set(found), key=lambda process: process.pid != noted["pid"])


def start(server: Server) -> subprocess.Popen[bytes]:
    """Start a server and note its process. Raises: ServerFailed: its port is taken."""
    from erasediff.artifacts import write_json

    if server.port is not None:
        stop(server.name)  # what a killed one left would hold its port; a killed worker's jobs go on
    if server.port is not None and not is_free(server.port):
        variable = {"prefect": "PREFECT_SERVER_API_PORT", "mlflow": "MLFLOW_PORT"}[server.name]
        raise ServerFailed(
            f"port {server.port} for {server.name} is taken by another program: free it, or set {variable}"
        )
    log = log_of(server.name)
    log.parent.mkdir(parents=True, exist_ok=True)
    since = datetime.now(UTC).isoformat()
    with open(log, "wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", *server.arguments],
            cwd=project_root(),
            env=server.settings | environment() | pinned(server.settings),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # the terminal's Ctrl-C is not for it
        )
    noted = {"pid": process.pid, "process_start": process_start(process.pid), "since": since, "url": server.url}
    write_json(folder() / f"{server.name}.json", noted)
    return process


def pinned(settings: dict[str, str]) -> dict[str, str]:
    """Settings that must be ours: which server this is about."""
    return {k: v for k, v in settings.items() if k in ("PREFECT_API_URL", "PREFECT_HOME", "MLFLOW_TRACKING_URI")}


def is_free(port: int) -> bool:
    """Whether a port of the loopback can be listened on."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def wait_for(started: list[tuple[Server, subprocess.Popen[bytes]]]) -> None:
    """Raises: ServerFailed: one of them ended, or is not healthy in time."""
    until = time.monotonic() + PATIENCE
    for server, process in started:
        while not server.healthy():
            if process.poll() is not None or time.monotonic() > until:
                did = f"ended with code {process.returncode}" if process.poll() is not None else "is not healthy"
                log = log_of(server.name)
                raise ServerFailed(f"{server.name} {did}: {last_line(log)} (log: {log})")
            time.sleep(0.3)


def stop(name: str) -> bool:
    """End a server and the processes below it; whether any was running."""
    import psutil

    processes, noted = family(name), alive(name)
    parents = [process for process in processes if noted and process.pid == noted["pid"]]
    jobs = [] if parents else processes
    with suppress(psutil.NoSuchProcess):
        # A worker that ends kills its jobs: before, they can stop their stages and tidy up.
        jobs += [child for parent in parents for child in parent.children()]
    for some in (jobs, parents):
        for process in some:
            with suppress(psutil.NoSuchProcess):
                process.terminate()
        psutil.wait_procs(some, timeout=END)
    _, left = psutil.wait_procs(processes, timeout=END)
    for process in left:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, timeout=END)
    (folder() / f"{name}.json").unlink(missing_ok=True)
    return bool(processes)


def up() -> None:
    """Start what is not running, wait until it is healthy, register the deployments.

    Raises: ServerFailed: what this call started is stopped again.
    """
    (prefect, mlflow, worker), jobs = servers(), number("ERASEDIFF_JOBS", 1, 1000)
    started: list[str] = []

    def start_missing(*wanted: Server) -> None:
        new = []
        for server in wanted:
            if alive(server.name) is None:
                new.append((server, start(server)))
                started.append(server.name)
        wait_for(new)

    with exclusive(folder().with_suffix(".lock")):
        os.environ.update(worker.settings)
        try:
            start_missing(prefect, mlflow)
            from flows.registration import register

            register(log_of("deploy"), jobs)
            start_missing(worker)
        except BaseException:
            for name in reversed(started):
                stop(name)
            raise


def register_elsewhere() -> None:
    """Register the deployments on a server that is not of this checkout. Raises: ParamsError, ServerFailed."""
    api, jobs = os.environ.get("PREFECT_API_URL"), number("ERASEDIFF_JOBS", 1, 1000)
    if not api:
        raise ParamsError("PREFECT_API_URL is not set: name the server, such as http://127.0.0.1:4200/api")
    if not answers(f"{api.rstrip('/')}/health"):
        raise ServerFailed(f"no Prefect server answers at {api}: start it, or mend PREFECT_API_URL")
    from flows.registration import register

    folder().mkdir(parents=True, exist_ok=True)
    register(log_of("deploy"), jobs)
    print(f"registered on {api}")


def down() -> None:
    """Stop what :func:`up` started, the worker and its jobs first."""
    with exclusive(folder().with_suffix(".lock")):
        for server in reversed(servers()):
            print(f"{server.name:8} {'stopped' if stop(server.name) else 'was not running'}")


def status() -> bool:
    """Say how each server is; whether all are well."""
    well = True
    os.environ.update(servers()[-1].settings)
    for server in servers():
        noted = alive(server.name)
        healthy = noted is not None and server.healthy()
        well &= healthy
        said = "not running" if noted is None else f"{'running' if healthy else 'NOT HEALTHY'}, pid {noted['pid']}"
        print(f"{server.name:8} {said:24} {(noted or {}).get('url') or ''}".rstrip())
    print(f"logs     {folder()}")
    return well


def main() -> None:
    """The command ``python -m flows.servers``."""
    parser = argparse.ArgumentParser(
        prog="python -m flows.servers",
        description=__doc__,
        epilog="Environment: PREFECT_SERVER_API_PORT (4200), MLFLOW_PORT (5000); databases other than SQLite by "
        "PREFECT_SERVER_DATABASE_CONNECTION_URL (postgresql+asyncpg://…), MLFLOW_BACKEND_STORE_URI "
        "(postgresql+psycopg://…); ERASEDIFF_JOBS (1): how many jobs may compute at once; "
        "ERASEDIFF_ALERT_URL: where runs that failed are posted.",
    )
    parser.add_argument(
        "command",
        choices=["up", "down", "status", "register"],
        help="status exits 1 unless all are well; register: only the deployments, on the server of PREFECT_API_URL",
    )
    command = parser.parse_args().command
    from erasediff.command import fail, quiet_environment
    from erasediff.errors import EraseDiffError

    quiet_environment()
    try:
        if command == "down":
            down()
            return
        if command == "register":
            register_elsewhere()
            return
        if command == "up":
            up()
        sys.exit(0 if status() else 1)
    except EraseDiffError as error:
        sys.exit(fail(error))


if __name__ == "__main__":
    main()
