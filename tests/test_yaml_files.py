"""Params of any bytes are read, or told in one message of bounded length."""

import re
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from erasediff.errors import ParamsError
from stages.params import change_params, load_params
from stages.yaml_files import MOST_BYTES, read_yaml

FILE = Path(__file__).parent.parent / "params.yaml"
WHOLE = FILE.read_bytes()


def refused(path, content):
    """What is said of a file of such bytes."""
    path.write_bytes(content)
    with pytest.raises(ParamsError) as error:
        load_params(path)
    said = str(error.value)
    assert len(said) < 10_000 and all(len(line) < 500 for line in said.splitlines())
    return said


@pytest.mark.unit
def test_a_file_that_is_not_utf_8_is_told_with_the_place(tmp_path):
    path = tmp_path / "params.yaml"
    latin = WHOLE.replace(b"seed: 0", "seed: 0  # Zufall für alles".encode("latin-1"))
    assert "is not UTF-8 (byte 0xfc in line 2): save it as UTF-8" in refused(path, latin)
    assert "is not UTF-8 (byte 0xff in line 1)" in refused(path, WHOLE.decode().encode("utf-16"))
    path.write_bytes(b"\xef\xbb\xbf" + WHOLE.replace(b"\n", b"\r\n"))
    assert load_params(path) == load_params(FILE)


@pytest.mark.unit
def test_what_is_no_file_of_sections_is_told(tmp_path):
    path = tmp_path / "params.yaml"
    with pytest.raises(ParamsError, match="is missing: run this in the project's folder"):
        load_params(path)
    with pytest.raises(ParamsError, match="cannot be read: Is a directory"):
        load_params(tmp_path)
    assert f"{MOST_BYTES} are the most" in refused(path, WHOLE + b"#" * MOST_BYTES)
    for content in (b"", b"- a", b"a", b"null", b"\0", b"a: 1\na: 2", b"---\n---\n"):
        refused(path, content)


@pytest.mark.unit
@pytest.mark.parametrize(
    "value", ["2001-99-99", "9" * 5000, "!!int x", "!!float 1:x", "!!bool x", "!!binary x", "!!x y"]
)
def test_values_that_are_not_of_the_kind_of_their_tag_or_form(tmp_path, value):
    assert "is not YAML: " in refused(tmp_path / "params.yaml", f"seed: {value}".encode())


@pytest.mark.unit
@pytest.mark.parametrize(
    "value", ["0x" + "f" * 5000, "2" * 4000, "!!set {a, b}", "2001-01-01", "{[a]: b}", '"\\ud800"']
)
def test_values_that_no_seed_can_be(tmp_path, value):
    assert "  - seed: " in refused(tmp_path / "params.yaml", WHOLE.replace(b"seed: 0", f"seed: {value}".encode()))


def bomb(levels, line):
    return "".join(line(i, ", ".join([f"*a{i - 1}"] * 9)) for i in range(1, levels))


@pytest.mark.unit
@pytest.mark.parametrize(
    "content",
    [
        "a0: &a0 [x]\n" + bomb(12, lambda i, many: f"a{i}: &a{i} [{many}]\n"),
        "a0: &a0 {k: v}\n" + bomb(12, lambda i, many: f"a{i}: &a{i} {{<<: [{many}]}}\n"),
        "seed: &a [*a]",
    ],
)
def test_aliases_do_not_multiply_what_is_read(tmp_path, content):
    began = time.process_time()
    assert re.search(r"is not YAML: \*a0?: write the value out", refused(tmp_path / "params.yaml", content.encode()))
    assert time.process_time() - began < 5


@pytest.mark.unit
@pytest.mark.parametrize("content", ["[" * 400, "{a: " * 400, "a:\n" + "".join(" " * i + "-\n" for i in range(1, 400))])
def test_deep_nesting_is_one_line(tmp_path, content):
    assert re.search("nested too deeply|is not YAML", refused(tmp_path / "params.yaml", content.encode()))


@pytest.mark.unit
def test_many_errors_and_long_ones_make_a_short_message(tmp_path):
    path = tmp_path / "params.yaml"
    said = refused(path, WHOLE + "\n".join(f"{'k' * 300}{i}: 1" for i in range(200)).encode())
    assert "200 error(s)" in said and said.endswith("and 180 more") and len(said.splitlines()) == 22
    concepts = b"concepts: [" + b"1," * 500 + b"]"
    assert "500 error(s)" in refused(path, WHOLE.replace(b'concepts: ["8"]', concepts))
    refused(path, WHOLE.replace(b"source: digits ", b"source: " + b"d" * 9000))


@pytest.mark.property
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.one_of(st.binary(max_size=300), st.text(max_size=300).map(lambda text: text.encode("utf-8", "surrogatepass")))
)
@example(b"%YAML 9.9\n---\na: 1")
@example(b"%TAG ! x\n---\n!a b")
@example(b"&a !!omap [b]")
@example(b"? {a: b}\n: c")
@example(b"a: |\n\t")
def test_any_bytes_are_params_or_one_message(tmp_path, content):
    refused(tmp_path / "params.yaml", content)


@pytest.mark.property
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(
            st.integers(0, len(WHOLE) - 1),
            st.integers(0, 12),
            st.sampled_from([b"", *b"\n \t:[]{}*&!|>'\"#,-?0\xff".split()]),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_a_file_that_was_damaged_is_params_or_one_message(tmp_path, damages):
    content = WHOLE
    for at, length, instead in damages:
        content = content[:at] + instead + content[at + length :]
    path = tmp_path / "params.yaml"
    path.write_bytes(content)
    try:
        load_params(path)
    except ParamsError as error:
        assert len(str(error)) < 10_000


ENTRIES = [
    (section, name) for section, values in read_yaml(FILE).items() if isinstance(values, dict) for name in values
]
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.dates()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=5,
)


@pytest.mark.property
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(entry=st.sampled_from(ENTRIES), value=VALUES)
@example(entry=("curate", "source"), value=[{}, None, {"": None}])  # ruamel writes what it cannot read
def test_any_value_of_any_entry_is_params_or_one_message(tmp_path, entry, value):
    path = tmp_path / "params.yaml"
    raw = YAML(typ="safe").load(FILE)
    raw[entry[0]][entry[1]] = value
    with path.open("w", encoding="utf-8", errors="surrogatepass") as file:
        YAML(typ="safe").dump(raw, file)
    try:
        load_params(path)
    except ParamsError as error:
        assert len(str(error)) < 2000
    path.write_bytes(WHOLE)
    try:
        change_params({".".join(entry): value}, path)
    except ParamsError:
        assert path.read_bytes() == WHOLE
