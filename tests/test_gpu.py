"""What erases on a CPU erases on a GPU; skipped where there is none."""

import dataclasses
import os

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # before the first matrix product

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from tiny_stable_diffusion import tiny_stable_diffusion

from erasediff.data.concept_images import ConceptImages
from erasediff.device import repeatable
from erasediff.families import family_of
from erasediff.families.class_conditional import build_pipeline
from erasediff.judges import cnn
from erasediff.training.denoising import Recipe, train_denoiser
from erasediff.unlearning import METHODS
from erasediff.unlearning.erasing import erase

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]

SIZES = {"outer_steps": 3, "forget_batch_size": 8, "retain_batch_size": 8, "learning_rate": 1e-4}
RECIPE = Recipe(steps=3, batch_size=8, learning_rate=1e-4)
FISHER = {"fisher_samples": 8}
#: Methods that need attention to a prompt.
WORDS = {"uce", "speed"}
#: Methods, and settings that reach code of their own.
CASES = [
    *(
        (method, FISHER if method in ("sfr_on", "selective_amnesia") else {})
        for method in METHODS
        if method not in WORDS
    ),
    ("erasediff", {"mask": "saliency"}),
    ("erasediff", {"mask": "fisher_ratio", **FISHER}),
    ("erasediff", {"forget_source": "mixed", "forget_target": "uniform_noise"}),
    ("erasediff", {"forget_target": "negative_guidance"}),
    ("erasediff", {"gap_every": 1}),
    ("erasediff", {"shared_batch": True}),
    ("erasediff", {"accumulate": 2, "gradient_checkpointing": True}),
    ("erasediff", {"offload": True}),
    # Against noise: beside the teacher the first retain gradient is rounding alone, and so is its angle.
    ("erasediff", {"trainable": "up_blocks", "multiplier": "cosine", "retain_target": "noise"}),
]


@pytest.fixture(autouse=True)
def exact():
    """Full float32, and the same bits at every run; put back afterwards."""
    was = torch.backends.cudnn.allow_tf32, torch.are_deterministic_algorithms_enabled()
    torch.backends.cudnn.allow_tf32 = False
    AcceleratorState._reset_state(True)
    repeatable(torch.device("cuda"))
    yield
    AcceleratorState._reset_state(True)
    torch.backends.cudnn.allow_tf32 = was[0]
    torch.use_deterministic_algorithms(was[1])


@pytest.fixture
def model():
    shape = {"block_out_channels": (32, 64), "attention": (False, True), "norm_num_groups": 8}
    return build_pipeline(["a", "b", "c"], (3, 16, 16), **shape)


def pictures(n, concepts, seed):
    draw = torch.Generator().manual_seed(seed)
    images = torch.rand(n, 3, 16, 16, generator=draw) * 2 - 1
    return ConceptImages(images, [concepts[i % len(concepts)] for i in range(n)])


def erased(model, method="erasediff", *, cpu=False, precision="no", **settings):
    """Weights that were erased, and what was measured."""
    AcceleratorState._reset_state(True)
    accelerator = Accelerator(cpu=cpu, mixed_precision=precision)
    assert accelerator.device.type == ("cpu" if cpu else "cuda")
    sets = {"forget": pictures(10, "a", 0), "retain": pictures(20, "bc", 1)}
    how = {**SIZES, **settings} if method != "retrain" else {}
    result = erase(model, "a", method=method, **sets, accelerator=accelerator, recipe=RECIPE, **how)
    assert {p.device.type for m in (model, result.pipeline) for p in m.unet.parameters()} == {"cpu"}
    return flat(result.pipeline.unet), result.history


def flat(module):
    return torch.cat([p.detach().flatten().cpu() for p in module.parameters()])


@pytest.mark.parametrize("method, settings", CASES, ids=str)
def test_it_moves_the_weights_as_a_cpu_does(model, method, settings):
    before = flat(model.unet)
    (here, rows), (there, expected) = (erased(model, method, cpu=cpu, **settings) for cpu in (False, True))
    moved, should = here - before, there - before
    assert should.norm() > 0
    assert torch.dot(moved, should) / (moved.norm() * should.norm()) > 0.99
    for row, wanted in zip(rows, expected, strict=True):
        assert row["retain_loss"] == pytest.approx(wanted["retain_loss"], rel=1e-3, abs=1e-6, nan_ok=True)
        if "multiplier" in wanted:
            assert row["multiplier"] == pytest.approx(wanted["multiplier"], rel=0.02, abs=0.02)


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_two_runs_are_bitwise_one(model, precision):
    assert torch.equal(*(erased(model, precision=precision)[0] for _ in range(2)))


def test_bf16_agrees_with_fp32(model):
    (_, half), (_, full) = (erased(model, precision=precision, retain_target="noise") for precision in ("bf16", "no"))
    for row, wanted in zip(half, full, strict=True):
        assert row["retain_loss"] != wanted["retain_loss"]
        for name in ("retain_loss", "forget_loss", "retain_grad_norm", "forget_grad_norm"):
            assert row[name] == pytest.approx(wanted[name], rel=0.05)


def test_memory_is_the_gpus_and_what_saves_some_does(model):
    torch.cuda.reset_peak_memory_stats()
    plain = erased(model, forget_batch_size=64, retain_batch_size=64)[1][-1]["peak_memory_bytes"]
    assert plain == torch.cuda.max_memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    parts = erased(model, forget_batch_size=64, retain_batch_size=64, accumulate=4)[1][-1]["peak_memory_bytes"]
    assert parts < plain


def test_stopped_and_resumed_is_bitwise_the_whole(model):
    class Memory:
        every, state = 1, None

        def load(self):
            return self.state

        def save(self, state):
            self.state = {k: v.cpu().clone() for k, v in state.items()}

    def stop(step, row):
        if step == 3:
            raise KeyboardInterrupt

    memory, sets = Memory(), {"forget": pictures(10, "a", 0), "retain": pictures(20, "bc", 1)}
    settings = {**SIZES, "outer_steps": 5}
    whole = erase(model, "a", **sets, **settings)
    with pytest.raises(KeyboardInterrupt):
        erase(model, "a", **sets, **settings, checkpoint=memory, on_step=stop)
    resumed = erase(model, "a", **sets, **settings, checkpoint=memory)
    assert torch.equal(flat(whole.pipeline.unet), flat(resumed.pipeline.unet))


def test_training_is_repeatable():
    data = pictures(30, "abc", 2)

    def base():
        shape = {"block_out_channels": (32, 64), "attention": (False, True), "norm_num_groups": 8}
        pipeline = build_pipeline(["a", "b", "c"], (3, 16, 16), **shape)
        recipe = dataclasses.replace(RECIPE, ema_decay=0.9)
        return flat(train_denoiser(family_of(pipeline), data.images, data.prompts, recipe))

    def classifier():
        how = {"width": 16, "steps": 5, "batch_size": 8, "learning_rate": 1e-3, "seed": 0, "device": "cuda"}
        return flat(cnn.train(data.images, data.concepts, (3, 16, 16), **how))

    for train in (base, classifier):
        assert torch.equal(train(), train())


@pytest.mark.parametrize("target", ["relabel", "negative_guidance"])
@pytest.mark.parametrize("where", ["cpu", "cuda"])
def test_stable_diffusion_wherever_it_is(target, where):
    pipeline = tiny_stable_diffusion().to(where)
    before = flat(pipeline.unet)
    draw = torch.Generator().manual_seed(0)
    images = torch.rand(5, 3, 16, 16, generator=draw) * 2 - 1
    retain = {"a blue star": images[2:4], "a green square": images[4:]}
    how = {"forget_target": target, "outer_steps": 2, "forget_batch_size": 2, "retain_batch_size": 3}
    result = erase(pipeline, "a red circle", forget=images[:2], retain=retain, **how)
    assert not torch.equal(flat(result.pipeline.unet), before) and torch.equal(flat(pipeline.unet), before)
    parts = [m for p in (pipeline, result.pipeline) for m in p.components.values() if isinstance(m, torch.nn.Module)]
    assert {p.device.type for m in parts for p in m.parameters()} == {where}
    family_of(result.pipeline).sample(["a blue star"], [0], steps=2, guidance_scale=2.0)


def test_a_pipeline_that_lies_on_the_cpu_is_drawn_from_on_the_gpu_and_stays_where_it_was():
    pipeline, devices = tiny_stable_diffusion(), set()
    pipeline.unet.register_forward_pre_hook(lambda unet, _: devices.add(unet.device.type))
    pipeline.vae.decoder.register_forward_pre_hook(lambda decoder, _: devices.add(decoder.conv_in.weight.device.type))
    result = erase(pipeline, "star", preserve=["circle"], generate=2, **SIZES)
    assert devices == {"cuda"}
    assert {part.device.type for part in (pipeline.unet, pipeline.vae, result.pipeline.unet)} == {"cpu"}
