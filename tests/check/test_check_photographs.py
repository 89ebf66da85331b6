"""Photographs of a round field: vessels are no text, a dim rim is no ghost; text and ghosts are found all the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from photographs import RADIUS, SHAPE, fundus
from PIL import Image as Pillow
from PIL import ImageDraw

from medmap.check import burned, check
from medmap.check.burned import MOST_IN_VAIN, TextLook
from medmap.check.facts import Facts, facts_of
from medmap.check.quality import quality_of
from medmap.check.round_field import RoundField, round_field
from medmap.check.volumes import poor_quality
from medmap.dataset import Case, Dataset, InputSpec, Ref, Truth
from medmap.geometry import Geometry
from medmap.image import Image
from medmap.read import text
from medmap.read.strokes import text_like
from medmap.read.text import TextBox, read_lines
from medmap.results import Label

FIELD = RoundField(240.0, 250.0, RADIUS)


def image_of(array: np.ndarray) -> Image:
    if array.ndim == 3:
        return Image(array, Geometry.without_size(array.shape[:2]), "colour", ("red", "green", "blue"))
    return Image(array, Geometry.without_size(array.shape))


def written(array: np.ndarray, words: str, at: tuple[int, int], size: int = 18) -> np.ndarray:
    """White words at (column, row)."""
    drawn = Pillow.fromarray(array)
    ImageDraw.Draw(drawn).text(at, words, fill="white", font_size=size)
    return np.asarray(drawn)


@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize("reads", [False, True])
def test_vessels_are_no_text_and_a_dim_rim_no_ghost(
    tmp_path: Path, tool: Callable, monkeypatch: pytest.MonkeyPatch, grey: bool, reads: bool
) -> None:
    if reads:
        tool("tesseract")
    else:
        monkeypatch.setattr(text, "tesseract_present", lambda: False)
    cases = []
    for i in range(10):
        array = fundus(i, dim=0.75 if i < 2 else 0.0)
        Pillow.fromarray(array[..., 1] if grey else array).save(tmp_path / f"c{i}.png")
        cases.append(Case(f"c{i}", f"p{i}", {"image": Ref(f"c{i}.png")}, Truth(True, i % 2)))
    labels = (Label("a"), Label("b"))
    data = Dataset("d", "classify", tuple(cases), {"image": InputSpec()}, labels, "binary", tmp_path, 1)
    assert not {"burned_in_text", "ghosts_suspected"} & {issue.code for issue in check(data)}


def test_words_beside_the_field_are_found_even_where_all_else_was_given_up(tool: Callable) -> None:
    tool("tesseract")
    look = TextLook(MOST_IN_VAIN + 2)
    look._in_vain = MOST_IN_VAIN
    assert look.lines(image_of(fundus(3))) == 0
    assert look.lines(image_of(written(fundus(3), "DOE^JANE 1970-01-31", (6, 452), 14))) == 1


def test_words_beside_the_field_count_where_nobody_can_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "tesseract_present", lambda: False)
    assert TextLook(1).lines(image_of(written(fundus(3), "DOE^JANE 1970-01-31", (6, 452), 14)))


def test_words_in_the_field_are_found_when_they_are_read_with_confidence(tool: Callable) -> None:
    tool("tesseract")
    dark = np.rint(fundus(3) * 0.6).astype(np.uint8)
    assert TextLook(1).lines(image_of(written(dark, "OKONKWO 1961", (180, 400), 20)))


@pytest.mark.parametrize(
    ("words", "confidence", "row", "believed"),
    [
        ("fit", 0.97, 200, False),
        ("Tian - 6", 0.65, 200, False),
        ("Okonkwo", 0.85, 200, True),
        ("fit", 0.97, 470, True),  # below the field
        (None, 1.0, 200, False),
    ],
)
def test_short_and_doubtful_words_in_the_field_are_vessels(
    words: str | None, confidence: float, row: int, believed: bool
) -> None:
    box = TextBox(row, 20, row + 8, 100, words, confidence)
    assert burned._is_text(box, FIELD) is believed
    assert burned._is_text(box, None) is (words is not None)


def test_white_letters_are_read_though_their_gaps_look_more_like_letters(tool: Callable) -> None:
    tool("tesseract")
    drawn = written(np.zeros((80, 360, 3), np.uint8), "LINDQVIST 1939-07-10", (10, 20), 24)
    assert TextLook(1).lines(image_of(drawn)) == 1
    assert {block.bright for block in text_like(drawn, each_ink=True)} == {True, False}
    assert len({block.bright for block in text_like(drawn)}) == 1


@pytest.mark.parametrize(("field", "lines"), [(None, 1), (FIELD, 0)])
def test_only_where_there_is_no_field_a_picture_is_read_once_more(
    monkeypatch: pytest.MonkeyPatch, field: RoundField | None, lines: int
) -> None:
    monkeypatch.setattr(text, "read_lines", lambda picture, lines: ())
    monkeypatch.setattr(text, "find_text", lambda picture, thorough: (TextBox(200, 20, 208, 90, "DOE JANE", 0.9),))
    assert burned._readable(np.zeros(SHAPE, np.uint8), (), field) == lines


def test_without_lines_nothing_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "_tesseract", None)
    assert read_lines(np.zeros((80, 80), np.uint8), ()) == ()


# -- the field --------------------------------------------------------------------------------------------------------


def disc(row: float, column: float, radius: float, shape: tuple[int, int] = SHAPE) -> np.ndarray:
    rows, columns = np.indices(shape)
    return np.where(np.hypot(rows - row, columns - column) <= radius, 180, 4).astype(np.uint8)


@pytest.mark.parametrize("circle", [(240, 250, 230), (240, 250, 270), (230, 300, 240)])
def test_a_round_field_is_found_whole_or_cut(circle: tuple[int, int, int]) -> None:
    found = round_field(written(disc(*circle), "L 12", (440, 452), 14))
    assert found is not None
    np.testing.assert_allclose((found.row, found.column, found.radius), circle, atol=4)


def ellipse(seed: int = 0, radii: tuple[float, float] = (150, 110)) -> np.ndarray:
    """A body in air, with noise."""
    rows, columns = np.indices((400, 400))
    inside = ((rows - 200) / radii[0]) ** 2 + ((columns - 200) / radii[1]) ** 2 < 1
    noise = np.random.default_rng(seed).normal(0, 2, (400, 400))
    return np.clip(np.where(inside, 150.0, 8.0) + noise, 0, 255)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((90, 90), np.uint8),
        np.full((90, 90), 200, np.uint8),
        np.pad(np.full((300, 300), 200, np.uint8), 50),
        ellipse(),
        disc(240, 250, 60),
        np.random.default_rng(0).integers(0, 255, (200, 200), dtype=np.uint8),
    ],
)
def test_other_pictures_have_no_round_field(array: np.ndarray) -> None:
    assert round_field(array) is None


# -- ghosts -----------------------------------------------------------------------------------------------------------


def bodies() -> list[np.ndarray]:
    """Ten bodies in air; of the second a faint copy lies above and below."""
    made = [ellipse(i) for i in range(10)]
    made[1] = made[1] + 0.15 * np.roll(made[1], 200, axis=0)
    return made


@pytest.mark.parametrize(("modality", "expected"), [("MR", ("c1",)), (None, ("c1",)), ("CT", ()), ("XC", ())])
def test_ghosts_are_suspected_where_there_is_phase_encoding(modality: str | None, expected: tuple[str, ...]) -> None:
    images = tuple(facts_of(f"c{i}", "image", image_of(a)) for i, a in enumerate(bodies()))
    cases = tuple(Case(f"c{i}", f"p{i}", {"image": Ref(f"c{i}.png")}) for i in range(10))
    data = Dataset("d", "classify", cases, {"image": InputSpec(modality)}, (Label("a"),))
    found = [issue.cases for issue in poor_quality(Facts(data, images, ())) if issue.code == "ghosts_suspected"]
    assert found == ([expected] if expected else [])


def test_a_round_phantom_in_a_scanner_is_no_photograph() -> None:
    phantom = image_of(disc(240, 250, 160).astype(np.uint8))
    assert quality_of(phantom).ghost is None
    scanned = replace(phantom, source=replace(phantom.source, modality="MR"))
    assert quality_of(scanned).ghost is not None
