import json

import pytest

from erasediff.artifacts import write_json
from erasediff.errors import IntegrityError
from erasediff.records import (
    EffectiveSettings,
    Erasures,
    Evaluation,
    ForgetSummary,
    Gate,
    Measured,
    Recheck,
    Registered,
)

GATE = Gate(0.5, 0.9, "min", False)
EVALUATION = Evaluation(
    {"x": 1.0}, {"x": 2.0}, {"x": 1.0}, {"g": GATE}, False, {"sha256": "j"}, {"base": "b"}, {"seed": 3}
)
RECORDS = [
    EVALUATION,
    Measured({"unlearning_accuracy": 0.5}, "ff", {"seed": 0, "guidance_scale": None}),
    ForgetSummary(Erasures(("b",), (), ("c",)), {"b": 2}, {"a": 3}, "selected", {}, "ff"),
    EffectiveSettings("erasediff", {"eta": 1.0, "anchor": None}, 3, 40),
    Recheck("m", "1", False, True, {"x": 1.0}, {"x": 2.0}, {"g": GATE}),
]


@pytest.mark.unit
@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_a_record_comes_back_as_it_was_written(record, tmp_path):
    write_json(tmp_path / "r.json", record.to_json())
    assert type(record).read(tmp_path / "r.json") == record


@pytest.mark.unit
@pytest.mark.parametrize(
    ("record", "change", "message"),
    [
        (Evaluation, {"passed": None}, "evaluation.json has no 'passed': run the stage"),
        (Evaluation, {"classifier": None}, "evaluation.json has no 'classifier': run the stage"),
        (Evaluation, {"gates": {"g": {"value": 1}}}, "evaluation.json, gate g has no 'limit': run the stage"),
        (Evaluation, {"gates": 3}, "evaluation.json, gates: holds no JSON object: run the stage"),
        (Evaluation, {"verdict": 1}, "evaluation.json has an unknown 'verdict': another version"),
        (Registered, {}, "evaluation.json has no 'model_name': run the stage"),
        (ForgetSummary, {}, "evaluation.json has no 'concepts': run the stage"),
        (Measured, {}, "evaluation.json has no 'model_sha256': run the stage"),
        (Measured, {"model_sha256": "ff", "protocol": None}, "evaluation.json has no 'protocol': run the stage"),
        (EffectiveSettings, {}, "evaluation.json has no 'method': run the stage"),
    ],
)
def test_a_key_that_is_missing_or_unknown_is_one_line_with_the_file(record, change, message, tmp_path):
    content = {k: v for k, v in (EVALUATION.to_json() | change).items() if v is not None}
    write_json(tmp_path / "evaluation.json", content)
    with pytest.raises(IntegrityError, match=message):
        record.read(tmp_path / "evaluation.json")


@pytest.mark.unit
def test_a_file_that_holds_something_else_is_told(tmp_path):
    write_json(tmp_path / "x.json", ["no record"])
    for record in (Evaluation, Measured, ForgetSummary, EffectiveSettings, Recheck, Registered):
        with pytest.raises(IntegrityError, match="x.json holds no JSON object"):
            record.read(tmp_path / "x.json")


@pytest.mark.unit
def test_the_numbers_beside_the_effective_settings_are_left_alone(tmp_path):
    write_json(tmp_path / "erase.json", RECORDS[3].to_json() | {"retain_loss": 0.1})
    assert EffectiveSettings.read(tmp_path / "erase.json") == RECORDS[3]


@pytest.mark.unit
def test_an_evaluation_from_before_models_were_named_names_none():
    content = {k: v for k, v in EVALUATION.to_json().items() if k not in ("models", "protocol")}
    found = Evaluation.from_json(content, "x")
    assert found.models == {} and found.protocol == {}


@pytest.mark.unit
def test_what_is_forgotten_goes_through_the_tags_of_a_version():
    erasures = Erasures(("8",), ("abc",), ("no", "3"))
    assert erasures.all == ["3", "8", "abc", "no"] and erasures.what == "8"
    tags = erasures.to_tags()
    assert tags["forgotten"] == "8 (before: no, 3)" and json.loads(tags["erasures"]) == erasures.all
    back = Erasures.from_tags(tags)
    assert back.concepts == ("8",) and back.all == erasures.all
    assert Erasures.from_tags({"forgotten": '["8"]'}).all == ["8"]
    with pytest.raises(IntegrityError, match="no tag erasures: what it has forgotten is not known"):
        Erasures.from_tags({})
    assert Erasures((), ("abc",)).what == "single pictures"
