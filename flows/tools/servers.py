"""Servers of this checkout: each a process of its own that outlives the command which started it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from erasediff.artifacts import read_json, write_json
from erasediff.checkout import process_start, project_root
from erasediff.errors import ServerFailed
from flows.tools.names import MLFLOW_TRACKING, PREFECT_API, PREFECT_HOME
from flows.tools.processes import environment

if TYPE_CHECKING:
    import psutil

#: Seconds that a server may take to become healthy, and to end.
PATIENCE, END = 180, 30


@dataclass(frozen=True)
class Server:
    """A process of our own.

    Attributes:
        name: of its files.
        arguments: of ``python -m``.
        healthy: tells whether it does its work.
        url: for a person; empty where it listens to nobody.
        settings: environment variables; what a person has set goes first, but for those that say which server it is.
        port: what has to be free, and the variable that names another.
    """

    name: str
    arguments: list[str]
    healthy: Callable[[], bool]
    url: str = ""
    settings: dict[str, str] = field(default_factory=dict)
    port: tuple[int, str] | None = None

    @property
    def title(self) -> str:
        """For a person."""
        return {"prefect": "Prefect", "mlflow": "MLflow"}.get(self.name, f"the {self.name}")


class Noted(NamedTuple):
    """The note of a server's process; ``process_start`` tells it from a later one with the same number."""

    pid: int
    process_start: str | None
    since: str
    url: str


def folder() -> Path:
    """Return the folder of process files, logs and Prefect's own database."""
    return project_root() / ".work" / "servers"


def answers(url: str) -> bool:
    """Return True if a server says that it is well."""
    from http.client import HTTPException
    from urllib.request import urlopen

    try:
        with urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except (OSError, HTTPException, ValueError):
        return False


def require_listening(url: str, variable: str) -> None:
    """Raises: ServerFailed: nothing listens where a variable says that there is a server."""
    from urllib.parse import urlsplit
    from urllib.request import getproxies, proxy_bypass

    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or {"http": 80, "https": 443}[parts.scheme]
    except (KeyError, ValueError):
        raise ServerFailed(f"{variable} is {url[:200]!r}: give an address such as http://127.0.0.1:4200/api") from None
    if parts.scheme in getproxies() and not proxy_bypass(host):
        return  # the proxy alone can tell
    try:
        socket.create_connection((host, port), timeout=10).close()
    except (OSError, UnicodeError) as error:
        where = f"{parts.scheme}://{host}:{port}"
        told = f"no server answers at {where} ({error}): start it, or correct or unset {variable}"
        raise ServerFailed(told) from None


def log_of(name: str) -> Path:
    """Return the log of a server."""
    return folder() / f"{name}.log"


def last_line(path: Path) -> str:
    """Return the last line of a log that says anything."""
    lines = path.read_text(errors="replace").splitlines() if path.exists() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")


def noted_of(name: str) -> Noted | None:
    """Return the note of a server's process, also of one that has ended."""
    file = folder() / f"{name}.json"
    return Noted(**read_json(file)) if file.exists() else None


def alive(name: str) -> Noted | None:
    """Return the note of a server's process that still runs."""
    noted = noted_of(name)
    return noted if noted and process_start(noted.pid) == noted.process_start else None


def process_tree(name: str) -> list[psutil.Process]:
    """Return a server's processes, itself first. A killed server's are those of its session, which it left behind."""
    import psutil

    noted = noted_of(name)
    if noted is None or process_start(noted.pid) not in (None, noted.process_start):
        return []
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if os.getsid(process.pid) == noted.pid and Path(process.cwd()).is_relative_to(project_root()):
                found += [process, *process.children(recursive=True)]
    return sorted(set(found), key=lambda process: process.pid != noted.pid)


def start(server: Server) -> subprocess.Popen[bytes]:
    """Start a server and note its process. Raises: ServerFailed: its port is taken."""
    if server.port is not None:
        port, variable = server.port
        stop(server.name)  # what a killed one left would hold its port; a killed worker's jobs go on
        require_free(port, server.name, variable)
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
    noted = Noted(process.pid, process_start(process.pid), since, server.url)
    write_json(folder() / f"{server.name}.json", noted._asdict())
    return process


def pinned(settings: dict[str, str]) -> dict[str, str]:
    """Return the settings that must be ours: which server this is about."""
    return {k: v for k, v in settings.items() if k in (PREFECT_API, PREFECT_HOME, MLFLOW_TRACKING)}


def require_free(port: int, name: str, setting: str) -> None:
    """Raises: ServerFailed: a port of the loopback cannot be listened on; ``setting`` chooses another."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            told = f"port {port} for {name} is taken by another program: free it, or set {setting}"
            raise ServerFailed(told) from None


def wait_for(started: Sequence[tuple[Server, subprocess.Popen[bytes]]]) -> None:
    """Wait until servers are healthy. Raises: ServerFailed: one of them ended, or is not healthy in time."""
    until = time.monotonic() + PATIENCE
    for server, process in started:
        while not server.healthy():
            if process.poll() is not None or time.monotonic() > until:
                did = f"ended with code {process.returncode}" if process.poll() is not None else "is not healthy"
                log = log_of(server.name)
                raise ServerFailed(f"{server.name} {did}: {last_line(log)} (log: {log})")
            time.sleep(0.3)


def stop(name: str) -> bool:
    """End a server and the processes below it; return True if any was running."""
    import psutil

    processes, noted = process_tree(name), alive(name)
    parents = [process for process in processes if noted and process.pid == noted.pid]
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
