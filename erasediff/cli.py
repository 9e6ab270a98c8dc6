"""The command ``erasediff``: the library's verbs for people without a checkout. ``--help`` loads no torch."""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import erasediff
from erasediff.arguments import Parser, add_quiet, add_size, within
from erasediff.attack_command import add_attack, attack
from erasediff.command import exit_code, quiet_environment
from erasediff.errors import DataError, ParamsError, did_you_mean, shown
from erasediff.evaluate_command import add_evaluate, evaluate
from erasediff.loading import erased_before, load, require_model
from erasediff.ranges import RANGES
from erasediff.records import ERASURE, REGISTRY
from erasediff.unlearning import METHODS, method_for
from erasediff.unlearning.settings import DEFAULTS, read_setting

MODEL = "diffusers folder, single .safetensors file, models:/NAME@ALIAS or /VERSION, hf://ORG/NAME@COMMIT, or shapes"
CONFIG = "of a single file: diffusers folder of such a model (default: the file's own folder, else the hub)"
OUTPUT = "new folder for the erased model, or FILE.safetensors for Stable Diffusion 1.x, 2.x and SDXL in one file"
#: Largest seed of a picture.
PICTURE_SEED = 2**64 - 1
#: What Ctrl-C leaves of a command that draws much.
GOES_ON = {
    "erase": "what was drawn is kept beside --output, and the same command goes on from there",
    "evaluate": "the same command goes on from here",
}
#: Settings that have an option of their own.
OPTIONS = {"anchor": "--anchor", "outer_steps": "--steps"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0 done, 1 a stated failure, 2 wrong usage, 130 interrupted."""
    given = vars(_parser().parse_args(arguments))
    quiet_environment()
    command, work = given.pop("command"), given.pop("work")
    interrupted = GOES_ON.get(command, "nothing was written")
    less_memory = "lower --n" if command == "draw" else "free some, or take a machine that has more"
    return exit_code(f"erasediff {command}", lambda: work(**given), interrupted=interrupted, less_memory=less_memory)


def erase(
    model: str,
    concepts: list[str],
    output: str,
    method: str,
    anchors: list[str],
    preserve: list[str] | None,
    erase_from: str | None,
    seed: int,
    steps: int | None,
    generate: int | None,
    inference_steps: int | None,
    guidance_scale: float | None,
    size: tuple[int, int] | None,
    settings: list[tuple[str, Any]],
    config: str | None = None,
    quiet: bool = False,
) -> None:
    """Erase concepts, and write the erased model as a diffusers folder with :data:`erasediff.records.ERASURE`.

    Of ``adapter: lora`` the LoRA is in its folder ``lora``. What was drawn so far lies in a hidden folder beside the
    output until it is there: the same command, after it was killed, goes on from that.

    Args:
        output: a new folder; or a new file that ends in ``.safetensors``, for the original format.
        anchors: one name for all concepts, or ``CONCEPT=NAME`` for each.
        steps: number of updates; the method's own by default.
        generate: pictures a concept that are drawn from the model.
        inference_steps, guidance_scale, size: how these are drawn.
        config: of a single file, as :func:`erasediff.load` takes it.
        quiet: show no bar, and no line but the result and warnings.

    Raises: ParamsError: settings that cannot be; ``output`` is there already. What :func:`erasediff.load` and
        :func:`erasediff.erase` raise.
    """
    chosen = dict(settings) | ({} if steps is None else {"outer_steps": steps})
    to = Path(output)
    _require_room(to)
    anchor = _anchor(anchors, concepts)
    try:
        method_for(method, **({"forget_target": "anchor", "anchor": anchor} if anchor is not None else {}), **chosen)
    except ValueError as error:
        raise ParamsError(str(error)) from None
    require_model(model, config)  # all of it before torch is loaded
    from erasediff.artifacts import DRAWN, new_folder, write_json
    from erasediff.device import device
    from erasediff.families.original_format import is_single_file, original_tensors, save_single_file
    from erasediff.unlearning.progress import say

    what: dict[str, Any] = {
        "method": method,
        "anchor": anchor,
        "preserve": preserve,
        "erase_from": erase_from,
        "seed": seed,
        "generate": generate,
        "inference_steps": inference_steps,
        "guidance_scale": guidance_scale,
        "size": size,
        "progress": not quiet,
    }
    say(f"opening {model}", shown=not quiet)
    before, pipeline = erased_before(model), load(model, config=config)
    if is_single_file(to):
        original_tensors(pipeline)  # before hours of erasing: is there such a format?
    drawn = to.with_name(f".{to.name}{DRAWN}")
    result = erasediff.erase(pipeline.to(device()), concepts, before=before, cache=drawn, **what, **chosen)
    say(f"saving in {output}", shown=not quiet)
    earlier = [name for name in before if name not in result.forgotten]
    record: dict[str, Any] = {
        "erasediff": erasediff.__version__,
        "model": model,
        "concepts": result.forgotten,
        "before": earlier,
        "seed": seed,
        **result.record.to_json(),
    }
    if is_single_file(to):
        save_single_file(result.pipeline, to, {ERASURE: json.dumps(record)})
    else:
        with new_folder(to) as folder:
            result.save(folder, fused=True)
            if result.lora:
                result.save(folder / "lora", fused=False)
            write_json(folder / ERASURE, record)
    shutil.rmtree(drawn, ignore_errors=True)
    print(f"{result!r} in {output}")


def draw(
    model: str,
    concept: str,
    n: int,
    output: str,
    seed: int,
    steps: int | None,
    guidance_scale: float | None,
    size: tuple[int, int] | None = None,
    config: str | None = None,
) -> None:
    """Draw ``n`` pictures of a concept, seeds ``seed`` to ``seed + n - 1``.

    Args:
        output: a PNG for all of them, eight a row; or a folder, which ends in ``/``, for a file ``SEED.png`` each.
        config: of a single file, as :func:`erasediff.load` takes it.

    Raises: ParamsError, UnknownConcept, ModelError, IntegrityError, TrackingError. DataError: no such ``output``.
    """
    require_model(model, config)  # before torch is loaded: most wrong commands name a folder that is not there
    from erasediff.artifacts import write_bytes
    from erasediff.data.images import encode_png
    from erasediff.device import device
    from erasediff.evaluation.pictures import tiled_png

    pipeline = load(model, config=config).to(device())
    how: dict[str, Any] = {"steps": steps, "guidance_scale": guidance_scale, "size": size}
    images = erasediff.draw(pipeline, concept, n, seed=seed, **how)
    if output.endswith("/"):
        files = {f"{output}{seed + i}.png": encode_png(image) for i, image in enumerate(images)}
    else:
        files = {output: tiled_png(images, concept, f"seeds {seed} to {seed + n - 1}")}
    try:
        for path, content in files.items():
            write_bytes(Path(path), content)
    except OSError as error:
        raise DataError(
            f"{output} cannot be written ({error.strerror}): give a PNG file, or FOLDER/, of yours"
        ) from None
    print(output)


def push(model: str, repo: str, public: bool, output: str | None) -> None:
    """Push a version of the registry to the Hugging Face hub, with a card that says how it was made and measured.

    Args:
        repo: ``ORGANISATION/NAME``, made where there is none.
        public: of a new repository.
        output: a new folder: what would be pushed is written there, and nothing is sent.

    Raises: ParamsError: it is no version. What :func:`erasediff.registry.hub.push_version` raises.
    """
    if not model.startswith(REGISTRY):
        raise ParamsError(f"{shown(model)} is no version: give models:/NAME@ALIAS; an Erased has push_to_hub()")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo):
        raise ParamsError(f"{shown(repo)} is no repository of the hub: give ORGANISATION/NAME")
    if output is not None:
        _require_room(Path(output))
    require_model(model)
    from erasediff.registry.hub import publish_version, push_version

    if output is None:
        print(push_version(model, repo, private=not public))
    else:
        publish_version(model, repo, Path(output))
        print(output)


def _parser() -> Parser:
    parser = Parser(prog="erasediff", description=erasediff.__doc__.splitlines()[0])
    parser.add_argument("--version", action="version", version=f"erasediff {erasediff.__version__}")
    parser.add_argument(
        "--print-completion",
        action=_Completion,
        dest=argparse.SUPPRESS,
        choices=["bash", "zsh", "tcsh"],
        help="print a script for tab completion: erasediff --print-completion bash > FILE, then source FILE",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_erase(commands.add_parser("erase", help="make a model forget concepts", description="Make a model forget."))
    sub = commands.add_parser("draw", help="draw pictures of a concept", description="Draw pictures of a concept.")
    sub.add_argument("model", metavar="MODEL", help=MODEL)
    sub.add_argument("concept", metavar="CONCEPT", help="the name of a class, or a prompt")
    sub.add_argument("--config", metavar="FOLDER", help=CONFIG)
    add_drawing_options(sub)
    sub.set_defaults(work=draw)
    told = "hold a model of any tool against its base"
    sub = commands.add_parser("evaluate", help=told, description=f"{told.capitalize()}.")
    add_evaluate(sub)
    sub.set_defaults(work=evaluate)
    told = "try to bring back what a model has forgotten"
    sub = commands.add_parser("attack", help=told, description=f"{told.capitalize()}.")
    add_attack(sub)
    sub.set_defaults(work=attack)
    told = "push a version of the registry to the Hugging Face hub, with what was measured"
    sub = commands.add_parser("push", help=told, description=f"{told.capitalize()}.")
    sub.add_argument("model", metavar="MODEL", help="models:/NAME@ALIAS or models:/NAME/VERSION")
    sub.add_argument("repo", metavar="ORGANISATION/NAME", help="repository of the hub, made where there is none")
    sub.add_argument("--public", action="store_true", help="of a new repository (default: private)")
    sub.add_argument("--output", metavar="FOLDER", help="write what would be pushed there, and send nothing")
    sub.set_defaults(work=push)
    return parser


def _add_erase(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("model", metavar="MODEL", help=MODEL)
    sub.add_argument("concepts", metavar="CONCEPT", nargs="+", help="what to forget: names of classes, or prompts")
    sub.add_argument("--output", required=True, metavar="FOLDER", help=OUTPUT)
    methods = [name for name in METHODS if name != "retrain"]  # whose recipe no option says
    sub.add_argument("--method", choices=methods, default="erasediff", help="how to forget (default: %(default)s)")
    sub.add_argument(
        "--anchor",
        dest="anchors",
        action="append",
        default=[],
        metavar="[CONCEPT=]NAME",
        help="what is drawn instead of all concepts, or of this one, may be repeated",
    )
    sub.add_argument(
        "--preserve",
        nargs="+",
        metavar="CONCEPT",
        help="what to keep (default: every other class, or near words)",
    )
    sub.add_argument("--erase-from", metavar="CONCEPT", help="only this loses them: of a style, stars alone")
    sub.add_argument("--config", metavar="FOLDER", help=CONFIG)
    sub.add_argument("--seed", type=_number("seed"), default=0, help="of drawing and training (default: 0)")
    told = f"updates (default: {DEFAULTS['outer_steps']}; of a model that takes words, by its size)"
    sub.add_argument("--steps", type=_number("outer_steps"), help=told)
    sub.add_argument(
        "--generate",
        type=_number("generate"),
        help="pictures to draw of a concept (default: 64 of a class, 16 of a word)",
    )
    own = "(default: the model's own)"
    sub.add_argument("--inference-steps", type=within(1, 10**5), help="to draw them in (default: at most 20 of a word)")
    sub.add_argument("--guidance-scale", type=float, help=f"to draw them with {own}")
    add_size(sub, "of pictures, drawn and trained on")
    sub.add_argument(
        "--set",
        dest="settings",
        action="append",
        default=[],
        type=_setting,
        metavar="NAME=VALUE",
        help="another setting, may be repeated, such as adapter=lora for a LoRA: "
        + ", ".join(name for name in DEFAULTS if name not in OPTIONS),
    )
    add_quiet(sub)
    sub.set_defaults(work=erase)


def add_drawing_options(parser: argparse.ArgumentParser) -> None:
    """Add what :func:`draw` takes beside the model and the concept."""
    parser.add_argument("--n", type=within(1, 10**6), default=16, help="pictures (default: 16)")
    parser.add_argument(
        "--output", "--out", required=True, metavar="FILE", help="PNG to write, or FOLDER/ for a file each"
    )
    parser.add_argument("--seed", type=within(0, PICTURE_SEED), default=0, help="of the first picture (default: 0)")
    parser.add_argument("--steps", type=within(1, 10**5), help="sampling steps (default: the model's own)")
    parser.add_argument("--guidance-scale", type=float, help="1: no guidance (default: the model's own)")
    add_size(parser, "of pictures, in pixels")


def _number(name: str) -> Callable[[str], int]:
    """The type of an argument that is a whole number of :data:`erasediff.ranges.RANGES`."""
    return within(int(RANGES[name].ge), int(RANGES[name].lt) - 1)


def _require_room(output: Path) -> None:
    """Raises: ParamsError: it is there already, or cannot be."""
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ParamsError(f"--output {shown(str(output))} is there already: name a new one")
    place = next(folder for folder in output.absolute().parents if folder.exists())
    if not place.is_dir() or not os.access(place, os.W_OK):
        raise ParamsError(f"--output {shown(str(output))}: {shown(str(place))} is no folder to write to: name another")


def _anchor(given: list[str], concepts: list[str]) -> str | dict[str, str] | None:
    """What ``--anchor`` says: a name, or one for each concept. Raises: ParamsError: some of it is neither."""
    if not given or (len(given) == 1 and "=" not in given[0]):
        return given[0] if given else None
    each: dict[str, str] = {}
    for text in given:
        concept = max((c for c in concepts if text.startswith(f"{c}=")), key=len, default=None)
        if concept is None or concept in each:
            hint = did_you_mean(text.partition("=")[0], concepts) if concept is None else ", and is the second for it"
            raise ParamsError(f"--anchor {shown(text)} is no CONCEPT=NAME of {shown(', '.join(concepts))}{hint}")
        each[concept] = text.removeprefix(f"{concept}=")
    if missing := [concept for concept in concepts if concept not in each]:
        raise ParamsError(f"--anchor names nothing for {shown(', '.join(missing))}: add --anchor CONCEPT=NAME")
    return each


def _setting(text: str) -> tuple[str, Any]:
    """``NAME=VALUE`` of ``--set``, its value of the setting's type."""
    try:
        name, value = read_setting(text)
    except ParamsError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if name in OPTIONS:
        raise argparse.ArgumentTypeError(f"{name} has an option of its own: write {OPTIONS[name]} {shown(value)}")
    return name, value


class _Completion(argparse.Action):
    """Print a shell's completion script and exit."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option: str | None = None) -> None:
        try:
            import shtab
        except ImportError:
            parser.error("--print-completion needs shtab: pip install shtab")
        for action in _actions(parser):
            if action.dest in ("model", "models", "base", "data", "labels", "prompts", "output"):
                vars(action)["complete"] = shtab.FILE
        print(shtab.complete(parser, values))
        parser.exit()


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """The actions of a parser and of its subcommands."""
    for action in parser._actions:
        yield action
        for sub in action.choices.values() if isinstance(action.choices, dict) else ():
            yield from _actions(sub)


if __name__ == "__main__":
    sys.exit(main())
