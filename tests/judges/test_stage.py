"""The stage ``classifier``: what it learns from, and what it is measured on."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from erasediff.artifacts import new_folder, read_json, sha256_file
from erasediff.data.images import decode, png_bytes
from erasediff.data.inputs import evaluation_inputs
from erasediff.errors import ClassifierTooWeak, ModelError
from erasediff.judges import accuracy, open_judge
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


def saved_classifier(folder):
    """A true image classifier of transformers, untrained, whose labels are the table's concepts."""
    from transformers import ViTConfig, ViTForImageClassification

    names = dict(enumerate(SHADES))
    config = ViTConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=8,
        patch_size=4,
        id2label=names,
        label2id={name: i for i, name in names.items()},
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)  # other weights may read all twelve pictures by chance
        ViTForImageClassification(config).save_pretrained(folder)


@pytest.mark.unit
def test_a_judge_of_others_is_measured_on_pictures_with_labels(curated, tmp_path):
    saved_classifier(tmp_path / "theirs")
    classifier.main(Run(), 0, settings(kind="image_classifier", path="theirs"))
    facts = read_json(layout.CLASSIFIER_METRICS)
    judge = open_judge(layout.CLASSIFIER)
    pictures, _ = evaluation_inputs(layout.TABLE, layout.HELD_OUT)
    shown = decode(pictures["image"].tolist(), (1, 8, 8))
    assert facts["accuracy"] == accuracy(judge, shown, pictures["concept"].tolist()) and facts["test_samples"] == 12
    assert facts["kind"] == judge.kind == "image_classifier" and facts["fingerprint"] == judge.fingerprint
    with pytest.raises(ClassifierTooWeak, match="cannot judge. Take another, or labels"):
        classifier.main(Run(), 0, settings(kind="image_classifier", path="theirs", min_accuracy=1.0))


@pytest.mark.unit
def test_what_a_base_draws_says_nothing_of_a_judge_of_others(curated, tmp_path, monkeypatch):
    """Only pictures to be measured to are drawn, and no accuracy is claimed."""
    asked = []

    def drawn(words, section, seed, train):
        asked.append(train)
        return pd.DataFrame([row(shade, shade, "test", n) for n in range(4) for shade in SHADES])

    monkeypatch.setattr(classifier, "_drawn_by_base", drawn)
    saved_classifier(tmp_path / "theirs")
    run = Run()
    classifier.main(run, 0, settings(kind="image_classifier", path="theirs", pictures="models/base"))
    facts = read_json(layout.CLASSIFIER_METRICS)
    assert asked == [0] and facts["accuracy"] is None and facts["test_samples"] == 0 and run.logged == {}
    assert facts["pictures"] == "drawn by the base" and len(evaluation_inputs(layout.TABLE, layout.HELD_OUT)[0]) == 8


@pytest.mark.unit
def test_a_judge_that_is_not_there_is_told_before_anything_is_drawn(curated, monkeypatch):
    monkeypatch.setattr(classifier, "_drawn_by_base", lambda *_: pytest.fail("drawn"))
    with pytest.raises(ModelError, match="no judge can be made of theirs: it is no folder"):
        classifier.main(Run(), 0, settings(kind="clip", path="theirs", pictures="models/base"))
