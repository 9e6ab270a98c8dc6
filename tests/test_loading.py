import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

import erasediff
from erasediff.errors import ModelError
from erasediff.families import family_of
from erasediff.loading import erased_before
from stages.params import load_params
from stages.pretrain import source_of


@pytest.fixture
def hub(pipeline, tmp_path, monkeypatch):
    """Stands for the Hugging Face hub: it has one model, and notes what it was asked for."""
    pipeline.save_pretrained(tmp_path / "model")
    asked = []

    def snapshot_download(repo, revision=None):
        asked.append((repo, revision))
        return str(tmp_path / "model")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    return asked


@pytest.mark.unit
def test_a_model_is_a_folder_or_of_the_hub(hub, tmp_path):
    assert family_of(erasediff.load(tmp_path / "model")).concepts == ("a", "b", "c")
    assert hub == []
    assert family_of(erasediff.load("hf://org/name@0123abc")).concepts == ("a", "b", "c")
    erasediff.load("hf://org/name")
    assert hub == [("org/name", "0123abc"), ("org/name", None)]
    with pytest.raises(ModelError, match="'models:here' is no model: give a folder, models:/NAME@ALIAS"):
        erasediff.load("models:here")


@pytest.mark.unit
def test_a_model_that_the_hub_does_not_give_is_told(monkeypatch):
    def offline(repo, revision=None):
        raise LocalEntryNotFoundError("outgoing traffic\n has been disabled")

    monkeypatch.setattr("huggingface_hub.snapshot_download", offline)
    with pytest.raises(
        ModelError, match=r"hf://org/name@0123abc cannot be fetched \(outgoing traffic has been disabled"
    ):
        erasediff.load("hf://org/name@0123abc")


@pytest.mark.unit
@pytest.mark.parametrize(
    ("source", "model"),
    [
        ("train", None),
        ("folder", "models/own"),
        ("hub", "hf://org/name@0123abc"),
        ("registry", "models:/org/name/0123abc"),
    ],
)
def test_params_name_a_model_as_load_takes_it(source, model):
    given = {"source": source, "repo": "org/name", "revision": "0123abc"}
    assert source_of(load_params().pretrain.model_copy(update=given)) == model


@pytest.mark.unit
@pytest.mark.parametrize("model", [None, "models/own", "hf://org/name@0123abc"])
def test_nothing_is_known_of_what_a_model_from_elsewhere_has_forgotten(model):
    assert erased_before(model) == []
