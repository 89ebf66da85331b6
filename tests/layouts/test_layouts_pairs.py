"""A folder of images beside a folder of masks: paired by name, never taken for two classes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from layout_examples import CASES, mask, pairs, put, volume

from medmap.check import check
from medmap.cli import run as medmap
from medmap.dataset import Ref
from medmap.errors import LayoutError, QualityWarning
from medmap.layouts import open_dataset
from medmap.layouts.door import _chosen


def test_images_and_masks_are_no_two_classes(tmp_path: Path) -> None:
    pairs(tmp_path)
    data = open_dataset(tmp_path)
    assert (data.task, data.labels, data.patients_known) == ("segment", (), False)
    assert [case.id for case in data] == list(CASES)
    assert data[CASES[0]].inputs["image"] == Ref(f"images/{CASES[0]}.nii.gz")
    assert data[CASES[0]].truth.masks == (Ref(f"masks/{CASES[0]}.nii.gz"),)


@pytest.mark.parametrize(("one", "other"), [("images", "labels"), ("Scans", "Segmentations"), ("img", "seg")])
def test_other_names_of_the_folders_and_of_the_masks(tmp_path: Path, one: str, other: str) -> None:
    put(volume(), tmp_path / one / "c1.nii.gz")
    put(volume(1), tmp_path / one / "c2.nii.gz")
    put(mask(), tmp_path / other / "c1_seg.nii")
    data = open_dataset(tmp_path)
    assert data["c1"].truth.masks == (Ref(f"{other}/c1_seg.nii"),)
    assert not data["c2"].truth.annotated  # nobody drew it: not the same as nothing found


def test_a_mask_without_an_image_is_said_to_be_left_out(tmp_path: Path) -> None:
    pairs(tmp_path)
    put(mask(), tmp_path / "masks/stray.nii.gz")
    with pytest.warns(QualityWarning, match="1 of 4 masks have no image"):
        assert len(open_dataset(tmp_path)) == 3


def test_what_cannot_be_paired_is_refused(tmp_path: Path) -> None:
    pairs(tmp_path)
    put(mask(), tmp_path / f"masks/{CASES[0]}_mask.nii.gz")
    with pytest.raises(LayoutError, match="two masks of one image"):
        open_dataset(tmp_path)
    put(volume(), tmp_path / f"images/{CASES[0]}.nii")
    with pytest.raises(LayoutError, match="two files of one name"):
        open_dataset(tmp_path, layout="pairs")
    with pytest.raises(LayoutError, match="one folder of images and one of masks"):
        open_dataset(tmp_path / "images", layout="pairs")
    put(mask(), tmp_path / "other/labels/x.nii.gz")
    put(volume(), tmp_path / "other/images/y.nii.gz")
    with pytest.raises(LayoutError, match="has the name of an image"):
        open_dataset(tmp_path / "other", layout="pairs")


def test_classes_that_share_no_name_and_a_third_folder_stay_classes(tmp_path: Path) -> None:
    put(volume(), tmp_path / "scan/1.nii.gz")
    put(volume(), tmp_path / "label/2.nii.gz")
    assert _chosen(tmp_path, "auto").name == "folders"
    put(volume(), tmp_path / "label/1.nii.gz")
    assert _chosen(tmp_path, "auto").name == "pairs"
    put(volume(), tmp_path / "fracture/1.nii.gz")
    assert _chosen(tmp_path, "auto").name == "folders"


def test_the_check_says_which_values_want_a_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pairs(tmp_path / "data")
    assert medmap(["check", str(tmp_path / "data"), "--json"]) == 1
    (issue,) = [row for row in json.loads(capsys.readouterr().out) if row["code"] == "label_outside_list"]
    assert set(issue["details"]["values"]) == {"1", "2"}
    assert "labels: {1: NAME, 2: NAME}" in issue["remedy"]
    assert medmap(["import", str(tmp_path / "data"), str(tmp_path / "named")]) == 0
    described = tmp_path / "named/dataset.yaml"
    described.write_text(described.read_text() + "labels: {1: liver, 2: tumour}\n")
    assert open_dataset(tmp_path / "named").label_names == ("background", "liver", "tumour")
    medmap(["check", str(tmp_path / "named"), "--json"])
    assert "label_outside_list" not in capsys.readouterr().out


def test_masks_of_0_and_255_are_to_be_renumbered_first(tmp_path: Path) -> None:
    pairs(tmp_path)
    for case in CASES:
        file = tmp_path / f"masks/{case}.nii.gz"
        file.unlink()
        put(replace(mask(), array=(mask().array > 0).astype(np.uint8) * np.uint8(255)), file)
    (issue,) = [issue for issue in check(open_dataset(tmp_path)) if issue.code == "label_outside_list"]
    assert "255 → 1" in issue.remedy
    assert "labels: {1: NAME}" in issue.remedy


def test_a_zip_and_an_empty_folder_have_their_own_remedy(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(LayoutError, match=r"an empty folder.*name the folder"):
        open_dataset(tmp_path / "empty")
    (tmp_path / "a.zip").write_bytes(b"PK")
    with pytest.raises(LayoutError, match="unpack it"):
        open_dataset(tmp_path / "a.zip")
