from __future__ import annotations

import json
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from hypothesis import assume, given
from hypothesis import strategies as st

from grids import oblique_geometry, oblique_image, rotation
from medmap.errors import GeometryError
from medmap.geometry import (
    EXACT_STEPS,
    Crop,
    Flip,
    Geometry,
    Pad,
    Permute,
    Resample,
    Step,
    Trace,
    angle_between_deg,
)
from medmap.image import Image

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def flat_geometry() -> Geometry:
    """A two-dimensional slice of the oblique grid."""
    affine = oblique_geometry().affine_lps_mm.copy()
    affine[:3, 2] /= np.linalg.norm(affine[:3, 2])
    return Geometry((5, 7), affine)


def all_indices(shape: tuple[int, ...]) -> np.ndarray:
    return np.indices(shape).reshape(len(shape), -1).T


@st.composite
def exact_step(draw: st.DrawFn, shape: tuple[int, ...]) -> Step:
    n = len(shape)
    kind = draw(st.sampled_from(EXACT_STEPS))
    if kind is Permute:
        return Permute(tuple(draw(st.permutations(range(n)))))
    if kind is Flip:
        return Flip(tuple(draw(st.lists(st.integers(0, n - 1), unique=True))))
    if kind is Crop:
        start = [draw(st.integers(0, m - 1)) for m in shape]
        return Crop(tuple(start), tuple(draw(st.integers(1, m - s)) for m, s in zip(shape, start, strict=True)))
    counts = st.lists(st.integers(0, 3), min_size=n, max_size=n).map(tuple)
    return Pad(draw(counts), draw(counts))


@st.composite
def exact_traces(draw: st.DrawFn, ndim: int = 3) -> Trace:
    trace = Trace(oblique_geometry() if ndim == 3 else flat_geometry())
    for _ in range(draw(st.integers(0, 6))):
        trace = trace.then(draw(exact_step(trace.target.shape)))
    return trace


@st.composite
def oblique_grids(draw: st.DrawFn) -> Geometry:
    """Axes in any order and sign, turned by up to 25° about each axis of the world."""
    turn = rotation(*[draw(st.floats(-25, 25)) for _ in range(3)])
    order = draw(st.permutations(range(3)))
    signs = [draw(st.sampled_from([-1, 1])) for _ in range(3)]
    spacing = [draw(st.floats(0.2, 6)) for _ in range(3)]
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.eye(3)[:, order] * signs * spacing
    affine[:3, 3] = [draw(st.floats(-400, 400)) for _ in range(3)]
    return Geometry((5, 7, 11), affine)


def survivors(trace: Trace) -> tuple[np.ndarray, np.ndarray]:
    """Source indices of the voxels that no step crops away, and their indices after the trace."""
    start = all_indices(trace.source.shape)
    now, alive = start.astype(float), np.ones(len(start), bool)
    for step, before, after in zip(trace.steps, trace.geometries, trace.geometries[1:], strict=False):
        matrix = step.index_matrix(before)
        now = now @ matrix[:-1, :-1].T + matrix[:-1, -1]
        alive &= ((now > -0.5) & (now < np.array(after.shape) - 0.5)).all(axis=1)
    return start[alive], np.rint(now[alive]).astype(int)


# -- against other libraries --------------------------------------------------------------------------------------


@given(oblique_grids())
def test_letters_spacing_and_world_as_nibabel_says(grid: Geometry) -> None:
    ras = LPS_TO_RAS @ grid.affine_lps_mm
    assert grid.orientation == "".join(nib.aff2axcodes(ras))
    np.testing.assert_allclose(grid.spacing_mm, nib.affines.voxel_sizes(ras), rtol=1e-12)
    points = all_indices(grid.shape)[::17] + 0.25
    expected = nib.affines.apply_affine(ras, points) * (-1, -1, 1)
    np.testing.assert_allclose(grid.to_world(points), expected, rtol=0, atol=1e-9)


@given(oblique_grids())
def test_world_and_volume_as_simpleitk_says(grid: Geometry) -> None:
    picture = SimpleITK.Image([int(n) for n in grid.shape], SimpleITK.sitkUInt8)
    picture.SetOrigin(grid.affine_lps_mm[:3, 3].tolist())
    picture.SetSpacing(grid.spacing_mm)
    picture.SetDirection((grid.affine_lps_mm[:3, :3] / grid.spacing_mm).ravel().tolist())
    for index in ((0.0, 0.0, 0.0), (4.0, 6.0, 10.0), (1.25, -0.5, 7.75)):
        expected = picture.TransformContinuousIndexToPhysicalPoint(index)
        np.testing.assert_allclose(grid.to_world(index)[0], expected, rtol=0, atol=1e-9)
        np.testing.assert_allclose(grid.to_index([expected])[0], index, rtol=0, atol=1e-8)
    assert grid.voxel_volume_mm3 == pytest.approx(np.prod(picture.GetSpacing()))


def test_the_phantoms_numbers_by_hand(geometry: Geometry) -> None:
    assert geometry.spacing_mm == pytest.approx((0.7, 1.3, 2.9))
    assert geometry.voxel_volume_mm3 == pytest.approx(0.7 * 1.3 * 2.9)
    assert geometry.field_of_view_diagonal_mm == pytest.approx(np.hypot(5 * 0.7, np.hypot(7 * 1.3, 11 * 2.9)))
    assert geometry.orientation == "LPS"
    assert geometry.to_world([0, 0, 0])[0].tolist() == [-13.7, 42.1, -88.3]


def test_a_sheared_grid_has_the_volume_of_its_determinant() -> None:
    affine = np.eye(4)
    affine[:3, :3] = np.array([[1, 0.5, 0], [0, 2, 0], [0, 0, 3]])
    sheared = Geometry((5, 7, 11), affine)
    assert sheared.voxel_volume_mm3 == pytest.approx(6)
    longest = max(np.linalg.norm(affine[:3, :3] @ (5 * a, 7 * b, 11)) for a in (-1, 1) for b in (-1, 1))
    assert sheared.field_of_view_diagonal_mm == pytest.approx(longest)


def test_an_axis_between_two_directions_still_gets_letters_of_its_own() -> None:
    affine = np.eye(4)
    affine[:3, :3] = rotation(0, 0, 46) @ np.array([[1, 0, 0], [0, 1, 0.9], [0, 0, 1]])
    letters = Geometry((5, 7, 11), affine).orientation
    assert sorted(letters.translate(str.maketrans("RAI", "LPS"))) == ["L", "P", "S"]


# -- moving: arrays and points together ----------------------------------------------------------------------------


@given(exact_traces())
def test_every_voxel_keeps_its_value_and_its_place(trace: Trace) -> None:
    source = oblique_image()
    moved = source.moved(*trace.steps)
    assert moved.geometry == trace.target
    assert moved.array.shape == trace.target.shape
    before, after = survivors(trace)
    np.testing.assert_array_equal(moved.array[tuple(after.T)], source.array[tuple(before.T)])
    np.testing.assert_allclose(
        moved.geometry.to_world(after) if len(after) else np.zeros((0, 3)),
        source.geometry.to_world(before) if len(before) else np.zeros((0, 3)),
        rtol=0,
        atol=1e-9,
    )
    assert (moved.array != 0).sum() == len(before), "what did not come from the source is the fill value"
    matrix = trace.index_matrix
    np.testing.assert_allclose(before @ matrix[:-1, :-1].T + matrix[:-1, -1], after, atol=1e-9)


@given(exact_traces(ndim=2))
def test_the_same_in_two_dimensions(trace: Trace) -> None:
    values = np.arange(1, 36).reshape(5, 7)
    moved = trace.forward(values)
    before, after = survivors(trace)
    np.testing.assert_array_equal(moved[tuple(after.T)], values[tuple(before.T)])
    if len(before):
        np.testing.assert_allclose(trace.target.to_world(after), trace.source.to_world(before), rtol=0, atol=1e-9)


@given(exact_traces())
def test_there_and_back_again(trace: Trace) -> None:
    source = oblique_image()
    back = trace.back(trace.forward(source.array))
    assert back.shape == source.array.shape
    kept, _ = survivors(trace)
    expected = np.zeros_like(source.array)
    expected[tuple(kept.T)] = source.array[tuple(kept.T)]
    np.testing.assert_array_equal(back, expected)
    grid = trace.target
    for step, before in zip(reversed(trace.steps), reversed(trace.geometries[:-1]), strict=True):
        grid = step.inverse(before).apply(grid)
    assert grid.same_grid(source.geometry, tolerance_voxels=1e-9)


@given(exact_traces(), st.sampled_from([(), (3,), (2, 3)]))
def test_trailing_axes_ride_along(trace: Trace, trailing: tuple[int, ...]) -> None:
    array = np.random.default_rng(0).normal(size=(5, 7, 11, *trailing))
    moved = trace.forward(array, fill=-9)
    for where in np.ndindex(trailing):
        np.testing.assert_array_equal(moved[(..., *where)], trace.forward(array[(..., *where)], fill=-9))


@given(exact_traces())
def test_a_trace_survives_json(trace: Trace) -> None:
    lossy = replace(trace, lossy_intensity="clipped")
    assert Trace.from_json(json.loads(json.dumps(lossy.as_json()))) == lossy
    assert lossy.exact


def test_numpy_counts_in_a_step_are_written_as_numbers(geometry: Geometry) -> None:
    trace = Trace(geometry, (Crop(tuple(np.array([1, 1, 1])), tuple(np.array([2, 3, 4]))),))
    assert json.loads(json.dumps(trace.as_json()))["steps"] == [
        {"step": "crop", "start": [1, 1, 1], "shape": [2, 3, 4]}
    ]


def test_verbs_of_a_grid_are_its_steps(geometry: Geometry) -> None:
    assert geometry.flip([1]) == Flip((1,)).apply(geometry)
    assert geometry.permute([2, 0, 1]).shape == (11, 5, 7)
    assert geometry.crop([1, 2, 3], [2, 3, 4]).to_world([0, 0, 0]) == pytest.approx(geometry.to_world([1, 2, 3]))
    assert geometry.pad([1, 2, 3], [0, 0, 1]).to_world([1, 2, 3]) == pytest.approx(geometry.to_world([0, 0, 0]))
    assert geometry.resampled([10, 7, 5]).shape == (10, 7, 5)


# -- resampling ------------------------------------------------------------------------------------------------------

SHAPES = st.tuples(*[st.integers(1, 24)] * 3)


@given(SHAPES)
def test_resampling_keeps_the_outer_edges(shape: tuple[int, int, int]) -> None:
    before = oblique_geometry()
    after = before.resampled(shape)
    for corner in np.ndindex(2, 2, 2):
        old = np.array(corner) * before.shape - 0.5
        new = np.array(corner) * shape - 0.5
        np.testing.assert_allclose(after.to_world(new), before.to_world(old), rtol=0, atol=1e-9)
    assert Resample(shape).inverse(before).apply(after).same_grid(before, tolerance_voxels=1e-9)
    assert not Trace(before, (Resample(shape),)).exact


@given(SHAPES)
def test_resampling_moves_values_with_their_places(shape: tuple[int, int, int]) -> None:
    before, plane = oblique_geometry(), np.array([0.3, -0.7, 0.2])
    values = (before.to_world(all_indices(before.shape)) @ plane).reshape(before.shape)
    after = Resample(shape).apply(before)
    new = Resample(shape).on_array(values, before, order=1)
    centres = all_indices(shape)
    old = before.to_index(after.to_world(centres))
    inside = ((old >= 0) & (old <= np.array(before.shape) - 1)).all(axis=1)  # beyond the last centres: extended
    expected = after.to_world(centres) @ plane
    np.testing.assert_allclose(new.ravel()[inside], expected[inside], rtol=0, atol=1e-9)


@given(st.tuples(*[st.sampled_from([1, 2, 3, 4])] * 3))
def test_whole_factors_come_back_exactly_by_nearest_neighbour(factors: tuple[int, int, int]) -> None:
    source = oblique_image()
    trace = Trace(source.geometry, (Resample(tuple(n * f for n, f in zip((5, 7, 11), factors, strict=True))),))
    finer = trace.forward(source.array, order=0)
    expected = source.array
    for axis, factor in enumerate(factors):
        expected = expected.repeat(factor, axis=axis)
    np.testing.assert_array_equal(finer, expected)
    np.testing.assert_array_equal(trace.back(finer, order=0), source.array)


@pytest.mark.parametrize("dtype", ["u1", "i2", ">i2", "i4", "f2", "f4", ">f4", "f8", "?"])
def test_resampling_takes_every_type_an_image_may_have(dtype: str, geometry: Geometry) -> None:
    array = (np.arange(385).reshape(5, 7, 11) % 120).astype(dtype)
    nearest = Resample((10, 7, 11)).on_array(array, geometry, order=0)
    assert nearest.dtype == array.dtype
    np.testing.assert_array_equal(nearest, array.repeat(2, axis=0))
    linear = Resample((10, 7, 11)).on_array(array, geometry, order=1)
    assert linear.dtype == (array.dtype if array.dtype.kind == "f" else np.float32)
    assert linear.min() >= array.min()
    assert linear.max() <= array.max()
    assert Resample((5, 7, 11)).on_array(array, geometry) is array


def test_resampling_channels_one_by_one(geometry: Geometry) -> None:
    array = np.random.default_rng(1).normal(size=(5, 7, 11, 3))
    whole = Resample((4, 9, 6)).on_array(array, geometry)
    for channel in range(3):
        np.testing.assert_array_equal(whole[..., channel], Resample((4, 9, 6)).on_array(array[..., channel], geometry))


# -- match -----------------------------------------------------------------------------------------------------------


@st.composite
def normal_traces(draw: st.DrawFn) -> Trace:
    """Permute, flip, then crop or pad at each end: the form in which ``match`` answers, without empty steps."""
    source = oblique_geometry()
    order = tuple(draw(st.permutations(range(3))))
    flips = tuple(sorted(draw(st.sets(st.integers(0, 2)))))
    shape = [source.shape[o] for o in order]
    ends = [(draw(st.integers(-2, 2)), draw(st.integers(-2, 2))) for _ in range(3)]  # below 0: cropped, above: padded
    start = tuple(max(-low, 0) for low, _ in ends)
    kept = tuple(n - s - max(-high, 0) for n, s, (_, high) in zip(shape, start, ends, strict=True))
    steps: list[Step] = []
    if order != (0, 1, 2):
        steps.append(Permute(order))
    if flips:
        steps.append(Flip(flips))
    if kept != tuple(shape):
        steps.append(Crop(start, kept))
    before, after = tuple(max(low, 0) for low, _ in ends), tuple(max(high, 0) for _, high in ends)
    if any(before + after):
        steps.append(Pad(before, after))
    return Trace(source, tuple(steps))


@given(normal_traces())
def test_match_finds_exactly_the_steps(trace: Trace) -> None:
    assert trace.source.match(trace.target) == trace.steps


@given(exact_traces())
def test_match_agrees_with_any_exact_trace_on_what_both_images_hold(trace: Trace) -> None:
    source = oblique_image()
    before, after = survivors(trace)
    assume(len(before))
    matched = source.match(trace.target)
    assert matched.geometry.same_grid(trace.target, tolerance_voxels=1e-9)
    np.testing.assert_array_equal(matched.array[tuple(after.T)], source.array[tuple(before.T)])


@given(st.integers(0, 2), st.floats(0.02, 0.98))
def test_match_refuses_a_part_of_a_voxel(axis: int, part: float) -> None:
    here = oblique_geometry()
    affine = here.affine_lps_mm.copy()
    affine[:3, 3] += part * affine[:3, axis]
    there = replace(here, affine_lps_mm=affine)
    assert not here.same_grid(there)
    with pytest.raises(GeometryError, match="part of a voxel"):
        here.match(there)


@given(st.floats(0.5, 44), st.integers(0, 2))
def test_match_refuses_a_rotation(angle: float, axis: int) -> None:
    here = oblique_geometry()
    angles = [0.0, 0.0, 0.0]
    angles[axis] = angle
    affine = here.affine_lps_mm.copy()
    affine[:3, :3] = rotation(*angles) @ affine[:3, :3]
    there = replace(here, affine_lps_mm=affine)
    assert not here.same_grid(there)
    with pytest.raises(GeometryError, match="differ by more than"):
        here.match(there)


def test_match_refuses_another_spacing(geometry: Geometry) -> None:
    with pytest.raises(GeometryError, match="resample one onto the other"):
        geometry.match(geometry.resampled((10, 7, 11)))


def test_match_refuses_fields_of_view_apart(geometry: Geometry) -> None:
    with pytest.raises(GeometryError, match="do not overlap"):
        geometry.match(geometry.pad((0, 0, 11), (0, 0, 0)).crop((0, 0, 0), (5, 7, 11)))


@pytest.mark.parametrize(
    "other",
    [
        replace(oblique_geometry(), frame_of_reference="9.9.9"),
        replace(oblique_geometry(), kind="none"),
        flat_geometry(),
    ],
    ids=["frame of reference", "no size", "two axes"],
)
def test_match_refuses_another_space(other: Geometry, geometry: Geometry) -> None:
    with pytest.raises(GeometryError, match="do not share a space"):
        geometry.match(other)
    assert not geometry.same_grid(other)


def test_an_unknown_frame_of_reference_does_not_hinder(geometry: Geometry) -> None:
    assert geometry.match(replace(geometry, frame_of_reference=None)) == ()
    assert geometry.same_grid(replace(geometry, frame_of_reference=None))


def test_two_parallel_slices_are_two_grids() -> None:
    here = flat_geometry()
    affine = here.affine_lps_mm.copy()
    affine[:3, 3] += 2.9 * affine[:3, 2]
    there = replace(here, affine_lps_mm=affine)
    assert here.match(here) == ()
    assert here.same_grid(here)
    assert not here.same_grid(there)
    with pytest.raises(GeometryError, match="differ by more than"):
        here.match(there)
    tilted = affine.copy()
    tilted[:3, :2] = rotation(3, 0, 0) @ tilted[:3, :2]
    with pytest.raises(GeometryError, match="differ by more than"):
        here.match(replace(here, affine_lps_mm=tilted))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_farthest_corner_decides_about_one_grid(axis: int, geometry: Geometry) -> None:
    affine = geometry.affine_lps_mm.copy()
    affine[:3, axis] *= 1 + 2e-3 / (geometry.shape[axis] - 1)  # 2e-3 of a voxel at the far end
    stretched = replace(geometry, affine_lps_mm=affine)
    assert not geometry.same_grid(stretched)
    assert geometry.same_grid(stretched, tolerance_voxels=3e-3)


# -- orientation -----------------------------------------------------------------------------------------------------

LETTERS = ["".join((a, b, c)) for a in "LR" for b in "PA" for c in "SI"] + ["SAR", "PIL", "ASL", "IRP"]


@given(oblique_grids(), st.sampled_from(LETTERS))
def test_oriented_grows_the_axes_that_way(grid: Geometry, letters: str) -> None:
    source = replace(oblique_image(), geometry=grid)
    turned = source.oriented(letters)
    assert turned.geometry.orientation == letters
    assert set(turned.array.ravel()) == set(source.array.ravel())
    again = turned.match(grid)
    np.testing.assert_array_equal(again.array, source.array)


@given(st.floats(-180, 180), st.floats(-90, 90), st.floats(-180, 180), st.sampled_from(LETTERS))
def test_oriented_and_orientation_agree_at_any_angle(x: float, y: float, z: float, letters: str) -> None:
    affine = np.eye(4)
    affine[:3, :3] = rotation(x, y, z) * (0.7, 1.3, 2.9)
    turned = Trace(Geometry((5, 7, 11), affine)).then(*Geometry((5, 7, 11), affine).oriented(letters)).target
    strengths = np.sort(np.abs(affine[:3, :3] / (0.7, 1.3, 2.9)).ravel())
    assume(np.diff(strengths).min() > 1e-6)  # at exactly 45° two answers are equally right
    assert turned.orientation == letters


@pytest.mark.parametrize("letters", ["LP", "LLS", "XYZ", "LPSL", "lps", ""])
def test_orientation_letters_that_name_no_orientation(letters: str, geometry: Geometry) -> None:
    with pytest.raises(GeometryError, match="three letters"):
        geometry.oriented(letters)


def test_a_slice_has_no_three_letters() -> None:
    with pytest.raises(GeometryError, match="three letters"):
        flat_geometry().oriented("LPS")


# -- two dimensions, no size -----------------------------------------------------------------------------------------


def test_a_slice_knows_its_place_and_its_plane() -> None:
    flat = flat_geometry()
    assert (flat.ndim, flat.orientation) == (2, "LP")
    assert flat.spacing_mm == pytest.approx((0.7, 1.3))
    np.testing.assert_allclose(flat.to_world([[2, 3]]), oblique_geometry().to_world([[2, 3, 0]]), atol=1e-12)
    above = flat.to_world([[2, 3]]) + 5 * flat.affine_lps_mm[:3, 2]
    np.testing.assert_allclose(flat.to_index(above), [[2, 3]], atol=1e-9)
    assert flat.field_of_view_diagonal_mm == pytest.approx(np.hypot(5 * 0.7, 7 * 1.3))
    with pytest.raises(GeometryError, match="three-dimensional"):
        _ = flat.voxel_volume_mm3


def test_an_image_without_a_size_refuses_millimetres() -> None:
    grid = Geometry.without_size((5, 7))
    assert not grid.has_size
    assert grid.orientation == "none"
    for question in ("spacing_mm", "voxel_volume_mm3", "field_of_view_diagonal_mm"):
        with pytest.raises(GeometryError, match="needs millimetres"):
            getattr(grid, question)
    with pytest.raises(GeometryError, match="HD95 needs millimetres"):
        grid.require_size("HD95")
    with pytest.raises(GeometryError, match="needs millimetres"):
        Geometry.without_size((5, 7, 11)).oriented("LPS")
    oblique_geometry().require_size("HD95")


def test_images_without_a_size_match_at_equal_shape_only() -> None:
    grid = Geometry.without_size((5, 7))
    assert grid.match(Geometry.without_size((5, 7))) == ()
    assert grid.match(grid.flip([0])) == (Flip((0,)),)
    with pytest.raises(GeometryError, match="only at equal shape"):
        grid.match(Geometry.without_size((7, 5)))
    with pytest.raises(GeometryError, match="only at equal shape") as caught:
        grid.match(Geometry.without_size((5, 8)))
    assert "(5, 8)" in str(caught.value)


def test_the_description_of_a_grid_without_size_says_so() -> None:
    with pytest.raises(GeometryError, match="no size"):
        Geometry.without_size((5, 7, 11)).match(oblique_geometry())


# -- values that cannot lie ------------------------------------------------------------------------------------------


def changed(where: tuple[int, int] | slice, value: float) -> np.ndarray:
    affine = oblique_geometry().affine_lps_mm.copy()
    affine[where] = value
    return affine


FLAT_AXES = np.eye(4)
FLAT_AXES[:3, 2] = FLAT_AXES[:3, 0] + FLAT_AXES[:3, 1]


@pytest.mark.parametrize(
    ("shape", "affine", "kind", "sentence"),
    [
        ((5,), np.eye(4), "patient", "two or three axes"),
        ((5, 7, 11, 2), np.eye(4), "patient", "two or three axes"),
        ((5, 0, 11), np.eye(4), "patient", "at least one voxel"),
        ((5, 7, 11), np.eye(4), "planet", "unknown kind"),
        ((5, 7, 11), np.eye(3), "patient", "wrong shape"),
        ((5, 7, 11), changed((0, 3), np.nan), "patient", "not finite"),
        ((5, 7, 11), changed((1, 1), np.inf), "patient", "not finite"),
        ((5, 7, 11), changed((3, 0), 1), "patient", "last row"),
        ((5, 7, 11), np.diag([1.0, 0, 1, 1]), "patient", "zero spacing"),
        ((5, 7, 11), FLAT_AXES, "patient", "in one plane"),
    ],
)
def test_a_grid_that_is_none_is_refused(shape: tuple[int, ...], affine: np.ndarray, kind: str, sentence: str) -> None:
    with pytest.raises(GeometryError, match=sentence):
        Geometry(shape, affine, kind)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("shape", "spacing", "origin"),
    [((5, 7, 11), (0.7, 1.3), ()), ((5, 7), (1, 1, 1), ()), ((5, 7), (1, 1), (3, 4)), ((5, 7), (1, -1), ())],
)
def test_no_spacing_is_made_up(shape: tuple[int, ...], spacing: tuple[float, ...], origin: tuple[float, ...]) -> None:
    with pytest.raises(GeometryError, match="positive spacing for each axis"):
        Geometry.from_spacing(shape, spacing, origin_mm=origin)


def test_an_axis_aligned_grid_from_spacing_and_origin() -> None:
    grid = Geometry.from_spacing((5, 7), (0.7, 1.3), "detector", (1, 2, 3))
    assert grid.kind == "detector"
    np.testing.assert_allclose(grid.to_world([[1, 1]]), [[1.7, 3.3, 3]])


def test_wrong_numbers_of_coordinates_are_refused(geometry: Geometry) -> None:
    with pytest.raises(GeometryError, match="index coordinates"):
        geometry.to_world([[1, 2]])
    with pytest.raises(GeometryError, match="three coordinates"):
        geometry.to_index([[1, 2]])


@pytest.mark.parametrize(
    ("step", "sentence"),
    [
        (Permute((0, 1)), "names every axis once"),
        (Permute((0, 0, 1)), "axes that the grid does not have"),
        (Permute((0, 1, 3)), "axes that the grid does not have"),
        (Flip((0, 0)), "axes that the grid does not have"),
        (Flip((-1,)), "axes that the grid does not have"),
        (Crop((0, 0, 0), (5, 7, 12)), "outside the image"),
        (Crop((-1, 0, 0), (2, 2, 2)), "outside the image"),
        (Crop((0, 0, 0), (0, 7, 11)), "outside the image"),
        (Crop((0, 0), (5, 7)), "outside the image"),
        (Pad((1, 1), (1, 1)), "count of voxels"),
        (Pad((1, 1, 1), (1, 1)), "count of voxels"),
        (Pad((0, 0, -1), (0, 0, 0)), "count of voxels"),
        (Resample((5, 7)), "count of voxels for each axis"),
        (Resample((5, 0, 11)), "count of voxels for each axis"),
    ],
    ids=str,
)
def test_a_step_that_does_not_fit_is_refused(step: Step, sentence: str, image: Image) -> None:
    with pytest.raises(GeometryError, match=sentence):
        step.apply(image.geometry)
    with pytest.raises(GeometryError, match=sentence):
        image.moved(step)
    with pytest.raises(GeometryError, match=sentence):
        Trace(image.geometry, (step,)).forward(image.array)


def test_back_takes_only_the_prepared_grid(image: Image) -> None:
    trace = Trace(image.geometry, (Crop((0, 0, 0), (4, 7, 11)),))
    with pytest.raises(GeometryError, match="prepared grid"):
        trace.back(image.array)


def test_an_affine_cannot_be_changed(geometry: Geometry) -> None:
    with pytest.raises(ValueError, match="read-only"):
        geometry.affine_lps_mm[0, 0] = 3
    mine = np.eye(4)
    kept = Geometry((5, 7, 11), mine)
    mine[0, 0] = 9
    assert kept.spacing_mm == (1, 1, 1)


def test_equal_grids_are_equal_and_hash_alike(geometry: Geometry) -> None:
    assert geometry == oblique_geometry()
    assert hash(geometry) == hash(oblique_geometry())
    plus, minus = np.diag([1.0, 2, 3, 1]), np.diag([1.0, 2, 3, 1])
    minus[0, 1] = -0.0
    assert Geometry((5, 7, 11), plus) == Geometry((5, 7, 11), minus)
    assert hash(Geometry((5, 7, 11), plus)) == hash(Geometry((5, 7, 11), minus))
    assert geometry != replace(geometry, frame_of_reference=None)
    assert geometry != "a grid"
    assert len({geometry, oblique_geometry()}) == 1


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"shape": 5, "affine_lps_mm": np.eye(4).tolist(), "kind": "patient"},
        {"shape": [5, 7], "affine_lps_mm": "x", "kind": "patient"},
        {"shape": [5, 7], "affine_lps_mm": [[1, 2], [3]], "kind": "patient"},
        [],
    ],
)
def test_a_stored_geometry_that_is_none_is_refused(data: dict[str, object]) -> None:
    with pytest.raises(GeometryError, match="cannot be understood"):
        Geometry.from_json(data)


@pytest.mark.parametrize(
    "steps", [[{"step": "warp"}], [{"axes": [0]}], [{"step": "flip", "order": [0]}], [{"step": "flip", "axes": "x"}], 3]
)
def test_a_stored_trace_that_is_none_is_refused(steps: object, geometry: Geometry) -> None:
    with pytest.raises(GeometryError, match="cannot be understood"):
        Trace.from_json({"source": geometry.as_json(), "steps": steps})


def test_angles() -> None:
    assert angle_between_deg([1, 0, 0], [0, 2, 0]) == pytest.approx(90)
    assert angle_between_deg([1, 1, 0], [2, 2, 0]) == pytest.approx(0, abs=1e-5)
    assert angle_between_deg([1, 0, 0], [-1, 0, 0]) == pytest.approx(180)
    for vector in ([0, 0, 0], [np.nan, 0, 0]):
        with pytest.raises(GeometryError, match="no direction"):
            angle_between_deg(vector, [1, 0, 0])
