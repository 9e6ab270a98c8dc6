"""``dvc.yaml`` lists what each stage's code really reads."""

import ast
from pathlib import Path

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[2]
#: Reads a version, whose hash is checked: how the registry is read changes no model.
ONLY_FETCHES = {"pretrain": {"registry"}}
DOORS = ("curate", "pretrain", "classifier", "forget_set", "erase", "evaluate", "verdict", "register")


def imported(path, used=None):
    """``{module: names}`` under ``stages`` that a file imports at any depth of its code, except for type checking.

    Args:
        used: names of the file that are used; only their code counts (all of it by default).
    """
    tree = ast.parse(path.read_text())
    parts = [n for n in tree.body if used is None or not hasattr(n, "name") or n.name in used]
    parts = [n for n in parts if not (isinstance(n, ast.If) and getattr(n.test, "id", "") == "TYPE_CHECKING")]
    found = {}
    for node in (n for part in parts for n in ast.walk(part)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("stages"):
            module, names = ROOT / node.module.replace(".", "/"), {alias.name for alias in node.names}
            for file in (module.with_suffix(".py"), module / "__init__.py", *(module / f"{n}.py" for n in names)):
                if file.exists():
                    found.setdefault(file, set()).update(names)
    return found


def rooms(door):
    """The folders a door's code reaches; another door is imported for its paths alone."""
    top, seen, todo = ROOT / "stages", set(), [(ROOT / f"stages/{door}.py", None)]
    todo += [(top / "registry/served_model.py", None)] if door == "register" else []  # MLflow loads it by its path
    while todo:
        file, used = todo.pop()
        seen.add(file)
        for other, names in imported(file, used).items():
            if other not in seen and (other.parent != top or other.stem not in DOORS):
                todo.append((other, names if other.parent == top else None))
    return {f.parent.name for f in seen if f.parent != top}


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
