"""Words in place of pictures: templates, vocabulary, prompt files as people have them."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from erasediff.artifacts import new_folder
from erasediff.data import expectations
from erasediff.data.curation import curated_words
from erasediff.data.inputs import Given, given_by_prompt, has_pictures, prompts_by_concept
from erasediff.data.prompts import Prompt, prompt_files, read_prompts, template_prompts, words_table
from erasediff.data.selection import select, set_apart
from erasediff.data.wordings import KINDS, general_prompts, kind_of, misspelt, prompts_of, vocabulary, with_article
from erasediff.errors import DataError, ExpectationFailed

PUBLISHED = Path(__file__).parents[3] / "shared/data/prompts"


def failures(table):
    """The checks that do not hold of a table of words."""
    checked = expectations.validate(expectations.with_word_checks(table), expectations.words_expectations(), "t")
    return [f"{r['words']}: {r['first']}" for r in checked if not r["success"]]


def write(path, text):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.unit
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_several_wordings_and_others_for_the_test(kind):
    train, test = (prompts_of("windmill", kind, split) for split in ("train", "test"))
    assert len(train) >= 10 and len(test) >= 6 and train[0] == "windmill"
    assert all("windmill" in prompt for prompt in train + test) and not set(train) & set(test)
    assert not any(re.search(r"[{}]|\ba a\b|\ba an\b", prompt) for prompt in train + test)
    table = expectations.with_word_checks(words_table(template_prompts({"windmill": kind}), 0.25).table)
    assert set(table["splits_of_wording"]) == {1}


@pytest.mark.unit
def test_the_vocabulary_and_the_general_prompts_are_a_thousand_rows():
    words, general = vocabulary(), general_prompts()
    assert len(words) + len(general) >= 900 and set(words.values()) == set(KINDS)
    assert all(name == name.strip() and name for name in words) and len(set(general)) == len(general)
    assert kind_of("star") == "object" and kind_of("Cubism") == "style" and kind_of("Van Gogh") == "object"
    assert kind_of("nurse") == "person" and kind_of("harbour") == "scene"


@pytest.mark.unit
@pytest.mark.parametrize(
    ("name", "meant"),
    [
        *[("hart", "heart"), ("Sqaure", "square"), ("circel", "circle"), ("hous", "house"), ("ukiyoe", "ukiyo-e")],
        *[(name, None) for name in ("heart", "Heart", "hearts", "a heart", "two crosses", "Stern", "red car", "hate")],
        *[(name, None) for name in ("hair", "arm", "wing", "Van Gogh", "Elon Musk", "sexual", "x8", "8", "日本", "")],
    ],
)
def test_a_name_near_a_word_of_the_vocabulary_is_misspelt(name, meant):
    assert misspelt(name) == (f"the vocabulary has no '{name}'; did you mean {meant}?" if meant else "")


@pytest.mark.unit
def test_concepts_of_a_table_of_words_that_look_misspelt_are_told(tmp_path):
    file = write(tmp_path / "p.csv", "prompt,class\na big traingle,traingle\na house,house\n")
    with pytest.warns(UserWarning) as told:
        curated_words(file, {"hart": "object", "star": "object"}, 0.25)
    hints = ["hart'; did you mean heart?", "traingle'; did you mean triangle?"]
    assert [str(warning.message) for warning in told] == [f"the vocabulary has no '{hint}" for hint in hints]


@pytest.mark.unit
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("star", "a star"),
        ("apple", "an apple"),
        ("unicycle", "a unicycle"),
        ("hourglass", "an hourglass"),
        ("scissors", "scissors"),
        ("cactus", "a cactus"),
        ("glass", "a glass"),
        ("Eiffel Tower", "Eiffel Tower"),
        ("the moon", "the moon"),
    ],
)
def test_a_name_has_the_article_that_people_say(name, said):
    assert with_article(name) == said


@pytest.mark.unit
def test_words_are_installed_with_the_library():
    import tomllib

    patterns = tomllib.loads(Path("pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["erasediff"]
    assert "data/words/*.csv" in patterns


@pytest.mark.unit
def test_columns_go_by_the_names_that_published_files_give_them(tmp_path):
    one = write(
        tmp_path / "one.csv",
        "\ufeff,case_number,prompt,evaluation_seed,evaluation_guidance,artist\r\n"
        '0,0,"A field, by\nVan Gogh ",4261553411,7.5,Vincent van Gogh\r\n\r\n1,1,A sower,,, Vincent van Gogh\r\n',
    )
    assert read_prompts(one) == [
        Prompt("A field, by\nVan Gogh", "Vincent van Gogh", 4261553411, 7.5, source="one.csv line 2", kind="style"),
        Prompt("A sower", "Vincent van Gogh", source="one.csv line 5", kind="style"),
    ]
    two = write(tmp_path / "two.csv", 'prompt,categories,sd_seed,sd_guidance_scale\nx,"violence, self-harm",1.0,13\n')
    assert [(p.concept, p.seed, p.guidance_scale) for p in read_prompts(two)] == [
        ("violence", 1, 13.0),
        ("self-harm", 1, 13.0),
    ]
    bare = write(tmp_path / "bare.csv", "prompt\nan old church\n")
    assert read_prompts(bare, ["church"])[0].concept == "church"


@pytest.mark.unit
@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "has no column prompt; it has nothing"),
        ("text,class\nx,a\n", "has no column prompt; it has text, class"),
        ("prompt\tclass\nx\ta\n", "has no column prompt; it has prompt class"),
        ("prompt,prompt,class\nx,y,a\n", "has the column prompt more than once"),
        ("prompt,class\n", "has no prompts: it needs"),
        ("prompt,class\n ,a\n,b\n", r"all 2 prompts are empty, first in line 2"),
        ("prompt\nx\n", "does not say which concept a prompt is of: give it a column concept, class, artist"),
        ("prompt,class\nx,\n", "line 2: the label '' is no concept"),
        ("prompt,class\nx,a,b\n", "line 2: 3 cells, but 2 columns: quote what has commas"),
        ('prompt,class\n"x,a\n', "cannot be read as CSV"),
        ("prompt,class,sd_seed\nx,a,one\n", "line 2: sd_seed is one, no number from 0 to 18446744073709551615"),
        ("prompt,class,sd_seed\nx,a,-1\n", "sd_seed is -1, no number"),
        ("prompt,class,sd_seed\nx,a,1.5\n", "the seed 1.5 is no whole number"),
        ("prompt,class,sd_seed\nx,a,18446744073709551616\n", "sd_seed is 18446744073709551616, no number"),
        ("prompt,class,evaluation_guidance\nx,a,nan\n", "evaluation_guidance is nan, no number from 0 to 1000"),
        ("prompt,class,evaluation_guidance\nx,a,inf\n", "evaluation_guidance is inf, no number"),
        (f"prompt,class\n{'x' * 4001},a\n", "the prompt has 4001 characters"),
        ("prompt,class\nÜber,a\n".encode("latin-1"), r"is not UTF-8 \(byte 0xdc in line 2\)"),
        ("prompt,class\nx,a\n".encode("utf-16"), r"is not UTF-8 \(byte 0xff in line 1\)"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_line(tmp_path, text, why):
    with pytest.raises(DataError, match=why) as error:
        read_prompts(write(tmp_path / "p.csv", text))
    assert str(tmp_path / "p.csv") in str(error.value) and len(str(error.value)) < 500
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.property
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.one_of(
        st.binary(max_size=100), st.text(max_size=100).map(lambda t: f"prompt,class,seed\n{t}".encode(errors="replace"))
    )
)
def test_any_bytes_are_prompts_or_one_line(tmp_path, content):
    try:
        found = read_prompts(write(tmp_path / "p.csv", content))
    except DataError as error:
        assert len(str(error)) < 600 and len(str(error).splitlines()) == 1
    else:
        assert all(p.concept for p in found) and any(p.text for p in found)


@pytest.mark.unit
def test_a_path_is_a_file_or_a_folder_of_files_and_must_be_there(tmp_path):
    for name in ("b.csv", "a.CSV", ".c.csv", "notes.txt"):
        write(tmp_path / name, "prompt,class\n")
    assert [file.name for file in prompt_files(tmp_path)] == ["a.CSV", "b.csv"]
    assert prompt_files(tmp_path / "b.csv") == [tmp_path / "b.csv"]
    with pytest.raises(DataError, match="does not exist: set curate.path to a CSV file"):
        prompt_files(tmp_path / "missing.csv")


@pytest.mark.unit
def test_the_table_of_words_is_what_every_stage_reads():
    curated = words_table(template_prompts({"star": "object", "hatched": "style"}), 0.25)
    table = curated.table
    assert not has_pictures(table) and {"sample_id", "prompt", "concept", "split", "origin"} <= set(table)
    assert table["sample_id"].is_unique and set(table["origin"]) == {"generated"} and curated.left_out == {}
    for split in ("train", "test"):
        found = prompts_by_concept(table[table["split"] == split])
        assert {c: sorted(p) for c, p in found.items()} == {
            "hatched": sorted(prompts_of("hatched", "style", split)),
            "star": sorted(prompts_of("star", "object", split)),
        }
    assert set(table.loc[select(table, ["star"], []), "concept"]) == {"star"}


@pytest.mark.unit
def test_the_split_of_a_prompt_depends_on_its_text_alone():
    prompts = [Prompt(f"a church, number {i}", "church") for i in range(200)]
    one = words_table(prompts, 0.25).table.set_index("prompt")["split"]
    other = [Prompt(p.text, "building") for p in prompts[:50]]
    two = words_table([*other, *reversed(prompts)], 0.25).table
    assert 30 <= (one == "test").sum() <= 70
    for prompt, split in zip(two["prompt"], two["split"], strict=True):
        assert one[prompt] == split


@pytest.mark.property
@given(n=st.integers(2, 12), fraction=st.floats(0.01, 0.99))
def test_every_concept_of_two_prompts_has_both_splits(n, fraction):
    table = words_table([Prompt(f"picture {i}", "a") for i in range(n)], fraction).table
    assert set(table["split"]) == {"train", "test"}


@pytest.mark.unit
def test_repeated_prompts_are_left_out_and_counted_and_seeds_are_kept():
    prompts = [
        Prompt("x", "a", 2**64 - 1, 7.5),
        Prompt("x", "a", 3),
        Prompt("y", "a"),
        Prompt("y", "a"),
        Prompt("", "a"),
    ]
    curated = words_table(prompts, 0.5)
    assert curated.left_out == {"duplicates": 1, "empty prompts": 1}
    assert sorted(curated.table["seed"].dropna()) == [3, 2**64 - 1] and curated.table["seed"].isna().sum() == 1
    assert curated.table["sample_id"].is_unique
    assert curated.table.groupby("prompt")["split"].nunique().max() == 1


@pytest.mark.unit
def test_no_prompt_at_all_and_names_that_look_alike_are_refused():
    with pytest.raises(DataError, match="no prompts: name concepts in curate.concepts"):
        words_table([], 0.25)
    with pytest.raises(DataError, match="'Star' and 'star' differ in capitals alone"):
        words_table([Prompt("x", "star"), Prompt("y", "Star")], 0.25)


@pytest.mark.unit
def test_a_prompt_of_a_concept_to_forget_is_not_retained_under_another():
    prompts = [Prompt("x", "violence"), Prompt("x", "self-harm"), Prompt("y", "self-harm")]
    table = words_table(prompts, 0.25).table
    table = table[table["origin"] == "real"]
    left, chosen = set_apart(table, ["violence"], [], [])
    assert left.loc[~chosen, "prompt"].tolist() == ["y"] and left.loc[chosen, "prompt"].tolist() == ["x"]
    with pytest.raises(DataError, match="nothing is left to retain: every prompt is of a concept to forget"):
        set_apart(table, ["self-harm"], [], [])


@pytest.mark.pipeline
def test_great_expectations_name_what_is_wrong_with_the_words():
    def failure(table):
        results = expectations.validate(expectations.with_word_checks(table), expectations.words_expectations(), "t")
        with pytest.raises(ExpectationFailed) as error:
            expectations.require(results, "the curated table", "page.html")
        return str(error.value)

    good = words_table(template_prompts({"star": "object", "circle": "object"}), 0.25).table
    checked = expectations.validate(expectations.with_word_checks(good), expectations.words_expectations(), "t")
    assert [r["words"] for r in checked if not r["success"]] == []
    bad = good.copy()
    bad.loc[(bad["concept"] == "star") & (bad["split"] == "test"), "prompt"] = "A  STAR."
    assert "'no wording is both trained on and tested with'" in failure(bad) and "object template" in failure(bad)
    one = words_table([Prompt("x", "lone", source="p.csv line 2"), *template_prompts({"star": "object"})], 0.25).table
    one = one[(one["concept"] != "lone") | (one["split"] == "train")]
    assert "'every concept has a prompt for testing' in 1 row(s), first: 'lone' has 0" in failure(one)


@pytest.mark.unit
def test_a_concept_of_one_wording_under_many_seeds_is_tested_with_templates():
    prompts = [Prompt("Image of church", "church", seed=seed) for seed in range(5)]
    table = words_table(prompts, 0.25).table
    assert set(table.loc[table["split"] == "train", "prompt"]) == {"Image of church"}
    test = set(table.loc[table["split"] == "test", "prompt"])
    assert test == set(prompts_of("church", kind_of("church"), "test"))
    assert failures(table) == []


@pytest.mark.property
@given(
    st.lists(st.sampled_from(["x", "X ", "x.", " y", "Y", "z", "a", "a photo of a"]), min_size=1),
    st.sampled_from([{}, {"a": "object"}]),
    st.floats(0.01, 0.99),
)
def test_one_wording_is_never_in_both_splits_and_its_concept_is_trained_and_tested(texts, templates, fraction):
    prompts = [*template_prompts(templates), *(Prompt(text.strip(), "a") for text in texts)]
    checked = expectations.with_word_checks(words_table(prompts, fraction).table)
    assert set(checked["splits_of_wording"]) == {1} and checked[["train_prompts", "test_prompts"]].min().min() >= 1


@pytest.mark.unit
@pytest.mark.parametrize(
    ("name", "rows", "concepts"),
    [
        ("vangogh_prompts.csv", 50, {"Vincent van Gogh"}),
        ("big_artist_prompts.csv", 100, None),
        ("small_imagenet_prompts.csv", 100, None),
        ("i2p-structure-evaluation.csv", 4703, None),
        ("i2p-structure-sd.csv", 4703, None),
        ("church.csv", 50, {"church"}),
        ("coco_10k.csv", 9969, {"church"}),
        ("garbage_truck.csv", 50, {"church"}),
        ("parachute.csv", 50, {"church"}),
        ("tench.csv", 50, {"church"}),
    ],
)
def test_published_files_are_read_as_they_are(name, rows, concepts):
    if not (PUBLISHED / name).exists():
        pytest.skip(f"no {name} in {PUBLISHED}")
    found = read_prompts(PUBLISHED / name, ["church"])
    assert len({p.source for p in found}) == rows
    assert concepts is None or {p.concept for p in found} == concepts
    table = words_table(found, 0.25).table
    assert len(table) > 0.9 * rows and all(table["prompt"].str.len())
    assert set(table["split"]) <= {"train", "test"} and json.dumps(table["prompt"].tolist())
    curated = curated_words(PUBLISHED / name, {"church": "object"}, 0.25)
    assert len(curated.table) >= len(table) and failures(curated.table) == []


@pytest.mark.unit
def test_the_seeds_and_guidance_of_a_file_come_back_for_the_prompts_of_the_test(tmp_path):
    most = 2**64 - 1
    rows = [
        Prompt("a star at night", "star", most, 7.5, split="test"),
        Prompt("a star at night", "star", 3, None, split="test"),
        Prompt("a star at night", "sky", 3, None, split="test"),
        Prompt("a star by day", "star", 4, 2.0, split="train"),
        Prompt("the sky", "sky", split="test"),
        Prompt("a sky", "sky", split="train"),
    ]
    with new_folder(tmp_path / "curated") as folder:
        words_table(rows, 0.5).table.to_parquet(folder / "samples.parquet", index=False)
    found = given_by_prompt(tmp_path / "curated" / "samples.parquet")
    assert {prompt: sorted(said) for prompt, said in found.items()} == {
        "a star at night": [Given(3, None), Given(most, 7.5)]
    }


@pytest.mark.unit
def test_pictures_come_with_no_seeds(tmp_path):
    with new_folder(tmp_path / "curated") as folder:
        pd.DataFrame({"prompt": ["a"], "split": ["test"]}).to_parquet(folder / "samples.parquet", index=False)
    assert given_by_prompt(tmp_path / "curated" / "samples.parquet") == {}
