"""Writing in pictures is found; what it says is not repeated; pictures without any are left in peace."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image as Pillow
from PIL import ImageDraw

from medmap import phantom
from medmap.check import burned, check
from medmap.check.burned import MOST_IN_VAIN, TextLook
from medmap.dataset import Case, Dataset, InputSpec, Ref, Truth
from medmap.geometry import Geometry
from medmap.image import Image
from medmap.read import text
from medmap.results import Label


def picture(seed: int, text: str = "") -> np.ndarray:
    image = phantom.ultrasound(seed, shape=(240, 320)).image.array.astype(np.float64)
    drawn = Pillow.fromarray(np.rint(120 * (image - image.min()) / (image.max() - image.min())).astype(np.uint8))
    ImageDraw.Draw(drawn).text((12, 12), text, fill=255, font_size=16)
    return np.asarray(drawn)


def test_the_picture_with_a_name_is_found_and_the_name_is_not_repeated(tmp_path, tool):
    tool("tesseract")
    cases = []
    for i in range(4):
        Pillow.fromarray(picture(i, "DOE^JANE 1970-01-31" if i == 2 else "")).save(tmp_path / f"c{i}.png")
        cases.append(Case(f"c{i}", f"p{i}", {"image": Ref(f"c{i}.png")}, Truth(True, i % 2)))
    labels = (Label("a"), Label("b"))
    data = Dataset("d", "classify", tuple(cases), {"image": InputSpec("US")}, labels, "binary", tmp_path, 1)
    issues = check(data)
    (found,) = [issue for issue in issues if issue.code == "burned_in_text"]
    assert found.cases == ("c2",)
    assert found.details["looked_at"] == 4
    assert "DOE" not in json.dumps([issue.as_json() for issue in issues])


def text_lines(image: Image) -> int | None:
    return TextLook(1).lines(image)


def test_without_tesseract_only_what_is_text_beyond_doubt_counts(monkeypatch):
    monkeypatch.setattr(text, "tesseract_present", lambda: False)
    array = np.full((120, 300), 30, np.uint8)
    assert text_lines(Image(array, Geometry.without_size(array.shape))) == 0
    drawn = Pillow.fromarray(array)
    ImageDraw.Draw(drawn).text((10, 40), "PATIENT 0815 LEFT BREAST", fill=255, font_size=18)
    assert text_lines(Image(np.asarray(drawn), Geometry.without_size(array.shape))) == 1


@pytest.mark.parametrize("shape", [(28, 28), (40, 40, 9)])
def test_what_is_too_small_or_a_volume_is_not_looked_at(shape):
    assert text_lines(Image(np.zeros(shape, np.uint8), Geometry.without_size(shape))) is None


def test_fractions_and_frames_are_looked_at_too(tool):
    tool("tesseract")
    plain = picture(1, "WARD 7 SMITH")
    assert text_lines(Image(plain / 7.0, Geometry.without_size(plain.shape)))
    cine = np.stack([plain, plain], axis=2)
    assert text_lines(Image(cine, Geometry.without_size(plain.shape), time_s=(0.0, 0.1)))


def test_a_large_data_set_is_looked_at_in_part():
    picture_ = Image(picture(0), Geometry.without_size((240, 320)))
    look = TextLook(3 * burned.MOST_IMAGES)
    found = [look.lines(picture_) for _ in range(9)]
    assert [lines is not None for lines in found] == [True, False, False] * 3


def test_where_strokes_are_anatomy_nobody_reads_on(monkeypatch):
    monkeypatch.setattr(burned, "_can_read", lambda: True)
    monkeypatch.setattr(burned, "_strokes", lambda array: [None])
    answers = iter([0] * 100)
    monkeypatch.setattr(burned, "_readable", lambda array, lines, field: next(answers))
    image = Image(np.zeros((80, 80), np.uint8), Geometry.without_size((80, 80)))
    look = TextLook(20)
    assert [look.lines(image) for _ in range(20)] == [0] * MOST_IN_VAIN + [None] * (20 - MOST_IN_VAIN)
    answers = iter([0, 3] + [0] * 100)
    look = TextLook(20)
    assert [look.lines(image) for _ in range(20)] == [0, 3] + [0] * 18
