"""The servers of docker/compose.yaml, started natively: its commands and settings, on free ports of 127.0.0.1."""

import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

DOCKER = Path(__file__).parents[2] / "docker"
#: What compose.yaml demands. Long and of no other text, so that a search for them finds nothing else.
SECRETS = ("POSTGRES_PASSWORD", "S3_ACCESS_KEY", "S3_SECRET_KEY", "MLFLOW_ADMIN_PASSWORD", "MLFLOW_SECRET_KEY")


def interpolated(text: str, values: Mapping[str, str]) -> str:
    """``${NAME}``, ``${NAME:-default}`` and ``${NAME:?message}`` as Compose reads them.

    Raises: KeyError: a required one is missing or empty; with its message.
    """

    def value(match: re.Match[str]) -> str:
        name, kind, rest = match.groups()
        if found := values.get(name):
            return found
        if kind == ":?":
            raise KeyError(rest)
        return rest or ""

    return re.sub(r"\$\{(\w+)(?:(:-|:\?)([^}]*))?\}", value, text)


def compose(values: Mapping[str, str]) -> dict[str, Any]:
    """docker/compose.yaml with these values. Raises: KeyError: a required one is missing."""
    return yaml.safe_load(interpolated((DOCKER / "compose.yaml").read_text(), values))


def free_port(distance: int = 0) -> int:
    """A free port; where ``distance`` is given, the one that far above is free too."""
    while True:
        with socket.socket() as low, socket.socket() as high:
            low.bind(("127.0.0.1", secrets.randbelow(10_000) + 11_000))
            port = low.getsockname()[1]
            with suppress(OSError):
                high.bind(("127.0.0.1", port + distance if distance else 0))
                return port


class Server:
    """A process that listens; it can be stopped and started again. Its output is kept in ``log``.

    Args:
        ready: raises OSError as long as the server is not ready.
        user: of the operating system, for a server that refuses root.
    """

    def __init__(
        self, command: list[str], environment: dict[str, str], log: Path, ready: Callable[[], Any], user: str = ""
    ):
        self.command, self.environment, self.log, self.ready = command, environment, log, ready
        self.user = user or None
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it is ready."""
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                self.command,
                cwd=self.log.parent,
                env=self.environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
                user=self.user,
            )
        until = time.monotonic() + 120
        while True:
            try:
                self.ready()
                return
            except OSError:
                assert self.process.poll() is None and time.monotonic() < until, self.log.read_text()[-4000:]
                time.sleep(0.3)

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End it and what it started, by the id of the group that it was started in."""
        if self.process is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)
        self.process.wait(60)
        self.process = None

    @contextmanager
    def down(self) -> Iterator[None]:
        """Not running, for a block."""
        self.stop(signal.SIGINT)
        try:
            yield
        finally:
            self.start()

    def __enter__(self) -> "Server":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def answers(url: str) -> Callable[[], Any]:
    """Ready once a URL answers."""
    return lambda: urllib.request.urlopen(url, timeout=5).close()


def postgres_binary(name: str) -> Path | None:
    """A program of the newest PostgreSQL here: Debian keeps them off PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    on_path = shutil.which(name)
    return found[-1] if found else Path(on_path) if on_path else None


class Stack:
    """PostgreSQL, store, MLflow and Prefect as compose.yaml describes them.

    Attributes:
        values: what compose.yaml is given: a secret of its own each.
        addresses: ``service:port`` of compose.yaml → where it listens here.
        client: the environment of a worker.
        postgres, store, mlflow, prefect: the servers.
    """

    def __init__(self, folder: Path, bin_folder: Path):
        self.folder, self.bin = folder, bin_folder
        self.values = {name: secrets.token_hex(16) for name in SECRETS}
        self.prefect_password = secrets.token_hex(16)
        self.values["PREFECT_AUTH_STRING"] = f"erasediff:{self.prefect_password}"
        ports = {"postgres:5432": 0, "store:8333": 10_000, "mlflow:5000": 0, "prefect:4200": 0}
        self.addresses = {name: f"127.0.0.1:{free_port(distance)}" for name, distance in ports.items()}
        published = {"MLFLOW_PORT": self.port("mlflow:5000"), "PREFECT_PORT": self.port("prefect:4200")}
        self.services = compose(self.values | published)["services"]
        self.client = self.settings("worker")
        self.client["PREFECT_HOME"] = str(folder / "client")
        self.postgres, self.store = self._postgres(), self._store()
        self.mlflow = self._python("mlflow", "mlflow:5000", "/health", MLFLOW_AUTH_CONFIG_PATH=str(self._users()))
        home = {"PREFECT_HOME": str(folder / "prefect")}
        self.prefect = self._python("prefect", "prefect:4200", "/api/health", **home)

    def port(self, address: str) -> str:
        """Where a ``service:port`` of compose.yaml listens here."""
        return self.addresses[address].split(":")[1]

    def here(self, text: str) -> str:
        """A text of compose.yaml with the addresses of this machine."""
        for there, here in self.addresses.items():
            text = text.replace(there, here)
            service, port = there.split(":")
            text = re.sub(rf"port={port}$", f"port={self.port(there)}", text)
            text = re.sub(rf"^-ip={service}$", "-ip=127.0.0.1", text)
        return text.replace("0.0.0.0", "127.0.0.1")

    def settings(self, service: str) -> dict[str, str]:
        """A service's environment."""
        return {name: self.here(value) for name, value in self.services[service]["environment"].items()}

    def secrets(self) -> list[str]:
        """Every text that may be shown nowhere."""
        return [*(self.values[name] for name in SECRETS), self.prefect_password]

    def environment(self, service: str) -> dict[str, str]:
        """A service's environment on top of a bare one."""
        from erasediff.command import TELEMETRY_OFF

        kept = {k: v for k, v in os.environ.items() if k in ("PATH", "HOME", "LANG", "USER", "TMPDIR")}
        path = f"{self.bin}{os.pathsep}{kept['PATH']}"
        return kept | TELEMETRY_OFF | self.settings(service) | {"PATH": path}

    def url(self, database: str) -> str:
        """A database's address with its password, for a program of PostgreSQL."""
        settings = self.settings("postgres")
        user, password = settings["POSTGRES_USER"], settings["POSTGRES_PASSWORD"]
        return f"postgresql://{user}:{password}@{self.addresses['postgres:5432']}/{database}"

    def bucket(self, name: str) -> Any:
        """A bucket of the store."""
        import boto3

        keys = {k.lower(): v for k, v in self.client.items() if k in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
        return boto3.resource("s3", endpoint_url=self.client["AWS_ENDPOINT_URL"], **keys).Bucket(name)

    def worker(self) -> Server:
        """A worker with the image's own command."""
        words = re.search(r"^CMD (\[.*\])$", (DOCKER / "Dockerfile").read_text(), re.M)
        assert words
        port = str(free_port())
        here = {"PREFECT_WORKER_WEBSERVER_HOST": "127.0.0.1", "PREFECT_WORKER_WEBSERVER_PORT": port}
        here["VIRTUAL_ENV"] = sys.prefix
        environment = self.environment("worker") | here | {"PREFECT_HOME": str(self.folder / "worker")}
        ready = answers(f"http://127.0.0.1:{port}/health")
        return Server(json.loads(words[1]), environment, self.folder / "worker.log", ready)

    def _python(self, service: str, address: str, path: str, **more: str) -> Server:
        command = [self.here(word) for word in self.services[service]["command"]]
        url = f"http://{self.addresses[address]}{path}"
        return Server(command, self.environment(service) | more, self.folder / f"{service}.log", answers(url))

    def _users(self) -> Path:
        path = self.folder / "mlflow-auth.ini"
        path.write_text(self.here((DOCKER / "mlflow-auth.ini").read_text()))
        return path

    def _store(self) -> Server:
        data = self.folder / "store"
        data.mkdir()
        words = [self.here(word) for word in self.services["store"]["command"]]
        words = [f"-dir={data}" if word.startswith("-dir=") else word for word in words]
        # Its inner parts have ports of their own, which a container need not share.
        words += [f"-{part}.port={free_port(10_000)}" for part in ("master", "volume", "filer", "admin")]
        environment = self.environment("store") | {"GOMEMLIMIT": "200MiB"}
        log = self.folder / "store.log"
        return Server(["weed", *words], environment, log, answers(f"http://{self.addresses['store:8333']}/healthz"))

    def _postgres(self) -> Server:
        # Not below pytest's folder: the user that PostgreSQL runs as may not enter that.
        data = Path(tempfile.mkdtemp(prefix="erasediff-postgres-"))
        settings = self.settings("postgres")
        user = "postgres" if os.geteuid() == 0 else ""
        password = data / "password"
        password.write_text(settings["POSTGRES_PASSWORD"])
        if user:
            shutil.chown(data, user)
            shutil.chown(password, user)
        initdb = [postgres_binary("initdb"), "-D", data / "db", "-U", settings["POSTGRES_USER"], "--no-locale"]
        subprocess.run(
            [*initdb, "-E", "UTF8", "-A", "scram-sha-256", "--pwfile", password],
            check=True,
            cwd=data,
            user=user or None,
            stdout=subprocess.DEVNULL,
        )
        options = [f"listen_addresses={self.here('postgres:5432').split(':')[0]}", f"unix_socket_directories={data}"]
        command = [str(postgres_binary("postgres")), "-D", str(data / "db"), "-p", self.port("postgres:5432")]
        command += [word for option in options for word in ("-c", option)]
        self.postgres_data = data
        kept = {k: v for k, v in os.environ.items() if k in ("PATH", "LANG")}
        return Server(command, kept, data / "postgres.log", lambda: self.connect("postgres").close(), user)

    def connect(self, database: str) -> Any:
        """A connection to PostgreSQL. Raises: OSError: it is not ready."""
        import psycopg

        try:
            return psycopg.connect(self.url(database), autocommit=True)
        except psycopg.OperationalError as error:
            raise OSError(error) from None


@contextmanager
def running(folder: Path) -> Iterator[Stack]:
    """All servers, each stopped again."""
    stack = Stack(folder, Path(sys.executable).parent)
    with ExitStack() as started:
        started.callback(shutil.rmtree, stack.postgres_data, ignore_errors=True)
        started.enter_context(stack.postgres)
        with stack.connect("postgres") as connection:
            connection.execute(f"CREATE DATABASE {stack.settings('postgres')['POSTGRES_DB']}")
            connection.execute((DOCKER / "postgres.sql").read_text())
        for server in (stack.store, stack.mlflow, stack.prefect):
            started.enter_context(server)
        yield stack
