import json
import struct
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from erasediff.comparison.page import page, pareto_png
from erasediff.comparison.plan import Comparison, Experiment, Search, base_of, compared, experiments, searched
from erasediff.comparison.table import (
    Cell,
    against_gold,
    best,
    dominated_by,
    require_one_judge,
    summary,
    table_rows,
    weakest_side,
)
from erasediff.errors import IntegrityError, ParamsError
from erasediff.records import Evaluation
from flows.tools.comparisons import read_comparison


def evaluation(ua=0.9, kept=0.95, distance=2.0, passed=True):
    base = {"in_domain_retain_accuracy": 1.0, "fd_classifier": 1.0, "unlearning_accuracy": 0.1}
    erased = {"in_domain_retain_accuracy": kept, "fd_classifier": distance, "unlearning_accuracy": ua}
    return Evaluation(base, erased, {}, {}, passed, {})


def cell(variant, concept="8", seed=0, passes=1000, **numbers):
    return Cell(variant, concept, seed, evaluation(**numbers), {"updates": 10, "passes": passes})


CELLS = [
    cell("a", ua=0.9, distance=1.2),
    cell("a", seed=1, ua=1.0, distance=1.4),
    cell("b", ua=0.8, distance=1.5),
    cell("b", seed=1, ua=0.9, distance=1.6),
    cell("gold", ua=0.99, distance=1.0),
    cell("gold", seed=1, ua=0.97, distance=1.0),
    Cell("broken", "8", 0, None, None),
]


@pytest.mark.unit
@pytest.mark.parametrize(
    "numbers, expected",
    [
        ({"ua": 0.4, "kept": 0.9, "distance": 1.0}, 0.4),
        ({"ua": 0.9, "kept": 0.3, "distance": 1.0}, 0.3),
        ({"ua": 0.9, "kept": 0.9, "distance": 4.0}, 0.25),
        ({"ua": 1.0, "kept": 1.2, "distance": 0.5}, 1.0),
        ({"ua": 1.0, "kept": 1.0, "distance": 0.0}, 1.0),
    ],
)
def test_the_weakest_side(numbers, expected):
    assert weakest_side(evaluation(**numbers)) == pytest.approx(expected)


@pytest.mark.unit
def test_models_whose_numbers_stand_on_too_few_pictures_are_not_compared():
    few = replace(evaluation(), counts={"unlearning_accuracy": 20, "fd_classifier": 180})
    few.erased.pop("unlearning_accuracy")
    with pytest.raises(IntegrityError, match="unlearning_accuracy cannot be told with 20 pictures: 30 would do; raise"):
        summary([Cell("a", "8", 0, few, None)])


@pytest.mark.unit
def test_cells_of_one_seed_that_different_judges_measured_are_not_compared():
    def judged(variant, seed, judge):
        found = cell(variant, seed=seed)
        found.evaluation.protocol["judge"] = judge
        return found

    require_one_judge([judged("a", 0, "x"), judged("b", 0, "x"), judged("a", 1, "y"), cell("old"), CELLS[-1]])
    with pytest.raises(IntegrityError, match="cells of seed 1 were measured by different judges .a, b.: run them anew"):
        require_one_judge([judged("a", 1, "x"), judged("b", 1, "y")])


@pytest.mark.unit
def test_means_and_deviations():
    table = summary(CELLS)
    assert table["a"]["unlearning_accuracy"] == pytest.approx(0.95)
    assert table["a"]["unlearning_accuracy_sd"] == pytest.approx(0.0707107)
    assert table["b"]["fd_classifier_ratio"] == pytest.approx(1.55) and table["b"]["cells"] == 2
    assert table["broken"] == {"cells": 1, "failed": 1}


@pytest.mark.unit
def test_who_dominates_whom():
    assert dominated_by(summary(CELLS), "gold") == {"a": [], "b": ["a"], "gold": []}
    assert dominated_by(summary(CELLS), None) == {"a": ["gold"], "b": ["a", "gold"], "gold": []}
    equal = [cell("x"), cell("y")]
    assert dominated_by(summary(equal), None) == {"x": [], "y": []}


@pytest.mark.unit
def test_the_best_choice_counts_a_failure_as_nothing():
    found = {"low": [cell("a", ua=0.7, distance=1.0)] * 2, "high": [cell("a", ua=0.95, distance=1.0), CELLS[-1]]}
    assert best(found) == "low"
    assert best({"low": found["low"], "high": found["high"][:1] * 2}) == "high"


@pytest.mark.unit
def test_beside_the_gold_standard_cell_by_cell():
    (a, b) = against_gold(CELLS, "gold")
    assert a == {
        "variant": "a",
        "unlearning accuracy, less theirs": "-0.030",
        "distance, ratio to theirs": "1.300",
        "pairs": "2",
    }
    assert b["variant"] == "b"


class Strict(HTMLParser):
    """Fails on tags that do not match."""

    def __init__(self):
        super().__init__()
        self.open, self.text, self.links = [], "", []

    def handle_starttag(self, tag, attributes):
        self.links += [v for k, v in attributes if k in ("src", "href")]
        if tag not in ("meta", "img", "wbr"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.mark.unit
def test_the_page_says_what_was_found_and_loads_nothing():
    parser = Strict()
    parser.feed(page("<methods>", {"seeds": "0, 1"}, CELLS, {"a": "erase.eta 1"}, "gold"))
    assert parser.open == [] and all(link.startswith("data:image/png") for link in parser.links)
    for text in ("<methods>", "0.950 ± 0.071", "erase.eta 1", "gold (gold standard)", "broken, 8, seed 0", "-0.030"):
        assert text in parser.text.replace("\N{NO-BREAK SPACE}", " ")
    names = [row["variant"] for row in table_rows(summary(CELLS), {}, "gold")]
    assert names == ["gold (gold standard)", "a", "b", "broken"]


@pytest.mark.unit
def test_a_cell_goes_through_json():
    for one in CELLS:
        assert Cell.from_json(json.loads(json.dumps(one.to_json()))) == one


@pytest.mark.unit
def test_every_gate_of_the_erased_model_is_a_column():
    heads = [
        "forgotten concepts not recognised ↑",
        "retained concepts recognised, drop ↓",
        "distance to held-out pictures, ratio ↓",
        "weakest side ↑",
    ]
    assert list(table_rows(summary(CELLS), {}, None)[0])[1:5] == heads


def size(png):
    assert png.startswith(b"\x89PNG")
    return struct.unpack(">II", png[16:24])


@pytest.mark.unit
def test_the_plot_shows_those_near_the_base_apart_where_one_lies_far_off():
    width, height = size(pareto_png(summary(CELLS), "gold"))
    assert size(pareto_png(summary([*CELLS, cell("far", distance=100.0)]), "gold")) == (width * 13 // 9, height)


PLAN = Comparison(
    title="t",
    concepts=["0", "3"],
    seeds=[0, 1],
    variants={"a": {"erase.method": "finetune"}, "fixed": {"erase.learning_rate": 0.5}, "gold": {}},
    common={"erase.passes": 100},
    gold="gold",
    search=Search(["1"], [7], {"erase.learning_rate": [0.1, 0.2]}, {"evaluate.draws": 1}),
)


@pytest.mark.unit
def test_cells_are_named_by_what_they_are():
    cells = experiments(PLAN, "a", choice={"erase.learning_rate": 0.1}, search=False)
    assert len({e.name for e in cells}) == len(cells) == 4
    assert cells[0].overrides == {
        "erase.passes": 100,
        "erase.method": "finetune",
        "erase.learning_rate": 0.1,
        "forget_set.concepts": ["0"],
        "seed": 0,
    }
    again = experiments(PLAN, "a", choice={"erase.learning_rate": 0.1}, search=False)
    assert [e.name for e in again] == [e.name for e in cells]
    assert not {e.name for e in experiments(PLAN, "a", choice={}, search=False)} & {e.name for e in cells}
    assert len({base_of(e, "0").name for e in cells}) == 2  # one a seed
    assert "erase.method" not in base_of(cells[0], "0").overrides
    plain = Experiment("defaults", "0", 0, ())
    assert base_of(plain, "0").overrides == plain.overrides and base_of(plain, "0").name != plain.name


@pytest.mark.unit
def test_every_variant_comes_to_the_first_seed_before_any_to_the_second():
    cells = compared(PLAN, {"a": {"erase.learning_rate": 0.1}})
    assert [c.seed for c in cells] == [0] * 6 + [1] * 6
    assert [c.variant for c in cells[:6]] == ["a", "a", "fixed", "fixed", "gold", "gold"]
    assert {c.overrides["erase.learning_rate"] for c in cells if c.variant == "a"} == {0.1}


@pytest.mark.unit
def test_every_variant_but_the_gold_standard_is_searched_alike():
    asked = []

    def measured(wanted):
        asked.extend(wanted)
        rates = [dict(e.settings)["erase.learning_rate"] for e in wanted]
        return [
            cell(e.variant, e.concept, e.seed, ua=0.5 + r, distance=1.0) for e, r in zip(wanted, rates, strict=True)
        ]

    assert searched(PLAN, measured) == {"a": {"erase.learning_rate": 0.2}, "fixed": {}}
    assert {(e.concept, e.seed) for e in asked} == {("1", 7)}
    assert [e.variant for e in asked] == ["a", "a", "fixed"]
    assert all(dict(e.settings)["evaluate.draws"] == 1 for e in asked)


@pytest.mark.unit
@pytest.mark.parametrize(
    "text, message",
    [
        ("concepts: [", "is not YAML"),
        ("concepts: ['8']", "is no comparison"),
        ("concepts: ['8']\nseeds: [0]\nvariants: {a: {}}\nsede: 1", "'sede'"),
        ("concepts: ['8']\nseeds: [0]\nvariants: {a: {}}\ngold: b", "gold 'b' is none of the variants: a"),
    ],
)
def test_a_bad_file_is_told(tmp_path, text, message):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ParamsError, match=message):
        read_comparison(tmp_path / "c.yaml")
    with pytest.raises(ParamsError, match="is missing"):
        read_comparison(tmp_path / "none.yaml")


@pytest.mark.unit
def test_the_comparisons_that_are_shipped_are_sound():
    from pathlib import Path

    from erasediff.unlearning import METHODS

    folder = Path(__file__).parents[2] / "comparisons"
    plans = {path.stem: read_comparison(path) for path in folder.glob("*.yaml")}
    needing_words = {"uce", "speed"}
    assert {v["erase.method"] for v in plans["methods"].variants.values()} == set(METHODS) - needing_words
    for plan in plans.values():
        wanted = plan.search.concepts if plan.search else []
        assert not set(wanted) & set(plan.concepts)
