"""The embedded text-to-image model: what is shipped, and that it can be made again."""

import hashlib
import re
import subprocess
import sys

import pytest
import torch
from diffusers import StableDiffusionPipeline
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

import erasediff
from erasediff.artifacts import read_json, verify_folder
from erasediff.examples.captions import CORPUS, FILLERS, TEST_WORDINGS
from erasediff.examples.measuring import drawn_rightly, requests
from erasediff.examples.shapes import FOLDER, MADE
from erasediff.examples.shapes_judge import DOMAINS, NOTHING, draw_nothing, open_shapes_judge
from erasediff.examples.shapes_networks import build_autoencoder, build_shapes_pipeline, give_every_letter_a_token
from erasediff.examples.train_shapes import write_pipeline
from erasediff.families import family_of
from erasediff.git import git


@pytest.fixture(scope="module")
def shapes():
    return erasediff.open_example("shapes")


@pytest.mark.unit
def test_it_is_at_most_6_mb_as_recorded_and_finite_in_float16():
    files = [path for path in FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 6_000_000
    verify_folder(FOLDER)
    assert {str(p.relative_to(FOLDER)) for p in files} == {*read_json(FOLDER / "sha256.json"), "sha256.json"}
    for path in FOLDER.rglob("*.safetensors"):
        for name, tensor in load_file(path).items():
            assert tensor.dtype == torch.float16 and tensor.isfinite().all(), (path, name)


@pytest.mark.unit
def test_plain_diffusers_opens_it_and_draws_what_the_example_draws(shapes):
    plain = StableDiffusionPipeline.from_pretrained(FOLDER)
    how = {"steps": 4, "guidance_scale": 3.0}
    drawn, same = (family_of(p).sample(["a star", "moon"], [1, 2], **how) for p in (plain, shapes.pipeline))
    assert drawn.shape == (2, 3, 24, 24) and torch.equal(drawn, same)
    assert {type(part).__name__ for part in plain.components.values() if part is not None} == {
        "AutoencoderKL",
        "CLIPTextModel",
        "CLIPTokenizer",
        "DDIMScheduler",
        "UNet2DConditionModel",
    }


@pytest.mark.property
@given(st.text(st.characters(exclude_characters="<|>", exclude_categories=["Cs"])))  # surrogates are no text
def test_no_letter_of_any_text_is_lost(shapes, text):
    tokenizer = shapes.pipeline.tokenizer
    assert tokenizer.unk_token_id not in tokenizer(text).input_ids[1:-1]


@pytest.mark.unit
def test_words_that_it_never_saw_are_told_apart_by_their_last_letter(shapes):
    words = [f"ho{letter}" for letter in "abcdefghijklmnopqrstuvwxyz0123456789"]
    assert len({*map(tuple, shapes.pipeline.tokenizer(words).input_ids)}) == len(words)
    assert len(shapes.pipeline.tokenizer("").input_ids) == 2


@pytest.mark.unit
def test_a_letter_that_gets_a_token_changes_no_other_prompt():
    pipeline = build_shapes_pipeline(build_autoencoder(0), 0)
    prompts = sorted({*CORPUS[::40], *FILLERS, *(prompt for prompt, _ in requests(TEST_WORDINGS[:5])[::20]), ""})
    before = family_of(pipeline).condition([*prompts, "hub", "hui"])["encoder_hidden_states"]
    give_every_letter_a_token(pipeline, 0)
    after = family_of(pipeline).condition([*prompts, "hub", "hui"])["encoder_hidden_states"]
    assert torch.equal(before[:-2], after[:-2])
    assert torch.equal(before[-1], before[-2]) and not torch.equal(after[-1], after[-2])
    assert len(pipeline.tokenizer) == pipeline.text_encoder.config.vocab_size


@pytest.mark.unit
def test_its_script_writes_no_folder_of_its_machine(tmp_path):
    for place in ("given", "written"):
        (tmp_path / place).mkdir()
    build_shapes_pipeline(build_autoencoder(0), 0).save_pretrained(tmp_path / "given")
    write_pipeline(tmp_path / "written", StableDiffusionPipeline.from_pretrained(tmp_path / "given"))
    for path in (tmp_path / "written").rglob("*.json"):
        assert "given" not in path.read_text() and "_name_or_path" not in path.read_text(), path


@pytest.mark.unit
def test_its_judge_reads_the_world_and_knows_nothing_when_it_sees_it(shapes):
    accuracy = shapes.judge.accuracy(shapes.world.draw(3000, 10**8 + 1))
    assert min(accuracy.values()) >= 0.999, accuracy
    empty = draw_nothing(500, 8)
    assert all(judge.names(empty).count(NOTHING) >= 495 for judge in shapes.judge.domains.values())
    assert shapes.judge.style.fingerprint != shapes.judge.object.fingerprint
    assert shapes.judge.object.fingerprint == open_shapes_judge(FOLDER).object.fingerprint


@pytest.mark.unit
def test_it_draws_what_it_is_asked_for_in_words_that_it_never_saw(shapes):
    asked = requests(shapes.world.test_wordings[:1])
    right = drawn_rightly(shapes.pipeline, shapes.judge, asked, guidance_scale=3.0, steps=10)
    assert right["object"] >= 0.95 and right["style"] >= 0.95


@pytest.mark.unit
def test_what_is_recorded_of_it_is_good_enough(shapes):
    made = shapes.facts
    assert {made["judge"][name] >= 0.999 for name in DOMAINS} == {True}
    for kind, right in made["drawn_rightly"].items():
        enough = 0.98 if kind.endswith("guidance 3") else 0.9
        assert all(right.get(domain, 1) >= enough for domain in ("object", "style")), kind
    assert made["seed"] == 0 and set(made["sources"]) == {
        "captions.py",
        "shapes_judge.py",
        "shapes_networks.py",
        "shapes_training.py",
        "train_shapes.py",
        "world.py",
    }


@pytest.mark.unit
def test_the_commit_that_is_recorded_holds_the_sources_that_are(shapes):
    commit = shapes.facts["commit"]
    assert re.fullmatch("[0-9a-f]{40}", commit)
    if git("cat-file", "-e", commit, at=FOLDER).returncode:
        pytest.skip("this copy has no history")
    for name, expected in shapes.facts["sources"].items():
        content = git("show", f"{commit}:erasediff/examples/{name}", at=FOLDER).stdout
        assert hashlib.sha256(content.encode()).hexdigest() == expected, name


@pytest.mark.unit
@pytest.mark.slow
@pytest.mark.timeout(5400)
def test_made_again_by_its_script_it_draws_as_well(tmp_path):
    command = [
        sys.executable,
        "-m",
        "erasediff.examples.train_shapes",
        "--work",
        tmp_path,
        "--output",
        tmp_path / "made",
    ]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    made = read_json(tmp_path / "made" / MADE)
    for kind, right in made["drawn_rightly"].items():
        enough = 0.95 if kind.endswith("guidance 3") else 0.8
        assert all(right.get(domain, 1) >= enough for domain in ("object", "style")), (kind, right)
