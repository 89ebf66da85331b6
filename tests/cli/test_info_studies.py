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


def test_a_dicomdir(shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = shared_data / "dicom/pydicom_test_files/test_files/dicomdirtests"
    shutil.copy(source / "DICOMDIR", tmp_path)
    shutil.copytree(source / "98892001", tmp_path / "98892001")
    found = facts(tmp_path / "DICOMDIR", capsys)
    assert found["series"]
    assert any("24 files" in warning for warning in found["warnings"])
