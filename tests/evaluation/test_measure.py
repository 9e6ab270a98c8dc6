"""What is drawn, with which seeds, and what it is held against."""

import pandas as pd
import pytest
import torch

from erasediff.data.images import encode_png
from erasediff.data.inputs import Given
from erasediff.errors import DataError, IntegrityError, ModelError, ParamsError, UnknownConcept
from erasediff.evaluation.measure import Plan, Protocol, measure, measure_pipeline
from erasediff.evaluation.numbers import over_draws
from erasediff.judges import REST, read_as
from erasediff.randomness import image_seeds

TONES = {"a": -1.0, "b": 0.0, "c": 1.0}
PROTOCOL = Protocol(samples_per_concept=4, draws=3, inference_steps=2, guidance_scale=1.5, batch_size=5, seed=7)


class Painter:
    """A family that paints each concept in its tone, with a little noise of the seed, and keeps what it was asked."""

    def __init__(self, **tones):
        self.tones, self.asked = TONES | tones, []

    def sample(self, prompts, seeds, *, steps, guidance_scale, batch_size, sampler=None):
        self.asked += [(prompt, seed, steps, guidance_scale) for prompt, seed in zip(prompts, seeds, strict=True)]
        noise = torch.stack([torch.randn(1, 8, 8, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
        return torch.tensor([self.tones[p.split()[0]] for p in prompts]).view(-1, 1, 1, 1) + 0.1 * noise


class Eye:
    """A judge that reads the tone, and keeps what it was shown."""

    concepts, image_shape, fingerprint = ("a", "b", "c"), (1, 8, 8), "eye"

    def __init__(self, blind=False):
        self.shown, self.blind = [], blind

    def to(self, device):
        return self

    def read(self, images):
        self.shown.append(images)
        mean = images.mean((1, 2, 3))
        nearest = (mean[:, None] - torch.tensor(list(TONES.values()))).abs().argmin(1)
        features = torch.stack([mean, images.std((1, 2, 3))], 1)
        return torch.eye(3)[nearest], features * float("nan") if self.blind else features


def measured(family, judge=None, protocol=PROTOCOL, **plan):
    held_out = torch.randn(20, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    what = Plan(**{"held_out": held_out, "forgotten": ["a"]} | plan)
    return measure(family, judge or Eye(), what, protocol, on_progress=lambda n: None)


@pytest.mark.unit
def test_a_prompt_that_came_with_seeds_and_guidance_is_drawn_with_them_first():
    plain, own = Painter(), Painter()
    prompts = {"a": ["a here", "a there"], "b": ["b"]}
    given = {"a here": [Given(2**64 - 1, None), Given(5, 7.5), Given(6, None)], "b": [Given(None, 3.0)]}
    before, after = measured(plain, prompts=prompts), measured(own, prompts=prompts, given=given)
    rows = list(zip(sorted(plain.asked), sorted(own.asked), strict=True))
    assert [(b, a) for b, a in rows if b[0] in ("a there", "c")] == [
        (b, b) for b, _ in rows if b[0] in ("a there", "c")
    ]
    assert {asked[3] for asked in own.asked if asked[0] == "b"} == {3.0}
    here = [(seed, guidance) for prompt, seed, _, guidance in own.asked if prompt == "a here"]
    protocol = [seed for prompt, seed, _, _ in plain.asked if prompt == "a here"]
    assert sorted(here[:2]) == [(5, 7.5), (2**64 - 1, 1.5)]  # of the first draw, by guidance
    assert sorted(here[2:4]) == [(6, 1.5), (protocol[3], 1.5)]
    assert sorted(here[4:]) == [(protocol[4], 7.5), (protocol[5], 1.5)]
    # Every picture stands where it belongs, whatever was drawn together.
    assert torch.allclose(after.shown.mean((2, 3, 4)), before.shown.mean((2, 3, 4)), atol=0.1)


@pytest.mark.unit
def test_two_models_get_the_same_seeds_and_every_draw_others():
    before, after = Painter(), Painter(a=1.0)
    measured(before), measured(after)
    assert before.asked == after.asked and len(before.asked) == 36
    seeds = [seed for _, seed, _, _ in before.asked]
    assert len(set(seeds)) == 36
    assert seeds == [seed for draw in range(3) for seed in image_seeds(7, draw, 12)]
    assert {(steps, scale) for _, _, steps, scale in before.asked} == {(2, 1.5)}
    assert [name for name, *_ in before.asked] == [c for _ in range(3) for c in "abc" for _ in range(4)]


@pytest.mark.unit
def test_numbers_are_means_over_the_draws_and_pictures_are_of_the_first():
    found = measured(Painter(a=1.0))
    numbers, shown = found.numbers.flat, found.shown
    assert numbers["unlearning_accuracy"] == numbers["in_domain_retain_accuracy"] == 1.0
    assert numbers["unlearning_accuracy_sd"] == 0.0 and numbers["fd_classifier_sd"] > 0
    assert numbers["accuracy.a"] == 0.0 and shown.shape == (3, 4, 1, 8, 8)
    first = measured(Painter(a=1.0), protocol=Protocol(4, 1, 2, 1.5, 5, 7))
    assert torch.equal(first.shown, shown) and first.numbers.flat["fd_classifier"] != numbers["fd_classifier"]


@pytest.mark.unit
def test_each_wording_of_a_concept_is_asked_in_its_turn_and_counts_as_the_concept():
    family = Painter(a=1.0)
    numbers = measured(family, prompts={"a": ["a one", "a two"], "b": ["b"]}).numbers.flat
    assert [prompt for prompt, *_ in family.asked[:4]] == ["a one", "a two", "a one", "a two"]
    assert numbers["unlearning_accuracy"] == 1.0


@pytest.mark.unit
def test_a_concept_without_a_name_is_kept_where_nothing_that_has_one_is_seen():
    """A detector of one thing: "a" is what it knows; "b" and "c" are drawn too, and read as the rest."""

    class Detector(Eye):
        concepts = ("a", REST)

        def read(self, images):
            scores, features = super().read(images)
            return torch.stack([scores[:, 0], scores[:, 1:].sum(1)], dim=1), features

    family, prompts = Painter(), {"a": ["a"], "b": ["b"], "c": ["c one"]}
    found = measured(family, Detector(), prompts=prompts)
    numbers = found.numbers.flat
    assert [name for name, *_ in family.asked[:12]] == ["a"] * 4 + ["b"] * 4 + ["c one"] * 4
    assert numbers["unlearning_accuracy"] == 0.0 and numbers["in_domain_retain_accuracy"] == 1.0
    assert numbers[f"accuracy.{REST}"] == 1.0 and len(found.shown) == 3
    other = measured(Painter(c=-1.0), Detector(), prompts=prompts).numbers.flat
    assert other["in_domain_retain_accuracy"] == 0.5
    with pytest.raises(UnknownConcept, match="does not know 'd'"):
        read_as(Eye(), "d")


@pytest.mark.unit
def test_what_a_judge_with_thresholds_detects_is_kept_of_every_picture():
    judge = Eye()
    judge.raw = ("tone", "spread")
    found, family = measured(Painter(a=1.0), judge), Painter(a=1.0)
    tones = found.numbers.readings["raw.tone"]
    assert len(tones) == len(found.numbers.readings["raw.spread"]) == 36 and "raw.tone" not in found.numbers.flat
    assert tones.round().tolist() == [family.tones[c] for _ in range(3) for c in "abc" for _ in range(4)]


@pytest.mark.unit
def test_what_is_no_finite_number_is_told_and_never_measured():
    with pytest.raises(ModelError, match="draws pictures that are no finite numbers"):
        measured(Painter(b=float("nan")))
    with pytest.raises(ModelError, match="the judge fails on 12 of 12 pictures, the first drawn for .a."):
        measured(Painter(), Eye(blind=True))
    with pytest.raises(IntegrityError, match="fd_classifier is no finite number: the classifier cannot judge"):
        over_draws([{"fd_classifier": 1.0}, {"fd_classifier": float("inf")}])


@pytest.mark.unit
def test_a_number_that_some_draws_lack_is_an_error_of_its_metric():
    with pytest.raises(ValueError, match="recognised: measured in some draws only"):
        over_draws([{"accuracy.a": 1.0}, {"accuracy.a": 1.0, "recognised": 1.0}])


def table(**counts):
    return pd.DataFrame(
        [
            {"concept": c, "image": encode_png(torch.full((1, 8, 8), TONES[c]))}
            for c, n in counts.items()
            for _ in range(n)
        ]
    )


def measured_pipeline(pipeline, judge, test, **options):
    named = {"forgotten": ["a"], "earlier": [], "on_progress": lambda done, total: None} | options
    return measure_pipeline(pipeline, judge, test, Protocol(2, 1, 1, 1.0, 4, 7), **named)


@pytest.mark.unit
def test_distances_are_to_pictures_of_retained_concepts_alone(pipeline):
    for forgotten, earlier, tones in ((["a"], [], [0, 0, 1, 1, 1]), (["a"], ["b"], [1, 1, 1]), (["a"], ["x"], None)):
        judge, told = Eye(), []
        protocol = measured_pipeline(
            pipeline,
            judge,
            table(a=4, b=2, c=3),
            forgotten=forgotten,
            earlier=earlier,
            on_progress=lambda *n, told=told: told.append(n),
        ).protocol
        held_out = judge.shown[0].mean((1, 2, 3)).round().tolist()
        assert held_out == (tones or [0, 0, 1, 1, 1]) and told == [(4, 6), (6, 6)]
        assert protocol == {
            "samples_per_concept": 2,
            "draws": 1,
            "inference_steps": 1,
            "guidance_scale": 1.0,
            "seed": 7,
            "drawn_pictures": 6,
            "held_out_pictures": len(held_out),
            "judge": "eye",
        }


@pytest.mark.unit
def test_what_cannot_be_measured_is_told_before_anything_is_drawn(pipeline):
    with pytest.raises(UnknownConcept, match="the classifier does not know z: train it"):
        measured_pipeline(pipeline, Eye(), table(b=2), forgotten=["z"])
    with pytest.raises(ParamsError, match="whether the rest is kept cannot be measured"):
        measured_pipeline(pipeline, Eye(), table(b=2), forgotten=list(Eye.concepts))
    with pytest.raises(DataError, match="1 held-out picture.s. of retained concepts: a distance needs 2"):
        measured_pipeline(pipeline, Eye(), table(a=4, b=1))
