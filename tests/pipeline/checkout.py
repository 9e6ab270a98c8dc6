"""A checkout of its own with tiny settings, in which commands are run."""

import json
import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

REPOSITORY = Path(__file__).parents[2]
TINY = {
    "curate.max_per_concept": 24,
    "pretrain.block_out_channels": [8, 16],
    "pretrain.attention": [False, False],
    "pretrain.layers_per_block": 1,
    "pretrain.steps": 8,
    "classifier.steps": 60,
    "classifier.min_accuracy": 0.0,
    "erase.outer_steps": 4,
    "evaluate.samples_per_concept": 15,
    "evaluate.draws": 2,
    "evaluate.attacks": ["settings"],
    "evaluate.attack_pictures": 8,
    "evaluate.self_checks": False,  # these limits let anything pass
    "evaluate.inference_steps": 2,
    "verdict.min_unlearning_accuracy": 0.0,
    "verdict.min_base_accuracy": 0.0,
    "verdict.max_retain_accuracy_drop": 1.0,
    "verdict.max_concept_drop": 1.0,
    "verdict.max_distance_ratio": 1e9,
    "verdict.max_forget_degenerate": 1.0,
    "verdict.max_retain_degenerate_rise": 1.0,
    "verdict.max_retain_closeness_rise": 1.0,
}


class Project:
    """A checkout of its own: copied files, git, DVC, MLflow on SQLite."""

    def __init__(self, root: Path):
        self.root = root
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "PREFECT_", "DVC_"))}
        self.environment |= {"VIRTUAL_ENV": sys.prefix, "PYTHONPATH": str(root)}

    def start(self, *arguments: str, most_memory: int | None = None, **more: str) -> subprocess.Popen[str]:
        """Start ``python -m …`` here, with at most so many bytes of address space."""

        def limits():
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # a background shell's child ignores it
            if most_memory:
                resource.setrlimit(resource.RLIMIT_AS, (most_memory, most_memory))

        return subprocess.Popen(
            [sys.executable, "-m", *arguments],
            cwd=self.root,
            env=self.environment | more,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            preexec_fn=limits,
        )

    def run(self, *arguments: str, code: int = 0, timeout: int = 280, **more: Any) -> str:
        """Run ``python -m …`` here; its output. A surprising exit code fails the test."""
        process = self.start(*arguments, **more)
        try:
            output = process.communicate(timeout=timeout)[0]
        finally:
            process.kill()  # where it did not end in time
        assert process.returncode == code, output
        return output

    def start_erase(self) -> subprocess.Popen[str]:
        """Start the stage and return once it has a checkpoint; an earlier end fails the test."""
        facts = self.root / ".work/checkpoints/erase.json"
        process = self.start("stages.erase")
        until = time.monotonic() + 60
        while not facts.exists() or json.loads(facts.read_text())["file"] is None:
            assert process.poll() is None and time.monotonic() < until, f"{facts} names no state"
            time.sleep(0.01)
        return process

    def git(self, *arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=self.root, capture_output=True, text=True, check=True
        ).stdout.strip()

    def set_params(self, **values: object) -> None:
        """Change ``section__key``, or a ``key`` of the whole file."""
        yaml = YAML()
        path = self.root / "params.yaml"
        content = yaml.load(path)
        for name, value in values.items():
            *section, key = name.split("__")
            (content[section[0]] if section else content)[key] = value
        yaml.dump(content, path)

    def copy(self, root: Path) -> "Project":
        """A copy with its results, so that a test can spoil it."""
        shutil.copytree(self.root, root, symlinks=True)
        if (root / "mlflow.db").exists():
            self._lead_to(root)
        return Project(root)

    def _lead_to(self, root: Path) -> None:
        """Have the copy's MLflow database name the copy's artifacts: it holds absolute paths."""
        with closing(sqlite3.connect(root / "mlflow.db")) as database, database:
            for (table,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
                for _, column, kind, *_ in database.execute(f'PRAGMA table_info("{table}")').fetchall():
                    if kind.startswith(("VARCHAR", "TEXT")):
                        change = (
                            f'UPDATE "{table}" SET "{column}" = replace("{column}", ?, ?) WHERE instr("{column}", ?)'
                        )
                        here = f"{self.root}/"
                        database.execute(change, (here, f"{root}/", here))


def new_project(root: Path, settings: Mapping[str, object] = TINY, **values: object) -> Project:
    """The repository's files, committed anew, with tiny settings or others."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    for name in listed.stdout.splitlines():
        if name != "dvc.lock" and not name.startswith("tests/") and (REPOSITORY / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / name, root / name)
    project = Project(root)
    project.set_params(**{k.replace(".", "__"): v for k, v in settings.items()} | values)
    project.git("init", "-q")
    project.git("config", "user.name", "test")
    project.git("config", "user.email", "test@example.invalid")
    project.git("add", "-A")
    project.git("commit", "-qm", "start")
    return project


def stated(output: str, error: str) -> str:
    """The one line of a stated failure."""
    assert "Traceback" not in output, output
    return next(line for line in output.splitlines() if line.startswith(f"{error}: "))
