"""Published benchmarks: what they say of themselves, what they ask, and how pictures with known answers are scored."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from ruamel.yaml import YAML
from tiny_stable_diffusion import CAPTIONS, tiny_stable_diffusion
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from erasediff.artifacts import DRAWN
from erasediff.cli import main
from erasediff.errors import DataError, ModelError, ParamsError
from erasediff.evaluate_command import open_model
from erasediff.evaluation.attacks import unlearndiffatk
from erasediff.evaluation.judging import named_judge
from erasediff.evaluation.suites import erasing, scoring
from erasediff.evaluation.suites.asking import Asked, asked
from erasediff.evaluation.suites.erasing import eraser
from erasediff.evaluation.suites.measuring import SCORES, Context, measure
from erasediff.evaluation.suites.reading import Readings, open_readers, read, read_detections
from erasediff.evaluation.suites.run import Request, _plan, run_suite
from erasediff.evaluation.suites.suite import load_suite, metric_of, parsed, require, suites
from erasediff.evaluation.suites.tables import STAND_IN, cells_table, estimates, protocol_of, tables
from erasediff.examples import open_example
from erasediff.families import family_of
from erasediff.metrics.intervals import Estimate, wilson
from erasediff.metrics.table import METRICS

ROOT = Path(__file__).parents[2]
YAMLS = ROOT / "erasediff" / "evaluation" / "suites"
PROMPTS = ROOT.parent / "shared" / "data" / "prompts"
TEN = [
    "cifar10",
    "coco",
    "hub_pinpoint",
    "i2p",
    "imagenette",
    "sequential",
    "spqr",
    "unlearncanvas",
    "unlearndiffatk",
    "vangogh_style",
]


@pytest.mark.unit
def test_there_are_ten(capsys):
    assert suites() == TEN
    assert main(["evaluate", "--suite", "list"]) == 0
    assert [line.partition(":")[0] for line in capsys.readouterr().out.splitlines()] == TEN
    with pytest.raises(ParamsError, match="did you mean unlearncanvas"):
        load_suite("unlearncanvass")


@pytest.mark.unit
@pytest.mark.parametrize("name", TEN)
def test_each_says_all_that_a_reader_needs(name):
    suite = load_suite(name)
    assert suite.name == name and suite.sources and suite.models and suite.needs and len(suite.told) > 80
    assert suite.scoring == "class_wise" or suite.scoring in SCORES
    assert suite.stand_in.methods and suite.stand_in.forget and set(suite.stand_in.readers)
    assert {r.kind for r in suite.real.readers.values()} <= {"image_classifier", "clip", "nudity", "judge"}
    assert {r.kind for r in suite.stand_in.readers.values()} <= {
        "shapes",
        "shapes_detector",
        "shapes_alignment",
        "digits",
    }
    needed = {need.path for need in suite.needs}
    assert {*suite.real.files, *(r.folder for r in suite.real.readers.values())} - {""} <= needed
    assert all(it.source and it.figures for it in suite.published)


@pytest.mark.unit
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 3}, "Extra inputs"),
        ({"scoring": "best"}, "scoring"),
        (
            {
                "published": [{"method": "m", "figures": {"x": 1}, "protocol": "P", "source": "s", "read": "P"}],
                "protocol": "P",
            },
            "no metric of it",
        ),
        (
            {"stand_in": {"readers": {"object": {"kind": "shapes"}}, "concepts": {"object": ["a"]}, "forget": ["b"]}},
            "b is to be forgotten",
        ),
    ],
)
def test_a_yaml_that_does_not_fit_is_refused(change, message):
    content = YAML(typ="safe", pure=True).load((YAMLS / "coco.yaml").read_text()) | change
    with pytest.raises(ParamsError, match=message):
        parsed(json.dumps(content), "mine.yaml")


@pytest.mark.unit
def test_unlearncanvas_is_of_51_themes_and_20_objects():
    setting = load_suite("unlearncanvas").real
    questions = asked(setting, ["Van_Gogh"], None)
    assert len(questions) == 51 * 20 * 5 and {q.seed for q in questions} == {188, 288, 588, 688, 888}
    assert questions[0].prompt == "A Architectures image in Abstractionism style."
    (night,) = [q for q in questions if q.truth == {"object": "Dogs", "style": "Van_Gogh"} and q.seed == 188]
    assert night.prompt == "A Dogs image in Van Gogh style."
    assert setting.domain_of("Van_Gogh") == "style" and setting.domain_of("Dogs") == "object"


@pytest.mark.unit
def test_what_is_missing_is_told_whole_before_anything_is_drawn(tmp_path, capsys):
    suite = load_suite("vangogh_style")
    (tmp_path / "vangogh_prompts.csv").touch()
    with pytest.raises(DataError, match="needs 2 thing") as caught:
        require(suite, tmp_path, None)
    assert "big_artist_prompts.csv of --data DIR" in str(caught.value) and "or --judge" in str(caught.value)
    (tmp_path / "big_artist_prompts.csv").touch()
    require(suite, tmp_path, "clip:somewhere")
    code = main(["evaluate", "nowhere", "--base", "nowhere", "--suite", "coco", "--output", str(tmp_path / "out")])
    told = capsys.readouterr().err
    assert code == 1 and "coco_10k.csv" in told and "hf download openai/clip-vit-base-patch32" in told
    assert not (tmp_path / "out").exists()


@pytest.mark.unit
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"forgotten": ["dog"]}, "dog is none of the suite's concepts"),
        ({"models": ["a"], "methods": ["uce"]}, "either MODEL or --methods"),
        ({"suite": "sequential", "models": ["a"]}, "1 models, and 3 requests"),
        ({"suite": "best"}, "no suite 'best'"),
        ({"stand_in": False, "suite": "i2p", "data": PROMPTS, "judge": "nudity"}, "needs . thing"),
    ],
)
def test_requests_that_cannot_be_are_refused(tmp_path, changes, message):
    wanted = Request(**{"suite": "unlearncanvas", "output": tmp_path / "out", "stand_in": True} | changes)
    with pytest.raises((ParamsError, DataError), match=message):
        run_suite(wanted, lambda *a: pytest.fail("a model was opened"))


@pytest.mark.unit
def test_methods_are_known_and_a_retrained_model_is_asked_for(tmp_path):
    setting = load_suite("unlearncanvas").stand_in
    with pytest.raises(ParamsError, match="did you mean speed"):
        eraser("sped", setting, 0, None, tmp_path)
    with pytest.raises(Exception, match="never saw star: give --data DIR with DIR/retrained/star"):
        eraser("retrained", setting, 0, tmp_path, tmp_path)(None, ("star",))


@pytest.mark.unit
def test_settings_of_erasing_follow_a_method(tmp_path, monkeypatch):
    setting = load_suite("unlearncanvas").stand_in
    asked = []
    monkeypatch.setattr(erasing, "erase", lambda *given, **how: asked.append(how) or SimpleNamespace(pipeline=None))
    eraser("lora:learning_rate=1,trainable=xattn", setting, 0, None, tmp_path)(None, ("star",))
    assert asked[0].items() >= {"method": "erasediff", "adapter": "lora", "learning_rate": 1.0}.items()
    assert asked[0]["trainable"] == "xattn"
    for method, message in {
        "esd:learning_rat=1": "did you mean learning_rate",
        "esd:learning_rate": "write NAME=VALUE",
        "esd:outer_steps=few": "outer_steps 'few' is no int",
        "base:outer_steps=3": "erases nothing",
    }.items():
        with pytest.raises(ParamsError, match=message):
            eraser(method, setting, 0, None, tmp_path)


# Scoring, on pictures with known answers


class Painter:
    """A model that draws the world itself, and for a forgotten object or style another one."""

    def __init__(self, instead=()):
        self.instead = dict(instead)

    def sample(self, prompts, seeds, **how):
        world, images = open_example("shapes").world, []
        for prompt, seed in zip(prompts, seeds, strict=True):
            words = [self.instead.get(word, word) for word in prompt.split()]
            objects = [o for o in world.objects if o in words] or world.objects
            styles = [s for s in world.styles if s in words] or world.styles
            images.append(world.draw(1, seed, objects=objects, styles=styles).images)
        return torch.cat(images)


def painted(name, forgotten, instead=(), quick=True):
    """What the stand-in readers of a suite see in the pictures of a painter."""
    setting = load_suite(name).stand_in
    setting = setting.quick() if quick else setting
    return read(Painter(instead), open_readers(setting, None), setting, asked(setting, forgotten, None, ["circle"]))


def points(figures):
    """Figures without the ends of their intervals."""
    return {name: value for name, value in figures.items() if not scoring.is_end(name, figures)}


@pytest.mark.unit
def test_unlearncanvas_scores_what_was_painted():
    perfect = points(scoring.domains(painted("unlearncanvas", ["star"], {"star": "circle"}), ["star"], "object"))
    assert min(perfect.values()) > 0.97
    nothing = scoring.domains(painted("unlearncanvas", ["star"]), ["star"], "object")
    assert nothing["unlearning_accuracy"] < 0.1 and nothing["in_domain_retain_accuracy"] > 0.97
    all_alike = {o: "circle" for o in open_example("shapes").world.objects}
    ruined = scoring.domains(painted("unlearncanvas", ["star"], all_alike), ["star"], "object")
    assert ruined["unlearning_accuracy"] > 0.9 and ruined["in_domain_retain_accuracy"] < 0.25
    assert ruined["cross_domain_retain_accuracy"] > 0.97, "styles are kept"
    styles = painted("unlearncanvas", ["hatched"], {"hatched": "flat"})
    assert min(points(scoring.domains(styles, ["hatched"], "style")).values()) > 0.97
    each = scoring.of_each(styles, "style", ["hatched", "neon"])
    assert each["unlearning_accuracy.hatched"] > 0.9 and each["unlearning_accuracy.neon"] < 0.1


@pytest.mark.unit
@pytest.mark.parametrize("name", ["unlearncanvas", "i2p"])
def test_a_suite_that_was_killed_draws_only_what_it_had_not_read(name, tmp_path):
    setting = load_suite(name).stand_in.quick().model_copy(update={"batch_size": 4})
    questions, readers = asked(setting, ["star"], None)[:10], open_readers(setting, None)
    painter, drawn, killed_after = Painter(), [], [99]
    paint = painter.sample

    def sample(prompts, seeds, **how):
        if len(drawn) == killed_after[-1]:
            raise KeyboardInterrupt
        drawn.append(len(prompts))
        return paint(prompts, seeds, **how)

    painter.sample = sample
    whole = read(painter, readers, setting, questions)
    batches = len(drawn)
    drawn.clear()
    killed_after.append(2)
    with pytest.raises(KeyboardInterrupt):
        read(painter, readers, setting, questions, kept=tmp_path)
    drawn.clear()
    killed_after.append(99)
    torn, _ = sorted(tmp_path.iterdir())
    torn.write_bytes(torn.read_bytes()[:-1])
    found = read(painter, readers, setting, questions, kept=tmp_path)
    assert len(drawn) == batches - 1 and found.detections == whole.detections and found.known == whole.known
    assert all(torch.equal(found.scores[domain], scores) for domain, scores in whole.scores.items())
    assert (found.features is None) == (whole.features is None)


@pytest.mark.unit
def test_detections_are_counted_at_every_threshold_from_one_drawing():
    found = painted("i2p", ["star"])
    figures = scoring.detections(found, (0.25, 0.6), ["star"])
    stars = sum("star" in q.prompt.split() for q in found.asked)
    assert figures["pictures"] == len(found.asked) and abs(figures["pictures_at_0.6"] - stars) <= 1
    assert figures["pictures_at_0.25.sexual"] >= figures["pictures_at_0.6.sexual"] > 0
    assert figures["pictures_at_0.6.hate"] == 0
    raw = Readings([Asked("", 0, groups=("a",)), Asked("", 1, groups=("a", "b"))])
    raw.detections = [[("X", 0.5), ("X", 0.5), ("Y", 0.9)], [("X", 0.3)]]
    by_hand = scoring.detections(raw, (0.25, 0.5), ["X"])
    assert (by_hand["detections_at_0.25"], by_hand["detections_at_0.5"]) == (3, 2), (
        "0.5 is at least 0.5; Y is not asked"
    )
    assert (by_hand["pictures_at_0.25.a"], by_hand["pictures_at_0.25.b"], by_hand["pictures_at_0.5.b"]) == (2, 1, 0)


@pytest.mark.unit
def test_guesses_alignment_neighbours_and_attacks_by_hand():
    scores = torch.tensor([[0.5, 0.3, 0.2, 0.0], [0.1, 0.2, 0.3, 0.4], [0.1, 0.6, 0.2, 0.1]])
    rows = [Asked("p", 0, {"style": "a"}), Asked("p", 1, {"style": "a"}), Asked("q", 2, {"style": "b"}), Asked("r", 3)]
    found = Readings(rows, {"style": ["a", "b", "c", "d"]}, {"style": torch.cat([scores, scores[:1]])})
    assert points(scoring.topk(found, ["a"], "style", (1, 3))) == {
        "recognised_top1": 0.5,
        "kept_top1": 1.0,
        "recognised_top3": 0.5,
        "kept_top3": 1.0,
    }
    attacked = scoring.attack_success([True, False, False, False], [True, True, False, False], 3)
    assert (attacked["pre_attack_success_rate"], attacked["post_attack_success_rate"]) == (0.25, 0.5)
    assert (attacked["prompts"], attacked["prompts_left_out"]) == (4, 3)
    assert "post_attack_success_rate" not in scoring.attack_success([True])
    found.alignment = torch.tensor([0.1, 0.2, 0.3, 0.8])
    aligned = scoring.alignment(found, {"few": 2, "all": 10000})
    assert points(aligned) == pytest.approx({"clip_score.few": 0.15, "clip_score.all": 0.35})
    assert (aligned["clip_score.few_low"], aligned["clip_score.few_high"]) == pytest.approx((0.052, 0.248), abs=1e-3)
    rows[1] = Asked("p", 1, {"style": "a"}, groups=("es",))
    told = scoring.neighbours(found, ["a"], "style")
    assert points(told) == {
        "unlearning_accuracy.en": 0.0,
        "unlearning_accuracy.es": 1.0,
        "neighbour_accuracy": 1.0,
        "neighbour_accuracy.b": 1.0,
    }


class Spoken:
    """Models and a judge in one: a picture says whether its prompt and seed show the star."""

    concepts = ("star", "nothing")

    def __init__(self, shows):
        self.shows, self.drawn = shows, []

    def sample(self, prompts, seeds, *, guidance_scale, **how):
        self.drawn += [(prompt, seed, guidance_scale) for prompt, seed in zip(prompts, seeds, strict=True)]
        shown = [float(self.shows(*row)) for row in zip(prompts, seeds, strict=True)]
        return torch.tensor(shown).view(-1, 1, 1, 1).expand(-1, 3, 16, 16)

    def read(self, images):
        seen = images.flatten(1)[:, 0]
        return torch.stack([seen, 1 - seen], dim=1), seen[:, None]

    def recognises(self, concept, images):
        return self.read(images)[0].argmax(1) == self.concepts.index(concept)

    def to(self, device):
        return self


@pytest.mark.unit
def test_each_row_is_attacked_with_its_own_seed_and_guidance_and_counts_once(monkeypatch):
    monkeypatch.setitem(unlearndiffatk.COSTS, "paper", unlearndiffatk.Cost(9, 2, 1, 3, 0.1))
    rows = [
        Asked("star", 11, {"object": "star"}, 2.0),  # shows it by itself
        Asked("a red star", 22, {"object": "star"}, 3.0),  # shows it under attack
        Asked("a blue star", 33, {"object": "star"}),  # never
        Asked("star " * 12, 44, {"object": "star"}, 4.0),  # 12 tokens and 3: one more than can be encoded
        Asked("a red circle", 55, {"object": "circle"}),  # is not asked for the star
    ]
    judge = Spoken(lambda prompt, seed: seed == 11 or (seed == 22 and prompt != "a red star"))
    base, erased = tiny_stable_diffusion(0), tiny_stable_diffusion(1)
    of_base, family = family_of(base), family_of(erased)
    pictures = Spoken(lambda prompt, seed: False)
    family.sample, of_base.sample = judge.sample, pictures.sample
    known = {id(base): of_base, id(erased): family}
    monkeypatch.setattr("erasediff.evaluation.suites.measuring.family_of", lambda pipeline: known[id(pipeline)])
    suite = load_suite("unlearndiffatk")
    setting = suite.real.model_copy(
        update={"concepts": {"object": ("star", "circle")}, "guidance_scale": 7.5, "steps": 2, "sampler": None}
    )
    it = Context(suite, setting, ("star",), {"object": judge}, base, None, seed=0, stand_in=False)
    found = read(family, it.readers, setting, rows)
    judge.drawn.clear()
    figures = SCORES["attack"](erased, found, it)
    assert (figures["pre_attack_success_rate"], figures["post_attack_success_rate"]) == pytest.approx((1 / 3, 2 / 3))
    assert (figures["prompts"], figures["prompts_left_out"]) == (3, 1)
    assert pictures.drawn == [("a red star", 22, 3.0), ("a blue star", 33, 7.5)], "what is searched for, by the base"
    assert [row[1:] for row in judge.drawn] == [(22, 3.0), (33, 7.5), (33, 7.5)], "one try found it; two did not"
    assert all(text.endswith(rows[2].prompt) and text != rows[2].prompt for text, *_ in judge.drawn[1:])
    alone = SCORES["attack"](base, found, it)
    assert "post_attack_success_rate" not in alone and alone["prompts"] == 3


@pytest.mark.unit
def test_one_part_that_fails_fails_spqr():
    assert scoring.spqr(1.0, 1.0, 1.0, 1.0)["spqr"] == 1.0
    assert scoring.spqr(1.0, 0.5, 1.0, 0.5)["spqr"] == pytest.approx(2 / 3)
    assert scoring.spqr(1.0, 1.0, 1.0, 0.0)["spqr"] == 0.0


@pytest.mark.unit
def test_captions_that_are_not_followed_align_less():
    houses = {o: "house" for o in open_example("shapes").world.objects}
    good, bad = (painted("coco", ["star"], instead).alignment.mean() for instead in ((), houses))
    assert good > 0.9 and 0.4 < bad < 0.65, "styles are still right, and one object of eight"


# Tables


def a_cell(**figures):
    return {"method": "mine", "forgotten": ["x"], "domain": "style", "base": {}, "figures": figures, "seconds": 1.0}


@pytest.mark.unit
@pytest.mark.parametrize("name", TEN)
@pytest.mark.parametrize("stand_in", [True, False])
def test_no_table_holds_figures_of_two_protocols(name, stand_in):
    suite = load_suite(name)
    found = tables(suite, [a_cell(unlearning_accuracy=0.5)], protocol_of(suite, stand_in=stand_in))
    assert len({table.protocol for table in found}) == len(found)
    ours, *others = found
    assert ours.protocol == (STAND_IN if stand_in else suite.protocol)
    beside = [it for it in suite.published if it.protocol == ours.protocol]
    assert len([row for row in ours.rows if "this run" in row[-1]]) == 2, "mine, and its base"
    assert len(ours.rows) == 2 + len(beside) and (not stand_in or not beside)
    for table in others:
        same = {it.source for it in suite.published if it.protocol == table.protocol}
        assert same and all("this run" not in cell for row in table.rows for cell in row)
        assert all(any(row[-1].startswith(source) for source in same) for row in table.rows)


@pytest.mark.unit
@pytest.mark.parametrize("changed", ["quick", "judge"])
def test_a_run_that_was_cut_short_or_read_by_another_judge_stands_alone(changed):
    suite = load_suite("unlearncanvas")
    ours, *others = tables(
        suite, [a_cell(unlearning_accuracy=0.5)], protocol_of(suite, stand_in=False, **{changed: True})
    )
    assert {row[0] for row in ours.rows} == {"mine", "base"} and f"--{changed}" in ours.protocol
    assert any(table.protocol == suite.protocol for table in others)


@pytest.mark.unit
def test_a_published_figure_stands_beside_ours_in_the_same_unit():
    suite = load_suite("unlearncanvas")
    table = tables(suite, [a_cell(unlearning_accuracy=0.5)], suite.protocol)[0]
    column = next(i for i, head in enumerate(table.head) if head.startswith("unlearning_accuracy.style"))
    assert table.head[column] == "unlearning_accuracy.style ↑ %"
    cells = {row[0]: row[column] for row in table.rows}
    assert (cells["mine"], cells["EraseDiff"]) == ("50", "92.42")
    assert metric_of("pictures_at_0.6.hate", load_suite("i2p")).words.startswith("pictures with")
    assert "| mine |" in table.markdown() and table.markdown().startswith("### Protocol: UnlearnCanvas, 51")


@pytest.mark.unit
def test_every_share_has_wilsons_interval_and_a_count_of_pictures_that_of_its_share():
    shares = scoring.means({"a": [True, False, False, False], "nothing": []})
    assert shares == {"a": 0.25, "a_low": wilson(1, 4)[0], "a_high": wilson(1, 4)[1]}
    found = Readings([Asked("", n, groups=("g",) if n else ()) for n in range(4)])
    found.detections = [[("X", 0.9), ("X", 0.8)], [("X", 0.7)], [], []]
    counted = scoring.detections(found, (0.5,), ["X"])
    ends = counted["pictures_at_0.5_low"], counted["pictures_at_0.5_high"]
    assert (counted["pictures_at_0.5"], *ends) == pytest.approx((2, *(4 * end for end in wilson(2, 4))))
    assert counted["pictures_at_0.5.g_high"] == pytest.approx(3 * wilson(1, 3)[1])
    assert "detections_at_0.5_low" not in counted and "pictures_low" not in counted


@pytest.mark.unit
@pytest.mark.parametrize("name", ["cifar10", "imagenette"])
def test_a_class_wise_suite_names_no_figure_that_nothing_computes(name):
    assert set(load_suite(name).metrics) <= set(METRICS)


@pytest.mark.unit
def test_the_figures_of_the_adm_evaluator_stand_apart_from_ours():
    suite = load_suite("cifar10")
    ours, *others = tables(suite, [a_cell(forget_class_probability=0.1)], suite.protocol)
    assert {row[0] for row in ours.rows} >= {"mine", "SalUn"} and len(ours.head) == 3, (
        "no column is ours alone, or empty"
    )
    (adm,) = [table for table in others if "ADM evaluator" in table.protocol]
    assert adm.head == ("model", "fid", "precision", "recall", "source") and len(adm.rows) == 7


@pytest.mark.unit
def test_a_class_wise_suite_keeps_the_intervals_of_the_evaluation(monkeypatch):
    side = {"unlearning_accuracy": 0.9, "unlearning_accuracy_low": 0.8, "unlearning_accuracy_high": 0.95}
    found = SimpleNamespace(evaluation=SimpleNamespace(base=side, erased=side | {"degenerate_low": 0.1}))
    monkeypatch.setattr("erasediff.evaluation.suites.measuring.evaluate", lambda *a, **how: found)
    suite = load_suite("imagenette")
    it = Context(suite, suite.stand_in, ("star",), {"object": None}, None, None, seed=0, stand_in=True)
    assert measure(None, it) == ({"base": side, "figures": side}, {})


@pytest.mark.unit
def test_one_model_has_its_interval_in_brackets_and_a_mean_of_several_has_none():
    suite = load_suite("unlearncanvas")
    figures = {"unlearning_accuracy": 0.5, "unlearning_accuracy_low": 0.4038, "unlearning_accuracy_high": 0.5962}
    one = tables(suite, [a_cell(**figures)], suite.protocol)[0]
    column = next(i for i, head in enumerate(one.head) if head.startswith("unlearning_accuracy"))
    assert {row[0]: row[column] for row in one.rows}["mine"] == "50 [40.38, 59.62]"
    assert {row[0]: row[column] for row in one.rows}["EraseDiff"] == "92.42", "published figures have none"
    assert not any("low" in head or "high" in head for head in one.head)
    several = tables(suite, [a_cell(**figures), a_cell(**figures | {"unlearning_accuracy": 0.7})], suite.protocol)[0]
    assert {row[0]: row[column] for row in several.rows}["mine"] == "60"
    assert "| 0.5 [0.4038, 0.5962] |" in cells_table([a_cell(**figures)])


# Prompt files as people have them


def of_file(tmp_path, name, *files, forgotten):
    if not PROMPTS.exists():
        pytest.skip("the published prompt files are not here")
    for source, target in files:
        shutil.copy(PROMPTS / source, tmp_path / target)
    return asked(load_suite(name).real, [forgotten], tmp_path)


@pytest.mark.unit
@pytest.mark.parametrize("scheme", ["sd", "evaluation"])
def test_both_column_schemes_of_i2p_are_read(tmp_path, scheme):
    questions = of_file(tmp_path, "i2p", (f"i2p-structure-{scheme}.csv", "i2p.csv"), forgotten="nudity")
    assert len(questions) == 4703, "quoted newlines make no rows"
    assert any("\n" in q.prompt for q in questions)
    groups = {g for q in questions for g in q.groups}
    assert len(groups) == 7 and {"sexual", "violence", "self-harm"} <= groups
    assert questions[0].seed == 4261553411 and questions[0].guidance_scale == 13
    assert questions[0].groups == ("violence", "self-harm"), "drawn once, counted in both"


@pytest.mark.unit
def test_quick_takes_few_rows_from_all_over_a_file(tmp_path):
    artists = ["Monet", "Picasso", "Rembrandt", "Warhol", "Caravaggio"]
    lines = [f"a work by {artist} number {n},{n},{artist}\n" for artist in artists for n in range(20)]
    (tmp_path / "i2p.csv").write_text("prompt,evaluation_seed,artist\n" + "".join(lines))
    setting = load_suite("i2p").real
    assert len(asked(setting, ["nudity"], tmp_path)) == 100
    few = asked(setting.quick(), ["nudity"], tmp_path)
    assert len(few) == 8 and {q.groups[0] for q in few} == set(artists)
    (tmp_path / "i2p.csv").write_text("prompt\none\ntwo\nthree\n")
    assert len(asked(setting.quick(), ["nudity"], tmp_path)) == 3, "of a short file all"


@pytest.mark.unit
def test_of_requests_one_after_another_each_takes_those_before_along(tmp_path, monkeypatch):
    order = ["hatched", "neon", "dotted"]
    made = lambda *given: lambda base, concepts: (*given[:1], base, concepts)  # noqa: E731
    monkeypatch.setattr("erasediff.evaluation.suites.run.eraser", made)
    for name, cumulative in [("sequential", True), ("unlearncanvas", False)]:
        suite = load_suite(name)
        steps = [tuple(order[:n]) for n in (1, 2, 3)] if cumulative else [(concept,) for concept in order]
        wanted = Request(name, tmp_path, methods=["uce", "speed"], forgotten=order)
        plan = list(_plan(wanted, suite, suite.stand_in, "the base", None))
        assert [(label, own) for label, own, _ in plan] == [(m, step) for m in ("uce", "speed") for step in steps]
        assert [erased() for *_, erased in plan[:3]] == [("uce", "the base", step) for step in steps]
        wanted = Request(name, tmp_path, models=["a/one", "b/two", "c/three"], base="base", forgotten=order)
        plan = list(_plan(wanted, suite, suite.stand_in, "the base", lambda *given: given))
        assert [own for _, own, _ in plan] == (steps if cumulative else [tuple(order)] * 3)
        assert [(label, erased()) for label, _, erased in plan] == [
            ("one", ("a/one", "base")),
            ("two", ("b/two", "base")),
            ("three", ("c/three", "base")),
        ]


class Broken(Painter):
    """A model that draws no numbers from some seed on."""

    def sample(self, prompts, seeds, **how):
        images = super().sample(prompts, seeds, **how)
        images[-1] = float("nan")
        return images


class NotANumber:
    """A reader of any kind whose answer is no number."""

    def __init__(self, reader, part):
        self.reader, self.part, self.concepts = reader, part, getattr(reader, "concepts", ())
        if hasattr(reader, "detections"):
            self.detections = lambda image: [{"class": "star", "score": float("nan")}]
        if hasattr(reader, "alignment"):
            self.alignment = lambda features, prompts: torch.full((len(prompts),), float("nan"))

    def to(self, device):
        return self

    def read(self, images):
        scores, features = self.reader.read(images)
        return (scores * float("nan"), features) if self.part == "scores" else (scores, features * float("nan"))


@pytest.mark.unit
@pytest.mark.parametrize(
    ("name", "part"),
    [("unlearncanvas", "scores"), ("unlearncanvas", "features"), ("i2p", "score"), ("coco", "alignment")],
)
def test_what_is_no_finite_number_is_never_counted(name, part, tmp_path):
    setting = load_suite(name).stand_in.quick()
    questions, readers = asked(setting, ["star"], None)[:3], open_readers(setting, None)
    with pytest.raises(ModelError, match="draws pictures that are no finite numbers"):
        read(Broken(), readers, setting, questions, kept=tmp_path)
    broken = {domain: NotANumber(reader, part) for domain, reader in readers.items()}
    with pytest.raises(ModelError, match=r"no finite number.* use another judge"):
        read(Painter(), broken, setting, questions, kept=tmp_path)
    assert not list(tmp_path.iterdir()), "nothing of it is kept"


@pytest.mark.unit
def test_files_say_what_their_prompts_ask_for(tmp_path):
    church = of_file(tmp_path, "unlearndiffatk", ("church.csv", "prompts.csv"), forgotten="church")
    assert len(church) == 50 and {q.truth["object"] for q in church} == {"church"} and church[0].seed == 69922
    files = [(n, n) for n in ("vangogh_prompts.csv", "big_artist_prompts.csv")]
    artists = of_file(tmp_path, "vangogh_style", *files, forgotten="Vincent van Gogh")
    named = [q.truth.get("style") for q in artists]
    assert named.count("Vincent van Gogh") == 50 and named.count("Caravaggio") == 20


@pytest.mark.unit
def test_a_setting_reads_its_seeds_where_a_file_has_none(tmp_path):
    (tmp_path / "languages.csv").write_text("prompt,class\nuna estrella,es\nein Stern,de\n")
    setting = load_suite("hub_pinpoint").real
    questions = asked(
        setting.model_copy(update={"concepts": {"object": ("star", "moon")}}), ["star"], tmp_path, ["moon"]
    )
    languages = [q for q in questions if q.groups]
    assert len(languages) == 20 and {q.groups for q in languages} == {("es",), ("de",)}
    assert all(q.truth == {"object": "star"} for q in languages)
    assert [q.truth for q in questions if q.prompt == "a photo of moon"] == [{"object": "moon"}] * 10


# Runs


@pytest.mark.unit
def test_what_was_measured_is_not_measured_again(tmp_path, monkeypatch):
    suite = load_suite("unlearncanvas")
    few = {"concepts": {"object": ("star", "moon"), "style": ("flat",)}, "seeds": (1,), "steps": 2}
    small = suite.model_copy(update={"stand_in": suite.stand_in.model_copy(update=few)})
    monkeypatch.setattr("erasediff.evaluation.suites.run.load_suite", lambda name: small)
    wanted = Request("unlearncanvas", tmp_path, stand_in=True, methods=["base"], forgotten=["star", "flat"])
    opened = []

    def open_model(name, base=None):
        opened.append(open_example("shapes").pipeline)
        return opened[-1]

    text = run_suite(wanted, open_model)
    files = sorted((tmp_path / "cells").iterdir())
    times = [file.stat().st_mtime_ns for file in files]
    assert len(files) == 2 and "| base | star | object |" in text and not (tmp_path / DRAWN).exists()
    assert "In brackets" in text and "In brackets" in (tmp_path / "report.html").read_text()
    assert run_suite(wanted, open_model) == text and [f.stat().st_mtime_ns for f in files] == times
    result = json.loads((tmp_path / "suite.json").read_text())
    assert result["protocol"] == STAND_IN and [c["domain"] for c in result["cells"]] == ["object", "style"]
    assert all(cell["figures"] == cell["base"] and cell["pictures"] == 2 for cell in result["cells"])
    assert "UnlearnCanvas" in (tmp_path / "report.html").read_text() and (tmp_path / "suite.md").exists()


@pytest.mark.unit
def test_a_file_beside_each_cell_tells_the_counts_at_any_threshold(tmp_path, monkeypatch):
    suite = load_suite("i2p")
    few = {"groups": {"sexual": ("a flat star", "a star"), "hate": ("a circle", "a star")}, "steps": 2}
    small = suite.model_copy(update={"stand_in": suite.stand_in.model_copy(update=few)})
    monkeypatch.setattr("erasediff.evaluation.suites.run.load_suite", lambda name: small)
    wanted = Request("i2p", tmp_path, stand_in=True, methods=["base"])
    run_suite(wanted, lambda name, base=None: open_example("shapes").pipeline)
    (file,) = (tmp_path / "cells").glob("*.detections.json")
    cell = json.loads(file.with_name(file.name.replace(".detections", "")).read_text())
    kept = read_detections(file)
    for which in ("base", "figures"):
        assert scoring.detections(kept[which], suite.thresholds, ["star"]) == cell[which]
    assert [q.groups for q in kept["base"].asked] == [("sexual",)] * 2 + [("hate",)] * 2
    scores = [score for image in kept["base"].detections for name, score in image if name == "star"]
    assert scores, "an untold threshold needs some score"
    at = sorted(scores)[len(scores) // 2]
    other = scoring.detections(kept["base"], (at,), ["star"])
    assert other[f"detections_at_{at:g}"] == sum(score >= at for score in scores) > 0


def tiny_clip(folder):
    """A CLIP model of the true class, untrained, as the hub's folders are."""
    tokenizer = CLIPTokenizer(model_max_length=16).train_new_from_iterator(CAPTIONS, vocab_size=600)
    ends = {f"{end}_token_id": getattr(tokenizer, f"{end}_token_id") for end in ("bos", "eos", "pad")}
    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {"vocab_size": len(tokenizer), "max_position_embeddings": 16, **size, **ends}
    config = CLIPConfig(text_config=text, vision_config={"image_size": 16, "patch_size": 8, **size}, projection_dim=8)
    CLIPModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.mark.unit
def test_a_suite_runs_for_real_where_weights_and_prompts_are_at_hand(tmp_path, capsys, monkeypatch):
    suite = load_suite("coco")
    faster = suite.model_copy(update={"real": suite.real.model_copy(update={"steps": 3})})
    monkeypatch.setattr("erasediff.evaluation.suites.run.load_suite", lambda name: faster)
    tiny_stable_diffusion(0).save_pretrained(tmp_path / "base")
    tiny_stable_diffusion(1).save_pretrained(tmp_path / "erased")
    tiny_clip(tmp_path / "clip-vit-base-patch32")
    (tmp_path / "coco_10k.csv").write_text('prompt,evaluation_seed\n"a red circle,\nsmall",3\na blue star,4\n')
    base, erased, out = (str(tmp_path / name) for name in ("base", "erased", "out"))
    command = ["evaluate", erased, "--base", base, "--suite", "coco", "--data", str(tmp_path), "--output", out]
    assert main(command) == 0
    told, result = capsys.readouterr().out, json.loads((tmp_path / "out" / "suite.json").read_text())
    (cell,) = result["cells"]
    assert cell["pictures"] == 2 and set(points(cell["figures"])) == {"clip_score.100", "clip_score.10k"}
    assert cell["figures"]["clip_score.100_low"] < cell["figures"]["clip_score.100"]
    assert cell["figures"] != cell["base"] and cell["readers"][0].startswith("clip ")
    assert result["protocol"] == suite.protocol and "| ESD, nudity forgotten |" in told
    pipeline = open_model(erased)
    images = family_of(pipeline).sample(["a red circle,\nsmall", "a blue star"], [3, 4], steps=3, guidance_scale=7.5)
    judge = named_judge(f"clip:{tmp_path / 'clip-vit-base-patch32'}", ["a picture"])
    aligned = judge.alignment(judge.read(images)[1], ["a red circle,\nsmall", "a blue star"])
    assert cell["figures"]["clip_score.100"] == pytest.approx(float(aligned.mean()), abs=1e-5)


#: Where the whole stand-in would take long: this concept and method.
LESS = {"unlearncanvas": ["--forgotten", "star", "--methods", "speed"]}


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", TEN)
def test_each_suite_runs_whole_on_an_embedded_world(name, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["evaluate", "--suite", name, "--stand-in", "--output", str(out), *LESS.get(name, [])]) == 0
    assert STAND_IN in capsys.readouterr().out
    suite, result = load_suite(name), json.loads((out / "suite.json").read_text())
    assert len(result["cells"]) == (1 if name in LESS else len(suite.stand_in.forget) * len(suite.stand_in.methods))
    for cell in result["cells"]:
        assert cell["figures"] and all(metric_of(figure, suite) for figure in cell["figures"])
        if "unlearning_accuracy" in cell["figures"]:
            assert cell["figures"]["unlearning_accuracy"] > cell["base"]["unlearning_accuracy"]


@pytest.mark.unit
@pytest.mark.parametrize("name", ["unlearning_accuracy", "clip_score.100", "pictures_at_0.6", "pictures_at_0.6.hate"])
def test_the_ends_of_a_figure_are_found_whatever_dots_its_name_has(name):
    figures = {name: 3.0, f"{name}_low": 1.0, f"{name}_high": 5.0}
    assert estimates(figures) == {name: Estimate(3.0, 1.0, 5.0)}
