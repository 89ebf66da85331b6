"""Boxes on their image: where they lie, what is called alone, at the slice of each finding."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import medmap as mm
from medmap.errors import GeometryError
from medmap.geometry import Geometry
from medmap.image import Image
from medmap.results import Boxes, Label
from medmap.write import box_overlays
from medmap.write.box_overlays import AIR, GAP, LEAST, LUNG, MOST_FINDINGS, TILE, box_overlay
from medmap.write.captions import LINE
from medmap.write.colours import COLOURS

CELL, BLAST = Label("cell"), Label("blast")


def where(picture: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    return np.argwhere((picture == colour).all(axis=-1))


def plane(corners: list[list[float]], labels: list[int], scores: list[float], shape: tuple[int, int]) -> Boxes:
    grid = Geometry.without_size(shape)
    return Boxes(np.array(corners), labels, scores, (CELL, BLAST), grid, thresholds=(0.5, 0.5))


@settings(max_examples=25, deadline=None)
@given(st.integers(4, 60), st.integers(4, 90), st.integers(2, 30), st.integers(2, 30))
def test_a_rectangle_runs_around_the_voxels_of_its_box(top: int, left: int, high: int, wide: int) -> None:
    shape = (100, 128)
    boxes = plane([[top, left, top + high - 1, left + wide - 1]], [1], [0.9], shape)
    picture = box_overlay(boxes, Image(np.zeros(shape, np.uint8), boxes.geometry)).array
    scale = LEAST / 128
    height = round(100 * scale)
    found = where(picture[:height], COLOURS[1])
    found = found[(found[:, 0] > top * scale - 3) & (found[:, 0] < (top + high) * scale + 2)]  # without the tag
    assert abs(found[:, 1].min() - (left * scale - 2)) <= 2
    assert abs(found[:, 0].max() - ((top + high) * scale + 1)) <= 1
    inside = picture[round(top * scale) + 2 : round((top + high) * scale) - 2,
                     round(left * scale) + 2 : round((left + wide) * scale) - 2]  # fmt: skip
    assert not inside.any()


def test_only_what_is_called_is_drawn_and_counted(tmp_path: Path) -> None:
    shape = (60, 80)
    boxes = plane([[5, 5, 15, 15], [30, 40, 45, 60], [20, 5, 30, 15]], [0, 1, 0], [0.9, 0.2, 0.6], shape)
    picture = box_overlay(boxes, Image(np.full(shape, 128, np.uint8), boxes.geometry))
    assert len(where(picture.array, COLOURS[0]))
    assert not len(where(picture.array, COLOURS[1]))
    height = round(60 * LEAST / 80)
    assert picture.array.shape == (height + LINE + 4, LEAST, 3)  # one class in the legend
    assert mm.read(mm.write(picture, tmp_path / "a.png")).array.shape == picture.array.shape
    none = box_overlay(replace(boxes, thresholds=(1.0, 1.0)), Image(np.full(shape, 128, np.uint8), boxes.geometry))
    assert not len(where(none.array, COLOURS[0]))


def test_where_boxes_crowd_every_one_has_a_short_tag_and_the_legend_says_what_it_means(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shape, told = (480, 640), []
    lines = box_overlays.caption
    monkeypatch.setattr(
        box_overlays, "caption", lambda rows, wide: told.append([w for _, w in rows]) or lines(rows, wide)
    )
    few = plane([[50, 50, 150, 150], [300, 300, 400, 400]], [0, 1], [0.9, 0.8], shape)
    crowd = [[10 + 45 * n, 10 + 45 * m, 60 + 45 * n, 60 + 45 * m] for n in range(9) for m in range(12)]
    many = plane(crowd, [n % 2 for n in range(108)], np.linspace(0.6, 0.9, 108).tolist(), shape)
    for boxes in (few, many):
        box_overlay(boxes, Image(np.zeros(shape, np.uint8), boxes.geometry))
    assert told == [["cell: 1", "blast: 1"], ["C = cell: 54", "B = blast: 54"]]  # nobody is without a tag
    same = plane([[5, 5, 9, 9]] * 30, [0] * 30, [0.9] * 30, shape)
    box_overlay(same, Image(np.zeros(shape, np.uint8), same.geometry))
    assert re.fullmatch(r"no room for the tag of \d+ boxes", told[-1][-1])


def test_colours_of_a_photograph_stay() -> None:
    shape = (700, 900)
    pixels = np.zeros((*shape, 3), np.uint8)
    pixels[:] = (200, 30, 90)
    boxes = plane([], [], [], shape)
    picture = box_overlay(boxes, Image(pixels, boxes.geometry, "colour", ("red", "green", "blue"))).array
    assert (picture[:700] == (200, 30, 90)).all()


def volume(boxes: list[list[float]], scores: list[float], *, hu: bool = True) -> tuple[Boxes, Image]:
    """A patient's volume whose axes run against the patient's, with a bright block in each box on dark lung."""
    grid = Geometry.from_spacing((40, 50, 24), (2.0, 2.0, 4.0), origin_mm=(9.0, -7.0, 3.0)).flip((0, 1))
    array = np.full(grid.shape, AIR - 400, np.float32)
    for row in boxes:
        array[tuple(slice(int(a), int(b) + 1) for a, b in zip(row[:3], row[3:], strict=True))] = 60
    found = Boxes(np.array(boxes).reshape(-1, 6), [0] * len(boxes), scores, (Label("nodule"),), grid)
    return found, Image(array, grid, "HU" if hu else "unknown")


@pytest.mark.parametrize("hu", [True, False])
def test_each_finding_has_the_slice_through_its_centre_and_its_surroundings(hu: bool) -> None:
    boxes, image = volume([[5, 8, 3, 9, 14, 5], [25, 30, 18, 30, 36, 20]], [0.6, 0.9], hu=hu)
    picture = box_overlay(boxes, image).array
    assert picture.shape == (TILE + LINE + 4 + LINE + 4, 4 * TILE + 3 * GAP, 3)
    # both tiles of a finding: the block is brighter than the lung, and the rectangle is around it
    for start in (0, TILE + GAP, 2 * (TILE + GAP), 3 * (TILE + GAP)):
        tile = picture[:TILE, start : start + TILE].astype(int)
        line = where(tile, COLOURS[0])
        middle = (line.min(axis=0) + line.max(axis=0)) // 2
        assert tile[tuple(middle)].min() > 150
        corner = tile[line.min(axis=0)[0] - 8, line.min(axis=0)[1] - 8]
        assert corner.max() < 120
    # the surest comes first: it lies in the other half of the slice, as radiologists look at it
    first, second = (where(picture[:TILE, n * (TILE + GAP) :][:, :TILE], COLOURS[0]).mean(axis=0) for n in (0, 2))
    assert first[0] < second[0]  # against the axis: the larger index is the smaller millimetre
    assert first[1] < second[1]


def test_the_lung_is_shown_as_lung_is_looked_at() -> None:
    boxes, image = volume([[15, 18, 3, 19, 24, 5]], [0.9])
    tile = box_overlay(boxes, image).array[:TILE, TILE + GAP : 2 * TILE + GAP]
    expected = round(255 * (AIR - 400 - LUNG[0]) / (LUNG[1] - LUNG[0]))
    assert abs(int(np.median(tile)) - expected) <= 1


def test_a_volume_without_a_called_box_shows_its_middle() -> None:
    boxes, image = volume([], [])
    picture = box_overlay(boxes, image).array
    assert picture.shape[1] == TILE
    assert not len(where(picture, COLOURS[0]))


def test_many_findings_are_shown_as_the_surest() -> None:
    rows = [[n, n, n, n + 1, n + 1, n + 1] for n in range(MOST_FINDINGS + 3)]
    boxes, image = volume(rows, np.linspace(0.2, 0.9, len(rows)).tolist())
    picture = box_overlay(boxes, image).array
    rows_of_tiles = MOST_FINDINGS // 2
    assert len(picture) == rows_of_tiles * (TILE + LINE + 4) + (rows_of_tiles - 1) * GAP + 2 * LINE + 4


def test_an_image_that_lies_elsewhere_is_refused(image: Image) -> None:
    boxes, _ = volume([[1, 1, 1, 2, 2, 2]], [0.9])
    with pytest.raises(GeometryError):
        box_overlay(boxes, image)
