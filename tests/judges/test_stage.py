"""The stage ``classifier``: what it learns from, and what it is measured on."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from erasediff.artifacts import new_folder, read_json, sha256_file
from erasediff.data.images import png_bytes
from erasediff.data.inputs import evaluation_inputs
from erasediff.errors import ClassifierTooWeak
from erasediff.judges import open_judge
from stages import classifier, layout
from stages.params import load_params

SHADES = {"dark": 40, "light": 215}
DEFAULTS = load_params(Path(__file__).parents[2] / "params.yaml").classifier
FAST = {"width": 4, "steps": 40, "batch_size": 8, "learning_rate": 0.01}


class Run:
    """What a stage logs to; kept."""

    def __init__(self):
        self.logged = {}

    def log_metrics(self, metrics, step=None):
        self.logged |= metrics


def row(concept, shade, split, number):
    noise = np.random.default_rng(number).integers(-20, 20, (8, 8))
    png = png_bytes(Image.fromarray((SHADES[shade] + noise).astype(np.uint8)))
    return {"image": png, "concept": concept, "split": split, "width": 8, "height": 8, "mode": "L"}


@pytest.fixture
def curated(tmp_path, monkeypatch):
    """Pictures to learn from, and to be tested on: in the latter dark ones are called light, and light ones dark."""
    monkeypatch.chdir(tmp_path)
    train = [row(shade, shade, "train", n) for n in range(16) for shade in SHADES]
    test = [row(*pair, "test", n) for n in range(90, 96) for pair in (("dark", "light"), ("light", "dark"))]
    with new_folder(layout.CURATED) as folder:
        pd.DataFrame([*train, *test]).to_parquet(folder / layout.TABLE.name, index=False)


def settings(**changes):
    return DEFAULTS.model_copy(update={**FAST, "min_accuracy": 0.0} | changes)


@pytest.mark.unit
def test_it_learns_from_the_training_pictures_and_is_measured_on_the_held_out_ones(curated):
    run = Run()
    classifier.main(run, 0, settings())
    facts = read_json(layout.CLASSIFIER_METRICS)
    assert facts["accuracy"] == run.logged["accuracy"] == 0.0 and facts["test_samples"] == 12
    judge = open_judge(layout.CLASSIFIER)
    assert facts["fingerprint"] == judge.fingerprint and facts["pictures"] == "labelled"
    assert facts["sha256"] == sha256_file(layout.CLASSIFIER / "model.safetensors")
    assert read_json(layout.CLASSIFIER / "config.json")["accuracy"] == 0.0


@pytest.mark.unit
def test_a_judge_that_reads_too_badly_is_told_and_not_kept(curated):
    with pytest.raises(ClassifierTooWeak, match="reads 0.000 of 12 test pictures, below classifier.min_accuracy 0.5"):
        classifier.main(Run(), 0, settings(min_accuracy=0.5))
    assert not layout.CLASSIFIER.exists() and not layout.CLASSIFIER_METRICS.exists()


@pytest.mark.unit
def test_a_model_is_measured_against_held_out_pictures_alone(curated):
    pictures, prompts = evaluation_inputs(layout.TABLE, layout.HELD_OUT)
    assert len(pictures) == 12 and set(pictures["split"]) == {"test"}
    assert prompts == {"dark": ["dark"], "light": ["light"]}
