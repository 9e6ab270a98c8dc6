"""Pictures as people have them."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from erasediff.data.given import as_images
from erasediff.errors import DataError

GREY, COLOUR = (1, 8, 8), (3, 8, 8)
PIXELS = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
EXPECTED = torch.from_numpy(PIXELS).permute(0, 3, 1, 2).float() / 127.5 - 1


@pytest.mark.unit
def test_images_as_a_model_takes_them_are_returned_as_they_are():
    assert as_images(EXPECTED, COLOUR, "they") is not None
    assert torch.equal(as_images(EXPECTED, COLOUR, "they"), EXPECTED)


@pytest.mark.unit
@pytest.mark.parametrize(
    "form",
    [
        lambda: PIXELS,
        lambda: torch.from_numpy(PIXELS),
        lambda: torch.from_numpy(PIXELS).permute(0, 3, 1, 2),
        lambda: EXPECTED.double(),
        lambda: EXPECTED.numpy(),
        lambda: list(EXPECTED),
        lambda: [Image.fromarray(picture) for picture in PIXELS],
        lambda: [Image.fromarray(picture).convert("RGBA") for picture in PIXELS],
    ],
)
def test_every_form_of_the_same_pictures_gives_the_same_images(form):
    images = as_images(form(), COLOUR, "they")
    assert images.dtype == torch.float32
    torch.testing.assert_close(images, EXPECTED)


@pytest.mark.unit
def test_one_picture_is_several_of_one():
    for one in (PIXELS[0], EXPECTED[0], Image.fromarray(PIXELS[0])):
        torch.testing.assert_close(as_images(one, COLOUR, "it"), EXPECTED[:1])


@pytest.mark.unit
def test_size_and_colour_become_the_models():
    wide = Image.new("RGB", (40, 20), (255, 255, 255))
    assert torch.equal(as_images([wide], GREY, "it"), torch.ones(1, *GREY))
    assert as_images(torch.zeros(2, 3, 24, 24), GREY, "they").shape == (2, *GREY)


@pytest.mark.unit
def test_a_picture_is_turned_as_its_camera_says():
    top_white = Image.fromarray(np.repeat(np.array([[255], [0]], dtype=np.uint8), 8, axis=1).repeat(4, axis=0))
    exif = top_white.getexif()
    exif[0x0112] = 3  # upside down
    assert as_images(top_white, GREY, "it")[0, 0, 0, 0] == -1


@pytest.mark.unit
@pytest.mark.parametrize(
    ("given", "told"),
    [
        ([], "they are none: give at least one"),
        ("folder/", "they are a str: give Pillow pictures, or a tensor"),
        (["a.png"], "they are a str: give Pillow pictures, or a tensor"),
        (torch.zeros(8, 8), r"they have shape \(8, 8\): give \(B, C, H, W\), with 1 or 3 channels"),
        (torch.zeros(0, 3, 8, 8), r"they have shape \(0, 3, 8, 8\)"),
        (torch.zeros(2, 5, 8, 9), r"they have shape \(2, 5, 8, 9\)"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.int64), "they are of torch.int64: give uint8"),
        (torch.from_numpy(PIXELS).float(), "they run from 0 to 255: give floats in"),
        (torch.full((2, 3, 8, 8), float("nan")), "they run from nan to nan"),
        ((EXPECTED + 1) / 2, r"which looks like \[0, 1\]: give 2 \* images - 1"),
    ],
)
def test_what_cannot_be_used_is_one_line(given, told):
    with pytest.raises(DataError, match=told):
        as_images(given, COLOUR, "they")


@pytest.mark.property
@given(arrays("float32", (1, 3, 8, 8), elements=st.floats(width=32)))
def test_whatever_floats_come_they_are_in_range_or_refused(values):
    try:
        images = as_images(values, COLOUR, "they")
    except DataError:
        return
    assert images.abs().max() <= 1.01
