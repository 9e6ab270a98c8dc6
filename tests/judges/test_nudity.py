"""The nudity judge, with the detector that NudeNet's package carries: no picture of a person is needed."""

import pytest
import torch

from erasediff.artifacts import new_folder, sha256_file
from erasediff.errors import DataError, IntegrityError, ModelError
from erasediff.examples.world import draw_world
from erasediff.judges import REST, accuracy, asked_concepts, nudity, open_judge, weights_of
from erasediff.judges.nudity import LABELS, NUDITY, NudityJudge, detected

pytest.importorskip("nudenet", reason="extra nudity is not installed")


@pytest.fixture(scope="module")
def judge():
    return NudityJudge()


def saying(judge, monkeypatch, *found):
    """The detector says these of each picture in turn."""
    said = iter(found)
    monkeypatch.setattr(judge.detector, "detect", lambda pixels: next(said))


def box(label, score):
    return {"class": label, "score": score, "box": [0, 0, 4, 4]}


@pytest.mark.unit
def test_the_packages_own_detector_finds_nothing_in_shapes(judge):
    images = draw_world(3, 0).images
    scores, features = judge.read(images)
    assert scores.shape == (3, 2) and features.shape == (3, len(LABELS))
    assert judge.concepts == ("nudity", REST) and not judge.recognises("nudity", images).any()
    assert judge.recognises("a woman in a coat", images).all()
    assert accuracy(judge, images, ["a cat", "a cat", "nudity"]) == pytest.approx(2 / 3)


@pytest.mark.unit
def test_pictures_reach_the_detector_as_opencv_reads_them_from_a_file(judge, monkeypatch, tmp_path):
    import cv2

    from erasediff.data.images import encode_png

    image, seen = draw_world(1, 5).images[0], []
    monkeypatch.setattr(judge.detector, "detect", lambda pixels: seen.append(pixels) or [])
    judge.read(image[None])
    (tmp_path / "p.png").write_bytes(encode_png(image))
    assert (seen[0] == cv2.imread(str(tmp_path / "p.png"))).all()


@pytest.mark.unit
def test_raw_scores_are_kept_and_any_threshold_is_scored_afterwards(judge, monkeypatch):
    low, high = box("FEMALE_BREAST_EXPOSED", 0.3), box("FEMALE_BREAST_EXPOSED", 0.7)
    saying(judge, monkeypatch, [low, high, box("FACE_FEMALE", 0.9)], [low], [box("BELLY_EXPOSED", 0.8)])
    scores, features = judge.read(torch.zeros(3, 3, 8, 8))
    torch.testing.assert_close(scores, torch.tensor([[0.7, 0.3], [0.3, 0.7], [0.0, 1.0]]))
    assert features[0, LABELS.index("FACE_FEMALE")] == pytest.approx(0.9)
    found = {t: detected(features, NUDITY["nudity"], t).tolist() for t in nudity.THRESHOLDS}
    assert found == {0.25: [True, True, False], 0.45: [True, False, False], 0.6: [True, False, False]}


@pytest.mark.unit
def test_a_judge_that_fails_on_one_picture_is_an_error_never_nothing_there(judge, monkeypatch):
    def fail(pixels):
        raise RuntimeError("of OpenCV")

    monkeypatch.setattr(judge.detector, "detect", fail)
    with pytest.raises(DataError, match=r"failed on a picture \(of OpenCV\)"):
        judge.recognises("nudity", torch.zeros(1, 3, 8, 8))
    with pytest.raises(DataError, match="no finite numbers"):
        judge.read(torch.full((1, 3, 8, 8), float("nan")))


@pytest.mark.unit
def test_what_was_saved_reads_the_same_and_an_altered_detector_is_refused(tmp_path):
    judge = nudity.opened(labels={"face": ["FACE_FEMALE", "FACE_MALE"]})
    assert asked_concepts(judge, ["face", "a tree"]) == ["face", "a tree"]
    with new_folder(tmp_path / "j") as folder:
        nudity.save(judge, folder, accuracy=None)
    again, images = open_judge(tmp_path / "j"), draw_world(2, 0).images
    assert again.fingerprint == judge.fingerprint != NudityJudge().fingerprint
    assert sha256_file(weights_of(tmp_path / "j")) in again.fingerprint
    assert torch.equal(again.read(images)[1], judge.read(images)[1])
    (tmp_path / "j" / "model.onnx").write_bytes(b"x")
    with pytest.raises(IntegrityError, match="truncated or was altered"):
        open_judge(tmp_path / "j")
    with pytest.raises(IntegrityError, match="is no nudity judge"):
        nudity.load(tmp_path / "j")
    with pytest.raises(ModelError, match="no label FACE; it has: ANUS_COVERED"):
        nudity.opened(labels={"face": ["FACE"]})
