"""Random conditions in the place of prompts: what a model may be asked for, without any words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from erasediff.errors import ModelError
from erasediff.families.family import Condition, DenoiserArguments

#: The prompt's embeddings by tokens, and those of the whole prompt.
TOKENS, WHOLE = "encoder_hidden_states", ("pooled_projections", "text_embeds")
#: A surrogate's length, as a share of its prompt's.
SHORTEST, LONGEST = 0.8, 1.2


def surrogates(condition: Condition, generator: torch.Generator) -> DenoiserArguments:
    r"""Return a random condition for each row, of about its length, and the likelier the less it is alike.

    .. math:: \tilde c = s \lVert c \rVert \frac{n}{\lVert n \rVert}, \quad n \sim N(0, 1), \quad s \sim U(0.8, 1.2),
              \quad \text{kept with probability } \min(1, 1 - \cos(c, \tilde c))

    What is no embedding, such as masks and sizes, stays.

    Args:
        condition: of what is forgotten.
        generator: on the CPU.
    Raises: ModelError: the model is asked by classes, which have no neighbourhood.
    Source: latent anchoring of SPM, arXiv 2312.16145, section 3.3; the sampling as in its code.
    """
    assert isinstance(condition, DenoiserArguments)  # the only kind there is
    if not isinstance(condition.batched.get(TOKENS), Tensor):
        raise ModelError("latent_anchoring samples among embeddings of prompts, and this model is asked by classes")
    scale = torch.rand(len(condition.batched[TOKENS]), generator=generator) * (LONGEST - SHORTEST) + SHORTEST

    def sampled(value: Any, name: str) -> Any:
        if isinstance(value, Mapping):
            return {inner: sampled(part, inner) for inner, part in value.items()}
        if name != TOKENS and name not in WHOLE:
            return value
        return like(value, scale, generator)

    return DenoiserArguments({n: sampled(value, n) for n, value in condition.batched.items()})


def like(embeddings: Tensor, scale: Tensor, generator: torch.Generator) -> Tensor:
    """Return random vectors, ``scale`` times as long as embeddings ``(B, …)``; the less alike, the likelier."""
    known = embeddings.float().cpu().flatten(1)
    found, open_ = torch.empty_like(known), torch.arange(len(known))
    while len(open_):
        drawn = torch.randn(len(open_), known.shape[1], generator=generator)
        kept = torch.rand(len(open_), generator=generator) < 1 - F.cosine_similarity(drawn, known[open_])
        found[open_[kept]] = F.normalize(drawn[kept], dim=1)
        open_ = open_[~kept]
    lengths = known.norm(dim=1, keepdim=True) * scale[:, None]
    return (found * lengths).view(embeddings.shape).to(embeddings)
