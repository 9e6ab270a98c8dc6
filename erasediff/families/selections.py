"""Parts of a denoiser by name: which parameters erasing may change."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import NamedTuple


class Selection(NamedTuple):
    """Parameters whose name contains one of the first parts and none of the second."""

    wanted: tuple[str, ...] = ("",)
    unwanted: tuple[str, ...] = ()

    def takes(self, name: str) -> bool:
        """True if a parameter of this name is selected."""
        return any(part in name for part in self.wanted) and not any(part in name for part in self.unwanted)


_TIME = ("time_emb", "time_proj", "time_text_embed", "time_guidance_embed", "timestep_embedder", "adaln_single")

#: Networks with attention to the prompt of its own, ``attn2``: UNets, SANA, PixArt. The names are those of ESD's code
#: (``xattn``, ``noxattn``, ``selfattn``, ``notime``; arXiv 2303.07345); keys and values alone are its *strict* variant.
CROSS_ATTENTION = MappingProxyType(
    {
        "full": Selection(),
        "xattn": Selection(("attn2",)),
        "xattn_kv": Selection(("attn2.to_k", "attn2.to_v")),
        "xattn_v": Selection(("attn2.to_v",)),
        "noxattn": Selection(unwanted=("attn2",)),
        "selfattn": Selection(("attn1",)),
        "notime": Selection(unwanted=_TIME),
        "attention": Selection(("attn", "attentions")),
    }
)

#: Networks where pictures and prompt attend to each other in one place: SD 3, FLUX.
JOINT_ATTENTION = MappingProxyType(
    {
        "full": Selection(),
        "xattn": Selection((".attn.",)),
        "xattn_kv": Selection((".attn.to_k", ".attn.to_v", "add_k_proj", "add_v_proj")),
        "xattn_v": Selection((".attn.to_v", "add_v_proj")),
        "noxattn": Selection(unwanted=(".attn.",)),
        "selfattn": Selection((".attn2.",), ("add_",)),
        "notime": Selection(unwanted=_TIME),
        "attention": Selection(("attn",)),
    }
)

#: Longer names for the same.
ALIASES = {
    "cross_attention": "xattn",
    "self_attention": "selfattn",
    "no_cross_attention": "noxattn",
    "no_time_embedding": "notime",
}


def selected(names: Iterable[str], selection: str, selections: Mapping[str, Selection]) -> list[str]:
    """Return the parameter names that a selection takes, in their order; none where it takes none.

    Args:
        selection: a name of ``selections``, one of :data:`ALIASES`, or a part of parameter names.
    """
    chosen = selections.get(ALIASES.get(selection, selection), Selection((selection,)))
    return [name for name in names if chosen.takes(name)]
