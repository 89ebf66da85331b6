"""The three planes of a volume: where head, front, left and right are, and what is outlined."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from volume_cases import Chests, chest, relocated, values

from grids import oblique_image
from medmap.check import check, write_check_report
from medmap.geometry import Flip, Geometry, Permute
from medmap.image import Image
from medmap.write.planes import COLOURS, GAP, HEIGHT, three_planes


def _volume() -> Image:
    """20×30×40 voxels of 2×2×2 mm, LPS, dark but for three corners."""
    array = np.zeros((20, 30, 40), np.int16)
    array[:6, :8, 20] = 100  # right, front, in the axial plane through the middle
    array[10, :8, -9:] = 200  # front, head, in the sagittal plane
    return Image(array, Geometry.from_spacing((20, 30, 40), (2, 2, 2)))


def test_the_planes_lie_as_radiologists_look_at_them():
    picture = three_planes(_volume())[..., 0]
    height, width = picture.shape
    assert height == HEIGHT  # 40 slices are the longest edge shown upright
    axial = picture[:, :64][16:112]  # 20 × 30 voxels in 64 × 96 pixels, centred
    assert axial[:24, :18].min() > 100  # the patient's right is on the left, front is up
    assert axial[48:].max() == 0
    sagittal = picture[:, width - 96 :]
    assert sagittal[:24, :24].min() > 200  # head is up, front is on the left
    assert sagittal[64:].max() == 0


@pytest.mark.parametrize("step", [Flip((0,)), Flip((2,)), Permute((2, 0, 1))])
def test_the_picture_does_not_depend_on_the_order_of_the_axes(step):
    first = three_planes(_volume())
    np.testing.assert_array_equal(three_planes(_volume().moved(step)), first)


def test_proportions_are_true_for_anisotropic_voxels():
    flat = Image(np.zeros((20, 20, 5), np.int16), Geometry.from_spacing((20, 20, 5), (1, 1, 8)))
    picture = three_planes(flat)
    assert picture.shape == (HEIGHT, 64 * 3 + 2 * GAP, 3)  # 20 mm wide and deep, 40 mm high


def test_outlines_have_a_colour_a_label():
    image, mask = chest(0)
    picture = three_planes(image, mask.array)
    colours = {tuple(c) for c in picture.reshape(-1, 3)}
    assert {COLOURS[0], COLOURS[1]} <= colours
    assert COLOURS[2] not in colours


def test_what_is_no_number_is_shown_dark():
    array = np.full((8, 8, 8), np.nan)
    array[4, 4, 4] = 1
    assert three_planes(Image(array, Geometry.without_size((8, 8, 8)))).dtype == np.uint8
    assert three_planes(oblique_image()).shape[2] == 3


def test_the_page_shows_planes_and_both_headers(tmp_path):
    chests = Chests(tmp_path, count=4)
    chests.masks[2] = relocated()
    dataset = chests.write()
    text = write_check_report(check(dataset), dataset, tmp_path / "check.html").read_text(encoding="utf-8")
    assert '<figure class="wide">' in text
    assert '<th scope="col">Mask header</th>' in text


def test_the_page_says_which_colour_is_which_structure(tmp_path):
    chests = Chests(tmp_path, count=4, names=("background", "right organ", "<b>left</b>"))
    dataset = chests.write()
    text = write_check_report(check(dataset), dataset, tmp_path / "check.html").read_text(encoding="utf-8")
    assert "<dt>Structures</dt><dd>1 right organ, 2 &lt;b&gt;left&lt;/b&gt;</dd>" in text
    for colour, name in zip(COLOURS, ("right organ", "&lt;b&gt;left&lt;/b&gt;"), strict=False):
        swatch = "#{:02x}{:02x}{:02x}".format(*colour)
        assert f'<li><span class="swatch" style="background: {swatch}"></span>{name}</li>' in text
    assert "#{:02x}{:02x}{:02x}".format(*COLOURS[2]) not in text


def test_many_structures_are_listed_in_part_and_a_stranger_by_its_value(tmp_path):
    chests = Chests(tmp_path, count=2, names=("background", *(f"part {n}" for n in range(1, 40))))
    chests.masks[0] = values(lambda array: np.where(array > 0, np.arange(array.size).reshape(array.shape) % 60, 0))
    dataset = chests.write()
    text = write_check_report([], dataset, tmp_path / "check.html").read_text(encoding="utf-8")
    assert "24 part 24 and 15 more</dd>" in text
    assert re.search(r'<li class="soft">and \d+ more</li>', text)
    few = replace(dataset, labels=dataset.labels[:2])
    text = write_check_report([], few, tmp_path / "check.html").read_text(encoding="utf-8")
    assert "</span>part 1</li>" in text
    assert "</span>value 2</li>" in text


def test_masks_without_names_are_said_to_be_so(tmp_path):
    unnamed = replace(Chests(tmp_path, count=2).write(), labels=())
    text = write_check_report([], unnamed, tmp_path / "check.html").read_text(encoding="utf-8")
    assert "<dt>Structures</dt><dd>not named</dd>" in text
    assert "</span>value 1</li>" in text
