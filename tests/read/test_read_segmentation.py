"""Segmentations and parametric maps of others: every kind, beside what highdicom says of the same file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest

from dicom_sources import right_handed_image, written_series
from medmap.errors import DataError, GeometryError, LimitError, ReadError
from medmap.geometry import Geometry
from medmap.read import header, read
from medmap.read.dicom.segmentation import read_segmentation, segments_of

KINDS = {
    "seg_image_cr_binary": ((16, 16), "none"),
    "seg_image_ct_binary": ((16, 16, 3), "patient"),
    "seg_image_ct_binary_fractional": ((16, 16, 3), "patient"),
    "seg_image_ct_binary_overlap": ((16, 16, 165), "patient"),
    "seg_image_ct_binary_single_frame": ((128, 128), "patient"),
    "seg_image_ct_true_fractional": ((16, 16, 3), "patient"),
    "seg_image_sm_control": ((50, 50), "slide"),
    "seg_image_sm_control_labelmap": ((50, 50), "slide"),
    "seg_image_sm_control_labelmap_palette_color": ((50, 50), "slide"),
    "seg_image_sm_dots": ((50, 50), "slide"),
    "seg_image_sm_dots_tiled_full": ((50, 50), "slide"),
    "seg_image_sm_numbers": ((50, 50), "slide"),
}
LIVERS = ("liver", "liver_deflate", "liver_expb", "liver_j2k", "liver_rle")
ODD_LIVERS = ("liver_nonbyte_aligned", "liver_nonbyte_aligned_deflate", "liver_nonbyte_aligned_j2k",
              "liver_nonbyte_aligned_rle")  # fmt: skip


@pytest.fixture
def folder(shared_data: Path) -> Path:
    return shared_data / "dicom" / "highdicom"


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_is_read_with_its_place(name: str, folder: Path) -> None:
    path = folder / f"{name}.dcm"
    image, seg = read(path), hd.seg.segread(path)
    assert (image.geometry.shape, image.geometry.kind) == KINDS[name]
    assert header(path).shape == image.array.shape
    assert image.quantity == ("probability" if "fractional" in name else "label")
    assert [s.number for s in segments_of(path)] == [n for n in seg.segment_numbers if n]
    if image.geometry.kind == "slide":
        wanted = seg.get_total_pixel_matrix(combine_segments=True, skip_overlap_checks=True)
        assert np.array_equal(image.array, wanted)
    elif image.geometry.kind == "none":
        assert np.array_equal(image.array, seg.pixel_array)
    else:
        same_volume(image, seg)


def same_volume(image: object, seg: hd.seg.Segmentation) -> None:
    """highdicom's volume has slices first, maybe in the other direction: compare by place."""
    for channel, number in enumerate(seg.segment_numbers):
        volume = seg.get_volume(segment_numbers=[number], combine_segments=False, allow_missing_positions=True)
        array = image.array[..., channel] if len(image.channels) > 1 else image.array
        array = array[:, :, None] if array.ndim == 2 else array
        theirs = volume.array[..., 0]
        points = np.argwhere(theirs > 0)
        world = points @ volume.affine[:3, :3].T + volume.affine[:3, 3]
        ours = np.rint(image.geometry.to_index(world)).astype(int)
        ours = ours if ours.shape[1] == 3 else np.column_stack([ours, np.zeros(len(ours), int)])
        assert np.count_nonzero(array) == len(points)
        assert np.allclose(array[tuple(ours.T)], theirs[tuple(points.T)])


def test_a_fraction_is_a_probability(folder: Path) -> None:
    image = read(folder / "seg_image_ct_true_fractional.dcm")
    stored = pydicom.dcmread(folder / "seg_image_ct_true_fractional.dcm").pixel_array
    assert image.array.dtype == np.float32
    assert np.allclose(sorted(np.unique(image.array)), np.unique(stored) / 255)
    with pytest.raises(DataError, match="give a threshold"):
        read_segmentation(folder / "seg_image_ct_true_fractional.dcm")
    assert read_segmentation(folder / "seg_image_ct_true_fractional.dcm", threshold=0.5).array.any()
    assert read_segmentation(folder / "seg_image_ct_binary_fractional.dcm").array.max() == 1


def test_overlapping_segments_are_channels(folder: Path) -> None:
    image = read(folder / "seg_image_ct_binary_overlap.dcm")
    assert image.channels == ("first segment", "second segment")
    assert any("overlap" in w for w in image.source.warnings)
    mask = read_segmentation(folder / "seg_image_ct_binary_overlap.dcm")
    assert mask.array.dtype == np.bool_
    assert np.array_equal(mask.array, image.array)
    assert mask.labels[1].code == "SCT:272673000|Bone"
    one = read(folder / "seg_image_ct_binary_overlap.dcm#2")
    assert np.array_equal(one.array, image.array[..., 1])
    with pytest.raises(ReadError, match="overlapping segments"):
        read(folder / "seg_image_ct_binary_overlap.dcm#1>1,2>2")
    both = read(folder / "seg_image_ct_binary_overlap.dcm#1>7,2>7").array
    assert np.array_equal(both == 7, image.array.any(axis=-1))


@pytest.mark.parametrize("name", ["seg_image_sm_control", "seg_image_sm_control_labelmap"])
def test_a_member_says_which_segment_becomes_which_value(name: str, folder: Path) -> None:
    path = folder / f"{name}.dcm"
    whole = read(path).array
    some = read(f"{path}#3>1,1>300").array
    assert np.array_equal(some, np.select([whole == 3, whole == 1], [1, 300], 0))
    assert np.array_equal(read(f"{path}#3").array, (whole == 3).astype(int))


@pytest.mark.parametrize("member", ["99", "1>2>3", "a>1", "1,2", "1>1,1>2", "1>70000", "", ">1", "-1>1", "²"])
def test_a_member_that_says_nothing_is_refused(member: str, folder: Path) -> None:
    with pytest.raises(ReadError, match=r"has no segment|has no member|named twice|beyond what a label map"):
        read(folder / "seg_image_ct_binary.dcm", member=member)


@pytest.mark.parametrize("names", [LIVERS, ODD_LIVERS], ids=["byte-aligned", "odd"])
def test_one_segmentation_in_every_coding_is_one(names: tuple[str, ...], shared_data: Path) -> None:
    masks = [read_segmentation(shared_data / "dicom" / "pydicom-data" / f"{name}.dcm") for name in names]
    assert masks[0].array.sum() == 107098
    for name, mask in zip(names, masks, strict=True):
        assert np.array_equal(mask.array, masks[0].array), name
        assert mask.geometry.same_grid(masks[0].geometry), name


@pytest.mark.parametrize("name", ["parametric_map_float", "parametric_map_double_float"])
def test_parametric_maps_hold_values(name: str, shared_data: Path) -> None:
    path = shared_data / "dicom" / "pydicom-data" / f"{name}.dcm"
    image, data = read(path), pydicom.dcmread(path)
    stored = data.pixel_array
    assert image.array.dtype == stored.dtype
    assert np.array_equal(image.array, stored)
    assert image.geometry.kind == "patient"
    assert np.array_equal(read(f"{path}#0").array, stored)
    with pytest.raises(ReadError, match="no frame"):
        read(f"{path}#1")


# -- made here: a map of several quantities, and what may be wrong -----------------------------------------------------


def a_map(path: Path, sources: list[pydicom.Dataset], dtype: str) -> tuple[np.ndarray, Path]:
    """Two quantities on the slices of a series, with a slope of their own."""
    from pydicom.sr.codedict import codes

    shape = (len(sources), *sources[0].pixel_array.shape, 2)
    values = (np.random.default_rng(8).random(shape) * 50).astype(dtype)
    within = (0, 255) if dtype == "uint8" else (0.0, 60.0)
    mappings = [
        [hd.pm.RealWorldValueMapping(name, name, codes.UCUM.NoUnits, within, slope=slope, intercept=1)]
        for name, slope in (("ADC", 2), ("Ktrans", 0.5))
    ]
    made = hd.pm.ParametricMap(
        sources,
        values,
        hd.UID(),
        9,
        hd.UID(),
        1,
        "m",
        "m",
        "1",
        "1",
        False,
        mappings,
        content_label="MAP",
        voi_lut_transformations=[hd.VOILUTTransformation(25.0, 50.0)],
    )
    made.save_as(path)
    return values, path


@pytest.fixture
def slices(tmp_path: Path) -> list[pydicom.Dataset]:
    series = written_series(tmp_path / "s", right_handed_image())
    return [pydicom.dcmread(p) for p in sorted(series.iterdir())]


@pytest.mark.parametrize("dtype", ["float32", "float64", "uint8"])
def test_quantities_at_one_place_are_channels(dtype: str, slices: list[pydicom.Dataset], tmp_path: Path) -> None:
    grid = right_handed_image().geometry
    values, path = a_map(tmp_path / "m.dcm", slices, dtype)
    image = read(path)
    assert image.channels == ("ADC", "Ktrans")
    found = image.match(grid).array
    for number, one in enumerate(slices):
        index = grid.to_index([[float(v) for v in one.ImagePositionPatient]])[0]
        at = found[:, :, round(float(index[2]))]
        assert np.allclose(at[..., 0], values[number, ..., 0].astype(float) * 2 + 1)
        assert np.allclose(at[..., 1], values[number, ..., 1].astype(float) * 0.5 + 1)


def a_segmentation(slices: list[pydicom.Dataset], path: Path) -> pydicom.Dataset:
    from pydicom.sr.codedict import codes

    segment = hd.seg.SegmentDescription(1, "liver", codes.SCT.Organ, codes.SCT.Liver, "MANUAL")
    pixels = np.random.default_rng(2).integers(0, 2, (len(slices), 5, 7)).astype(np.uint8)
    pixels[:, 2, 3] = 1
    made = hd.seg.Segmentation(slices, pixels, "BINARY", [segment], hd.UID(), 1, hd.UID(), 1, "m", "m", "1", "1")
    made.save_as(path)
    return pydicom.dcmread(path)


def removed(data: pydicom.Dataset) -> None:
    del data.SharedFunctionalGroupsSequence[0].SegmentIdentificationSequence


def unknown_segment(data: pydicom.Dataset) -> None:
    data.SharedFunctionalGroupsSequence[0].SegmentIdentificationSequence[0].ReferencedSegmentNumber = 5


def too_few(data: pydicom.Dataset) -> None:
    data.PerFrameFunctionalGroupsSequence = data.PerFrameFunctionalGroupsSequence[:-1]


def off_its_place(data: pydicom.Dataset) -> None:
    place = data.PerFrameFunctionalGroupsSequence[3].PlanePositionSequence[0]
    normal = np.array([float(v) for v in place.ImagePositionPatient])
    place.ImagePositionPatient = [f"{v:.6f}" for v in normal + 0.9]


def turned(data: pydicom.Dataset) -> None:
    group = data.PerFrameFunctionalGroupsSequence[3]
    group.PlaneOrientationSequence = [pydicom.Dataset()]
    group.PlaneOrientationSequence[0].ImageOrientationPatient = [1, 0, 0, 0, 1, 0]


def no_orientation(data: pydicom.Dataset) -> None:
    shared = data.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0]
    shared.ImageOrientationPatient = [1, 0, 0, 1, 0, 0]


def many_bits(data: pydicom.Dataset) -> None:
    data.BitsAllocated = 32


def another_kind(data: pydicom.Dataset) -> None:
    data.SegmentationType = "SURFACE"


def cut_off(data: pydicom.Dataset) -> None:
    data.PixelData = data.PixelData[:8]


def no_segments(data: pydicom.Dataset) -> None:
    data.SegmentSequence = []


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (removed, "which segment frame 0"),
        (unknown_segment, r"does not describe: got \[5\]"),
        (too_few, "where each frame lies: got 10 of 11"),
        (off_its_place, "uneven distances"),
        (turned, "different orientation"),
        (no_orientation, "orientation or spacing that is none"),
        (many_bits, "impossible size"),
        (another_kind, "not read: got SURFACE"),
        (cut_off, "truncated"),
        (no_segments, "does not describe|describes no segment"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(
    change: Callable[[pydicom.Dataset], None], sentence: str, slices: list[pydicom.Dataset], tmp_path: Path
) -> None:
    path = tmp_path / "s.dcm"
    data = a_segmentation(slices, path)
    change(data)
    data.save_as(path)
    for reader in (read_segmentation, read):
        with pytest.raises((ReadError, GeometryError), match=sentence):
            reader(path)


def test_more_than_may_be_allocated_is_refused(slices: list[pydicom.Dataset], tmp_path: Path) -> None:
    path = tmp_path / "s.dcm"
    data = a_segmentation(slices, path)
    with pytest.raises(LimitError):
        read_segmentation(path, limit_bytes=100)
    shared = data.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    shared.SpacingBetweenSlices = "0.0000001"  # 10^7 slices between two frames
    data.save_as(path)
    with pytest.raises(LimitError):
        read_segmentation(path)


def test_the_grid_asked_for_must_be_the_sources(slices: list[pydicom.Dataset], tmp_path: Path) -> None:
    path = tmp_path / "s.dcm"
    a_segmentation(slices, path)
    grid = right_handed_image().geometry
    assert read_segmentation(path, on=grid).geometry == grid
    elsewhere = Geometry(grid.shape, grid.affine_lps_mm, frame_of_reference="9.9")
    for other in (elsewhere, grid.resampled((10, 14, 22))):
        with pytest.raises(GeometryError):
            read_segmentation(path, on=other)


def test_what_is_no_segmentation_is_refused(slices: list[pydicom.Dataset], tmp_path: Path) -> None:
    slices[0].save_as(tmp_path / "ct.dcm")
    with pytest.raises(ReadError, match="is no segmentation: got CT Image Storage"):
        read_segmentation(tmp_path / "ct.dcm")
    with pytest.raises(ReadError, match="does not exist"):
        segments_of(tmp_path / "nothing.dcm")
