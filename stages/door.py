"""The frame of every stage's command: usage, params, the MLflow run, one line for a stated failure, exit codes."""

from __future__ import annotations

import argparse
import inspect
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from erasediff.arguments import Parser
from erasediff.command import die_with_parent, exit_code, quiet_environment, tenths

if TYPE_CHECKING:
    from erasediff.tracking import StageRun


def run_door(
    name: str,
    main: Callable[..., None],
    description: str | None,
    add_arguments: Callable[[argparse.ArgumentParser], None] | None = None,
    *,
    trains: bool = False,
    precedes_selection: bool = False,
    without_mlflow: str = "",
    **outcome: str,
) -> None:
    """Run ``main`` as the command ``python -m stages.NAME`` and exit.

    What ``main`` takes decides what it gets: ``seed`` and sections of params.yaml by their names, arguments of the
    command line by theirs, and ``run``, the stage's MLflow run. The run is open, with the stage's own section logged.

    Args:
        add_arguments: adds the command's own arguments to a parser.
        trains: ``main``, which trains or draws, may run in several processes, as ``ERASEDIFF_LAUNCH`` says, and starts
            ``run`` itself in one of them: it alone knows whether a killed process's run is to be gone on with.
        precedes_selection: what is to be forgotten is looked for in the curated table first: the stage that selects it
            comes after ``main``, which may take hours.
        without_mlflow: what to do where MLflow cannot be used, of a stage that is pointless without it.
        outcome: words of :func:`erasediff.command.exit_code`.
    """
    parser = Parser(prog=f"python -m stages.{name}", description=description)
    if add_arguments is not None:
        add_arguments(parser)
    arguments = vars(parser.parse_args())
    die_with_parent()
    quiet_environment()
    wanted = inspect.signature(main).parameters

    def work() -> None:
        if trains and (options := launch_options()):
            sys.exit(launched(name, options, sys.argv[1:]))
        sections = sections_of([name for name in wanted if name not in arguments])
        if precedes_selection:
            require_selectable()
        if "run" not in wanted:
            main(**sections, **arguments)
            return
        from erasediff.errors import TrackingError
        from erasediff.tracking import stage_run

        label = f"{name}-{arguments['which']}" if "which" in arguments else name
        logged = None if trains else logged_params(name, sections)
        try:
            with stage_run(label, logged, required=bool(without_mlflow)) as run:
                main(run=run, **sections, **arguments)
        except TrackingError as error:
            raise TrackingError(f"{error}; {without_mlflow}" if without_mlflow else str(error)) from None

    advice = {"less_memory": f"lower {name}'s batch size in params.yaml, or curate.image_size"}
    sys.exit(exit_code(name, work, **{**advice, **outcome}))


def sections_of(wanted: Iterable[str]) -> dict[str, object]:
    """The sections of params.yaml among what a function takes; the file is read, and checked, for nothing else.

    ``reads`` is what follows from one: :attr:`stages.params.Params.reads`.
    """
    from stages.params import Params, load_params

    attributes = {field.alias or attribute: attribute for attribute, field in Params.model_fields.items()}
    attributes["reads"] = "reads"
    taken = [section for section in wanted if section in attributes]
    params = load_params() if taken else None
    return {section: getattr(params, attributes[section]) for section in taken}


def require_selectable() -> None:
    """Look for what is to be forgotten in the curated table. It changes no result, so that it is no dependency.

    Raises: UnknownConcept; DataError: an unknown id, or nothing would be left to retain.
    """
    from erasediff.data.inputs import read_table
    from erasediff.data.selection import select
    from stages import layout
    from stages.params import load_params

    asked = load_params().forget_set
    select(read_table(layout.TABLE, "train"), asked.concepts, asked.sample_ids)


def logged_params(name: str, sections: Mapping[str, object]) -> dict[str, object]:
    """Params that MLflow shows of a stage: the seed, where it takes one, and its own section."""
    from stages.params import Section

    own, seed = sections.get(name), {"seed": sections["seed"]} if "seed" in sections else {}
    return seed | own.model_dump() if isinstance(own, Section) else seed


@contextmanager
def progress_bar(label: str, *, unit: str = "", delay: float = 0) -> Iterator[Callable[[int, int], None]]:
    """Show how far a work is; yields what is called with what is done, and of how much.

    On a terminal a bar redraws. Elsewhere there is a line for each further tenth, such as
    ``erase: 40 % (56 of 140, 12 s left)``.

    Args:
        unit: of what is counted, such as " pictures".
        delay: seconds before it is shown.
    """
    if not sys.stderr.isatty():
        yield tenths(label, unit, delay)
        return
    from tqdm import tqdm

    with tqdm(desc=label, unit=unit or "it", delay=delay, mininterval=1) as bar:

        def on_progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield on_progress


@contextmanager
def step_bar(
    label: str, total: int, run: StageRun, rows: list[dict[str, float]] | None = None
) -> Iterator[Callable[[int, dict[str, float]], None]]:
    """Follow a training; yields what is called after each step with its number and what was measured.

    Args:
        run: gets what was measured.
        rows: get it too, where they are given.
    """
    with progress_bar(label) as on_progress:
        on_progress(0, total)

        def on_step(step: int, row: dict[str, float]) -> None:
            on_progress(step, total)
            if rows is not None:
                rows.append({"step": step, **row})
            run.log_metrics(row, step)

        yield on_step


def launch_options() -> list[str]:
    """Torchrun's options, where somebody gave some and torchrun did not start this process already."""
    from erasediff.environment import environment

    given = environment()
    return shlex.split(given.erasediff_launch or "") if given.rank is None else []


def launched(name: str, options: Sequence[str], arguments: Sequence[str] = ()) -> int:
    """Run a stage's command in several processes; the exit code of the first that failed, which has said why."""
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as torchrun

    try:
        torchrun([*options, "-m", f"stages.{name}", *arguments])
    except ChildFailedError as error:
        code = min(error.failures.values(), key=lambda failure: failure.timestamp).exitcode
        return 128 - code if code < 0 else code or 1  # of one that a signal ended, as a shell says it
    return 0
