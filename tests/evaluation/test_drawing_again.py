"""An evaluation's drawing goes on where it was killed, and is shared by the processes of a launch."""

import os
import signal
import subprocess
import sys
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator, debug_launcher
from dealing import PROTOCOL, Dealer, Nearest, World, shorter

from erasediff.evaluation.measure import measure
from erasediff.families.resuming import resumable
from erasediff.families.sharing import shared_drawing

TWICE = shorter(PROTOCOL, draws=2, samples_per_concept=20, batch_size=60)


@pytest.fixture(scope="module")
def world(digits):
    return World(digits)


class Counting(Dealer):
    """Deals, and counts the pictures; may die once there are so many."""

    def __init__(self, world, dies_at=None):
        super().__init__(world)
        self.image_shape = (1, 8, 8)
        self.drawn, self.dies_at = [], dies_at

    def sample(self, prompts, seeds, *, batch_size=100, **how):
        if self.dies_at is not None and sum(self.drawn) >= self.dies_at:
            os.kill(os.getpid(), signal.SIGKILL)
        self.drawn.append(len(prompts))
        return super().sample(prompts, seeds, batch_size=batch_size, **how)


def measured_by(family, world, **how):
    found = measure(family, Nearest(world), world.plan(self_checks=True), TWICE, on_progress=lambda n: None, **how)
    return {**found.numbers.flat, **{f"{n} planted": numbers.flat for n, numbers in found.planted.items()}}, found.shown


@pytest.mark.unit
def test_an_evaluation_that_is_killed_goes_on_at_the_batch_where_it_was(world, tmp_path):
    """In its second draw: of each 200 pictures are drawn in batches of 60, and one of 20."""
    dies = resumable(Counting(world, dies_at=320), tmp_path, "model")
    killed = get_context("fork").Process(target=measured_by, args=(dies, world))
    killed.start()
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    again = Counting(world)
    numbers, shown = measured_by(resumable(again, tmp_path, "model"), world)
    assert again.drawn == [60, 20]
    whole, of_whole = measured_by(Dealer(world), world)
    assert numbers == whole and torch.equal(shown, of_whole)


def measure_shared(folder):
    accelerator = Accelerator()
    torch.set_num_threads(1)
    world = World(torch.load(folder / "digits.pt", weights_only=True))
    family = Counting(world)
    shared = shared_drawing(family, accelerator)
    found = measured_by(shared, world, together=accelerator.num_processes)
    torch.save((*found, family.drawn), folder / f"{accelerator.process_index}.pt")


@pytest.mark.unit
def test_what_is_measured_does_not_depend_on_the_number_of_processes_that_draw(world, digits, tmp_path):
    """Each draws every second batch, and reads all of them."""
    torch.save(digits, tmp_path / "digits.pt")
    # In a process of its own: accelerate keeps what the first test of this one made.
    subprocess.run([sys.executable, __file__, str(tmp_path)], check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    (first, shown, one), (second, _, other) = (torch.load(tmp_path / f"{i}.pt", weights_only=True) for i in (0, 1))
    whole, of_whole = measured_by(Dealer(world), world)
    assert first == second == whole and torch.equal(shown, of_whole)
    assert (one, other) == ([60, 60] * 2, [60, 20] * 2)


if __name__ == "__main__":
    debug_launcher(measure_shared, (Path(sys.argv[1]),), num_processes=2)
