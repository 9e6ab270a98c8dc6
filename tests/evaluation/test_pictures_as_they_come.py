"""Pictures are read as they come and let go; what no judge can read stops the evaluation."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from dealing import CONCEPTS, PROTOCOL, Dealer, Nearest, World, evaluated, forgetting, measured, shorter

from erasediff.errors import ModelError
from erasediff.evaluation.measure import measure
from erasediff.evaluation.neighbours import neighbours_of
from erasediff.evaluation.reading import READ, Reader, kept_features
from erasediff.metrics.draw import Draw
from erasediff.metrics.inception import WIDTH, Inception, inception_file


@pytest.fixture(scope="module")
def world(digits):
    return World(digits)


@pytest.mark.unit
@pytest.mark.parametrize("batch", [1, 7, 300, 900])
def test_the_same_pictures_in_any_batches_give_the_same_draw(batch, world):
    images, names = world.held_out, world.named[1]
    reader = Reader(Nearest(world), world.plan())
    whole, parts = reader.read(images, names), reader.read_all(iter(images.split(batch)), names)
    assert torch.equal(whole.probabilities, parts.probabilities) and torch.equal(whole.features, parts.features)
    assert all(torch.equal(mark, parts.marks[name]) for name, mark in whole.marks.items())


@pytest.mark.unit
def test_no_more_pictures_are_held_than_are_read_at_once(world):
    """Of 1,100 that are drawn."""
    held = set()

    class Counting(Nearest):
        def read(self, images):
            held.add(len(images))
            return super().read(images)

    protocol = shorter(PROTOCOL, samples_per_concept=110, batch_size=90)
    measure(Dealer(world), Counting(world), world.plan(), protocol, on_progress=lambda n: None)
    assert max(held - {len(world.plan().held_out)}) == READ < 1100


@pytest.mark.unit
def test_memory_does_not_grow_with_the_pictures():
    """Of 1,800 more, each of 12 KB, less than half is left: what a judge says of them, and which are resampled."""
    script, fixed = Path(__file__).parent / "memory_of_reading.py", {"MALLOC_MMAP_THRESHOLD_": "65536"}
    told = subprocess.run(
        [sys.executable, script, "600", "2400"], capture_output=True, text=True, env=os.environ | fixed, timeout=300
    )
    few, many = map(int, told.stdout.split())
    assert many - few < 1800 * 6144, (few, many)


@pytest.mark.unit
def test_what_was_read_lies_in_files_that_are_gone(world, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    images, names = world.held_out, world.named[1]
    draw = Reader(Nearest(world), world.plan()).read(images, names)
    assert len(draw.features) == len(images) and not list(tmp_path.iterdir())


class Failing(Nearest):
    """A judge that reads one picture of a thousand as something that is no answer."""

    def __init__(self, world, answer):
        super().__init__(world)
        self.answer, self.seen = answer, 0

    def read(self, images):
        probabilities, features = super().read(images)
        if self.seen <= 444 < self.seen + len(images):
            probabilities[444 - self.seen] = torch.tensor(self.answer)
        self.seen += len(images)
        return probabilities, features


@pytest.mark.unit
@pytest.mark.parametrize("answer", [[float("nan")] * 10, [0.0] * 10, [1.0] * 10], ids=["nan", "nothing", "everything"])
def test_a_judge_that_fails_on_one_picture_of_a_thousand_stops_the_evaluation(answer, world):
    judge = Failing(world, answer)
    reader = Reader(judge, world.plan())
    judge.seen, names = 0, [c for c in CONCEPTS for _ in range(70)]
    with pytest.raises(ModelError, match="the judge fails on 1 of 500 pictures, the first drawn for '6'"):
        reader.read(torch.rand(700, 1, 8, 8), names)


@pytest.mark.unit
def test_a_judge_with_other_concepts_than_it_says_is_refused(world):
    judge = Nearest(world)
    judge.concepts = CONCEPTS[:9]
    with pytest.raises(ModelError, match=r"reads 5 pictures of 9 concepts as scores \(5, 10\)"):
        Reader(judge, world.plan()).read(world.held_out[:5], ["0"] * 5)


@pytest.mark.unit
def test_a_concept_of_the_plan_that_the_judge_does_not_know_is_said_to_be_unmeasured(world):
    prompts = {c: [c] for c in (*CONCEPTS, "letters")}
    few = shorter(PROTOCOL, samples_per_concept=3)
    found = measured(Dealer(world), world, few, prompts=prompts)
    assert "does not know it" in found.skipped["concept letters"]
    others = {name: why for name, why in found.skipped.items() if not why.startswith("cannot be told with")}
    assert len(others) == 3


@pytest.mark.unit
def test_where_no_training_pictures_are_given_copies_of_them_are_said_to_be_unmeasured(world):
    few = shorter(PROTOCOL, samples_per_concept=3)
    said = [measured(Dealer(world), world, few, **plan).skipped for plan in ({}, {"training": None})]
    assert [it.get("near-copies of training pictures") for it in said] == [None, "no training pictures were given"]


@pytest.mark.unit
def test_features_of_held_out_pictures_are_read_once_for_each_judge_and_content(world, tmp_path):
    class Counting(Nearest):
        reads = 0

        def read(self, images):
            self.reads += 1
            return super().read(images)

    judge = Counting(world)
    first = kept_features(judge, world.held_out, tmp_path)
    assert torch.equal(kept_features(judge, world.held_out, tmp_path), first) and judge.reads == 1
    kept_features(judge, world.held_out[1:], tmp_path)
    judge.fingerprint = "another"
    kept_features(judge, world.held_out, tmp_path)
    assert judge.reads == 3
    judge.fingerprint = "nearest"
    assert torch.equal(kept_features(judge, world.held_out.flip(0), tmp_path), first.flip(0)) and judge.reads == 4
    for file in tmp_path.iterdir():
        file.write_bytes(file.read_bytes()[:50])
    assert torch.equal(kept_features(judge, world.held_out, tmp_path), first) and judge.reads == 5


class Stand(torch.nn.Module):
    """Of the shape of Inception-v3 as its file has it."""

    def __init__(self, width: int):
        super().__init__()
        self.width = width

    def forward(self, images: torch.Tensor, return_features: bool = False) -> torch.Tensor:
        return images.float().flatten(1).mean(1, keepdim=True) * torch.arange(self.width)


@pytest.mark.unit
def test_fid_is_there_where_inceptions_weights_are_and_is_said_to_be_skipped_elsewhere(world, tmp_path):
    few = shorter(PROTOCOL, samples_per_concept=8)
    without = measured(Dealer(world), world, few)
    assert "fid_inception2048" not in without.numbers.flat and "no weights" in without.skipped["fid_inception2048"]
    assert inception_file(tmp_path) is None
    torch.jit.script(Stand(WIDTH)).save(tmp_path / "inception.pt")
    network = Inception(inception_file(tmp_path))
    pixels = network.features(torch.tensor([-1.0, 0.0, 1.0]).view(3, 1, 1, 1).expand(3, 1, 4, 4))
    assert pixels[:, 1].tolist() == [0.0, 128.0, 255.0]
    torch.jit.script(Stand(64)).save(tmp_path / "small.pt")
    with pytest.raises(ValueError, match=r"features of shape \(1, 64\)"):
        Inception(tmp_path / "small.pt").features(torch.zeros(1, 3, 4, 4))
    (tmp_path / "broken.pt").write_bytes(b"PK")
    with pytest.raises(ValueError, match="is no network as TorchScript"):
        Inception(tmp_path / "broken.pt")


@pytest.mark.unit
def test_neighbours_are_the_retained_concepts_whose_pictures_look_alike():
    places = {"a": 0.0, "b": 1.0, "c": 5.0, "d": -2.0, "e": 0.5}
    names = [c for c in places for _ in range(20)]
    noise = torch.randn(100, 2, generator=torch.Generator().manual_seed(0)) * 0.1
    features = torch.tensor([[places[c], 0.0] for c in names]) + noise
    draw = Draw(
        torch.eye(5)[[list(places).index(c) for c in names]], features, names, tuple(places), ["a"], features, ["e"]
    )
    assert neighbours_of([draw]) == {"a": ["b", "d"]}


@pytest.mark.unit
def test_neighbours_are_chosen_by_the_base_and_their_loss_is_seen(world):
    base = measured(Dealer(world), world)
    near = base.neighbours["8"][0]
    evaluation = evaluated(base, measured(forgetting(world), world))
    assert evaluation.neighbours == base.neighbours and evaluation.base["neighbour_accuracy"] > 0.9
    assert evaluation.counts["neighbour_accuracy"] == 140
    hit = forgetting(world, **{f"of_{near}": lambda s: Dealer(world).deal("0", s)})
    lost = evaluated(base, measured(hit, world))
    assert lost.erased["neighbour_accuracy"] == pytest.approx(evaluation.erased["neighbour_accuracy"] / 2, abs=0.05)
    assert lost.delta["neighbour_accuracy_high"] < -0.3


@pytest.mark.unit
def test_how_far_retained_pictures_moved_is_told_of_all_and_of_each_concept(world):
    base = measured(Dealer(world), world)
    still = evaluated(base, measured(forgetting(world), world)).delta
    assert still["retained_change_judge_features"] == 0.0
    moved = forgetting(world, of_0=lambda s: Dealer(world).deal("1", s))
    delta = evaluated(base, measured(moved, world)).delta
    of = {c: delta[f"retained_change_judge_features.{c}"] for c in CONCEPTS if c != "8"}
    assert of.pop("0") > 0.1 and set(of.values()) == {0.0} and "retained_change_judge_features.8" not in delta
    whole = delta["retained_change_judge_features"]
    assert whole > 0.01 and delta["retained_change_judge_features_low"] < whole


@pytest.mark.unit
def test_features_of_other_held_out_pictures_of_the_same_shape_are_not_those_kept(world, tmp_path):
    judge, (first, second) = Nearest(world), world.held_out[:6].split(3)
    kept = kept_features(judge, first, tmp_path)
    assert torch.equal(kept_features(judge, first, tmp_path), kept)
    assert torch.equal(kept_features(judge, second, tmp_path), judge.read(second)[1])
