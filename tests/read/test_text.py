"""Burned-in text: found whatever its size, contrast and place; pictures without text stay silent."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image as Picture
from PIL import ImageDraw, ImageFont

from medmap import phantom
from medmap.errors import DataError, MissingToolError, ReadError, UsageError
from medmap.read import text as text_room
from medmap.read.strokes import small_text_like, text_like
from medmap.read.text import find_text, plain, resembles

WORDS = "DOE^JANE 1969-07-01"


def drawn(picture: np.ndarray, at: tuple[int, int], size: int, ink: int) -> np.ndarray:
    canvas = Picture.fromarray(picture)
    ImageDraw.Draw(canvas).text((at[1], at[0]), WORDS, fill=ink, font=ImageFont.load_default(size))
    return np.asarray(canvas)


def grey(array: np.ndarray) -> np.ndarray:
    low, high = float(array.min()), float(array.max())
    return ((array - low) * (200 / (high - low)) + 20).astype(np.uint8)


def ground(kind: str) -> np.ndarray:
    made = phantom.ct_slice(1, shape=(96, 96)) if kind == "CT" else phantom.ultrasound(1, shape=(96, 96))
    return np.asarray(Picture.fromarray(grey(made.image.array)).resize((384, 384)))


@pytest.mark.parametrize(("kind", "size"), [("CT", 12), ("CT", 30), ("US", 20)])
@pytest.mark.parametrize("bright", [True, False])
def test_text_is_found_on_anatomy_at_every_size_and_ink(tool: Callable, kind: str, size: int, bright: bool) -> None:
    tool("tesseract")
    picture = drawn(ground(kind), (335, 6), size, 255)
    boxes = find_text(picture if bright else 255 - picture, thorough=False)
    assert any(b.within(335 + size / 2, 6 + 2 * size) for b in boxes), boxes


def test_pictures_without_text_are_nearly_always_silent(tool: Callable) -> None:
    tool("tesseract")
    found = []
    for seed in range(3):
        for made in (phantom.ct_slice(seed, shape=(96, 96)), phantom.ultrasound(seed), phantom.mr_volume(seed)):
            array = made.image.array
            small = grey(array if array.ndim == 2 else array[:, :, array.shape[2] // 2])
            picture = np.asarray(Picture.fromarray(small).resize((384, 384)))
            found += find_text(picture, thorough=False)
    assert len(found) <= 1
    assert all(b.text is None for b in found)


def test_words_are_read_with_sixteen_bits_signs_and_colours(tool: Callable) -> None:
    tool("tesseract")
    plain_ground = np.full((120, 400), 30, np.uint8)
    with_text = drawn(plain_ground, (40, 20), 24, 240)
    deep = (with_text.astype(np.int16) - 128) * 100
    colours = np.stack([with_text, plain_ground, plain_ground], axis=2)
    for picture in (with_text, deep, colours):
        (box,) = find_text(picture)
        assert resembles(box.text or "", ["Doe^Jane"]), box
        outside = np.ones(picture.shape[:2], bool)
        outside[box.row0 : box.row1, box.column0 : box.column1] = False
        assert (with_text[outside] == 30).all()  # the box holds all ink


def test_faint_text_on_a_title_bar_is_seen() -> None:
    picture = np.full((60, 400), 250, np.uint8)
    assert text_like(drawn(picture, (10, 10), 20, 242))


def test_unreadable_lines_are_reported_without_words(tool: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    tool("tesseract")
    monkeypatch.setattr(text_room, "_tesseract", lambda *_args, **_kw: [])
    (box,) = find_text(drawn(np.full((80, 400), 30, np.uint8), (20, 20), 24, 240))
    assert box.text is None
    assert box.confidence > 0.8


def test_known_values_are_recognised_in_spite_of_slips() -> None:
    assert plain("O1.lI") == "0111"
    assert resembles("DAV1DS0N", ["Davidson^Douglas"])
    assert resembles("19690701", ["19690701"])
    assert not resembles("AB", ["ABC"])
    assert not resembles("Portable", ["Davidson", "x"])


def test_bad_input_is_refused() -> None:
    with pytest.raises(DataError, match="whole numbers"):
        find_text(np.zeros((4, 4)))
    with pytest.raises(DataError, match="three channels"):
        find_text(np.zeros((4, 4, 2), np.uint8))
    with pytest.raises(UsageError, match="confidence"):
        find_text(np.zeros((9, 9), np.uint8), minimum_confidence=2)
    with pytest.raises(UsageError, match="language"):
        find_text(np.zeros((9, 9), np.uint8), languages="eng; rm")


def test_a_missing_failing_or_slow_tesseract_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    picture = drawn(np.full((80, 400), 30, np.uint8), (20, 20), 24, 240)
    monkeypatch.setattr(text_room.shutil, "which", lambda _name: None)
    with pytest.raises(MissingToolError, match="apt install tesseract-ocr"):
        find_text(picture)
    monkeypatch.setattr(text_room.shutil, "which", lambda _name: "/bin/false")
    with pytest.raises(ReadError, match="tesseract failed"):
        find_text(picture)

    def slow(*_args: object, **_kw: object) -> None:
        raise subprocess.TimeoutExpired("tesseract", 1)

    monkeypatch.setattr(text_room.subprocess, "run", slow)
    with pytest.raises(ReadError, match="too long"):
        find_text(picture)


def test_an_unknown_language_is_said(tool: Callable) -> None:
    tool("tesseract")
    with pytest.raises(UsageError, match="does not know"):
        find_text(drawn(np.full((80, 400), 30, np.uint8), (20, 20), 24, 240), languages="xyz")


SMALL = ("10:15 OKONKWO, THADDEUS", "VANDERMOLEN 1969-07-01")


@pytest.mark.parametrize("size", [12, 14])
@pytest.mark.parametrize("words", SMALL)
def test_letters_that_run_into_one_another_come_apart_enlarged(words: str, size: int) -> None:
    canvas = Picture.fromarray(ground("CT"))
    ImageDraw.Draw(canvas).text((8, 340), words, fill=255, font=ImageFont.load_default(size))
    picture = np.asarray(canvas)
    ink = np.flatnonzero((picture != ground("CT")).any(axis=0))
    (line,) = (b for b in small_text_like(picture) if b.certain and b.bright)
    assert (line.column0 <= ink[0] + 1, line.column1 >= ink[-1] - 1) == (True, True)
    assert 5 <= line.height <= size
    colours = np.stack([picture, picture // 2, picture // 3], axis=2)
    assert any(b.certain and b.bright for b in small_text_like(colours))
    deep = picture.astype(np.uint16) * 16
    assert any(b.certain and b.bright for b in small_text_like(deep))


def test_small_letters_are_looked_for_where_somebody_could_read_them() -> None:
    assert small_text_like(np.zeros((2000, 2000), np.uint8)) == ()
    assert small_text_like(np.zeros((4, 400), np.uint8)) == ()
    assert small_text_like(np.full((64, 64), 7, np.uint8)) == ()


@pytest.mark.parametrize("text", ["1927-09-17", "1927*09-17", "(56831084)", "ID955102", "17.09.1927", "1927209-17"])
def test_dates_and_long_numbers_are_believed_though_no_dictionary_has_them(text: str) -> None:
    assert text_room._is_number(text)


@pytest.mark.parametrize("text", ["12-3", "L2-L3-L4", "Portable", "1.5", "...", "-------", "12a34b56"])
def test_other_words_are_no_numbers(text: str) -> None:
    assert not text_room._is_number(text)


def test_small_and_noisy_lines_are_found(tool: Callable) -> None:
    tool("tesseract")
    noise = np.clip(np.random.default_rng(5).normal(110, 22, (128, 128)), 0, 255).astype(np.uint8)
    picture = np.asarray(Picture.fromarray(noise).resize((512, 512), Picture.Resampling.BICUBIC))
    for words in SMALL:
        canvas = Picture.fromarray(picture)
        ImageDraw.Draw(canvas).text((20, 250), words, fill=255, font=ImageFont.load_default(14))
        boxes = find_text(np.asarray(canvas), thorough=False)
        assert any(b.within(257, 30) and b.within(257, 150) for b in boxes), (words, boxes)
