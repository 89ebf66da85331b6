"""``medmap info`` of a study: in a folder, a zip, behind a DICOMDIR."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest

import dicom_series as made
from medmap.cli import run as medmap
from medmap.image import Image
from medmap.read import read
from medmap.results import Label, Mask
from medmap.write import write

KEYS = {"kind", "shape", "spacing_mm", "orientation", "quantity", "dtype", "minimum", "maximum", "warnings"}


def facts(path: Path, capsys: pytest.CaptureFixture[str]) -> dict:
    assert medmap(["info", str(path), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_study_of_one_image_is_described_as_an_image_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = made.write(tmp_path / "s")
    found = facts(folder, capsys)
    assert found.keys() >= KEYS
    assert (found["kind"], found["shape"], found["quantity"]) == ("study", [5, 7, 11], "HU")
    assert (found["minimum"], found["maximum"]) == (made.phantom().array.min(), made.phantom().array.max())
    assert np.allclose(found["spacing_mm"], made.phantom().spacing_mm)
    with zipfile.ZipFile(tmp_path / "s.zip", "w") as file:
        for path in folder.iterdir():
            file.write(path, path.name)
    assert {k: v for k, v in facts(tmp_path / "s.zip", capsys).items() if k != "warnings"} == {
        k: v for k, v in found.items() if k != "warnings"
    }
    made.write(folder, Image(made.phantom().array + np.int16(5), made.phantom().geometry), InstitutionName="elsewhere")
    assert facts(folder, capsys)["minimum"] == found["minimum"] + 5


def test_a_study_for_people(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made.write(tmp_path, numbers=[0, 1, 2, 4, 5, 6])
    assert medmap(["info", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "CT  volume  5 × 7 × 6" in said
    assert "missing-slices: 1 slices are missing" in said
    assert "minimum" not in facts(tmp_path, capsys)


def test_series_stand_below_their_studies_without_who_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, date in ((1, "20250304"), (2, "20260102")):
        who = {"PatientName": "QUIXOTELY^DULCINEA", "PatientID": "MRN-7741", "StudyInstanceUID": f"2.25.7{number}"}
        what = {"StudyDate": date, "StudyDescription": f"visit {number}", "SeriesInstanceUID": f"2.25.8{number}"}
        made.write(tmp_path / f"s{number}", numbers=[0, 1, 2, 4], **who, **what)
    assert medmap(["info", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "QUIXOTELY" not in said
    assert "MRN-7741" not in said
    lines = said.splitlines()
    for number, date in ((1, "20250304"), (2, "20260102")):
        at = lines.index(f"study {number}  {date}  visit {number}")
        assert lines[at + 1].startswith("  3  CT  volume")
        assert f"2.25.8{number}" in lines[at + 1]
        assert lines[at + 2].startswith("      missing-slices")
    listed = facts(tmp_path, capsys)["series"]
    assert [(one["study"], one["study_date"]) for one in listed] == [(1, "20250304"), (2, "20260102")]


def test_a_study_with_its_segmentation_shows_dataset_and_series(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = made.write(tmp_path / "images")
    image = read(images)
    array = np.zeros(image.geometry.shape, np.uint8)
    array[2:4, 1:3, 1:3] = 1
    mask = Mask(array, image.geometry, {1: Label("liver", "SCT:10200004|Liver")})
    write(mask, tmp_path / "seg.dcm", format="dicom-seg", source=images)
    found = facts(tmp_path, capsys)
    assert (found["kind"], found["layout"], found["annotated"]) == ("dataset", "dicom", 1)
    assert {one["modality"] for one in found["series"]} == {"CT", "SEG"}
    assert medmap(["info", str(tmp_path)]) == 0
    assert "CT  volume  5 × 7 × 11" in capsys.readouterr().out


def test_what_is_nowhere_is_told_with_what_would_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert medmap(["info", "nowhere"]) == 3
    told = capsys.readouterr().err
    assert "nowhere does not exist: expected an image, a folder" in told
    assert f"Remedy: check the spelling; it was looked for from {tmp_path}" in told


def test_a_dicomdir(shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = shared_data / "dicom/pydicom_test_files/test_files/dicomdirtests"
    shutil.copy(source / "DICOMDIR", tmp_path)
    shutil.copytree(source / "98892001", tmp_path / "98892001")
    found = facts(tmp_path / "DICOMDIR", capsys)
    assert found["series"]
    assert any("24 files" in warning for warning in found["warnings"])
