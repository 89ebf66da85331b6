"""Instances: every connected part of a structure has a number, checked by flooding."""

from __future__ import annotations

from collections import deque
from importlib import import_module
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import medmap as mm
from dicom_sources import right_handed_image, written_series
from grids import oblique_geometry
from medmap.errors import DataError, GeometryError, ReadError, UsageError
from medmap.geometry import Geometry
from medmap.image import Image
from medmap.read.dicom.segmentation import read_segmentation
from medmap.results import Label, Mask

LABELS = {1: Label("lesion", "SCT:52988006"), 2: Label("cyst"), 5: Label("nowhere")}


def flooded(region: np.ndarray) -> list[set[tuple[int, ...]]]:
    """Connected parts by visiting every neighbour that shares a face, an edge or a corner."""
    left = {tuple(map(int, at)) for at in np.argwhere(region)}
    parts = []
    while left:
        part, queue = set(), deque([left.pop()])
        while queue:
            at = queue.popleft()
            part.add(at)
            for step in product((-1, 0, 1), repeat=region.ndim):
                beside = tuple(a + b for a, b in zip(at, step, strict=True))
                if beside in left:
                    left.remove(beside)
                    queue.append(beside)
        parts.append(part)
    return parts


@settings(max_examples=60, deadline=None)
@given(array=arrays.arrays(np.uint8, st.tuples(*[st.integers(1, 5)] * 3), elements=st.sampled_from([0, 0, 1, 2])))
def test_every_connected_part_has_one_number_the_largest_first(array: np.ndarray) -> None:
    mask = Mask(array, Geometry.from_spacing(array.shape, (0.7, 1.3, 2.9)), LABELS)
    found = mm.instances(mask)
    assert np.array_equal(found.array > 0, array > 0)
    assert list(found.labels) == list(range(1, len(found.labels) + 1))
    ours = {n: {tuple(map(int, at)) for at in np.argwhere(found.array == n)} for n in found.labels}
    for value, label in LABELS.items():
        mine = [ours[n] for n, one in found.labels.items() if one == label]
        assert sorted(map(sorted, mine)) == sorted(map(sorted, flooded(array == value)))
        assert [len(part) for part in mine] == sorted((len(part) for part in mine), reverse=True)
    structures = [label.name for label in found.labels.values()]
    assert structures == sorted(structures, key=["lesion", "cyst"].index)
    rows = mm.measure(found)
    assert [row.voxels for row in rows] == [len(ours[n]) for n in found.labels]
    assert all(row.parts == 1 for row in rows)
    assert sum(row.voxels for row in mm.measure(mask)) == sum(row.voxels for row in rows)


def test_regions_that_overlap_keep_their_instances_apart() -> None:
    array = np.zeros((6, 7, 2), bool)
    array[1:4, 1:6, 0] = True
    array[2, 2, 1] = array[2, 4:6, 1] = True
    mask = Mask(array, Geometry.from_spacing((6, 7), (0.5, 0.5)), {1: Label("whole"), 2: Label("core")})
    found = mm.instances(mask)
    assert found.array.shape == array.shape
    assert found.array[2, 2].tolist() == [1, 3]
    assert found.array[2, 4].tolist() == [1, 2]
    assert found.image.channels == ("whole", "core")
    apart = found.as_mask()
    assert [label.name for label in apart.labels.values()] == ["whole 1", "core 1", "core 2"]
    assert apart.array.sum(axis=(0, 1)).tolist() == [15, 2, 1]
    assert [row.area_mm2 for row in mm.measure(found)] == [15 * 0.25, 2 * 0.25, 0.25]
    alone = mm.instances(Mask(array[..., :1], mask.geometry, {4: Label("whole")}))
    assert alone.image.channels == ("image",)
    assert alone.image.array.shape == (6, 7)


def test_what_was_looked_for_and_not_found_stays_named(tmp_path: Path) -> None:
    series = written_series(tmp_path / "series", picture := right_handed_image())
    empty = Mask(np.zeros(picture.geometry.shape, np.uint8), picture.geometry, LABELS)
    assert [label.name for label in mm.instances(empty).as_mask().labels.values()] == ["lesion", "cyst", "nowhere"]
    path = mm.write(empty, tmp_path / "none.dcm", format="dicom-seg-instances", source=series)
    back = read_segmentation(path, on=picture.geometry)
    assert [label.name for label in back.labels.values()] == ["lesion", "cyst", "nowhere"]
    assert not back.array.any()
    one = np.zeros(picture.geometry.shape, np.uint8)
    one[2, 2, 2] = 2
    names = [label.name for label in mm.instances(Mask(one, picture.geometry, LABELS)).as_mask().labels.values()]
    assert names == ["cyst 1", "lesion", "nowhere"]
    both = np.zeros((4, 5, 2), bool)
    both[1, 1, 1] = True
    apart = mm.instances(Mask(both, Geometry.without_size((4, 5)), {1: Label("a"), 2: Label("b")})).as_mask()
    assert [label.name for label in apart.labels.values()] == ["b 1", "a"]
    assert apart.array.sum(axis=(0, 1)).tolist() == [1, 0]


def test_a_long_name_keeps_its_number_and_equal_parts_their_order() -> None:
    array = np.array([[1, 0, 1, 0, 1, 1]], np.uint8)
    mask = Mask(array, Geometry.without_size((1, 6)), {1: Label("n" * 70)})
    found = mm.instances(mask)
    assert found.array.tolist() == [[2, 0, 3, 0, 1, 1]]
    names = [label.name for label in found.as_mask().labels.values()]
    assert len(set(names)) == 3
    assert all(len(name) == 64 for name in names)
    with pytest.raises(ValueError, match="read-only"):
        found.array[0, 0] = 7


def test_what_a_mask_of_its_own_cannot_hold_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    both = np.zeros((4, 5, 2), bool)
    both[::2, ::2] = True
    found = mm.instances(Mask(both, Geometry.without_size((4, 5)), {1: Label("a"), 2: Label("b")}))
    monkeypatch.setattr(import_module("medmap.measure.parts"), "MOST_BYTES", 100)
    with pytest.raises(DataError, match="too many instances"):
        found.as_mask()
    three = np.repeat(both[..., :1], 3, axis=-1)
    overlapping = Mask(three, Geometry.without_size((4, 5)), {n: Label(str(n)) for n in (1, 2, 3)})
    with pytest.raises(DataError, match="do not overlap"):
        mm.write(overlapping, tmp_path / "three.png", format="instances")
    many = np.zeros((520, 520), np.uint8)
    many[::2, ::2] = 1
    with pytest.raises(DataError, match=r"65,535"):
        mm.write(Mask(many, Geometry.without_size(many.shape), {1: Label("c")}), tmp_path / "m.png", format="instances")
    none = Mask(np.zeros((4, 5, 0), bool), Geometry.without_size((4, 5)), {})
    assert mm.measure(mm.instances(none)) == ()
    with pytest.raises(DataError, match="without structures"):
        _ = mm.instances(none).image


def test_numbers_beyond_a_byte_and_beyond_two_keep_apart() -> None:
    for side, kind in ((40, np.uint16), (520, np.uint32)):
        array = np.zeros((side, side), np.uint8)
        array[::2, ::2] = 1
        found = mm.instances(Mask(array, Geometry.without_size(array.shape), {1: Label("cell")}))
        count = (side // 2) ** 2
        assert found.array.dtype == kind
        assert len(found.labels) == len(np.unique(found.array)) - 1 == count


def test_instances_are_written_as_nifti_png_and_segments(tmp_path: Path) -> None:
    series = written_series(tmp_path / "series", picture := right_handed_image())
    array = np.zeros(picture.geometry.shape, np.uint8)
    array[0:2, 0:2, 0:2], array[4:6, 4:6, 5], array[3, 0, 5] = 1, 1, 2
    mask = Mask(array, picture.geometry, LABELS)
    answer = mm.Prediction("case", {"mask": mask})
    mm.write(answer, tmp_path / "parts.nii.gz", format="instances")
    again = mm.read(tmp_path / "parts.nii.gz").match(picture.geometry)
    assert np.array_equal(again.array, mm.instances(mask).array)
    path = mm.write(answer, tmp_path / "parts.dcm", format="dicom-seg-instances", source=series)
    back = read_segmentation(path, on=picture.geometry)
    assert [label.name for label in back.labels.values()] == ["lesion 1", "lesion 2", "cyst 1", "nowhere"]
    assert str(back.labels[1].code).startswith("SCT:52988006")
    assert np.array_equal(back.array, mm.instances(mask).array)

    flat = Mask(np.eye(5, dtype=np.uint8)[::2].copy(), Geometry.without_size((3, 5)), LABELS)
    mm.write(flat, tmp_path / "cells.png", format="instances")
    assert mm.read(tmp_path / "cells.png").array.tolist() == mm.instances(flat).array.tolist()
    with pytest.raises(GeometryError, match="millimetres"):
        mm.write(flat, tmp_path / "cells.nii.gz", format="instances")
    with pytest.raises(DataError, match="one picture"):
        mm.write(mask, tmp_path / "volume.png", format="instances")
    with pytest.raises(UsageError, match="one mask"):
        mm.write(Image(array, picture.geometry, "label"), tmp_path / "no.nii.gz", format="instances")
    assert not (tmp_path / "volume.png").exists()


def test_masks_that_were_read_are_measured_and_images_are_not(tmp_path: Path) -> None:
    array = np.zeros((4, 5, 6), np.uint8)
    array[0, 0, 0], array[2:, 2:, 2:] = 3, 1
    image = Image(array, Geometry.from_spacing(array.shape, (1.0, 1.0, 2.0)), "label")
    mm.write(image, tmp_path / "mask.nii.gz")
    again = mm.read(tmp_path / "mask.nii.gz")
    mask = Mask.of(again, {1: Label("liver"), 3: Label("cyst")})
    assert [(row.label.name, row.voxels) for row in mm.measure(mask)] == [("liver", 24), ("cyst", 1)]
    assert [label.name for label in Mask.of(again).labels.values()] == ["1", "3"]
    for wrong in (lambda: mm.measure(again), lambda: mm.instances(again)):
        with pytest.raises(UsageError, match=r"Mask\.of"):
            wrong()
    mm.write(mm.instances(mask), tmp_path / "parts.nii.gz")
    mm.write(mm.instances(mask), tmp_path / "again.nii.gz", format="instances")
    assert (tmp_path / "again.nii.gz").read_bytes() == (tmp_path / "parts.nii.gz").read_bytes()
    assert set(np.unique(mm.read(tmp_path / "parts.nii.gz").array)) == {0, 1, 2}
    with pytest.raises(ReadError, match="whole numbers"):
        Mask.of(Image(np.full((3, 4), 0.5, np.float32), Geometry.without_size((3, 4))))


def test_intensities_are_those_of_each_part() -> None:
    grid = oblique_geometry()
    array = np.zeros(grid.shape, np.uint8)
    array[0, 0, 0:2], array[3, 3, 3] = 1, 1
    image = Image(np.arange(array.size, dtype=np.float32).reshape(grid.shape), grid, "HU")
    rows = mm.measure(mm.instances(Mask(array, grid, LABELS)), image)
    assert [row.intensity["mean"] for row in rows if row.intensity] == [0.5, image.array[3, 3, 3]]
    assert [row.voxels for row in rows] == [2, 1]


def test_what_is_no_mask_or_no_label_is_refused_in_a_sentence(tmp_path: Path) -> None:
    grid = Geometry.from_spacing((4, 5, 6), (1.0, 1.0, 1.0))
    array = np.ones(grid.shape, np.uint8)
    for labels in ({2**31: Label("z")}, {-1: Label("z")}, {"1": Label("z")}, {1.0: Label("z")}, {1: "z"}, [Label("z")]):
        with pytest.raises(DataError, match=r"label"):
            Mask(array, grid, labels)  # type: ignore[arg-type]
    mask = Mask(array, grid, {1: Label("a"), 2**24: Label("far")})
    assert [row.voxels for row in mm.measure(mask)] == [120, 0]
    for wrong in (
        lambda: Mask.of(array),  # type: ignore[arg-type]
        lambda: mm.instances(array),  # type: ignore[arg-type]
        lambda: mm.measure(mask, array),  # type: ignore[arg-type]
        lambda: mm.measure(array),  # type: ignore[arg-type]
        lambda: mm.write(mask, tmp_path / "parts.mha", format="instances"),
    ):
        with pytest.raises(UsageError):
            wrong()
    assert list(tmp_path.iterdir()) == []


def test_masks_in_colour_or_over_time_are_refused_and_channels_are_taken_each_by_itself(tmp_path: Path) -> None:
    from PIL import Image as Pillow

    palette = Pillow.fromarray(np.array([[0, 1], [2, 3]], np.uint8), mode="P")
    palette.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0])
    palette.save(tmp_path / "voc.png")
    with pytest.raises(ReadError, match="palette"):
        Mask.of(mm.read(tmp_path / "voc.png"))
    grid = Geometry.without_size((2, 3))
    two = np.zeros((2, 3, 2), np.uint8)
    two[0, 0, 0], two[1, :, 1] = 1, 255
    found = Mask.of(Image(two, grid, "label", ("a", "b")))
    assert [row.voxels for row in mm.measure(found)] == [1, 3]
    two[..., 1] = 255
    assert [row.voxels for row in mm.measure(Mask.of(Image(two, grid, "label", ("a", "b"))))] == [1, 6], "all of it"
    two[0, 1, 1] = 7
    with pytest.raises(ReadError, match="one other value each"):
        Mask.of(Image(two, grid, "label", ("a", "b")))
