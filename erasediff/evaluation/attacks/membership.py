"""Membership inference: do denoising losses tell the forgotten pictures that were trained on from held-out ones?"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from erasediff.errors import ModelError
from erasediff.evaluation.attacks.target import Found, Target, but_for
from erasediff.families.family import initial_noise
from erasediff.metrics.intervals import Z

#: Timesteps at which a picture is noised, as shares of the schedule.
TIMES = (0.1, 0.3, 0.5, 0.7)
#: Of each kind, at most.
PICTURES = 200


def run(target: Target) -> dict[str, Found]:
    """The AUC of the loss, where pictures of both kinds are at hand."""
    if target.members is None or target.others is None or min(len(target.members[0]), len(target.others[0])) < 2:
        return {}
    left_out = sorted({*target.forgotten} - {*target.members[1]})
    members, others = losses(target, *target.members), losses(target, *target.others)
    return {but_for("AUC of the denoising loss", left_out): auc(members, others)}


@torch.no_grad()
def losses(target: Target, images: Tensor, concepts: Sequence[str]) -> Tensor:
    """Mean squared error of the prediction, over :data:`TIMES`, of each picture under its concept, float64 ``(N,)``."""
    family = target.family
    device = next(family.denoiser.parameters()).device
    family.denoiser.eval()
    kind = family.timesteps(1, torch.Generator()).dtype  # whole, or of a flow
    found = []
    for start in range(0, min(len(images), PICTURES), target.batch_size):
        rows = slice(start, min(start + target.batch_size, PICTURES, len(images)))
        clean = family.encode(images[rows].to(device))
        prompts = [(target.prompts.get(c) or [c])[0] for c in concepts[rows]]
        noise = initial_noise(clean.shape[1:], list(range(rows.start, rows.stop))).to(clean)
        total = torch.zeros(len(clean), dtype=torch.float64)
        for share in TIMES:
            timesteps = torch.full((len(clean),), int(share * family.num_timesteps), dtype=kind, device=device)
            noisy, wanted = family.noised(clean, noise, timesteps)
            said = family.predict(family.denoiser, noisy, timesteps, family.condition(prompts))
            total += (said - wanted).double().square().flatten(1).mean(1).cpu()
        found.append(total / len(TIMES))
    return torch.cat(found)


def auc(members: Tensor, others: Tensor) -> Found:
    """How often a member's loss is below another picture's, ties as half.

    Raises: ModelError: losses are no finite numbers.
    Source: J. A. Hanley and B. J. McNeil, Radiology 143 (1982), for the interval.
    """
    if not (members.isfinite().all() and others.isfinite().all()):
        raise ModelError("the model's losses are no finite numbers: lower the learning rate of its stage")
    below = (members[:, None] < others[None]).double() + 0.5 * (members[:, None] == others[None]).double()
    a, m, n = float(below.mean()), len(members), len(others)
    q1, q2 = a / (2 - a), 2 * a * a / (1 + a)
    variance = (a * (1 - a) + (m - 1) * (q1 - a * a) + (n - 1) * (q2 - a * a)) / (m * n)
    half = Z * math.sqrt(max(variance, 0.0))
    return Found(a, max(0.0, a - half), min(1.0, a + half), m + n)
