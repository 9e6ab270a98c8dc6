import ast
import re
from pathlib import Path

import pytest

from erasediff.environment import Environment, Given, environment, page
from erasediff.errors import ParamsError

ROOT = Path(__file__).parents[1]
SOURCES = [p for room in ("erasediff", "stages", "flows") for p in sorted((ROOT / room).rglob("*.py"))]
OURS = re.compile(r"(ERASEDIFF|DVC|MLFLOW|PREFECT|RAY|OMP|MKL|HF|GX|CUBLAS|CUDA|TORCH|GOMP|TRANSFORMERS)_[A-Z_]+")
LISTED = {name.upper() for kind in (Environment, Given) for name in kind.model_fields}


def variables(source):
    """Names of environment variables in a source: by how they look, or by what is done with them."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and OURS.fullmatch(node.value):
            found.add(node.value)
        if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "os.environ":
            found |= {n.value for n in [node.slice] if isinstance(n, ast.Constant)}
        if isinstance(node, ast.Call) and ast.unparse(node.func).startswith(("os.environ.", "os.getenv")):
            found |= {n.value for n in node.args[:1] if isinstance(n, ast.Constant)}
        if isinstance(node, ast.Compare) and ast.unparse(node.comparators[0]) == "os.environ":
            found |= {n.value for n in [node.left] if isinstance(n, ast.Constant)}
    return found


@pytest.mark.unit
def test_every_variable_in_the_code_is_listed():
    used = {name: path for path in SOURCES for name in variables(path.read_text())}
    ours = {name: path for name, path in used.items() if name not in LISTED and name != "PATH"}
    assert not ours, "describe them in erasediff/environment.py"


@pytest.mark.unit
def test_nothing_is_listed_that_no_code_uses():
    texts = [p.read_text() for p in SOURCES if p.name != "environment.py"] + [(ROOT / "dvc.yaml").read_text()]
    text = "\n".join(texts)
    assert [name for name in LISTED if name not in text and f".{name.lower()}" not in text] == []


@pytest.mark.unit
def test_the_search_finds():
    assert variables('os.environ["A"]; os.environ.get("B"); "C" in os.environ; x("MLFLOW_D"); y("E_F")') == {
        "A",
        "B",
        "C",
        "MLFLOW_D",
    }


@pytest.mark.unit
def test_the_page_is_current_and_describes_each():
    assert (ROOT / "docs/environment.md").read_text() == page(), "python -m erasediff.environment > docs/environment.md"
    for kind in (Environment, Given):
        assert all(field.description for field in kind.model_fields.values())


@pytest.mark.unit
def test_what_is_empty_is_not_set_and_a_wrong_number_is_told(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    monkeypatch.setenv("ERASEDIFF_JOBS", "3")
    assert environment().mlflow_tracking_uri is None and environment().erasediff_jobs == 3
    monkeypatch.setenv("ERASEDIFF_JOBS", "0")
    monkeypatch.setenv("MLFLOW_PORT", "http")
    told = "MLFLOW_PORT is 'http': give a number from 1 to 65535"
    with pytest.raises(ParamsError, match=f"ERASEDIFF_JOBS is '0': give a number from 1 to 1000; {told}"):
        environment()
