"""The verb ``evaluate`` of the command line: models of any tool in; a verdict, metrics and a report out."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from erasediff.arguments import add_quiet, add_size, within
from erasediff.artifacts import DRAWN
from erasediff.errors import ParamsError, shown
from erasediff.loading import load, require_model

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

MODEL = "diffusers folder, LoRA (file or folder), models:/NAME@ALIAS, hf://ORG/NAME@COMMIT, or shapes"


def add_evaluate(parser: argparse.ArgumentParser) -> None:
    """Add what :func:`evaluate` takes."""
    parser.add_argument(
        "models", metavar="MODEL", nargs="*", help=f"{MODEL}; several of a suite of requests, in their order"
    )
    parser.add_argument("--base", help="the model before; needed unless --stand-in")
    parser.add_argument(
        "--forgotten", nargs="+", default=[], metavar="CONCEPT", help="what MODEL should have forgotten"
    )
    parser.add_argument("--output", metavar="FOLDER", help="for metrics.json and report.html")
    parser.add_argument("--judge", help="shapes, nudity, a judge's folder, clip:WHERE or image_classifier:WHERE")
    parser.add_argument("--labels", metavar="FILE", help="JSON: the labels or words of a judge that are each concept")
    parser.add_argument("--concepts", nargs="+", default=[], help="what the judge should tell apart")
    parser.add_argument("--prompts", metavar="FILE", help="CSV with a column prompt, and one of concepts")
    parser.add_argument("--samples", type=within(2, 10**6), help="pictures of each concept and model (default: 50)")
    parser.add_argument(
        "--max-draws",
        type=within(1, 100),
        metavar="N",
        help="at most N times so many, till it is told (default: 1)",
    )
    parser.add_argument("--steps", type=within(1, 10**5), help="of the sampler (default: the model's own)")
    parser.add_argument("--guidance-scale", type=float, help="1: no guidance (default: the model's own)")
    parser.add_argument("--sampler", metavar="CLASS", help="a scheduler of diffusers (default: the model's own)")
    add_size(parser, "of pictures that both models draw")
    parser.add_argument("--inception", metavar="FILE", help="inception-2015-12-05.pt, for FID (default: no FID)")
    parser.add_argument("--seed", type=within(0, 2**31), default=0, help="of the pictures (default: 0)")
    parser.add_argument("--ray", metavar="ADDRESS", help="a Ray cluster whose workers draw, or local (default: none)")
    parser.add_argument(
        "--limit", dest="limits", action="append", default=[], type=_limit, metavar="NAME=VALUE", help="of a gate"
    )
    add_quiet(parser)
    suite = parser.add_argument_group("a published benchmark")
    suite.add_argument("--suite", metavar="NAME", help="run it instead; --suite list shows all")
    suite.add_argument("--data", metavar="DIR", type=Path, help="files that the suite asks for")
    suite.add_argument("--stand-in", action="store_true", help="the same code on an embedded world, for trying out")
    suite.add_argument(
        "--methods",
        nargs="+",
        default=[],
        metavar="METHOD",
        help="erase by these first, each concept of the suite; settings may follow: esd:learning_rate=2e-4",
    )
    suite.add_argument("--quick", action="store_true", help="few concepts and pictures")


def evaluate(
    models: list[str],
    base: str | None,
    forgotten: list[str],
    output: str | None,
    judge: str | None,
    labels: str | None,
    concepts: list[str],
    prompts: str | None,
    samples: int | None,
    max_draws: int | None,
    steps: int | None,
    guidance_scale: float | None,
    sampler: str | None,
    inception: str | None,
    seed: int,
    ray: str | None,
    limits: list[tuple[str, float]],
    suite: str | None,
    data: Path | None,
    stand_in: bool,
    methods: list[str],
    quick: bool,
    size: tuple[int, int] | None = None,
    quiet: bool = False,
) -> None:
    """Measure models against their base, print the verdict, and write ``metrics.json`` and ``report.html``.

    Raises: ParamsError: what is needed is not given. What :func:`erasediff.evaluate` and a suite raise.
    """
    if suite == "list":
        from erasediff.evaluation.suites.suite import listed

        print(listed())
        return
    if not output:
        raise ParamsError("give --output FOLDER for the metrics and the report")
    if suite:
        own: dict[str, object] = {"--concepts": concepts, "--prompts": prompts, "--samples": samples}
        own |= {"--max-draws": max_draws, "--steps": steps, "--guidance-scale": guidance_scale}
        own |= {"--sampler": sampler, "--size": size, "--inception": inception, "--limit": limits}
        if given := [name for name, value in own.items() if value]:
            raise ParamsError(f"{given[0]} does not go with --suite: a suite has a protocol of its own")
        from erasediff.evaluation.suites.run import Request, run_suite

        wanted = Request(
            suite,
            Path(output),
            models,
            base,
            forgotten,
            judge,
            labels,
            data,
            stand_in,
            methods,
            quick,
            seed,
            ray,
            quiet,
        )
        print(run_suite(wanted, open_model))
        return
    if only := [
        name for name, given in {"--data": data, "--stand-in": stand_in, "--methods": methods}.items() if given
    ]:
        raise ParamsError(f"{only[0]} belongs to a suite: name one by --suite; --suite list shows all")
    if len(models) != 1 or not forgotten or not judge or not base:
        raise ParamsError(
            "give one MODEL, --forgotten, --judge and --base: the model before is what it is held against"
        )
    for name in (base, *models):
        require_model(name)
    from erasediff.data.inputs import prompts_by_concept
    from erasediff.data.prompts import read_prompts, words_table
    from erasediff.evaluation.evaluating import evaluate as verb
    from erasediff.evaluation.judging import named_judge, read_labels
    from erasediff.families.sharing import Places

    asked = None if prompts is None else prompts_by_concept(words_table(read_prompts(Path(prompts), concepts), 0).table)
    known = concepts or sorted({*forgotten, *(asked or {})})
    opened = named_judge(judge, known, read_labels(labels) if labels else None)
    drawn, places = Path(output) / DRAWN, Places(cluster=ray)
    how: dict[str, Any] = {"steps": steps, "guidance_scale": guidance_scale, "sampler": sampler, "size": size}
    found = verb(
        open_model(models[0], base),
        forgotten,
        base=open_model(base),
        judge=opened,
        prompts=asked,
        samples=samples or 50,
        max_draws=max_draws,
        limits=dict(limits),
        inception=inception,
        kept=drawn,
        places=places,
        progress=not quiet,
        seed=seed,
        **how,
    )
    found.save(output)
    shutil.rmtree(drawn, ignore_errors=True)
    print(f"{found}\nmetrics and report in {output}")


def open_model(model: str, base: str | None = None) -> DiffusionPipeline:
    """A pipeline of whatever form a model has: a LoRA is fused into its base, a single file is built as its base is.

    Raises: ModelError: it cannot be opened. ParamsError: a LoRA without a base.
    """
    from erasediff.families.lora import lora_file, with_lora

    if (file := lora_file(model)) is not None:
        if base is None:
            raise ParamsError(f"{file} is a LoRA: say by --base which model it was made for")
        return with_lora(open_model(base), file)
    return load(model, config=base if base and Path(model).is_file() and Path(base).is_dir() else None)


def _limit(text: str) -> tuple[str, float]:
    name, equals, value = text.partition("=")
    try:
        return name, float(value if equals else "")
    except ValueError:
        raise argparse.ArgumentTypeError(f"{shown(text)} is no NAME=VALUE with a number") from None
