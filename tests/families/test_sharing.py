"""Two processes draw what one draws."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator, debug_launcher
from tiny_stable_diffusion import tiny_stable_diffusion

from erasediff.families import family_of, open_pipeline
from erasediff.families.drawing import drawn_table
from erasediff.families.resuming import resumable
from erasediff.families.sharing import shared_drawing

ASKED = [f"a {colour} star" for colour in ("red", "green", "blue") for _ in range(3)]


def drawn(family):
    images = family.sample(ASKED, list(range(9)), steps=2, batch_size=2)
    recognises = lambda concept, images: images.mean((1, 2, 3)) > images.mean()  # noqa: E731 - depends on all pictures
    table, discarded = drawn_table(
        family, {"star": ["a red star"], "circle": ["a blue circle"]}, recognises, 3, seed=1, steps=2
    )
    return images, table["sample_id"].tolist(), discarded


def draw_shared(folder):
    accelerator = Accelerator()
    torch.set_num_threads(1)
    calls, family = [], family_of(open_pipeline(folder / "model"))
    plain = family.pictures
    family.pictures = lambda prompts, *how: calls.append(len(prompts)) or plain(prompts, *how)
    found = drawn(shared_drawing(resumable(family, folder / str(accelerator.process_index), "model"), accelerator))
    torch.save((found, sum(calls)), folder / f"{accelerator.process_index}.pt")


@pytest.mark.unit
def test_what_is_drawn_does_not_depend_on_the_number_of_processes(tmp_path):
    tiny_stable_diffusion().save_pretrained(tmp_path / "model")
    expected = drawn(family_of(open_pipeline(tmp_path / "model")))
    # In a process of its own: accelerate keeps what the first test of this one made.
    subprocess.run([sys.executable, __file__, str(tmp_path)], check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    (first, one), (second, other) = (torch.load(tmp_path / f"{i}.pt", weights_only=True) for i in (0, 1))
    assert torch.equal(first[0], second[0]) and first[1:] == second[1:]
    assert one < one + other and min(one, other) > 0
    assert torch.equal(first[0], expected[0]) and first[1:] == expected[1:]


@pytest.mark.unit
def test_one_process_draws_as_ever():
    family = family_of(tiny_stable_diffusion())
    assert shared_drawing(family, Accelerator()) is family


if __name__ == "__main__":
    debug_launcher(draw_shared, (Path(sys.argv[1]),), num_processes=2)
