"""The embedded model, trained again without a concept."""

from dataclasses import replace

import pytest
import torch
from diffusers import StableDiffusionPipeline

import erasediff
from erasediff.cli import main as command
from erasediff.examples import retrain_shapes
from erasediff.examples.captions import SYNONYMS
from erasediff.examples.retrain_shapes import RECIPE, main, retrained_without

FEW = replace(RECIPE, steps=2, batch_size=4)


@pytest.fixture(autouse=True)
def few_updates(monkeypatch):
    plain = retrain_shapes.retrained_without
    monkeypatch.setattr(
        retrain_shapes, "retrained_without", lambda *where, **how: plain(*where, FEW, pictures=40, **how)
    )


@pytest.mark.unit
@pytest.mark.parametrize("concept", ["star", "dotted"])
def test_nothing_that_it_is_trained_on_names_the_concept(concept, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(retrain_shapes, "train_denoiser", lambda family, latents, said, *_, **__: seen.append(said))
    monkeypatch.setattr(retrain_shapes, "prepared", lambda family, said, device: family)
    retrained_without(concept, tmp_path, pictures=600)
    words = (concept, *SYNONYMS.get(concept, ()))
    assert len(seen[0]) == 600 and not [text for text in seen[0] if any(word in text for word in words)]
    assert all(any(other in text for text in seen[0]) for other in ("circle", "hatched"))


@pytest.mark.unit
def test_its_denoiser_alone_is_new_and_a_suite_takes_its_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["retrain_shapes", "star", "--output", str(tmp_path / "retrained")])
    main()
    base = erasediff.open_example("shapes").pipeline
    again = StableDiffusionPipeline.from_pretrained(tmp_path / "retrained/star")
    for part in ("text_encoder", "vae"):
        own, others = getattr(again, part).state_dict(), getattr(base, part).state_dict()
        assert own.keys() == others.keys() and all(torch.equal(own[name], others[name]) for name in own)
    before, after = base.unet.state_dict(), again.unet.state_dict()
    assert before.keys() == after.keys() and not torch.equal(before["conv_in.weight"], after["conv_in.weight"])
    assert again("a circle", num_inference_steps=1, output_type="np").images.shape == (1, 24, 24, 3)
    suite = "evaluate --suite unlearncanvas --stand-in --quick --methods retrained --forgotten star"
    assert command([*suite.split(), "--data", str(tmp_path), "--output", str(tmp_path / "found")]) == 0
    assert "| retrained | star | object |" in capsys.readouterr().out


@pytest.mark.unit
def test_a_concept_that_the_world_does_not_have_is_refused(tmp_path, monkeypatch, capsys):
    with pytest.raises(ValueError, match="the world has no 'dog'; it has: circle"):
        retrained_without("dog", tmp_path)
    monkeypatch.setattr("sys.argv", ["retrain_shapes", "dog", "--output", str(tmp_path)])
    with pytest.raises(SystemExit):
        main()
    assert "the world has no 'dog'" in capsys.readouterr().err
