"""The stages ``evaluate`` and ``verdict``: one model after the other, then both side by side."""

import csv
import os
import signal
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path

import pandas as pd
import pytest
import torch
from PIL import Image

from erasediff.artifacts import new_folder, read_json, sha256_folder, write_json
from erasediff.data.images import encode_png
from erasediff.evaluation.attacks import completion, resurgence
from erasediff.evaluation.evaluating import LIMITS
from erasediff.families.class_conditional import ClassConditionalFamily
from erasediff.judges import cnn
from erasediff.metrics.intervals import beside
from erasediff.metrics.table import metric_of
from erasediff.records import EffectiveSettings, Erasures, Evaluation, ForgetSummary
from stages import evaluate, layout, verdict
from stages.params import load_params

PARAMS = load_params(Path(__file__).parents[2] / "params.yaml")
QUICK = {"samples_per_concept": 3, "draws": 2, "inference_steps": 1, "guidance_scale": 1.0, "batch_size": 4}
QUICK |= {"self_checks": False, "attacks": []}


class Run:
    """What a stage logs to; kept."""

    def __init__(self):
        self.metrics, self.files, self.tables, self.params = {}, [], {}, {}

    def start(self, params):
        self.params |= params

    def log_metrics(self, metrics, step=None):
        self.metrics |= metrics if step is None else {(name, step): value for name, value in metrics.items()}

    def log_artifact(self, path, folder=None):
        self.files.append(path.name)

    def log_table(self, file, head, rows):
        self.tables[file] = [tuple(head), *rows]
        assert {len(row) for row in rows} <= {len(head)}, f"{file}: rows do not fit {head}"


@pytest.fixture
def checkout(tmp_path, monkeypatch, pipeline):
    """A checkout in which the erased model is the base itself."""
    monkeypatch.chdir(tmp_path)
    for which in ("base", "erased"):
        with new_folder(layout.model(which)) as folder:
            pipeline.save_pretrained(folder)
    draw = torch.Generator().manual_seed(0)
    rows = [
        {"concept": c, "split": split, "image": encode_png(torch.rand(1, 8, 8, generator=draw) * 2 - 1)}
        for split, count in (("test", 4), ("train", 5))
        for c in "abc"
        for _ in range(count)
    ]
    with new_folder(layout.CURATED) as folder:
        pd.DataFrame(rows).to_parquet(folder / layout.TABLE.name, index=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        judge = cnn.ConceptClassifier("abc", (1, 8, 8), width=4)
    with new_folder(layout.CLASSIFIER) as folder:
        cnn.save(judge, folder)
    write_json(layout.CLASSIFIER_METRICS, {"accuracy": 0.9, "test_samples": 12, "fingerprint": judge.fingerprint})
    sets = ForgetSummary(Erasures(("a",), (), ("b",)), {"a": 4}, {"c": 4}, "selected", {}, "f" * 64)
    write_json(layout.summary(layout.SETS), sets.to_json())
    write_json(layout.ERASE_METRICS, EffectiveSettings("erasediff", {"eta": 1.0}, 2, 9).to_json())
    layout.ERASE_TRACE.parent.mkdir(exist_ok=True)
    with open(layout.ERASE_TRACE, "w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["step", "retain_loss", "forget_loss", "multiplier", "gradient_cosine"])
        lines.writerows([[1, 0.1, 0.5, 0.9, 0.1], [2, 0.1, 0.4, 1.0, 0.0]])
    return tmp_path


def rows_of(file):
    return list(csv.reader(file.read_text().splitlines()))


def evaluated(which, **changes):
    run = Run()
    evaluate.main(run, 5, PARAMS.evaluate.model_copy(update=QUICK | changes), which)
    return run, read_json(layout.metrics(which))


def judged(**limits):
    lenient = {name: 0.0 if name.startswith("min") else 9.0 for name in LIMITS}
    run = Run()
    verdict.main(run, PARAMS.verdict.model_copy(update=lenient | limits))
    return run, Evaluation.read(layout.EVALUATION)


@pytest.mark.unit
def test_one_model_measured_as_base_and_as_erased_gives_the_same_numbers(checkout):
    (run, base), (_, erased) = evaluated("base"), evaluated("erased")
    assert {**base, "seconds": 0} == {**erased, "seconds": 0}
    assert base["model_sha256"] == sha256_folder(layout.model("base"))
    assert base["protocol"]["seed"] == 5 and base["protocol"]["drawn_pictures"] == 18
    assert base["protocol"]["held_out_pictures"] == 4  # of c alone: a is to be forgotten, b was before
    assert base["protocol"]["training_pictures"] == 15  # none of those held out
    assert run.params["samples_per_concept"] == 3 and run.params["seed"] == 5
    assert run.files == ["samples_base.png"] and "protocol" not in run.metrics
    pictures = [Image.open(layout.samples(which)).convert("RGB") for which in ("base", "erased")]
    below_title = [picture.crop((0, 34, *picture.size)).tobytes() for picture in pictures]
    assert below_title[0] == below_title[1]


@pytest.mark.unit
def test_a_model_that_is_the_base_changed_nothing_and_is_resampled_alike(checkout):
    evaluated("base", samples_per_concept=50), evaluated("erased", samples_per_concept=50)
    (_, evaluation) = judged()
    changed = {n: v for n, v in evaluation.delta.items() if n != "seconds" and "_low" not in n and "_high" not in n}
    assert set(changed.values()) == {0.0} and len(changed) > 5
    ends = [[evaluation.delta[beside(n, end)] for end in ("low", "high")] for n in changed]
    assert all(low <= 0 <= high for low, high in ends)
    assert evaluation.pairing["fd_classifier"] == pytest.approx(1.0)


@pytest.mark.unit
def test_what_stands_on_too_few_pictures_is_nowhere_a_number_and_says_how_many_would_do(checkout):
    """Six of each concept tell nothing, however lenient the limits."""
    runs, records = zip(evaluated("base"), evaluated("erased"), strict=True)
    run, evaluation = judged()
    names = {n for n, count in evaluation.counts.items() if (m := metric_of(n)) is not None and count < m.least}
    assert {"unlearning_accuracy", "fd_classifier", "kid_classifier", "accuracy.a"} <= names
    assert {"neighbour_accuracy", "retained_change_judge_features"} <= names
    ends = {beside(name, end) for name in names for end in ("", "low", "high", "sd")}
    for numbers in (*records, *(it.metrics for it in runs), evaluation.base, evaluation.erased, evaluation.delta):
        assert not ends & numbers.keys()
    why = {
        n: f"cannot be told with {few} pictures: {enough} would do"
        for n, few, enough in (
            ("unlearning_accuracy", 6, 30),
            ("fd_classifier", 6, 100),
            ("accuracy", 6, 10),
            ("neighbour_accuracy", 6, 30),
        )
    }
    assert why.items() <= evaluation.skipped.items()
    gate = evaluation.gates["unlearning_accuracy"]
    assert (
        gate.value is None
        and gate.outcome == why["unlearning_accuracy"]
        and "gate.unlearning_accuracy" not in run.metrics
    )
    assert evaluation.outcome == "cannot be told" and "unlearning_accuracy" not in read_json(layout.HEADLINE)
    assert not any(g.passed for g in evaluation.gates.values())
    cells = {row[0]: row[1:3] for row in run.tables["numbers.json"]}
    assert cells["kernel distance to held-out pictures ↓"] == ("–", why["fd_classifier"])
    assert cells["distance to held-out pictures ↓"] == ("–", "–"), "its gate says why"
    assert run.tables["recognised.json"][1][:4] == ("a (to be forgotten)", "–", why["accuracy"], "")
    rows = [row for table in ("numbers.json", "recognised.json") for row in run.tables[table]]
    assert max(" ".join(row).count("cannot be told") for row in rows) == 1
    page = layout.REPORT.read_text()
    assert all(words in page for words in why.values())
    assert f"Forgotten concepts not recognised (≥ 0): {gate.outcome}" in page


@pytest.mark.unit
def test_a_stage_that_was_killed_while_drawing_reads_what_it_drew_and_then_lets_it_go(checkout, monkeypatch):
    """Of 18 pictures in batches of four it drew two batches; another model's are not read."""

    @contextmanager
    def deadly(label):
        yield lambda done, total: os.kill(os.getpid(), signal.SIGKILL) if done >= 8 else None

    with monkeypatch.context() as patched:
        patched.setattr(evaluate, "progress_bar", deadly)
        killed = get_context("fork").Process(target=evaluated, args=("base",))
        killed.start()
        killed.join()
    kept = layout.drawn("evaluate-base")
    assert killed.exitcode == -signal.SIGKILL and len(list(kept.iterdir())) == 2
    drawn, plain = [], ClassConditionalFamily.sample
    monkeypatch.setattr(
        ClassConditionalFamily, "sample", lambda self, *how, **more: drawn.append(how) or plain(self, *how, **more)
    )
    _, base = evaluated("base")
    assert len(drawn) == 4 and not kept.exists()  # a draw is of nine: four, four and one
    _, erased = evaluated("erased")
    assert len(drawn) == 4 + 6 and {**base, "seconds": 0} == {**erased, "seconds": 0}


@pytest.mark.unit
def test_the_verdict_holds_the_erased_model_against_the_base(checkout):
    _, base = evaluated("base", samples_per_concept=50)
    changed = {"unlearning_accuracy": 0.75, "unlearning_accuracy_low": 0.72, "unlearning_accuracy_high": 0.78}
    changed |= {"unlearned.a": 0.75, "unlearned_low.a": 0.72, "unlearned_high.a": 0.78}  # b was forgotten before
    write_json(layout.metrics("erased"), {**base, **changed, "model_sha256": "e"})
    write_json(layout.metrics("base"), {**base, "unlearning_accuracy": 0.25})
    Image.new("RGB", (30, 20)).save(layout.samples("erased"))
    run, evaluation = judged(min_unlearning_accuracy=0.7)
    assert evaluation.passed and evaluation.delta["unlearning_accuracy"] == 0.5
    assert evaluation.models == {"base": base["model_sha256"], "erased": "e"}
    assert evaluation.protocol == base["protocol"]
    headline = read_json(layout.HEADLINE)
    assert headline["passed"] is True and headline["unlearning_accuracy"] == 0.75
    assert run.metrics["passed"] == 1.0 and run.metrics["gate.unlearning_accuracy"] == 0.75
    assert run.files == ["evaluation.json", "before_after.png", "report.html"]
    assert run.tables["recognised.json"][0] == ("concept", "base", "erased", "lost", "pictures moved")
    head, *bars = rows_of(layout.RECOGNISED)
    assert head == ["drawn", "recognised"] and [bar[0] for bar in bars][:3] == ["a, base", "a, erased", "b, base"]
    assert float(bars[0][1]) == evaluation.base["accuracy.a"]
    assert run.tables["recognised.json"][1][0] == "a (to be forgotten)" and len(run.tables["numbers.json"]) > 5
    _, failed = judged(min_unlearning_accuracy=0.8)
    assert not failed.passed and read_json(layout.HEADLINE)["passed"] is False
    page = layout.REPORT.read_text()
    assert "FAILED: do not use this model as if a were gone." in page and "4 pictures of a" in page
    assert "forgotten before" in page and base["model_sha256"] in page
    run, untold = judged(min_unlearning_accuracy=0.74)
    gate = untold.gates["unlearning_accuracy"]
    assert untold.outcome == "cannot be told" and not untold.passed and run.metrics["passed"] == 0.0
    assert gate.undecided and gate.pictures == 100 and gate.needed > 1000
    page = layout.REPORT.read_text()
    assert "It cannot be told whether a is forgotten and the rest is kept: that is no pass." in page
    assert f"cannot be told with 100 pictures: {gate.needed:,} would do" in page
    assert "set evaluate.samples_per_concept to" in page
    both, before = Image.open(layout.BEFORE_AFTER), Image.open(layout.samples("base")).convert("RGB")
    assert both.width == before.width + 24 + 30
    assert both.crop((0, 0, *before.size)).tobytes() == before.tobytes()  # before comes first


@pytest.mark.unit
def test_attacks_run_on_the_base_the_erased_model_and_a_retrained_one(checkout, pipeline, monkeypatch):
    monkeypatch.setitem(resurgence.COSTS, "quick", resurgence.Cost((1, 2), 4))
    monkeypatch.setitem(completion.STEPS, "quick", 4)
    table = pd.read_parquet(layout.TABLE)
    with new_folder(layout.SETS) as folder:
        for path, concept in ((layout.FORGET_TABLE, "a"), (layout.RETAIN_TABLE, "c")):
            table[table["concept"] == concept].to_parquet(folder / path.name, index=False)
        sets = ForgetSummary(Erasures(("a",), (), ("b",)), {"a": 9}, {"c": 9}, "selected", {}, "f" * 64)
        write_json(folder / layout.summary(layout.SETS).name, sets.to_json())
    with new_folder(layout.model("erased").parent / "retrained") as folder:
        pipeline.save_pretrained(folder)
    how = {"attacks": ["completion", "resurgence", "wordings"], "retrained": "models/retrained"}
    (_, base), (_, erased) = evaluated("base", **how), evaluated("erased", **how)
    assert list(base["attacks"]["resurgence"]) == ["before"] and erased["retrained"] == {}
    assert erased["attacks"]["completion"] == base["attacks"]["completion"] == base["retrained"]["completion"]
    points = erased["attacks"]["resurgence"]
    assert [(name, it["at"]) for name, it in points.items()][:3] == [
        (f"all weights, {at} updates", at) for at in (0, 1, 2)
    ]
    assert points == base["retrained"]["resurgence"]
    run, evaluation = judged(max_attack_rise=0.5)
    gate = evaluation.gates["attack_rise"]
    assert gate.value is None and gate.outcome == "cannot be told with 4 pictures: 30 would do"
    assert set(evaluation.attacks) == {"base", "erased", "retrained"}
    page = layout.REPORT.read_text()
    assert "A gate looks at what finds most." in page and gate.outcome in page
    assert "<th>attack</th><th>base</th><th>erased</th><th>retrained</th>" in page
    head, *rows = run.tables["attacks.json"]
    assert head == ("attack", "variant", "base", "erased", "retrained")
    cells = {row[:2]: row[2:] for row in rows}
    assert set(cells["completion", "from their left half"]) == {cells["completion", "from their left half"][0]} != {""}
    assert cells["resurgence", "before"][1:] == ("", "") and cells["resurgence", "LoRA, 2 updates"][0] == ""
    curve = {at: points[f"all weights, {at} updates"]["value"] for at in (0, 1, 2)}
    assert {at: run.metrics["attack.resurgence.all weights.erased", at] for at in curve} == curve
    assert "attack.resurgence.LoRA.retrained" in {it[0] for it in run.metrics if isinstance(it, tuple)}
    bars = {row[0]: row[1:] for row in rows_of(layout.ATTACKS)}
    assert bars.pop("attack") == ["found", "low", "high"] and len(bars) == sum(
        cell != "" for row in cells.values() for cell in row
    )
    assert float(bars["resurgence: all weights, 2 updates, erased"][0]) == curve[2]
    why = "it needs a model that is asked by prompts"  # this one has classes
    assert evaluation.skipped["attack wordings"] == why and f"Not run: wordings: {why}." in page
    assert f"attack wordings ({why})" not in page  # it was said
    assert "resurgence: share of pictures that show the concept after so many updates" in page
    assert (
        "completion: pictures of the concept" in page
        and "a copy that is cropped is not found; one mirrored or turned" in page
    )
