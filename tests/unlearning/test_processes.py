"""Two processes at the same global batch give what one gives."""

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator, debug_launcher

from erasediff.data.concept_images import ConceptImages
from erasediff.families import family_of
from erasediff.families.class_conditional import build_pipeline
from erasediff.training.denoising import Recipe, train_denoiser
from erasediff.training.sharding import gathered, local, shard
from erasediff.unlearning import method_for
from erasediff.unlearning.loop import run_loop

SETTINGS = [
    {"forget_source": "mixed", "gap_every": 2},
    {"forget_source": "forget", "forget_target": "uniform_noise", "retain_target": "noise", "mask": "saliency"},
    {"shard": True, "accumulate": 2, "gradient_checkpointing": True},
    {"method": "munba", "shard": True},
    {"shard": True, "multiplier": "cosine", "trainable": "no_time_embedding"},
]


class Halfway:
    """A checkpoint after two steps, which all processes can read."""

    every = 2

    def __init__(self, file):
        self.file = file

    def save(self, state):
        torch.save(state, self.file)

    def load(self):
        return torch.load(self.file, weights_only=True) if self.file.exists() else None


def train_and_erase(file=None):
    """Weights after a training and after erasures, and what was measured, from batches that two cannot halve."""
    torch.set_num_threads(1)
    names = ["a", "b", "c"]
    small = {"block_out_channels": (8, 16), "attention": (False, False), "norm_num_groups": 4}
    family = family_of(build_pipeline(names, (1, 8, 8), **small))
    images = torch.rand(12, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    accelerator, rows = Accelerator(cpu=True), []

    def record(step, row):
        rows.append([row.get(k, 0.0) for k in ("loss", "retain_loss", "forget_loss", "multiplier", "constraint_gap")])

    train_denoiser(family, images, names * 4, Recipe(4, 5, 2e-4), accelerator=accelerator, on_step=record)
    result = [flat(family.denoiser)]
    forget, retain = ConceptImages(images[:4], ["a"] * 4), ConceptImages(images[4:], ["b"] * 4 + ["c"] * 4)
    for settings in SETTINGS:
        how = {"method": "erasediff", "learning_rate": 2e-4, "outer_steps": 4, **settings}
        chosen = method_for(how.pop("method"), **how, forget_batch_size=5, retain_batch_size=7)
        result.append(flat(run_loop(family, forget, retain, chosen, accelerator=accelerator, on_step=record).denoiser))
    # Going on from the middle: by then the checkpoint is there.
    halfway = Halfway(Path(f"{file or 'one'}.halfway"))
    for _ in range(2):
        erased, *_ = run_loop(family, forget, retain, chosen, accelerator=accelerator, checkpoint=halfway)
        assert torch.equal(flat(erased), result[-1])
        accelerator.wait_for_everyone()
    result.append(torch.tensor(rows).nan_to_num())
    if file:
        assert accelerator.num_processes == 2
        spread = shard(copy.deepcopy(family.denoiser), accelerator)
        assert sum(local(p).numel() for p in spread.parameters()) < 0.6 * flat(family.denoiser).numel()
        assert torch.equal(
            torch.cat([gathered(p.detach()).flatten() for p in spread.parameters()]), flat(family.denoiser)
        )
        if accelerator.is_main_process:
            torch.save(result, file)
    return result


def flat(denoiser):
    return torch.cat([p.detach().flatten() for p in denoiser.parameters()])


@pytest.mark.reference
def test_two_processes_give_the_result_of_one(tmp_path, monkeypatch):
    """Also where each keeps a part of the model: sharding does nothing with one."""
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    one = train_and_erase()
    torch.set_num_threads(threads)
    # A process of its own: accelerate keeps the state of the first Accelerator.
    here = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, __file__, tmp_path / "two"], capture_output=True, text=True, env=here)
    assert done.returncode == 0, done.stderr
    two = torch.load(tmp_path / "two", weights_only=True)
    assert len(one) == len(two) == 2 + len(SETTINGS)
    kept = [{k: v.shape for k, v in Halfway(tmp_path / f"{n}.halfway").load().items()} for n in ("one", "two")]
    assert kept[0] == kept[1]
    for a, b in zip(one, two, strict=True):
        assert a.shape == b.shape
        # Where a gradient is as small as Adam's epsilon, rounding moves the weight by a visible part of a step.
        difference = (a - b).abs()
        assert difference.max() < 1e-4 and (difference > 1e-5).float().mean() < 1e-4


if __name__ == "__main__":
    debug_launcher(train_and_erase, args=(sys.argv[1],), num_processes=2)
