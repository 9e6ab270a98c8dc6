import io

import numpy as np
import pytest
import torch
from PIL import Image

from erasediff.data.images import as_shape, decode, encode_png, to_pixels


def pictures(channels, side=6):
    draw = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (3, channels, side, side), generator=draw).float() / 127.5 - 1


@pytest.mark.unit
@pytest.mark.parametrize("channels", [1, 3])
def test_what_has_the_shape_already_stays_to_the_bit(channels):
    images = pictures(channels)
    assert as_shape(images, (channels, 6, 6)) is images
    assert torch.equal(decode([encode_png(image) for image in images], (channels, 6, 6)), images)


@pytest.mark.reference
def test_colour_becomes_grey_as_pillow_does_it():
    colour = pictures(3)
    ours = to_pixels(as_shape(colour, (1, 6, 6))).int()
    for image, grey in zip(colour, ours, strict=True):
        pillows = np.asarray(Image.open(io.BytesIO(encode_png(image))).convert("L")).astype(int)
        assert abs(pillows - grey[0].numpy()).max() <= 1  # both round, in another place


@pytest.mark.unit
def test_grey_becomes_three_equal_channels_and_sizes_change_in_any_mode():
    grey = pictures(1)
    assert torch.equal(as_shape(grey, (3, 6, 6)), grey.repeat(1, 3, 1, 1))
    assert as_shape(grey, (3, 12, 9)).shape == (3, 3, 12, 9)
    assert as_shape(pictures(3), (1, 3, 3)).shape == (3, 1, 3, 3)


@pytest.mark.unit
def test_pixels_are_rounded_and_clamped():
    assert to_pixels(torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0])).tolist() == [0, 0, 128, 255, 255]
