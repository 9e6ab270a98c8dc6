"""What the pages tell people to type is what there is. The commands are taken from the pages."""

import os
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "docs/tutorial.md", "docs/operations.md", "docs/suites.md", "docs/trust-and-safety.md")
PYTHON = ".venv/bin/python"


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / page).read_text(), re.M | re.S)


def commands(page):
    """Each command of a page's shell blocks, and of its lines' code that begins as one does."""
    text = "\n".join(blocks(page, "bash")).replace("\\\n", " ")
    inline = re.findall(r"`((?:\.venv/bin/|make )[^`]+)`", (ROOT / page).read_text().replace("\n", " "))
    for line in [*text.splitlines(), *inline]:
        words = shlex.split(line, comments=True)
        for command in " ".join(map(shlex.quote, words)).replace("'&&'", "&&").split(" && "):
            if command:
                yield shlex.split(command)


def without_variables(words):
    return words[next(i for i, word in enumerate(words) if not re.fullmatch(r"[A-Z_]+=.*", word)) :]


FOUND = sorted({(page, tuple(without_variables(words))) for page in PAGES for words in commands(page)})
OURS = [(page, words) for page, words in FOUND if words[0].startswith(".venv/bin/")]


@cache
def help_of(*command):
    """What a command says of itself in a shell that knows nothing: no activated environment."""
    done = subprocess.run(
        ["env", "-i", f"PATH={os.defpath}", f"HOME={os.environ.get('HOME', '/')}", *command, "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{' '.join(command)} --help: {done.stderr[-500:]}"
    return done.stdout + done.stderr


def command_and_options(words):
    """``python -m flows.promote rollback --why x`` → what is asked for help, and the options that it must know."""
    program = str(Path(sys.executable).parent / Path(words[0]).name)
    begins = [w for w in words[1:] if w != "-m"]
    named = [program, *(["-m", begins.pop(0)] if words[1] == "-m" else [])]
    for word in begins:  # subcommands
        if not re.fullmatch(r"[a-z][a-z-]*", word) or word in VALUES:
            break
        named.append(word)
    return named, [w.partition("=")[0] for w in words if re.match(r"--?[a-z]", w, re.I) and w != "-m"]


#: Words that look like subcommands but are arguments.
VALUES = {"store"}


@pytest.mark.unit
def test_there_are_commands_to_check():
    assert len(FOUND) > 30 and len(OURS) > 15 and {page for page, _ in FOUND} == set(PAGES)


@pytest.mark.unit
@pytest.mark.parametrize(("page", "words"), [(p, w) for p, w in FOUND if w[0] == "make"])
def test_every_target_is_one_of_the_makefile(page, words):
    done = subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, f"{page}: {' '.join(words)}: {done.stderr}"


@pytest.mark.unit
def test_no_command_needs_an_activated_environment():
    bare = {w[0] for _, w in FOUND} - {"make", "git", "curl", "tar", "export", "sha256sum", "pip", "(cd"}
    assert {word for word in bare if not word.startswith(".venv/bin/")} == set()


@pytest.mark.pipeline
@pytest.mark.parametrize(
    ("page", "words"), OURS, ids=lambda value: " ".join(value) if isinstance(value, tuple) else value
)
def test_every_command_is_one_and_knows_its_options(page, words):
    named, options = command_and_options(words)
    told = help_of(*named)
    missing = [option for option in options if not re.search(rf"(?<![\w-]){re.escape(option)}\b", told)]
    assert not missing, f"{page}: {' '.join(words)}: {missing}"


@pytest.mark.unit
@pytest.mark.parametrize("page", PAGES)
def test_entries_of_params_are_entries(page):
    known = yaml.safe_load((ROOT / "params.yaml").read_text())
    for block in blocks(page, "yaml"):
        for section, entries in yaml.safe_load(block).items():
            assert section in known and set(entries) <= set(known[section]), f"{page}: {section}"
    for section, entry in re.findall(r"`(\w+)\.(\w+)`", (ROOT / page).read_text()):
        if isinstance(known.get(section), dict):
            assert entry in known[section], f"{page}: {section}.{entry}"


@pytest.mark.unit
def test_readme_takes_five_minutes():
    prose = re.sub(r"```.*?```", "", (ROOT / "README.md").read_text(), flags=re.S)
    assert len(prose.split()) <= 900


#: What makes each verb of the library quick.
FEW = {
    "erase": "--steps 1 --generate 2 --set forget_batch_size=2 --set retain_batch_size=2",
    "draw": "--steps 1",
    "evaluate": "--samples 2 --steps 1",
    "attack": "--attacks settings precision --pictures 2 --steps 1",
}


def python(folder, *arguments):
    """Run Python in a folder of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.pipeline
def test_the_snippet_runs(tmp_path):
    """With two small updates, which is all that differs."""
    (snippet,) = blocks("README.md", "python")
    less = "outer_steps=2, forget_batch_size=4, retain_batch_size=4, generate=2"
    assert snippet.count("seed=0)") == 1
    python(tmp_path, "-c", snippet.replace("seed=0)", f"seed=0, {less})"))
    assert (tmp_path / "erased-star/model_index.json").exists() and (tmp_path / "erased-star.safetensors").exists()


@pytest.mark.pipeline
@pytest.mark.slow
def test_the_commands_of_the_library_run_as_they_stand(tmp_path):
    """With few pictures and updates, which is all that differs."""
    shell = {words[1]: words for page, words in OURS if page == "README.md" and words[0] == ".venv/bin/erasediff"}
    assert shell.keys() == FEW.keys()
    for verb, less in FEW.items():
        python(tmp_path, "-m", "erasediff.cli", *shell[verb][1:], *less.split())
    for left in ("erased/star/model_index.json", "star.png", "looked-at/report.html"):
        assert (tmp_path / left).exists()


@pytest.mark.unit
def test_the_citation_is_of_this_version():
    import erasediff

    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert cited["version"] == erasediff.__version__ and cited["license"] == "Apache-2.0"
    arxiv = cited["references"][0]["url"].rpartition("/")[2]
    assert f"arXiv:{arxiv}" in (ROOT / "README.md").read_text()
