"""Judges that others have trained: small true CLIP and image classifiers of transformers."""

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

from erasediff.errors import IntegrityError, ModelError, UnknownConcept
from erasediff.examples.captions import CORPUS
from erasediff.examples.world import OBJECTS, STYLES, draw_world
from erasediff.judges import open_judge, pretrained
from erasediff.judges.pretrained import ClipJudge, ImageClassifierJudge, open_classifier, open_clip


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
    judge = ClipJudge(model, tokenizer, ["star", "moon"], "a {concept} in flat style")
    images = draw_world(6, 0).images
    words = tokenizer(["a star in flat style", "a moon in flat style"], padding=True, return_tensors="pt")
    with torch.no_grad():
        theirs = model(pixel_values=judge.pixels(images), **words).logits_per_image.softmax(1)
    scores, features = judge.read(images, batch_size=4)
    torch.testing.assert_close(scores, theirs, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(features.norm(dim=1), torch.ones(6))


@pytest.mark.unit
def test_a_classifiers_labels_are_added_up_by_concept_and_the_rest_is_something_else():
    model = small_classifier()
    judge = ImageClassifierJudge(model, {"fox": ["red fox", "arctic fox"]}, 24)
    assert judge.concepts == ("fox", "something else")
    images = draw_world(5, 0).images
    scores, features = judge.read(images)
    with torch.no_grad():
        theirs = model(judge.pixels(images)).logits
    torch.testing.assert_close(scores[:, 0], theirs.softmax(1)[:, 1:].sum(1))
    torch.testing.assert_close(scores.sum(1), torch.ones(5))
    torch.testing.assert_close(features, theirs)
    with pytest.raises(ModelError, match="no label cat; it has 3: "):
        ImageClassifierJudge(model, {"cat": ["cat"]}, 24)


@pytest.mark.unit
def test_what_was_saved_reads_the_same(tmp_path):
    images = draw_world(8, 1).images
    clip = ClipJudge(*small_clip(), ["star", "moon"], "a {concept}", others=["a scribble"])
    classifier = ImageClassifierJudge(small_classifier(), {"fox": ["red fox"]}, 24)
    for name, judge in (("clip", clip), ("classifier", classifier)):
        pretrained.save(judge, tmp_path / name)
        again = open_judge(tmp_path / name)
        assert again.concepts == judge.concepts and again.fingerprint == judge.fingerprint
        assert torch.equal(again.read(images)[0], judge.read(images)[0])
        with pytest.raises(UnknownConcept, match="does not know x;"):
            again.recognises("x", images)
    assert open_clip(tmp_path / "clip", ["heart"]).concepts == ("heart",)
    assert open_classifier(tmp_path / "classifier", {"fish": ["tench"]}).concepts == ("fish", "something else")
    (tmp_path / "clip" / "judge.json").write_text('{"kind": "oracle"}')
    with pytest.raises(IntegrityError, match="of kind oracle"):
        pretrained.load(tmp_path / "clip")


@pytest.mark.unit
def test_a_model_that_is_not_there_is_refused_in_one_line(tmp_path):
    for opened in (lambda: open_clip(tmp_path, ["star"]), lambda: open_classifier(tmp_path, {"star": ["star"]})):
        with pytest.raises(ModelError, match="no judge can be made of .*: give a folder or a hub id"):
            opened()
    with pytest.raises(ValueError, match="no place for a concept"):
        ClipJudge(*small_clip(), ["star"], "a photo")


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
        judge = ClipJudge(model.eval(), tokenizer, known, "{concept}")
        assert (judge.read(drawn.images)[0].argmax(1).numpy() == truth).mean() > 0.95


class _Preprocessing:
    image_shape, mean, std = (3, 24, 24), pretrained.CLIP_MEAN, pretrained.CLIP_STD
