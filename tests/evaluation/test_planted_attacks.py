"""Attacks on planted models: a copy of the base, one that hides the word, one that truly forgot."""

import copy
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from painting import Critic, canvases, copy_of_the_base, hides_the_word, shifted_away, truly_forgot
from tiny_pipelines import PIPELINES
from tiny_stable_diffusion import tiny_stable_diffusion

import erasediff
from erasediff.data.concept_images import ConceptImages
from erasediff.errors import ModelError, ParamsError, UnknownConcept
from erasediff.evaluation.attack_section import attack_sections
from erasediff.evaluation.attack_table import lines_of
from erasediff.evaluation.attacks import (
    attacked,
    completion,
    embedding,
    inversion,
    membership,
    merging,
    p4d,
    resurgence,
    ring_a_bell,
    settings,
    to_json,
    unlearndiffatk,
    wordings,
)
from erasediff.evaluation.attacks.benign import fine_tuned
from erasediff.evaluation.attacks.solver import asked, from_noise, guided, inverted, levels, moments, parts
from erasediff.evaluation.attacks.target import Target
from erasediff.evaluation.attacks.tokens import vocabulary_of
from erasediff.families import family_of
from erasediff.families.family import initial_noise
from erasediff.judges.judge import recognised
from erasediff.randomness import generator


def pictures_of(number, name, count=12):
    return ConceptImages(canvases()[number].repeat(count, 1, 1, 1), [name] * count)


def target(family, **changes):
    given = {"steps": 10, "guidance_scale": 1.0, "seed": 0, "pictures": 12, "forget": pictures_of(0, "a")}
    given |= {"retain": pictures_of(1, "b"), "base": copy_of_the_base}
    return Target(family, Critic(), ["a"], **given | changes)


def values(found):
    return {name: it.value for name, it in found.items()}


# The solver


@pytest.mark.reference
@pytest.mark.parametrize("name", [*PIPELINES, "tiny"])
def test_clean_and_noise_are_found_again_from_what_a_family_predicts(name):
    family = family_of(tiny_stable_diffusion() if name == "tiny" else PIPELINES[name]())
    shape = getattr(family, "latent_shape", family.image_shape)
    clean, noise = initial_noise(shape, [1, 2]).clamp(-1, 1), initial_noise(shape, [3, 4])
    for timestep in moments(family, 4):
        noisy, wanted = family.noised(clean, noise, timestep.expand(2))
        found = parts(family, lambda x, t, wanted=wanted: wanted, noisy, timestep)
        a, b, _, _ = levels(family, timestep)
        assert torch.allclose(a * found[0] + b * found[1], noisy, atol=1e-3)
        if a > 0.05:
            assert torch.allclose(found[0], clean, atol=1e-3) and torch.allclose(found[1], noise, atol=1e-2)


@pytest.mark.reference
@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_it_draws_what_the_sampler_of_the_embedded_model_draws(scale):
    family = family_of(erasediff.open_example("shapes").pipeline)
    predict = guided(family, asked(family, family.condition(["a star", "moon"])), scale)
    expected = family.sample(["a star", "moon"], [1, 2], steps=4, guidance_scale=scale)
    assert torch.allclose(from_noise(family, predict, [1, 2], 4, 2), expected, atol=1e-3)


@pytest.mark.reference
def test_it_draws_what_the_sampler_of_classes_draws(family):
    expected = family.sample(["a", "b"], [1, 2], steps=10)
    drawn = from_noise(family, asked(family, family.condition(["a", "b"])), [1, 2], 10, 2)
    assert torch.allclose(drawn, expected, atol=1e-3)


@pytest.mark.unit
def test_a_picture_followed_back_is_drawn_again(family):
    noise, clean = initial_noise(family.image_shape, [3]), canvases()[:1].repeat(1, 1, 2, 2) * 0.5
    found = inverted(family, lambda x, t: noise, clean, moments(family, 20))
    a, b, _, _ = levels(family, moments(family, 20)[0])
    assert torch.allclose(found, a * clean + b * noise, atol=0.05)


# Conditions searched


@pytest.mark.unit
@pytest.mark.parametrize(
    ("planted", "plain", "searched"), [(copy_of_the_base, 1, 1), (hides_the_word, 0, 1), (truly_forgot, 0, 0)]
)
def test_a_hidden_concept_is_found_by_its_condition_and_one_that_is_gone_is_not(planted, plain, searched):
    what = target(planted())
    assert what.seen().value == plain
    assert values(embedding.run(what)) == {"condition searched": searched}


@pytest.mark.unit
def test_without_a_picture_no_condition_is_searched():
    assert embedding.run(target(hides_the_word(), forget=None)) == {}
    assert embedding.run(target(hides_the_word(), forget=pictures_of(1, "b"))) == {}


@pytest.mark.unit
def test_concepts_that_an_attack_has_no_picture_of_are_named_in_what_it_found():
    what = target(copy_of_the_base()).changed(forgotten=["a", "b"])  # pictures are of an a
    assert list(embedding.run(what)) == ["condition searched, without b"]
    assert list(inversion.run(what)) == ["drawn again from their noise, without b"]
    assert all(name.endswith(", without b") for name in completion.run(what))
    trained = (canvases()[:1].repeat(2, 1, 1, 1), ["a", "a"])
    found = membership.run(what.changed(members=trained, others=trained))
    assert list(found) == ["AUC of the denoising loss, without b"]
    _, words = spoken(lambda prompt: True)
    assert list(unlearndiffatk.run(words.changed(forgotten=["star", "nothing"]))) == [
        "3 tokens before the prompt, without nothing"
    ]


@pytest.mark.unit
def test_a_search_whose_losses_are_no_numbers_is_told_and_asks_no_empty_prompt(monkeypatch):
    monkeypatch.setitem(p4d.COSTS, "quick", p4d.Cost(2, 1, 1))
    _, what = spoken(lambda prompt: False)
    base = family_of(tiny_stable_diffusion())
    base.predict = lambda denoiser, noisy, timesteps, condition: noisy * float("nan")
    with pytest.raises(ModelError, match="losses are no finite numbers"):
        p4d.run(what.changed(base=lambda: base))


@pytest.mark.unit
def test_the_condition_of_a_text_model_is_moved_and_the_model_stays():
    family = family_of(tiny_stable_diffusion())
    searched = embedding.Searched.of(family, "a red star")
    before = {name: value.detach().clone() for name, value in searched.values.items()}
    weights = [w.clone() for w in family.denoiser.parameters()]
    what = target(family, forget=None)
    noisy, timesteps = initial_noise(family.latent_shape, [0]), torch.tensor([500])
    plain = family.predict(family.denoiser, noisy, timesteps, family.condition(["a red star"]))
    assert torch.allclose(searched.predict(noisy, timesteps), plain, atol=1e-5)
    few = embedding.Cost(2, 2, 0.05, 4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(embedding.COSTS, "quick", few)
        embedding.search(what, searched, torch.zeros(3, *family.image_shape))
    assert set(before) == {"encoder_hidden_states"}
    assert all(not torch.equal(before[name], value) for name, value in searched.values.items())
    assert all(torch.equal(a, b) for a, b in zip(weights, family.denoiser.parameters(), strict=True))


# Tokens searched


@pytest.fixture(scope="module")
def words():
    return vocabulary_of(family_of(erasediff.open_example("shapes").pipeline))


@pytest.mark.reference
def test_prompts_of_tokens_ask_what_prompts_of_words_ask(words):
    family = family_of(erasediff.open_example("shapes").pipeline)
    prompt = "a green star in neon style"
    ids = words.ids(prompt)
    states = words.states(words.matrix[torch.tensor([ids])])
    assert torch.allclose(states, family.condition([prompt])["encoder_hidden_states"], atol=1e-5)
    assert words.text(ids) == prompt and not set(words.ids("star")) & set(words.without(["star"]).tolist())


@pytest.mark.unit
def test_a_model_that_is_asked_in_another_way_has_no_tokens_to_search(family):
    what = target(copy_of_the_base())
    names = ["unlearndiffatk", "ring_a_bell", "p4d", "wordings"]
    assert attacked(what, names) == {} and vocabulary_of(family) is None
    assert vocabulary_of(family_of(PIPELINES["stable_diffusion_xl"]())) is None


@pytest.mark.property
@given(st.lists(st.lists(st.floats(-3, 3), min_size=4, max_size=4), min_size=1, max_size=3))
def test_rows_are_brought_to_the_nearest_shares(rows):
    rows = torch.tensor(rows, dtype=torch.float64)
    found = unlearndiffatk.on_simplex(rows)
    ordered = rows.sort(1, descending=True).values  # the closed form: Duchi et al. 2008
    counts = torch.arange(1, 5)
    cut = (ordered.cumsum(1) - 1) / counts
    last = (ordered > cut).sum(1, keepdim=True)
    assert torch.allclose(found, (rows - cut.gather(1, last - 1)).clamp(min=0), atol=1e-6)


@pytest.mark.unit
def test_tokens_are_sampled_by_their_shares_with_a_gradient_to_these():
    shares = torch.tensor([[0.0, 1.0, 0.0], [0.5, 0.0, 0.5]], requires_grad=True)
    chance = torch.Generator().manual_seed(0)
    seen = torch.stack([unlearndiffatk.chosen(shares, chance).detach().round() for _ in range(50)])
    assert seen[:, 0].argmax(1).eq(1).all() and set(seen[:, 1].argmax(1).tolist()) == {0, 2}
    (unlearndiffatk.chosen(shares, chance) * torch.arange(3.0)).sum().backward()
    assert torch.equal(shares.grad, torch.arange(3.0).expand(2, 3))


class Spoken:
    """A judge of pictures that say with which prompt they were drawn."""

    concepts = ("star", "nothing")

    def __init__(self, shows):
        self.shows, self.texts = shows, []

    def sample(self, prompts, seeds, **how):
        self.texts += prompts
        return torch.tensor([float(self.shows(prompt)) for prompt in prompts]).view(-1, 1, 1, 1)

    def read(self, images):
        seen = images.flatten(1)[:, 0]
        return torch.stack([seen, 1 - seen], dim=1), None

    recognises = recognised


def spoken(shows, **changes):
    """A target whose model denoises the better, the nearer its condition is to that of "red"."""
    family, judge = family_of(tiny_stable_diffusion()), Spoken(shows)
    family.sample = judge.sample
    own = family.condition(["red"])["encoder_hidden_states"][:, 1]

    def predict(denoiser, noisy, timesteps, condition):
        far = (condition["encoder_hidden_states"][:, 1] - own).square().mean(1)
        return far.view(-1, 1, 1, 1).expand(noisy.shape)

    family.predict = predict
    images = ConceptImages(torch.zeros(2, *family.image_shape), ["star"] * 2)
    return judge, Target(family, judge, ["star"], 2, 1.0, seed=0, forget=images, **changes)


@pytest.mark.unit
def test_tokens_that_denoise_a_picture_best_are_put_before_the_prompt_until_it_is_seen(monkeypatch):
    monkeypatch.setitem(unlearndiffatk.COSTS, "quick", unlearndiffatk.Cost(2, 8, 25, 1, 0.1))
    judge, what = spoken(lambda prompt: prompt.startswith("red"))
    assert values(unlearndiffatk.run(what)) == {"1 tokens before the prompt": 1.0}
    assert judge.texts[:2] == ["star", "star"] and judge.texts[-1] == "red star"


@pytest.mark.unit
def test_what_is_seen_without_an_attack_counts_and_is_not_attacked():
    judge, what = spoken(lambda prompt: True)
    assert values(unlearndiffatk.run(what)) == {"3 tokens before the prompt": 1.0} and set(judge.texts) == {"star"}


@pytest.mark.unit
def test_what_no_token_brings_back_is_not_found(monkeypatch):
    monkeypatch.setitem(unlearndiffatk.COSTS, "quick", unlearndiffatk.Cost(2, 2, 1, 1, 0.1))
    judge, what = spoken(lambda prompt: False)
    found = unlearndiffatk.run(what)["1 tokens before the prompt"]
    assert (found.value, found.pictures, len(judge.texts)) == (0.0, 2, 2 + 2 * 2) and found.high > 0.5


@pytest.mark.unit
def test_nudity_takes_five_tokens_and_a_prompt_that_is_too_long_is_left_out_and_said():
    judge, what = spoken(lambda prompt: True, prompts={"star": ["star", "star " * 12]})
    found = unlearndiffatk.run(what)
    assert list(found) == ["3 tokens before the prompt, 2 too long left out"] and set(judge.texts) == {"star"}
    assert found["3 tokens before the prompt, 2 too long left out"].pictures == 2
    assert unlearndiffatk.tokens_of(what.changed(forgotten=["nudity"], budget="paper")) == 5
    words = vocabulary_of(what.family)
    words.longest = 75
    told = [unlearndiffatk.fits(words, "star " * length, 3) for length in (58, 59)]
    assert told == [True, False], "60 tokens with both ends, as the official code counts"


@pytest.mark.unit
def test_a_prompt_is_found_by_its_embedding_alone_without_the_words_of_the_concept(words):
    wanted = ring_a_bell.said(words, [words.ids("a green heart on white paper")])[0]
    few, many = (
        ring_a_bell.searched(words, wanted, ["star"], ring_a_bell.Cost(30, n, 1), generator(0, "x")) for n in (0, 60)
    )
    far = [ring_a_bell.distances(words, found[:1], wanted).item() for found in (few, many)]
    assert far[1] < 0.8 * far[0]
    assert not set(many.flatten().tolist()) & {*words.ids("star"), *words.tokenizer.all_special_ids}


@pytest.mark.unit
def test_what_a_concept_is_to_a_text_encoder_is_told_by_pairs_of_prompts(words):
    star, plain = (ring_a_bell.said(words, [words.ids(p)])[0] for p in ("star", "thing"))
    wanted = ring_a_bell.embedding_of(words, "star")
    aside = torch.nn.functional.cosine_similarity((wanted - plain).flatten(), (star - plain).flatten(), dim=0)
    assert aside > 0.5


@pytest.mark.unit
def test_a_prompt_is_found_under_which_the_erased_model_says_what_the_base_says(monkeypatch):
    monkeypatch.setattr(p4d, "TOKENS", 1)
    judge, what = spoken(lambda prompt: prompt == "red")
    base = family_of(tiny_stable_diffusion())
    base.predict = lambda denoiser, noisy, timesteps, condition: torch.zeros_like(noisy)
    assert values(p4d.run(what.changed(base=lambda: base))) == {"a prompt without its words": 1.0}
    assert p4d.run(what) == {}  # without a base there is nothing to go by
    assert set(judge.texts) == {"red"}


# Weights and pictures


@pytest.mark.unit
def test_harmless_fine_tuning_brings_back_what_was_only_hidden_and_not_what_is_gone():
    hidden, gone = shifted_away(), truly_forgot()
    before = [w.clone() for w in hidden.denoiser.parameters()]
    found = resurgence.run(target(hidden))
    points = {it.at: it.value for name, it in found.items() if name.startswith("all weights")}
    assert points[0] == 0 and points[40] == 1 and list(points) == [0, 5, 15, 40]
    assert all(torch.equal(a, b) for a, b in zip(before, hidden.denoiser.parameters(), strict=True))
    assert set(values(resurgence.run(target(gone))).values()) == {0.0}
    assert to_json({"resurgence": found})["resurgence"]["all weights, 5 updates"]["at"] == 5


@pytest.mark.unit
def test_the_base_is_no_place_for_a_concept_to_come_back_to():
    assert values(resurgence.run(target(copy_of_the_base(), is_base=True))) == {"before": 1.0}
    assert resurgence.run(target(copy_of_the_base(), retain=None)) == {}


@pytest.mark.unit
def test_a_lora_is_trained_beside_the_layers_and_changes_what_is_said():
    family = hides_the_word()
    tuned = fine_tuned(family, pictures_of(2, "b"), steps=30, batch_size=4, seed=0, lora=True)
    trained = {name for name, w in tuned.denoiser.named_parameters() if w.requires_grad}
    assert trained and all("lora_" in name for name in trained)
    drawn = [f.sample(["b"], [1], steps=10, guidance_scale=1.0, batch_size=1) for f in (family, tuned)]
    nearer = [float((images - canvases()[2]).square().mean()) for images in drawn]
    assert nearer[1] < nearer[0]


@pytest.mark.unit
def test_weights_are_joined_as_differences_from_the_base():
    base, own, other = (torch.nn.Linear(2, 2) for _ in range(3))
    found = merging.merged(base, (own, 0.5), (other, 2.0))
    wanted = base.weight + 0.5 * (own.weight - base.weight) + 2.0 * (other.weight - base.weight)
    assert torch.allclose(found.weight, wanted)
    shown = values(merging.run(target(hides_the_word())))
    assert shown["erasing × 1 + LoRA × 0.5"] == 0.0 and len(shown) == 3
    assert merging.run(target(hides_the_word(), base=None)) == {}


@pytest.mark.unit
@pytest.mark.parametrize(("planted", "back"), [(copy_of_the_base, 1), (truly_forgot, 0)])
def test_pictures_are_finished_as_what_the_model_believes_in(planted, back):
    what = target(planted())
    found = values(completion.run(what))
    assert {found["from noise of 70%"], found["from noise of 50%"]} == {back}
    assert values(inversion.run(what)) == {"drawn again from their noise": back}
    assert completion.run(target(planted(), forget=None)) == {} == inversion.run(target(planted(), forget=None))


@pytest.mark.unit
def test_the_known_half_of_a_picture_stays():
    images = canvases()[:1].repeat(2, 1, 1, 1)
    found = completion.finished(target(truly_forgot()), "a", images, 1.0)
    assert torch.allclose(found[..., :2], images[..., :2]) and not torch.allclose(found[..., 2:], images[..., 2:])


@pytest.mark.unit
def test_pictures_that_were_never_trained_on_are_taken_first():
    held_out, trained = canvases()[1:2], canvases()[2:]
    what = target(truly_forgot(), others=(held_out, ["a"]), members=(trained, ["a"]))
    assert torch.equal(inversion.originals(what, "a"), held_out)
    assert torch.equal(inversion.originals(what.changed(others=(held_out, ["b"])), "a"), trained)


# Words and settings


@pytest.mark.unit
def test_a_text_model_is_drawn_by_other_samplers_away_from_a_negative_prompt_and_larger():
    family, judge = family_of(tiny_stable_diffusion()), Critic()
    shapes = []
    judge.read = lambda images: (shapes.append(tuple(images.shape[2:])) or torch.eye(4)[[3] * len(images)], None)
    what = Target(family, judge, ["a"], 2, 3.0, seed=0, pictures=1)
    found = settings.run(what)
    assert {"DDIM", "EulerDiscrete", "DPMSolverMultistep", "a negative prompt", "32 × 32 pixels"} <= set(found)
    assert set(shapes) == {(16, 16), (32, 32)} and family.image_shape == (3, 16, 16)


@pytest.mark.unit
def test_other_words_languages_and_those_given_are_asked():
    judge, what = spoken(lambda prompt: prompt in ("Stern", "asterism"))
    found = values(wordings.run(what.changed(wordings={"star": ["asterism"]}, pictures=6)))
    assert found["German"] == found["words given"] == 1.0 and found["French"] == found["synonyms"] == 0.0
    assert {"étoile", "a five-pointed star", "asterism"} <= set(judge.texts)
    unknown = Target(what.family, judge, ["nothing"], 2, 1.0, seed=0, pictures=1)
    assert set(wordings.run(unknown)) == set(wordings.KINDS)


@pytest.mark.unit
def test_all_wordings_are_drawn_at_once_each_as_it_would_be_alone():
    _, what = spoken(lambda prompt: prompt in ("Stern", "asterism"))
    drawn, sample = [], what.family.sample

    def counted(prompts, seeds, **how):
        drawn.append((list(prompts), list(seeds)))
        return sample(prompts, seeds, **how)

    vars(what.family)["sample"] = counted
    found = wordings.run(what.changed(pictures=3))
    ((prompts, seeds),) = drawn
    assert len(prompts) == 3 * len(found) and seeds == what.seeds(3) * len(found)
    assert {it.pictures for it in found.values()} == {3}


@pytest.mark.unit
def test_models_of_half_precision_are_attacked_in_float32_on_a_cpu_and_stay_what_they_are():
    _, what = spoken(lambda prompt: False)
    asked_in = []
    families = [family_of(tiny_stable_diffusion().to(dtype=torch.float16)) for _ in range(2)]
    for family in families:
        family.denoiser.register_forward_pre_hook(lambda unet, given: asked_in.append(given[0].dtype))
    kept = ConceptImages(torch.zeros(2, *what.family.image_shape), ["circle"] * 2, ["a circle"] * 2)
    changes = {"base": lambda: families[1], "retain": kept, "pictures": 1}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(p4d.COSTS, "quick", replace(p4d.COSTS["quick"], steps=1))
        patch.setitem(embedding.COSTS, "quick", replace(embedding.COSTS["quick"], steps=1))
        found = attacked(what.changed(family=families[0], **changes), ["embedding", "p4d"])
    assert set(found) == {"embedding", "p4d"} and set(asked_in) == {torch.float32}
    assert {part.dtype for f in families for part in (f.denoiser, f.encoder)} == {torch.float16}


# The report


def point(value, **more):
    return {"value": value, "low": value, "high": value, "pictures": 9, **more}


@pytest.mark.unit
def test_the_report_shows_each_attack_on_each_model_and_curves_of_those_that_train():
    grown = {f"LoRA, {at} updates": point(at / 40, at=at) for at in (40, 0, 5)}
    found = {
        "base": {"resurgence": {"before": point(1.0, at=0)}, "precision": {"int8 weights": point(0.9)}},
        "erased": {"resurgence": grown},
        "retrained": {"precision": {"int8 weights": point(0.1)}},
    }
    (section,) = attack_sections(found)
    rows = {row[0]: row[1:] for row in section.table.rows}
    assert section.table.head == ("attack", "base", "erased", "retrained")
    assert rows["precision: int8 weights"] == ("0.900 (0.900 to 0.900)", "", "0.100 (0.100 to 0.100)")
    assert rows["resurgence: LoRA, 40 updates"][1].startswith("1.000") and len(rows) == 5
    assert "the retrained model never saw the concept" in section.text and len(section.pictures) == 1
    assert [p["at"] for p in lines_of(grown)["LoRA"]] == [0, 5, 40]
    (without,) = attack_sections({"base": {}, "erased": {"precision": {"int8 weights": point(0.9)}}})
    assert without.table.head == ("attack", "erased") and not without.pictures
    skipped = {
        "clip_score": "the judge is no CLIP model",
        "attack wordings": "it needs a model that is asked by prompts",
    }
    (told,) = attack_sections(found, skipped=skipped)
    line = "Not run: wordings: it needs a model that is asked by prompts."
    assert told.items[-1] == line and told.items[:-1] == section.items
    (nothing,) = attack_sections({"base": {}, "erased": {}}, skipped=skipped)
    assert nothing.text == "No attack ran." and nothing.items == [line]
    assert attack_sections({"base": {}, "erased": {}}, skipped={"clip_score": "no"}) == []


# The embedded model


@pytest.mark.slow
@pytest.mark.reference
def test_a_star_whose_word_alone_was_taken_away_is_found_by_its_condition():
    example = erasediff.open_example("shapes")
    base, pipeline = family_of(example.pipeline), copy.deepcopy(example.pipeline)
    family = family_of(pipeline)
    words = vocabulary_of(family)
    with torch.no_grad():
        words.layer.weight[words.ids("star")] = words.layer.weight[words.ids("circle")]
    images = base.sample(["a star"] * 16, list(range(16)), steps=12, guidance_scale=3.0)
    what = Target(
        family,
        example.judge.object,
        ["star"],
        12,
        3.0,
        seed=0,
        prompts={"star": ["a star"]},
        pictures=12,
        forget=ConceptImages(images, ["star"] * 16),
    )
    assert what.seen().value < 0.1 and what.changed(family=base).seen().value > 0.8
    assert values(embedding.run(what))["condition searched"] > 0.5
    left_half = values(completion.run(what))
    assert left_half["from noise of 30%"] > 0.5  # most of the star is still there


# The verb


@pytest.mark.unit
def test_attack_draws_what_it_needs_from_the_base(pipeline):
    class Sees:
        concepts, image_shape, fingerprint = ("a", "b", "c"), (1, 8, 8), "sees"

        def read(self, images):
            return torch.eye(3)[[0] * len(images)], images.flatten(1)

        def recognises(self, concept, images):
            return torch.ones(len(images), dtype=torch.bool)

    how = {"judge": Sees(), "pictures": 2, "steps": 2}
    found = erasediff.attack(pipeline, "a", base=pipeline, attacks=["completion", "resurgence"], **how)
    assert set(found) == {"completion", "resurgence"} and found["resurgence"]["before"].value == 1.0
    assert set(erasediff.attack(pipeline, ["a"], attacks=["precision", "completion"], **how)) == {"precision"}
    with pytest.raises(ParamsError, match="there is no attack 'setting'; did you mean settings"):
        erasediff.attack(pipeline, "a", attacks=["setting"], **how)
    with pytest.raises(UnknownConcept, match="the judge does not know 'z'; it knows: a, b, c"):
        erasediff.attack(pipeline, "z", **how)
