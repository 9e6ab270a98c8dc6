"""What tensors take at most, counted without the kernels that would fill them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]


def counted(width, variant, *more):
    """Bytes at most, and bytes of mapped files."""
    command = [sys.executable, str(TESTS / "benchmarks/memory.py"), "--child", "--width", str(width)]
    path = os.pathsep.join([str(TESTS.parent), str(TESTS / "families")])
    done = subprocess.run(
        [*command, "--variant", variant, *more],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    return found["bytes"], found["in_files"]


@pytest.mark.system
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("variant", ["official", "ours, full, checkpointing, offload", "ours, LoRA"])
def test_the_count_is_to_the_byte_that_of_a_run_with_its_kernels(variant):
    assert counted(32, variant) == counted(32, variant, "--kernels")


@pytest.mark.system
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_lora_takes_a_third_of_the_official_way_at_the_size_of_stable_diffusion():
    assert counted(320, "ours, LoRA")[0] <= 0.35 * counted(320, "official")[0]
