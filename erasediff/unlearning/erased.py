"""The result of an erasing, and how it shows itself in a notebook."""

from __future__ import annotations

import base64
import html
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch

from erasediff.data.figures import picture_grid, plot_trace
from erasediff.data.images import png_bytes
from erasediff.errors import EraseDiffError, ParamsError
from erasediff.families import family_of
from erasediff.families.original_format import is_single_file, save_single_file
from erasediff.records import ERASURE, EffectiveSettings, Value
from erasediff.unlearning.adapters import Lora, write_lora
from erasediff.unlearning.card import model_card

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline
    from matplotlib.axes import Axes
    from PIL import Image

#: Kept concepts that are shown beside the forgotten ones.
KEPT_SHOWN = 4
#: A notebook shows a result by itself; pictures are drawn for that only where it takes no longer than so many seconds.
SECONDS_TO_SHOW = 10
#: The losses that stand for a run are means of its last so many updates: a single one is noisy.
LAST_UPDATES = 10


@dataclass(repr=False)
class Erased:
    """An erased pipeline, and how it came about.

    Attributes:
        made: the erased pipeline, or what makes it.
        history: a row an update: losses, multiplier, cosine of the gradients, their lengths.
        record: method, settings and updates that really ran.
        base: the pipeline that was given.
        forgotten: the concepts to forget.
        kept: the concepts of the pictures to keep.
        lora: what was trained, where ``adapter`` was ``lora``.
        size: height and width of the pictures that it was erased at; ``None``: the model's own.
    """

    made: DiffusionPipeline | Callable[[], DiffusionPipeline]
    history: list[dict[str, float]] = field(default_factory=list)
    record: EffectiveSettings = field(kw_only=True)
    base: DiffusionPipeline = field(kw_only=True)
    forgotten: tuple[str, ...] = field(kw_only=True)
    kept: tuple[str, ...] = field(kw_only=True)
    lora: Lora | None = None
    size: tuple[int, int] | None = None

    @cached_property
    def pipeline(self) -> DiffusionPipeline:
        """The erased pipeline, of the class of the one that was given.

        One with a LoRA fused is a second network beside the base, made of that when it is first asked for.
        """
        from diffusers import DiffusionPipeline

        return self.made if isinstance(self.made, DiffusionPipeline) else self.made()

    @property
    def method(self) -> str:
        """Name of the method."""
        return self.record.method

    @property
    def settings(self) -> Mapping[str, Value]:
        """The settings that really ran: those that the method fixed, and those that were given."""
        return self.record.settings

    @property
    def updates(self) -> int:
        """Number of updates made."""
        return self.record.updates

    def save(self, folder: Path | str, *, fused: bool | None = None) -> None:
        """Write the erased model as plain diffusers loads it.

        Args:
            folder: or a file that ends in ``.safetensors``, for the whole pipeline in its original format, as ComfyUI
                and A1111 keep it; of Stable Diffusion 1.x, 2.x and SDXL.
            fused: ``True`` writes the whole pipeline; ``False`` the LoRA alone, as ``load_lora_weights`` takes it, and
                of a UNet once more under the keys of ComfyUI and A1111. By default what was trained.
        Raises: ParamsError: there is no LoRA. ModelError: the pipeline has no such format.
        """
        if is_single_file(folder):
            if fused is False:
                raise ParamsError(f"{folder} is one file, and a LoRA is written as two: name a folder")
            record = {"concepts": self.forgotten, "before": [], **self.record.to_json()}
            save_single_file(self.pipeline, Path(folder), {ERASURE: json.dumps(record)})
            return
        if fused is None:
            fused = self.lora is None
        if fused:
            self.pipeline.save_pretrained(folder)
            return
        if self.lora is None:
            raise ParamsError("there is no LoRA to save: erase with adapter lora, or save the whole pipeline")
        about = {"erased": json.dumps(self.forgotten), "method": self.method, "updates": str(self.updates)}
        write_lora(self.base, self.lora, Path(folder), {**about, "settings": json.dumps(dict(self.settings))})

    def publish(
        self,
        folder: Path | str,
        *,
        fused: bool | None = None,
        measured: Mapping[str, object] | None = None,
        came_back: Mapping[str, object] | None = None,
    ) -> None:
        """:meth:`save`, and beside it ``README.md``: the model card that the Hugging Face hub shows.

        Args:
            measured: what was measured of the model, by what it is called, such as ``{"unlearning accuracy": 0.98}``.
            came_back: likewise, under attacks.
        """
        if is_single_file(folder):
            raise ParamsError(f"{folder} is one file, and a model is published with its card: name a folder")
        self.save(folder, fused=fused)
        whole = self.lora is None if fused is None else fused
        card = model_card(self, fused=whole, measured=measured, came_back=came_back)
        card.save(Path(folder) / "README.md")

    def push_to_hub(self, repo: str, *, private: bool = True, token: str | None = None, **published: Any) -> str:
        """Upload what :meth:`publish` writes, and return its address; the repository is made where there is none.

        Args:
            repo: ``ORGANISATION/NAME``.
            private: of a new repository.
            published: arguments of :meth:`publish`.
        Raises: huggingface_hub's errors: no network, no right to write there.
        """
        from huggingface_hub import HfApi

        api = HfApi(token=token)
        api.create_repo(repo, private=private, exist_ok=True)
        with TemporaryDirectory(prefix="erasediff-hub-") as folder:
            self.publish(folder, **published)
            message = f"{', '.join(self.forgotten)} forgotten by {self.method}"
            return str(api.upload_folder(repo_id=repo, folder_path=folder, commit_message=message))

    def show(
        self,
        n: int = 4,
        *,
        concepts: Sequence[str] | None = None,
        seed: int = 0,
        steps: int | None = None,
        guidance_scale: float | None = None,
    ) -> Image.Image:
        """The same concepts and seeds before and after, as one picture; a notebook shows it.

        Args:
            n: pictures a concept, of the seeds ``seed`` to ``seed + n - 1``.
            concepts: by default the forgotten ones, marked in red, and some of the kept ones.
            steps: of the sampler; the model's own by default.
            guidance_scale: 1 is no guidance; the model's own by default.

        Raises: UnknownConcept.
        """
        shown = list(self.forgotten + self.kept[:KEPT_SHOWN]) if concepts is None else list(concepts)
        prompts, seeds = [c for c in shown for _ in range(n)], [*range(seed, seed + n)] * len(shown)
        both = [
            family_of(pipeline, self.size).sample(prompts, seeds, steps=steps, guidance_scale=guidance_scale)
            for pipeline in (self.base, self.pipeline)
        ]
        images = torch.cat([drawn.view(len(shown), n, *drawn.shape[1:]) for drawn in both], dim=1)
        return picture_grid(images, shown, "", tile=64, marked=self.forgotten, groups=("before", "after"))

    def plot(self) -> Sequence[Axes]:
        """Losses, multiplier and cosine of the gradients over the updates, on two matplotlib axes.

        Raises: EraseDiffError: matplotlib is not installed.
        """
        try:
            import matplotlib.pyplot as plt
        except ImportError:
            raise EraseDiffError("plot() needs matplotlib: pip install matplotlib") from None
        _, axes = plt.subplots(1, 2, figsize=(10, 3.5), layout="constrained")
        plot_trace(self.history, axes)
        return axes

    def __repr__(self) -> str:
        return f"Erased({', '.join([*map(repr, self.forgotten), *self._facts()])})"

    def _repr_html_(self) -> str:
        facts = html.escape(", ".join(self._facts()))
        return f"<p><b>Erased {html.escape(', '.join(self.forgotten))}</b>: {facts}</p>{self._picture()}"

    def _facts(self) -> list[str]:
        found = {name: self._last(f"{name}_loss") for name in ("retain", "forget")}
        losses = [f"{name} {value:.3g}" for name, value in found.items() if not math.isnan(value)]
        moved = [] if self.record.concept_change is None else [f"concept moved {self.record.concept_change:.2f}"]
        return [self.method, f"{self.updates} updates", *losses, *moved]

    def _last(self, name: str) -> float:
        values = [row[name] for row in self.history[-LAST_UPDATES:] if name in row]
        return sum(values) / len(values) if values else math.nan

    def _picture(self) -> str:
        if not self._seconds_to_draw() < SECONDS_TO_SHOW:  # unknown, too
            return "<p><code>result.show()</code> draws the same seeds before and after.</p>"
        encoded = base64.b64encode(png_bytes(self.show())).decode()
        return f'<img alt="the same seeds before and after" src="data:image/png;base64,{encoded}">'

    def _seconds_to_draw(self) -> float:
        """About how long :meth:`show` takes, by the speed of the training, where a picture is some four passes."""
        family = family_of(self.base, self.size)
        pictures = 2 * 4 * len(self.forgotten + self.kept[:KEPT_SHOWN])
        passes = pictures * family.default_steps * (1 if family.default_guidance_scale == 1 else 2)
        return passes / (4 * self._last("images_per_second"))
