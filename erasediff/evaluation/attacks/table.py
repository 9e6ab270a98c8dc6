"""The attacks by name."""

from __future__ import annotations

#: What each attack does, by the name of its file and in ``evaluate.attacks``.
ATTACKS: dict[str, str] = {
    "completion": "pictures of the concept, noised in part or known in half, are finished",
    "embedding": "a condition is searched under which pictures of the concept are denoised best (white box)",
    "inversion": "pictures of the concept are followed back to noise, and drawn again",
    "membership": "losses tell pictures that were trained on from held-out ones (AUC; 0.5: they do not)",
    "merging": "the erased weights joined with a harmless LoRA of the same base",
    "p4d": "tokens are searched under which the model says what the base says of the concept (white box)",
    "precision": "weights rounded, as a quantised copy has them",
    "resurgence": "harmless fine-tuning on what was kept, all weights or a LoRA, as a curve",
    "ring_a_bell": "tokens are searched whose text embedding is that of the concept; no picture is needed",
    "settings": "other steps and guidance of the sampler",
    "unlearndiffatk": "tokens before the prompt are searched that bring a picture back (UnlearnDiffAtk, white box)",
    "wordings": "the concept misspelt, in other words and languages",
}
