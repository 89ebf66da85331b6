"""Chest CT phantoms: the truth is where the picture shows it, and the same in both layouts."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from hypothesis import given, settings
from hypothesis import strategies as st

from medmap import phantom
from medmap.errors import DataError, UsageError
from medmap.geometry import Geometry
from medmap.layouts import open_dataset
from medmap.layouts.luna import corners_of_ball
from medmap.phantom.anatomy import Ellipsoid
from medmap.phantom.canvas import Canvas
from medmap.phantom.nodules import Nodule
from medmap.read import read_ref

SMALL = (72, 72, 40)


def oblique_grid(shape: tuple[int, int, int] = (40, 44, 30)) -> Geometry:
    a, b = math.radians(20), math.radians(-14)
    turn = np.array([[math.cos(a), -math.sin(a), 0], [math.sin(a), math.cos(a), 0], [0, 0, 1]])
    turn = turn @ np.array([[1, 0, 0], [0, math.cos(b), -math.sin(b)], [0, math.sin(b), math.cos(b)]])
    affine = np.eye(4)
    affine[:3, :3] = turn * (0.7, 1.1, 2.3)
    affine[:3, 3] = (-31, 250, -840)
    return Geometry(shape, affine)


# -- painting -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("radius", [2.0, 3.1, 6.0])
def test_a_small_ellipsoid_fills_its_volume_wherever_it_lies(radius: float) -> None:
    grid = oblique_grid()
    centre = grid.to_world([[19.3, 21.8, 14.4]])[0]
    shape = Ellipsoid(tuple(centre.tolist()), (radius, 1.2 * radius, 0.9 * radius), 30)
    canvas = Canvas(grid, 0)
    canvas.small_ellipsoid(shape, 1)
    assert float(canvas.values.sum()) * grid.voxel_volume_mm3 == pytest.approx(shape.volume_mm3, rel=0.02)
    weights = canvas.values.ravel() / canvas.values.sum()
    index = np.stack(np.meshgrid(*[np.arange(n) for n in grid.shape], indexing="ij"), -1).reshape(-1, 3)
    np.testing.assert_allclose(grid.to_world([weights @ index])[0], centre, atol=0.1)


def test_organs_and_tubes_lie_where_their_shapes_say() -> None:
    from medmap.phantom.anatomy import Tube, voxel_centres_mm

    grid = oblique_grid()
    start, end = (tuple(p.tolist()) for p in grid.to_world([[8, 9, 5], [30, 35, 24]]))
    points = voxel_centres_mm(grid)
    canvas = Canvas(grid, 0)
    canvas.tube((start, end), (3.0, 3.0), 1)
    away = Tube(start, end, 3.0).distance_mm(points)
    assert canvas.values[away < -1].min() == pytest.approx(1, abs=0.25)
    assert canvas.values[away > 1.2].max() == pytest.approx(0, abs=0.25)
    assert (canvas.values[away > 3] == 0).all()
    organ = Ellipsoid(start, (14.0, 20.0, 18.0), 25)
    canvas = Canvas(grid, 0)
    canvas.ellipsoid(organ, 1)
    away = organ.distance_mm(points)
    assert canvas.values[away < -2].min() == pytest.approx(1, abs=1e-3)
    assert canvas.values[away > 2].max() == pytest.approx(0, abs=1e-3)


def test_what_lies_beside_the_grid_paints_nothing() -> None:
    canvas = Canvas(oblique_grid(), 0)
    canvas.ellipsoid(Ellipsoid((900, 0, 0), (9, 9, 9)), 1)
    canvas.small_ellipsoid(Ellipsoid((900, 0, 0), (9, 9, 9)), 1)
    canvas.tube(((900, 0, 0), (910, 0, 0)), (2, 1), 1)
    assert not canvas.values.any()


# -- one case -----------------------------------------------------------------------------------------------------


@given(
    centre=st.tuples(st.floats(8, 30), st.floats(8, 34), st.floats(6, 22)),
    diameter=st.floats(0.5, 14),
    turned=st.booleans(),
)
def test_the_box_of_a_nodule_is_the_one_that_luna_gives(
    centre: tuple[float, ...], diameter: float, turned: bool
) -> None:
    grid = oblique_grid() if turned else Geometry.from_spacing((40, 44, 30), (0.8, 0.8, 2.0), origin_mm=(-9, 80, -300))
    world = tuple(grid.to_world([centre])[0].tolist())
    ours = Nodule(world, diameter, 30).corners(grid)
    np.testing.assert_allclose(ours, corners_of_ball(grid, world, diameter), atol=1e-6)


@pytest.mark.parametrize("number", range(3))
def test_the_picture_shows_each_nodule_in_its_box_and_nowhere_else(number: int) -> None:
    case = phantom.chest_case(5, number, nodules=3)
    array, grid = case.image.array, case.image.geometry
    assert array.dtype == np.int16
    assert case.image.quantity == "HU"
    assert [n.diameter_mm for n in case.nodules] == sorted((n.diameter_mm for n in case.nodules), reverse=True)
    points = grid.to_world(np.argwhere(np.ones(grid.shape, bool))).reshape(*grid.shape, 3)
    for nodule, (corners, label) in zip(case.nodules, case.boxes, strict=True):
        low, high = np.array(corners[:3]), np.array(corners[3:])
        assert label == 0
        assert (low >= 0).all()
        assert (high <= np.array(grid.shape) - 1).all()
        index = grid.to_index([nodule.centre_mm])[0]
        np.testing.assert_allclose((low + high) / 2, index, atol=1e-9)
        away = np.linalg.norm(points - nodule.centre_mm, axis=-1)
        core = array[away < 0.3 * nodule.diameter_mm].mean()
        assert core > -840 + 150  # above the lung, by more than the noise of the mean
        if nodule.kind == "solid" and nodule.diameter_mm > 6:
            assert core == pytest.approx(nodule.value_hu, abs=80)


def test_noise_and_densities_are_as_stated() -> None:
    case = phantom.chest_case(1, 1, nodules=0)
    array = case.image.array.astype(float)
    least, most = (25, 31) if case.columns["kernel"] == "soft" else (32, 40)
    muscle = array[(array > -60) & (array < 150)]
    spread = np.diff(array, axis=2)[(array[:, :, 1:] > -920) & (array[:, :, 1:] < -780)]
    assert np.median(muscle) == pytest.approx(45, abs=20)
    assert 0.6 * least < spread.std() / math.sqrt(2) < 1.4 * most
    assert case.boxes == ()


def test_vessels_are_as_dense_as_nodules_and_from_one_to_six_millimetres() -> None:
    case = phantom.chest_case(0, 0)
    thick = np.array([[2 * r, 2 * s] for _, _, r, s in case.vessels])
    assert 0.9 <= thick.min() <= 1.5
    assert 4.5 <= thick.max() <= 6
    widest = max(case.vessels, key=lambda piece: piece[2])
    middle = (np.array(widest[0]) + widest[1]) / 2
    index = np.rint(case.image.geometry.to_index([middle])[0]).astype(int)
    assert case.image.array[tuple(index)] > -120


def test_a_case_is_the_same_whenever_it_is_asked_for() -> None:
    first, again = (phantom.chest_case(3, 4, shape=SMALL) for _ in range(2))
    assert np.array_equal(first.image.array, again.image.array)
    assert first.nodules == again.nodules
    assert not np.array_equal(first.image.array, phantom.chest_case(4, 4, shape=SMALL).image.array)
    counts = [len(phantom.chest_case(0, n, shape=(96, 96, 48)).nodules) for n in range(12)]
    assert min(counts) == 0
    assert 3 <= max(counts) <= 5
    spacings = {phantom.chest_case(0, n, shape=SMALL, nodules=0).image.spacing_mm for n in range(3)}
    assert len(spacings) == 3
    assert all(1.5 <= s[2] <= 2.5 and 0.75 <= s[0] <= 0.85 for s in spacings)


def test_asking_for_what_cannot_be() -> None:
    for wrong in (
        {"shape": (72, 72)}, {"shape": (8, 72, 72)}, {"nodules": -1}, {"number": -1}, {"diameter_mm": (5, 4)},
        {"diameter_mm": (0, 4)},
    ):  # fmt: skip
        with pytest.raises(UsageError):
            phantom.chest_case(0, **{"number": 0, **wrong})
    with pytest.raises(DataError, match="no room"):
        phantom.chest_case(0, 0, shape=(24, 24, 24), nodules=5, diameter_mm=(12, 12))


# -- as files -----------------------------------------------------------------------------------------------------


def test_both_layouts_hold_the_same_boxes_and_places(tmp_path: Path) -> None:
    splits = {"chest-0003": "test"}
    own = open_dataset(phantom.write_chest_dataset(tmp_path / "own", 4, 11, shape=SMALL, splits=splits))
    luna = open_dataset(
        phantom.write_chest_dataset(tmp_path / "luna", 4, 11, layout="luna16", shape=SMALL, splits=splits)
    )
    assert own.task == luna.task == "detect"
    assert own.label_names == luna.label_names == ("nodule",)
    with (tmp_path / "own/nodules.csv").open() as file:
        stated = list(csv.DictReader(file))
    assert len(stated) > 3
    for number, (ours, theirs) in enumerate(zip(own, luna, strict=True)):
        made = phantom.chest_case(11, number, shape=SMALL)
        assert (ours.patient, ours.site, ours.split) == (theirs.patient, theirs.site, theirs.split)
        assert ours.split == ("test" if number == 3 else None)
        one, two = read_ref(own, ours.inputs["image"]), read_ref(luna, theirs.inputs["image"])
        assert np.array_equal(one.array, made.image.array)
        assert np.array_equal(two.array, made.image.array)
        assert two.geometry.same_grid(made.image.geometry)
        assert [label for _, label in ours.truth.boxes] == [0] * len(made.nodules)
        for (a, _), (b, _), nodule in zip(ours.truth.boxes, theirs.truth.boxes, made.nodules, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-4)
            for image, box in ((one, a), (two, b)):
                middle = (np.array(box[:3]) + box[3:]) / 2
                np.testing.assert_allclose(image.geometry.to_world([middle])[0], nodule.centre_mm, atol=1e-3)
        rows = [row for row in stated if row["case"] == ours.id]
        assert [float(row["diameter_mm"]) for row in rows] == [n.diameter_mm for n in made.nodules]


def test_another_library_finds_a_nodule_at_its_world_coordinates(tmp_path: Path) -> None:
    phantom.write_chest_dataset(tmp_path / "luna", 3, 2, layout="luna16", shape=(96, 96, 48))
    with (tmp_path / "luna/annotations.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert rows
    for row in rows:
        (path,) = (tmp_path / "luna").glob(f"subset*/{row['seriesuid']}.mhd")
        image = SimpleITK.ReadImage(str(path))
        centre = [float(row[f"coord{axis}"]) for axis in "XYZ"]
        index = image.TransformPhysicalPointToIndex(centre)
        around = tuple(slice(max(0, i - 1), i + 2) for i in index)
        assert SimpleITK.GetArrayFromImage(image)[around[::-1]].mean() > -700
    with (tmp_path / "luna/candidates.csv").open() as file:
        classes = [row["class"] for row in csv.DictReader(file)]
    assert classes.count("1") == len(rows)
    assert classes.count("0") > 20


def test_a_dataset_without_any_nodule_opens_as_looked_at(tmp_path: Path) -> None:
    seed = next(s for s in range(20) if not phantom.chest_case(s, 0, shape=SMALL).nodules)
    for layout in ("medmap", "luna16"):
        data = open_dataset(phantom.write_chest_dataset(tmp_path / layout, 1, seed, layout=layout, shape=SMALL))
        assert data.cases[0].truth.annotated
        assert data.cases[0].truth.boxes == ()


@settings(max_examples=3, deadline=None)
@given(st.sampled_from([{"cases": 0}, {"layout": "dicom"}]))
def test_files_that_cannot_be(tmp_path_factory: pytest.TempPathFactory, wrong: dict[str, object]) -> None:
    folder = tmp_path_factory.mktemp("x")
    with pytest.raises(UsageError):
        phantom.write_chest_dataset(folder / "y", **wrong)  # type: ignore[arg-type]
    assert not (folder / "y").exists()
    (folder / "mine").write_text("mine")
    with pytest.raises(UsageError, match="not empty"):
        phantom.write_chest_dataset(folder, 1)
