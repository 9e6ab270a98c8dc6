"""A served version: what it answers, and that it refuses in one line what is no request."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from registering import listening, picture, register, stored, version

from erasediff import tracking
from erasediff.artifacts import new_folder
from erasediff.errors import EraseDiffError, IntegrityError, ModelError
from erasediff.families.class_conditional import build_pipeline
from erasediff.registry import store as store_module
from erasediff.registry.promotion import promote_initial
from erasediff.registry.served_request import MAX_COST, read_request
from erasediff.registry.store import verified_copy, verify_stored
from erasediff.registry.versions import version_of
from erasediff.tracking import server
from flows.serve import PORT

REPOSITORY = Path(__file__).parents[2]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
KNOWN = ("3", "4", "chat noir é")


def read(rows, **options):
    return read_request(rows, options, known=KNOWN, default_steps=25, max_steps=1000)


@pytest.mark.unit
def test_rows_without_a_seed_take_their_place_and_others_keep_theirs():
    asked = read(pd.DataFrame([{"concept": "3"}, {"concept": "4", "seed": 7}, {"concept": "3", "seed": None}]))
    assert (asked.concepts, asked.seeds) == (["3", "4", "3"], [0, 7, 2])
    assert (asked.steps, asked.guidance_scale) == (None, None)
    assert read({"concept": ["3", 4]}, num_inference_steps=2.0).concepts == ["3", "4"]  # CSV has no quotes
    assert read([{"concept": "3", "seed": 2**53 - 1}]).seeds == [2**53 - 1]
    assert read([{"concept": "3"}] * 3).seeds == [0, 1, 2]


ROW = {"concept": "3"}
REFUSED = {
    "no rows": ([], {}, "there has to be one column 'concept'"),
    "no rows of columns": (pd.DataFrame({"concept": [], "seed": []}), {}, "there are no rows"),
    "a misspelt column": ([{**ROW, "sed": 7}], {}, "unknown column 'sed'"),
    "what was meant": ([{**ROW, "sed": 7}], {}, "; did you mean seed?"),
    "a misspelt concept": ([{"concept": "chat noir"}], {}, "; did you mean chat noir é?"),
    "no concept": ([{"seed": 1}], {}, "there has to be one column 'concept'"),
    "text": ("3", {}, "these are no rows"),
    "one row": (ROW, {}, "these are no rows"),
    "a number of a row": ([3], {}, "a row is no object"),
    "a concept that is not there": ([{"concept": "z"}], {}, "the model does not know 'z'; it knows: 3, 4, chat noir é"),
    "a lone surrogate": ([{"concept": "\ud800"}], {}, r"can't encode character '\ud800'"),
    "a long one": ([{"concept": "z" * 9999}], {}, "zzz…"),
    "no name": ([{"concept": None}], {}, "row 0: concept is None"),
    "a list as name": ([{"concept": ["3"]}], {}, "row 0: concept is ['3']"),
    "a negative seed": ([ROW, {**ROW, "seed": -1}], {}, "row 1: seed is -1"),
    "half a seed": ([{**ROW, "seed": 7.5}], {}, "seed is 7.5"),
    "an infinite seed": ([{**ROW, "seed": float("inf")}], {}, "seed is inf"),
    "a seed as text": ([{**ROW, "seed": "7"}], {}, "seed is '7'"),
    "a seed that is true": ([{**ROW, "seed": True}], {}, "seed is True"),
    "a huge seed": ([{**ROW, "seed": 2**64}], {}, "seed is 18446744073709551616"),
    "a seed beyond floats": ([{**ROW, "seed": 10**400}], {}, "seed is 1000"),
    "no steps": ([ROW], {"num_inference_steps": 0}, "num_inference_steps is 0: give a whole number from 1 to 1000"),
    "negative steps": ([ROW], {"num_inference_steps": -1}, "num_inference_steps is -1"),
    "half a step": ([ROW], {"num_inference_steps": 2.5}, "num_inference_steps is 2.5"),
    "more steps than there are": ([ROW], {"num_inference_steps": 1001}, "num_inference_steps is 1001"),
    "guidance that is no number": ([ROW], {"guidance_scale": float("nan")}, "guidance_scale is nan"),
    "infinite guidance": ([ROW], {"guidance_scale": float("inf")}, "guidance_scale is inf"),
    "huge guidance": ([ROW], {"guidance_scale": 1e30}, "guidance_scale is 1e+30: give a number from 0 to 100"),
    "an unknown option": ([ROW], {"stepz": 3}, "unknown param 'stepz': give num_inference_steps or guidance_scale"),
    "a misspelt option": ([ROW], {"guidance": 3}, "; did you mean guidance_scale?"),
    "too much": ([ROW] * 1001, {}, "1001 rows × 25 steps are 25025, more than 25000"),
    "too many steps": ([ROW] * 26, {"num_inference_steps": 1000}, "26 rows × 1000 steps are 26000"),
}


@pytest.mark.unit
@pytest.mark.parametrize("rows, options, said", REFUSED.values(), ids=REFUSED)
def test_what_is_no_request_is_refused_in_one_line(rows, options, said):
    with pytest.raises(EraseDiffError) as refused:
        read(rows, **options)
    line = str(refused.value)
    assert said in line and "\n" not in line and len(line) < 500


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["3", "concept", "seed"]),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["concept", "seed", "x"]) | st.text(), inner)
    ),
    max_leaves=12,
)


@pytest.mark.property
@settings(max_examples=300)
@given(JSON, JSON, JSON)
def test_any_json_is_a_request_or_one_line(rows, steps, scale):
    try:
        asked = read(rows, num_inference_steps=steps, guidance_scale=scale)
    except EraseDiffError as error:
        assert "\n" not in str(error) and len(str(error)) < 500
        str(error).encode()
    else:
        assert set(asked.concepts) <= set(KNOWN) and len(asked.seeds) == len(asked.concepts) > 0
        assert all(0 <= seed < 2**53 for seed in asked.seeds)
        assert len(asked.concepts) * (asked.steps or 25) <= MAX_COST


def readmes_request():
    """Port that the serve command names, address and content of the curl command, as README.md has them."""
    serve = re.search(r"-m flows\.serve +# on 127\.0\.0\.1:(\d+)", README)
    command = re.search(r"curl (\S+) (?:-H '.*?')?.*?\n?.*?-d '(.*?)'", README, re.DOTALL)
    assert int(serve[1]) == PORT
    return serve[1], shlex.split(command[1])[0], json.loads(command[2])


def answer(url, content, kind="application/json"):
    """Status and content; a text is posted as it is."""
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body, {"Content-Type": kind}), timeout=120) as found:
            return found.status, json.loads(found.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


NO_REQUESTS = [
    ([], {}),
    ([{"concept": "z"}], {}),
    ([{"concept": "3", "sed": 7}], {}),
    ([{"concept": "\ud800"}], {}),
    ([{"concept": "3", "seed": -1}], {}),
    ([ROW], {"num_inference_steps": 0}),
    ([ROW], {"num_inference_steps": -1}),
    ([ROW], {"guidance_scale": float("nan")}),
    ([ROW], {"guidance_scale": 1e30}),
    ([ROW] * 300, {"num_inference_steps": 100}),
    ([ROW], {"stepz": 3}),
    ([ROW], {"num_inference_steps": "z" * 9999}),
    ([ROW], ["num_inference_steps"]),
]


@pytest.mark.system
def test_mlflow_serves_what_the_readme_posts_and_refuses_in_one_line(store, tmp_path_factory, monkeypatch):
    pipeline = build_pipeline(
        list("0123"), (1, 8, 8), block_out_channels=(8, 16), attention=(False, False), norm_num_groups=4
    )
    with new_folder(Path("models/erased")) as folder:
        pipeline.save_pretrained(folder)
    promote_initial("m", register(example="3"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking.tracking_uri())
    port, address, posted = readmes_request()
    assert f":{port}/invocations" in address
    assert port not in (os.environ.get("MLFLOW_PORT", "5000"), "4200")  # where `make up` listens
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    with listening("flows.serve", "--model", "m", ready="ping", folder=tmp_path_factory.mktemp("elsewhere")) as free:
        url = f"http://127.0.0.1:{free}/invocations"
        status, found = answer(url, posted)
        assert status == 200, found
        assert [row["concept"] for row in found["predictions"]] == [
            row["concept"] for row in posted["dataframe_records"]
        ]
        assert [picture(row["png_base64"]).size for row in found["predictions"]] == [(8, 8)] * 2
        assert answer(url, b"concept,seed\n3,7\n3,\n", "text/csv")[0] == 200
        for rows, options in NO_REQUESTS:
            params = {"num_inference_steps": 2, **options} if isinstance(options, dict) else options
            body = {"dataframe_records": rows, "params": params}
            status, refused = answer(url, body)
            assert status == 400 and refused["error_code"] in ("INVALID_PARAMETER_VALUE", "BAD_REQUEST"), refused
            assert "\n" not in refused["message"] and "stack_trace" not in refused and len(refused["message"]) <= 500
        assert answer(url, {**posted, "params": {"num_inference_step": 2}})[1]["message"].endswith(
            "did you mean num_inference_steps?"
        )
        assert answer(url, posted)[0] == 200  # after all that


@pytest.mark.unit
def test_one_byte_one_file_or_one_name_makes_another_digest_of_code(tmp_path):
    def digest(change=lambda code: None, without=""):
        shutil.rmtree(tmp_path / "code", ignore_errors=True)
        (tmp_path / "code/part").mkdir(parents=True)
        (tmp_path / "code/part/a.py").write_bytes(b"x = 1")
        change(tmp_path / "code")
        return store_module._digest({"code": tmp_path / "code"}, without)

    def compiled(code):
        (code / "part/__pycache__").mkdir()
        (code / "part/__pycache__/a.cpython-311.pyc").write_bytes(b"x")

    changes = (
        lambda code: (code / "part/a.py").write_bytes(b"x = 2"),
        lambda code: (code / "part/b.py").write_bytes(b""),
        lambda code: (code / "part/a.py").rename(code / "part/b.py"),
        lambda code: (code / "part/a.py").unlink(),
        compiled,
    )
    assert len({digest(), *map(digest, changes)}) == len(changes) + 1
    assert digest(compiled, "__pycache__") == digest()


def alter(path):
    path.write_bytes(path.read_bytes()[:-1] + b"#")


HARM = {
    "a byte of code": lambda folder: alter(folder / "code/part.py"),
    "a byte of the model's own file": lambda folder: alter(folder / "served_model.py"),
    "a file of code more": lambda folder: (folder / "code/json.py").write_text("x = 1\n"),
    "a byte of the weights": lambda folder: alter(next(folder.rglob("*.safetensors"))),
    "weights that are gone": lambda folder: shutil.rmtree(folder / "artifacts"),
}


@pytest.mark.pipeline
@pytest.mark.parametrize("harm", HARM.values(), ids=HARM)
def test_a_copy_of_what_was_altered_is_refused(store, tmp_path, harm):
    number = version([])
    verified_copy(version_of("m", number), tmp_path / "sound")
    harm(stored(number))
    with pytest.raises(IntegrityError, match="of m|version 1 of m"):
        verified_copy(version_of("m", number), tmp_path / "copy")


@pytest.mark.pipeline
def test_code_that_was_compiled_in_the_store_is_not_copied_and_harms_no_version(store, tmp_path):
    number = version([])
    for folder in (stored(number), stored(number) / "code"):
        (folder / "__pycache__").mkdir()
        (folder / "__pycache__/part.cpython-311.pyc").write_bytes(b"anybody's")
    verify_stored(version_of("m", number))
    copy = verified_copy(version_of("m", number), tmp_path / "copy")
    assert (copy / "code/part.py").exists() and not list(copy.rglob("__pycache__"))


@pytest.mark.pipeline
def test_a_version_without_a_hash_of_its_code_is_not_copied(store, tmp_path):
    number = version([])
    server.client().delete_model_version_tag("m", number, "x.files_sha256")
    with pytest.raises(ModelError, match="has no hash of its code: register it again"):
        verified_copy(version_of("m", number), tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


@pytest.mark.system
def test_code_that_was_altered_by_one_line_is_refused_before_it_runs(store):
    number, ran = version([]), store / "ran"
    with open(stored(number) / "served_model.py", "a") as code:
        code.write(f"open({str(ran)!r}, 'w')\n")
    command = [sys.executable, "-m", "flows.serve", number, "--model", "m", "--port", "5999"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    (line,) = done.stderr.splitlines()
    assert done.returncode == 1 and not ran.exists() and done.stdout == ""
    assert line.startswith("IntegrityError: the code files of version 1 of m are not what was registered")
