import io
import json
import re
from dataclasses import replace

import pytest
import torch
from markupsafe import escape
from PIL import Image

from erasediff.errors import IntegrityError, ParamsError
from erasediff.evaluation.gates import evaluation_of, gates, headline, sentences
from erasediff.evaluation.manner import how_measured
from erasediff.evaluation.numbers import over_draws, score
from erasediff.evaluation.pictures import grid_png, in_order, side_by_side, tiled_png
from erasediff.evaluation.plane import plane_section
from erasediff.evaluation.report import LIMITS as NOT_SHOWN
from erasediff.evaluation.report import NO_VERSION, report_html, with_version
from erasediff.evaluation.self_checks import UNCHECKED
from erasediff.evaluation.table import concept_rows, concepts_by_harm, table_rows
from erasediff.metrics.draw import Draw
from erasediff.records import (
    JUDGE_BY_BASE,
    JUDGE_BY_LABELS,
    EffectiveSettings,
    Erasures,
    ForgetSummary,
    Gate,
    Measured,
    SelfCheck,
    failed_gates,
)

LIMITS = {
    "min_unlearning_accuracy": 0.9,
    "min_base_accuracy": 0.5,
    "max_retain_accuracy_drop": 0.02,
    "max_distance_ratio": 1.25,
    "max_forget_degenerate": 0.5,
    "max_retain_degenerate_rise": 0.05,
}
BASE = {"unlearning_accuracy": 0.03, "in_domain_retain_accuracy": 0.97, "fd_classifier": 1.0}
ERASED = {"unlearning_accuracy": 0.95, "in_domain_retain_accuracy": 0.96, "fd_classifier": 1.1}
JUDGE = {"accuracy": 0.99, "test_samples": 7, "sha256": "j", "fingerprint": "cnn j; torch 2"}
PROTOCOL = {"seed": 7, "samples_per_concept": 2, "draws": 3, "inference_steps": 4, "guidance_scale": 1.0}
SETS = ForgetSummary(Erasures(("chat <noir>",)), {"chat <noir>": 12}, {"b": 1300}, "selected", {}, "f" * 64)
RAN = EffectiveSettings("erasediff", {"eta": 1.0, "multiplier": "paper"}, 140, 71680)


def evaluated(base=BASE, erased=ERASED, **protocol):
    how = PROTOCOL | protocol
    return evaluation_of(Measured(base, "b", how), Measured(erased, "e", how), dict(JUDGE), LIMITS)


def report(evaluation):
    return report_html(evaluation, SETS, RAN, {"base": b"x"}, {"losses": b"y"})


@pytest.mark.unit
@pytest.mark.parametrize(
    ("change", "failing"),
    [
        ({}, None),
        ({"unlearning_accuracy": 1 - torch.tensor([1.0] + [0.0] * 9).mean().item()}, None),
        ({"unlearning_accuracy": 0.89}, "unlearning_accuracy"),
        ({"in_domain_retain_accuracy": 0.94}, "in_domain_retain_accuracy_drop"),
        ({"fd_classifier": 1.3}, "fd_classifier_ratio"),
    ],
)
def test_gates_are_two_sided(change, failing):
    evaluation = evaluated(erased=ERASED | change)
    assert [k for k, g in evaluation.gates.items() if not g.passed] == ([failing] if failing else [])
    assert evaluation.passed == (failing is None) and failed_gates(evaluation.gates).startswith(failing or "")
    for unseen in ({"unlearning_accuracy": 0.6}, {"in_domain_retain_accuracy": 0.4}):
        assert not gates(BASE | unseen, ERASED, LIMITS)["base_accuracy"].passed
    assert len(table_rows(evaluation)) == 3
    html = report(evaluation)
    assert "chat &lt;noir&gt;" in html and ("FAILED" in html) == ("What to try" in html) == bool(failing)


@pytest.mark.unit
def test_a_gate_without_a_limit_is_told():
    with pytest.raises(ParamsError, match="fd_classifier_ratio has no limit: give verdict.max_distance_ratio"):
        gates(BASE, ERASED, {k: v for k, v in LIMITS.items() if k != "max_distance_ratio"})


@pytest.mark.unit
def test_a_gate_whose_base_was_drawn_too_seldom_cannot_be_told_and_is_not_left_out():
    """The erased model was drawn on, and stands on enough."""
    base = {name: value for name, value in BASE.items() if name != "in_domain_retain_accuracy"}
    many, few = {"in_domain_retain_accuracy": 60}, {"in_domain_retain_accuracy": 20}
    gate = gates(base, ERASED, LIMITS, counts=many, of_base=few)["in_domain_retain_accuracy_drop"]
    assert gate.value is None and gate.undecided and not gate.passed and gate.pictures == 20
    assert not gates(BASE, ERASED, LIMITS, counts=many, of_base=many)["in_domain_retain_accuracy_drop"].undecided


@pytest.mark.unit
def test_under_another_protocol_the_distance_is_not_judged():
    assert set(gates(BASE, ERASED, LIMITS)) - set(gates(BASE, ERASED, LIMITS, same_protocol=False)) == {
        "fd_classifier_ratio"
    }


@pytest.mark.unit
def test_a_gate_reads_alike_in_the_table_and_as_a_sentence_says_its_limit():
    evaluation = evaluated(BASE | {"seconds": 1.0}, ERASED | {"seconds": 3.0, "unlearning_accuracy_sd": 0.02})
    assert table_rows(evaluation) == [
        ("unlearning_accuracy", "0.030", "0.950 ± 0.020", "≥ 0.9 passed"),
        ("in_domain_retain_accuracy", "0.970", "0.960", "drop 0.0100 ≤ 0.02 passed"),
        ("fd_classifier", "1.000", "1.100", "ratio 1.1000 ≤ 1.25 passed"),
    ]
    assert sentences(evaluation, "8") == [
        "95.0% of the pictures drawn for 8 are not recognised as such (at least 90%): passed",
        "The base model draws recognisable pictures, both of what was to be forgotten and of the rest (97.0% or more; "
        "a comparison needs 50%): passed",
        "96.0% of the pictures drawn for retained concepts are recognised, of the base's 97.0% (at most 2 percentage "
        "points less): passed",
        "Retained pictures are 1.10 times as far from held-out ones as the base's (at most 1.25): passed",
        UNCHECKED,
    ]


@pytest.mark.unit
def test_an_evaluation_without_planted_models_says_that_it_did_not_prove_itself():
    checks = {"a copy of the base": SelfCheck("FAILED", "FAILED", True)}
    unproven, proven = evaluated(), replace(evaluated(), self_checks=checks)
    assert unproven.outcome == proven.outcome == "passed"
    told, silent = report(unproven), report(proven)
    assert told.count(UNCHECKED) == 2 and "did not prove itself" not in silent  # a reason, and a section
    assert "Would a bad model be caught?" in told and "Would a bad model be caught?" in silent
    assert UNCHECKED in sentences(unproven, "8") and UNCHECKED not in sentences(proven, "8")


@pytest.mark.unit
def test_an_interval_is_told_in_the_unit_of_its_sentence():
    known = {
        "unlearning_accuracy": Gate(0.9533, 0.9, "min", True, 0.9232, 0.972),
        "in_domain_retain_accuracy_drop": Gate(0.0083, 0.03, "max", True, 0.0034, 0.0136),
        "fd_classifier_ratio": Gate(1.0588, 1.25, "max", True, 1.0179, 1.1015),
    }
    told = sentences(replace(evaluated(), gates=known), "8")
    assert [sentence.partition("; ")[2] for sentence in told[:-1]] == [
        "allowing for chance, 92.3% to 97.2%: passed",
        "allowing for chance, a drop of 0.3 to 1.4 points: passed",
        "allowing for chance, 1.02 to 1.10 times: passed",
    ]


@pytest.mark.unit
def test_the_evaluation_names_what_was_measured_and_what_changed():
    content = evaluated(BASE | {"accuracy.a": 1.0}, ERASED | {"accuracy.a": 0.0}).to_json()
    assert content["models"] == {"base": "b", "erased": "e"} and content["classifier"] == JUDGE
    assert content["protocol"] == PROTOCOL
    assert content["delta"] == {name: ERASED[name] - BASE[name] for name in BASE}
    assert content["gates"]["fd_classifier_ratio"] == {
        "value": 1.1,
        "limit": 1.25,
        "direction": "max",
        "passed": True,
        "low": None,
        "high": None,
        "pictures": None,
        "undecided": False,
        "needed": None,
    }
    json.dumps(content, allow_nan=False)


@pytest.mark.unit
def test_the_report_says_what_ran_not_what_was_asked_for():
    ran = EffectiveSettings("graddiff", {"eta": 0.1, "multiplier": "fixed", "forget_source": "forget"}, 17, 900)
    how = how_measured(evaluated(BASE | {"recognised": 0.5}, drawn_pictures=1234, held_out_pictures=5), ran)
    assert how["pictures"] == "2 a concept × 3 draws of noise, 1,234 in all, the same seeds for both models"
    assert how["sampling"] == "4 steps, guidance scale 1" and how["distance"].endswith(" pictures: 5, real")
    assert how["method"] == "graddiff, 17 updates, multiplier fixed, eta 0.1"
    assert how["deviation from the paper"].startswith(
        "method: graddiff (paper: erasediff); multiplier: fixed (paper: paper); "
    )
    assert "forget_source" not in how["deviation from the paper"]


@pytest.mark.unit
def test_the_report_says_when_the_base_drew_what_distances_are_measured_to():
    evaluation = evaluated(BASE | {"recognised": 0.5}, held_out_pictures=5)
    evaluation.judge["pictures"] = JUDGE_BY_BASE
    how = how_measured(evaluation, EffectiveSettings("graddiff", {}, 17, 900))
    assert how["distance"].endswith(" pictures: 5, drawn by the base under other seeds")
    assert "those that the base drew under other seeds" in how["judge"]


@pytest.mark.unit
def test_the_report_says_whose_judge_it_is_and_that_it_was_not_measured():
    ran = EffectiveSettings("graddiff", {}, 17, 900)
    evaluation = evaluated()
    evaluation.judge.update({"kind": "clip", "accuracy": None, "test_samples": 0, "pictures": JUDGE_BY_BASE})
    told = how_measured(evaluation, ran)["judge"]
    assert told == "clip, trained by others; its accuracy was not measured: there are no pictures with labels"
    evaluation.judge.update({"accuracy": 0.5, "test_samples": 12, "pictures": JUDGE_BY_LABELS})
    assert how_measured(evaluation, ran)["judge"] == "clip, trained by others; accuracy 0.5000 on 12 held-out pictures"


def drawn(read, features, forgotten, reference, earlier=()):
    return Draw(torch.eye(3)[read], features, ["a", "a", "b", "b", "c", "c"], "abc", forgotten, reference, earlier)


@pytest.mark.unit
def test_score_on_a_known_case():
    features = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    read = torch.tensor([0, 1, 1, 1, 2, 0])
    result = score(drawn(read, features, ["a"], features[2:]))
    assert result["unlearning_accuracy"] == 0.5
    assert result["in_domain_retain_accuracy"] == 0.75
    assert result["forget_class_probability"] == 0.5 and result["forget_class_entropy_nats"] == 0
    assert result["fd_classifier"] == pytest.approx(0, abs=1e-6)
    assert result["accuracy.c"] == 0.5
    none = score(drawn(read, features, [], features))
    assert "unlearning_accuracy" not in none and "earlier_unlearning_accuracy" not in none


@pytest.mark.unit
def test_a_resample_has_as_many_pictures_of_each_concept_and_the_same_held_out_ones():
    features = torch.arange(6.0)[:, None]
    draw = drawn(torch.tensor([0, 0, 1, 1, 2, 2]), features, ["a"], features)
    found = [draw.resampled(torch.Generator().manual_seed(seed)) for seed in range(20)]
    for one in found:
        assert torch.equal(one.features[:, 0].long() // 2, torch.tensor([0, 0, 1, 1, 2, 2]))
        assert torch.equal(one.reference, features) and torch.equal(one.read_as, draw.read_as)
    assert len({tuple(one.features[:, 0].tolist()) for one in found}) > 5


@pytest.mark.unit
def test_what_was_forgotten_before_is_not_counted_as_retained_and_has_to_stay_forgotten():
    features = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    result = score(drawn(torch.tensor([0, 1, 2, 2, 2, 2]), features, ["a"], features[4:], ["b"]))
    assert result["earlier_unlearning_accuracy"] == 1.0 and result["unlearning_accuracy"] == 0.5
    assert result["in_domain_retain_accuracy"] == 1.0  # c alone
    assert result["fd_classifier"] == pytest.approx(0, abs=1e-6)
    assert result["recognised"] == 0.75
    back = score(drawn([0, 1, 1, 2, 2, 2], features, ["a"], features[4:], ["b"]))
    erased = BASE | {"unlearning_accuracy": 1.0, "earlier_unlearning_accuracy": back["earlier_unlearning_accuracy"]}
    assert [k for k, g in gates(BASE, erased, LIMITS).items() if not g.passed] == ["earlier_unlearning_accuracy"]


@pytest.mark.unit
def test_numbers_have_a_spread_over_draws_but_for_single_concepts():
    rows = [{"recognised": 0.5, "accuracy.a": 1.0}, {"recognised": 1.0, "accuracy.a": 0.5}]
    assert over_draws(rows) == {
        "recognised": 0.75,
        "recognised_sd": pytest.approx(0.3535534),
        "accuracy.a": 0.75,
    }
    assert over_draws(rows[:1]) == rows[0]  # one draw has no spread: none is claimed


@pytest.mark.unit
def test_what_was_to_be_forgotten_stands_first_in_a_grid():
    black, white = torch.full((1, 2, 1, 8, 8), -1.0), torch.full((1, 2, 1, 8, 8), 1.0)
    rows = torch.cat([black, black, white])
    found = grid_png(rows, ["a", "b", "c"], "t", marked=["c"])
    first = torch.cat([white, black, black])
    assert found == grid_png(first, ["c", "a", "b"], "t", marked=["c"]) != grid_png(rows, ["a", "b", "c"], "t")


@pytest.mark.unit
def test_the_grids_of_both_models_have_what_looks_alike_second_and_then_the_most_harmed():
    shades = dict(zip(["a", "b", "c", "d"], torch.linspace(-0.9, 0.9, 4), strict=True))

    def grid(names):
        rows = torch.stack([shades[name].expand(2, 1, 8, 8) for name in names])
        return grid_png(rows, names, "t", marked=["c"])

    base = BASE | dict.fromkeys(("accuracy.a", "accuracy.b", "accuracy.c", "accuracy.d"), 0.9)
    erased = ERASED | {"accuracy.a": 0.8, "accuracy.b": 0.2, "accuracy.c": 0.0, "accuracy.d": 0.9}
    measured = Measured(base, "b", PROTOCOL, neighbours={"c": ["d"]}), Measured(erased, "e", PROTOCOL)
    order = list(concepts_by_harm(evaluation_of(*measured, dict(JUDGE), LIMITS), ["c"]))
    assert order == ["c", "d", "b", "a"]
    assert in_order(grid("abcd"), order) == grid(order) != grid("abcd")  # the frame too
    assert in_order(grid("abcd"), ["c", "d"]) == grid(["c", "d", "a", "b"])
    plain = tiled_png(torch.zeros(3, 3, 32, 32), "a", "t")
    assert in_order(side_by_side(plain), order) == side_by_side(plain)


@pytest.mark.unit
def test_grid_is_a_picture():
    assert grid_png(torch.zeros(2, 3, 1, 8, 8), ["a", "chat noir"], "base").startswith(b"\x89PNG")


@pytest.mark.unit
def test_a_small_picture_is_enlarged_without_smoothing_until_it_can_be_seen():
    for side, shown in ((8, 48), (32, 64), (64, 64)):
        colours = torch.rand(1, 1, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1
        image = Image.open(io.BytesIO(grid_png(colours, ["chat noir"], "base"))).convert("RGB")
        right, bottom = image.width - 4, image.height - 4
        tile = image.crop((right - shown, bottom - shown, right, bottom))
        found = torch.tensor(list(tile.get_flattened_data())).view(shown, shown, 3)
        expected = ((colours[0, 0].permute(1, 2, 0) + 1) * 127.5).round().repeat_interleave(shown // side, 0)
        assert (found - expected.repeat_interleave(shown // side, 1)).abs().max() <= 1, side
    assert tiled_png(torch.zeros(3, 3, 32, 32), "a", "t").startswith(b"\x89PNG")


@pytest.mark.unit
def test_before_and_after_are_one_picture():
    before, after = (grid_png(torch.full((1, n, 1, 8, 8), v), ["a"], "t") for n, v in ((1, -1.0), (2, 1.0)))
    both = Image.open(io.BytesIO(side_by_side(before, after)))
    left, right = (Image.open(io.BytesIO(png)) for png in (before, after))
    assert both.size == (left.width + 24 + right.width, max(left.height, right.height))
    assert both.crop((0, 0, *left.size)).tobytes() == left.convert("RGB").tobytes()
    assert both.crop((both.width - right.width, 0, both.width, right.height)).tobytes() == right.tobytes()


@pytest.mark.unit
def test_the_report_says_which_model_it_is_about_and_what_it_does_not_show():
    html = report(evaluated())
    for text in ("chat &lt;noir&gt;", "12 pictures", "1,300 pictures", "f" * 64, "<td>b</td>", "<td>e</td>", "cnn j"):
        assert text.replace("<td>", '<td class="">') in html, text
    assert all(str(escape(limit)) in html for limit in NOT_SHOWN) and "none yet" in html
    assert html == report(evaluated())  # a function of what was measured: no date, no run
    title = html.partition("<title>")[2].partition("</title>")[0]
    assert title == html.partition("<h1>")[2].partition("</h1>")[0] == "Erasure report: chat &lt;noir&gt;"
    assert not re.search(r"in_<wbr>|fd_|_accuracy", html)  # names of the code are for the code


@pytest.mark.unit
def test_the_report_of_a_version_names_it_and_differs_in_nothing_else():
    evaluation = evaluated()
    html = report(evaluation)
    named = with_version(
        html, evaluation, SETS, {"version": "m, version 3", "asked for by": "<b>", "page": "http://x/"}
    )
    assert "m, version 3" in named and "&lt;b&gt;" in named and '<a href="http://x/">' in named
    assert "none yet" not in named and with_version(named, evaluation, SETS, {"version": NO_VERSION}) == html
    with pytest.raises(IntegrityError, match="cannot name its version: the page has no slot"):
        with_version("<html>", evaluation, SETS, {})


@pytest.mark.unit
def test_the_spread_is_explained_and_none_is_claimed_of_one_draw():
    spread = BASE | {"unlearning_accuracy_sd": 0.01}
    assert "Means over 3 draws of noise. ± is a standard deviation" in report(evaluated(spread, spread))
    assert "±" not in report(evaluated()), "nothing is explained that is not there"
    assert "One draw of noise" in report(evaluated(draws=1)) and "±" not in report(evaluated(draws=1))


@pytest.mark.unit
def test_a_verdict_that_no_attack_is_part_of_says_so():
    alone, some = "No part of this verdict: whether somebody can bring it back; ", {"erased": {"settings": {}}}
    assert f"{alone}no attack was tried" in report(evaluated())
    assert f"{alone}see &#34;Does it come back?&#34; below" in report(replace(evaluated(), attacks=some))
    gated = replace(evaluated(), gates={"attack_rise": Gate(0.01, 0.1, "max", True)}, attacks=some)
    assert alone not in report(gated)


@pytest.mark.unit
def test_a_failed_report_says_what_to_try():
    html = report(evaluated(erased=ERASED | {"unlearning_accuracy": 0.1}))
    assert "It forgot too little: raise erase.outer_steps or erase.eta" in html
    assert "It lost too much" not in html


@pytest.mark.unit
def test_concepts_have_a_table_of_their_own_that_says_which_were_to_be_forgotten():
    evaluation = evaluated(
        BASE | {"accuracy.a": 1.0, "accuracy.b": 0.5}, ERASED | {"accuracy.a": 0.0, "accuracy.b": 0.5}
    )
    assert concept_rows(evaluation, {"a"}) == [
        ("a (to be forgotten)", "1.000", "0.000", "1.000", ""),
        ("b", "0.500", "0.500", "0.000", ""),
    ]


@pytest.mark.unit
def test_the_concept_that_looks_alike_and_then_the_most_harmed_one_come_first():
    base = BASE | {f"accuracy.{c}": 0.9 for c in "abcde"}
    erased = ERASED | {"accuracy.a": 0.0, "accuracy.b": 0.8, "accuracy.c": 0.9, "accuracy.d": 0.2, "accuracy.e": 0.95}
    measured = Measured(base, "b", PROTOCOL, neighbours={"a": ["e"]}), Measured(erased, "e", PROTOCOL)
    rows = concept_rows(evaluation_of(*measured, dict(JUDGE), LIMITS), {"a"})
    assert [row[0] for row in rows] == ["a (to be forgotten)", "e (looks alike)", "d", "b", "c"]
    assert [row[3] for row in rows] == ["0.900", "-0.050", "0.700", "0.100", "0.000"]


@pytest.mark.unit
def test_the_plane_has_the_models_the_region_that_the_gates_allow_and_earlier_versions():
    evaluation = evaluated()
    alone = plane_section(evaluation)
    assert list(alone.pictures) == [
        "base at (0.970, 0.030), erased at (0.960, 0.950); allowed from 0.950 to the right and 0.900 upwards"
    ]
    alike, other = evaluated(erased=ERASED | {"unlearning_accuracy": 0.5}), evaluated(draws=1)
    both = plane_section(evaluation, {"version 1": alike, "version 2": other})
    assert "earlier versions" in both.text and "Hollow" in both.text
    assert "Hollow" not in plane_section(evaluation, {"version 1": alike}).text and "Grey" not in alone.text
    html = report(evaluation)
    named = with_version(html, evaluation, SETS, {"version": "m, version 3"}, {"version 1": alike})
    assert "Grey: earlier versions of this model." in named and "Grey" not in html
    nothing = {name: number for name, number in BASE.items() if name != "unlearning_accuracy"}
    assert plane_section(evaluated(nothing, nothing)) is None


@pytest.mark.unit
def test_the_report_says_what_was_not_measured_and_why():
    evaluation = replace(evaluated(), skipped={"clip_score": "the judge is no CLIP model", "concept z": "unknown"})
    told = how_measured(evaluation, RAN)["not measured"]
    assert told == "CLIP score (the judge is no CLIP model); concept z (unknown)"


@pytest.mark.unit
def test_the_headline_is_what_was_judged_in_a_few_numbers():
    assert headline(evaluated()) == {
        "unlearning_accuracy": 0.95,
        "base_accuracy": 0.97,
        "in_domain_retain_accuracy_drop": pytest.approx(0.01),
        "fd_classifier_ratio": 1.1,
        "in_domain_retain_accuracy": 0.96,
        "passed": True,
    }


@pytest.mark.unit
def test_models_that_were_measured_in_different_ways_are_not_compared():
    base, erased = Measured(BASE, "b", PROTOCOL), Measured(ERASED, "e", PROTOCOL | {"seed": 8, "draws": 2})
    with pytest.raises(IntegrityError, match="measured with different draws, seed: run dvc repro"):
        evaluation_of(base, erased, JUDGE, LIMITS)
    looked = [
        [Measured(BASE, "b", PROTOCOL | {"drawn_pictures": n} | more) for n in (10, 20)]
        for more in ({}, {"max_draws": 4})
    ]
    with pytest.raises(IntegrityError, match="measured with different drawn_pictures"):
        evaluation_of(*looked[0], JUDGE, LIMITS)
    assert evaluation_of(*looked[1], JUDGE, LIMITS), "it was drawn on"


@pytest.mark.unit
def test_a_base_at_no_distance_from_real_pictures_has_a_verdict_that_can_be_written():
    for distance, passed in ((0.5, False), (0.0, True)):
        evaluation = evaluated(BASE | {"fd_classifier": 0.0}, ERASED | {"fd_classifier": distance})
        json.dumps(evaluation.to_json(), allow_nan=False)
        assert evaluation.gates["fd_classifier_ratio"].passed == passed and report(evaluation)


@pytest.mark.unit
def test_what_one_concept_lost_is_told_sooner_where_both_models_had_the_same_seeds():
    base = BASE | {"kept.a": 0.9, "kept_low.a": 0.83, "kept_high.a": 0.94, "kept.b": 1.0}
    erased = ERASED | {"kept.a": 0.85, "kept_low.a": 0.77, "kept_high.a": 0.91, "kept.b": 1.0}
    alone, paired = (
        gates(base, erased, LIMITS | {"max_concept_drop": 0.12}, pairing=pairing)["worst_concept_drop"]
        for pairing in ({}, {"kept.a": 0.9})
    )
    assert alone.value == paired.value == pytest.approx(0.05)
    assert alone.low < paired.low and paired.high < alone.high
    assert alone.undecided and paired.passed
