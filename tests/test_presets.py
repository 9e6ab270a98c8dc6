"""Presets fit the schema, and state only what differs."""

import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
from ruamel.yaml import YAML

from erasediff.examples import open_example
from erasediff.families import FAMILIES, family_of
from erasediff.unlearning import method_for
from erasediff.unlearning.erasing import by_words
from stages import presets
from stages.params import FamilyName, change_params, load_params

ROOT = Path(__file__).parents[1]
NAMES = sorted(path.stem for path in (ROOT / "presets").glob("*.yaml"))

pytestmark = pytest.mark.unit


def git(*arguments):
    subprocess.run(["git", "-c", "user.name=t", "-c", "user.email=t@localhost", *arguments], check=True)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A committed folder with params.yaml and the presets."""
    shutil.copy(ROOT / "params.yaml", tmp_path)
    shutil.copytree(ROOT / "presets", tmp_path / "presets")
    monkeypatch.chdir(tmp_path)
    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "-m", "start")
    return tmp_path


def command(*arguments):
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    line = [sys.executable, "-m", "stages.presets", *arguments]
    return subprocess.run(line, capture_output=True, text=True, env=environment)


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_fits_the_schema(project, name):
    changes = presets.preset(name)
    after = change_params(changes)
    assert load_params() == after


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_states_only_what_differs(project, name):
    defaults = YAML(typ="safe").load(ROOT / "params.yaml")
    for entry, value in presets.preset(name).items():
        section, _, key = entry.partition(".")
        assert (defaults[section][key] if key else defaults[section]) != value, entry


@pytest.mark.parametrize("name", [name for name in NAMES if "-" in name])
def test_a_preset_for_a_model_of_others_names_its_family(project, name):
    change_params(presets.preset(name))
    known = set(get_args(FamilyName))
    assert load_params().pretrain.family in known
    shutil.copy(ROOT / ".gitignore", project)  # a run's commit could not say that a large model lay there
    git("check-ignore", "--quiet", f"{load_params().pretrain.path}/unet/config.json")
    assert known == {module for module, _ in FAMILIES.values()}


def test_a_preset_is_written_with_the_comments_kept_and_listed(project):
    done = command("apply", "cifar10")
    assert done.returncode == 0, done.stderr
    assert "forget_set.concepts: ['airplane']" in done.stdout
    assert load_params().erase.eta == 0.1
    assert "# what to forget; or sample_ids" in (project / "params.yaml").read_text()
    assert command("list").stdout.split() == NAMES


def test_uncommitted_params_are_not_overwritten(project):
    params = project / "params.yaml"
    params.write_text(params.read_text().replace("seed: 0", "seed: 7"))
    done = command("apply", "cifar10")
    assert (done.returncode, load_params().seed) == (2, 7)
    assert done.stderr == (
        "ParamsError: params.yaml has uncommitted changes: commit them, or git checkout params.yaml\n"
    )


def test_an_unknown_preset_gets_a_did_you_mean(project):
    done = command("apply", "cifar")
    assert done.returncode == 2
    assert (
        done.stderr.endswith("; did you mean cifar10?\n") and "there is no preset 'cifar', but cifar10, " in done.stderr
    )


def test_the_page_has_every_preset_and_the_table_that_is_computed():
    page = (ROOT / "docs" / "presets.md").read_text()
    assert runpy.run_path(str(ROOT / "tests" / "benchmarks" / "presets.py"))["table"]() in page
    assert [name for name in NAMES if f"`{name}`" not in page] == []


@pytest.mark.parametrize(("preset_changes", "given"), [({}, {}), ({"adapter": "lora"}, {"adapter": "lora"})])
def test_the_preset_of_words_erases_as_the_call_does_by_default(project, preset_changes, given):
    """Of the LoRA the preset has another learning rate and rank to be set, as the call takes them."""
    if given:
        preset_changes = preset_changes | {"learning_rate": 0.01, "rank": 4}
    changes = presets.preset("shapes") | {f"erase.{name}": value for name, value in preset_changes.items()}
    erase = change_params(changes).erase
    called = by_words(method_for("erasediff", **given), family_of(open_example("shapes").pipeline), given)
    assert method_for(erase.method, **erase.settings()).effective() == called.effective()


@pytest.mark.parametrize("name", [name for name in NAMES if "lora" in (ROOT / "presets" / f"{name}.yaml").read_text()])
def test_a_preset_of_ours_gives_a_guided_model_one_answer(project, name):
    """Of several wrong answers in turns, guidance draws something in between."""
    changes = presets.preset(name)
    assert (changes["erase.forget_target"], changes["erase.anchor"]) == ("anchor", "nearest")
