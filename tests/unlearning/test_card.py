"""What leaves the house: the model, and a card that huggingface_hub reads."""

import huggingface_hub
import pytest
from diffusers import StableDiffusionPipeline
from huggingface_hub import ModelCard
from test_words import SMALL, sets
from tiny_stable_diffusion import tiny_stable_diffusion

from erasediff.unlearning.erasing import erase


def erased(name=None, **settings):
    pipeline = tiny_stable_diffusion()
    if name:
        pipeline.register_to_config(_name_or_path=name)
    return erase(pipeline, "star", **sets(), **SMALL, progress=False, **settings)


@pytest.mark.unit
@pytest.mark.filterwarnings("ignore:.*another concept")
def test_a_published_folder_loads_in_plain_diffusers_and_its_card_says_what_is_known(tmp_path):
    result = erased("org/stable-model")
    result.publish(tmp_path / "m", measured={"unlearning accuracy": 0.98125, "of | whom": "# the *judge*"})
    StableDiffusionPipeline.from_pretrained(tmp_path / "m")
    card = ModelCard.load(tmp_path / "m" / "README.md")
    assert card.data.base_model == "org/stable-model" and card.data.library_name == "diffusers"
    assert card.data.pipeline_tag == "text-to-image" and "concept-erasure" in card.data.tags
    assert "lora" not in card.data.tags
    assert "made to forget **star**" in card.text and "- updates: 3" in card.text
    assert "- unlearning accuracy: 0.9812" in card.text and "- of \\| whom: \\# the \\*judge\\*" in card.text
    assert "Nobody has tried to bring the concept back" in card.text and "Nobody has measured" not in card.text
    assert (
        f"- predictions of the concept, part of the way to another one: {result.record.concept_change:.4g}" in card.text
    )


@pytest.mark.unit
@pytest.mark.filterwarnings("ignore:.*another concept")
def test_the_card_of_a_lora_says_how_to_load_it_and_that_nothing_was_measured(tmp_path):
    result = erased("org/stable-model", adapter="lora", rank=2)
    result.publish(tmp_path, came_back={"after 100 steps of fine-tuning": 0.4})
    card = ModelCard.load(tmp_path / "README.md")
    assert "lora" in card.data.tags and card.data.to_dict()["base_model_relation"] == "adapter"
    assert 'load_lora_weights("THIS REPOSITORY")' in card.text and "Nobody has measured" in card.text
    assert "- after 100 steps of fine-tuning: 0.4" in card.text
    assert (tmp_path / "pytorch_lora_weights.safetensors").exists()


@pytest.mark.unit
@pytest.mark.filterwarnings("ignore:.*another concept")
def test_a_base_from_a_folder_is_named_to_nobody(tmp_path):
    (tmp_path / "own" / "model").mkdir(parents=True)
    result = erased(str(tmp_path / "own" / "model"))
    result.publish(tmp_path / "m")
    assert ModelCard.load(tmp_path / "m" / "README.md").data.base_model is None
    assert str(tmp_path) not in (tmp_path / "m" / "README.md").read_text()


@pytest.mark.unit
@pytest.mark.filterwarnings("ignore:.*another concept")
def test_what_is_pushed_is_what_is_published(monkeypatch):
    """The thin call alone: nothing is sent."""
    pushed = {}

    class Api:
        def __init__(self, token):
            pushed["token"] = token

        def create_repo(self, repo, private, exist_ok):
            pushed["repo"] = (repo, private, exist_ok)

        def upload_folder(self, repo_id, folder_path, commit_message):
            StableDiffusionPipeline.from_pretrained(folder_path)
            pushed["card"] = ModelCard.load(f"{folder_path}/README.md").text
            return f"hub/{repo_id}: {commit_message}"

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    address = erased().push_to_hub("me/no-star", token="t", measured={"unlearning accuracy": 1.0})
    assert address == "hub/me/no-star: star forgotten by erasediff"
    assert pushed["repo"] == ("me/no-star", True, True) and "unlearning accuracy: 1" in pushed["card"]
