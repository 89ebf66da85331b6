"""Segmentations written, and read back by our own code, by highdicom, by dcmqi and by the validator."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest

from dicom_sources import PATIENT, right_handed_image, world_points, written_series
from medmap.errors import DataError, GeometryError, UsageError
from medmap.geometry import Geometry
from medmap.image import Image, Source
from medmap.read import read
from medmap.read.dicom.segmentation import read_segmentation, segments_of
from medmap.results import Label, Mask, Prediction, Scores
from medmap.write import write
from medmap.write.dicom import About
from medmap.write.dicom.source import origin_of

LABELS = {1: Label("liver"), 2: Label("Tumor γ"), 3: Label("left kidney"), 4: Label("nowhere")}
FORMATS = ("dicom-seg", "dicom-seg-labelmap", "dicom-seg-fractional")


@pytest.fixture
def picture() -> Image:
    return right_handed_image()


@pytest.fixture
def series(tmp_path: Path, picture: Image) -> Path:
    return written_series(tmp_path / "series", picture)


def a_mask(geometry: Geometry) -> Mask:
    """Structures in no order; planes 4 and 7 are empty, and so is structure 4."""
    array = np.random.default_rng(1).integers(0, 4, geometry.shape).astype(np.uint8)
    array[:, :, [4, 7]] = 0
    return Mask(array, geometry, LABELS)


def validated(path: Path, program: str, allowed: tuple[str, ...] = ()) -> None:
    said = subprocess.run([program, "-new", str(path)], capture_output=True, text=True, check=False, timeout=60)
    errors = [line for line in said.stderr.splitlines() if line.startswith("Error")]
    assert [line for line in errors if not any(a in line for a in allowed)] == []


def same_places(found: Mask, wanted: Mask) -> None:
    """Every structure's voxels lie at the same millimetres."""
    assert {n: label.name for n, label in found.labels.items()} == {n: la.name for n, la in wanted.labels.items()}
    for value in wanted.labels:
        ours = world_points(wanted.array == value, wanted.geometry)
        theirs = world_points(found.array == value, found.geometry)
        assert ours.shape == theirs.shape
        assert np.abs(ours - theirs).max(initial=0) < 1e-6


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("turned", ["as read", "LPS", "permuted and flipped"])
def test_what_is_written_comes_back_at_the_same_millimetres(
    format: str, turned: str, series: Path, picture: Image, tmp_path: Path
) -> None:
    mask = a_mask(picture.geometry)
    moved = Image(mask.array, mask.geometry, "label")
    if turned == "LPS":
        moved = moved.oriented("LPS")
    elif turned != "as read":
        moved = Image(moved.array.transpose(2, 0, 1)[::-1], moved.geometry.permute((2, 0, 1)).flip((0,)), "label")
    path = write(Mask(moved.array, moved.geometry, LABELS), tmp_path / "s.dcm", format, source=series)
    same_places(read_segmentation(path), mask)
    again = read_segmentation(path, on=picture.geometry)
    assert np.array_equal(again.array, mask.array)
    assert again.geometry.same_grid(picture.geometry)


@pytest.mark.parametrize("format", FORMATS)
def test_highdicom_finds_each_structure_on_the_slice_it_was_drawn_on(
    format: str, series: Path, picture: Image, tmp_path: Path
) -> None:
    import highdicom as hd

    mask = a_mask(picture.geometry)
    seg = hd.seg.segread(write(mask, tmp_path / "s.dcm", format, source=series))
    sources = {str(h.SOPInstanceUID): h for h in map(pydicom.dcmread, sorted(series.iterdir()))}
    marked = [u for u in sources if mask.array[:, :, plane_of(sources[u], picture.geometry)].any()]
    kept = seg.get_pixels_by_source_instance(marked, combine_segments=True, rescale_fractional=True)
    for uid, frame in zip(marked, kept, strict=True):
        assert np.array_equal(frame, mask.array[:, :, plane_of(sources[uid], picture.geometry)])
    assert seg.FrameOfReferenceUID == picture.geometry.frame_of_reference


def plane_of(header: pydicom.Dataset, geometry: Geometry) -> int:
    index = geometry.to_index(np.array([[float(v) for v in header.ImagePositionPatient]]))[0]
    return round(float(index[2]))


def test_dcmqi_reads_the_same_voxels_at_the_same_millimetres(
    series: Path, picture: Image, tmp_path: Path, tool: Callable[[str], str]
) -> None:
    import SimpleITK

    mask = a_mask(picture.geometry)
    path = write(mask, tmp_path / "s.dcm", "dicom-seg", source=series)
    program = tool("segimage2itkimage")
    out = tmp_path / "itk"
    out.mkdir()
    command = [program, "--inputDICOM", str(path), "--outputDirectory", str(out), "--outputType", "nrrd"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr + done.stdout
    for value in (1, 2, 3):
        image = SimpleITK.ReadImage(str(out / f"{value}.nrrd"))
        marked = np.argwhere(SimpleITK.GetArrayFromImage(image).transpose(2, 1, 0) != 0)
        spread = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
        points = marked @ spread.T + image.GetOrigin()
        ours = world_points(mask.array == value, mask.geometry)
        theirs = points[np.lexsort(np.round(points, 4).T)]
        assert ours.shape == theirs.shape
        assert np.abs(ours - theirs).max() < 1e-3


@pytest.mark.parametrize("format", FORMATS)
def test_the_validator_finds_no_error(
    format: str, series: Path, picture: Image, tmp_path: Path, tool: Callable[[str], str]
) -> None:
    path = write(a_mask(picture.geometry), tmp_path / "s.dcm", format, source=series)
    # dciodvfy of 2022 is older than Label Map Segmentation Storage (2024): it does not know the class, and takes the
    # background, segment 0 (PS3.3 C.8.20.2), for a mistake
    older = ("Information Object Not found", "SegmentNumber not monotonically") if "labelmap" in format else ()
    validated(path, tool("dciodvfy"), older)


@pytest.mark.parametrize("said", [None, ""])
def test_a_source_that_does_not_say_how_thick_its_slices_are(
    said: str | None, series: Path, picture: Image, tmp_path: Path, tool: Callable[[str], str]
) -> None:
    for file in series.iterdir():
        header = pydicom.dcmread(file)
        header.pop("SliceThickness", None)
        if said is not None:
            header.SliceThickness = said
        header.save_as(file)
    path = write(a_mask(picture.geometry), tmp_path / "seg.dcm", "dicom-seg", source=series)
    shared = pydicom.dcmread(path).SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert float(shared.SliceThickness) == pytest.approx(picture.spacing_mm[2])
    validated(path, tool("dciodvfy"))


@pytest.mark.parametrize("format", FORMATS)
def test_dcmtk_takes_the_file_apart(
    format: str, series: Path, picture: Image, tmp_path: Path, tool: Callable[[str], str]
) -> None:
    path = write(a_mask(picture.geometry), tmp_path / "s.dcm", format, source=series)
    said = subprocess.run([tool("dcmdump"), "+P", "0062,0005", "-q", str(path)], capture_output=True, text=True,
                          check=True, timeout=60)  # fmt: skip
    assert [name in said.stdout for name in ("liver", "Tumor γ", "left kidney", "nowhere")] == [True] * 4


def test_who_and_when_are_the_sources_and_what_made_it_is_said(series: Path, picture: Image, tmp_path: Path) -> None:
    prediction = Prediction("c1", {"mask": a_mask(picture.geometry)}, bundle="sha256:0123456789abcdef0123")
    path = write(prediction, f"{tmp_path}/out/", "dicom-seg", source=series)
    assert path == tmp_path / "out" / "dicom-seg.dcm"
    header, source = pydicom.dcmread(path), pydicom.dcmread(next(series.iterdir()))
    for keyword in ("PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyDate", "AccessionNumber"):
        assert header[keyword].value == source[keyword].value
    assert str(header.PatientName) == PATIENT
    assert header.FrameOfReferenceUID == source.FrameOfReferenceUID
    assert header.SeriesInstanceUID != source.SeriesInstanceUID
    listed = {str(i.ReferencedSOPInstanceUID) for i in header.ReferencedSeriesSequence[0].ReferencedInstanceSequence}
    assert listed <= {str(pydicom.dcmread(f).SOPInstanceUID) for f in series.iterdir()}
    first = header.SegmentSequence[0]
    assert first.SegmentAlgorithmType == "AUTOMATIC"
    made = first.SegmentationAlgorithmIdentificationSequence[0]
    assert made.AlgorithmName == "medmap"
    assert "sha256:0123456789abcdef0123" in made.AlgorithmParameters
    assert (first.SegmentedPropertyTypeCodeSequence[0].CodeValue, first.SegmentLabel) == ("10200004", "liver")
    kidney = header.SegmentSequence[2].SegmentedPropertyTypeCodeSequence[0]
    assert kidney.SegmentedPropertyTypeModifierCodeSequence[0].CodeMeaning == "Left"
    assert "not found" in str(header.SegmentSequence[3].SegmentDescription) or "no voxel" in str(
        header.SegmentSequence[3].SegmentDescription
    )
    assert "SegmentDescription" not in first
    assert len({s.TrackingUID for s in header.SegmentSequence}) == 4
    assert all("RecommendedDisplayCIELabValue" in s for s in header.SegmentSequence)


def test_a_person_who_drew_it_is_no_algorithm(series: Path, picture: Image, tmp_path: Path) -> None:
    about = About(made_by="person", title="By hand")
    path = write(a_mask(picture.geometry), tmp_path / "s.dcm", "dicom-seg", source=series, about=about)
    segment = pydicom.dcmread(path).SegmentSequence[0]
    assert segment.SegmentAlgorithmType == "MANUAL"
    assert "SegmentationAlgorithmIdentificationSequence" not in segment
    assert segments_of(path)[0].algorithm == "MANUAL"


def test_frames_without_a_mark_are_left_out(series: Path, picture: Image, tmp_path: Path) -> None:
    array = np.zeros(picture.array.shape, np.uint8)
    array[1:3, 2:5, 6] = 1
    path = write(Mask(array, picture.geometry, {1: Label("liver")}), tmp_path / "s.dcm", "dicom-seg", source=series)
    assert int(pydicom.dcmread(path).NumberOfFrames) == 1
    found = read_segmentation(path)
    assert found.array.shape == (5, 7, 1)
    assert found.geometry.spacing_mm == pytest.approx(picture.spacing_mm)
    assert np.array_equal(read_segmentation(path, on=picture.geometry).array, array)


def test_a_gap_of_slices_keeps_the_distance_of_slices(series: Path, picture: Image, tmp_path: Path) -> None:
    array = np.zeros(picture.array.shape, np.uint8)
    array[1, 1, [2, 6, 10]] = 1
    found = read_segmentation(
        write(Mask(array, picture.geometry, {1: Label("x")}), tmp_path / "s.dcm", "dicom-seg", source=series)
    )
    assert found.array.shape == (5, 7, 9)
    assert found.geometry.spacing_mm == pytest.approx(picture.spacing_mm)


@pytest.mark.parametrize("format", FORMATS)
def test_nothing_found_is_an_object_that_says_so(format: str, series: Path, picture: Image, tmp_path: Path) -> None:
    mask = Mask(np.zeros(picture.array.shape, np.uint8), picture.geometry, {1: Label("lesion")})
    path = write(mask, tmp_path / "s.dcm", format, source=series)
    assert not read_segmentation(path).array.any()
    assert "no voxel" in str(pydicom.dcmread(path).SegmentSequence[-1].SegmentDescription)


def test_overlapping_regions_stay_apart_in_binary_and_are_refused_as_a_label_map(
    series: Path, picture: Image, tmp_path: Path
) -> None:
    array = np.random.default_rng(5).random((*picture.array.shape, 2)) < 0.4
    mask = Mask(array, picture.geometry, {1: Label("whole"), 2: Label("core")})
    path = write(mask, tmp_path / "s.dcm", "dicom-seg", source=series)
    found = read_segmentation(path, on=picture.geometry)
    assert found.array.dtype == np.bool_
    assert np.array_equal(found.array, array)
    image = read(path)
    assert image.channels == ("whole", "core")
    assert np.array_equal(image.match(picture.geometry).array, array)
    with pytest.raises(DataError, match=r"overlap.*dicom-seg"):
        write(mask, tmp_path / "l.dcm", "dicom-seg-labelmap", source=series)
    apart = Mask(array & ~array[..., ::-1], picture.geometry, mask.labels)
    path = write(apart, tmp_path / "l.dcm", "dicom-seg-labelmap", source=series)
    assert np.array_equal(read_segmentation(path, on=picture.geometry).array == 1, apart.array[..., 0])


def test_values_of_a_label_map_stay_and_segments_of_a_binary_one_count_from_one(
    series: Path, picture: Image, tmp_path: Path
) -> None:
    array = np.where(a_mask(picture.geometry).array == 1, 300, 0).astype(np.uint16)
    mask = Mask(array, picture.geometry, {7: Label("a"), 300: Label("b")})
    kept = read_segmentation(write(mask, tmp_path / "l.dcm", "dicom-seg-labelmap", source=series))
    assert sorted(kept.labels) == [7, 300]
    assert int((kept.array == 300).sum()) == int((array == 300).sum())
    counted = read_segmentation(write(mask, tmp_path / "s.dcm", "dicom-seg", source=series))
    assert {n: label.name for n, label in counted.labels.items()} == {1: "a", 2: "b"}
    assert int((counted.array == 2).sum()) == int((array == 300).sum())


def test_probabilities_come_back_within_half_a_step(series: Path, picture: Image, tmp_path: Path) -> None:
    values = np.random.default_rng(2).random((*picture.array.shape, 2)).astype(np.float32)
    values[:, :, 3] = 0
    image = Image(values, picture.geometry, "probability", ("liver", "lesion"))
    about = About(labels={"lesion": Label("lesion", "SCT:52988006|Lesion")})
    path = write(image, tmp_path / "f.dcm", "dicom-seg-fractional", source=series, about=about)
    header = pydicom.dcmread(path)
    assert header.file_meta.TransferSyntaxUID.name == "RLE Lossless"
    found = read(path)
    assert (found.quantity, found.channels) == ("probability", ("liver", "lesion"))
    assert np.abs(found.match(picture.geometry).array - values).max() <= 0.5 / 255 + 1e-6
    with pytest.raises(DataError, match="threshold"):
        read_segmentation(path)
    decided = read_segmentation(path, threshold=0.5, on=picture.geometry)
    assert decided.array.dtype == np.bool_
    assert np.array_equal(decided.array, np.rint(values * 255) > 127.5)


# -- where it may not be laid ------------------------------------------------------------------------------------------


def test_another_frame_of_reference_is_refused(series: Path, picture: Image, tmp_path: Path) -> None:
    mask = a_mask(replace(picture.geometry, frame_of_reference="1.2.4"))
    with pytest.raises(GeometryError, match=r"different frames of reference: got 1\.2\.4, expected 1\.2\.3"):
        write(mask, tmp_path / "s.dcm", "dicom-seg", source=series)
    assert not list(tmp_path.glob("*.dcm"))


def test_a_mask_without_a_frame_of_reference_takes_the_sources(series: Path, picture: Image, tmp_path: Path) -> None:
    mask = a_mask(replace(picture.geometry, frame_of_reference=None))
    path = write(mask, tmp_path / "s.dcm", "dicom-seg", source=series)
    assert pydicom.dcmread(path).FrameOfReferenceUID == "1.2.3"
    affine = picture.geometry.affine_lps_mm.copy()
    affine[0, 3] += 0.3
    shifted = replace(picture.geometry, frame_of_reference=None, affine_lps_mm=affine)
    with pytest.raises(GeometryError, match="does not say that it shares its space"):
        write(a_mask(shifted), tmp_path / "t.dcm", "dicom-seg", source=series)


def test_a_finer_grid_in_the_same_space_is_a_grid_of_its_own(series: Path, picture: Image, tmp_path: Path) -> None:
    fine = picture.geometry.resampled((10, 14, 22))
    array = np.random.default_rng(3).integers(0, 3, fine.shape).astype(np.uint8)
    mask = Mask(array, fine, {1: Label("liver"), 2: Label("lesion")})
    for format in FORMATS:
        found = read_segmentation(write(mask, tmp_path / f"{format}.dcm", format, source=series), on=fine)
        assert np.array_equal(found.array, array)
    overlapping = Mask(np.stack([array > 0, array > 1], axis=-1), fine, mask.labels)
    found = read_segmentation(write(overlapping, tmp_path / "o.dcm", "dicom-seg", source=series), on=fine)
    assert np.array_equal(found.array, overlapping.array)


def test_a_crop_of_the_volume_lands_where_it_was_cut(series: Path, picture: Image, tmp_path: Path) -> None:
    grid = picture.geometry.crop((1, 2, 3), (3, 4, 5))
    array = np.random.default_rng(4).integers(0, 2, grid.shape).astype(np.uint8)
    path = write(Mask(array, grid, {1: Label("liver")}), tmp_path / "s.dcm", "dicom-seg", source=series)
    assert pydicom.dcmread(path).Rows == 5
    whole = read_segmentation(path, on=picture.geometry).array
    assert np.array_equal(whole[1:4, 2:6, 3:8], array)
    assert whole.sum() == array.sum()


def test_marks_beyond_the_source_are_refused(series: Path, picture: Image, tmp_path: Path) -> None:
    grid = picture.geometry.pad((0, 0, 2), (0, 0, 0))
    array = np.zeros(grid.shape, np.uint8)
    array[2, 2, 5] = 1
    path = write(Mask(array, grid, {1: Label("x")}), tmp_path / "s.dcm", "dicom-seg", source=series)
    assert read_segmentation(path, on=picture.geometry).array[2, 2, 3] == 1
    array[2, 2, 0] = 1
    with pytest.raises(GeometryError, match="no image: got 1 voxels"):
        write(Mask(array, grid, {1: Label("x")}), tmp_path / "t.dcm", "dicom-seg", source=series)


def test_two_phases_as_one_source_are_refused(series: Path, picture: Image, tmp_path: Path) -> None:
    again = written_series(tmp_path / "again", picture, seed=9)
    files = [*series.iterdir()]
    uid = pydicom.dcmread(files[0]).SeriesInstanceUID
    for path in again.iterdir():
        header = pydicom.dcmread(path)
        header.SeriesInstanceUID = uid
        header.save_as(path)
    with pytest.raises(GeometryError, match="two images of the source lie on one slice"):
        write(a_mask(picture.geometry), tmp_path / "s.dcm", "dicom-seg", source=[*files, *again.iterdir()])


# -- what may be the source --------------------------------------------------------------------------------------------


def test_the_source_may_be_said_in_many_ways(series: Path, picture: Image, tmp_path: Path) -> None:
    files = sorted(series.iterdir())
    uid = str(pydicom.dcmread(files[0]).SeriesInstanceUID)
    written_series(tmp_path / "series" / "other", picture, seed=1)  # a second series in the folder
    mask = a_mask(picture.geometry)
    as_image = replace(picture, source=Source(path=f"{series}#{uid}", format="dicom"))
    for n, source in enumerate((files, [str(f) for f in files], f"{series}#{uid}", as_image)):
        path = write(mask, tmp_path / f"{n}.dcm", "dicom-seg", source=source)
        assert pydicom.dcmread(path).ReferencedSeriesSequence[0].SeriesInstanceUID == uid
    with pytest.raises(UsageError, match="holds 2 series and 2 of them fit"):
        write(mask, tmp_path / "x.dcm", "dicom-seg", source=series)
    other = written_series(
        tmp_path / "two" / "b", replace(picture, geometry=picture.geometry.crop((0, 0, 0), (5, 7, 11)))
    )
    assert len(origin_of(other).planes) == 11


def test_the_volume_that_was_read_is_its_own_source_though_its_slices_run_the_other_way(
    series: Path, picture: Image, tmp_path: Path
) -> None:
    volume = read(series)
    assert volume.geometry.orientation != picture.geometry.orientation
    mask = a_mask(volume.geometry)
    path = write(mask, tmp_path / "s.dcm", "dicom-seg", source=volume)
    same_places(read_segmentation(path), mask)
    by_uid = {str(h.SOPInstanceUID): h for h in map(pydicom.dcmread, series.iterdir())}
    for group in pydicom.dcmread(path).PerFrameFunctionalGroupsSequence:
        uid = group.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        assert by_uid[str(uid)].ImagePositionPatient == group.PlanePositionSequence[0].ImagePositionPatient


def test_a_file_of_the_source_is_enough_for_a_picture(series: Path, picture: Image, tmp_path: Path) -> None:
    path = sorted(series.iterdir())[0]
    one = read(path)
    array = (one.array % 2).astype(np.uint8)
    written = write(Mask(array, one.geometry, {1: Label("x")}), tmp_path / "s.dcm", "dicom-seg", source=one)
    found = read_segmentation(written)
    assert np.array_equal(found.array, array)
    assert found.geometry.same_grid(one.geometry)


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        (None, "refers to the series"),
        (7, "this is no source"),
        ("nowhere", "the source does not exist"),
        (Image(np.zeros((2, 3)), Geometry.without_size((2, 3))), "was not read from DICOM"),
    ],
)
def test_what_is_no_source_is_refused(source: object, sentence: str, picture: Image, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=sentence):
        write(a_mask(picture.geometry), tmp_path / "s.dcm", "dicom-seg", source=source)


def test_a_folder_without_images_is_refused(tmp_path: Path, picture: Image) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("no DICOM")
    with pytest.raises(UsageError, match="no DICOM image"):
        write(a_mask(picture.geometry), tmp_path / "s.dcm", "dicom-seg", source=tmp_path / "notes")


def test_other_formats_take_no_source(picture: Image, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="belong to DICOM"):
        write(picture, tmp_path / "a.nii.gz", source=tmp_path)
    with pytest.raises(UsageError, match="does not say its format"):
        write(picture, tmp_path / "a.dcm")


def test_what_a_segmentation_cannot_be_is_refused(series: Path, picture: Image, tmp_path: Path) -> None:
    where = {"source": series}
    with pytest.raises(UsageError, match="made of one mask"):
        write(picture, tmp_path / "s.dcm", "dicom-seg", **where)
    with pytest.raises(DataError, match="probabilities"):
        write(picture, tmp_path / "s.dcm", "dicom-seg-fractional", **where)
    scores = Prediction("c1", {"class": Scores((Label("clear"), Label("nodule")), np.array([0.4, 0.6]))})
    with pytest.raises(UsageError, match=r"holds none: got scores.*json, csv or dicom-sr"):
        write(scores, tmp_path / "s.dcm", "dicom-seg", **where)
    with pytest.raises(DataError, match="values without a label: got \\[3\\]"):
        write(Mask(a_mask(picture.geometry).array, picture.geometry, {1: Label("a"), 2: Label("b")}),
              tmp_path / "s.dcm", "dicom-seg", **where)  # fmt: skip
    with pytest.raises(DataError, match="SCHEME:VALUE"):
        write(Mask(np.zeros(picture.array.shape, np.uint8), picture.geometry, {1: Label("a", "nothing")}),
              tmp_path / "s.dcm", "dicom-seg", **where)  # fmt: skip
    with pytest.raises(UsageError, match="64 characters"):
        About(title="x" * 65)
    with pytest.raises(UsageError, match="unknown maker"):
        About(made_by="committee")  # type: ignore[arg-type]


# -- whole or nothing --------------------------------------------------------------------------------------------------


def test_nothing_is_overwritten_unless_asked(series: Path, picture: Image, tmp_path: Path) -> None:
    path = tmp_path / "s.dcm"
    path.write_text("mine")
    with pytest.raises(UsageError, match="exists"):
        write(a_mask(picture.geometry), path, "dicom-seg", source=series)
    assert path.read_text() == "mine"
    write(a_mask(picture.geometry), path, "dicom-seg", source=series, overwrite=True)
    assert read_segmentation(path).array.any()


def test_a_place_that_cannot_be_written_is_one_sentence(series: Path, picture: Image, tmp_path: Path) -> None:
    folder = tmp_path / "closed"
    folder.write_text("a file, in which not even the superuser can make another")
    with pytest.raises(UsageError, match="cannot be written"):
        write(a_mask(picture.geometry), folder / "s.dcm", "dicom-seg", source=series)
