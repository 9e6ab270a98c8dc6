"""The doors of the data, on somebody's own pictures: what they print, write and show."""

import inspect
import io
import json
import os
import re
import subprocess
import sys
from contextlib import chdir, redirect_stdout
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from diffusers import DDPMPipeline
from PIL import Image
from ruamel.yaml import YAML

from erasediff.data.inputs import has_pictures, read_table
from erasediff.data.table import counts
from erasediff.errors import ExpectationFailed
from erasediff.families import family_of, open_pipeline
from erasediff.families.class_conditional import build_pipeline
from stages import curate, forget_set, pretrain
from stages.door import sections_of

REPOSITORY = Path(__file__).parents[2]


def picture(seed):
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


class NotLogged:
    """Takes what is told to MLflow: these tests are about the folder."""

    run_id = None

    def log_metrics(self, values): ...

    def log_artifact(self, file): ...

    def start(self, params, continues=None): ...

    def resumed(self, *arguments): ...


class Folder:
    """A folder with params, in which doors are run; no checkout."""

    def __init__(self, root, **changes):
        self.root = root
        raw = YAML(typ="safe").load(REPOSITORY / "params.yaml")
        for key, value in changes.items():
            section, name = key.split("__")
            raw[section][name] = value
        YAML().dump(raw, root / "params.yaml")

    def run(self, door):
        """What a door's work prints; its frame is tested elsewhere."""
        with chdir(self.root), redirect_stdout(io.StringIO()) as said:
            sections = sections_of(inspect.signature(door.main).parameters)
            door.main(run=NotLogged(), **sections)
        return said.getvalue()

    def json(self, name):
        return json.loads((self.root / name).read_text())

    def words(self, name):
        """What a page says, without its marks."""
        text = (self.root / name).read_text().replace("<wbr>", "")
        return " ".join(re.sub(r"<style>.*?</style>|<[^>]*>", " ", text, flags=re.S).split())


@pytest.fixture(scope="module")
def numbered(tmp_path_factory):
    """Twelve numbered classes of parquet, curated and selected from."""
    root = tmp_path_factory.mktemp("numbered")
    labels = [i % 12 for i in range(12 * 6)]
    table = pa.table({"image": [picture(i) for i in range(len(labels))], "label": labels})
    (root / "data").mkdir()
    pq.write_table(table, root / "data" / "train.parquet")
    (root / "data" / "README.md").touch()
    folder = Folder(
        root,
        curate__source="parquet",
        curate__path="data",
        curate__min_per_concept=2,
        curate__max_per_concept=5,
        forget_set__concepts=["10"],
        forget_set__retain_per_concept=2,
    )
    said = folder.run(curate)
    (root / "models/base").mkdir(parents=True)
    (root / "models/base/erasures.json").write_text('["7"]')
    return folder, said, folder.run(forget_set)


@pytest.mark.pipeline
def test_curate_says_what_it_read_and_what_it_left_out(numbered):
    folder, said, _ = numbered
    assert said.splitlines()[-1] == ("curated 60 pictures of 12 concepts; left out: 1 .md, 12 beyond max_per_concept")
    summary = folder.json("data/curated/summary.json")
    assert summary["left_out"] == {".md": 1, "beyond max_per_concept": 12}
    assert summary["classes"] == [str(i) for i in range(12)]
    assert summary["counts"] == {str(i): 5 for i in range(12)} and summary["test"] == {str(i): 1 for i in range(12)}


@pytest.mark.pipeline
def test_the_page_of_curated_data_says_first_what_matters_and_in_plain_words(numbered):
    words = numbered[0].words("reports/validation/curated.html")
    said = [
        "Curated data: passed",
        "12 of 12 checks hold",
        "source parquet data",
        "pictures 60 of 12 concepts",
        "size 8 × 8 pixels, grey",
        "classes in order 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11",
        "left out 1 .md, 12 beyond max_per_concept",
        "This page shows no picture of the data",
        "✓ every picture can be read",
    ]
    assert "concept for training for testing 0 4 1 1 4 1 10 4 1 11 4 1 2 4 1" in words
    at = [words.index(text) for text in said]
    assert at == sorted(at)
    assert not re.search(r"value_set|min_value|not null|\{|expect_", words)
    results = numbered[0].json("reports/validation/curated.json")
    assert {"expect_column_values_to_be_in_set", "expect_column_values_to_not_be_null"} <= {
        r["expectation"] for r in results
    }


@pytest.mark.pipeline
def test_the_page_of_the_forget_set_says_what_is_retained_and_where_it_comes_from(numbered):
    folder, _, said = numbered
    words = folder.words("reports/forget_set/index.html")
    assert "source selected from data/curated" in words and "to forget 4 pictures of 10" in words
    assert "to retain 20 pictures of 10 concepts" in words and "forgotten before 7" in words
    assert "concept to forget to retain 0 0 2 1 0 2 10 4 0 11 0 2 2 0 2" in words
    assert said.splitlines()[-1] == "forget set: 4 pictures to forget, 20 to retain; discarded none"
    summary = folder.json("data/forget_set/summary.json")
    assert (summary["concepts"], summary["sample_ids"], summary["earlier"]) == (["10"], [], ["7"])
    assert summary["forget"] == {"10": 4} and summary["retain"] == {str(i): 2 for i in range(12) if i not in (7, 10)}


@pytest.mark.pipeline
def test_a_model_that_does_not_name_its_classes_gets_them_in_the_order_of_the_data(numbered):
    """By their letters the second class would be 10."""
    unnamed = build_pipeline(
        list("abcdefghijkl"), (1, 8, 8), block_out_channels=(8, 16), attention=(False, False), norm_num_groups=4
    )
    DDPMPipeline(unnamed.unet, unnamed.scheduler).save_pretrained(numbered[0].root / "given")
    changes = {"pretrain__source": "folder", "pretrain__path": "given"}
    Folder(numbered[0].root, curate__source="parquet", curate__path="data", **changes).run(pretrain)
    assert family_of(open_pipeline(numbered[0].root / "models/base")).concepts == tuple(map(str, range(12)))


WORDS = {"curate__source": "prompts", "pretrain__source": "folder", "classifier__pictures": "models/base"}


@pytest.mark.pipeline
def test_words_alone_are_a_table_and_a_page(tmp_path):
    (tmp_path / "own").mkdir()
    text = "prompt,artist,evaluation_seed\nA sower by Van Gogh,Van Gogh,3\nIrises by Van Gogh,Van Gogh,\n,Van Gogh,1\n"
    (tmp_path / "own" / "prompts.csv").write_text(text)
    concepts = {"star": "object", "Van Gogh": "style"}
    folder = Folder(tmp_path, **WORDS, curate__path="own", curate__concepts=concepts, forget_set__origin="generated")
    said = folder.run(curate)
    table = read_table(tmp_path / "data/curated/samples.parquet")
    assert said.splitlines()[-1] == f"curated {len(table)} prompts of 2 concepts; left out: 1 empty prompts"
    assert counts(table) == folder.json("data/curated/summary.json")["counts"] and not has_pictures(table)
    assert {"A sower by Van Gogh", "Irises by Van Gogh"} <= set(table.loc[table["origin"] == "real", "prompt"])
    words = folder.words("reports/validation/curated.html")
    assert "source templates of curate.concepts and own/prompts.csv" in words and "written by people 2" in words
    assert "There are no pictures: the base model draws them." in words
    assert "✓ no wording is both trained on and tested with" in words


@pytest.mark.pipeline
@pytest.mark.parametrize("door", ["pretrain", "classifier"])
def test_what_is_not_in_the_data_is_refused_before_anything_is_trained(tmp_path, door):
    (tmp_path / "own").mkdir()
    changes = {"curate__path": "own", "curate__concepts": {"star": "object", "moon": "object"}}
    folder = Folder(tmp_path, **WORDS, **changes, forget_set__origin="generated", forget_set__concepts=["hatched"])
    folder.run(curate)
    command = [sys.executable, "-m", f"stages.{door}"]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(REPOSITORY)}
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert (
        "forget_set.concepts: no concept 'hatched' in the data, which has moon, star; add it to curate.concepts"
        in done.stderr
    )
    assert not (tmp_path / "models").exists()


@pytest.mark.pipeline
def test_a_failed_check_is_one_line_and_the_first_thing_of_its_page(tmp_path):
    for n, concept in enumerate("ab"):
        (tmp_path / "own" / concept).mkdir(parents=True)
        for i in range(4):
            (tmp_path / "own" / concept / f"{i}.png").write_bytes(picture(10 * n + i))
    (tmp_path / "own" / "a" / "page.png").write_bytes(b"<html>")
    folder = Folder(tmp_path, curate__source="image_folder", curate__path="own", curate__min_per_concept=2)
    with pytest.raises(ExpectationFailed) as error:
        folder.run(curate)
    said = str(error.value)
    assert said.startswith(
        "the curated table fails the check 'every picture can be read' in 1 row(s), first: a/page.png (it is no PNG"
    )
    assert len(said.splitlines()) == 1 and "See reports/validation/curated.html" in said
    words = folder.words("reports/validation/curated.html")
    assert words.index("every picture can be read: 1 rows, first: a/page.png") < words.index("source")
    assert words.index("✗ every picture can be read") < words.index("✓ every picture has a concept")
