"""Other samplers than a model's own: schedulers of diffusers, by the names of their classes."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from diffusers import DiffusionPipeline

from erasediff.errors import EraseDiffError, ModelError, ParamsError, did_you_mean, shown


def samplers_of(pipeline: DiffusionPipeline) -> dict[str, Any]:
    """Return the scheduler classes that can sample what a pipeline's own one samples, by name, itself among them."""
    own: Any = pipeline.scheduler
    # A class that needs a package which is not installed is one of diffusers' dummies, and says so.
    found = {kind.__name__: kind for kind in own.compatibles if not vars(kind).get("_backends")}
    if own.config.get("prediction_type") == "flow_prediction":
        found = {n: k for n, k in found.items() if "use_flow_sigmas" in inspect.signature(k.__init__).parameters}
    return {**found, type(own).__name__: type(own)}


@contextmanager
def sampled_by(pipeline: DiffusionPipeline, name: str | None) -> Iterator[None]:
    """Put a scheduler of another class, with the settings of the pipeline's own, into a pipeline for a block.

    Args:
        name: a key of :func:`samplers_of`; ``None``: the pipeline's own.
    Raises: ParamsError: there is no such. ModelError: it stumbles over this model.
    """
    if name is None:
        yield
        return
    known, own = samplers_of(pipeline), pipeline.scheduler
    if name not in known:
        raise ParamsError(
            f"sampler {shown(repr(name))} does not go with a {type(own).__name__}{did_you_mean(str(name), known)}; "
            f"there are: {', '.join(sorted(known))}"
        )
    try:
        pipeline.scheduler = known[name].from_config(own.config, **_clipped(own, known[name]))
        yield
    except EraseDiffError:
        raise
    except (ValueError, TypeError, NotImplementedError, AssertionError, ImportError) as error:  # its own checks
        raise ModelError(f"{name} does not sample this model: {shown(str(error), 200)}") from None
    finally:
        pipeline.scheduler = own


def _clipped(own: Any, kind: Any) -> dict[str, object]:
    """How a sampler is told to keep x₀ within the range to which the pipeline's own one clips it.

    Those of several orders know no ``clip_sample``, and without it draw scribble from a model of pixels in few steps.
    Their dynamic thresholding, at most at the end of the range, is the same.
    """
    takes = inspect.signature(kind.__init__).parameters
    if not own.config.get("clip_sample") or "clip_sample" in takes or "thresholding" not in takes:
        return {}
    return {"thresholding": True, "sample_max_value": own.config.get("clip_sample_range", 1.0)}


def require_no_negative(negative_prompt: str | None, what: str) -> None:
    """Raises: ParamsError: a negative prompt, which a kind of model cannot be given."""
    if negative_prompt is not None:
        raise ParamsError(f"negative_prompt {shown(repr(negative_prompt), 60)}: {what} takes none")
