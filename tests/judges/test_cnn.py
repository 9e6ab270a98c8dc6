from typing import get_args

import pytest
import torch

from erasediff.artifacts import new_folder, sha256_file
from erasediff.data.images import decode, encode_png
from erasediff.errors import IntegrityError, UnknownConcept
from erasediff.judges import KINDS, accuracy, judge_kind, open_judge
from erasediff.judges.cnn import load, save, train
from stages.params import Classifier


@pytest.mark.unit
def test_classifier_reads_digits_and_survives_saving(digits, tmp_path):
    images, concepts = digits
    model = train(
        images[:1000], concepts[:1000], (1, 8, 8), width=16, steps=200, batch_size=64, learning_rate=3e-3, seed=0
    )
    probabilities, _ = model.read(images[1000:])
    truth = torch.tensor([model.concepts.index(c) for c in concepts[1000:]])
    assert (probabilities.argmax(1) == truth).float().mean() > 0.9
    with new_folder(tmp_path / "c") as folder:
        save(model, folder, accuracy=0.9)
    assert torch.equal(load(tmp_path / "c").read(images[1000:])[0], probabilities)
    rgb = images[1000:].expand(-1, 3, -1, -1).repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert model.read(rgb)[0].shape == probabilities.shape
    weights = tmp_path / "c" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(IntegrityError, match="truncated or was altered"):
        load(tmp_path / "c")


@pytest.fixture(scope="module")
def small(digits):
    images, concepts = digits
    how = {"width": 4, "steps": 3, "batch_size": 8, "learning_rate": 1e-3, "seed": 0}
    return train(images[:100], concepts[:100], (1, 8, 8), **how)


@pytest.mark.unit
def test_a_kind_of_judge_is_one_file_that_trains_writes_and_reads(digits, tmp_path):
    images, concepts = digits
    kind = "cnn"
    how = {"width": 4, "steps": 3, "batch_size": 8, "learning_rate": 1e-3, "seed": 0, "device": torch.device("cpu")}
    judge = judge_kind(kind).train(images[:100], concepts[:100], (1, 8, 8), **how)
    with new_folder(tmp_path / "j") as folder:
        judge_kind(kind).save(judge, folder, accuracy=0.5)
    again = open_judge(tmp_path / "j")
    assert again.concepts == judge.concepts == tuple("0123456789")
    assert again.image_shape == (1, 8, 8) and again.fingerprint == judge.fingerprint
    scores, features = again.read(images[:20])
    assert torch.equal(scores, judge.read(images[:20])[0]) and len(features) == 20
    assert torch.allclose(scores.sum(1), torch.ones(20))
    assert torch.equal(again.recognises("3", images[:20]), scores.argmax(1) == 3)
    assert accuracy(again, images[:20], concepts[:20]) == (scores.argmax(1) == torch.arange(20) % 10).float().mean()
    with pytest.raises(UnknownConcept, match="does not know 'x'; it knows: 0, 1"):
        again.recognises("x", images[:2])


@pytest.mark.unit
def test_a_judge_of_an_unknown_kind_is_told(small, tmp_path):
    save(small, tmp_path)
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace('"kind": "cnn"', '"kind": "oracle"'))
    with pytest.raises(IntegrityError, match=f"of kind 'oracle'; known are {', '.join(KINDS)}: run its stage again"):
        open_judge(tmp_path)


@pytest.mark.unit
def test_the_fingerprint_names_the_weights_and_changes_with_them(small, tmp_path):
    save(small, tmp_path)
    before = small.fingerprint
    assert sha256_file(tmp_path / "model.safetensors") in before
    assert "1x8x8" in before and torch.__version__ in before
    with torch.no_grad():
        small.head.bias.add_(1)
    assert small.fingerprint != before


@pytest.mark.unit
@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 12, 12)])
def test_a_judge_sees_a_colour_picture_as_a_table_read_for_it_does(small, shape):
    colour = torch.randint(0, 256, (3, 12, 12), generator=torch.Generator().manual_seed(0)).float() / 127.5 - 1
    small.image_shape = shape
    assert torch.allclose(small.read(colour[None])[1], small.read(decode([encode_png(colour)], shape))[1], atol=1e-5)


@pytest.mark.unit
def test_params_know_every_kind_of_judge():
    assert get_args(Classifier.model_fields["kind"].annotation) == KINDS
    assert all(hasattr(judge_kind(kind), "train") != hasattr(judge_kind(kind), "opened") for kind in KINDS)
