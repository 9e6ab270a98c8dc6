"""An attribute is forgotten of one thing alone; several concepts at once."""

import pytest
import torch
from accelerate import Accelerator
from tiny_stable_diffusion import tiny_stable_diffusion

from erasediff import cli
from erasediff.artifacts import read_json
from erasediff.errors import ParamsError
from erasediff.examples import open_example
from erasediff.examples.world import STYLES
from erasediff.families import family_of
from erasediff.families.class_conditional import build_pipeline
from erasediff.unlearning.drawing_sets import FORGOTTEN_BLOCK, KEPT_BLOCK, HowDrawn, drawn_set
from erasediff.unlearning.erasing import erase
from erasediff.unlearning.words import Wordings, of_owner

FAST = {"outer_steps": 1, "forget_batch_size": 2, "retain_batch_size": 2, "progress": False, "generate": 1}


@pytest.fixture(scope="module")
def pipeline():
    return tiny_stable_diffusion()


@pytest.mark.unit
@pytest.mark.parametrize(
    ("concept", "owner", "expected"),
    [
        ("watercolour", "star", "star in watercolour style"),
        ("star", "watercolour", "star in watercolour style"),
        ("hat", "cat", "a cat with a hat"),
    ],
)
def test_a_thing_and_what_it_has_are_asked_for_together(concept, owner, expected):
    prompts = of_owner(concept, owner)
    assert any(expected in prompt for prompt in prompts) and len(set(prompts)) == len(prompts) > 2
    assert all(word in prompt for prompt in prompts for word in (concept, owner))


@pytest.mark.unit
def test_only_with_its_owner_a_concept_is_forgotten_and_with_others_it_is_kept(pipeline):
    family = family_of(pipeline)
    asked = Wordings(family, ["watercolour"], Accelerator(), "star")
    forget = drawn_set(family, ["watercolour"], FORGOTTEN_BLOCK, asked, HowDrawn(4), read=False)
    assert set(forget.concepts) == {"watercolour"} and all("star" in prompt for prompt in forget.prompts)
    retain = drawn_set(family, ["cubism"], KEPT_BLOCK, asked, HowDrawn(8), read=False)
    general = [prompt for prompt, concept in zip(retain.prompts, retain.concepts, strict=True) if not concept]
    assert any("watercolour" in prompt for prompt in general)
    assert any("star" in prompt and "cubism" in prompt for prompt in general)
    assert any("star" in prompt and "cubism" not in prompt for prompt in general)
    assert not any("watercolour" in prompt and " star" in prompt for prompt in retain.prompts)
    without = Wordings(family, ["watercolour"], Accelerator())
    plain = drawn_set(family, ["cubism"], KEPT_BLOCK, without, HowDrawn(8), read=False)
    assert not any("watercolour" in prompt for prompt in plain.prompts)


@pytest.mark.unit
def test_what_is_said_to_be_forgotten_is_the_two_together(pipeline):
    result = erase(pipeline, "watercolour", erase_from="star", preserve=["cubism"], **FAST)
    assert result.forgotten == (of_owner("watercolour", "star")[0],) and result.kept == ("cubism",)


@pytest.mark.unit
@pytest.mark.parametrize("method", ["erasediff", "esd", "uce"])
def test_several_words_are_forgotten_at_once(pipeline, method):
    how = FAST if method != "uce" else {"progress": False}
    how = how if method == "erasediff" else {**how, "preserve": ["square"]}
    result = erase(pipeline, ["star", "circle"], method=method, **how)
    assert result.forgotten == ("star", "circle") and not {"star", "circle"} & set(result.kept)


@pytest.mark.unit
@pytest.mark.parametrize(
    ("owner", "more", "match"),
    [
        ("star", {"forget": torch.zeros(2, 3, 16, 16)}, "goes with words alone"),
        ("", {}, "erase_from '' names nothing|erase_from  names nothing"),
        ("cubism", {"preserve": ["cubism"]}, "is itself to be forgotten or among what is kept"),
        ("watercolour", {}, "is itself to be forgotten"),
    ],
)
def test_an_owner_that_cannot_be_is_told(pipeline, owner, more, match):
    with pytest.raises(ParamsError, match=match):
        erase(pipeline, "watercolour", erase_from=owner, **more, **FAST)


@pytest.mark.unit
def test_a_model_of_classes_has_no_owners():
    classes = build_pipeline(["a", "b", "c"], (1, 8, 8), block_out_channels=(8,), attention=(False,), norm_num_groups=4)
    with pytest.raises(ParamsError, match="goes with words alone"):
        erase(classes, "a", erase_from="b", **FAST)


@pytest.mark.unit
def test_the_command_takes_it_and_leaves_the_lora_beside_the_model(pipeline, tmp_path, capsys):
    pipeline.save_pretrained(tmp_path / "model")
    how = ["--erase-from", "star", "--preserve", "cubism", "--steps", "1", "--generate", "1"]
    how += ["--set", "adapter=lora", "--set", "forget_batch_size=2", "--set", "retain_batch_size=2"]
    out = tmp_path / "erased"
    assert cli.main(["erase", str(tmp_path / "model"), "watercolour", "--output", str(out), *how]) == 0
    assert read_json(out / "erasure.json")["concepts"] == [of_owner("watercolour", "star")[0]]
    assert (out / "lora" / "pytorch_lora_weights.safetensors").is_file()


@pytest.mark.unit
@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_stars_lose_a_style_that_circles_and_hearts_keep():
    shapes = open_example("shapes")
    result = erase(shapes.pipeline, "hatched", erase_from="star", progress=False)
    family = family_of(result.pipeline)

    def share(objects, style, domain):
        prompts = [f"a {name} in {style} style" for name in objects for _ in range(24)]
        read = shapes.judge.domains[domain].names(family.sample(prompts, list(range(len(prompts))), steps=12))
        wanted = [style] * len(prompts) if domain == "style" else [name for name in objects for _ in range(24)]
        return sum(a == b for a, b in zip(read, wanted, strict=True)) / len(prompts)

    found = {
        "star": share(["star"], "hatched", "style"),
        "star itself": share(["star"], "hatched", "object"),
        "others": share(["circle", "heart", "square"], "hatched", "style"),
        "star, other styles": min(share(["star"], style, "style") for style in STYLES if style != "hatched"),
    }
    assert found["star"] <= 0.1 and min(v for k, v in found.items() if k != "star") >= 0.9, found
