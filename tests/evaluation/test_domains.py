"""Objects and styles: what was kept in the domain of what was forgotten, and across it."""

import pandas as pd
import pytest
import torch

from erasediff.data.inputs import domains_by_concept
from erasediff.data.prompts import read_prompts, template_prompts, words_table
from erasediff.errors import UnknownConcept
from erasediff.evaluation.evaluating import LIMITS
from erasediff.evaluation.gates import gates
from erasediff.evaluation.judging import shapes_judge
from erasediff.evaluation.numbers import score
from erasediff.examples import open_example
from erasediff.judges import asked_concepts
from erasediff.judges.domains import DomainsJudge
from erasediff.metrics.draw import Draw

KNOWN = ["star", "circle", "hatched", "flat", "something else"]
DOMAINS = {"star": "object", "circle": "object", "hatched": "style", "flat": "style"}


def drawn(rows, domains=DOMAINS, forgotten=("star",)):
    """A draw of ``(asked, probabilities)``."""
    asked, scores = zip(*rows, strict=True)
    features = torch.randn(len(rows), 2, generator=torch.Generator().manual_seed(0))
    return Draw(torch.tensor(scores), features, asked, KNOWN, forgotten, features, domains=domains)


#: Half of each picture's score says what object it shows, half what style.
PICTURES = [
    ("star", [0.05, 0.45, 0.5, 0.0, 0.0]),  # a hatched circle: forgotten
    ("star", [0.3, 0.2, 0.0, 0.5, 0.0]),  # a flat star: not forgotten, though flat is what the judge is surest of
    ("circle", [0.0, 0.4, 0.45, 0.05, 0.1]),  # a hatched circle: kept
    ("hatched", [0.5, 0.0, 0.3, 0.2, 0.0]),  # a hatched star: kept
    ("flat", [0.5, 0.0, 0.3, 0.1, 0.1]),  # lost
]


@pytest.mark.unit
def test_a_picture_is_read_in_the_domain_of_what_it_was_drawn_for():
    numbers = score(drawn(PICTURES))
    assert numbers["unlearning_accuracy"] == 0.5
    assert numbers["in_domain_retain_accuracy"] == 1.0 and numbers["cross_domain_retain_accuracy"] == 0.5
    assert numbers["forget_class_probability"] == pytest.approx((0.1 + 0.6) / 2)
    assert numbers["forgotten_elsewhere"] == pytest.approx(2 / 3), "a star is in what was drawn for two styles"
    of_style = score(drawn(PICTURES, forgotten=("hatched",)))
    assert of_style["in_domain_retain_accuracy"] == 0.0  # flat
    assert of_style["cross_domain_retain_accuracy"] == pytest.approx(2 / 3)  # star, star, circle
    nothing = score(drawn([("circle", [0.0, 0.2, 0.3, 0.0, 0.5]), *PICTURES]))
    assert nothing["in_domain_retain_accuracy"] == 0.5, "what shows nothing at all shows no circle either"


@pytest.mark.unit
def test_without_domains_all_numbers_are_what_they_were():
    draw = drawn(PICTURES, domains={})
    assert draw.seen is draw.probabilities and torch.equal(draw.in_domain, draw.retained)
    numbers = score(draw)
    assert "cross_domain_retain_accuracy" not in numbers and numbers["in_domain_retain_accuracy"] == 0.0


@pytest.mark.unit
def test_a_domain_that_lost_fails_a_gate_of_its_own():
    right = [(c, [1.0 if c == k else 0.0 for k in KNOWN]) for c in KNOWN[1:4] for _ in range(200)]
    gone = [("star", [0.0, 1.0, 0.0, 0.0, 0.0])] * 200
    lost = [(c, s if c != "flat" else [0.0, 0.0, 1.0, 0.0, 0.0]) for c, s in right]
    base, erased = (score(drawn([*gone, *rows])) for rows in (right, lost))
    found = gates(base, erased, LIMITS)
    assert found["in_domain_retain_accuracy_drop"].passed
    assert not found["cross_domain_retain_accuracy_drop"].passed
    alone = gates(*(score(drawn([*gone, *(r for r in rows if r[0] != "circle")])) for rows in (right, right)), LIMITS)
    assert "in_domain_retain_accuracy_drop" not in alone, "there is no other object: undefined, and left out"
    assert alone["base_accuracy"].value == 0.0  # of the star


@pytest.mark.unit
def test_the_exact_judge_reads_objects_and_styles_side_by_side():
    world, judge = open_example("shapes").world, shapes_judge()
    pictures = world.draw(60, seed=5)
    scores, features = judge.read(pictures.images)
    assert scores.sum(1).allclose(torch.ones(60)) and features.shape == (60, 64)
    assert asked_concepts(judge) == [*world.objects, *world.styles]
    truth = [world.objects[i] for i in pictures.objects], [world.styles[i] for i in pictures.styles]
    for asked in truth:
        draw = Draw(scores, features, asked, judge.concepts, (), features, domains=judge.domains)
        assert draw.recognised.float().mean() > 0.97
    stars = torch.tensor([name == "star" for name in truth[0]])
    assert (judge.recognises("star", pictures.images) == stars).float().mean() > 0.97
    with pytest.raises(UnknownConcept, match="does not know 'dog'"):
        judge.recognises("dog", pictures.images)
    with pytest.raises(ValueError, match="same name"):
        DomainsJudge({"one": open_example("shapes").judge.object, "two": open_example("shapes").judge.object})


@pytest.mark.unit
def test_the_table_of_words_knows_the_kinds(tmp_path):
    table = words_table(template_prompts({"star": "object", "dotted": "style"}), 0.2).table
    table.to_parquet(tmp_path / "curated.parquet")
    assert domains_by_concept(tmp_path / "curated.parquet") == {"star": "object", "dotted": "style"}
    words_table(template_prompts({"star": "object", "moon": "object"}), 0.2).table.to_parquet(tmp_path / "one.parquet")
    assert domains_by_concept(tmp_path / "one.parquet") == {}, "one domain is none"
    pd.DataFrame({"concept": ["8"]}).to_parquet(tmp_path / "pictures.parquet")
    assert domains_by_concept(tmp_path / "pictures.parquet") == {}
    (tmp_path / "a.csv").write_text("prompt,artist\nA field,Somebody\n")
    assert [prompt.kind for prompt in read_prompts(tmp_path / "a.csv")] == ["style"]
