"""Methods that train nothing, against what they promise: least squares, and a null space that does not move."""

import pytest
import torch
from test_words import Calls, sets
from tiny_stable_diffusion import tiny_stable_diffusion

from erasediff.errors import ModelError
from erasediff.families import family_of
from erasediff.families.class_conditional import build_pipeline
from erasediff.unlearning import method_for
from erasediff.unlearning.erasing import erase
from erasediff.unlearning.methods.closed_form import Embeddings, embeddings


@pytest.fixture(scope="module")
def pipeline():
    return tiny_stable_diffusion()


def random_embeddings(seed=0, width=12):
    draw = torch.Generator().manual_seed(seed)
    asked, answers, null = (torch.randn(n, width, generator=draw, dtype=torch.float64) for n in (5, 5, 3))
    kept = torch.randn(40, width, generator=draw, dtype=torch.float64)
    kept[:, width // 2 :] *= 0.01  # half the directions are hardly used
    return Embeddings(asked, answers, torch.cat([kept, null * 0.01]), null * 0.01)


@pytest.mark.reference
def test_uce_is_the_minimum_of_its_squares():
    """Against gradient descent's own condition: no small step in any direction is better."""
    found, method = random_embeddings(), method_for("uce")
    weight = torch.randn(7, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def squares(new):
        erased = (new @ found.asked.T - weight @ found.answers.T).square().sum() / len(found.asked)
        kept = ((new - weight) @ found.kept.T).square().sum() / len(found.kept)
        return method.erase_scale * erased + method.keep_scale * kept + method.stay * (new - weight).square().sum()

    edited = (weight @ method.matrix(found)).requires_grad_()
    (gradient,) = torch.autograd.grad(squares(edited), edited)
    assert gradient.abs().max() < 1e-9 and squares(edited) < squares(weight)


@pytest.mark.unit
def test_speed_moves_nothing_that_is_kept():
    found, method = random_embeddings(), method_for("speed")
    change = method.matrix(found) - torch.eye(12, dtype=torch.float64)
    assert (change @ found.null.T).abs().max() < 1e-6
    used = found.kept.clone()
    used[:, 6:] = 0
    assert (change @ used.T).abs().max() < 0.05 * (change @ found.asked.T).abs().max()
    before = (found.asked - found.answers).norm()
    moved = (method.matrix(found) @ torch.eye(12, dtype=torch.float64)) @ found.asked.T
    assert before > 0 and not torch.allclose(moved, found.asked.T)


@pytest.mark.unit
@pytest.mark.parametrize("method, parts", [("uce", ("attn2.to_k", "attn2.to_v")), ("speed", ("attn2.to_v",))])
def test_only_keys_and_values_change_and_no_picture_is_drawn_and_no_bar_is_shown(method, parts, capsys):
    pipeline = tiny_stable_diffusion()
    drawn = Calls(pipeline.vae.decoder)
    before = {name: p.clone() for name, p in pipeline.unet.named_parameters()}
    result = erase(pipeline, "star", method=method, preserve=["circle", "square"], anchor="circle")
    said = capsys.readouterr().err.splitlines()
    assert "solving in closed form" in said and not any("%" in line for line in said)
    erased = dict(result.pipeline.unet.named_parameters())
    changed = {name for name in before if not torch.equal(before[name], erased[name])}
    assert changed and all(any(part in name for part in parts) for name in changed)
    assert all(torch.equal(p, before[name]) for name, p in pipeline.unet.named_parameters())
    assert drawn.count == 0 and result.updates == 0 and result.record.passes == 0 and not result.history
    assert result.settings["anchor"] == "circle" and result.settings["edits"].startswith("xattn")
    assert not any(p.requires_grad for p in erased.values())


@pytest.mark.unit
def test_a_concept_is_taken_for_its_anchor(pipeline):
    """Values of the prompts to forget come nearer to those of their answers; of the null prompt they stay."""
    family, data = family_of(pipeline), sets()
    method = method_for("uce", forget_target="anchor", anchor="circle")
    found = embeddings(family, *data.values(), method)
    matrix = method.matrix(found)
    there, here = (found.asked @ matrix.T - found.answers).norm(), (found.asked - found.answers).norm()
    assert there < 0.7 * here
    assert (found.null @ matrix.T - found.null).norm() < 0.2 * found.null.norm()


@pytest.mark.unit
def test_the_first_token_answers_itself(pipeline):
    """The start of a text draws every prompt's attention: an edit of it gives noise for all of them."""
    family, data = family_of(pipeline), sets()
    method = method_for("uce", forget_target="anchor", anchor="a long blue square")
    found = embeddings(family, *data.values(), method)
    length = len(found.null)
    assert torch.equal(found.asked[::length], found.answers[::length])


@pytest.fixture
def biased():
    """A UNet whose keys and values have biases, as those of some transformers."""
    pipeline = tiny_stable_diffusion()
    draw = torch.Generator().manual_seed(0)
    for name, layer in list(pipeline.unet.named_modules()):
        if name.endswith(("attn2.to_k", "attn2.to_v")):
            layer.bias = torch.nn.Parameter(torch.randn(layer.out_features, generator=draw))
    return pipeline


def layers_of(denoiser):
    return {name: layer for name, layer in denoiser.named_modules() if name.endswith(("attn2.to_k", "attn2.to_v"))}


@pytest.mark.reference
def test_uce_is_the_least_squares_of_whole_keys_and_values_biases_included(biased):
    """W c + b should be what W a + b was, and of what is kept what it was: the bias counts once on either side."""
    family, data = family_of(biased), sets()
    method = method_for("uce", forget_target="anchor", anchor="circle")
    found = embeddings(family, *data.values(), method)
    erased = layers_of(method.solve(family, *data.values()))
    c, a, k = found.asked, found.answers, found.kept
    for name, layer in layers_of(family.denoiser).items():
        weight, bias = layer.weight.detach().double(), layer.bias.detach().double()
        says = lambda x, w=weight, b=bias: x @ w.T + b  # noqa: E731
        rows = [(c, says(a), method.erase_scale / len(c)), (k, says(k), method.keep_scale / len(k))]
        inputs = torch.cat(
            [x * scale**0.5 for x, _, scale in rows] + [torch.eye(c.shape[1]).double() * method.stay**0.5]
        )
        wanted = torch.cat([(y - bias) * scale**0.5 for _, y, scale in rows] + [weight.T * method.stay**0.5])
        solved = torch.linalg.lstsq(inputs, wanted, driver="gelsd").solution.T
        assert torch.allclose(erased[name].weight.double(), solved, atol=1e-5)
        assert torch.equal(erased[name].bias, layer.bias) and not torch.allclose(solved, weight, atol=1e-3)


@pytest.mark.unit
def test_speed_leaves_biases_and_what_the_null_prompt_says(biased):
    family, data = family_of(biased), sets()
    method = method_for("speed", forget_target="anchor", anchor="circle")
    null = embeddings(family, *data.values(), method).null.float()
    erased, changed = layers_of(method.solve(family, *data.values())), 0
    for name, layer in layers_of(family.denoiser).items():
        assert torch.equal(erased[name].bias, layer.bias)
        assert torch.allclose(erased[name](null), layer(null), atol=1e-4)
        changed += not torch.equal(erased[name].weight, layer.weight)
    assert changed == len([name for name in erased if name.endswith("to_v")])


@pytest.mark.unit
def test_what_a_closed_form_does_not_take():
    with pytest.raises(ValueError, match="learning_rate 0.1 has no effect with method uce, which trains nothing"):
        method_for("uce", learning_rate=0.1)
    with pytest.raises(ValueError, match="forget_target uniform_noise .*relabel or anchor"):
        method_for("speed", forget_target="uniform_noise")
    small = build_pipeline(["a", "b"], (1, 8, 8), block_out_channels=(8,), attention=(False,), norm_num_groups=4)
    with pytest.raises(ModelError, match="method uce needs attention to the prompt's own embeddings, as in a UNet"):
        erase(small, "a", method="uce")
