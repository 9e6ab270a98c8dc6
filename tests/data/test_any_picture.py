"""Whatever a picture's bytes and metadata hold, it is read as a person would see it, or it is said why not."""

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from erasediff.data.images import Unreadable, header, open_picture
from erasediff.data.table import curate_table
from erasediff.errors import DataError

DEFAULTS = {"image_size": None, "mode": None, "test_fraction": 0.25, "max_per_concept": None}
#: Each corner has a colour of its own, so that every turn can be told.
CORNERS = np.zeros((16, 16, 3), dtype=np.uint8)
CORNERS[:8, :8], CORNERS[:8, 8:], CORNERS[8:, :8] = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def saved(pixels, kind="PNG", **options):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def exif(*entries):
    body = b"II*\x00" + struct.pack("<IH", 8, len(entries))
    return b"Exif\x00\x00" + body + b"".join(struct.pack("<HHI", *e[:3]) + e[3] for e in entries) + bytes(4)


def corners(picture):
    return [picture.convert("RGB").getpixel(at) for at in ((2, 2), (13, 2), (2, 13), (13, 13))]


@pytest.mark.reference
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_turned_upright_once(kind, orientation):
    """Turned back by the inverse, as EXIF 2.3 defines the eight orientations."""
    rows = {1: "rg|bk", 2: "gr|kb", 3: "kb|gr", 4: "bk|rg", 5: "rb|gk", 6: "gk|rb", 7: "kg|br", 8: "br|kg"}
    names = {"r": (255, 0, 0), "g": (0, 255, 0), "b": (0, 0, 255), "k": (0, 0, 0)}
    stored = np.array([[names[c] for c in row] for row in rows[orientation].split("|")], dtype=np.uint8)
    tags = Image.Exif()
    tags[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    content = saved(stored.repeat(8, 0).repeat(8, 1), kind, exif=tags, **options)
    assert corners(open_picture(content)) == [names[c] for c in "rgbk"]


@pytest.mark.unit
def test_metadata_that_cannot_be_written_back_turn_the_picture_all_the_same():
    """An x-resolution stored as text made Pillow's own turning raise TypeError."""
    tags = exif((0x0112, 3, 1, struct.pack("<HH", 3, 0)), (0x011A, 2, 3, b"72\x00\x00"))
    content = saved(CORNERS, "JPEG", exif=tags, quality=100, subsampling=0)
    turned = np.array(corners(open_picture(content)))
    assert abs(turned - np.array([(0, 0, 0), (0, 0, 255), (0, 255, 0), (255, 0, 0)])).max() < 60


@pytest.mark.property
@given(
    entries=st.lists(
        st.tuples(
            st.sampled_from([0x0112, 0x011A, 0x011B, 0x8769, 0x8825, 0xA005, 0x0000, 0x9286]),
            st.integers(0, 14),
            st.sampled_from([0, 1, 2, 3, 4, 8, 2**16, 2**31]),
            st.binary(min_size=4, max_size=4),
        ),
        max_size=4,
    ),
    cut=st.integers(0, 60),
)
def test_no_exif_keeps_a_picture_from_being_read(entries, cut):
    whole = exif(*entries)
    content = saved(CORNERS, "JPEG", exif=whole[: max(6, len(whole) - cut)])
    assert open_picture(content).size == (16, 16)


SAMPLES = [
    saved(CORNERS),
    saved(CORNERS, "JPEG"),
    saved(CORNERS, "GIF"),
    saved(CORNERS, "BMP"),
    saved(CORNERS, "WEBP"),
    saved(CORNERS, "TIFF"),
    saved(CORNERS, "TIFF", compression="tiff_lzw"),
    saved(CORNERS[..., 0], "JPEG2000"),
    saved(CORNERS, "PPM"),
]


@pytest.mark.property
@given(
    sample=st.sampled_from(SAMPLES),
    changes=st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=6),
    cut=st.integers(0, 40),
)
def test_any_bytes_are_a_picture_or_one_line(sample, changes, cut):
    content = bytearray(sample[: len(sample) - cut])
    for at, value in changes:
        content[at % len(content)] = value
    for read in (header, open_picture):
        try:
            read(bytes(content))
        except Unreadable as error:
            assert 0 < len(str(error)) < 300 and "\n" not in str(error)


@pytest.mark.property
@given(st.binary(max_size=200))
def test_bytes_that_are_no_picture_are_told_the_same_way_every_time(content):
    reasons = set()
    for _ in range(2):
        with pytest.raises(Unreadable) as error:
            open_picture(content)
        reasons.add(str(error.value))
    assert len(reasons) == 1  # no address of an object in memory


@pytest.mark.unit
def test_every_format_is_read_and_eps_never_reaches_a_program():
    for sample in SAMPLES:
        assert open_picture(sample).size == (16, 16)
    with pytest.raises(Unreadable, match="it is no PNG, JPEG"):
        open_picture(saved(CORNERS, "EPS"))
    with pytest.raises(Unreadable, match="it is empty"):
        open_picture(b"")


def raw_png(depth, colour_type, samples, clear):
    """A PNG of so many bits a sample, of one row, with a transparent colour, by the specification."""
    channels = {0: 1, 2: 3}[colour_type]

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    row = int("".join(format(s, f"0{depth}b") for s in samples), 2).to_bytes(len(samples) * depth // 8, "big")
    head = struct.pack(">IIBBBBB", len(samples) // channels, 1, depth, colour_type, 0, 0, 0)
    transparent = struct.pack(f">{channels}H", *clear)
    parts = chunk(b"IHDR", head) + chunk(b"tRNS", transparent) + chunk(b"IDAT", zlib.compress(b"\0" + row))
    return b"\x89PNG\r\n\x1a\n" + parts + chunk(b"IEND", b"")


@pytest.mark.unit
@pytest.mark.parametrize(
    ("depth", "clear", "other", "shown"),
    [(1, 0, 1, 255), (2, 1, 2, 170), (4, 0, 5, 85), (8, 10, 90, 90), (16, 0, 25700, 100)],
)
def test_grey_with_a_transparent_colour_shows_white_at_any_depth(depth, clear, other, shown):
    picture = open_picture(raw_png(depth, 0, [clear, other] * 8, [clear]))
    assert np.asarray(picture).tolist() == [[255, shown] * 8]


@pytest.mark.unit
@pytest.mark.parametrize("depth", [8, 16])
def test_a_transparent_colour_shows_white_at_any_depth(depth):
    one = 1 if depth == 8 else 257
    clear, other = [10 * one, 20 * one, 30 * one], [90 * one, 80 * one, 70 * one]
    picture = open_picture(raw_png(depth, 2, (clear + other) * 4, clear))
    assert np.asarray(picture).tolist() == [[[255, 255, 255], [90, 80, 70]] * 4]


@pytest.mark.unit
def test_fractions_run_from_black_to_white_and_pixels_without_a_scale_are_refused():
    ramp = np.linspace(0, 1, 16, dtype=np.float32).reshape(4, 4)
    assert np.asarray(open_picture(saved(ramp, "TIFF"))).flat[[0, 5, 15]].tolist() == [0, 85, 255]
    for pixels, why in (
        (ramp * 255, "pixels run from 0 to 255: 0 to 1 is what can be read"),
        (ramp - 2, "pixels run from -2 to -1: 0 to 1"),
        (ramp * np.float32(np.nan), "pixels run from nan"),
        (np.arange(16, dtype=np.int32).reshape(4, 4), "whole numbers of 32 bits say no scale"),
    ):
        with pytest.raises(Unreadable, match=why):
            open_picture(saved(pixels, "TIFF"))


@pytest.mark.unit
def test_a_picture_that_cannot_be_read_is_named_with_the_reason():
    good = [(f"a/{i}.png", "a", saved(CORNERS + np.uint8(i))) for i in range(3)]
    curated = curate_table([*good, ("a/page.png", "a", b"<html>")], **DEFAULTS)
    assert list(curated.problems) == ["a/page.png"] and "no PNG" in curated.problems["a/page.png"]
    assert curated.table.set_index("source").loc["a/page.png", "readable"] == np.False_
    with pytest.raises(DataError, match=r"1 unreadable, first: a/page.png \(it is no PNG.*look at curate.path"):
        curate_table([("a/page.png", "a", b"<html>")], **DEFAULTS)


@pytest.mark.unit
def test_reading_warns_of_nothing_whatever_the_warnings_are_set_to():
    tags = exif((0x0112, 3, 2**16, bytes(4)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert open_picture(saved(CORNERS, "JPEG", exif=tags)).size == (16, 16)
