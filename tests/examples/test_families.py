"""The small models of other families: that each can be made, and that what works is erased from it."""

from pathlib import Path

import pytest
import torch

from erasediff import erase
from erasediff.artifacts import read_json
from erasediff.data.images import as_shape
from erasediff.examples import open_example, train_family
from erasediff.examples.family_models import COLOURS, MODELS, OBJECTS, STYLES, build
from erasediff.examples.shapes import MADE
from erasediff.examples.train_family import make, read_prompts
from erasediff.examples.world import draw_world
from erasediff.families import FAMILIES, family_of, open_pipeline
from erasediff.training.denoising import Recipe

EXAMPLES = Path(__file__).parents[2] / train_family.FOLDER


@pytest.mark.unit
@pytest.mark.parametrize("name", MODELS)
def test_each_is_of_the_family_that_it_is_named_after_and_draws(name):
    pipeline = build(name, open_example("shapes").pipeline, 0)
    family = family_of(pipeline)
    assert (name, type(family).__name__) in FAMILIES.values()
    prompt = OBJECTS[0] if family.concepts else "a star in flat style"
    assert torch.isfinite(family.sample([prompt], [0], steps=2, guidance_scale=3.0)).all()
    assert family.encode(torch.zeros(1, *family.image_shape)).shape == (1, *family.latent_shape)


@pytest.mark.unit
def test_a_training_that_was_stopped_goes_on_and_one_that_is_there_is_left(tmp_path, monkeypatch):
    recipe = Recipe(3, batch_size=2, learning_rate=1e-3, ema_decay=0.9)
    few = MODELS["dit"].__class__(MODELS["dit"].build, recipe, of_classes=True, pictures=8)
    monkeypatch.setitem(MODELS, "dit", few)
    monkeypatch.setattr(train_family, "CHECKPOINT_EVERY", 2)
    monkeypatch.setattr(train_family, "asked_for", lambda model: [("star", {"object": "star"})])
    make("dit", tmp_path / "whole", tmp_path / "work")

    def stopped(step, row):
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make("dit", tmp_path / "again", tmp_path / "stopped", on_step=stopped)
    steps = []
    make("dit", tmp_path / "again", tmp_path / "stopped", on_step=lambda step, row: steps.append(step))
    first, second = (open_pipeline(tmp_path / name).transformer.state_dict() for name in ("whole", "again"))
    assert steps == [3] and all(torch.equal(first[name], second[name]) for name in first)
    assert family_of(open_pipeline(tmp_path / "again")).concepts == OBJECTS
    assert read_json(tmp_path / "again" / MADE)["recipe"]["steps"] == 3


@pytest.mark.unit
@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("name", MODELS)
def test_a_star_is_erased_from_a_working_model_of_each_family(name):
    """Never seen in 19 of 20 pictures, others as often as before but for 3 in 100."""
    if not (EXAMPLES / name).exists():
        make(name, EXAMPLES / name, EXAMPLES / f"{name}.training")
    pipeline, model, judge = open_pipeline(EXAMPLES / name), MODELS[name], open_example("shapes").judge
    shape = family_of(pipeline).image_shape
    known = {o: draw_world(32, 7, objects=[o], styles=STYLES, colours=COLOURS).images for o in OBJECTS}
    forget, *keep = ({o: as_shape(images, shape)} for o, images in known.items())
    retain = {o: images for one in keep for o, images in one.items()}
    how = {"outer_steps": 120, "forget_batch_size": 16, "retain_batch_size": 16}
    erased = erase(pipeline, "star", forget=forget, retain=retain, progress=False, **how)

    def read(of):
        return read_prompts(of, judge, list(OBJECTS), 40, guidance_scale=model.guidance_scale)

    before, after = read(pipeline), read(erased.pipeline)
    assert before["star"] >= 0.9, before
    assert 1 - after["star"] >= 0.95, after
    others = [sum(right[o] for o in OBJECTS[1:]) / 3 for right in (before, after)]
    assert others[1] >= others[0] - 0.03, (before, after)
