"""Parquet as tools write it: read, or one line that says what it holds instead."""

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from erasediff.data.parquet import read_parquet
from erasediff.errors import DataError


def picture(seed):
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


PICTURES = [picture(i) for i in range(4)]


def write(path, images, labels, metadata=None):
    table = pa.table({"image": images, "label": labels})
    pq.write_table(table.replace_schema_metadata(metadata), path)
    return path


def labels_of(path):
    return [c for _, c, _ in read_parquet(path, "image", "label")]


@pytest.mark.unit
@pytest.mark.parametrize(
    "text", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())]
)
@pytest.mark.parametrize("bytes_", [pa.binary(), pa.large_binary(), pa.binary_view()])
def test_text_and_bytes_in_every_layout_of_arrow(tmp_path, text, bytes_):
    labels = pa.array(["cat", "dog\n", " cat", "e\u0301t"]).cast(text)
    path = write(tmp_path / "d.parquet", pa.array(PICTURES).cast(bytes_), labels)
    assert [(c, b) for _, c, b in read_parquet(path, "image", "label")] == list(
        zip(["cat", "dog", "cat", "ét"], PICTURES, strict=True)
    )
    images = pa.StructArray.from_arrays([pa.array(PICTURES).cast(bytes_)], ["bytes"])
    assert labels_of(write(tmp_path / "d.parquet", images, labels)) == ["cat", "dog", "cat", "ét"]


@pytest.mark.unit
@pytest.mark.parametrize(
    "metadata",
    [
        {"info": {"features": None}},
        {"info": None},
        {"info": {"features": {"label": None}}},
        {"info": {"features": {"label": {"names": None}}}},
        {"info": {"features": ["label"]}},
        [],
        None,
    ],
)
def test_metadata_that_name_no_classes_are_as_none(tmp_path, metadata):
    path = write(tmp_path / "d.parquet", PICTURES, [0, 1, 0, 1], {"huggingface": json.dumps(metadata)})
    assert labels_of(path) == ["0", "1", "0", "1"]


@pytest.mark.unit
def test_metadata_that_are_no_json_are_as_none_and_names_that_are_no_names_are_told(tmp_path):
    assert labels_of(write(tmp_path / "d.parquet", PICTURES, [0, 1, 0, 1], {"huggingface": b"\xff{"})) == list("0101")
    for names in ("cat", {"0": "cat"}, ["cat", None], ["cat", " "]):
        features = json.dumps({"info": {"features": {"label": {"names": names}}}})
        with pytest.raises(DataError, match="the metadata name the classes .*a list of names is needed"):
            read_parquet(
                write(tmp_path / "d.parquet", PICTURES, [0, 1, 0, 1], {"huggingface": features}), "image", "label"
            )


@pytest.mark.unit
def test_classes_keep_the_order_that_the_metadata_say(tmp_path):
    features = {"info": {"features": {"label": {"names": ["zebra", "ant", "cow"]}}}}
    path = write(tmp_path / "d.parquet", PICTURES, [0, 1, 0, 1], {"huggingface": json.dumps(features)})
    assert list(read_parquet(path, "image", "label").classes) == ["zebra", "ant", "cow"]


@pytest.mark.unit
def test_pictures_that_are_not_in_the_file_are_told_from_pictures_that_are_missing(tmp_path):
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    paths = pa.array([{"bytes": None, "path": "/elsewhere/0.png"}], struct)
    with pytest.raises(DataError, match=r"row 0 has the path '/elsewhere/0.png' .*not embedded"):
        labels_of(write(tmp_path / "d.parquet", paths, ["cat"]))
    missing = pa.array([{"bytes": None, "path": None}, None], struct)
    raw = list(read_parquet(write(tmp_path / "d.parquet", missing, ["cat", "cat"]), "image", "label"))
    assert [content for _, _, content in raw] == [b"", b""]


@pytest.mark.unit
def test_a_folder_of_files_counts_what_it_leaves_out_and_follows_no_linked_folder(tmp_path):
    for name in ("a", "b", ".c"):
        (tmp_path / "data" / name).mkdir(parents=True)
        write(tmp_path / "data" / name / "0.parquet", PICTURES, ["cat"] * 4)
    (tmp_path / "data" / "README.md").touch()
    source = read_parquet(tmp_path / "data", "image", "label")
    assert [name for name, _, _ in source] == [f"{f}/0.parquet row {i}" for f in "ab" for i in range(4)]
    assert source.left_out == {".md": 1, "hidden": 1}
    (tmp_path / "data" / "link").symlink_to(tmp_path)
    with pytest.raises(DataError, match="data/link is a link to a folder"):
        read_parquet(tmp_path / "data", "image", "label")


@pytest.mark.unit
def test_many_columns_and_a_column_twice_are_told_in_a_short_line(tmp_path):
    pq.write_table(pa.table({f"column {i}": [i] for i in range(2000)}), tmp_path / "d.parquet")
    with pytest.raises(DataError, match="has no column 'image'; it has column 0, column 1") as error:
        read_parquet(tmp_path / "d.parquet", "image", "label")
    assert len(str(error.value)) < 500
    twice = pa.Table.from_arrays([pa.array(PICTURES), pa.array(list("abcd"))] * 2, ["image", "label"] * 2)
    pq.write_table(twice, tmp_path / "d.parquet")
    with pytest.raises(DataError, match="has 2 columns 'image': set curate.image_column"):
        read_parquet(tmp_path / "d.parquet", "image", "label")


WHOLE = io.BytesIO()
pq.write_table(pa.table({"image": PICTURES, "label": ["cat", "dog"] * 2}), WHOLE)


@pytest.mark.property
@given(
    changes=st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 255)), min_size=1, max_size=8),
    cut=st.integers(0, 30),
)
def test_any_bytes_are_rows_or_one_line(tmp_path_factory, changes, cut):
    content = bytearray(WHOLE.getvalue()[: len(WHOLE.getvalue()) - cut])
    for at, value in changes:
        content[at % len(content)] = value
    path = tmp_path_factory.mktemp("any") / "d.parquet"
    path.write_bytes(content)
    try:
        list(read_parquet(path, "image", "label"))
    except DataError as error:
        assert len(str(error)) < 600 and len(str(error).splitlines()) == 1


TYPES = st.deferred(
    lambda: st.one_of(
        st.sampled_from(
            [
                *(
                    pa.int8(),
                    pa.uint64(),
                    pa.float16(),
                    pa.float64(),
                    pa.bool_(),
                    pa.null(),
                    pa.date32(),
                    pa.time64("us"),
                ),
                *(pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.binary_view(), pa.binary(4)),
                *(pa.decimal128(5, 2), pa.timestamp("us", "UTC"), pa.duration("s")),
            ]
        ),
        st.builds(pa.list_, TYPES),
        st.builds(lambda kind: pa.struct([("bytes", kind), ("path", pa.string())]), TYPES),
        st.builds(lambda kind: pa.map_(pa.string(), kind), TYPES),
        st.builds(
            lambda kind: pa.dictionary(pa.int32(), kind), st.sampled_from([pa.string(), pa.int64(), pa.binary()])
        ),
    )
)


@pytest.mark.property
@given(image=TYPES, label=TYPES, rows=st.integers(0, 3))
def test_columns_of_any_type_are_read_or_one_line(tmp_path_factory, image, label, rows):
    path = tmp_path_factory.mktemp("any") / "d.parquet"
    try:
        pq.write_table(pa.table({"image": pa.nulls(rows, image), "label": pa.nulls(rows, label)}), path)
    except pa.ArrowException:  # what parquet cannot hold
        return
    try:
        list(read_parquet(path, "image", "label"))
    except DataError as error:
        assert len(str(error)) < 600 and len(str(error).splitlines()) == 1
