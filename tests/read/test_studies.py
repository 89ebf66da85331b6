"""Folders, zips and DICOMDIRs as studies; what a series is; series chosen by rules."""

from __future__ import annotations

import shutil
import threading
import time
import zipfile
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

import dicom_series as made
import medmap as mm
from medmap.errors import LimitError, ReadError, UsageError
from medmap.image import Image
from medmap.read import Series, archive, choose, studies
from medmap.read.dicom import gather
from medmap.read.dicom.kinds import kind_of_class
from medmap.read.dicom.sorting import seconds

DIRECTORIES = "dicom/pydicom_test_files/test_files/dicomdirtests"


def all_series(path: Path) -> list[Series]:
    return [series for study in studies(path) for series in study.series]


def zipped(folder: Path, target: Path, method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(target, "w", method) as file:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                file.write(path, path.relative_to(folder))
    return target


def two_series(folder: Path) -> Path:
    made.write(folder / "a")
    changes = {n: {"SOPInstanceUID": f"2.25.77.{n}"} for n in range(6)}
    made.write(folder / "b", numbers=range(6), changes=changes, SeriesInstanceUID="2.25.5", SeriesNumber=1,
               SeriesDescription="T1 MPRAGE post contrast", Modality="MR", SOPClassUID=made.MR,
               ContrastBolusAgent="Gd", RescaleType=None)  # fmt: skip
    (folder / "notes.txt").write_text("no image")
    return folder


def test_studies_and_their_series(tmp_path: Path) -> None:
    (study,) = studies(two_series(tmp_path))
    assert (study.uid, study.patient_id, study.accession, study.date) == ("2.25.1", "P1", "A1", "20260102")
    assert [(s.number, s.modality, s.kind, len(s.instances)) for s in study.series] == [
        (1, "MR", "volume", 6),
        (3, "CT", "volume", 11),
    ]
    assert study.series[1].headers["Manufacturer"] == "medmap"


def test_nothing_of_dicom_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x" * 200)
    with pytest.raises(ReadError, match=r"holds no DICOM object that can be read: got 1 files that are none"):
        list(studies(tmp_path))
    with pytest.raises(ReadError, match="neither DICOM"):
        list(studies(tmp_path / "a.txt"))
    with pytest.raises(ReadError, match="does not exist"):
        list(studies(tmp_path / "b"))


def test_a_damaged_file_is_named_and_the_rest_is_read(tmp_path: Path) -> None:
    folder = made.write(tmp_path / "s")
    (folder / "broken.dcm").write_bytes(sorted(folder.iterdir())[0].read_bytes()[:300])
    (folder / "cut.dcm").write_bytes(sorted(folder.iterdir())[0].read_bytes()[:-90])  # before its pixels
    (study,) = studies(folder)
    assert [p.code for p in study.problems] == ["damaged-files"]
    assert "2 damaged files" in study.problems[0].message
    assert study.series[0].read().array.shape == (5, 7, 11)


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED])
def test_a_zip_is_read_from_inside(tmp_path: Path, method: int) -> None:
    path = zipped(two_series(tmp_path / "d"), tmp_path / "d.zip", method)
    assert np.array_equal(mm.read(f"{path}#2.25.2").array, made.phantom().array)
    assert [s.uid for s in all_series(path)] == ["2.25.5", "2.25.2"]
    with pytest.raises(ReadError, match="2 series of images"):
        mm.read(path)


def test_a_zip_of_many_slices_is_opened_a_few_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = zipped(made.write(tmp_path / "d"), tmp_path / "d.zip")
    opened: list[object] = []
    plain = zipfile.ZipFile

    def counted(*given: object) -> zipfile.ZipFile:
        opened.append(given)
        return plain(*given)  # type: ignore[call-overload, no-any-return]

    monkeypatch.setattr(archive.zipfile, "ZipFile", counted)
    assert np.array_equal(mm.read(path).array, made.phantom().array)
    assert (
        len(opened) <= 6
    )  # of eleven slices: looked at, scanned, sorted, the first header, all pixels: not once a slice


def test_a_file_overwritten_in_place_is_scanned_again(tmp_path: Path) -> None:
    folder = made.write(tmp_path / "s")
    assert np.array_equal(mm.read(folder).array, made.phantom().array)
    other = Image(made.phantom().array + np.int16(3), made.phantom().geometry)
    made.write(folder, other, InstitutionName="elsewhere")
    assert np.array_equal(mm.read(folder).array, other.array)


def test_series_of_several_patients_in_one_study_are_said(tmp_path: Path) -> None:
    two_series(tmp_path)
    for path in (tmp_path / "b").iterdir():
        ds = pydicom.dcmread(path)
        ds.PatientID = "P2"
        ds.save_as(path)
    (study,) = studies(tmp_path)
    assert [p.code for p in study.problems] == ["several-patients"]
    assert "P2" not in study.problems[0].message


def test_hostile_zips_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outside = tmp_path / "o.zip"
    with zipfile.ZipFile(outside, "w") as file:
        file.writestr("../evil.dcm", b"x")
    with pytest.raises(ReadError, match="names a file outside itself"):
        list(studies(outside))
    data = bytearray(zipped(made.write(tmp_path / "s"), tmp_path / "s.zip").read_bytes())
    at = data.find(b"PK\x01\x02")
    data[at + 8] |= 1  # says that it is encrypted
    (tmp_path / "e.zip").write_bytes(data)
    with pytest.raises(ReadError, match="encrypted"):
        list(studies(tmp_path / "e.zip"))
    monkeypatch.setattr(archive, "MAX_BYTES", 1000)
    with pytest.raises(LimitError, match="too large when unpacked"):
        list(studies(tmp_path / "s.zip"))
    (tmp_path / "t.zip").write_bytes((tmp_path / "s.zip").read_bytes()[:500])
    with pytest.raises(ReadError, match="not a whole zip"):
        list(studies(tmp_path / "t.zip"))


def test_a_dicomdir_lists_what_is_read(shared_data: Path) -> None:
    found = list(studies(shared_data / DIRECTORIES / "DICOMDIR"))
    assert sum(len(s.instances) for study in found for s in study.series) == 31
    assert not any(p.code == "missing-files" for study in found for p in study.problems)


@pytest.mark.parametrize("name", ["DICOMDIR-bigEnd", "DICOMDIR-implicit", "DICOMDIR-nooffset", "DICOMDIR-reordered",
                                  "DICOMDIR-nopatient"])  # fmt: skip
def test_odd_dicomdirs_list_the_same(shared_data: Path, name: str) -> None:
    found = list(studies(shared_data / DIRECTORIES / name))
    assert sum(len(s.instances) for study in found for s in study.series) == 31


def test_an_empty_dicomdir_is_refused(shared_data: Path) -> None:
    with pytest.raises(ReadError, match="lists no file"):
        list(studies(shared_data / DIRECTORIES / "DICOMDIR-empty.dcm"))


def test_files_that_a_dicomdir_names_in_vain_are_listed(shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / DIRECTORIES
    shutil.copy(source / "DICOMDIR", tmp_path)
    shutil.copytree(source / "98892001", tmp_path / "98892001")
    found = list(studies(tmp_path / "DICOMDIR"))
    assert [p.code for p in found[0].problems] == ["missing-files"]
    assert "24 files" in found[0].problems[0].message


def test_a_dicomdir_that_leads_outside_is_refused(shared_data: Path, tmp_path: Path) -> None:
    data = (shared_data / DIRECTORIES / "DICOMDIR").read_bytes().replace(b"77654033\\CR1", b"..\\..\\etc\\CR")
    (tmp_path / "DICOMDIR").write_bytes(data)
    with pytest.raises(ReadError, match="names a file outside its folder"):
        list(studies(tmp_path / "DICOMDIR"))


# -- kinds -------------------------------------------------------------------------------------------------------------


def test_localisers_and_derived_series_are_told_apart(tmp_path: Path) -> None:
    for name, attributes in {
        "localiser": {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]},
        "derived": {"ImageType": ["DERIVED", "SECONDARY", "MPR"]},
        "volume": {"ImageType": ["DERIVED", "PRIMARY", "AXIAL"]},
    }.items():
        assert all_series(made.write(tmp_path / name, **attributes))[0].kind == name
    (scout,) = all_series(made.write(tmp_path / "scout", SeriesDescription="Topogram 0.6"))
    assert scout.kind == "localiser"
    planes = {
        0: {"ImageOrientationPatient": [1.0, 0, 0, 0, 1, 0]},
        1: {"ImageOrientationPatient": [0.0, 1, 0, 0, 0, -1]},
        2: {"ImageOrientationPatient": [1.0, 0, 0, 0, 0, -1]},
    }
    (pilot,) = all_series(made.write(tmp_path / "p", numbers=range(3), changes=planes))
    assert pilot.kind == "localiser"


def test_classes_that_are_no_images(shared_data: Path) -> None:
    kinds = {s.kind for s in all_series(shared_data / "dicom")}
    assert {"volume", "picture", "cine", "localiser", "derived", "segmentation", "structures", "report", "slide",
            "waveform", "parametric map", "other"} <= kinds  # fmt: skip
    root = "1.2.840.10008.5.1.4.1.1."
    assert [kind_of_class(root + end) for end in ("11.1", "104.1", "88.33", "2")] == [
        "presentation", "document", "report", None,
    ]  # fmt: skip


def item(**values: object) -> Dataset:
    made_of = Dataset()
    for name, value in values.items():
        setattr(made_of, name, value)
    return made_of


def test_an_enhanced_object_is_split_by_its_frames(tmp_path: Path) -> None:
    truth = made.phantom()
    ds = made.header(truth.geometry, 0, SOPClassUID="1.2.840.10008.5.1.4.1.1.4.1", Modality="MR", RescaleType=None,
                     RescaleSlope=None, RescaleIntercept=None)  # fmt: skip
    slices = [made.header(truth.geometry, n) for n in range(11)]
    order = [(echo, n) for n in reversed(range(11)) for echo in (0, 1)]
    ds.PerFrameFunctionalGroupsSequence = [
        item(
            PlanePositionSequence=[item(ImagePositionPatient=slices[n].ImagePositionPatient)],
            MREchoSequence=[item(EffectiveEchoTime=float(echo + 1) * 10)],
        )
        for echo, n in order
    ]
    ds.SharedFunctionalGroupsSequence = [
        item(
            PlaneOrientationSequence=[item(ImageOrientationPatient=slices[0].ImageOrientationPatient)],
            PixelMeasuresSequence=[item(PixelSpacing=slices[0].PixelSpacing)],
            PixelValueTransformationSequence=[item(RescaleSlope=2, RescaleIntercept=-100, RescaleType="US")],
        )
    ]
    for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
        delattr(ds, name)
    ds.NumberOfFrames = len(order)
    stored = np.stack([truth.array[:, :, n] + 400 * echo for echo, n in order]).astype(np.uint16)
    made.save(ds, stored, tmp_path / "e.dcm")
    (series,) = all_series(tmp_path)
    assert series.kind == "volume"
    assert [(p.name, p.value, p.slices) for p in series.parts] == [("echo-1", 10.0, 11), ("echo-2", 20.0, 11)]
    for echo in (0, 1):
        image = series.read(echo)
        assert np.array_equal(image.array, (truth.array + 400 * echo) * 2 - 100)
        assert np.allclose(image.geometry.affine_lps_mm, truth.geometry.affine_lps_mm, atol=1e-6)


def test_times_of_dicom() -> None:
    assert seconds("101530.5") == 36930.5
    assert seconds("20260102101530.5+0100") == 36930.5
    assert seconds("x") is None


# -- rules -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "uids"),
    [
        ("CT", ["2.25.2"]),
        ("MR", ["2.25.5"]),
        ("T1 after contrast", ["2.25.5"]),
        ("t1 post-contrast, >= 6 slices", ["2.25.5"]),
        ("T1, without contrast", []),
        ("axial", ["2.25.5", "2.25.2"]),
        (">= 11 slices", ["2.25.2"]),
        ("slices < 7", ["2.25.5"]),
        ("thickness <= 2 mm", []),
        ("thickness <= 3 mm, largest", ["2.25.2"]),
        ("distance = 2.9", ["2.25.5", "2.25.2"]),
        ('"mprage"', ["2.25.5"]),
        ("number 3", ["2.25.2"]),
        ("first", ["2.25.5"]),
        ("last", ["2.25.2"]),
        ("coronal", []),
        ("localiser", []),
        ("volume original", ["2.25.5", "2.25.2"]),
        ("axial T1 after contrast, ≥ 5 slices", ["2.25.5"]),
    ],
)
def test_rules(tmp_path: Path, rule: str, uids: list[str]) -> None:
    assert [s.uid for s in choose(all_series(two_series(tmp_path)), rule)] == uids


def test_kernels_and_weightings(tmp_path: Path) -> None:
    (bone,) = all_series(made.write(tmp_path / "b", ConvolutionKernel="B70f"))
    (soft,) = all_series(made.write(tmp_path / "s", ConvolutionKernel="STANDARD"))
    assert choose([bone, soft], "bone kernel") == [bone]
    assert choose([bone, soft], "CT soft tissue kernel") == [soft]
    (flair,) = all_series(made.write(tmp_path / "f", SeriesDescription="t2_flair_tra"))
    (t2,) = all_series(made.write(tmp_path / "t", SeriesDescription="t2_tse_tra"))
    assert choose([flair, t2], "T2") == [t2]
    assert choose([flair, t2], "FLAIR") == [flair]


@pytest.mark.parametrize("rule", ["", "  ", "purple", "axial T9", "__import__('os')", "slices >= many"])
def test_rules_without_meaning_are_refused(rule: str) -> None:
    with pytest.raises(UsageError, match=r"a word that has no meaning|chooses nothing"):
        choose([], rule)


def test_a_slow_drive_is_read_by_several_threads_in_the_same_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = made.write(tmp_path / "s")
    content = sorted(folder.iterdir())[0].read_bytes()
    for number in range(150):
        (folder / f"copy-{number:03d}.dcm").write_bytes(content)
    quick = [instance.path for instance in gather.gather(folder).instances]
    threads, scan_file = set(), gather._scan_file

    def slow(path: Path) -> object:
        threads.add(threading.get_ident())
        time.sleep(0.002)
        return scan_file(path)

    monkeypatch.setattr(gather, "_scan_file", slow)
    assert [instance.path for instance in gather.gather(folder).instances] == quick
    assert len(threads) > 1
    threads.clear()
    gather.gather(folder, workers=1)
    assert threads == {threading.get_ident()}


def test_threads_are_counted_by_waiting() -> None:
    assert [gather.threads_for(*times) for times in ((0.010, 0.009), (0.1, 0.01), (9, 0.01), (0, 0))] == [1, 10, 16, 1]
