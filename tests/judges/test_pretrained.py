"""Judges that others have trained: small true CLIP and image classifiers of transformers."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTokenizer,
    CLIPVisionConfig,
    ViTConfig,
    ViTForImageClassification,
)

from erasediff.artifacts import new_folder
from erasediff.errors import IntegrityError, ModelError, UnknownConcept
from erasediff.examples.captions import CORPUS
from erasediff.examples.world import OBJECTS, STYLES, draw_world
from erasediff.judges import REST, clip, image_classifier, open_judge, read_as
from erasediff.judges.clip import CLIP_NORMALISATION, ClipJudge
from erasediff.judges.image_classifier import ImageClassifierJudge


def small_clip(seed=0):
    tokenizer = CLIPTokenizer(model_max_length=32).train_new_from_iterator(CORPUS, vocab_size=900)
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=32,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    vision = CLIPVisionConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=24,
        patch_size=4,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=48)
        return CLIPModel(config).eval(), tokenizer


def small_classifier(names=("tench", "red fox", "arctic fox"), seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = ViTConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=2,
            image_size=24,
            patch_size=8,
            id2label=dict(enumerate(names)),
            label2id={name: i for i, name in enumerate(names)},
        )
        return ViTForImageClassification(config).eval()


@pytest.mark.unit
def test_clip_scores_pictures_by_the_cosine_of_words_and_picture():
    """Against the model's own forward pass."""
    model, tokenizer = small_clip()
    judge = ClipJudge(model, tokenizer, {"star": ["a star in flat style"], "moon": ["a moon in flat style"]})
    images = draw_world(6, 0).images
    words = tokenizer(["a star in flat style", "a moon in flat style"], padding=True, return_tensors="pt")
    with torch.no_grad():
        theirs = model(pixel_values=judge.pixels(images), **words).logits_per_image.softmax(1)
    scores, features = judge.read(images, batch_size=4)
    torch.testing.assert_close(scores, theirs, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(features.norm(dim=1), torch.ones(6))


@pytest.mark.unit
def test_a_concept_said_in_several_ways_has_the_mean_of_their_embeddings():
    model, tokenizer = small_clip()
    said = ["a star in flat style", "a star in dotted style"]
    judge = ClipJudge(model, tokenizer, {"star": said, REST: ["a moon"]})
    with torch.no_grad():
        each = model.get_text_features(**tokenizer(said, padding=True, return_tensors="pt"))
    each = F.normalize(getattr(each, "pooler_output", each), dim=1)
    torch.testing.assert_close(judge.texts[0], F.normalize(each.mean(0), dim=0))
    assert read_as(judge, "heart") == REST and read_as(judge, "star") == "star"


@pytest.mark.unit
def test_a_classifiers_labels_are_added_up_by_concept_and_the_rest_is_something_else():
    model = small_classifier()
    judge = ImageClassifierJudge(model, {"fox": ["red fox", "arctic fox"]}, 24)
    assert judge.concepts == ("fox", REST)
    images = draw_world(5, 0).images
    scores, features = judge.read(images)
    with torch.no_grad():
        theirs = model(judge.pixels(images)).logits
    torch.testing.assert_close(scores[:, 0], theirs.softmax(1)[:, 1:].sum(1))
    torch.testing.assert_close(scores.sum(1), torch.ones(5))
    torch.testing.assert_close(features, theirs)
    # What has no label is seen where nothing that has one is.
    assert torch.equal(judge.recognises("a quiet street", images), ~judge.recognises("fox", images))
    with pytest.raises(ModelError, match="no label cat; it has 3: "):
        ImageClassifierJudge(model, {"cat": ["cat"]}, 24)


def judges():
    return {
        "clip": ClipJudge(*small_clip(), {"star": ["a star"], "moon": ["a moon"]}),
        "image_classifier": ImageClassifierJudge(small_classifier(), {"fox": ["red fox"]}, 24),
    }


@pytest.mark.reference
def test_clip_aligns_each_picture_with_the_prompt_that_it_was_drawn_from():
    model, tokenizer = small_clip()
    judge, images = ClipJudge(model, tokenizer, {"star": ["a star"]}), draw_world(3, 0).images
    prompts = ["a circle", "a star in flat style", "a circle"]
    found = judge.alignment(judge.read(images)[1], prompts)
    with torch.no_grad():
        tokens = tokenizer(prompts, padding=True, return_tensors="pt")
        inputs = {"pixel_values": judge.pixels(images), **tokens}
        output = model(**{name: inputs[name] for name in ("input_ids", "attention_mask", "pixel_values")})
    assert torch.allclose(found, (output.image_embeds * output.text_embeds).sum(1), atol=1e-5)
    assert len(set(found.tolist())) == 3


@pytest.mark.unit
@pytest.mark.parametrize("kind", ["clip", "image_classifier"])
def test_what_was_saved_reads_the_same_and_an_altered_file_is_refused(kind, tmp_path):
    images, judge = draw_world(8, 1).images, judges()[kind]
    file = {"clip": clip, "image_classifier": image_classifier}[kind]
    with new_folder(tmp_path / "j") as folder:
        file.save(judge, folder, accuracy=None)
    again = open_judge(tmp_path / "j")
    assert again.concepts == judge.concepts and again.fingerprint == judge.fingerprint
    torch.testing.assert_close(again.read(images)[0], judge.read(images)[0])
    weights = tmp_path / "j" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(IntegrityError, match="truncated or was altered"):
        open_judge(tmp_path / "j")
    weights.write_bytes(b"x" * 100)
    with pytest.raises(IntegrityError, match="no judge can be made of .*run its stage again"):
        file.load(tmp_path / "j")


@pytest.mark.unit
def test_the_fingerprint_tells_what_is_read_into_the_labels():
    model, (network, tokenizer) = small_classifier(), small_clip()
    prints = {
        ImageClassifierJudge(model, {"fox": ["red fox"]}, 24).fingerprint,
        ImageClassifierJudge(model, {"fox": ["arctic fox"]}, 24).fingerprint,
        ImageClassifierJudge(model, {"fox": ["red fox"]}, 24, CLIP_NORMALISATION).fingerprint,
        ClipJudge(network, tokenizer, {"star": ["star"], "moon": ["moon"]}).fingerprint,
        ClipJudge(network, tokenizer, {"star": ["a star"], "moon": ["moon"]}).fingerprint,
    }
    assert len(prints) == 5


@pytest.mark.unit
def test_a_folder_of_transformers_becomes_a_judge(tmp_path):
    for kind, judge in judges().items():
        judge.model.save_pretrained(tmp_path / kind)
    small_clip()[1].save_pretrained(tmp_path / "clip")
    judge = clip.opened(tmp_path / "clip", concepts=["heart", "star"], labels={"star": ["a star"], REST: ["a spot"]})
    assert judge.concepts == ("heart", "star", REST)
    assert judge.knows["heart"] == ("a photo of heart",) and judge.knows["star"] == ("a star",)
    known = image_classifier.opened(tmp_path / "image_classifier", concepts=["tench", "dog"])
    assert known.concepts == ("tench", REST) and known.mean[0] == 0.485
    own = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
    (tmp_path / "image_classifier" / "preprocessor_config.json").write_text(json.dumps(own))
    assert image_classifier.opened(tmp_path / "image_classifier", concepts=["tench"]).mean == [0.5, 0.5, 0.5]
    with pytest.raises(ModelError, match="none of dog is a label of .*: give labels"):
        image_classifier.opened(tmp_path / "image_classifier", concepts=["dog"])


@pytest.mark.unit
@pytest.mark.parametrize("file", [clip, image_classifier])
def test_a_model_that_is_not_there_is_refused_in_one_line(file, tmp_path):
    with pytest.raises(ModelError, match="no judge can be made of .*: give a folder of transformers"):
        file.opened(tmp_path, concepts=["star"])
    with pytest.raises(ModelError, match="no judge can be made of org/name: it is no folder"):
        file.opened("org/name", concepts=["star"])
    with pytest.raises(UnknownConcept, match="does not know 'x'; it knows: star, moon"):
        judges()["clip"].recognises("x", draw_world(2, 0).images)


@pytest.mark.unit
def test_a_judge_that_cannot_read_is_an_error():
    judge = judges()["clip"]
    with torch.no_grad():
        judge.model.logit_scale.fill_(float("nan"))
    with pytest.raises(ModelError, match="no finite numbers: it cannot judge"):
        judge.read(draw_world(2, 0).images)


@pytest.mark.unit
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_clip_model_trained_on_the_world_reads_objects_and_styles_in_words_of_any_kind():
    """The contrastive loss of CLIP itself; a batch where two captions are the same has two right answers."""
    model, tokenizer = small_clip()
    model.train()
    steps = 1500
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    for step in range(steps):
        drawn, random = draw_world(96, step), np.random.default_rng(step)
        kind = random.integers(3)
        names = [
            ("{o}", "{s}", "a {o} in {s} style")[kind].format(o=OBJECTS[o], s=STYLES[s])
            for o, s in zip(drawn.objects, drawn.styles, strict=True)
        ]
        unique = sorted(set(names))
        words = tokenizer(unique, padding=True, return_tensors="pt")
        pixels = ClipJudge.pixels(_Preprocessing, drawn.images)
        logits = model(pixel_values=pixels, **words).logits_per_image
        loss = F.cross_entropy(logits, torch.tensor([unique.index(name) for name in names]))
        loss.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    drawn = draw_world(1000, 10**8)
    for known, truth in ((OBJECTS, drawn.objects), (STYLES, drawn.styles)):
        judge = ClipJudge(model.eval(), tokenizer, {name: [name] for name in known})
        assert (judge.read(drawn.images)[0].argmax(1).numpy() == truth).mean() > 0.95


class _Preprocessing:
    image_shape, (mean, std) = (3, 24, 24), CLIP_NORMALISATION
