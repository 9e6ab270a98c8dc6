"""What a base training does beside lowering its loss."""

import dataclasses

import pytest
import torch
from accelerate import Accelerator

from erasediff.artifacts import new_folder, write_json
from erasediff.data.images import encode_png
from erasediff.data.table import generated_table
from erasediff.errors import ModelError
from erasediff.families import family_of, open_pipeline
from erasediff.families.class_conditional import build_pipeline
from erasediff.randomness import batch_indices
from erasediff.training.denoising import Recipe, train_denoiser
from erasediff.training.state import warmup_cosine
from stages import layout, pretrain
from stages.params import load_params

SMALL = {"block_out_channels": (8,), "attention": (False,), "norm_num_groups": 4}
SHORT = Recipe(steps=4, batch_size=6, learning_rate=1e-2, condition_dropout=0.0)


def tiny(names="abc"):
    return family_of(build_pipeline(list(names), (1, 8, 8), **SMALL))


def pictures(n=12):
    return torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1


def flat(denoiser):
    return torch.cat([p.detach().flatten() for p in denoiser.parameters()])


class Run:
    """Stands for an MLflow run."""

    run_id = None

    def start(self, *arguments, **named):
        pass

    def log_metrics(self, *arguments):
        pass

    def resumed(self, *arguments):
        pass


@pytest.mark.unit
def test_a_base_never_sees_the_pictures_it_is_tested_on(tmp_path, monkeypatch):
    """Concept c occurs among the test pictures alone: a base that was trained on them would know it."""
    params = load_params().pretrain
    monkeypatch.chdir(tmp_path)
    pngs = [encode_png(image) for image in pictures()]
    table = generated_table(pngs, list("aaaabbbbcccc"), (8, 8), "L").drop(columns="prompt")
    table.loc[[3, 7, 8, 9, 10, 11], "split"] = "test"
    with new_folder(layout.CURATED) as folder:
        table.to_parquet(folder / layout.TABLE.name)
    seen = []
    monkeypatch.setattr("erasediff.data.inputs.load_images", _noting(seen))
    how = {"source": "train", "steps": 2, "batch_size": 2, "block_out_channels": [8], "attention": [False]}
    pretrain.main(Run(), 0, params.model_copy(update={**how, "layers_per_block": 1}))
    assert open_pipeline(layout.BASE).names == ("a", "b")
    assert seen == [table["sample_id"][[0, 1, 2, 4, 5, 6]].tolist()]


@pytest.mark.unit
def test_a_model_of_another_family_than_a_preset_is_for_is_told_before_anything_is_written(tmp_path, monkeypatch):
    """Such as a folder of Stable Diffusion 1.5 under the preset of SDXL."""
    taken = load_params().pretrain
    monkeypatch.chdir(tmp_path)
    pngs = [encode_png(image) for image in pictures()]
    with new_folder(layout.CURATED) as folder:
        generated_table(pngs, list("aaaabbbbcccc"), (8, 8), "L").to_parquet(folder / layout.TABLE.name)
        write_json(folder / "summary.json", {"classes": ["a", "b", "c"]})
    tiny().pipeline.save_pretrained(tmp_path / "own")
    given = {"source": "folder", "path": "own"}
    match = "is of family class_conditional, .*family says flux: .* set pretrain.family to class_conditional"
    with pytest.raises(ModelError, match=match):
        pretrain.main(Run(), 0, taken.model_copy(update={**given, "family": "flux"}))
    assert not layout.BASE.exists()
    pretrain.main(Run(), 0, taken.model_copy(update={**given, "family": "class_conditional"}))
    assert layout.BASE.exists()


def _noting(seen):
    from erasediff.data.inputs import load_images

    def noting(table, shape):
        seen.append(table["sample_id"].tolist())
        return load_images(table, shape)

    return noting


@pytest.mark.unit
@pytest.mark.parametrize(("dropout", "asked"), [(0.0, [0, 1, 2]), (1 - 1e-9, [3])])
def test_condition_dropout_trains_the_null_class_instead_of_the_picture_s_own(dropout, asked):
    family = tiny()
    before = family.denoiser.class_embedding.weight.detach().clone()
    recipe = dataclasses.replace(SHORT, condition_dropout=dropout)
    train_denoiser(family, pictures(), list("abc") * 4, recipe)
    changed = (family.denoiser.class_embedding.weight != before).any(1)
    assert changed.nonzero().flatten().tolist() == asked


@pytest.mark.unit
def test_a_share_of_the_conditions_is_dropped():
    family, asked = tiny(), []
    plain = family.condition
    family.condition = lambda prompts: asked.extend(prompts) or plain(prompts)
    train_denoiser(family, pictures(), list("abc") * 4, dataclasses.replace(SHORT, steps=40, condition_dropout=0.25))
    assert asked.count("") / len(asked) == pytest.approx(0.25, abs=0.08)


@pytest.mark.unit
def test_the_result_is_the_average_of_the_weights():
    """θ̄ ← d θ̄ + (1 − d) θ with d = min(decay, (1 + k) / (10 + k)) at the k-th update, from the first weights."""
    family, followed = tiny(), []

    def follow(step, row):
        followed.append(flat(family.denoiser))

    start = flat(family.denoiser)
    trained = train_denoiser(
        family, pictures(), list("abc") * 4, dataclasses.replace(SHORT, ema_decay=0.5), on_step=follow
    )
    average = start
    for k, weights in enumerate(followed):
        decay = 0.0 if k == 0 else min(0.5, (1 + k) / (10 + k))
        average = decay * average + (1 - decay) * weights
    assert torch.allclose(flat(trained), average, atol=1e-6)
    assert not torch.allclose(flat(trained), followed[-1], atol=1e-4)


@pytest.mark.unit
def test_without_an_average_the_result_is_the_last_weights_in_eval_mode():
    family, followed = tiny(), []
    trained = train_denoiser(
        family, pictures(), list("abc") * 4, SHORT, on_step=lambda *_: followed.append(flat(family.denoiser))
    )
    assert torch.equal(flat(trained), followed[-1]) and not trained.training


@pytest.mark.unit
def test_pictures_are_trained_with_their_own_prompts_in_a_shuffled_order():
    family, asked = tiny("abcdefghijkl"), []
    plain = family.condition
    family.condition = lambda prompts: asked.append(list(prompts)) or plain(prompts)
    train_denoiser(family, pictures(), list("abcdefghijkl"), SHORT, seed=3)
    expected = [batch_indices(12, 6, seed=3, stream="pretrain", step=step) for step in range(4)]
    assert asked == [["abcdefghijkl"[i] for i in index] for index in expected]


@pytest.mark.unit
def test_the_learning_rate_rises_then_falls_along_a_cosine_and_is_the_optimizer_s(monkeypatch):
    used = []
    plain = torch.optim.AdamW.step

    def step(self, *arguments, **named):
        used.extend(group["lr"] for group in self.param_groups)
        return plain(self, *arguments, **named)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    rows = []
    recipe = dataclasses.replace(SHORT, warmup_steps=2)
    train_denoiser(tiny(), pictures(), list("abc") * 4, recipe, on_step=lambda step, row: rows.append(row))
    assert used == pytest.approx([5e-3, 1e-2, 1e-2, 5e-3]) == [row["learning_rate"] for row in rows]
    assert warmup_cosine(4, 2, 4) == pytest.approx(0)


@pytest.mark.unit
def test_long_gradients_are_cut_to_their_greatest_length(monkeypatch):
    lengths = []
    plain = torch.optim.AdamW.step

    def step(self, *arguments, **named):
        grads = [p.grad.flatten() for group in self.param_groups for p in group["params"] if p.grad is not None]
        lengths.append(torch.cat(grads).norm().item())
        return plain(self, *arguments, **named)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    rows = []
    recipe = dataclasses.replace(SHORT, max_grad_norm=0.01)
    train_denoiser(tiny(), pictures(), list("abc") * 4, recipe, on_step=lambda step, row: rows.append(row["grad_norm"]))
    assert lengths == pytest.approx([0.01] * 4, rel=1e-3) and min(rows) > 0.01


@pytest.mark.unit
def test_a_killed_training_goes_on_with_the_same_bits():
    class Kept:
        every, state = 2, None

        def load(self):
            return self.state

        def save(self, state):
            self.state = {key: value.clone() for key, value in state.items()}

    recipe = dataclasses.replace(SHORT, ema_decay=0.5, condition_dropout=0.5, warmup_steps=1)
    data = (pictures(), list("abc") * 4, recipe)
    whole = flat(train_denoiser(tiny(), *data))
    kept = Kept()

    def killed(step, row):
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_denoiser(tiny(), *data, checkpoint=kept, on_step=killed)
    assert int(kept.state["step"]) == 2
    assert torch.equal(flat(train_denoiser(tiny(), *data, checkpoint=kept, accelerator=Accelerator())), whole)
