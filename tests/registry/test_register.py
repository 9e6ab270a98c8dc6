"""What is registered is what was measured."""

import subprocess
import sys
from pathlib import Path

import pytest

from erasediff.artifacts import new_folder, read_json, sha256_folder, write_json
from erasediff.registry.versions import aliases, version_exists, version_of

MODEL = "erasediff-digits"


def register():
    return subprocess.run([sys.executable, "-m", "stages.register"], capture_output=True, text=True, timeout=120)


@pytest.mark.pipeline
@pytest.mark.parametrize("which", ["base", "erased"])
def test_a_model_that_was_not_measured_is_refused(project, pipeline, which):
    measured = sha256_folder(Path("models") / which)
    pipeline.unet.conv_out.bias.data.add_(1)
    with new_folder(Path("models") / which) as folder:
        pipeline.save_pretrained(folder)
    done = register()
    here = sha256_folder(Path("models") / which)
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith(
        f"IntegrityError: models/{which} has SHA-256 {here[:12]}…, but what was evaluated is one with {measured[:12]}…"
    )
    assert not version_exists(MODEL, "1") and not Path("runs/register.json").exists()


@pytest.mark.pipeline
def test_an_evaluation_that_names_no_model_is_refused(project):
    evaluation = read_json(Path("metrics/evaluation.json"))
    del evaluation["models"]
    write_json(Path("metrics/evaluation.json"), evaluation)
    done = register()
    assert done.returncode == 1 and "what was evaluated is a model that it does not name: run dvc repro" in done.stderr


@pytest.mark.pipeline
def test_the_card_tells_what_ran(project):
    assert register().returncode == 0
    found = version_of(MODEL, "1")
    assert aliases(MODEL) == {} and found.tags["run.erase"] == "r1"
    for line in ("- updates: 17", "- images through the network: 12,345", "- forget_source: retain (paper: forget)"):
        assert line in found.description.splitlines()
    assert "retain_target" not in found.description and not found.description.startswith("---")
