"""Small models of the true classes, and real digits."""

from erasediff.command import quiet_environment

quiet_environment()  # before torch reads it

import os

import pytest
import torch
from hypothesis import settings
from sklearn.datasets import load_digits

from erasediff.families import family_of
from erasediff.families.class_conditional import build_pipeline

# On a busy machine a case may take any time. Cases are the same everywhere; --hypothesis-profile=others tries new ones.
settings.register_profile("same", deadline=None, derandomize=True)
settings.register_profile("others", deadline=None)
settings.load_profile("same")


def pytest_configure(config):
    if config.option.markexpr != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # what is expected here is what a CPU gives, to the bit


torch.set_num_threads(1)  # for models as small as these, a second thread only waits for the first


@pytest.fixture
def pipeline():
    return build_pipeline(
        ["a", "b", "c"], (1, 8, 8), block_out_channels=(8, 16), attention=(False, False), norm_num_groups=4
    )


@pytest.fixture
def family(pipeline):
    return family_of(pipeline)


@pytest.fixture(scope="session")
def digits():
    data = load_digits()
    return torch.tensor(data.images, dtype=torch.float32)[:, None] / 8 - 1, [str(t) for t in data.target]
