"""What text encoders read of a prompt: so many tokens, and the rest is cut off."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterable, Iterator
from typing import Any, TypeAlias

from diffusers import DiffusionPipeline

from erasediff.errors import ParamsError, require_unicode, shown

#: Token ids of a prompt, of each text encoder.
Read: TypeAlias = tuple[tuple[int, ...], ...]


def read_by(pipeline: DiffusionPipeline, prompt: str) -> Read:
    """What a pipeline's text encoders read of a prompt; empty where it is asked otherwise than by text."""
    return tuple(_ids(tokenizer, prompt, limit) for tokenizer, limit in _tokenizers(pipeline))


def is_spelled(pipeline: DiffusionPipeline, name: str) -> bool:
    """Return True if every text encoder reads some word of a name in pieces: it is no word that any of them knows."""
    pieces = [len(tokenizer.tokenize(name)) for tokenizer, _ in _tokenizers(pipeline)]
    return bool(pieces) and min(pieces) > len(name.split())


def is_cut(pipeline: DiffusionPipeline, prompt: str) -> bool:
    """Return True if no text encoder reads a prompt to its end."""
    cut = [len(_ids(tokenizer, prompt, limit + 1)) > limit for tokenizer, limit in _tokenizers(pipeline)]
    return bool(cut) and all(cut)


def require_read(pipeline: DiffusionPipeline, names: Iterable[str]) -> None:
    """Raises: ParamsError: a name is longer than the text encoders read: only its beginning would be asked for."""
    for name in names:
        if is_cut(pipeline, name):
            raise ParamsError(f"{shown(repr(name), 60)} is too long: {_limit_words(pipeline)}: shorten it")


def warn_of_cut(pipeline: DiffusionPipeline, prompts: Iterable[str]) -> None:
    """Say of how many prompts the end is not read."""
    cut = [prompt for prompt in dict.fromkeys(prompts) if is_cut(pipeline, prompt)]
    if cut:
        told = f"{len(cut)} prompts are too long, such as {shown(repr(cut[0]), 60)}: {_limit_words(pipeline)}"
        warnings.warn(f"{told}; what is beyond has no effect", stacklevel=2)


def require_told_apart(pipeline: DiffusionPipeline, forget: Iterable[str], keep: Iterable[str]) -> None:
    """Raises: ParamsError: a prompt to forget and another one to keep are the same to the model."""
    known = {read: prompt for prompt in dict.fromkeys(forget) if (read := read_by(pipeline, prompt))}
    for prompt in dict.fromkeys(keep):
        other = known.get(read_by(pipeline, prompt), prompt)
        if other != prompt:
            why = _limit_words(pipeline) if is_cut(pipeline, prompt) else "its tokenizer makes the same of them"
            both = f"{shown(repr(other), 60)} is to be forgotten and {shown(repr(prompt), 60)} to be kept"
            raise ParamsError(f"{both}, but the model cannot tell them apart: {why}")


def _limit_words(pipeline: DiffusionPipeline) -> str:
    return f"its text encoder reads {max(limit for _, limit in _tokenizers(pipeline))} tokens"


def _tokenizers(pipeline: Any) -> Iterator[tuple[Any, int]]:
    """Each tokenizer with the number of tokens that its encoder is given."""
    call = inspect.signature(type(pipeline).__call__).parameters
    for part in ("", "_2", "_3"):
        tokenizer = getattr(pipeline, f"tokenizer{part}", None)
        if tokenizer is None or getattr(pipeline, f"text_encoder{part}", None) is None:
            continue
        limit = tokenizer.model_max_length
        if "max_sequence_length" in call and not type(tokenizer).__name__.startswith("CLIP"):
            limit = call["max_sequence_length"].default
        yield tokenizer, limit


def _ids(tokenizer: Any, prompt: str, limit: int) -> tuple[int, ...]:
    require_unicode([prompt], "prompt")
    return tuple(tokenizer(prompt, truncation=True, max_length=limit).input_ids)
