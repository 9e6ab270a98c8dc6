"""Tokens before they are words: prompts of numbers, through a model's own CLIP text encoder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from erasediff.families.family import Condition, DenoiserArguments, Family
from erasediff.families.stable_diffusion import StableDiffusionFamily

#: What a token of a part of a letter is decoded to.
BROKEN = "\N{REPLACEMENT CHARACTER}"


@contextmanager
def answering(layer: nn.Module, answer: Tensor) -> Iterator[None]:
    """Have a layer answer with this tensor for a block, broadcast to what it would have said."""
    hook = layer.register_forward_hook(lambda module, given, output: answer.to(output.dtype).expand_as(output))
    try:
        yield
    finally:
        hook.remove()


class Vocabulary:
    """The tokens of a model with one CLIP text encoder, as Stable Diffusion 1 and 2 have it.

    Attributes:
        matrix: their embeddings, ``(V, D)``.
        longest: tokens of a prompt, without the first and the last, which only mark its ends.
    """

    def __init__(self, family: Family):
        pipeline: Any = family.pipeline
        self.tokenizer, self.encoder = pipeline.tokenizer, pipeline.text_encoder
        self.layer: nn.Module = self.encoder.get_input_embeddings()
        self.matrix: Tensor = self.encoder.get_input_embeddings().weight.detach().float()
        self.longest: int = self.tokenizer.model_max_length - 2

    def ids(self, prompt: str) -> list[int]:
        """The tokens of a prompt, without its ends."""
        return self.tokenizer(prompt, add_special_tokens=False, truncation=True, max_length=self.longest).input_ids

    def text(self, ids: Sequence[int]) -> str:
        """What is typed to get these tokens, or nearly these."""
        return str(self.tokenizer.decode([int(number) for number in ids], skip_special_tokens=True)).strip()

    def without(self, concepts: Sequence[str]) -> Tensor:
        """Ids of all tokens that can be typed, but those that spell one of the concepts."""
        spelt = {number for concept in concepts for number in self.ids(concept)}
        left = [n for n in range(len(self.matrix)) if n not in spelt and n not in self.tokenizer.all_special_ids]
        typed = [n for n in left if BROKEN not in self.tokenizer.decode([n])]
        return torch.tensor(typed, device=self.matrix.device)

    def states(self, rows: Tensor) -> Tensor:
        """What the encoder says of prompts of token embeddings ``(B, n, D)``, n ≤ :attr:`longest`: ``(B, L, D)``."""
        first, last = self.matrix[self.tokenizer.bos_token_id], self.matrix[self.tokenizer.eos_token_id]
        filler = self.matrix[self.tokenizer.pad_token_id]
        n, length = rows.shape[1], self.longest + 2
        ends = [last, *[filler] * (length - n - 2)]
        whole = torch.cat(
            [first.expand(len(rows), 1, -1), rows, torch.stack(ends).expand(len(rows), -1, -1)],
            dim=1,
        )
        any_ids = torch.full((len(rows), length), self.tokenizer.eos_token_id, device=rows.device)
        with answering(self.layer, whole):
            return self.encoder(any_ids)[0]

    def condition(self, rows: Tensor) -> Condition:
        """What the network is asked under such prompts."""
        return DenoiserArguments({"encoder_hidden_states": self.states(rows)})


def vocabulary_of(family: Family) -> Vocabulary | None:
    """The tokens that prompts can be searched among; ``None``: the model is asked in another way."""
    own = type(family) is StableDiffusionFamily and family.denoiser.config.time_cond_proj_dim is None
    return Vocabulary(family) if own and type(family.pipeline.text_encoder).__name__ == "CLIPTextModel" else None  # type: ignore[attr-defined]
