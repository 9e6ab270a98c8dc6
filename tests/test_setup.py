"""Setting up: what make installs, and a command without an activated environment."""

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def fresh(tmp_path):
    """A checkout in which nothing was made."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def make(folder, *arguments):
    # These tests may run under make, whose word on that would change what this one prints.
    own = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    done = subprocess.run(["make", *arguments], cwd=folder, capture_output=True, text=True, check=True, env=own)
    return done.stdout


@pytest.mark.unit
def test_make_lists_one_target_a_line(fresh):
    lines = make(fresh).splitlines()
    assert len(lines) > 10 and all(len(line) < 120 for line in lines)
    assert [line.split()[0] for line in lines][:2] == ["help", "demo"]


@pytest.mark.unit
def test_a_visitor_gets_no_linters_and_no_tests(fresh):
    assert "-e '.[pipeline]'" in make(fresh, "-n", "demo") and "dev" not in make(fresh, "-n", "demo")
    for target in ("check", "test", "docs"):
        assert "-e '.[dev]'" in make(fresh, "-n", target)


@pytest.mark.unit
def test_an_environment_with_the_tests_is_one_for_the_demo_too(fresh):
    (fresh / ".venv").mkdir()
    recipe = make(fresh, "-n", ".venv/.dev").splitlines()[-1]
    subprocess.run(recipe, shell=True, cwd=fresh, check=True)
    assert "pip install" not in make(fresh, "-n", "demo") + make(fresh, "-n", "test")


@pytest.fixture
def bare_python(tmp_path):
    """A Python without any packages."""
    venv.create(tmp_path / "bare", with_pip=False)
    return tmp_path / "bare/bin/python"


@pytest.fixture
def copied(tmp_path):
    """The code, in a checkout without an environment."""
    for name in ("erasediff", "stages", "flows"):
        shutil.copytree(ROOT / name, tmp_path / "copy" / name, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "copy"


@pytest.mark.pipeline
@pytest.mark.parametrize("command", ["stages.sample", "flows.erase", "flows.promote", "flows.servers", "stages.outbox"])
def test_a_command_without_an_environment_says_what_to_do(copied, bare_python, command):
    done = subprocess.run([bare_python, "-m", command], cwd=copied, capture_output=True, text=True)
    told = f"{bare_python} lacks the pipeline's packages: run make demo, or use .venv/bin/python\n"
    assert (done.returncode, done.stderr) == (1, told)


@pytest.mark.pipeline
def test_a_command_goes_on_in_the_checkouts_own_environment(copied, bare_python):
    (copied / ".venv/bin").mkdir(parents=True)
    (copied / ".venv/bin/python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (copied / ".venv/bin/python").chmod(0o755)
    command = [bare_python, "-m", "stages.sample", "--model", "none", "--concept", "3", "--out", "three.png"]
    environment = {**os.environ, "PYTHONPATH": str(copied)}
    done = subprocess.run(command, cwd=copied, env=environment, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("ModelError: none is no folder"), done.stderr
