"""What is computed once: by content and by the networks, on disk, and without a growing memory."""

import os
import resource
import signal
from multiprocessing import get_context
from pathlib import Path

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from hypothesis import given
from hypothesis import strategies as st
from tiny_pipelines import PIPELINES, flux, stable_diffusion_xl
from tiny_stable_diffusion import tiny_stable_diffusion

from erasediff import erase
from erasediff.data.images import encode_png
from erasediff.data.inputs import load_images
from erasediff.data.rows import rows_on_disk
from erasediff.errors import ParamsError
from erasediff.families import family_of
from erasediff.training.encoding import EncodedPrompts, encoded, encoders_of
from erasediff.unlearning.drawing_sets import KEPT_BLOCK, HowDrawn, drawn_set
from erasediff.unlearning.words import Wordings

CPU = torch.device("cpu")
PROMPTS = ["a red circle", "a blue star", "", "a green square"]
HOW = {"outer_steps": 1, "forget_batch_size": 2, "retain_batch_size": 2, "forget_target": "relabel", "progress": False}


def calls_of(network):
    """A list that gets an entry for each call of a network."""
    made = []
    network.register_forward_hook(lambda *given: made.append(1))
    return made


def reported(work, *arguments):
    """What a work returns in a process of its own."""
    context = get_context("fork")
    there, here = context.Pipe()
    child = context.Process(target=lambda: here.send(work(*arguments)))
    child.start()
    found = there.recv() if there.poll(200) else None
    child.join()
    assert child.exitcode == 0
    return found


@pytest.mark.unit
@pytest.mark.parametrize("name", sorted(set(PIPELINES) - {"dit"}))
def test_prompts_are_encoded_once_for_all_trainings_of_a_model(name, tmp_path):
    family = family_of(PIPELINES[name]())
    calls = [made for part in encoders_of(family) if part is not family.encoder for made in [calls_of(part)]]
    plain = family.condition(PROMPTS)
    first = EncodedPrompts(family, PROMPTS, CPU, folder=tmp_path)
    before = [len(made) for made in calls]
    again = EncodedPrompts(family, PROMPTS, CPU, folder=tmp_path)
    assert [len(made) for made in calls] == before and len(list(tmp_path.iterdir())) == 1
    picked = [PROMPTS[3], PROMPTS[0], PROMPTS[0]]
    expected = plain.take(torch.tensor([3, 0, 0])).flat()
    for kept in (first, again):
        found = kept(picked).flat()
        assert set(found) == set(expected) and all(torch.equal(found[key], expected[key]) for key in expected)


@pytest.mark.unit
def test_other_prompts_another_text_encoder_or_another_size_are_encoded_anew(tmp_path):
    pipeline = stable_diffusion_xl()
    EncodedPrompts(family_of(pipeline), PROMPTS, CPU, folder=tmp_path)
    EncodedPrompts(family_of(pipeline), PROMPTS[:3], CPU, folder=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    sized = EncodedPrompts(family_of(pipeline, (8, 24)), PROMPTS, CPU, folder=tmp_path)
    assert sized(PROMPTS[:1])["added_cond_kwargs"]["time_ids"].tolist() == [[8, 24, 0, 0, 8, 24]]
    with torch.no_grad():
        next(pipeline.text_encoder_2.parameters()).add_(0.1)
    changed = EncodedPrompts(family_of(pipeline), PROMPTS, CPU, folder=tmp_path)
    assert len(list(tmp_path.iterdir())) == 4
    expected = family_of(pipeline).condition(PROMPTS)["encoder_hidden_states"]
    assert torch.equal(changed(PROMPTS)["encoder_hidden_states"], expected)


@pytest.mark.unit
def test_what_a_text_encoder_says_in_half_precision_keeps_its_bits(tmp_path):
    pipeline = flux()
    pipeline.text_encoder_2.to(torch.bfloat16)
    family = family_of(pipeline)
    expected = family.condition(PROMPTS)["encoder_hidden_states"]
    for folder in (None, tmp_path, tmp_path):
        kept = EncodedPrompts(family, PROMPTS, CPU, folder=folder)
        assert torch.equal(kept(PROMPTS)["encoder_hidden_states"], expected) and expected.dtype == torch.bfloat16


@pytest.mark.property
@given(
    st.lists(st.integers(1, 4), min_size=1, max_size=5), st.sampled_from(["float32", "bfloat16", "float16", "int64"])
)
def test_rows_come_back_as_they_were_however_they_were_given(counts, dtype):
    whole = (torch.randn(sum(counts), 3, generator=torch.Generator().manual_seed(0)) * 9).to(getattr(torch, dtype))
    kept = rows_on_disk(({"a": part, "b.c": part[:, :1]} for part in whole.split(counts)), len(whole))
    assert set(kept) == {"a", "b.c"} and torch.equal(kept["a"], whole) and torch.equal(kept["b.c"], whole[:, :1])
    kept["a"].zero_()  # it is nobody else's
    assert torch.equal(kept["b.c"], whole[:, :1])


@pytest.mark.unit
def test_what_was_begun_and_not_ended_is_not_read(tmp_path):
    def fails():
        yield {"a": torch.ones(1, 2)}
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rows_on_disk(fails(), 2, tmp_path, "name")
    assert list(tmp_path.iterdir()) == []
    assert rows_on_disk([{"a": torch.ones(2, 2)}], 2, tmp_path, "name")["a"].shape == (2, 2)


@pytest.mark.unit
def test_many_pictures_of_a_table_give_the_same_bits_as_few(monkeypatch):
    draw = torch.Generator().manual_seed(0)
    pngs = [encode_png(torch.rand(1, 8, 8, generator=draw) * 2 - 1) for _ in range(5)]
    table = pd.DataFrame({"image": pngs, "concept": list("aabbb")})
    few = load_images(table, (1, 8, 8)).images
    monkeypatch.setattr("erasediff.data.inputs.MANY_BYTES", 100)
    many, index = load_images(table, (1, 8, 8)).images, torch.tensor([4, 0, 4])
    assert isinstance(few, torch.Tensor) and not isinstance(many, torch.Tensor)
    assert torch.equal(many[index], few[index]) and len(many) == 5


def growth_of_encoding(png, n):
    """Bytes by which the peak grows while n pictures of a table are read and encoded."""
    family = family_of(sized(64))
    family.encode = lambda images: F.avg_pool2d(images, 16)  # the true one would take most of the time
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    data = load_images(pd.DataFrame({"image": [png] * n, "concept": ["star"] * n}), family.image_shape)
    assert encoded(family, data.images)[torch.tensor([n - 1])].shape == (1, 3, 8, 8)
    return 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)


def sized(side):
    pipeline = tiny_stable_diffusion()
    pipeline.unet.register_to_config(sample_size=side)
    return pipeline


@pytest.mark.unit
def test_memory_does_not_grow_with_the_pictures_of_a_table(monkeypatch):
    monkeypatch.setattr("erasediff.data.inputs.MANY_BYTES", 2**24)
    png = encode_png(torch.rand(3, 128, 128, generator=torch.Generator().manual_seed(0)) * 2 - 1)
    small, large = (reported(growth_of_encoding, png, n) for n in (100, 400))
    decoded = 300 * 3 * 128 * 128 * 4
    assert large - small < 0.25 * decoded


def anonymous():
    """Bytes of memory that the system cannot have back: none of a mapped file."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return 1024 * int(line.split()[1])


def growth_of_drawing(n):
    """Bytes that n drawn pictures take once they are drawn."""
    family, before = family_of(sized(64)), anonymous()
    family.sample = lambda prompts, seeds, **how: torch.rand(len(prompts), *family.image_shape)
    drawn = drawn_set(family, ["star"], KEPT_BLOCK, Wordings(family, [], Accelerator()), HowDrawn(n), read=True)
    assert drawn.images[torch.tensor([0])].std() > 0.1
    return len(drawn), anonymous() - before


@pytest.mark.unit
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells what memory is made of")
def test_memory_does_not_grow_with_the_pictures_that_are_drawn():
    (few, small), (many, large) = (reported(growth_of_drawing, n) for n in (70, 280))
    assert large - small < 0.25 * (many - few) * 3 * 128 * 128 * 4


def erased(pipeline, folder, dies_after=None, seed=0):
    """How many batches are decoded for an erasing, and its weights; or the process kills itself on the way."""
    decoded = []

    def count(*given):
        decoded.append(1)
        if len(decoded) == dies_after:
            os.kill(os.getpid(), signal.SIGKILL)

    pipeline.vae.decoder.register_forward_hook(count)
    result = erase(pipeline, "star", preserve=["circle"], generate=8, inference_steps=2, seed=seed, cache=folder, **HOW)
    return len(decoded), torch.cat([p.flatten() for p in result.pipeline.unet.parameters()])


@pytest.mark.unit
def test_an_erasing_that_is_killed_while_it_draws_goes_on_at_its_batch(tmp_path, monkeypatch):
    monkeypatch.setattr("erasediff.families.text_to_image.MOST_AT_ONCE", 8)
    pipeline = tiny_stable_diffusion()
    killed = get_context("fork").Process(target=erased, args=(pipeline, tmp_path / "killed", 2))
    killed.start()
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    batches, weights = erased(pipeline, tmp_path / "killed")
    whole, expected = erased(pipeline, None)
    assert (batches, whole) == (2, 3) and torch.equal(weights, expected)
    assert erased(pipeline, tmp_path / "killed")[0] == 0 and erased(pipeline, tmp_path / "killed", seed=1)[0] == 3


@pytest.mark.unit
def test_how_pictures_are_drawn_is_told_to_the_sampler_and_on_record(monkeypatch):
    pipeline, asked = tiny_stable_diffusion(), []
    family = type(family_of(pipeline))
    plain = family.sample
    monkeypatch.setattr(family, "sample", lambda self, *given, **how: asked.append(how) or plain(self, *given, **how))
    more = {"preserve": ["circle"], "generate": 2, **HOW}
    result = erase(pipeline, "star", inference_steps=3, guidance_scale=2.0, **more)
    assert [(how["steps"], how["guidance_scale"]) for how in asked] == [(3, 2.0)]
    assert (result.settings["inference_steps"], result.settings["guidance_scale"]) == (3, 2.0)
    assert "inference_steps" not in erase(pipeline, "star", **more).settings
    assert [(how["steps"], how["guidance_scale"]) for how in asked[1:]] == [(20, None)]


@pytest.mark.unit
@pytest.mark.parametrize("how", [{"generate": 3}, {"inference_steps": 3}, {"guidance_scale": 2.0}])
def test_how_many_pictures_are_drawn_is_not_said_where_all_are_given(pipeline, how):
    images = {name: torch.zeros(2, 1, 8, 8) for name in "ab"}
    with pytest.raises(ParamsError, match=f"{next(iter(how))} .* has no effect: no pictures are drawn; leave it out"):
        erase(pipeline, "a", forget={"a": images["a"]}, retain={"b": images["b"]}, **how)


@pytest.mark.unit
@pytest.mark.parametrize(
    ("how", "told"),
    [
        ({"inference_steps": 0}, "0 sampling steps: this model takes from 1 to 1000"),
        ({"guidance_scale": "7"}, "guidance_scale is 7: give a number"),
        ({"method": "uce", "inference_steps": 3}, "inference_steps 3 has no effect: no pictures are drawn"),
        ({"method": "uce", "guidance_scale": 3.0}, "guidance_scale 3.0 has no effect: no pictures are drawn"),
        ({"size": 16}, r"size 16: give height and width, such as \(512, 768\)"),
        ({"size": (16, 0)}, r"size \(16, 0\): give height and width"),
        ({"size": (16, 20)}, "size 16×20: this model takes multiples of 8, and 20 is none"),
    ],
)
def test_a_drawing_that_cannot_be_is_told_before_anything_is_drawn(how, told):
    with pytest.raises(ParamsError, match=told):
        erase(tiny_stable_diffusion(), "star", preserve=["circle"], progress=False, **how)
