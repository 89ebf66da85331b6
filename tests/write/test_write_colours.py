"""One home for the colours of classes: on images and on paper the same hue, in DICOM and pictures the same colour."""

from __future__ import annotations

import colorsys

import pytest

from medmap.write.colours import COLOURS, ON_PAPER, colour_of, paper_colour_of, short_names


def hue(red: int, green: int, blue: int) -> float:
    return 360 * colorsys.rgb_to_hsv(red / 255, green / 255, blue / 255)[0]


def test_on_paper_a_class_has_the_hue_that_it_has_on_images() -> None:
    assert len(COLOURS) == len(ON_PAPER)
    for number in range(2 * len(COLOURS)):
        paper = tuple(int(paper_colour_of(number)[i : i + 2], 16) for i in (1, 3, 5))
        assert abs(hue(*colour_of(number)) - hue(*paper)) < 12
        assert max(sum(paper), 0) <= sum(colour_of(number))  # no lighter


@pytest.mark.parametrize(
    ("names", "signs"),
    [
        (["RBC", "WBC", "Platelets"], ("R", "W", "P")),
        (["red", "Round"], ("1", "2")),
        (["2a", "3b"], ("1", "2")),
        (["", "x"], ("1", "2")),
        (["nodule"], ("N",)),
    ],
)
def test_signs_tell_the_classes_apart(names: list[str], signs: tuple[str, ...]) -> None:
    assert short_names(names) == signs
