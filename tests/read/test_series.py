"""A folder of slices becomes the volume that it is, or a sentence that names what is wrong with it."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

import dicom_series as made
import medmap as mm
from grids import rotation
from medmap.dataset import Case, Dataset, InputSpec, Label, Ref
from medmap.errors import LimitError, MedmapError, ReadError, UsageError
from medmap.geometry import Geometry
from medmap.image import Image
from medmap.read import Series, read_ref, studies


def only(folder: Path) -> Series:
    found = [series for study in studies(folder) for series in study.series]
    assert len(found) == 1
    return found[0]


def codes(series: Series) -> set[str]:
    return {p.code for part in series.parts for p in part.problems} | {p.code for p in series.problems}


def test_a_folder_becomes_the_phantom_exactly(tmp_path: Path) -> None:
    truth = made.phantom()
    image = mm.read(made.write(tmp_path / "s"))
    assert np.array_equal(image.array, truth.array)
    assert np.abs(image.geometry.affine_lps_mm - truth.geometry.affine_lps_mm).max() < 1e-6
    assert (image.quantity, image.source.modality, image.source.rescale) == ("HU", "CT", (1.0, -1024.0))
    assert image.geometry.frame_of_reference == "1.2.3"
    assert image.array.dtype == np.int16


def test_simpleitk_puts_every_voxel_at_the_same_place(tmp_path: Path) -> None:
    folder = made.write(tmp_path / "s")
    image = mm.read(folder)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    other = reader.Execute()
    for index in ((0, 0, 0), (4, 6, 10), (1, 5, 7)):
        point = image.geometry.to_world([index])[0]
        i, j, k = other.TransformPhysicalPointToIndex([float(v) for v in point])
        assert other.GetPixel(i, j, k) == image.array[index]


def test_slices_are_sorted_by_place_not_by_number(tmp_path: Path) -> None:
    backwards = {n: {"InstanceNumber": 99 - n} for n in range(11)}
    assert np.array_equal(mm.read(made.write(tmp_path / "s", changes=backwards)).array, made.phantom().array)


def test_a_series_is_named_by_its_uid_and_seen_in_a_dataset(tmp_path: Path) -> None:
    made.write(tmp_path / "d" / "a")
    made.write(tmp_path / "d" / "b", SeriesInstanceUID="2.25.5", SOPInstanceUID=None, numbers=[])
    other = {n: {"SOPInstanceUID": f"2.25.77.{n}"} for n in range(11)}
    made.write(tmp_path / "d" / "b", changes=other, SeriesInstanceUID="2.25.5", SeriesDescription="other")
    with pytest.raises(ReadError, match="2 series of images, not one"):
        mm.read(tmp_path / "d")
    assert mm.read(f"{tmp_path}/d#2.25.5").array.shape == (5, 7, 11)
    assert mm.read(f"{tmp_path}/d#2.25.5/volume").array.shape == (5, 7, 11)
    with pytest.raises(ReadError, match=r"holds no series '2\.25\.6'"):
        mm.read(f"{tmp_path}/d#2.25.6")
    with pytest.raises(ReadError, match="has no part 'echo-1'"):
        mm.read(f"{tmp_path}/d#2.25.5/echo-1")
    case = Case("a", "P1", {"image": Ref("d", "2.25.5")})
    data = Dataset("d", "classify", (case,), {"image": InputSpec(modality="CT")}, (Label("x"), Label("y")),
                   root=tmp_path)  # fmt: skip
    assert np.array_equal(read_ref(data, Ref("d", "2.25.5")).array, made.phantom().array)
    assert np.array_equal(read_ref(data, Ref("d", "2.25.5/volume")).array, made.phantom().array)
    with pytest.raises(ReadError, match=r"holds no series '2\.25\.6'"):
        read_ref(data, Ref("d", "2.25.6"))


def test_a_changed_folder_is_scanned_again(tmp_path: Path) -> None:
    folder = made.write(tmp_path / "s", numbers=range(5))
    assert mm.read(folder).array.shape == (5, 7, 5)
    made.write(folder)
    assert mm.read(folder).array.shape == (5, 7, 11)


def test_a_file_that_changes_between_scan_and_read_is_refused(tmp_path: Path) -> None:
    series = only(made.write(tmp_path / "s"))
    victim = series.instances[4].path
    victim.write_bytes(victim.read_bytes() + b"\0\0")
    with pytest.raises(ReadError, match="was changed or removed"):
        series.read()


def test_too_large_a_volume_is_refused_before_it_is_allocated(tmp_path: Path) -> None:
    with pytest.raises(LimitError, match="declares more data"):
        only(made.write(tmp_path / "s")).read(limit_bytes=100)


def test_truncated_pixels_are_refused(tmp_path: Path) -> None:
    folder = made.write(tmp_path / "s")
    victim = sorted(folder.iterdir())[3]
    victim.write_bytes(victim.read_bytes()[:-20])
    with pytest.raises(ReadError, match="truncated"):
        only(folder).read()


# -- what is wrong is found, named, refused, and mended only when asked -----------------------------------------------


def test_missing_slices(tmp_path: Path) -> None:
    series = only(made.write(tmp_path / "s", numbers=[0, 1, 2, 3, 6, 7, 8, 9, 10]))
    assert "missing-slices" in codes(series)
    with pytest.raises(ReadError, match=r"2 slices are missing.*mend=\('missing-slices',\)"):
        series.read()
    truth, image = made.phantom(), series.read(mend=("missing-slices",))
    kept = [0, 1, 2, 3, 6, 7, 8, 9, 10]
    assert np.array_equal(image.array[:, :, kept], truth.array[:, :, kept])
    expected = truth.array[:, :, 3] * (2 / 3) + truth.array[:, :, 6] / 3
    assert np.array_equal(image.array[:, :, 4], np.rint(expected).astype(np.int16))
    assert image.geometry.shape == truth.geometry.shape
    assert np.allclose(image.geometry.affine_lps_mm, truth.geometry.affine_lps_mm, atol=1e-6)
    assert any("missing" in w for w in image.source.warnings)
    assert image.steps == ("missing slices filled",)


def test_identical_duplicates(tmp_path: Path) -> None:
    folder = made.write(tmp_path / "s")
    shutil.copy(sorted(folder.iterdir())[2], folder / "copy.dcm")
    series = only(folder)
    assert "duplicate-instances" in codes(series)
    with pytest.raises(ReadError, match="more than once, as the same object"):
        series.read()
    image = series.read(mend=["duplicates"])
    assert np.array_equal(image.array, made.phantom().array)
    assert any("1 duplicate slices were left out" in w for w in image.source.warnings)


def test_conflicting_duplicates(tmp_path: Path) -> None:
    folder = made.write(tmp_path / "s")
    other = Image(made.phantom().array + np.int16(1), made.phantom().geometry)
    made.write(folder, other, numbers=[4], SOPInstanceUID="2.25.99", InstanceNumber=50)
    series = only(folder)
    assert "duplicate-slices" in codes(series)
    with pytest.raises(ReadError, match="0 identical, 1 of other content"):
        series.read()
    image = series.read(mend=("duplicates",))
    assert np.array_equal(image.array, made.phantom().array)
    assert any("differed" in w for w in image.source.warnings)


def test_uneven_spacing(tmp_path: Path) -> None:
    geometry = made.phantom().geometry
    origin, step = geometry.affine_lps_mm[:3, 3], geometry.affine_lps_mm[:3, 2]
    moved = {7: {"ImagePositionPatient": [float(v) for v in origin + step * 7.4]}}
    series = only(made.write(tmp_path / "s", changes=moved))
    assert "uneven-spacing" in codes(series)
    with pytest.raises(ReadError, match="distance of neighbouring slices is between"):
        series.read()
    image, truth = series.read(mend=("uneven-spacing",)), made.phantom()
    assert image.geometry.shape == (5, 7, 11)
    assert np.array_equal(image.array[:, :, :7], truth.array[:, :, :7])
    a, b = truth.array[:, :, 6].astype(float), truth.array[:, :, 7].astype(float)
    assert np.abs(image.array[:, :, 7] - (a + (b - a) / 1.4)).max() <= 0.5
    assert image.steps == ("slices resampled to even spacing",)


def test_rounded_positions_are_taken_as_even(tmp_path: Path) -> None:
    affine = np.array([[0, 0.7, 0, -3], [1.3, 0, 0, 4], [0, 0, -0.625, 5], [0, 0, 0, 1]])
    if np.cross(affine[:3, 1], affine[:3, 0]) @ affine[:3, 2] < 0:
        affine[:3, 2] *= -1
    image = Image(made.phantom().array, Geometry((5, 7, 11), affine))
    places = [affine[:3, 3] + affine[:3, 2] * n for n in range(11)]
    rounded = {n: {"ImagePositionPatient": [round(float(v), 1) for v in p]} for n, p in enumerate(places)}
    series = only(made.write(tmp_path / "s", image, changes=rounded))
    assert "rounded-positions" in codes(series)
    found = series.read()
    assert np.array_equal(found.array, image.array)
    assert found.spacing_mm[2] == pytest.approx(0.625, rel=0.01)


@pytest.mark.parametrize("angles", [(0, 0, 0), (40, 25, -15)])
@pytest.mark.parametrize("decimals", [1, 2])
def test_rounding_is_judged_by_the_digits_that_are_written(
    tmp_path: Path, decimals: int, angles: tuple[int, int, int]
) -> None:
    affine = np.eye(4)
    affine[:3, :3] = rotation(*angles) * (1.3, 0.7, 0.8)
    affine[:3, 3] = (-3.21, 4.57, 5.13)
    if np.cross(affine[:3, 1], affine[:3, 0]) @ affine[:3, 2] < 0:
        affine[:3, 2] *= -1
    image = Image(made.phantom().array, Geometry((5, 7, 11), affine))
    places = np.array([affine[:3, 3] + affine[:3, 2] * n for n in range(11)])

    def positions(values: np.ndarray) -> dict[int, dict[str, object]]:
        return {n: {"ImagePositionPatient": [float(v) for v in p]} for n, p in enumerate(values)}

    rounded = only(made.write(tmp_path / "r", image, changes=positions(np.round(places, decimals))))
    assert {p.code for p in rounded.parts[0].problems} <= {"rounded-positions"}
    assert np.array_equal(rounded.read().array, image.array)
    # the same deviation, written with full precision, is a deviation
    moved = np.array(places)
    moved[5] += 0.09 * affine[:3, 2] / np.linalg.norm(affine[:3, 2])
    exact = only(made.write(tmp_path / "e", image, changes=positions(moved + 1.23456e-7)))
    assert "uneven-spacing" in codes(exact)
    with pytest.raises(ReadError, match="uneven-spacing"):
        exact.read()


def test_the_widest_gap_is_named(tmp_path: Path) -> None:
    (part,) = only(made.write(tmp_path / "s", numbers=[0, 1, 3, 4, 7, 8, 9, 10])).parts
    said = next(p.message for p in part.problems if p.code == "missing-slices")
    assert "3 slices are missing (the widest gap, of 2, is after slice 4 of 8" in said


def tilted() -> Geometry:
    """The phantom's planes, each 0.6 mm further along the columns' direction than an upright stack's."""
    geometry = made.phantom().geometry
    affine = np.array(geometry.affine_lps_mm)
    affine[:3, 2] += 0.6 * affine[:3, 0] / np.linalg.norm(affine[:3, 0])
    return Geometry(geometry.shape, affine, frame_of_reference="1.2.3")


def test_gantry_tilt_keeps_every_voxel_where_it_was(tmp_path: Path) -> None:
    image = Image(made.phantom().array, tilted(), quantity="HU")
    series = only(made.write(tmp_path / "s", image))
    assert "gantry-tilt" in codes(series)
    found = series.read()
    assert np.array_equal(found.array, image.array)
    assert np.allclose(found.geometry.affine_lps_mm, tilted().affine_lps_mm, atol=1e-6)
    assert any("gantry tilt" in w for w in found.source.warnings)


def test_gantry_tilt_is_resampled_away_when_asked(tmp_path: Path) -> None:
    # a ramp along the rows' direction in the world: shifting must keep it where it is
    geometry = tilted()
    axis = geometry.affine_lps_mm[:3, 0] / np.linalg.norm(geometry.affine_lps_mm[:3, 0])
    index = np.indices(geometry.shape).reshape(3, -1).T
    ramp = (geometry.to_world(index) @ axis).reshape(geometry.shape) * 20
    image = Image(np.rint(ramp).astype(np.int16), geometry)
    found = only(made.write(tmp_path / "s", image)).read(mend=("gantry-tilt",))
    columns = found.geometry.affine_lps_mm[:3, :3]
    assert abs(float(columns[:, 0] @ columns[:, 2])) < 1e-9
    world = (found.geometry.to_world(index) @ axis).reshape(geometry.shape) * 20
    inside = np.abs(found.array - world) <= 1.5
    assert inside[4, :, 0].all()
    assert inside[4, :, :4].all()  # what lies in the field of view of the tilted stack
    assert found.steps == ("gantry tilt resampled away",)


def test_mixed_rescale_gives_right_values(tmp_path: Path) -> None:
    changes = {3: {"RescaleIntercept": -2000}, 6: {"RescaleSlope": 0.5, "RescaleIntercept": -1000}}
    series = only(made.write(tmp_path / "s", changes=changes))
    assert "mixed-rescale" in codes(series)
    image = series.read()
    assert np.array_equal(image.array, made.phantom().array)
    assert image.source.rescale is None
    assert any("rescale" in w for w in image.source.warnings)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("mixed-size", {"Rows": 7, "Columns": 5}),
        ("mixed-orientation", {"ImageOrientationPatient": [0.0, 1, 0, 0, 0, 1]}),
        ("mixed-frames-of-reference", {"FrameOfReferenceUID": "9.9"}),
    ],
)
def test_strangers_in_a_series_are_found(tmp_path: Path, name: str, change: dict[str, object]) -> None:
    series = only(made.write(tmp_path / "s", changes={10: change}))
    assert {name, "several-series"} <= codes(series)
    with pytest.raises(ReadError, match=r"is several images.*stack-1 \(10\).*read\(part='stack-1'\)"):
        series.read()
    assert series.read("stack-1").array.shape == (5, 7, 10)
    assert series.read(1).ndim == 2


def test_no_frame_of_reference_is_said(tmp_path: Path) -> None:
    series = only(made.write(tmp_path / "s", FrameOfReferenceUID=None))
    assert "unknown-frame-of-reference" in codes(series)
    assert any("no frame of reference" in w for w in series.read().source.warnings)


def test_slices_shifted_against_each_other_are_no_volume(tmp_path: Path) -> None:
    geometry = made.phantom().geometry
    place = geometry.affine_lps_mm[:3, 3] + geometry.affine_lps_mm[:3, 2] * 5 + geometry.affine_lps_mm[:3, 0] * 2
    series = only(made.write(tmp_path / "s", changes={5: {"ImagePositionPatient": [float(v) for v in place]}}))
    with pytest.raises(ReadError, match="unaligned-slices"):
        series.read(mend=("uneven-spacing", "gantry-tilt", "duplicates", "missing-slices"))


def test_an_unknown_mending_is_refused(tmp_path: Path) -> None:
    series = only(made.write(tmp_path / "s"))
    with pytest.raises(UsageError, match="unknown mending"):
        series.read(mend=("everything",))
    with pytest.raises(UsageError, match="unknown mending"):
        series.read(mend="duplicates")


# -- 4-D ---------------------------------------------------------------------------------------------------------------


def in_time(folder: Path, count: int = 3, **by_phase: list[object]) -> Path:
    truth = made.phantom()
    for phase in range(count):
        values = {name: listed[phase] for name, listed in by_phase.items()}
        image = Image(truth.array + np.int16(1000 * phase), truth.geometry)
        changes = {n: {"SOPInstanceUID": f"2.25.{phase + 20}.{n}"} for n in range(11)}
        made.write(folder, image, changes=changes, Modality="MR", SOPClassUID=made.MR, RescaleType=None, **values)
    return folder


@pytest.mark.parametrize(
    ("attributes", "times"),
    [
        ({"AcquisitionTime": ["235958.5", "235959.5", "235959.75"]}, (0.0, 1.0, 1.25)),
        ({"TriggerTime": [0, 40, 80.5]}, (0.0, 0.04, 0.0805)),
        (
            {"TemporalPositionIdentifier": [1, 2, 3], "ContentTime": ["100000", "100002", "100005"]},
            (0.0, 2.0, 5.0),
        ),
    ],
)
def test_a_series_in_time_is_one_image(tmp_path: Path, attributes: dict, times: tuple[float, ...]) -> None:
    series = only(in_time(tmp_path / "s", **attributes))
    image = series.read()
    assert image.time_s == times
    assert image.array.shape == (5, 7, 11, 3)
    assert all(np.array_equal(image.array[..., n], made.phantom().array + 1000 * n) for n in range(3))
    assert np.array_equal(series.read(2).array, image.array[..., 2])
    assert np.array_equal(mm.read(tmp_path / "s").array, image.array)


def test_echoes_and_b_values_are_parts_and_not_times(tmp_path: Path) -> None:
    echoes = only(in_time(tmp_path / "e", EchoTime=[5, 10, 20.5]))
    assert [(p.name, p.value) for p in echoes.parts] == [("echo-1", 5.0), ("echo-2", 10.0), ("echo-3", 20.5)]
    with pytest.raises(ReadError, match="is several images"):
        echoes.read()
    weighted = only(in_time(tmp_path / "b", DiffusionBValue=[0.0, 500.0, 1000.0]))
    assert [p.name for p in weighted.parts] == ["b-0", "b-500", "b-1000"]
    assert np.array_equal(weighted.read("b-1000").array, made.phantom().array + 2000)


def test_times_that_differ_from_slice_to_slice_are_ranked(tmp_path: Path) -> None:
    truth = made.phantom()
    for phase in range(2):
        image = Image(truth.array + np.int16(1000 * phase), truth.geometry)
        changes = {
            n: {"SOPInstanceUID": f"2.25.{phase + 20}.{n}", "AcquisitionTime": f"1000{phase * 3 + n * 0.25:05.2f}"}
            for n in range(11)
        }
        made.write(tmp_path / "s", image, changes=changes)
    image = only(tmp_path / "s").read()
    assert image.time_s == (0.0, 3.0)
    assert np.array_equal(image.array[..., 1], truth.array + 1000)


def test_private_b_values_count_only_in_the_makers_block(tmp_path: Path) -> None:
    for owner, expected in (("SIEMENS MR HEADER", ["b-0", "b-800"]), ("SOMEBODY ELSE", ["volume"])):
        folder = tmp_path / owner.split()[0]
        for phase, b in enumerate((0, 800)):
            truth = made.phantom()
            for n in range(11):
                ds = made.header(truth.geometry, n, SOPInstanceUID=f"2.25.{phase + 20}.{n}")
                ds.private_block(0x0019, owner, create=True).add_new(0x0C, "IS", b)
                made.save(ds, truth.array[:, :, n].astype(np.uint16), folder / f"{phase}-{n}.dcm")
        assert [p.name for p in only(folder).parts] == expected


@pytest.mark.parametrize(
    ("group", "owner", "element", "kind", "value"),
    [
        (0x0019, "SIEMENS MR HEADER", 0x0C, "IS", 800),
        (0x2001, "Philips Imaging DD 001", 0x03, "FL", 800.0),
        (0x0043, "GEMS_PARM_01", 0x39, "IS", [1_000_000_800, 8, 0, 0]),
        (0x0065, "Image Private Header", 0x09, "FD", 800.0),
    ],
)
def test_private_b_values_of_every_maker(
    tmp_path: Path, group: int, owner: str, element: int, kind: str, value: object
) -> None:
    truth = made.phantom()
    zero = [1_000_000_000, 8, 0, 0] if isinstance(value, list) else type(value)(0)  # type: ignore[call-arg]
    for phase, b in enumerate((zero, value)):
        for n in range(11):
            ds = made.header(truth.geometry, n, SOPInstanceUID=f"2.25.{phase + 20}.{n}")
            ds.private_block(group, owner, create=True).add_new(element, kind, b)
            made.save(ds, truth.array[:, :, n].astype(np.uint16), tmp_path / f"{phase}-{n}.dcm")
    assert [p.name for p in only(tmp_path).parts] == ["b-0", "b-800"]


# -- oblique property and real data ------------------------------------------------------------------------------------


@pytest.mark.parametrize("angles", [(0, 0, 0), (80, 3, -40), (170, -60, 12)])
def test_any_orientation_is_read_where_it_is(tmp_path: Path, angles: tuple[float, float, float]) -> None:
    affine = np.eye(4)
    affine[:3, :3] = rotation(*angles) * (0.7, 1.3, 2.9)
    affine[:3, 3] = (5, -6, 7)
    if np.cross(affine[:3, 1], affine[:3, 0]) @ affine[:3, 2] < 0:
        affine[:3, 2] *= -1
    truth = Image(made.phantom().array, Geometry((5, 7, 11), affine))
    image = mm.read(made.write(tmp_path / "s", truth))
    assert np.allclose(image.geometry.affine_lps_mm, affine, atol=1e-5)
    assert np.array_equal(image.array, truth.array)


GE = [(f"20180918GE/mr_000{n}", f"DCM2NIIX_regression_test_{n}") for n in (4, 5, 6, 7)]
MOSAICS = [("20180918Si/mr_0003", "EPI_PE=AP_3"), ("20180918Si/mr_0004", "EPI_PE=PA_4"),
           ("20180918Si/mr_0005", "EPI_PE=RL_5"), ("20180918Si/mr_0006", "EPI_PE=LR_6")]  # fmt: skip


@pytest.mark.parametrize(("folder", "reference"), GE + MOSAICS)
def test_dcm2niix_puts_every_voxel_at_the_same_place(shared_data: Path, folder: str, reference: str) -> None:
    root = shared_data / "dicom" / "dcm_qa_nih"
    image, other = mm.read(root / "In" / folder), nibabel.load(root / "Ref" / f"{reference}.nii")
    to_ras = np.diag([-1, -1, 1, 1]) @ image.geometry.affine_lps_mm
    index = np.indices(image.geometry.shape).reshape(3, -1)
    there = (np.linalg.inv(other.affine) @ to_ras)[:3] @ np.vstack([index, np.ones(index.shape[1])])
    i, j, k = np.rint(there).astype(int)
    assert np.abs(there - (i, j, k)).max() < 1e-3
    theirs = np.asanyarray(other.dataobj)[i, j, k]  # the folder of GE holds the first time only, and not all slices
    ours = image.array.reshape(index.shape[1], -1)
    assert np.array_equal(ours, theirs[:, : ours.shape[1]])


def test_a_mosaic_without_its_private_header_is_refused(shared_data: Path, tmp_path: Path) -> None:
    import pydicom

    source = sorted((shared_data / "dicom/dcm_qa_nih/In/20180918Si/mr_0003").glob("*.dcm"))[0]
    ds = pydicom.dcmread(source)
    del ds[0x0029, 0x1010]
    ds.save_as(tmp_path / "m.dcm")
    with pytest.raises(ReadError, match="mosaic whose private header does not tell"):
        only(tmp_path).read()


def test_everything_in_the_shared_data_reads_or_says_why(shared_data: Path) -> None:
    count = 0
    for study in studies(shared_data / "dicom"):
        for series in study.series:
            for part in series.parts[:3]:
                if max(f.values.get("Rows", 0) for f in part.frames) > 600:
                    continue
                with contextlib.suppress(MedmapError):  # nothing else may come out
                    series.read(part.name)
                    count += 1
    assert count > 100
