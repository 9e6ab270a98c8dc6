import os
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from erasediff.errors import ParamsError
from stages.params import load_params

FILE = Path(__file__).parent.parent / "params.yaml"


def changed(tmp_path, *changes):
    raw = YAML(typ="safe").load(FILE)
    for key, value in changes:
        section, _, name = key.partition(".")
        if name:
            raw[section][name] = value
        else:
            raw[section] = value
    path = tmp_path / "params.yaml"
    YAML().dump(raw, path)
    return path


@pytest.mark.unit
def test_the_file_of_the_repository_is_valid():
    assert load_params(FILE).erase.method == "erasediff"


@pytest.mark.unit
def test_all_errors_in_one_message(tmp_path):
    path = changed(tmp_path, ("erase.etta", 1), ("erase.eta", -1), ("curate.source", "digit"), ("seed", "x"))
    with pytest.raises(ParamsError) as error:
        load_params(path)
    text = str(error.value)
    assert "4 error(s)" in text
    assert "erase.etta: unknown key; did you mean eta?" in text
    assert "erase.eta" in text and "-1" in text
    assert "did you mean digits?" in text


@pytest.mark.unit
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ([("forget_set.concepts", [])], "exactly one of the two"),
        ([("pretrain.source", "hub")], "source hub needs repo"),
        (
            [("pretrain.source", "registry"), ("pretrain.repo", "m"), ("pretrain.revision", "champion")],
            "alias can move",
        ),
        ([("pretrain.attention", [True])], "give one a level"),
        ([("erase.forget_target", "anchor")], "anchor names"),
    ],
)
def test_what_does_not_go_together(tmp_path, changes, message):
    with pytest.raises(ParamsError, match=message):
        load_params(changed(tmp_path, *changes))


@pytest.mark.unit
def test_unquoted_no_is_text(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text(FILE.read_text().replace('"no"', "no"))  # what `dvc exp run -S` leaves
    assert load_params(path).erase.mixed_precision == "no"


@pytest.mark.unit
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ([("erase.method", "sfr_on"), ("erase.retain_every", 2)], "retain_every 2 does not go with this method"),
        ([("erase.accumulate", 65)], "a batch of 64 cannot be computed in 65 parts: lower accumulate"),
    ],
)
def test_what_does_not_go_together_in_a_method(tmp_path, changes, message):
    """Said by the stage, before it opens anything: there is no model here."""
    changed(tmp_path, *changes)
    command = [sys.executable, "-m", "stages.erase"]
    here = {**os.environ, "PYTHONPATH": str(FILE.parent)}
    done = subprocess.run(command, cwd=tmp_path, env=here, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("ParamsError: params.yaml: erase: ") and message in line
