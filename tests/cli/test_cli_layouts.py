"""import --replaces, convert and diff on the command line."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from medmap import phantom
from medmap.cli import run as medmap
from medmap.dataset import Case, Dataset, InputSpec
from medmap.errors import DatasetError
from medmap.layouts import convert_dataset
from medmap.results import Label

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
    assert "name the input after it in dataset.yaml and cases.csv" in told
    told_json = json.loads(out)
    assert (told_json["dataset"], told_json["layout"], told_json["cases"]) == (str(tmp_path / "b"), "bids", 4)


def test_convert_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    examples.coco(tmp_path / "coco")
    assert medmap(["convert", str(tmp_path / "coco"), str(tmp_path / "out"), "--layout", "kitti"]) == 2
    assert "nnunet, msd, coco, bids" in capsys.readouterr().err
    assert medmap(["convert", str(tmp_path / "coco"), str(tmp_path / "out"), "--layout", "msd"]) == 3
    told = capsys.readouterr().err
    assert "the layout msd holds no truth for this task: got detect, expected segment" in told
    assert "Remedy: --layout coco or voc or yolo or luna16 holds it" in told
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


def test_a_folder_for_nnunet_is_told_its_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    examples.msd(tmp_path / "msd")
    assert medmap(["convert", str(tmp_path / "msd"), str(tmp_path / "mine"), "--layout", "nnunet"]) == 0
    assert "name it Dataset001_Name" in capsys.readouterr().out
    assert medmap(["convert", str(tmp_path / "msd"), str(tmp_path / "Dataset007_Mine"), "--layout", "nnunet"]) == 0
    assert "Dataset001" not in capsys.readouterr().out


def test_classes_fit_no_export_and_medmaps_own_layout_is_named(tmp_path: Path) -> None:
    data = Dataset("d", "classify", (Case("a", "a", {}),), {"image": InputSpec()}, (Label("no"), Label("yes")))
    for layout in ("coco", "bids"):
        with pytest.raises(DatasetError, match=r"none of these layouts holds it.*medmap import"):
            convert_dataset(data, tmp_path / "out", layout)
