"""Enhanced pictures as image series and masks as secondary captures; the codes that labels become."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicom_sources import PATIENT, right_handed_image, written_series
from medmap.errors import DataError, GeometryError, UsageError
from medmap.image import Image
from medmap.read import read
from medmap.results import Label, Mask, Picture, Prediction
from medmap.write import write
from medmap.write.dicom import About
from medmap.write.dicom.capture import outline
from medmap.write.dicom.codes import CATEGORIES, COMMON, LATERALITY, category_of, coded, laterality
from medmap.write.dicom.series import storing


def enhanced(modality: str, kind: str) -> Image:
    picture = right_handed_image()
    array = picture.array if kind == "whole" else (picture.array * 1.2345 - 17).astype(np.float32)
    return replace(picture, array=array, quantity="HU" if modality == "CT" else "arbitrary")


def by_sitk(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """(values, LPS millimetres) of every voxel as SimpleITK reads the series."""
    import SimpleITK

    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder)))
    image = reader.Execute()
    array = SimpleITK.GetArrayFromImage(image).transpose(2, 1, 0)
    index = np.argwhere(np.ones(array.shape, bool))
    spread = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    return array.reshape(-1), index @ spread.T + image.GetOrigin()


@pytest.mark.parametrize("modality", ["CT", "MR"])
@pytest.mark.parametrize("kind", ["whole", "fractions"])
def test_slices_hold_the_values_where_they_were(
    modality: str, kind: str, tmp_path: Path, tool: Callable[[str], str]
) -> None:
    picture = enhanced(modality, kind)
    series = written_series(tmp_path / "s", picture if kind == "whole" else right_handed_image(), modality=modality)
    folder = write(picture, tmp_path / "out", "dicom", source=series)
    files = sorted(folder.iterdir())
    assert len(files) == 11
    values, world = by_sitk(folder)
    index = np.rint(picture.geometry.to_index(world)).astype(int)
    assert np.abs(picture.geometry.to_world(index) - world).max() < 1e-3
    error = np.abs(values - picture.array[tuple(index.T)]).max()
    step = (picture.array.max() - picture.array.min()) / 65535
    assert error <= (0 if kind == "whole" else step * 0.5001 + 1e-4)
    for file in files:
        one = read(file)
        at = np.rint(picture.geometry.to_index(one.geometry.to_world([[0, 0]])))[0].astype(int)
        assert np.abs(one.array - picture.array[:, :, at[2]]).max() <= error + 1e-4
    header, source = pydicom.dcmread(files[0]), pydicom.dcmread(next(series.iterdir()))
    assert header.StudyInstanceUID == source.StudyInstanceUID
    assert header.SeriesInstanceUID != source.SeriesInstanceUID
    assert header.FrameOfReferenceUID == source.FrameOfReferenceUID
    assert str(header.PatientName) == PATIENT
    assert list(header.ImageType)[:2] == ["DERIVED", "PRIMARY"]
    assert ("exact" if kind == "whole" else "off by at most") in header.DerivationDescription
    under = {str(pydicom.dcmread(f).SOPInstanceUID): pydicom.dcmread(f) for f in series.iterdir()}
    referenced = under[str(header.SourceImageSequence[0].ReferencedSOPInstanceUID)]
    assert referenced.ImagePositionPatient == header.ImagePositionPatient
    assert header.Manufacturer == "medmap"
    assert header.ContributingEquipmentSequence[-1].Manufacturer == "Scanner Works"
    no_error(files[0], tool("dciodvfy"))


def no_error(path: Path, program: str) -> None:
    said = subprocess.run([program, "-new", str(path)], capture_output=True, text=True, check=False, timeout=60)
    assert [line for line in said.stderr.splitlines() if line.startswith("Error")] == []


@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_one_enhanced_object_holds_the_volume(modality: str, tmp_path: Path, tool: Callable[[str], str]) -> None:
    picture = enhanced(modality, "whole")
    series = written_series(tmp_path / "s", picture, modality=modality)
    path = write(picture, tmp_path / "e.dcm", "dicom-enhanced", source=series)
    back = read(path)
    assert np.array_equal(back.match(picture.geometry).array, picture.array)
    header = pydicom.dcmread(path)
    known = {str(pydicom.dcmread(f).SOPInstanceUID) for f in series.iterdir()}
    for group in header.PerFrameFunctionalGroupsSequence:
        for item in group.get("ConversionSourceAttributesSequence", []):
            assert item.ReferencedSOPInstanceUID in known
    no_error(path, tool("dciodvfy"))


def test_a_turned_picture_lands_on_its_slices(tmp_path: Path) -> None:
    picture = enhanced("CT", "whole")
    series = written_series(tmp_path / "s", picture)
    folder = write(picture.oriented("RAI"), tmp_path / "out", "dicom", source=series)
    values, world = by_sitk(folder)
    index = np.rint(picture.geometry.to_index(world)).astype(int)
    assert np.array_equal(values, picture.array[tuple(index.T)])


def test_a_finer_picture_is_a_series_on_its_own_grid(tmp_path: Path, tool: Callable[[str], str]) -> None:
    picture = enhanced("CT", "whole")
    series = written_series(tmp_path / "s", picture)
    grid = picture.geometry.resampled((10, 14, 22))
    values = np.random.default_rng(6).integers(-1000, 3000, grid.shape).astype(np.int16)
    fine = Image(values, grid, "HU")
    folder = write(Prediction("c", {"better": Picture(fine)}), tmp_path / "out", "dicom", source=series)
    found, world = by_sitk(folder)
    index = np.rint(grid.to_index(world)).astype(int)
    assert np.array_equal(found, values[tuple(index.T)])
    no_error(sorted(folder.iterdir())[0], tool("dciodvfy"))
    elsewhere = Image(values, replace(grid, frame_of_reference=None), "HU")
    with pytest.raises(GeometryError, match="does not lie on the source"):
        write(elsewhere, tmp_path / "no", "dicom", source=series)


def test_a_series_is_written_whole_into_an_empty_folder(tmp_path: Path) -> None:
    picture = enhanced("CT", "whole")
    series = written_series(tmp_path / "s", picture)
    (tmp_path / "out").mkdir()
    folder = write(picture, tmp_path / "out", "dicom", source=series)
    assert folder == tmp_path / "out" / "dicom"
    assert len(list(folder.iterdir())) == 11
    with pytest.raises(UsageError, match="holds something already"):
        write(picture, tmp_path / "out", "dicom", source=series, overwrite=True)
    assert len(list(folder.iterdir())) == 11
    assert not [p for p in tmp_path.rglob("*") if p.name.startswith(".")]


def test_what_is_no_series_of_slices_is_refused(tmp_path: Path) -> None:
    picture = enhanced("CT", "whole")
    series = written_series(tmp_path / "s", picture)
    colours = Image(np.zeros((5, 7, 11, 3), np.uint8), picture.geometry, "colour", ("r", "g", "b"))
    with pytest.raises(DataError, match="one number a voxel"):
        write(colours, tmp_path / "o", "dicom", source=series)
    with pytest.raises(DataError, match="finite"):
        write(replace(picture, array=np.full((5, 7, 11), np.nan)), tmp_path / "o", "dicom", source=series)
    for path in series.iterdir():
        header = pydicom.dcmread(path)
        header.Modality = "NM"
        header.save_as(path)
    with pytest.raises(DataError, match="only CT, MR and PET"):
        write(picture, tmp_path / "o", "dicom", source=series)
    with pytest.raises(UsageError, match="made of one picture"):
        write(Mask(np.zeros((5, 7, 11), np.uint8), picture.geometry, {1: Label("x")}), tmp_path / "o", "dicom",
              source=series)  # fmt: skip


@given(st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=5), st.sampled_from(["HU", "arbitrary"]))
def test_whole_numbers_are_stored_as_they_are_or_refused(values: list[int], quantity: str) -> None:
    array = np.array(values, np.int64)
    try:
        how = storing(array, quantity)
    except DataError:
        assert array.max() - array.min() > 65535
        return
    stored = np.rint((array - how.intercept) / how.slope)
    low, high = (-32768, 32767) if how.signed else (0, 65535)
    assert low <= stored.min() <= stored.max() <= high
    assert np.array_equal(stored * how.slope + how.intercept, array)


@given(st.lists(st.floats(-1e6, 1e6, allow_nan=False, width=32), min_size=2, max_size=6))
def test_fractions_are_off_by_no_more_than_is_said(values: list[float]) -> None:
    array = np.array(values, np.float32)
    how = storing(array, "arbitrary")
    stored = np.rint((array.astype(np.float64) - how.intercept) / how.slope)
    assert stored.min() >= (-32768 if how.signed else 0)
    assert stored.max() <= (32767 if how.signed else 65535)
    off = np.abs(stored * how.slope + how.intercept - array).max()
    assert off <= how.error * (1 + 1e-6) + 1e-9


# -- secondary captures ------------------------------------------------------------------------------------------------


def test_outlines_are_burned_into_the_fullest_slices(tmp_path: Path, tool: Callable[[str], str]) -> None:
    picture = right_handed_image()
    series = written_series(tmp_path / "s", picture)
    array = np.zeros(picture.array.shape, np.uint8)
    array[0:4, 1:6, 3] = 1
    array[1:3, 2:5, 8] = 2
    array[1, 1, 2] = 1
    mask = Mask(array, picture.geometry, {1: Label("liver"), 2: Label("lesion")})
    about = About(window=(200, 400))
    folder = write(mask, tmp_path / "out", "dicom-sc", source=series, about=about)
    files = sorted(folder.iterdir())
    assert len(files) == 2
    for file, k, value, colour in zip(files, (3, 8), (1, 2), ((230, 159, 0), (86, 180, 233)), strict=True):
        header = pydicom.dcmread(file)
        pixels, edge = header.pixel_array, outline(array[:, :, k] == value)
        assert (pixels[edge] == colour).all()
        grey = np.clip((picture.array[:, :, k] - 200) / 400 + 0.5, 0, 1) * 255
        assert np.abs(pixels[~edge] - grey[~edge][:, None]).max() <= 0.51
        source = {str(pydicom.dcmread(f).SOPInstanceUID): f for f in series.iterdir()}
        under = pydicom.dcmread(source[str(header.SourceImageSequence[0].ReferencedSOPInstanceUID)])
        index = picture.geometry.to_index([[float(v) for v in under.ImagePositionPatient]])[0]
        assert round(float(index[2])) == k
        no_error(file, tool("dciodvfy"))
    image = read(next(series.iterdir()))
    one = write(Mask(np.ones((5, 7), np.uint8), image.geometry, {1: Label("x")}), tmp_path / "one.dcm", "dicom-sc",
                source=image)  # fmt: skip
    assert pydicom.dcmread(one).pixel_array.shape == (5, 7, 3)


def test_slices_may_be_chosen(tmp_path: Path) -> None:
    picture = right_handed_image()
    series = written_series(tmp_path / "s", picture)
    mask = Mask(np.zeros(picture.array.shape, np.uint8), picture.geometry, {1: Label("liver")})
    folder = write(mask, tmp_path / "out", "dicom-sc", source=series, about=About(slices=(0, 5, 10)))
    assert len(list(folder.iterdir())) == 3
    assert write(mask, tmp_path / "m.dcm", "dicom-sc", source=series).is_file()
    with pytest.raises(UsageError, match=r"not among those of the mask: got \[11\]"):
        write(mask, tmp_path / "x", "dicom-sc", source=series, about=About(slices=(11,)))
    other = Mask(np.zeros((10, 14, 22), np.uint8), picture.geometry.resampled((10, 14, 22)), {1: Label("a")})
    with pytest.raises(GeometryError, match="does not lie"):
        write(other, tmp_path / "y", "dicom-sc", source=series)


# -- codes -------------------------------------------------------------------------------------------------------------


def test_every_code_of_the_table_is_in_pydicoms_dictionary() -> None:
    from pydicom.sr._concepts_dict import concepts

    known: dict[str, set[str]] = {}
    for codes in concepts["SCT"].values():
        for code, (meaning, *_) in codes.items():
            known.setdefault(code, set()).add(meaning.lower())
    for name, (code, meaning, _) in COMMON.items():
        assert meaning.lower() in known[code], name
    for code, _ in (*CATEGORIES.values(), *LATERALITY.values()):
        assert code in known


@pytest.mark.parametrize(
    ("label", "code", "category"),
    [
        (Label("Liver"), ("10200004", "SCT", "Liver"), "Anatomical Structure"),
        (Label("left_kidney"), ("64033007", "SCT", "Kidney"), "Anatomical Structure"),
        (Label("tumour"), ("108369006", "SCT", "Neoplasm"), "Morphologically Abnormal Structure"),
        (Label("edge"), ("EDGE", "99MEDMAP", "edge"), "Anatomical Structure"),
        (Label("x", "SCT:52988006"), ("52988006", "SCT", "Lesion"), "Morphologically Abnormal Structure"),
        (Label("x", "99LAB:A1|My thing"), ("A1", "99LAB", "My thing"), "Anatomical Structure"),
    ],
)
def test_a_label_becomes_a_code(label: Label, code: tuple[str, str, str], category: str) -> None:
    concept = coded(label)
    assert (concept.value, concept.scheme_designator, concept.meaning) == code
    assert category_of(label).meaning == category


def test_the_side_is_a_modifier_and_no_part_of_a_ventricles_name() -> None:
    assert laterality(Label("Left lung")).meaning == "Left"
    assert laterality(Label("right ventricle")) is None
    assert laterality(Label("liver")) is None


@given(st.text(min_size=1, max_size=80), st.text(min_size=1, max_size=80))
def test_private_codes_are_short_and_differ_as_names_do(one: str, other: str) -> None:
    a, b = coded(Label(f"q{one}")), coded(Label(f"q{other}"))
    assert len(a.value) <= 16
    if one.upper() != other.upper():
        assert a.value != b.value


@pytest.mark.parametrize("code", ["liver", ":1", "SCT:", "SCT:12345678901234567", "A234567890123456X:1"])
def test_a_code_that_dicom_cannot_hold_is_refused(code: str) -> None:
    with pytest.raises(DataError, match="SCHEME:VALUE"):
        coded(Label("x", code))


@pytest.mark.parametrize("form", ["dicom", "dicom-enhanced"])
def test_a_source_without_a_slice_thickness(form: str, tmp_path: Path, tool: Callable[[str], str]) -> None:
    picture = right_handed_image()
    series = written_series(tmp_path / "s", picture)
    for file in series.iterdir():
        header = pydicom.dcmread(file)
        del header["SliceThickness"]
        header.save_as(file)
    made = write(picture, tmp_path / ("out" if form == "dicom" else "out.dcm"), form, source=series)
    path = sorted(made.iterdir())[0] if made.is_dir() else made
    said = subprocess.run(
        [tool("dciodvfy"), "-new", str(path)], capture_output=True, text=True, check=False, timeout=60
    )
    assert [line for line in said.stderr.splitlines() if line.startswith("Error")] == []
