"""Data as people have it: what is wrong with it is said, and nothing is dropped or renamed silently."""

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from erasediff.data import expectations, sources
from erasediff.data.images import content_id, decode, open_picture
from erasediff.data.parquet import read_parquet
from erasediff.data.selection import select
from erasediff.data.table import curate_table
from erasediff.errors import DataError, ExpectationFailed

DEFAULTS = {"image_size": None, "mode": None, "test_fraction": 0.25, "max_per_concept": None}


def png(pixels, **options):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", **options)
    return buffer.getvalue()


def noise(seed, side=8):
    return png(np.random.default_rng(seed).integers(0, 256, (side, side), dtype=np.uint8))


def parquet(path, labels, names=None, images=None):
    images = images or [{"bytes": noise(i), "path": None} for i in range(len(labels))]
    table = pa.table({"image": images, "label": labels})
    if names:
        features = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(features)})
    pq.write_table(table, path / "d.parquet")
    return read_parquet(path / "d.parquet", "image", "label")


@pytest.fixture
def folder(tmp_path):
    for n, concept in enumerate(("a", "b")):
        (tmp_path / concept).mkdir()
        for i in range(8):
            (tmp_path / concept / f"{i}.png").write_bytes(noise(100 * n + i))
    return tmp_path


@pytest.mark.unit
@pytest.mark.parametrize("label", [-1, 2, None])
def test_an_unlabelled_row_never_takes_a_class(tmp_path, label):
    with pytest.raises(DataError, match=rf"row 2 has the label {label}.*0 to 1"):
        list(parquet(tmp_path, [0, 1, label], ["cat", "dog"]))


@pytest.mark.unit
def test_labels_and_columns_of_other_types(tmp_path):
    assert [c for _, c, _ in parquet(tmp_path, ["e\u0301", "x"])] == ["é", "x"]
    assert [c for _, c, _ in parquet(tmp_path, [3, 4])] == ["3", "4"]
    assert len(list(parquet(tmp_path, ["x"], images=[noise(0)]))) == 1
    with pytest.raises(DataError, match="'label' is double"):
        list(parquet(tmp_path, [1.5]))
    with pytest.raises(DataError, match="'image' is string.*curate.image_column"):
        list(parquet(tmp_path, ["x"], images=["x.png"]))
    (tmp_path / "d.parquet").write_bytes(b"nothing of the kind")
    with pytest.raises(DataError, match="cannot be read as parquet"):
        list(read_parquet(tmp_path / "d.parquet", "image", "label"))


@pytest.mark.unit
def test_a_concept_without_pictures_or_a_picture_without_concept_is_told(folder):
    (folder / "empty").mkdir()
    with pytest.raises(DataError, match="no picture in 'empty'"):
        list(sources.read_image_folder(folder))
    (folder / "empty").rmdir()
    (folder / "loose.png").write_bytes(noise(0))
    with pytest.raises(DataError, match="in no concept, first: loose.png"):
        list(sources.read_image_folder(folder))


@pytest.mark.unit
def test_hidden_folders_notes_and_odd_names(folder):
    (folder / "a" / ".thumbs").mkdir()
    (folder / "a" / ".thumbs" / "0.png").write_bytes(noise(77))
    (folder / "a" / "folder.png").mkdir()
    (folder / "a" / "notes.txt").write_text("no picture")
    (folder / "b" / "0.png").rename(folder / "b" / "caf\udce9.png")
    raw = list(sources.read_image_folder(folder))
    assert len(raw) == 16 and "b/caf\ufffd.png" in {name for name, _, _ in raw}


@pytest.mark.unit
def test_a_file_has_one_name_however_its_disk_writes_an_accent(folder):
    """A name is kept in the table, and of duplicates the first: both would differ between macOS and Linux."""
    (folder / "b" / "0.png").rename(folder / "b" / "cafe\u0301.png")
    assert "b/caf\u00e9.png" in {name for name, _, _ in sources.read_image_folder(folder)}


@pytest.mark.unit
def test_sixteen_bits_keep_their_exposure():
    dark = np.full((8, 8), 6425, dtype=np.uint16)
    assert set(np.asarray(open_picture(png(dark))).flat) == {25}


@pytest.mark.unit
def test_transparency_shows_white_not_what_lies_under_it():
    pixels = np.zeros((8, 8, 4), dtype=np.uint8)
    pixels[..., 0] = 255
    assert open_picture(png(pixels)).mode == "L" and open_picture(png(pixels)).getpixel((0, 0)) == 255


@pytest.mark.unit
def test_a_picture_too_large_to_trust_is_a_row_that_is_unreadable(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    table = curate_table([("bomb", "a", noise(0, 64)), ("fine", "a", noise(1))], **DEFAULTS).table
    assert dict(zip(table["source"], table["readable"], strict=True)) == {"fine": True, "bomb": False}


@pytest.mark.unit
def test_a_source_is_read_anew_and_an_iterator_gives_the_same(folder):
    source = sources.read_image_folder(folder)
    seen = []
    one = curate_table(source, **DEFAULTS, on_progress=lambda done, total: seen.append((done, total))).table
    two = curate_table(iter(list(source)), **DEFAULTS).table
    assert one.equals(two) and seen == [(i, 16) for i in range(1, 17)]


@pytest.mark.unit
def test_duplicates_are_kept_once_under_a_name_that_order_does_not_choose():
    raw = [("z", "a", noise(0)), ("b", "a", noise(0)), ("c", "a", noise(1))]
    curated = curate_table(raw, **DEFAULTS)
    one = curated.table
    assert curated.left_out == {"duplicates": 1} and sorted(one["source"]) == ["b", "c"]
    assert one.equals(curate_table(raw[::-1], **DEFAULTS).table)


@pytest.mark.unit
def test_decode_takes_pictures_of_several_sizes():
    assert decode([noise(0), noise(1, 16)], (3, 12, 12)).shape == (2, 3, 12, 12)


@pytest.mark.property
@given(n=st.integers(2, 60), fraction=st.floats(0.01, 0.99))
def test_both_splits_have_every_concept_and_the_test_split_its_share(n, fraction):
    raw = [(f"{i}", "a", png(np.full((8, 8), i, dtype=np.uint8))) for i in range(n)]
    table = curate_table(raw, **{**DEFAULTS, "test_fraction": fraction}).table
    assert (table["split"] == "test").sum() == min(n - 1, max(1, round(fraction * n)))


@pytest.mark.pipeline
def test_messages_name_the_two_concepts_of_a_picture_and_a_concept_too_small():
    raw = [(f"a/{i}", "a", noise(i)) for i in range(6)] + [(f"b/{i}", "b", noise(50 + i)) for i in range(4)]

    def failure(raw, least):
        curated = curate_table(raw, **DEFAULTS)
        checks = expectations.curated_expectations(8, "L", least)
        results = expectations.validate(expectations.with_checks(curated), checks, "t")
        with pytest.raises(ExpectationFailed) as error:
            expectations.require(results, "the table", "page.html")
        return str(error.value)

    text = failure([*raw, ("b/again", "b", noise(3))], 2)
    assert "no picture has two concepts" in text and "2 row(s)" in text and "a/3" in text and "b/again" in text
    text = failure(raw, 5)
    assert "every concept has at least 5 pictures" in text and "first: 'b' has 4" in text and "b/0" not in text


@pytest.mark.unit
def test_sample_ids_by_their_first_characters():
    table = curate_table([(str(i), "a", noise(i)) for i in range(9)], **DEFAULTS).table
    wanted = table["sample_id"].iloc[4]
    for asked in (wanted, wanted[:8], wanted[:12].upper()):
        assert table.loc[select(table, [], [asked]), "sample_id"].tolist() == [wanted]
    for asked in (wanted[:7], wanted[1:12]):
        with pytest.raises(DataError, match="first 8 characters"):
            select(table, [], [asked])
    twin = table.assign(sample_id=[wanted[:10] + content_id(bytes([i]))[:54] for i in range(9)])
    with pytest.raises(DataError, match="more than one"):
        select(twin, [], [wanted[:10]])
