"""Readers of what somebody else wrote: any bytes are read, or refused in one line."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from erasediff.errors import EraseDiffError, IntegrityError
from erasediff.records import Erasures
from erasediff.registry.lock import digest, read_lock, require_made, stage_params, yaml_object

BROKEN = {
    "empty": b"",
    "a list": b"- a\n- b\n",
    "bytes": bytes(range(256)),
    "not UTF-8": "stages: é".encode("latin-1"),
    "text": b"stages",
    "half a brace": b"stages: {",
    "conflict": b"<<<<<<< HEAD\nstages:\n=======\n>>>>>>> x\n",
    "no stages": b"schema: '2.0'\n",
    "stages that are none": b"stages: []",
    "no stage": b"stages: {}",
    "a stage that is a number": b"stages: {erase: 3}",
    "no command": b"stages: {erase: {outs: []}}",
    "outs that are no list": b"stages: {erase: {cmd: x, outs: 3}}",
    "an out without a path": b"stages: {erase: {cmd: x, outs: [{md5: a}]}}",
    "params that are none": b"stages: {erase: {cmd: x, params: [a]}}",
    "deep": b"[" * 2_000,
    "twice": b"stages: {}\nstages: {}\n",
    "numbers as keys": b"1: 2\n",
    "a date": b"stages: 2026-99-99\n",
}


@pytest.mark.unit
@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_a_lock_that_cannot_be_read_is_one_line(tmp_path, content):
    path = tmp_path / "dvc.lock"
    path.write_bytes(content)
    with pytest.raises(IntegrityError, match="delete it and run dvc repro") as refused:
        read_lock(path)
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 500


@pytest.mark.unit
def test_half_a_lock_does_not_tell_how_a_model_was_made():
    made = {"path": "models/erased", "hash": "md5", "md5": "0" * 32}
    require_made({"stages": {"erase": {"cmd": "x", "outs": [made]}}}, [Path("models/erased")])
    for half in ({"cmd": "x"}, {"cmd": "x", "outs": [{"path": "models/erased"}]}, {"cmd": "x", "outs": []}):
        with pytest.raises(IntegrityError, match=r"dvc\.lock does not tell how models/erased was made"):
            require_made({"stages": {"erase": half}}, [Path("models/erased")])


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
STAGES = st.dictionaries(
    st.sampled_from(["erase", "register", "1"]),
    st.fixed_dictionaries(
        {}, optional={"cmd": st.just("x") | VALUES, "params": VALUES, "deps": VALUES, "outs": VALUES}
    ),
)


@pytest.mark.property
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.binary() | st.builds(lambda v: json.dumps({"stages": v}).encode(), STAGES | VALUES) | st.text().map(str.encode)
)
def test_a_lock_of_any_bytes_is_read_or_one_line(tmp_path, content):
    path = tmp_path / "dvc.lock"
    path.write_bytes(content)
    try:
        lock = read_lock(path)
        assert len(digest(lock)) == 64 and isinstance(stage_params(lock, "erase"), dict)
        require_made(lock, [Path("models/erased")])
    except EraseDiffError as error:
        assert "\n" not in str(error) and len(str(error)) < 600


@pytest.mark.property
@settings(max_examples=200)
@given(st.binary())
def test_evidence_of_any_bytes_is_an_object_or_one_line(content):
    try:
        assert isinstance(yaml_object(content, "evaluation.json"), dict)
    except IntegrityError as error:
        assert "\n" not in str(error) and len(str(error)) < 400


@pytest.mark.property
@settings(max_examples=300)
@given(
    st.dictionaries(
        st.sampled_from(["forgotten", "concepts", "erasures"]),
        st.text() | st.builds(json.dumps, VALUES | st.lists(st.text())),
    )
)
def test_tags_of_any_content_say_what_was_forgotten_or_are_one_line(tags):
    try:
        found = Erasures.from_tags(tags, "version 1 of m").all
    except IntegrityError as error:
        assert "\n" not in str(error) and len(str(error)) < 300
    else:
        assert "erasures" in tags or tags["forgotten"].startswith("[")
        assert set(json.loads(tags.get("erasures", "[]"))) <= set(found)


@pytest.mark.property
@given(*[st.lists(st.text(), max_size=3).map(tuple)] * 3)
def test_erasures_come_back_from_tags(concepts, sample_ids, earlier):
    erasures = Erasures(concepts, sample_ids, earlier)
    again = Erasures.from_tags(erasures.to_tags())
    assert again.all == erasures.all and again.concepts == erasures.concepts


@pytest.mark.unit
def test_tags_of_an_earlier_release_are_read():
    old = Erasures.from_tags({"forgotten": '["8"]', "erasures": '["3", "8"]'})
    assert (old.concepts, old.earlier) == (("8",), ("3",))
    assert Erasures.from_tags({"forgotten": '["8"]'}).all == ["8"]
    new = Erasures(("8",), (), ("3",)).to_tags()
    assert new["forgotten"] == "8 (before: 3)" and json.loads(new["erasures"]) == ["3", "8"]
