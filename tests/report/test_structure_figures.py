"""The figures and pictures of judged masks: what is drawn, what is said, what is refused."""

from __future__ import annotations

import base64
import io
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
from judged_masks import GRID, SHAPE, dataset, judged, masks
from PIL import Image as Pillow

from medmap.errors import GeometryError
from medmap.evaluate import case_scores, structure_rows, structure_table
from medmap.geometry import Geometry
from medmap.image import Image
from medmap.metrics import Bootstrap
from medmap.report.structure_figures import bland_altman_figure, dice_distribution, structure_figures
from medmap.report.structure_pictures import contours, outlines_key, words_of, worst_masks
from medmap.write.planes import BOTH, FIRST, SECOND


def colours(picture: np.ndarray) -> set[tuple[int, ...]]:
    return {tuple(int(v) for v in pixel) for pixel in picture.reshape(-1, picture.shape[-1])}


def test_every_figure_is_whole_and_says_what_it_shows() -> None:
    table = judged(observer=True)
    rows = structure_rows(table, Bootstrap(200))
    found = structure_figures(table, rows)
    assert [figure.name for figure in found] == ["dice", "volume_1", "volume_2"]
    for figure in found:
        root = ElementTree.fromstring(figure.svg)  # noqa: S314  (our own drawing)
        assert root.tag.endswith("svg")
        assert figure.caption
    assert found[0].svg.count("<circle") >= len(table)
    assert "another observer" in found[0].svg
    assert "liver: mean 0." in found[0].svg
    assert "bias" in found[1].svg
    assert found == structure_figures(table, rows)  # the same bytes for the same numbers


def test_without_volumes_there_is_no_figure_of_them() -> None:
    data = dataset()
    flat = Geometry.without_size(SHAPE)
    table = structure_table(data, {case.id: case_scores(data, case, *masks(i), flat) for i, case in enumerate(data)})
    assert bland_altman_figure(table, "liver") is None
    assert [figure.name for figure in structure_figures(table)] == ["dice"]


def test_two_cases_have_no_limits() -> None:
    figure = bland_altman_figure(judged().at(np.arange(4)), "liver")
    assert figure is not None
    assert "not defined" in figure.svg


def test_many_structures_are_cut_to_the_worst() -> None:
    table = judged()
    one = table.scores[0]
    many = replace(
        table,
        cases=("a",) * 40,
        patients=("p",) * 40,
        scores=tuple(replace(one, structure=f"s{i:02}", common_voxels=i) for i in range(40)),
        raters=(),
        splits=(),
        folds=(),
        sites=(),
        columns={},
    )
    figure = dice_distribution(many)
    assert "worst 30 of 40" in figure.caption
    assert "s00" in figure.svg
    assert "s35" not in figure.svg


def test_the_worst_masks_come_first_with_their_picture() -> None:
    def drawn(case: str, structure: str):
        truth, prediction = masks(int(case[1:]))
        image = Image(np.arange(truth.size, dtype=np.int16).reshape(SHAPE), GRID)
        value = {"liver": 1, "tumour": 2}[structure]
        return image, truth == value, prediction == value

    found = worst_masks(judged(observer=True), drawn, count=4)
    assert [mask.words for mask in found[:2]] == ["tumour: missed, Dice 0.00", "tumour: invented, Dice 0.00"]
    assert [mask.case for mask in found[:2]] == ["c3", "c5"]
    assert [mask.scores.dice for mask in found] == sorted(mask.scores.dice for mask in found)
    assert len({mask.case for mask in found}) == 4
    assert "Dice 0." in found[2].words
    assert "HD95" in found[2].words
    picture = found[2].picture
    assert picture is not None
    pixels = np.asarray(Pillow.open(io.BytesIO(base64.b64decode(picture.split(",")[1]))))
    assert {FIRST, SECOND} <= colours(pixels)
    assert len(pixels) >= 256, "large enough to be judged by eye"
    assert [mask.picture for mask in worst_masks(judged(), None, 2)] == [None, None]
    assert worst_masks(judged(), lambda case, structure: None, 1)[0].picture is None


def test_planes_go_where_masks_differ() -> None:
    truth, prediction = np.zeros((2, 30, 30, 30), bool)
    truth[5:15, 5:15, 5:25] = prediction[5:15, 5:15, 5:25] = True
    prediction[5:15, 5:15, 23:25] = False
    image = Image(np.zeros(truth.shape, np.int16), Geometry.from_spacing(truth.shape, (1, 1, 1)))
    picture = contours(image, truth, prediction)
    # the axial plane lies in a slice of the truth alone: its outline is not shared
    axial = picture[:, :160]  # 20 of 30 mm of 256 pixels
    assert FIRST in colours(axial)
    assert SECOND not in colours(axial)
    both = contours(image, truth, truth)
    assert BOTH in colours(both)
    assert not {FIRST, SECOND} & colours(both)


def test_the_legend_names_each_outline_in_its_colour() -> None:
    said = {name: svg for svg, name in outlines_key()}
    for name, (red, green, blue) in (("true outline", FIRST), ("predicted outline", SECOND), ("both run here", BOTH)):
        assert f"rgb({red},{green},{blue})" in said[name]
    assert len({FIRST, SECOND, BOTH}) == 3


@pytest.mark.parametrize("channels", [1, 3])
def test_a_plane_is_shown_where_masks_differ_most(channels: int) -> None:
    truth, prediction = np.zeros((2, 700, 500), bool)
    truth[:, 100] = prediction[:, 100] = True
    prediction[600:640, 300:340] = True
    pixels = np.random.default_rng(0).integers(0, 255, (700, 500, channels)).astype(np.uint8)
    names = ("red", "green", "blue")[:channels]
    image = Image(pixels.squeeze(), Geometry.without_size((700, 500)), channels=names if channels == 3 else ("image",))
    picture = contours(image, truth, prediction)
    assert picture.shape == (448, 448, 3)
    assert (picture == SECOND).all(axis=-1).sum() >= 2 * (4 * 79 - 4)
    small = contours(Image(np.zeros((9, 8)), Geometry.without_size((9, 8))), *np.zeros((2, 9, 8), bool))
    assert small.shape == (9 * 49, 8 * 49, 3)


def test_empty_masks_and_refusals() -> None:
    image = Image(np.zeros(SHAPE, np.int16), GRID)
    nothing = np.zeros(SHAPE, bool)
    assert contours(image, nothing, nothing).ndim == 3
    with pytest.raises(GeometryError, match="does not fit"):
        contours(image, nothing, nothing[1:])
    flat = replace(judged().scores[0], hd95_mm=None, voxel_ml=None)
    assert words_of(flat).startswith("liver: Dice")


def test_a_small_picture_in_colour_is_drawn_into_a_copy() -> None:
    """Nothing is cut or widened, so the picture is the image's own memory at first."""
    truth = np.zeros((20, 24), bool)
    truth[4:12, 4:12] = True
    pixels = np.zeros((20, 24, 3), np.uint8)
    image = Image(pixels, Geometry.without_size((20, 24)), "colour", ("red", "green", "blue"))
    picture = contours(image, truth, np.roll(truth, 3, 0))
    assert {FIRST, SECOND} <= colours(picture)
    assert not image.array.any()
