import os
import signal
from multiprocessing import get_context

import pytest
import torch
from tiny_stable_diffusion import tiny_stable_diffusion

from erasediff import erase
from erasediff.data.images import decode, encode_png
from erasediff.errors import DataError, ModelError, ParamsError
from erasediff.families import family_of
from erasediff.families.drawing import draw, draw_recognised, drawn_table, require_visible
from erasediff.families.resuming import resumable
from erasediff.judges.cnn import train

HOW = {"steps": 4, "guidance_scale": 5.0}


@pytest.mark.unit
def test_a_forget_set_drawn_by_stable_diffusion_is_erased_from_it():
    """Prompts as concepts, all the way: drawn, recognised by a classifier trained on other seeds, erased."""
    family = family_of(tiny_stable_diffusion())
    prompts = ["a red circle", "a blue star"]
    names = [p for p in prompts for _ in range(40)]
    known = family.sample(names, range(1000, 1080), **HOW)
    how = {"width": 8, "steps": 60, "batch_size": 32, "learning_rate": 0.01, "seed": 0}
    classifier = train(known, names, family.image_shape, **how)
    sets = {}
    for prompt in prompts:
        images, asked, discarded = draw_recognised(family, prompt, classifier.recognises, 12, seeds=range(120), **HOW)
        assert (
            images.shape == (12, 3, 16, 16) and asked == [prompt] * 12 and classifier.recognises(prompt, images).all()
        )
        drawn = family.sample([prompt] * 120, range(120), **HOW)
        seen = classifier.recognises(prompt, drawn)
        last = next(n for n in range(12, 121, 12) if seen[:n].sum() >= 12)
        assert discarded == int((~seen[:last]).sum())
        assert torch.allclose(images, drawn[:last][seen[:last]][:12], atol=1e-4)
        sets[prompt] = decode([encode_png(i) for i in images], family.image_shape)
    small = {"outer_steps": 2, "forget_batch_size": 4, "retain_batch_size": 4}
    result = erase(family.pipeline, prompts[0], forget=sets[prompts[0]], retain={prompts[1]: sets[prompts[1]]}, **small)
    changed = family_of(result.pipeline).sample(prompts, [0, 1], **HOW)
    assert not torch.allclose(changed, family.sample(prompts, [0, 1], **HOW), atol=1e-3)


@pytest.mark.unit
@pytest.mark.parametrize(
    ("first", "seeds", "told"),
    [
        (10**6, 20, r"draws 'a' in 0 of 20 pictures \(0%\), as the judge sees them, too few of 6"),
        (10**6, 120, r"draws 'a' in 0 of 66 pictures \(0%\)"),
        (0, 120, r"draws 'a' in 5 of 120 pictures \(4%\), as the judge sees them, too few of 6"),
    ],
)
def test_a_concept_that_the_base_cannot_draw_is_refused_with_its_rate(family, first, seeds, told):
    """At once where nothing is seen of it, else when the seeds are used up."""
    tried = []

    def seldom(concept, images):
        tried.extend(images)
        return torch.tensor([first <= len(tried) - i < first + 5 for i in range(len(images), 0, -1)])

    with pytest.raises(DataError, match=told):
        draw_recognised(family, "a", seldom, 6, seeds=range(seeds), steps=1, guidance_scale=1.0)


def drawn_ids(family, folder, *, dies=False):
    """How many batches are drawn for a table, and the ids of its pictures; or the process kills itself on the way."""
    plain, drawn = family.sample, []
    family.sample = lambda *given, **how: drawn.append(given) or plain(*given, **how)
    table, _ = drawn_table(
        resumable(family, folder, "model"),
        {name: [name] for name in "abc"},
        lambda concept, images: torch.arange(len(images)) % 2 == 0,
        4,
        seed=3,
        steps=2,
        on_progress=lambda done, total: os.kill(os.getpid(), signal.SIGKILL) if dies and done == 2 else None,
    )
    family.sample = plain
    return len(drawn), table["sample_id"].tolist()


@pytest.mark.unit
def test_each_concept_gets_its_own_number_and_what_nobody_recognises_is_taken_as_it_comes(family):
    prompts = {name: [name] for name in "abc"}
    seen = []

    def every_second(concept, images):
        seen.append(concept)
        return torch.arange(len(images)) % 2 == 0

    counts = {"a": 2, "b": 3, "c": 1}
    table, discarded = drawn_table(family, prompts, every_second, counts, seed=3, unseen={"b"}, steps=1)
    assert table["concept"].value_counts().to_dict() == counts
    assert "b" not in {*seen, *discarded} and set(discarded) == {"a", "c"}


@pytest.mark.unit
def test_a_drawing_that_is_killed_goes_on_where_it_was(family, tmp_path):
    """What is drawn already is read, and what comes of it is the same to the bit."""
    killed = get_context("fork").Process(target=drawn_ids, args=(family, tmp_path / "killed"), kwargs={"dies": True})
    killed.start()
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    assert drawn_ids(family, tmp_path / "killed") == (2, drawn_ids(family, tmp_path / "whole")[1])
    assert drawn_ids(family, tmp_path / "whole")[0] == 0


@pytest.mark.unit
def test_what_another_model_drew_is_not_read(family, tmp_path):
    how = {"prompts": ["a"], "seeds": [1], "steps": 2}
    one = resumable(family, tmp_path, "one").sample(**how)
    with torch.no_grad():
        family.denoiser.conv_out.weight.mul_(2)
    assert torch.equal(resumable(family, tmp_path, "one").sample(**how), one)
    assert not torch.equal(resumable(family, tmp_path, "other").sample(**how), one)


@pytest.mark.unit
def test_blank_pictures_are_no_pictures_of_anything():
    family = family_of(tiny_stable_diffusion())
    with torch.no_grad():
        family.pipeline.vae.decoder.conv_out.weight.zero_()
    with pytest.raises(ModelError, match=r"(\d+) of \1 pictures drawn for '.+' are of one colour alone"):
        erase(family.pipeline, "a red circle", preserve=["a blue star"], generate=3, outer_steps=1)
    mixed = torch.rand(3, 3, 4, 4)
    mixed[0] = 0.5
    require_visible(mixed, "a red circle")


@pytest.mark.unit
@pytest.mark.parametrize(
    ("asked", "match"),
    [
        ({"n": 0}, "n 0: give a whole number at least 1"),
        ({"n": 1.5}, "n 1.5: give a whole number"),
        ({"concept": ["a", "b"]}, "is no text: give one name"),
        ({"steps": 1.5}, "1.5 sampling steps: this model takes from 1 to 1000"),
        ({"steps": "5"}, "5 sampling steps"),
        ({"guidance_scale": "7"}, "guidance_scale is 7: give a number"),
        ({"seed": -1}, "seed -1: a picture's seed is from 0"),
    ],
)
def test_a_drawing_that_cannot_be_is_one_line(pipeline, asked, match):
    with pytest.raises(ParamsError, match=match):
        draw(pipeline, **{"concept": "a", "n": 1, **asked})
