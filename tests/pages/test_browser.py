"""Every page as a real browser shows it: wide, on a phone, in the dark, printed."""

import re
from dataclasses import replace

import pytest
import torch
from browser import EXECUTABLE, OUTSIDE, browser

from erasediff.comparison.page import page as comparison_page
from erasediff.comparison.table import Cell
from erasediff.data.expectations import page as validation_page
from erasediff.evaluation.charts import charts_of
from erasediff.evaluation.gates import evaluation_of
from erasediff.evaluation.pictures import grid_png
from erasediff.evaluation.report import report_html, with_version
from erasediff.evaluation.suites.run import Request, _written
from erasediff.evaluation.suites.suite import load_suite
from erasediff.pages import Section, Table, page
from erasediff.records import EffectiveSettings, Erasures, ForgetSummary, Measured, SelfCheck

pytestmark = pytest.mark.skipif(EXECUTABLE is None, reason="no Chromium is installed: apt-get install chromium")

LIMITS = {
    "min_unlearning_accuracy": 0.9,
    "min_base_accuracy": 0.5,
    "max_retain_accuracy_drop": 0.02,
    "max_distance_ratio": 1.25,
}
CONCEPTS = ["a very long name of a concept indeed", *"bcdefghij"]
SETS = ForgetSummary(
    Erasures((CONCEPTS[0],)), {CONCEPTS[0]: 130}, dict.fromkeys("bcdefghij", 135), "selected", {}, 64 * "f"
)
RAN = EffectiveSettings("erasediff", {"eta": 1.0, "multiplier": "paper", "forget_source": "retain"}, 140, 71680)
JUDGE = {"accuracy": 0.998, "test_samples": 450, "sha256": 64 * "a", "fingerprint": f"cnn {64 * 'a'}; luma; torch 2.13"}


INSTEAD = {CONCEPTS[0]: {"b": 200, "c": 70, CONCEPTS[0]: 30}}
ATTACKS = {"settings": {"2 steps": {"value": 0.18, "low": 0.1, "high": 0.29, "pictures": 60}}}


def evaluated(unlearning_accuracy, low=None):
    numbers = {f"accuracy.{c}": 0.97 for c in CONCEPTS}
    shared = {"recognised": 0.96, "in_domain_retain_accuracy": 0.95, "fd_classifier": 0.5} | numbers
    shared |= {f"forget_{mark}": 0.01 for mark in ("blank", "noise", "copied", "repeated")}
    spread = {f"{name}_sd": 0.01 for name in ("recognised", "in_domain_retain_accuracy", "unlearning_accuracy")}
    protocol = {"seed": 0, "samples_per_concept": 100, "draws": 3, "inference_steps": None, "guidance_scale": None}
    base = Measured({"unlearning_accuracy": 0.05, **shared, **spread}, 64 * "b", protocol)
    ends = {} if low is None else {"unlearning_accuracy_low": low, "unlearning_accuracy_high": 0.95}
    numbers = {"unlearning_accuracy": unlearning_accuracy, **shared, **spread, **ends}
    erased = Measured(
        numbers, 64 * "c", protocol, {"unlearning_accuracy": 300}, INSTEAD, attacks=ATTACKS if ends else {}
    )
    return evaluation_of(base, erased, JUDGE, LIMITS)


def found(value, **more):
    return {"value": value, "low": value - 0.08, "high": value + 0.08, "pictures": 60, **more}


def curve(value):
    return {
        f"{way}, {at} updates": found(value + at / 200, at=at) for way in ("all weights", "LoRA") for at in (0, 5, 40)
    }


#: A report with all that may be in one: attacks with curves, one that did not run, planted models, concepts alike.
EVERYTHING = {
    "attacks": {
        "base": {"resurgence": {"before": found(0.9, at=0)}, "precision": {"int8 weights": found(0.9)}},
        "erased": {"resurgence": curve(0.1), "precision": {"int8 weights": found(0.1)}},
        "retrained": {"resurgence": curve(0.2), "precision": {"int8 weights": found(0.2)}},
    },
    "self_checks": {
        "a copy of the base": SelfCheck("FAILED by unlearning_accuracy", "FAILED by unlearning_accuracy", True),
        "blank pictures for what is to be forgotten": SelfCheck("noticed in 90%", "noticed in 12%; passed", False),
    },
    "neighbours": {CONCEPTS[0]: ["b", "c"]},
    "skipped": {
        "attack wordings": "it needs a model that is asked by prompts",
        "clip_score": "the judge is no CLIP model",
    },
}


def report(folder, unlearning_accuracy, low=None, **changes):
    trace = folder / "erase.csv"
    lines = [f"{i},{0.01 + 0.02 / i},{0.02 + 0.1 / i},{1 - 0.5 / i},{0.5 / i}" for i in range(1, 141)]
    trace.write_text("step,retain_loss,forget_loss,multiplier,gradient_cosine\n" + "\n".join(lines) + "\n")
    pictures = {
        f"drawn by the {which} model": grid_png(
            torch.zeros(10, 8, 3, 32, 32) + tone, CONCEPTS, which, marked=CONCEPTS[:1]
        )
        for which, tone in (("base", 0.3), ("erased", -0.3))
    }
    evaluation = replace(evaluated(unlearning_accuracy, low), **changes)
    html = report_html(evaluation, SETS, RAN, pictures, charts_of(trace, RAN))
    facts = {
        "version": "erasediff-digits, version 3",
        "commit": 40 * "0",
        "MLflow page": f"http://localhost/{90 * 'x'}",
    }
    return with_version(html, evaluation, SETS, facts)


def comparison(folder):
    cells = [
        Cell(
            variant,
            "8",
            seed,
            evaluated(0.8 + 0.02 * seed),
            {"updates": 140, "passes": 71680, "gradient_cosine_mean": 0.3},
        )
        for variant in ("erasediff", "a_very_long_name_of_a_variant", "retrain")
        for seed in range(3)
    ]
    return comparison_page(
        "methods", {"file": "comparisons/methods.yaml"}, cells, {"erasediff": "erase.eta 1"}, "retrain"
    )


def suite(folder):
    figures = [
        f"{name}.{domain}"
        for name in ("unlearning_accuracy", "in_domain_retain_accuracy")
        for domain in ("style", "object")
    ]
    cell = {"method": "erasediff", "domain": "style", "base": dict.fromkeys(figures, 0.9), "seconds": 1.0}
    cells = [cell | {"forgotten": [name], "figures": dict.fromkeys(figures, 0.8765)} for name in ("Van_Gogh", "Dogs")]
    _written(Request("unlearncanvas", folder), load_suite("unlearncanvas"), cells)
    return (folder / "report.html").read_text()


def validation(folder):
    results = [
        {
            "words": f"every value of a_rather_long_name_of_a_column is one of {CONCEPTS}, {ok}",
            "expectation": "expect_column_values_to_be_in_set",
            "column": "a_rather_long_name_of_a_column",
            "wanted": f"value_set {CONCEPTS}",
            "success": ok,
            "failed_rows": 0 if ok else 3,
            "first": [] if ok else [f"{40 * 'x'}.png ({12 * 'a'}, 'b')"],
        }
        for ok in (True, False)
    ]
    rows = [(concept, "180") for concept in CONCEPTS]
    return validation_page(results, "Curated data", [Section("Pictures", table=Table(rows, ("concept", "pictures")))])


PAGES = {
    "passed": lambda folder: report(folder, 0.95),
    "failed": lambda folder: report(folder, 0.1),
    "untold": lambda folder: report(folder, 0.91, 0.88),
    "everything": lambda folder: report(folder, 0.95, **EVERYTHING),
    "suite": suite,
    "comparison": comparison,
    "validation": validation,
}
#: Width in pixels, and how it is looked at; paper is as wide as the column of a printed A4 page.
LOOKS = {
    "1280": {"width": 1280},
    "390": {"width": 390},
    "dark": {"width": 1280, "dark": True},
    "print": {"width": 688, "media": "print"},
}


@pytest.fixture(scope="module")
def shown():
    with browser() as page:
        yield page


@pytest.mark.pipeline
@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("name", PAGES)
def test_nothing_lies_outside_its_column_nothing_is_fetched_and_nothing_complains(name, look, shown, tmp_path):
    file = tmp_path / "page.html"
    file.write_text(PAGES[name](tmp_path))
    shown.complaints.clear(), shown.requests.clear()
    shown.open(file, **LOOKS[look])
    assert shown.evaluate(OUTSIDE) == []
    assert shown.complaints == [] and {url.partition(":")[0] for url in shown.requests} <= {"file", "data"}
    assert shown.evaluate("[...document.images].every(image => image.naturalWidth > 0)")


def colour(shown, selector, what="backgroundColor"):
    return shown.evaluate(f'getComputedStyle(document.querySelector("{selector}")).{what}')


@pytest.mark.pipeline
def test_keys_alone_reach_every_link_in_turn_and_the_one_reached_is_outlined(shown, tmp_path):
    rows = [("MLflow page", f"http://localhost/{name}") for name in ("model", "run")]
    (tmp_path / "page.html").write_text(page("Links", [Section("Where it is kept", table=Table(rows))]))
    shown.open(tmp_path / "page.html")
    reached = []
    for _ in rows:
        shown.press("Tab")
        reached.append(shown.evaluate("document.activeElement.href"))
        outline = shown.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none", "who reads by keys has to see where they are"
    assert reached == [url for _, url in rows]


@pytest.mark.pipeline
def test_the_report_has_curves_planted_models_and_concepts_that_look_alike(shown, tmp_path):
    (tmp_path / "page.html").write_text(report(tmp_path, 0.95, **EVERYTHING))
    shown.open(tmp_path / "page.html")
    text = shown.evaluate("document.body.innerText")
    for told in ("b (looks alike)", "noticed in 12%; passed", "Not run: wordings", "resurgence: share of pictures"):
        assert told in text, told


@pytest.mark.pipeline
def test_a_phone_shows_every_column_and_charts_over_its_whole_width(shown, tmp_path):
    (tmp_path / "page.html").write_text(report(tmp_path, 0.95))
    shown.open(tmp_path / "page.html", 390)
    heads = shown.evaluate('[...document.querySelectorAll(".numbers th")].map(e => e.getBoundingClientRect().right)')
    assert len(heads) == 9 and max(heads) <= 390 - 16
    widths = shown.evaluate("[...document.images].map(image => image.getBoundingClientRect().width)")
    assert len(widths) == 5 and min(widths) > 340


@pytest.mark.pipeline
def test_the_dark_is_dark_and_paper_is_white_with_the_verdict_in_colour(shown, tmp_path):
    (tmp_path / "page.html").write_text(report(tmp_path, 0.1))
    seen = {}
    for look, options in LOOKS.items():
        shown.open(tmp_path / "page.html", **options)
        seen[look] = colour(shown, "body"), colour(shown, "body", "color"), colour(shown, ".verdict")
        adjusted = colour(shown, ".verdict", "printColorAdjust")
    assert adjusted == "exact"
    assert seen["dark"] == ("rgb(22, 24, 27)", "rgb(228, 228, 228)", "rgb(90, 35, 38)")
    assert seen["1280"] == ("rgb(255, 255, 255)", "rgb(34, 34, 34)", "rgb(248, 215, 215)")
    assert seen["print"] == ("rgb(255, 255, 255)", "rgb(0, 0, 0)", "rgb(248, 215, 215)")


@pytest.mark.pipeline
def test_on_paper_before_and_after_stand_side_by_side_and_no_table_loses_its_head(shown, tmp_path):
    (tmp_path / "page.html").write_text(report(tmp_path, 0.95))
    shown.open(tmp_path / "page.html", **LOOKS["print"])
    boxes = shown.evaluate(
        "[...document.images].map(image => image.getBoundingClientRect()).map(box => [box.top, box.left])"
    )
    (top, left), (other_top, other_left) = boxes[:2]
    assert top == other_top and left < other_left
    assert (
        colour(shown, ".pictures", "breakInside") == "avoid"
        and colour(shown, "thead", "display") == "table-header-group"
    )
    assert 3 <= len(re.findall(rb"/Type\s*/Page\b", shown.printed())) <= 5
