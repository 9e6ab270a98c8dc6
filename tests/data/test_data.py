import io
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from erasediff.data import expectations, sources
from erasediff.data.images import decode, encode_png
from erasediff.data.parquet import read_parquet
from erasediff.data.selection import ID_LENGTH, select, without
from erasediff.data.table import counts, curate_table
from erasediff.errors import DataError, ExpectationFailed, UnknownConcept

DEFAULTS = {"image_size": None, "mode": None, "test_fraction": 0.25, "max_per_concept": None}


def picture(seed, size=(24, 24), mode="RGB", format="PNG"):
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, format)
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path):
    seed = 0
    for name, n in {"chat noir": 37, "été": 40, "c": 25, "d": 20}.items():
        (tmp_path / name).mkdir()
        for i in range(n):
            size = (24, 24) if i % 2 else (40, 24)
            (tmp_path / name / f"{i}.png").write_bytes(picture(seed, size, "L" if i % 5 == 0 else "RGB"))
            seed += 1
    return tmp_path


@pytest.mark.unit
def test_image_folder_of_any_size_and_mode(folder):
    curated = curate_table(sources.read_image_folder(folder), **DEFAULTS)
    table = curated.table
    assert counts(table) == {"c": 25, "chat noir": 37, "d": 20, "été": 40} and curated.left_out == {}
    assert set(table["width"]) == {24} and set(table["mode"]) == {"RGB"}
    test = counts(table[table["split"] == "test"])
    assert test == {"c": 6, "chat noir": 9, "d": 5, "été": 10}


@pytest.mark.unit
def test_split_does_not_depend_on_names_or_order(folder):
    raw = list(sources.read_image_folder(folder))
    one = curate_table(raw, **DEFAULTS).table
    two = curate_table([(f"x{i}", c, b) for i, (_, c, b) in enumerate(reversed(raw))], **DEFAULTS).table
    assert one[["sample_id", "split"]].equals(two[["sample_id", "split"]])


@pytest.mark.unit
def test_parquet_in_the_hub_schema(tmp_path):
    features = {"info": {"features": {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}}}
    table = pa.table({"image": [{"bytes": picture(i), "path": None} for i in range(6)], "label": [0, 1] * 3})
    table = table.replace_schema_metadata({"huggingface": json.dumps(features)})
    pq.write_table(table, tmp_path / "d.parquet")
    raw = list(read_parquet(tmp_path / "d.parquet", "image", "label"))
    assert [c for _, c, _ in raw] == ["cat", "dog"] * 3
    with pytest.raises(DataError, match="no column 'klass'; it has image, label: set curate.label_column"):
        list(read_parquet(tmp_path / "d.parquet", "image", "klass"))


@pytest.mark.unit
def test_png_round_trip():
    images = torch.randint(0, 256, (3, 3, 6, 6)).float() / 127.5 - 1
    assert torch.allclose(decode([encode_png(i) for i in images], (3, 6, 6)), images, atol=1e-6)
    assert decode([encode_png(images[0])], (1, 12, 12)).shape == (1, 1, 12, 12)


@pytest.mark.pipeline
def test_expectations_name_what_failed():
    curated = curate_table(sources.read_digits(), **DEFAULTS)
    table = curated.table

    def failure(broken, least=20):
        checks = expectations.curated_expectations(8, "L", least)
        results = expectations.validate(expectations.with_checks(replace(curated, table=broken)), checks, "t")
        with pytest.raises(ExpectationFailed) as error:
            expectations.require(results, "the table", "page.html")
        assert "page.html" in str(error.value)
        return str(error.value)

    good = expectations.validate(expectations.with_checks(curated), expectations.curated_expectations(8, "L", 20), "t")
    assert all(r["success"] for r in good)
    bad = table.copy()
    bad.loc[3, "readable"] = False
    assert f"'every picture can be read' in 1 row(s), first: {bad.loc[3, 'source']}" in failure(bad)
    bad = table.copy()
    bad.loc[5, "width"] = 9
    assert "'every picture is 8 × 8 pixels' in 1 row(s)" in failure(bad)
    assert "every concept has at least 178 pictures" in failure(table, least=178)


@pytest.mark.pipeline
def test_a_corrupt_file_is_named(folder):
    (folder / "c" / "3.png").write_bytes(b"no picture")
    curated = curate_table(sources.read_image_folder(folder), **DEFAULTS)
    checks = expectations.curated_expectations(24, "RGB", 2)
    results = expectations.validate(expectations.with_checks(curated), checks, "t")
    with pytest.raises(ExpectationFailed, match=r"c/3.png \(it is no PNG"):
        expectations.require(results, "the table", "page.html")


@pytest.mark.unit
def test_selecting_what_to_forget():
    table = curate_table(sources.read_digits(), **DEFAULTS).table
    assert counts(table[select(table, ["3", "8"], [])]).keys() == {"3", "8"}
    first = table["sample_id"].iloc[0]
    assert select(table, [], [first]).sum() == (table["sample_id"] == first).sum()
    with pytest.raises(UnknownConcept, match="no concept 'x8' in the data, which has 0, .*; did you mean 8"):
        select(table, ["x8"], [])
    with pytest.raises(DataError, match="everything"):
        select(table, [str(i) for i in range(10)], [])
    with pytest.raises(DataError, match="not in the train split"):
        select(table, [], ["feed"])


@pytest.mark.unit
def test_what_the_base_had_forgotten_is_neither_forgotten_again_nor_retained():
    table = curate_table(sources.read_digits(), **DEFAULTS).table
    picture = table.loc[table["concept"] == "5", "sample_id"].iloc[0]
    left, chosen = without(table, select(table, ["3"], []), ["8", picture[:ID_LENGTH]])
    assert set(left.loc[chosen, "concept"]) == {"3"}
    assert set(left.loc[~chosen, "concept"]) == set("01245679") and picture not in set(left["sample_id"])
    assert len(left) == len(table) - (table["concept"] == "8").sum() - (table["sample_id"] == picture).sum()
    left, chosen = without(table, select(table, ["8"], []), ["8"])  # asked for again
    assert set(left.loc[chosen, "concept"]) == {"8"} and len(left) == len(table)
    with pytest.raises(DataError, match="nothing is left to retain: the base has forgotten 0, 1, 2, 4, 5, 6, 7, 8, 9"):
        without(table, select(table, ["3"], []), list("012456789"))


@pytest.mark.unit
def test_real_cifar10():
    """``CIFAR10_PARQUET``: a parquet file of the hub's cifar10."""
    file = Path(os.environ.get("CIFAR10_PARQUET") or Path(__file__).parents[3] / "shared/data/cifar10-test.parquet")
    if not file.exists():
        pytest.skip(f"no CIFAR-10 at {file}: set CIFAR10_PARQUET")
    columns = pq.read_schema(file).names
    image = next(c for c in columns if c in ("img", "image"))
    raw = list(read_parquet(file, image, "label"))
    table = curate_table(raw, **DEFAULTS | {"max_per_concept": 20}).table
    assert len(table) == 200 and set(table["width"]) == {32} and set(table["mode"]) == {"RGB"}
    assert {"airplane", "automobile", "frog"} <= set(table["concept"])
    assert decode(table["image"].tolist(), (3, 32, 32)).std() > 0.3
