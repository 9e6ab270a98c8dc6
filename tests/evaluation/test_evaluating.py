"""The verb ``evaluate``: a model of any tool against its base."""

import json
from pathlib import Path

import pandas as pd
import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file
from tiny_stable_diffusion import tiny_stable_diffusion

import erasediff
from erasediff.artifacts import new_folder
from erasediff.cli import main
from erasediff.data.concept_images import ConceptImages
from erasediff.data.images import encode_png
from erasediff.errors import ModelError, ParamsError, UnknownConcept
from erasediff.evaluate_command import open_model
from erasediff.evaluation.attacking import attack
from erasediff.evaluation.attacks import merging
from erasediff.evaluation.evaluating import LIMITS, evaluate
from erasediff.evaluation.judging import named_judge
from erasediff.evaluation.protocol import Protocol
from erasediff.examples import open_example
from erasediff.families.class_conditional import ClassConditionalFamily
from erasediff.families.lora import lora_file
from erasediff.families.text_to_image import TextToImage
from erasediff.families.weights import weights_sha256
from erasediff.judges import cnn
from stages.params import load_params

ROOT = Path(__file__).parents[2]


@pytest.fixture
def judge(pipeline):
    shape = (1, 8, 8)
    images, concepts = torch.rand(12, *shape) * 2 - 1, list("abcabcabcabc")
    return cnn.train(images, concepts, shape, width=4, steps=3, batch_size=6, learning_rate=1e-3, seed=0)


@pytest.fixture
def on_disk(pipeline, judge, tmp_path):
    pipeline.save_pretrained(tmp_path / "base")
    with torch.no_grad():
        next(pipeline.unet.parameters()).mul_(0.5)
    pipeline.save_pretrained(tmp_path / "erased")
    with new_folder(tmp_path / "judge") as folder:
        cnn.save(judge, folder)
    return tmp_path


def command(folder, *more):
    given = {"--base": folder / "base", "--judge": folder / "judge", "--output": folder / "out", "--forgotten": "a"}
    words = [word for option, value in given.items() for word in (option, str(value))]
    return ["evaluate", str(folder / "erased"), *words, "--samples", "3", "--steps", "2", *more]


@pytest.mark.unit
def test_the_command_writes_metrics_and_a_report_and_says_the_verdict(on_disk, capsys):
    assert main(command(on_disk)) == 0
    told, progress = capsys.readouterr()
    assert "\nbase: 100 % (18 of 18 pictures)" in progress and "\nerased: 100 % (9 of 9 pictures)" in progress
    assert told.startswith("a forgotten, the rest kept: ") and "recognised" in told
    metrics = json.loads((on_disk / "out" / "metrics.json").read_text())
    assert metrics["models"]["base"] != metrics["models"]["erased"]
    assert metrics["self_checks"] and metrics["gates"]["unlearning_accuracy"]["limit"] == 0.9
    assert "cross_domain_retain_accuracy" not in metrics["erased"], "classes are of one domain"
    page = (on_disk / "out" / "report.html").read_text()
    assert main(command(on_disk, "--quiet")) == 0 and capsys.readouterr().err == ""
    assert "Erasure report: a" in page and "forget set" not in page.split("What this does not show")[0].lower()


@pytest.mark.unit
def test_the_model_is_drawn_on_while_its_forgetting_cannot_be_told(pipeline, judge):
    how = {"base": pipeline, "judge": judge, "samples": 8, "steps": 2, "progress": False, "self_checks": False}
    limits = {"min_unlearning_accuracy": 0.01}
    once, more = (evaluate(pipeline, "a", limits=limits, max_draws=most, **how).evaluation for most in (None, 4))
    assert once.counts["unlearning_accuracy"] == 8 and "max_draws" not in once.protocol
    assert more.counts["unlearning_accuracy"] == 32, "fewer than 30 tell nothing"
    assert (more.protocol["max_draws"], more.protocol["decide_at"]) == (4, 0.01)
    assert more.protocol["drawn_pictures"] == 24  # the base's: each of three concepts once
    with pytest.raises(ParamsError, match="max_draws is 0: each concept is drawn at least once"):
        evaluate(pipeline, "a", max_draws=0, **how)


@pytest.mark.unit
def test_a_command_that_was_stopped_goes_on_at_the_batch_where_it_was(on_disk, monkeypatch, capsys):
    drawn, plain, most = [], ClassConditionalFamily.sample, [99]

    def sample(self, *how, **more):
        if len(drawn) == most[-1]:
            raise KeyboardInterrupt
        drawn.append(how)
        return plain(self, *how, **more)

    monkeypatch.setattr(ClassConditionalFamily, "sample", sample)
    assert main(command(on_disk)) == 0
    file, most = on_disk / "out" / "metrics.json", [*most, len(drawn) - 1]
    whole = file.read_bytes()
    drawn.clear(), file.unlink()
    assert main(command(on_disk)) == 130 and not file.exists()
    drawn.clear(), most.append(99)
    assert main(command(on_disk)) == 0
    assert len(drawn) == 2 and file.read_bytes() == whole  # the planted model of random weights, and the erased one
    assert sorted(path.name for path in file.parent.iterdir()) == ["metrics.json", "report.html"]


@pytest.mark.unit
@pytest.mark.parametrize(
    ("more", "code", "message"),
    [
        (["--limit", "min_unlearning=0.5"], 2, "did you mean min_unlearning_accuracy"),
        (["--limit", "min_unlearning_accuracy"], 2, "no NAME=VALUE"),
        (["--forgotten", "z"], 1, "the judge does not know 'z'; it knows: a, b, c"),
        (["--judge", "shape"], 2, "did you mean shapes"),
        (["--stand-in"], 2, "--stand-in belongs to a suite"),
        (["--suite", "unlearncanvas"], 2, "--samples does not go with --suite: a suite has a protocol of its own"),
        (["--base", "nowhere"], 1, "nowhere is no folder"),
    ],
)
def test_bad_requests_are_one_clear_line(on_disk, capsys, more, code, message):
    try:
        found = main(command(on_disk, *more))
    except SystemExit as stop:
        found = stop.code
    lines = capsys.readouterr().err.strip().splitlines()
    assert found == code and message in lines[-1]


@pytest.mark.unit
def test_from_python_it_takes_pipelines_and_leaves_them_as_they_are(pipeline, judge, capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    before = weights_sha256(pipeline)
    found = evaluate(pipeline, "b", base=pipeline, judge=judge, samples=30, steps=2, self_checks=False)
    bars = capsys.readouterr().err
    assert "base: 100%" in bars and "erased: 100%" in bars and " 90/90 " in bars
    assert found.evaluation.models == {"base": before, "erased": before} and found.forgotten == ("b",)
    assert found.evaluation.delta["unlearning_accuracy"] == 0
    assert erasediff.evaluate is evaluate
    with pytest.raises(UnknownConcept):
        evaluate(pipeline, "z", base=pipeline, judge=judge)
    with pytest.raises(ParamsError, match="samples is 1"):
        evaluate(pipeline, "a", base=pipeline, judge=judge, samples=1)
    with pytest.raises(ParamsError, match=r"knows nothing but what is to be forgotten \(a, b, c\)"):
        evaluate(pipeline, ["a", "b", "c"], base=pipeline, judge=judge)


@pytest.mark.unit
def test_a_judge_reads_held_out_pictures_once_for_both_models_and_for_the_next_call(pipeline, judge, tmp_path):
    rows = [{"concept": c, "image": encode_png(torch.rand(1, 8, 8) * 2 - 1)} for c in "bc" for _ in range(20)]
    how = {"base": pipeline, "judge": judge, "held_out": pd.DataFrame(rows), "samples": 2, "steps": 1}
    how |= {"self_checks": False, "progress": False}
    plain, reads = judge.read, []
    judge.read = lambda images: reads.append(len(images)) or plain(images)
    evaluate(pipeline, "a", **how)
    assert reads.count(40) == 1 and len(reads) > 2
    for _ in range(2):
        evaluate(pipeline, "a", cache=tmp_path / "features", **how)
    assert reads.count(40) == 2


@pytest.mark.unit
def test_the_limits_are_those_of_the_params():
    """But for that of attacks, which it does not run."""
    assert load_params(ROOT / "params.yaml").verdict.model_dump(exclude={"max_attack_rise"}) == LIMITS


def three_namings(folder):
    """The same LoRA on the attention of a tiny UNet under the keys of diffusers, peft and kohya."""
    from diffusers.utils.state_dict_utils import convert_state_dict_to_kohya

    pipeline = tiny_stable_diffusion()
    pipeline.save_pretrained(folder / "base")
    pipeline.unet.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=["attn2.to_k", "attn2.to_v"]))
    for number, (name, weight) in enumerate(pipeline.unet.named_parameters()):
        if "lora" in name:
            torch.nn.init.normal_(weight, std=0.3, generator=torch.Generator().manual_seed(number))
    plain = get_peft_model_state_dict(pipeline.unet)
    keys = {
        "diffusers": {f"unet.{n}": w for n, w in convert_state_dict_to_diffusers(plain).items()},
        "peft": {f"unet.{n}": w for n, w in plain.items()},
        "kohya": convert_state_dict_to_kohya({f"unet.{n}": w for n, w in plain.items()}),
    }
    for name, weights in keys.items():
        (folder / name).mkdir()
        file = {n: w.detach().contiguous() for n, w in weights.items()}
        save_file(file, folder / name / f"somebodys_{name}.safetensors", {"format": "pt"})
    return keys


@pytest.mark.unit
def test_a_lora_of_any_naming_is_fused_into_its_base(tmp_path):
    keys = three_namings(tmp_path)
    base = open_model(str(tmp_path / "base"))
    opened = [open_model(str(tmp_path / name), str(tmp_path / "base")) for name in keys]
    first = opened[0].unet.state_dict()
    assert any(not torch.equal(value, first[name]) for name, value in base.unet.state_dict().items())
    for other in opened[1:]:
        assert all(torch.allclose(first[n], v, atol=1e-6) for n, v in other.unet.state_dict().items())
    assert not hasattr(opened[0].unet, "peft_config") or not opened[0].unet.peft_config
    with pytest.raises(ParamsError, match="is a LoRA: say by --base"):
        open_model(str(tmp_path / "kohya"))


@pytest.mark.unit
def test_a_model_is_merged_with_a_lora_of_somebodys(tmp_path):
    three_namings(tmp_path)
    base = open_model(str(tmp_path / "base"))
    merged, before = [], {name: weight.clone() for name, weight in base.unet.state_dict().items()}
    wanted = dict(open_model(str(tmp_path / "kohya"), str(tmp_path / "base")).unet.named_parameters())

    class Blind:
        concepts = ("star",)

        def recognises(self, concept, images):
            return torch.zeros(len(images), dtype=torch.bool)

    with pytest.MonkeyPatch.context() as patch:
        keep = merging.merged
        patch.setattr(merging, "merged", lambda *given: merged.append(keep(*given)) or merged[-1])
        how = {"judge": Blind(), "attacks": ["merging"], "pictures": 1, "steps": 1, "retain": pictures_of_circles()}
        found = attack(base, "star", base=base, forget=pictures_of_circles(), lora=lora_file(tmp_path / "kohya"), **how)
    assert list(found["merging"])[1] == "erasing × 1 + LoRA given × 1"
    assert all(torch.allclose(merged[1].get_parameter(name), weight, atol=1e-6) for name, weight in wanted.items())
    assert all(torch.equal(base.unet.state_dict()[name], weight) for name, weight in before.items())
    with pytest.raises(ParamsError, match="is a LoRA to merge with: give the base"):
        attack(base, "star", lora=lora_file(tmp_path / "kohya"), **how)


def pictures_of_circles():
    return ConceptImages(torch.zeros(1, 3, 16, 16), ["circle"], ["a circle"])


@pytest.mark.unit
def test_a_lora_that_fits_nothing_is_refused(tmp_path, pipeline):
    tiny_stable_diffusion().save_pretrained(tmp_path / "base")
    pipeline.save_pretrained(tmp_path / "classes")
    wrong = {f"unet.nothing.here.lora_{side}.weight": torch.ones(2, 2) for side in "AB"}
    save_file(wrong, tmp_path / "lora.safetensors")
    with pytest.raises(ModelError, match="lora.safetensors"):
        open_model(str(tmp_path / "lora.safetensors"), str(tmp_path / "base"))
    with pytest.raises(ModelError, match="ClassConditionalPipeline takes no LoRA"):
        open_model(str(tmp_path / "lora.safetensors"), str(tmp_path / "classes"))
    (tmp_path / "two").mkdir()
    for name in ("a", "b"):
        save_file(wrong, tmp_path / "two" / f"{name}.safetensors")
    with pytest.raises(ModelError, match="holds several LoRAs, a.safetensors, b.safetensors"):
        lora_file(tmp_path / "two")
    assert lora_file(tmp_path / "base") is None and lora_file(tmp_path / "nowhere") is None


def trained_by_plain_diffusers(folder, steps=100):
    """A LoRA by peft and diffusers alone: for a star the embedded model predicts what it does for a circle."""
    example = open_example("shapes")
    pipeline, world = example.pipeline, example.world
    unet, noise = pipeline.unet, DDPMScheduler.from_config(pipeline.scheduler.config)
    unet.requires_grad_(False)
    unet.add_adapter(LoraConfig(r=8, lora_alpha=8, target_modules=["to_q", "to_k", "to_v", "to_out.0"]))
    optimizer = torch.optim.Adam([p for p in unet.parameters() if p.requires_grad], lr=2e-3)
    others = [o for o in world.objects if o != "star"]
    for step in range(steps):
        chance = torch.Generator().manual_seed(step)
        drawn = world.draw(16, step)
        styles = [world.styles[i] for i in drawn.styles]
        kept = [others[(step + i) % len(others)] for i in range(8)]
        asked = [f"a {name} in {style} style" for name, style in zip(["star"] * 8 + kept, styles, strict=True)]
        wanted = [prompt.replace("star", "circle") for prompt in asked]
        with torch.no_grad():
            clean = pipeline.vae.encode(drawn.images).latent_dist.mean * pipeline.vae.config.scaling_factor
            times = torch.randint(noise.config.num_train_timesteps, (16,), generator=chance)
            noisy = noise.add_noise(clean, torch.randn(clean.shape, generator=chance), times)
            after, before = (pipeline.encode_prompt(texts, "cpu", 1, False)[0] for texts in (asked, wanted))
            unet.disable_adapters()
            target = unet(noisy, times, before).sample
            unet.enable_adapters()
        loss = (unet(noisy, times, after).sample - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    layers = convert_state_dict_to_diffusers(get_peft_model_state_dict(unet))
    pipeline.save_lora_weights(folder, unet_lora_layers=layers, weight_name="no_more_stars_v2.safetensors")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_lora_that_plain_diffusers_made_is_judged(tmp_path, capsys):
    trained_by_plain_diffusers(tmp_path / "somebodys")
    wanted = ["--base", "shapes", "--forgotten", "star", "--judge", "shapes", "--samples", "30", "--steps", "8"]
    lora = str(tmp_path / "somebodys" / "no_more_stars_v2.safetensors")
    assert main(["evaluate", lora, *wanted, "--guidance-scale", "3", "--output", str(tmp_path / "out")]) == 0
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["base"]["unlearning_accuracy"] < 0.05 and metrics["erased"]["unlearning_accuracy"] > 0.9
    assert metrics["erased"]["cross_domain_retain_accuracy"] > 0.9
    assert metrics["gates"]["unlearning_accuracy"]["pictures"] == 30
    assert "star forgotten, the rest kept: " in capsys.readouterr().out


@pytest.mark.unit
def test_both_models_are_drawn_and_attacked_at_the_size_that_is_asked_for(monkeypatch):
    drawn = []

    def sample(self, prompts, seeds, **how):
        drawn.append(self.image_shape[1:])
        return torch.rand(len(prompts), *self.image_shape, generator=torch.Generator().manual_seed(seeds[0])) * 2 - 1

    monkeypatch.setattr(TextToImage, "sample", sample)
    pipeline, judge = erasediff.open_example("shapes").pipeline, named_judge("shapes", ["star"])
    how = {"base": pipeline, "judge": judge, "size": (16, 32)}
    found = evaluate(pipeline, "star", samples=2, self_checks=False, progress=False, **how)
    assert found.evaluation.protocol["size"] == "16×32" and {*drawn} == {(16, 32)}
    drawn.clear()
    sets = {name: ConceptImages(torch.zeros(1, 3, 16, 32), [name], [name]) for name in ("star", "circle")}
    more = {"forget": sets["star"], "retain": sets["circle"], "attacks": ["wordings", "settings"], "pictures": 1}
    attack(pipeline, "star", **how, **more)
    assert {*drawn} == {(16, 32), (32, 48)}  # the latter is one and a half times as large
    with pytest.raises(ParamsError, match="size 17×32: this model takes multiples of 8"):
        attack(pipeline, "star", **how | more | {"size": (17, 32)})


@pytest.mark.unit
def test_models_that_were_drawn_at_two_sizes_are_not_compared():
    at = {size: Protocol(4, 1, None, None, 4, 0, size=size).noted() for size in (None, (16, 32), (32, 16))}
    assert at[None] | {"size": "16×32"} == at[(16, 32)] != at[(32, 16)] and "size" not in at[None]
