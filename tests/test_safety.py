"""What must be nowhere in the code: formats and calls that run what they read, and commands made of parameters."""

import ast
import re
from pathlib import Path

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]
SOURCES = [p for room in ("erasediff", "stages", "flows") for p in sorted((ROOT / room).rglob("*.py"))]
MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
CALLS = {
    "eval",
    "exec",
    "os.system",
    "os.popen",
    "yaml.load",
    "yaml.unsafe_load",
    "pd.read_pickle",
    "pandas.read_pickle",
}
TRUE_ARGUMENTS = {"shell", "trust_remote_code", "allow_pickle"}


def unsafe(source):
    """What a source does that it must not, a line each."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [f"import {a.name}" for a in node.names if a.name.split(".")[0] in MODULES]
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in MODULES:
            found.append(f"from {node.module}")
        if not isinstance(node, ast.Call):
            continue
        name, given = ast.unparse(node.func), {k.arg: k.value for k in node.keywords}
        found += [name] if name in CALLS else []
        # False is fine, anything that may be true is not.
        found += [f"{name}({a})" for a in TRUE_ARGUMENTS & set(given) if ast.unparse(given[a]) != "False"]
        if name == "torch.load" and ast.unparse(given.get("weights_only", ast.Constant(None))) != "True":
            found.append(name)
    return found


@pytest.mark.unit
@pytest.mark.parametrize("source", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_that_runs_what_it_reads(source):
    assert unsafe(source.read_text(encoding="utf-8")) == []


@pytest.mark.unit
@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from joblib import load",
        "torch.load(f)",
        "torch.load(f, weights_only=False)",
        "run(c, shell=True)",
        "f(trust_remote_code=yes)",
        "np.load(f, allow_pickle=True)",
        "os.system(c)",
        "pd.read_pickle(f)",
    ],
)
def test_the_search_finds(line):
    assert unsafe(line)
    assert not unsafe("torch.load(f, weights_only=True); run(c, shell=False); model.eval()")


@pytest.mark.unit
def test_no_parameter_reaches_a_shell():
    """DVC hands ``cmd`` to a shell: nothing of params.yaml may stand in it."""
    stages = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"]
    for name, stage in stages.items():
        filled_in = set(re.findall(r"(?<!\\)\$\{([^}]+)\}", stage.get("do", stage)["cmd"]))
        assert filled_in <= ({"item"} if stage.get("foreach") == ["base", "erased"] else set()), name
