import pytest
import torch

from erasediff.artifacts import new_folder
from erasediff.errors import IntegrityError
from erasediff.judges.cnn import load_classifier, save_classifier, train_classifier


@pytest.mark.unit
def test_classifier_reads_digits_and_survives_saving(digits, tmp_path):
    images, concepts = digits
    model = train_classifier(
        images[:1000], concepts[:1000], (1, 8, 8), width=16, steps=200, batch_size=64, learning_rate=3e-3, seed=0
    )
    probabilities = model.predict(images[1000:])
    truth = torch.tensor([model.concepts.index(c) for c in concepts[1000:]])
    assert (probabilities.argmax(1) == truth).float().mean() > 0.9
    with new_folder(tmp_path / "c") as folder:
        save_classifier(model, folder, accuracy=0.9)
    assert torch.equal(load_classifier(tmp_path / "c").predict(images[1000:]), probabilities)
    rgb = images[1000:].expand(-1, 3, -1, -1).repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert model.predict(rgb).shape == probabilities.shape
    weights = tmp_path / "c" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(IntegrityError, match="truncated or was altered"):
        load_classifier(tmp_path / "c")
