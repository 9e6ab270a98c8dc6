"""Folders as people have them: what is read is what DVC sees, and what is left out is counted."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from erasediff.data.names import class_order, concept_name
from erasediff.data.overview import left_out_words
from erasediff.data.sources import read_image_folder
from erasediff.data.table import counts, curate_table
from erasediff.errors import DataError

DEFAULTS = {"image_size": None, "mode": None, "test_fraction": 0.25, "max_per_concept": None}


def draw(path, seed, kind=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind or "PNG")
    path.write_bytes(buffer.getvalue())


@pytest.fixture
def folder(tmp_path):
    for n, concept in enumerate(("a", "b")):
        for i in range(4):
            draw(tmp_path / "data" / concept / f"{i}.png", 10 * n + i)
    return tmp_path / "data"


@pytest.mark.unit
@pytest.mark.parametrize("at", ["c", "a/more", "a/more.jpg"])
def test_a_link_to_a_folder_is_refused_by_name(folder, at):
    draw(folder.parent / "elsewhere" / "0.png", 99)
    (folder / at).symlink_to(folder.parent / "elsewhere")
    with pytest.raises(DataError, match=rf"data/{at} is a link to a folder"):
        read_image_folder(folder)


@pytest.mark.unit
def test_a_link_to_a_picture_and_a_link_as_the_path_are_followed_as_dvc_does(folder):
    draw(folder.parent / "elsewhere.png", 99)
    (folder / "a" / "linked.png").symlink_to(folder.parent / "elsewhere.png")
    (folder / ".hidden").symlink_to(folder.parent)
    (folder.parent / "link").symlink_to(folder)
    assert counts(curate_table(read_image_folder(folder.parent / "link"), **DEFAULTS).table) == {"a": 5, "b": 4}


@pytest.mark.unit
def test_a_link_that_leads_nowhere_is_a_picture_that_cannot_be_read(folder):
    (folder / "a" / "gone.png").symlink_to(folder / "nowhere")
    (folder / "a" / "loop.png").symlink_to(folder / "a" / "loop.png")
    assert set(curate_table(read_image_folder(folder), **DEFAULTS).problems) == {"a/gone.png", "a/loop.png"}


@pytest.mark.unit
@pytest.mark.parametrize("splits", [("train", "val"), ("Train", "TEST", "validation"), ("train",)])
def test_folders_that_are_splits_are_no_concepts(tmp_path, splits):
    for split in splits:
        for concept in ("cat", "dog"):
            draw(tmp_path / split / concept / "0.png", 0)
    with pytest.raises(DataError, match=r"holds splits \(.*set curate.path to one of them, such as .*/[Tt]\w+"):
        read_image_folder(tmp_path)


@pytest.mark.unit
def test_a_concept_may_be_called_as_a_split_is(tmp_path):
    for concept in ("train", "boat"):
        draw(tmp_path / concept / "harbour" / "0.png", 0)
    draw(tmp_path / "flat" / "train" / "0.png", 0)
    draw(tmp_path / "flat" / "test" / "0.png", 0)
    assert [c for _, c, _ in read_image_folder(tmp_path / "flat")] == ["test", "train"]
    (tmp_path / "flat").rename(tmp_path.parent / f"{tmp_path.name} flat")
    assert [c for _, c, _ in read_image_folder(tmp_path)] == ["boat", "train"]


@pytest.mark.unit
def test_every_usual_extension_is_read_and_what_is_left_out_is_counted(folder):
    for i, (ext, kind) in enumerate(
        [("avif", "AVIF"), ("jfif", "JPEG"), ("JPE", "JPEG"), ("jp2", "JPEG2000"), ("ppm", "PPM"), ("TIF", "TIFF")]
    ):
        draw(folder / "b" / f"other {i}.{ext}", 50 + i, kind)
    for name in ("a/notes.txt", "b/list.TXT", "a/label", "b/.DS_Store", "readme.md"):
        (folder / name).write_text("no picture")
    source = read_image_folder(folder)
    assert source.left_out == {".txt": 2, "without extension": 1, ".md": 1, "hidden": 1}
    assert counts(curate_table(source, **DEFAULTS).table) == {"a": 4, "b": 10}


@pytest.mark.unit
def test_pictures_read_but_not_taken_are_counted_by_reason(folder):
    draw(folder / "a" / "again.png", 0)
    assert curate_table(read_image_folder(folder), **DEFAULTS).left_out == {"duplicates": 1}
    few = curate_table(read_image_folder(folder), **DEFAULTS | {"max_per_concept": 3})
    assert few.left_out == {"duplicates": 1, "beyond max_per_concept": 2} and len(few.table) == 6


@pytest.mark.unit
def test_what_was_left_out_is_one_short_line():
    assert left_out_words({}) == "nothing left out"
    assert left_out_words({"duplicates": 3, ".txt": 1}) == "left out: 3 duplicates, 1 .txt"
    many = left_out_words({f".{i}": 2 for i in range(1000)})
    assert many.endswith("2 .9, 1980 of 990 other kinds") and len(many) < 200


@pytest.mark.unit
def test_a_path_that_is_no_folder(tmp_path):
    for path in (tmp_path / "missing", tmp_path / "file"):
        (tmp_path / "file").touch()
        with pytest.raises(DataError, match="is no folder: curate.path should hold"):
            read_image_folder(path)


@pytest.mark.unit
@pytest.mark.parametrize(
    ("label", "why"),
    [
        ("line\nbreak", r"U\+000A"),
        ("tab\there", r"U\+0009"),
        ("nul\0", r"U\+0000"),
        ("\u202egnp.tac", r"U\+202E"),
        ("zero\u200bwidth", r"U\+200B"),
        ("half\ud83d", r"U\+D83D"),
        (" \n ", "is no concept"),
        ("x" * 201, "201 characters; 200 are the most"),
    ],
)
def test_a_name_that_cannot_be_seen_or_written_is_refused(label, why):
    with pytest.raises(DataError, match=rf"here: .*{why}") as error:
        concept_name(label, "here")
    assert len(str(error.value)) < 250 and "\n" not in str(error.value)


@pytest.mark.unit
def test_names_lose_the_white_space_around_them_and_keep_everything_else():
    assert concept_name("cat\n", "") == concept_name(" cat\u00a0", "") == "cat"
    for name in ("e\u0301te\u0301", "été"):
        assert concept_name(name, "") == "été"
    for odd in ("👩\u200d🚀", "a  b", "${x}", "<b>", "日本", "می\u200cخواهم", "x" * 200):
        assert concept_name(odd, "") == odd


@pytest.mark.property
@given(st.text())
def test_a_name_is_taken_as_it_stays_or_refused_in_one_line(label):
    try:
        name = concept_name(label, "here")
    except DataError as error:
        assert len(str(error)) < 300 and len(str(error).splitlines()) == 1
    else:
        assert concept_name(name, "here") == name and name.splitlines() == [name] and name.encode()


@pytest.mark.property
@given(
    st.dictionaries(
        st.text(st.characters(exclude_characters="/\0"), min_size=1, max_size=20), st.integers(0, 3), max_size=5
    )
)
def test_folders_of_any_name_are_concepts_or_one_line(tmp_path_factory, names):
    root = tmp_path_factory.mktemp("any")
    content = io.BytesIO()
    Image.new("L", (8, 8)).save(content, "PNG")
    for name, n in names.items():
        try:
            (root / name).mkdir()
        except (ValueError, OSError):  # what no folder can be called
            continue
        for i in range(n):
            (root / name / f"{i}.png").write_bytes(content.getvalue())
    try:
        found = list(read_image_folder(root))
    except DataError as error:
        assert len(str(error)) < 1000
    else:
        assert len(found) == sum(n for name, n in names.items() if (root / name).is_dir() and name[0] != ".")


@pytest.mark.unit
def test_numbered_classes_are_in_the_order_of_their_numbers():
    assert class_order(str(i) for i in range(12)) == [str(i) for i in range(12)]
    assert class_order(["10", "9", "b"]) == ["10", "9", "b"]
    assert class_order(["b", "a", "b"]) == ["a", "b"]
    assert class_order(["01", "1"]) == ["01", "1"]
    assert class_order(["²", "1"]) == ["1", "²"]  # a digit to Python, no number
