"""``medmap measure``: any mask, as a table, as JSON and in words."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

import medmap as mm
from grids import oblique_geometry
from medmap.cli import measured, run
from medmap.cli.measured import surfaces
from medmap.cli.resumed import OWN
from medmap.image import Image
from medmap.results import Label


@pytest.fixture
def study(tmp_path: Path, image: Image) -> tuple[str, str]:
    array = np.zeros(image.geometry.shape, np.uint8)
    array[1:3, 2:4, 3:6] = 3
    mm.write(image, tmp_path / "image.nii.gz")
    mm.write(Image(array, oblique_geometry(), "label"), tmp_path / "mask.nii.gz")
    return str(tmp_path / "image.nii.gz"), str(tmp_path / "mask.nii.gz")


def test_a_mask_is_measured_as_table_json_and_words(
    study: tuple[str, str], image: Image, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["measure", *study, "-o", str(tmp_path / "m.csv")]) == 0
    row = next(csv.DictReader((tmp_path / "m.csv").read_text().splitlines()))
    assert (row["label"], row["voxels"]) == ("3", "12")
    assert float(row["intensity_mean"]) == pytest.approx(image.array[1:3, 2:4, 3:6].mean(), rel=1e-5)
    capsys.readouterr()
    assert run(["measure", *study, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)[0]
    assert found["volume_ml"] == pytest.approx(12 * 0.7 * 1.3 * 2.9 / 1000, rel=1e-5)
    assert run(["measure", *study]) == 0
    assert "12 voxels in 1 part" in capsys.readouterr().out


def test_every_connected_part_is_measured_by_itself(
    image: Image, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    array = np.zeros(image.geometry.shape, np.uint8)
    array[1:3, 2:4, 3:6], array[0, 0, 0] = 3, 3
    mm.write(image, tmp_path / "image.nii.gz")
    mm.write(Image(array, oblique_geometry(), "label"), tmp_path / "mask.nii.gz")
    call = ["measure", str(tmp_path / "image.nii.gz"), str(tmp_path / "mask.nii.gz"), "--instances"]
    assert run([*call, "-o", str(tmp_path / "m.csv")]) == 0
    rows = list(csv.DictReader((tmp_path / "m.csv").read_text().splitlines()))
    assert [(row["instance"], row["structure"], row["voxels"]) for row in rows] == [("1", "3", "12"), ("2", "3", "1")]
    assert "parts" not in rows[0]
    assert float(rows[1]["intensity_mean"]) == pytest.approx(float(image.array[0, 0, 0]), rel=1e-5)
    capsys.readouterr()
    assert run(call) == 0
    assert "instance 2, 3: 1 voxel, " in capsys.readouterr().out
    assert run([*call, "--json"]) == 0
    assert [row["instance"] for row in json.loads(capsys.readouterr().out)] == [1, 2]


def test_what_is_no_mask_or_no_table_is_refused(
    study: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image, mask = study
    assert run(["measure", image, mask, "-o", str(tmp_path / "m.xlsx")]) == 2
    decimals = Image(np.full(oblique_geometry().shape, 0.5, np.float32), oblique_geometry(), "arbitrary")
    mm.write(decimals, tmp_path / "decimals.nii.gz")
    assert run(["measure", image, str(tmp_path / "decimals.nii.gz")]) == 3
    assert "whole numbers" in capsys.readouterr().err
    shares = np.stack([np.full(oblique_geometry().shape, part, np.float32) for part in (0.3, 0.7)], axis=-1)
    channels = Image(shares, oblique_geometry(), "arbitrary", channels=("a", "b"))
    mm.write(channels, tmp_path / "shares.nii.gz")
    assert run(["measure", image, str(tmp_path / "shares.nii.gz")]) == 3
    assert "0 and one other value" in capsys.readouterr().err


def test_an_empty_mask_is_called_so(study: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty = Image(np.zeros(oblique_geometry().shape, np.uint8), oblique_geometry(), "label")
    mm.write(empty, tmp_path / "empty.nii.gz")
    assert run(["measure", study[0], str(tmp_path / "empty.nii.gz")]) == 0
    assert "no structure" in capsys.readouterr().out


def test_each_structure_is_an_stl_file_of_its_own(tmp_path: Path, image: Image) -> None:
    array = np.zeros(image.geometry.shape, np.uint8)
    array[1:3, 2:4, 3:6], array[4, 5, 6] = 1, 3
    labels = {1: Label("left lung"), 2: Label("absent"), 3: Label("Δ")}
    unwritten: dict[str, str] = {}
    answer = mm.Prediction("case", {"mask": mm.Mask(array, image.geometry, labels)})
    names = surfaces(answer, tmp_path / "000000", unwritten)
    assert names == ["000000.1-left-lung.stl", "000000.3.stl"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert all(OWN.fullmatch(name) for name in names)  # --resume knows them
    assert unwritten == {}
    flat = mm.Geometry.without_size((4, 5))
    answer = mm.Prediction("case", {"mask": mm.Mask(np.ones((4, 5), np.uint8), flat, {1: Label("spot")})})
    assert surfaces(answer, tmp_path / "000001", unwritten) == []
    assert "millimetres" in unwritten["stl"]


def test_an_overlay_is_written_beside_or_its_lack_is_said(
    tmp_path: Path, image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    mask = mm.Mask(np.ones(image.geometry.shape, np.uint8), image.geometry, {1: Label("all")})
    answer, none, path, unwritten = mm.Prediction("case", {"mask": mask}), None, tmp_path / "000000.overlay.png", {}
    monkeypatch.setattr(measured, "_image_under", lambda data, case: image)
    assert measured.drawn(answer, none, none, path, unwritten) == [path.name]  # type: ignore[arg-type]
    assert mm.read(path).quantity == "colour"
    assert OWN.fullmatch(path.name)
    monkeypatch.setattr(measured, "_image_under", lambda data, case: None)
    assert measured.drawn(answer, none, none, path, unwritten) == []  # type: ignore[arg-type]
    assert "on its image" in unwritten["overlay"]
