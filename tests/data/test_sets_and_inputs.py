"""What is set apart, checked and read back: each with the mistake that it is there for."""

import copy
import io
import json
import os
import subprocess
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from erasediff.artifacts import new_folder
from erasediff.checkout import process_start
from erasediff.data import expectations
from erasediff.data.curation import curated_pictures
from erasediff.data.images import open_picture, to_png
from erasediff.data.inputs import evaluation_inputs, load_images, read_table, table_shape, training_pictures
from erasediff.data.parquet import read_parquet
from erasediff.data.selection import ID_LENGTH, Sets
from erasediff.data.table import curate_table, generated_table
from erasediff.errors import IntegrityError

DEFAULTS = {"image_size": None, "mode": None, "test_fraction": 0.25, "max_per_concept": None}


def png(seed, size=(8, 8)):
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, size[::-1], dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def curated(**concepts):
    """A table of so many pictures of each concept."""
    raw = [(f"{c}/{i}", c, png(100 * n + i)) for n, c in enumerate(concepts) for i in range(concepts[c])]
    return curate_table(raw, **DEFAULTS)


def failed(table, checks):
    ours = [copy.deepcopy(check) for check in checks]  # a check serves once
    return [r["words"] for r in expectations.validate(table, ours, "t") if not r["success"]]


@pytest.mark.unit
def test_a_balanced_retain_set_does_not_depend_on_the_order_of_rows():
    table = curated(a=6, b=9, c=4).table
    sets = Sets(table[table["concept"] == "a"], table[table["concept"] != "a"])
    one = sets.balanced(3).retain
    two = Sets(sets.forget, sets.retain.sample(frac=1, random_state=0)).balanced(3).retain
    assert one["concept"].value_counts().to_dict() == {"b": 3, "c": 3} and set(one["sample_id"]) == set(
        two["sample_id"]
    )
    assert len(sets.balanced(None).retain) == 13


@pytest.mark.unit
def test_what_is_forgotten_is_noted_by_concept_only_where_none_of_it_is_retained():
    table = curated(a=4, b=4, c=4).table
    whole = table["concept"] == "a"
    some = table["sample_id"].isin(table.loc[table["concept"] == "b", "sample_id"][:2])
    facts = Sets(table[whole | some], table[~(whole | some)]).facts(["a", "z"], by_id=True)
    assert facts["concepts"] == ["a"] and facts["earlier"] == ["z"]
    assert facts["sample_ids"] == sorted(table.loc[whole | some, "sample_id"].str[:ID_LENGTH])
    assert facts["forget"] == {"a": 4, "b": 2} and facts["retain"] == {"b": 2, "c": 4}
    assert Sets(table[whole], table[~whole]).facts([], by_id=False)["sample_ids"] == []


@pytest.mark.pipeline
def test_each_check_of_the_sets_sees_its_mistake():
    table = curated(a=4, b=4).table
    a, b = table[table["concept"] == "a"], table[table["concept"] == "b"]
    checks = expectations.forget_expectations(["a"], by_id=False)
    assert failed(Sets(a, b).together(), checks) == []
    assert failed(Sets(a, b[:0]).together(), checks)[0] == "there are pictures to forget and pictures to retain"
    every_mistake = Sets(pd.concat([a[1:], b[:1]]), pd.concat([b, a[:1]]))
    assert failed(every_mistake.together(), checks) == [
        "no picture is both to forget and to retain",
        "every picture to forget has a concept to forget",
        "no picture to retain has a concept to forget",
    ]


@pytest.mark.pipeline
def test_each_check_of_the_curated_table_sees_its_mistake():
    found = curated(a=6, b=6)
    checks = expectations.curated_expectations(8, "L", 4)
    assert failed(expectations.with_checks(found), checks) == []
    twice = pd.concat([found.table, found.table[:1].assign(split="train")], ignore_index=True)
    bad = expectations.with_checks(replace(found, table=twice)).assign(more=1)
    for row, (column, value) in enumerate(
        {"split": "valid", "origin": "generated", "height": 9, "mode": "RGB", "source": None}.items(), 3
    ):
        bad[column] = bad[column].astype(object)
        bad.loc[row, column] = value
    assert failed(bad, checks) == [
        "no picture is both for training and for testing",
        "no picture is there twice",
        "every picture is for training or for testing",
        "every picture is a real one, none is drawn",
        "every picture is 8 × 8 pixels",
        "every picture is grey",
        "no cell of the table is empty",
        "the table has the agreed columns",
    ]


@pytest.mark.unit
def test_the_size_is_the_median_shorter_side_in_eights_and_the_crop_is_the_middle():
    sizes = [(20, 40), (90, 30), (30, 31), (200, 100)]
    table = curate_table([(str(i), "a", png(i, size)) for i, size in enumerate(sizes)], **DEFAULTS).table
    assert set(table["width"]) == {24} and table_shape(table) == (1, 24, 24)
    pixels = np.zeros((8, 24), dtype=np.uint8)
    pixels[:, 8:16] = 255
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    middle = Image.open(io.BytesIO(to_png(open_picture(buffer.getvalue()), 8, "L")))
    assert np.asarray(middle).min() == 255


@pytest.fixture
def stored(tmp_path):
    table = curated(a=8, b=8).table.assign(prompt=lambda rows: "a photo of " + rows["concept"] + " " + rows["split"])
    with new_folder(tmp_path / "curated") as folder:
        table.to_parquet(folder / "samples.parquet")
    return table, tmp_path / "curated" / "samples.parquet"


@pytest.mark.unit
def test_a_model_is_measured_with_the_test_split_or_with_what_was_held_out_for_the_judge(stored, tmp_path):
    table, path = stored
    pictures, prompts = evaluation_inputs(path, tmp_path / "held_out.parquet")
    assert set(pictures["split"]) == {"test"} and len(pictures) == 4
    assert prompts == {"a": ["a photo of a test"], "b": ["a photo of b test"]}
    generated_table([png(99)], ["a"], (8, 8), "L", split="test").to_parquet(tmp_path / "held_out.parquet")
    pictures, again = evaluation_inputs(path, tmp_path / "held_out.parquet")
    assert pictures["origin"].tolist() == ["generated"] and again == prompts


@pytest.mark.unit
def test_copies_are_looked_for_among_pictures_that_a_model_may_have_learned_and_words_have_none(stored, tmp_path):
    table, path = stored
    assert set(training_pictures(path)["split"]) == {"train"} and len(training_pictures(path)) == 12
    table.drop(columns="image").to_parquet(tmp_path / "words.parquet")
    assert training_pictures(tmp_path / "words.parquet") is None


@pytest.mark.unit
def test_a_table_that_was_altered_is_not_read(stored):
    table, path = stored
    assert len(read_table(path)) == 16 and set(read_table(path, "train")["split"]) == {"train"}
    table[1:].to_parquet(path)
    with pytest.raises(IntegrityError, match="samples.parquet has SHA-256"):
        read_table(path)


@pytest.mark.unit
def test_pictures_keep_their_prompts(stored):
    table, _ = stored
    images = load_images(table, (1, 8, 8))
    assert list(images.prompts) == table["prompt"].tolist() and list(images.concepts) == table["concept"].tolist()
    assert list(load_images(table.drop(columns="prompt"), (1, 8, 8)).prompts) == table["concept"].tolist()


@pytest.mark.unit
def test_the_order_of_classes_is_the_sources_own_where_it_says_one(tmp_path):
    features = {"info": {"features": {"label": {"names": ["zebra", "unused", "ant"]}}}}
    rows = pa.table({"image": [png(i) for i in range(8)], "label": [0, 2] * 4})
    pq.write_table(rows.replace_schema_metadata({"huggingface": json.dumps(features)}), tmp_path / "d.parquet")
    work = curated_pictures(
        read_parquet(tmp_path / "d.parquet", "image", "label"), told="parquet", min_per_concept=2, **DEFAULTS
    )
    assert work.facts["classes"] == ["zebra", "unused", "ant"]


@pytest.mark.unit
def test_a_process_that_has_ended_and_waits_for_its_parent_is_dead():
    assert process_start(os.getpid()) not in (None, "unknown")
    ended = subprocess.Popen(["true"])
    os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
    assert process_start(ended.pid) is None
    ended.wait()
    assert process_start(ended.pid) is None
