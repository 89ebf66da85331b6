"""import --replaces, convert and diff on the command line."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from medmap import phantom
from medmap.cli import run as medmap

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "layouts"))
import layout_examples as examples


def test_convert_import_and_diff(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    examples.msd(tmp_path / "msd")
    assert medmap(["convert", str(tmp_path / "msd"), str(tmp_path / "nn"), "--layout", "nnunet"]) == 0
    assert "4 cases of Liver (segment) as nnunet" in capsys.readouterr().out
    assert medmap(["import", str(tmp_path / "msd"), str(tmp_path / "v1"), "--copy"]) == 0
    mask = tmp_path / "msd/labelsTr/liver_001.nii.gz"
    mask.unlink()
    examples.put(examples.mask(7), mask)
    options = [str(tmp_path / "msd"), str(tmp_path / "v2"), "--copy", "--replaces", str(tmp_path / "v1")]
    assert medmap(["import", *options]) == 0
    assert "version 2" in capsys.readouterr().out
    assert medmap(["diff", str(tmp_path / "v1"), str(tmp_path / "v2")]) == 0
    told = capsys.readouterr().out
    assert "mask: liver_001: liver:" in told
    assert "does not name" not in told
    assert medmap(["diff", str(tmp_path / "v1"), str(tmp_path / "v2"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["follows"]
    assert {change["case"] for change in found["changes"]} == {"liver_001"}
    assert medmap(["convert", str(tmp_path / "v2"), str(tmp_path / "b"), "--layout", "bids", "--json"]) == 0
    out, told = capsys.readouterr()
    assert "warning: bids: BIDS knows no suffix image" in told
    told_json = json.loads(out)
    assert (told_json["dataset"], told_json["layout"], told_json["cases"]) == (str(tmp_path / "b"), "bids", 4)


def test_convert_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    examples.coco(tmp_path / "coco")
    assert medmap(["convert", str(tmp_path / "coco"), str(tmp_path / "out"), "--layout", "yolo"]) == 2
    assert "nnunet, msd, coco, bids" in capsys.readouterr().err
    assert medmap(["convert", str(tmp_path / "coco"), str(tmp_path / "out"), "--layout", "msd"]) == 3
    assert "holds no truth for this task" in capsys.readouterr().err
    assert medmap(["convert", str(tmp_path / "coco"), str(tmp_path / "coco"), "--layout", "coco"]) == 2
    assert "not empty" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_spreadsheet_whose_labels_are_not_found_names_its_columns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    phantom.write_study(tmp_path / "pacs", phantom.classification(3, seed=0, shape=(16, 16)), format="dicom")
    sheet = tmp_path / "sheet.csv"
    sheet.write_text("MRN,Befund\nP0000,nodule\nP0001,clear\nP0002,clear\n")
    options = ["import", str(tmp_path / "pacs/images"), str(tmp_path / "out"), "--labels", str(sheet)]
    assert medmap(options) == 0
    told = capsys.readouterr().out
    assert "--label-column" in told
    assert "Befund" in told
    options[2] = str(tmp_path / "again")
    assert medmap([*options, "--label-column", "Befund"]) == 0
    assert "no case" not in capsys.readouterr().out
