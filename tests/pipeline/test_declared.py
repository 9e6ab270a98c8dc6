"""``dvc.yaml`` lists what each stage's code really reads."""

import ast
from pathlib import Path

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[2]
#: Reads a version, whose hash is checked: how the registry is read changes no model.
ONLY_FETCHES = {"pretrain": {"registry"}}
DOORS = ("curate", "pretrain", "classifier", "forget_set", "erase", "evaluate", "verdict", "register")


def imported(path):
    """Modules under ``stages`` that a file imports, at any depth of its code, except for type checking."""
    tree = ast.parse(path.read_text())
    skipped = {
        n
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
        for n in ast.walk(node)
    }
    files = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node not in skipped and (node.module or "").startswith("stages"):
            module = ROOT / (node.module or "").replace(".", "/")
            files |= {module.with_suffix(".py"), *(module / f"{alias.name}.py" for alias in node.names)}
            files |= {module / "__init__.py"} if module != ROOT / "stages" else set()
    return {f for f in files if f.exists()}


def rooms(door):
    """The folders a door's code reaches; another door is imported for its paths alone."""
    start = ROOT / f"stages/{door}.py"
    seen, todo = set(), {start}
    while todo:
        file = todo.pop()
        seen.add(file)
        todo |= {f for f in imported(file) if f.stem not in DOORS or f.parent != ROOT / "stages"} - seen
    return {f.parent.name for f in seen if f.parent != ROOT / "stages"}


def sections(door):
    """Sections of params.yaml that a door takes."""
    tree = ast.parse((ROOT / f"stages/{door}.py").read_text())
    known = set(YAML(typ="safe").load((ROOT / "params.yaml").read_text()))
    holders = {"whole"}
    return {
        node.attr.rstrip("_")
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and node.attr.rstrip("_") in known
        and (getattr(node.value, "id", "") in holders or "load_params" in ast.dump(node.value))
    }


@pytest.mark.unit
@pytest.mark.parametrize("door", DOORS)
def test_deps_and_params_are_those_of_the_code(door):
    stage = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"][door]
    stage = stage.get("do", stage)
    code = {d.removeprefix("stages/") for d in stage["deps"] if d.startswith("stages/")}
    assert code == rooms(door) - ONLY_FETCHES.get(door, set()) | {f"{door}.py"}
    assert set(stage["params"]) == sections(door)
