"""What is kept off the device while a model is trained."""

import io

import pytest
import torch
from accelerate import Accelerator

from erasediff.command import stated_failure
from erasediff.data.concept_images import ConceptImages
from erasediff.errors import CannotWrite, ParamsError
from erasediff.training import offload
from erasediff.unlearning import method_for
from erasediff.unlearning.erasing import erase
from erasediff.unlearning.loop import run_loop

SIZES = {"outer_steps": 4, "forget_batch_size": 6, "retain_batch_size": 6}


class Memory:
    """A checkpoint in memory, which at first may hold a state."""

    every = 2

    def __init__(self, state=None):
        self.state, self.saved = state, []

    def load(self):
        return self.state

    def save(self, state):
        self.saved.append({name: value.clone() for name, value in state.items()})


@pytest.fixture
def sets():
    draw = torch.Generator().manual_seed(0)
    images = torch.rand(12, 1, 8, 8, generator=draw) * 2 - 1
    return ConceptImages(images[:5], ["a"] * 5), ConceptImages(images[5:], ["b", "c"] * 3 + ["b"])


def flat(denoiser):
    return torch.cat([p.detach().flatten() for p in denoiser.parameters()])


def in_a_file(tensor):
    """True if a tensor's memory is a mapped file that was put aside."""
    with open("/proc/self/maps") as maps:
        for line in maps:
            first, last = (int(address, 16) for address in line.split()[0].split("-"))
            if first <= tensor.data_ptr() < last:
                return "erasediff-offload-" in line
    return False


@pytest.mark.unit
@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("erasediff", {}),
        ("erasediff", {"shared_batch": True, "accumulate": 2}),
        ("erasediff", {"trainable": "up_blocks", "ema_decay": 0.0, "multiplier": "cosine"}),
        ("erasediff", {"forget_target": "uniform_noise", "forget_source": "mixed", "gradient_checkpointing": True}),
        ("munba", {}),
        ("esd", {}),
        ("siss", {}),
    ],
)
def test_offloading_changes_nothing_but_rounding(family, sets, method, settings):
    found = []
    for on in (False, True):
        chosen = method_for(method, **SIZES, **settings, offload=on, learning_rate=1e-4)
        rows = []
        erased = run_loop(family, *sets, chosen, on_step=lambda step, row, rows=rows: rows.append(row))
        found.append((flat(erased.denoiser), rows))
    assert not torch.equal(found[0][0], flat(family.denoiser))
    assert torch.allclose(found[0][0], found[1][0], atol=1e-6)
    for one, other in zip(*(rows for _, rows in found), strict=True):
        for name in ("retain_loss", "forget_loss", "retain_grad_norm", "forget_grad_norm", "multiplier"):
            assert other[name] == pytest.approx(one[name], rel=1e-4, abs=1e-6, nan_ok=True)


@pytest.mark.unit
def test_the_base_answers_before_the_first_update_and_lies_in_a_file_while_the_others_are_made(family, sets):
    weight = family.denoiser.conv_in.weight
    weight.data = weight.data.contiguous(memory_format=torch.channels_last)
    before, bits, stride = flat(family.denoiser), weight.detach().clone(), weight.stride()
    asked, plain, updates = [], family.predict, []

    def predict(denoiser, *arguments):
        asked.append((denoiser is family.denoiser, len(updates)))
        return plain(denoiser, *arguments)

    family.predict = predict
    chosen = method_for("erasediff", **SIZES, offload=True)
    run_loop(family, *sets, chosen, on_step=lambda step, row: updates.append(in_a_file(weight)))
    assert updates == [True] * 4
    assert [when for teacher, when in asked if teacher] == [0] * 8
    assert not in_a_file(weight) and weight.stride() == stride and torch.equal(weight, bits)
    assert torch.equal(flat(family.denoiser), before)


@pytest.mark.unit
def test_the_base_is_put_back_where_an_update_fails(family, sets):
    before = flat(family.denoiser)

    def failing(step, row):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_loop(family, *sets, method_for("erasediff", **SIZES, offload=True), on_step=failing)
    assert torch.equal(flat(family.denoiser), before)
    assert not any(in_a_file(p) for p in family.denoiser.parameters())


@pytest.mark.unit
def test_a_killed_training_that_offloads_goes_on_with_the_same_bits(family, sets):
    chosen = method_for("erasediff", **SIZES, offload=True)
    whole = Memory()
    expected = flat(run_loop(family, *sets, chosen, checkpoint=whole).denoiser)
    asked, plain = [], family.predict

    def predict(denoiser, *arguments):
        asked.append(denoiser is family.denoiser)
        return plain(denoiser, *arguments)

    family.predict = predict
    again = run_loop(family, *sets, chosen, checkpoint=Memory(whole.saved[0]))
    assert torch.equal(flat(again.denoiser), expected)
    assert sum(asked) == 2 * 2  # both losses of the two updates that were left


@pytest.mark.unit
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_put_aside_has_the_same_bits_in_any_precision(dtype):
    tensor = torch.randn(7, 3, 5).to(dtype).transpose(0, 2)
    kept = offload.offloaded(tensor)
    assert in_a_file(kept) and kept.dtype == dtype and torch.equal(kept, tensor)
    assert torch.equal(offload.offloaded(torch.tensor(3.0)), torch.tensor(3.0))
    kept += 1
    assert torch.equal(kept, tensor + 1)


@pytest.mark.unit
def test_vectors_meet_part_by_part(monkeypatch):
    monkeypatch.setattr(offload, "AT_ONCE", 4)
    one, other = torch.arange(10.0), torch.arange(10.0) * 2
    parts = list(offload.met(one, other))
    assert [len(a) for a, _ in parts] == [4, 4, 2]
    for a, b in parts:
        a += b
    assert torch.equal(one, torch.arange(10.0) * 3)


@pytest.mark.unit
def test_a_full_disk_is_told(monkeypatch):
    class Full(io.FileIO):
        def __init__(self, **named):
            super().__init__("/dev/full", "w")

    monkeypatch.setattr(offload, "NamedTemporaryFile", Full)
    with pytest.raises(OSError) as failed:
        offload.offloaded(torch.zeros(10))
    assert isinstance(stated_failure("erase", failed.value), CannotWrite)


@pytest.mark.unit
@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"shard": True}, "offload goes with no shard"),
        ({"project_update": True}, "offload goes with no shard, no project_update"),
        ({"adapter": "lora"}, "and no adapter, which is small by itself"),
        ({"gap_every": 1}, "offload goes with no mask and no gap_every"),
        ({"mask": "saliency"}, "offload goes with no mask and no gap_every"),
        ({"method": "selective_amnesia"}, "offload does not go with method selective_amnesia"),
        ({"method": "retrain"}, "offload True has no effect with method retrain"),
    ],
)
def test_what_offload_does_not_go_with_is_told(pipeline, settings, match):
    with pytest.raises(ParamsError, match=match):
        erase(pipeline, "a", offload=True, **settings)


@pytest.mark.unit
def test_offload_over_several_processes_is_refused(family, sets, monkeypatch):
    monkeypatch.setattr(Accelerator, "num_processes", 2)
    with pytest.raises(ParamsError, match="offload is for one process: of several, set shard"):
        run_loop(family, *sets, method_for("erasediff", **SIZES, offload=True))
