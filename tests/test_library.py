"""What somebody has who installs the library without the pipeline around it."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from setuptools.config.pyprojecttoml import read_configuration

ROOT = Path(__file__).parents[1]
#: Belongs to the pipeline. An entry of None in sys.modules is a module that cannot be imported.
PIPELINE = ("dvc", "great_expectations", "mlflow", "pandas", "prefect", "pyarrow", "pydantic", "ruamel", "sklearn")
BARE = f"import sys; sys.modules.update(dict.fromkeys({PIPELINE!r})); "

USED = """
import torch
import erasediff
from erasediff.families.class_conditional import build_pipeline
small = dict(block_out_channels=(8,), attention=(False,), norm_num_groups=4)
pipeline = build_pipeline(["a", "b"], (1, 8, 8), **small)
result = erasediff.erase(pipeline, "a", generate=3, outer_steps=2, forget_batch_size=2, retain_batch_size=2)
result.pipeline.save_pretrained(sys.argv[1])
before, after = (erasediff.draw(p, "b", 2, steps=3) for p in (pipeline, erasediff.load(sys.argv[1])))
assert before.shape == after.shape == (2, 1, 8, 8) and not torch.equal(before, after)
print(len(result.history))
"""


def run(code, *arguments):
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.unit
def test_it_erases_draws_and_loads_without_the_pipelines_packages(tmp_path):
    assert run(BARE + USED, tmp_path / "erased") == "2\n"


@pytest.mark.unit
def test_importing_it_takes_no_time_and_loads_nothing_heavy():
    code = "import sys, time; began = time.perf_counter(); import erasediff; took = time.perf_counter() - began; "
    told = "heavy = {'torch', 'diffusers', 'numpy'} & set(sys.modules); print(took < 0.2, heavy, erasediff.__all__)"
    verbs = ["__version__", "attack", "draw", "erase", "evaluate", "load", "open_example"]
    assert run(BARE + code + told) == f"True set() {verbs}\n"


@pytest.mark.unit
def test_the_wheel_holds_the_library_alone_and_all_of_its_files():
    found = read_configuration(ROOT / "pyproject.toml", expand=True)["tool"]["setuptools"]
    rooms = {path.parent for path in (ROOT / "erasediff").rglob("*.py")}
    assert {ROOT / package.replace(".", "/") for package in found["packages"]} == rooms
    patterns = found["package-data"]["erasediff"]
    given = {file for pattern in patterns for file in (ROOT / "erasediff").glob(pattern) if file.is_file()}
    others = {p for p in (ROOT / "erasediff").rglob("*") if p.is_file() and p.suffix not in (".py", ".pyc")}
    assert others == given and ROOT / "erasediff/py.typed" in given


@pytest.mark.unit
def test_it_asks_for_five_packages():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {text.split(">")[0] for text in project["dependencies"]}
    assert names == {"accelerate", "diffusers", "numpy", "safetensors", "torch"}
