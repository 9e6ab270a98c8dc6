"""Two processes at the same global batch give what one gives."""

import subprocess
import sys

import pytest
import torch
from accelerate import Accelerator, debug_launcher

from stages.diffusion import family_of
from stages.diffusion.class_conditional import build_pipeline
from stages.diffusion.family import ConceptImages
from stages.diffusion.training import train_denoiser
from stages.unlearning import settings_for
from stages.unlearning.loop import run_loop

SETTINGS = [
    {"forget_source": "mixed", "gap_every": 2},
    {"forget_source": "forget", "forget_target": "uniform_noise", "retain_target": "noise", "mask": "saliency"},
]


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

    train_denoiser(
        family, images, names * 4, steps=4, batch_size=5, learning_rate=2e-4, accelerator=accelerator, on_step=record
    )
    result = [flat(family.denoiser)]
    forget, retain = ConceptImages(images[:4], ["a"] * 4), ConceptImages(images[4:], ["b"] * 4 + ["c"] * 4)
    for settings in SETTINGS:
        chosen = settings_for(
            "erasediff", **settings, learning_rate=2e-4, outer_steps=4, forget_batch_size=5, retain_batch_size=7
        )
        result.append(flat(run_loop(family, forget, retain, chosen, accelerator=accelerator, on_step=record)))
    result.append(torch.tensor(rows).nan_to_num())
    if file and accelerator.is_main_process:
        assert accelerator.num_processes == 2
        torch.save(result, file)
    return result


def flat(denoiser):
    return torch.cat([p.detach().flatten() for p in denoiser.parameters()])


@pytest.mark.reference
def test_two_processes_give_the_result_of_one(tmp_path):
    threads = torch.get_num_threads()
    one = train_and_erase()
    torch.set_num_threads(threads)
    # A process of its own: accelerate keeps the state of the first Accelerator.
    done = subprocess.run([sys.executable, __file__, tmp_path / "two"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    two = torch.load(tmp_path / "two", weights_only=True)
    assert len(one) == len(two) == 4
    for a, b in zip(one, two, strict=True):
        assert a.shape == b.shape
        # Where a gradient is as small as Adam's epsilon, rounding moves the weight by a visible part of a step.
        difference = (a - b).abs()
        assert difference.max() < 1e-4 and (difference > 1e-5).float().mean() < 1e-4


if __name__ == "__main__":
    debug_launcher(train_and_erase, args=(sys.argv[1],), num_processes=2)
