"""``dvc.yaml`` lists what each stage's code really reads."""

import ast
import inspect
import re
from importlib import import_module
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from erasediff.unlearning.methods.method import Method
from stages.params import READS_BY

ROOT = Path(__file__).parents[2]
DOORS = ("curate", "pretrain", "classifier", "forget_set", "erase", "evaluate", "verdict", "register")
#: Reads a version, whose hash is checked: how the registry is read changes no model. The embedded model is a folder
#: here, which ``pretrain.path`` declares; its short name is for the library and the shell alone.
ONLY_FETCHES = {"pretrain": {"registry", "tracking", "records.py", "examples"}}
#: What changes no result: how it is written, noted and told, and what is refused; not what it is.
NO_RESULT = {
    "__init__",
    "tracking",
    "artifacts",
    "checkout",
    "command",
    "environment",
    "errors",
    "git",
    "loading",
    "pages",
    "ranges",
}


def imported(path):
    """Files of the library that a file imports at any depth of its code, except for type checking.

    What is imported by a name that is put together, as an attack's is, may be any file of its room.
    """
    tree = ast.parse(path.read_text())
    parts = [n for n in tree.body if not (isinstance(n, ast.If) and getattr(n.test, "id", "") == "TYPE_CHECKING")]
    found = set()
    for node in (n for part in parts for n in ast.walk(part)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("erasediff"):
            module = ROOT / node.module.replace(".", "/")
            files = (module.with_suffix(".py"), module / "__init__.py", *(module / f"{n.name}.py" for n in node.names))
            found |= {file for file in files if file.exists()}
    for room in re.findall(r'import_module\(f"(erasediff\.[\w.]+)\.\{', path.read_text()):
        found |= set((ROOT / room.replace(".", "/")).glob("*.py"))
    return found


def rooms(door):
    """The rooms of the library, and the files beside them, that a door's code reaches."""
    library, seen, todo = ROOT / "erasediff", set(), [ROOT / f"stages/{door}.py"]
    todo += [library / "registry/served_model.py"] if door == "register" else []  # MLflow loads it by its path
    while todo:
        file = todo.pop()
        if file not in seen:
            seen.add(file)
            todo += imported(file)
    return {f.relative_to(library).parts[0] for f in seen if f.is_relative_to(library)} - {f"{n}.py" for n in NO_RESULT}


def declared(door):
    stage = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"][door]
    return stage.get("do", stage)


@pytest.mark.unit
@pytest.mark.parametrize("door", DOORS)
def test_deps_are_the_rooms_that_a_door_reaches(door):
    code = {d for d in declared(door)["deps"] if d.startswith(("stages/", "erasediff/"))}
    reached = rooms(door) - ONLY_FETCHES.get(door, set()) - NO_RESULT
    assert code == {f"erasediff/{room}" for room in reached} | {f"stages/{door}.py"}


@pytest.mark.unit
@pytest.mark.parametrize("door", DOORS)
def test_params_are_the_sections_that_a_door_takes(door):
    known = set(YAML(typ="safe").load((ROOT / "params.yaml").read_text()))
    taken = set(inspect.signature(import_module(f"stages.{door}").main).parameters) & known
    taken |= set(READS_BY) if "reads" in inspect.signature(import_module(f"stages.{door}").main).parameters else set()
    assert set(declared(door)["params"]) == taken


@pytest.mark.unit
def test_what_a_method_reads_goes_by_the_entries_that_are_declared():
    source = inspect.getsource(Method.reads)
    asked = set(re.findall(r"\bs\.(\w+)", source)) | set(re.findall(r"self\.settings\.(\w+)", source))
    assert {f"erase.{name}" for name in asked} | {"erase.method"} == set(READS_BY)
