"""The command ``erasediff``."""

import json
import os
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch
from test_library import BARE

import erasediff
from erasediff.cli import main
from erasediff.families.class_conditional import ClassConditionalPipeline
from erasediff.unlearning.erased import Erased

ROOT = Path(__file__).parents[1]
FEW = ["--steps", "2", "--generate", "2", "--set", "forget_batch_size=2", "--set", "retain_batch_size=2"]


@pytest.fixture
def model(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


def told(capsys, arguments):
    """Exit code and last line of a command."""
    try:
        code = main(arguments)
    except SystemExit as stop:
        code = stop.code
    return code, capsys.readouterr().err.strip().splitlines()[-1]


@pytest.mark.unit
def test_it_erases_into_a_folder_that_is_loaded_and_says_what_ran(model, tmp_path, capsys):
    output = tmp_path / "erased"
    assert main(["erase", model, "a", "b", "--output", str(output), "--preserve", "c", "--seed", "3", *FEW]) == 0
    assert capsys.readouterr().out.startswith("Erased('a', 'b', erasediff, 2 updates, retain ")
    record = json.loads((output / "erasure.json").read_text())
    assert (record["concepts"], record["seed"], record["updates"]) == (["a", "b"], 3, 2)
    assert record["settings"]["forget_batch_size"] == 2 and record["erasediff"] == erasediff.__version__
    expected = erasediff.erase(
        erasediff.load(model),
        ["a", "b"],
        preserve="c",
        seed=3,
        generate=2,
        outer_steps=2,
        forget_batch_size=2,
        retain_batch_size=2,
    ).pipeline.unet.state_dict()
    weights = erasediff.load(output).unet.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in expected.items())


@pytest.mark.unit
def test_in_a_pipe_a_command_says_what_it_does_unless_it_is_to_be_quiet(model, tmp_path, capsys):
    arguments = ["erase", model, "a", *FEW, "--output"]
    assert main([*arguments, str(tmp_path / "told")]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == f"opening {model}" and lines[-1] == f"saving in {tmp_path / 'told'}"
    assert "erasing: 100 % (2 of 2 updates)" in lines
    assert main([*arguments, str(tmp_path / "quiet"), "--quiet"]) == 0
    assert all("hardly forgotten" in line for line in capsys.readouterr().err.splitlines())  # a warning is no progress


@pytest.mark.unit
def test_what_was_drawn_before_it_was_stopped_is_drawn_no_more(model, tmp_path, capsys, monkeypatch):
    arguments = ["erase", model, "a", "--output", str(tmp_path / "erased"), "--inference-steps", "3", *FEW]

    def interrupted(*given, **how):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("erasediff.unlearning.erasing.run_loop", interrupted)
        assert told(capsys, arguments)[0] == 130
    assert not (tmp_path / "erased").exists()
    with monkeypatch.context() as patch:
        patch.setattr(ClassConditionalPipeline, "__call__", interrupted)
        assert main(arguments) == 0
    assert (tmp_path / "erased").is_dir() and not list(tmp_path.glob(".*"))


@pytest.mark.unit
def test_what_a_folder_has_forgotten_before_stays_forgotten_and_on_record(model, tmp_path, capsys, monkeypatch):
    first, second, third = (str(tmp_path / name) for name in ("first", "second", "third"))
    assert main(["erase", model, "a", "--output", first, *FEW]) == 0
    seen = []
    plain = Erased.__init__
    monkeypatch.setattr(Erased, "__init__", lambda self, *a, **n: (seen.append(n["kept"]), plain(self, *a, **n))[1])
    assert main(["erase", first, "b", "--output", second, *FEW]) == 0
    record = json.loads((Path(second) / "erasure.json").read_text())
    assert (record["concepts"], record["before"]) == (["b"], ["a"]) and seen == [("c",)]
    code, last = told(capsys, ["erase", second, "c", "--output", third, "--preserve", "a", *FEW])
    assert code == 2 and "'a' was forgotten before, and is to be kept: take it out" in last
    code, last = told(capsys, ["erase", second, "c", "--output", third, *FEW])
    assert code == 2 and "nothing to keep" in last
    assert main(["erase", second, "a", "--output", third, *FEW]) == 0
    record = json.loads((Path(third) / "erasure.json").read_text())
    assert (record["concepts"], record["before"]) == (["a"], ["b"])


@pytest.mark.unit
def test_an_anchor_is_drawn_instead(model, tmp_path):
    assert main(["erase", model, "a", "--output", str(tmp_path / "out"), "--anchor", "b", *FEW]) == 0
    settings = json.loads((tmp_path / "out/erasure.json").read_text())["settings"]
    assert (settings["forget_target"], settings["anchor"]) == ("anchor", "b")
    each = ["--preserve", "c", "--anchor", "a=c", "--anchor", "b=c"]
    assert main(["erase", model, "a", "b", "--output", str(tmp_path / "two"), *each, *FEW]) == 0
    assert json.loads((tmp_path / "two/erasure.json").read_text())["settings"]["anchor"] == "a: c, b: c"


@pytest.mark.unit
def test_it_draws_a_picture_or_a_file_each(model, tmp_path):
    assert main(["draw", model, "a", "--n", "2", "--steps", "2", "--output", str(tmp_path / "a.png")]) == 0
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert main(["draw", model, "a", "--n", "2", "--seed", "5", "--steps", "2", "--out", f"{tmp_path}/a/"]) == 0
    assert {p.name for p in (tmp_path / "a").iterdir()} == {"5.png", "6.png"}


@pytest.mark.unit
@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["eras", "m", "a"], "did you mean erase?"),
        (["erase", "m", "a", "--outptu", "x"], "required: --output"),
        (
            ["erase", "m", "a", "--output", "x", "--stepz", "5"],
            "arguments: --stepz 5; did you mean --steps?",
        ),
        (["draw", "m", "a", "--out", "x", "--sed=5"], "unrecognized arguments: --sed=5; did you mean --seed?"),
        (["erase", "m", "a", "--output", "x", "--method", "sallun"], "did you mean salun?"),
        (["erase", "m", "a", "--output", "x", "--steps", "0"], "argument --steps: 0 is not from 1 to"),
        (["erase", "m", "a", "--output", "x", "--set", "etaa=1"], "no setting 'etaa'; did you mean eta?"),
        (["erase", "m", "a", "--output", "x", "--set", "eta"], "no setting 'eta': write NAME=VALUE"),
        (["erase", "m", "a", "--output", "x", "--set", "eta=much"], "eta 'much' is no float"),
        (["erase", "m", "a", "--output", "x", "--set", "shard=3"], "shard '3' is no bool"),
        (["erase", "m", "a", "--output", "x", "--set", "forget_target=nothing"], "forget_target 'nothing' is no"),
        ([], "the following arguments are required: COMMAND"),
        (["erase", "m", "a", "--output", "x", "--set", "mask_fraction=0.3"], "mask_fraction 0.3 has no effect with"),
        (["erase", "m", "a", "--output", "."], "--output . is there already: name a new one"),
        (["erase", "m", "a", "--output", f"{__file__}/x"], "test_cli.py is no folder to write to: name another"),
        (["draw", "m", "caf\udce9", "--out", "x"], r"argument caf\udce9 is no valid text: give it in UTF-8"),
        (["erase", "m", "a", "--output", "x", "--anchor", "\ud83d"], "is no valid text: give it in UTF-8"),
        (["erase", "m", "a", "--output", "x", "--anchor", ""], "names nothing: give one concept, or leave it out"),
        (["erase", "m", "a", "--output", "x", "--anchor", "a="], "names nothing: give one concept, or leave it out"),
        (["erase", "m", "star", "--output", "x", "--anchor", "stra=b"], "CONCEPT=NAME of star; did you mean star?"),
        (["erase", "m", "a", "b", "--output", "x", "--anchor", "c", "--anchor", "d"], "c is no CONCEPT=NAME of a, b"),
        (["erase", "m", "a", "b", "--output", "x", "--anchor", "a=c"], "--anchor names nothing for b: add --anchor"),
        (
            ["erase", "m", "a", "--output", "x", "--anchor", "a=c", "--anchor", "a=d"],
            "--anchor a=d is no CONCEPT=NAME of a, and is the second for it",
        ),
        (
            ["erase", "m", "a", "--output", "x", "--set", "anchor=b"],
            "anchor has an option of its own: write --anchor b",
        ),
        (["erase", "m", "a", "--output", "x", "--set", "outer_steps=5"], "an option of its own: write --steps 5"),
        (["push", "models/erased", "you/m"], "models/erased is no version: give models:/NAME@ALIAS"),
        (["push", "models:/m/1", "m"], "m is no repository of the hub: give ORGANISATION/NAME"),
        (["push", "models:/m/1", "you/m", "--output", "."], "--output . is there already: name a new one"),
    ],
)
def test_wrong_usage_is_one_line_with_what_was_meant_before_torch_is_asked(capsys, arguments, line, tmp_path):
    code, last = told(capsys, arguments)
    assert code == 2 and line.strip("'") in last.replace("'", "") or line in last, last


@pytest.mark.unit
def test_an_option_like_no_other_gets_no_hint_for_its_dashes(capsys):
    assert told(capsys, ["draw", "m", "a", "--out", "x", "--nonsense"])[1].endswith(": --nonsense")


@pytest.mark.unit
@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    [
        (["erase", "{missing}", "a", "--output", "{new}"], 1, "ModelError: {missing} is no folder"),
        (["erase", "{model}", "z", "--output", "{new}"], 1, "UnknownConcept: the model does not know z"),
        (["erase", "{model}", "a", "--output", "{new}", "--preserve", "a"], 2, "ParamsError: a is to be forgotten and"),
        (["draw", "{model}", "z", "--out", "{new}"], 1, "UnknownConcept: the model does not know z"),
    ],
)
def test_a_stated_failure_is_one_line(capsys, model, tmp_path, arguments, code, line):
    places = {"model": model, "missing": f"{tmp_path}/missing", "new": f"{tmp_path}/new"}
    found, last = told(capsys, [a.format(**places) for a in arguments])
    assert found == code and line.format(**places) in last.replace("'", "")
    assert not (tmp_path / "new").exists()


@pytest.mark.unit
@pytest.mark.parametrize(
    ("arguments", "left"),
    [
        (
            ["erase", "m", "a", "--output", "x"],
            "what was drawn is kept beside --output, and the same command goes on from there",
        ),
        (["draw", "m", "a", "--output", "x"], "nothing was written"),
        (["evaluate", "m", "--base", "b", "--judge", "j"], "the same command goes on from here"),
        (["attack", "m", "a", "--judge", "j"], "nothing was written"),
    ],
)
def test_ctrl_c_is_one_line_with_what_it_leaves(capsys, monkeypatch, arguments, left):
    def work(**given):
        raise KeyboardInterrupt

    monkeypatch.setattr(f"erasediff.cli.{arguments[0]}", work)
    assert told(capsys, arguments) == (130, f"erasediff {arguments[0]}: interrupted; {left}")


@pytest.mark.unit
@pytest.mark.parametrize(
    ("text", "value"), [("eta=2", 2.0), ("shard=true", True), ("trainable=3", "3"), ("mask=saliency", "saliency")]
)
def test_a_setting_has_the_type_that_it_needs(text, value):
    from erasediff.cli import _setting

    name, read = _setting(text)
    assert name == text.split("=")[0] and read == value and type(read) is type(value)


@pytest.mark.unit
@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["erase", "--help"], ["draw", "--help"]])
def test_help_takes_no_time_and_loads_nothing_heavy(arguments):
    code = (
        "import sys; from erasediff.cli import main\n"
        f"try: main({arguments!r})\n"
        "except SystemExit as stop: assert not stop.code\n"
        "heavy = {'torch', 'diffusers', 'numpy', 'accelerate', 'mlflow'} & set(sys.modules); assert not heavy, heavy"
    )
    began = os.times().children_user
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert os.times().children_user - began < 0.5  # of computing, whatever else the machine does
    assert "erase" in done.stdout


@pytest.mark.unit
@pytest.mark.parametrize(
    ("module", "arguments", "hint"),
    [
        ("flows.promote", ["rolback", "--why", "x"], "did you mean rollback?"),
        ("flows.promote", ["rollback", "--wy", "x", "--why", "y"], "did you mean --why?"),
        ("flows.erase", ["--concep=3", "--bse", "champion"], "did you mean --base?"),
        ("flows.servers", ["dwn"], "did you mean down?"),
        ("flows.recheck", ["--withdrw"], "did you mean --withdraw?"),
    ],
)
def test_every_command_tells_what_was_meant(capsys, monkeypatch, module, arguments, hint):
    monkeypatch.setattr(sys, "argv", [module, *arguments])
    with pytest.raises(SystemExit) as stop:
        import_module(module).main()
    assert stop.value.code == 2 and capsys.readouterr().err.strip().endswith(hint)


@pytest.mark.unit
@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_a_shell_gets_its_completion(capsys, shell):
    with pytest.raises(SystemExit) as stop:
        main(["--print-completion", shell])
    script = capsys.readouterr().out
    assert stop.value.code == 0 and "erase" in script and ("--method" in script or "method" in script)


@pytest.mark.unit
def test_bash_completes_subcommands_and_options(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["--print-completion", "bash"])
    script = tmp_path / "completion"
    script.write_text(capsys.readouterr().out)
    ask = "source {script}; COMP_WORDS=({words}); COMP_CWORD={at}; _shtab_erasediff; echo ${{COMPREPLY[@]}}"

    def completed(*words):
        line = ask.format(script=script, words=" ".join(words), at=len(words) - 1)
        return subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True).stdout.split()

    assert completed("erasediff", "er") == ["erase"]
    assert completed("erasediff", "draw", "--gui") == ["--guidance-scale"]


@pytest.mark.pipeline
def test_it_works_from_a_wheel_outside_a_checkout(model, tmp_path):
    """Built from a copy: setuptools writes beside what it builds."""
    source, site = tmp_path / "source", tmp_path / "site"
    shutil.copytree(ROOT / "erasediff", source / "erasediff", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*install, "--target", site, source], check=True, capture_output=True, text=True)
    assert (site / "erasediff/py.typed").exists() and not (site / "stages").exists()
    out = tmp_path / "out"
    environment = {"PATH": os.defpath, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1", "HOME": str(tmp_path)}
    version = [sys.executable, site / "bin/erasediff", "--version"]
    asked = {"cwd": tmp_path, "env": environment, "capture_output": True, "text": True, "check": True}
    assert subprocess.run(version, **asked).stdout == f"erasediff {erasediff.__version__}\n"
    erase = ["erase", model, "a", "--output", str(out), *FEW]
    draw = ["draw", str(out), "b", "--n", "1", "--steps", "2", "--out", str(tmp_path / "b.png")]
    code = f"{BARE}from erasediff.cli import main; assert 'site/' in main.__globals__['__file__']; "
    done = subprocess.run([sys.executable, "-c", f"{code}sys.exit(main({erase!r}) or main({draw!r}))"], **asked)
    assert "Erased('a', erasediff, 2 updates" in done.stdout and (tmp_path / "b.png").exists()
    registry = f"{code}sys.exit(main(['draw', 'models:/some/3', 'b', '--out', 'b.png']))"
    refused = subprocess.run([sys.executable, "-c", registry], **{**asked, "check": False})
    assert refused.returncode == 1 and refused.stderr.strip().count("\n") == 0, refused.stderr
    assert "pip install 'erasediff-pipeline[pipeline]'" in refused.stderr


@pytest.mark.unit
def test_attack_prints_a_line_a_variant_beside_that_of_the_base(tmp_path, capsys):
    out = tmp_path / "found.json"
    how = ["--judge", "shapes", "--base", "shapes", "--steps", "2", "--guidance-scale", "1", "--pictures", "2"]
    how += ["--retrained", "shapes", "--seed", "4", "--size", "24x32"]
    arguments = ["attack", "shapes", "star", *how, "--attacks", "precision", "resurgence", "--output", str(out)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("erasediff.evaluation.attacking._drawn", lambda *given, **how: None)
        assert main(arguments) == 0
    printed, found = capsys.readouterr().out.splitlines(), json.loads(out.read_text())
    assert printed.pop() == "attack resurgence did not run: it needs pictures of what was kept"
    assert [line.split(":")[1].strip() for line in printed] == ["bf16 weights", "fp8 weights", "int8 weights"]
    assert all("; base " in line and "; retrained " in line for line in printed)
    assert found["model"] == found["base"] == found["retrained"]
    assert "shapes object" in found["judge"] and found["concepts"] == ["star"] and list(found["skipped"])
    assert found["protocol"] == {
        "attacks": ["precision", "resurgence"],
        "pictures": 2,
        "budget": "quick",
        "seed": 4,
        "steps": 2,
        "guidance_scale": 1.0,
        "size": "24×32",
    }
    assert told(capsys, [*arguments[:-2], "--retrained", "nowhere"])[0] == 1
    assert told(capsys, ["attack", "nowhere", "star", "--judge", "shapes"])[0] == 1
    assert told(capsys, ["attack", "shapes", "star", "--judge", "shapes", "--attacks", "x"])[0] == 2
    code, said = told(capsys, ["attack", "shapes", "star", "--judge", "shapes", "--lora", "nowhere"])
    assert code == 2 and "--lora is of a base: name it by --base" in said
    code, said = told(
        capsys, ["attack", "shapes", "star", "--judge", "shapes", "--base", "shapes", "--lora", "nowhere"]
    )
    assert code == 2 and "--lora nowhere is no LoRA" in said
