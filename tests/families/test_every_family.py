"""What holds on every family in words or classes of the VAE: every method, any precision, and where networks are."""

import copy

import pytest
import torch
from accelerate import Accelerator
from test_text_to_image import prompts_of
from tiny_pipelines import PIPELINES, stable_diffusion_xl
from tiny_stable_diffusion import tiny_stable_diffusion

from erasediff import erase
from erasediff.data.concept_images import ConceptImages
from erasediff.errors import ModelError
from erasediff.families import family_of
from erasediff.families.weights import dtypes_of
from erasediff.training.encoding import encoders_of
from erasediff.unlearning import METHODS, method_for
from erasediff.unlearning.loop import run_loop

CLOSED_FORMS = {"uce", "speed"}
#: All that train; ``retrain`` has a loop of its own, that of the base.
TRAINING = sorted(set(METHODS) - CLOSED_FORMS - {"retrain"})
#: Networks that attend to the prompt's own embeddings; all others project them first.
OF_UNETS = ("stable_diffusion", "stable_diffusion_xl")
SMALL = {"outer_steps": 1, "forget_batch_size": 2, "retain_batch_size": 2}
FISHER = {"fisher_samples": 2}


@pytest.fixture(scope="module", params=sorted(PIPELINES))
def family(request):
    return family_of(PIPELINES[request.param]())


def sets_of(family):
    images = torch.rand(4, *family.image_shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return [ConceptImages(images[2 * i : 2 * i + 2], [name] * 2) for i, name in enumerate(prompts_of(family))]


@pytest.mark.unit
@pytest.mark.parametrize("method", TRAINING)
def test_every_method_makes_an_update(family, method):
    fisher = FISHER if method in ("sfr_on", "selective_amnesia") else {}
    rows = []
    settings = method_for(method, **SMALL, **fisher, learning_rate=1e-3)
    result = run_loop(family, *sets_of(family), settings, on_step=lambda step, row: rows.append(row))
    base, erased = family.denoiser.state_dict(), result.denoiser.state_dict()
    assert result.updates == len(rows) == 1 and set(base) == set(erased)
    assert all(value.isfinite().all() for value in erased.values())
    assert any(not torch.equal(value, base[name]) for name, value in erased.items())


@pytest.mark.unit
@pytest.mark.parametrize("method", sorted(CLOSED_FORMS))
def test_a_closed_form_is_of_unets_alone_and_told_so_elsewhere(family, method):
    """Also where a projection leaves the width of embeddings as it is."""
    sets = sets_of(family)
    if type(family).__module__.rpartition(".")[2] in OF_UNETS:
        erased = dict(method_for(method).solve(family, *sets).named_parameters())
        assert any(not torch.equal(value, erased[name]) for name, value in family.denoiser.named_parameters())
        return
    with pytest.raises(
        ModelError, match=f"method {method} needs attention to the prompt's own embeddings, as in a UNet"
    ):
        method_for(method).solve(family, *sets)


@pytest.mark.unit
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_trained_in_float32_and_comes_back_as_it_was(family, dtype):
    halved = family_of(copy.deepcopy(family.pipeline).to(dtype))
    before = {name: p.clone() for name, p in halved.denoiser.named_parameters()}
    dtypes, seen = dtypes_of(halved.denoiser), set()
    hook = halved.denoiser.register_forward_pre_hook(lambda network, inputs: seen.add(network.dtype))
    how = {"forget_target": "relabel", "learning_rate": 1e-2}
    sets = dict(zip(("forget", "retain"), sets_of(halved), strict=True))
    result = erase(halved.pipeline, prompts_of(halved)[0], **sets, **SMALL, **how)
    hook.remove()
    assert seen == {torch.float32}
    assert all(torch.equal(p, before[name]) for name, p in halved.denoiser.named_parameters())
    erased = family_of(result.pipeline).denoiser
    assert dtypes_of(erased) == dtypes and all(p.isfinite().all() for p in erased.parameters())
    assert any(not torch.equal(p, before[name]) for name, p in erased.named_parameters())


@pytest.fixture
def other_place():
    """An accelerator whose device has another name than the CPU on which a pipeline is, and is the same."""
    accelerator = Accelerator()
    was, accelerator.state.device = accelerator.state.device, torch.device("cpu", 0)
    yield accelerator
    accelerator.state.device = was


@pytest.mark.unit
@pytest.mark.parametrize("make", [tiny_stable_diffusion, stable_diffusion_xl])
def test_encoders_are_on_the_device_while_they_encode_and_off_it_while_the_network_is_trained(make, other_place):
    family = family_of(make())
    place, events = {}, []

    def follow(network):
        plain = network.to

        def to(device):
            place[network] = str(device)
            return plain(device)

        network.to = to
        called = network.encoder if network is family.encoder else network  # a VAE is asked by its encode()
        called.register_forward_hook(lambda *given: events.append(("encodes", place[network])))

    for network in encoders_of(family):
        follow(network)
    where = lambda: {place[network] for network in encoders_of(family)}  # noqa: E731
    method = method_for("erasediff", **{**SMALL, "outer_steps": 2})
    run_loop(
        family,
        *sets_of(family),
        method,
        accelerator=other_place,
        on_step=lambda *row: events.append(("update", where())),
    )
    updates = [place for what, place in events if what == "update"]
    assert updates == [{"cpu"}] * 2 and {place for what, place in events if what == "encodes"} == {"cpu:0"}
    assert [what for what, _ in events[-2:]] == ["update"] * 2 and where() == {"cpu"}
