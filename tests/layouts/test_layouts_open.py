"""What each layout's example means once it is open: cases, inputs, truth, splits, labels."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import layout_examples as examples
import numpy as np
import pytest

from medmap.dataset import InputSpec, Ref, Truth
from medmap.errors import QualityWarning
from medmap.layouts import open_dataset
from medmap.read import read_ref
from medmap.results import Label


def test_decathlon(tmp_path: Path) -> None:
    examples.msd(tmp_path)
    data = open_dataset(tmp_path)
    assert [c.id for c in data] == ["liver_001", "liver_002", "liver_010", "liver_900"]
    assert (data.name, data.licence, data.source) == ("Liver", "CC BY-SA 4.0", "a clinic")
    assert data.inputs == {"image": InputSpec("CT")}
    assert data.label_names == ("background", "liver", "tumour")
    assert [c.split for c in data] == ["train", "train", "train", "test"]
    assert not data["liver_900"].truth.annotated
    assert np.array_equal(read_ref(data, data["liver_002"].truth.masks[0]).array, examples.mask(1).array)
    assert open_dataset(tmp_path / "dataset.json").digest == data.digest


def test_decathlon_of_several_modalities_and_numbers_with_gaps(tmp_path: Path) -> None:
    examples.msd(tmp_path)
    said = json.loads((tmp_path / "dataset.json").read_text())
    said |= {"modality": {"0": "FLAIR", "1": "T1w"}, "labels": {"0": "background", "4": "core"}, "test": []}
    examples.say(tmp_path / "dataset.json", said)
    data = open_dataset(tmp_path)
    assert data.inputs == {"image": InputSpec(None, ("FLAIR", "T1w"))}
    assert data.label_names == ("background", "unused_1", "unused_2", "unused_3", "core")
    assert {c.split for c in data} == {None}


def test_monai_datalist(tmp_path: Path) -> None:
    examples.monai(tmp_path)
    data = open_dataset(tmp_path)
    assert (data.task, data.kind, data.label_names) == ("classify", "binary", ("0", "1"))
    assert [(c.truth.label, c.split) for c in data] == [(0, "train"), (1, "train"), (0, "val")]
    assert data["liver_010"].columns == {"fold": 2.0, "age": 62.0}
    assert open_dataset(tmp_path / "datalist.json").digest == data.digest
    rows = [{"image": [f"scans/{c}.nii.gz"] * 2, "label": f"scans/{c}.nii.gz"} for c in examples.CASES[:2]]
    rows.append({"image": f"scans/{examples.CASES[2]}.nii.gz"})
    examples.say(tmp_path / "datalist.json", {"training": rows, "labels": {"0": "background", "1": "x"}})
    data = open_dataset(tmp_path)
    assert (data.task, list(data.inputs), data.label_names) == ("segment", ["image", "image_2"], ("background", "x"))
    assert data["liver_010"].inputs["image_2"] is None
    assert not data["liver_010"].truth.annotated
    rows = [{"image": f"scans/{c}.nii.gz", "label": "sick"} for c in examples.CASES]
    examples.say(tmp_path / "datalist.json", {"training": rows, "labels": {"0": "well", "1": "sick"}})
    assert {c.truth.label for c in open_dataset(tmp_path)} == {1}


def test_nnunet(tmp_path: Path) -> None:
    examples.nnunet(tmp_path)
    data = open_dataset(tmp_path)
    assert list(data.inputs) == ["T1", "FLAIR"]
    assert data.label_names == ("background", "part_1", "core")
    assert (dict(data.regions), data.ignore) == ({"whole": (1, 2)}, 3)
    assert [c.columns.get("fold") for c in data] == [0.0, 1.0, 2.0, None]
    assert [c.split for c in data] == ["train"] * 3 + ["test"]
    assert data["liver_010"].inputs["FLAIR"] == Ref("imagesTr/liver_010_0001.nii.gz")
    assert not data["liver_900"].truth.annotated


def test_nnunet_with_one_fold_a_missing_channel_and_other_counts(tmp_path: Path) -> None:
    examples.nnunet(tmp_path)
    (tmp_path / "imagesTr/liver_002_0001.nii.gz").unlink()
    (tmp_path / "labelsTr/liver_010.nii.gz").unlink()
    fold = {"train": ["liver_001", "liver_002"], "val": ["liver_010"]}
    examples.say(tmp_path / "splits_final.json", [fold])
    said = json.loads((tmp_path / "dataset.json").read_text())
    examples.say(tmp_path / "dataset.json", {**said, "numTraining": 7})
    with pytest.warns(QualityWarning, match="numTraining is 7, found were 3"):
        data = open_dataset(tmp_path)
    assert [c.split for c in data] == ["train", "train", "val", "test"]
    assert data["liver_002"].inputs["FLAIR"] is None
    assert data["liver_010"].truth == Truth()
    examples.say(tmp_path / "dataset.json", said)
    examples.say(tmp_path / "splits_final.json", [fold, fold])
    with pytest.warns(QualityWarning, match="held out in several folds"):
        assert all("fold" not in c.columns for c in open_dataset(tmp_path))


def test_nnunet_version_1_colour_pictures_and_named_files(tmp_path: Path) -> None:
    examples.nnunet(tmp_path / "one")
    old = {
        "modality": {"0": "MRI", "1": "MRI"},
        "labels": {"0": "background", "1": "a"},
        "training": [{"image": "./imagesTr/liver_001.nii.gz", "label": "./labelsTr/liver_001.nii.gz"}],
    }
    examples.say(tmp_path / "one/dataset.json", old)
    data = open_dataset(tmp_path / "one")
    assert data.inputs == {"MRI_0": InputSpec("MR"), "MRI_1": InputSpec("MR")}
    assert data.label_names == ("background", "a")
    examples.picture(tmp_path / "two/imagesTr/x_0000.png")
    said = {"channel_names": {"0": "R", "1": "G", "2": "B"}, "labels": {"background": 0, "v": 1}, "file_ending": ".png"}
    examples.say(tmp_path / "two/dataset.json", said)
    assert open_dataset(tmp_path / "two").inputs == {"image": InputSpec(None, ("R", "G", "B"))}
    entry = {"images": ["../two/a_0000.png"], "label": None}
    examples.picture(tmp_path / "two/far/y.png")
    entry = {"images": ["far/y.png"], "label": "far/y.png"}
    examples.say(tmp_path / "two/dataset.json", {**said, "channel_names": {"0": "US"}, "dataset": {"y": entry}})
    data = open_dataset(tmp_path / "two")
    assert data["y"].truth.masks == (Ref("far/y.png"),)
    assert data.inputs == {"image": InputSpec("US")}


def test_nndetection(tmp_path: Path) -> None:
    examples.nndetection(tmp_path)
    data = open_dataset(tmp_path)
    assert data.label_names == ("nodule", "mass")
    assert data.inputs == {"image": InputSpec("CT")}
    assert data["liver_001"].truth.boxes == (((1, 2, 4, 2, 5, 4), 0), ((4, 0, 7, 4, 0, 10), 1))


def test_coco(tmp_path: Path) -> None:
    examples.coco(tmp_path)
    data = open_dataset(tmp_path)
    assert (data.name, data.licence, data.label_names) == ("Cells", "MIT", ("RBC", "WBC"))
    first, second = data.cases
    assert first.truth.boxes == (((20, 10, 23, 14), 1), ((2, 1, 8, 5), 0))
    assert first.truth.ignored == (((0, 0, 47, 63), 0),)
    assert second.truth == Truth(True, boxes=())
    assert {c.split for c in data} == {"train"}
    assert read_ref(data, first.inputs["image"]).array.shape == (48, 64, 3)
    assert open_dataset(tmp_path / "annotations/instances_train.json").digest == data.digest
    said = json.loads((tmp_path / "annotations/instances_train.json").read_text())
    for image in said["images"]:
        del image["width"]
    examples.say(tmp_path / "annotations/instances_train.json", said)
    assert open_dataset(tmp_path).cases == data.cases  # sizes from the headers


def test_coco_as_others_lay_it_out(tmp_path: Path) -> None:
    for part in ("train", "valid"):
        examples.coco(tmp_path / "x")
        (tmp_path / part).mkdir()
        (tmp_path / "x/annotations/instances_train.json").rename(tmp_path / part / "_annotations.coco.json")
        for file in (tmp_path / "x/images").iterdir():
            file.rename(tmp_path / part / file.name)
    (tmp_path / "x/annotations").rmdir()
    (tmp_path / "x/images").rmdir()
    (tmp_path / "x").rmdir()
    data = open_dataset(tmp_path)
    assert [(c.id, c.split) for c in data] == [
        ("train_a", "train"), ("train_b", "train"), ("valid_a", "val"), ("valid_b", "val")
    ]  # fmt: skip
    said = json.loads((tmp_path / "valid/_annotations.coco.json").read_text())
    del said["annotations"]
    (tmp_path / "images").mkdir()
    for file in (tmp_path / "valid").glob("*.png"):
        file.rename(tmp_path / "images" / file.name)
    examples.say(tmp_path / "image_info_test.json", said)
    data = open_dataset(tmp_path / "image_info_test.json")
    assert [(c.truth, c.split) for c in data] == [(Truth(), "test")] * 2


def test_yolo(tmp_path: Path) -> None:
    examples.yolo(tmp_path)
    data = open_dataset(tmp_path)
    assert data.label_names == ("RBC", "WBC")
    assert [(c.id, c.split) for c in data] == [("a", "train"), ("b", "train"), ("c", "val")]
    boxes = data["a"].truth.boxes
    assert boxes is not None
    # 64 × 48: x 24 … 40, y 0 … 24
    assert boxes[0] == ((0.0, 24.0, 23.0, 39.0), 1)
    assert boxes[1] == (pytest.approx((4.8, 6.4, 13.4, 11.8)), 0)
    assert data["b"].truth == data["c"].truth == Truth(True, boxes=())
    assert open_dataset(tmp_path / "data.yaml").digest == data.digest
    (tmp_path / "list.txt").write_text("./train/images/a.png\n\n")
    (tmp_path / "data.yaml").write_text(
        "path: gone\ntrain: list.txt\nval: valid/images\ntest: unlabelled\nnames: {0: x, 1: y}\n"
    )
    examples.picture(tmp_path / "unlabelled/z.png")
    data = open_dataset(tmp_path)
    assert [(c.id, c.truth.annotated) for c in data] == [("a", True), ("c", True), ("z", False)]


def test_voc(tmp_path: Path) -> None:
    examples.voc(tmp_path)
    data = open_dataset(tmp_path)
    assert data.label_names == ("RBC", "WBC")
    assert data["a"].truth == Truth(True, boxes=(((1, 0, 1, 9), 1),), ignored=(((1, 0, 1, 9), 0),))
    assert data["b"].truth == Truth(True, boxes=())
    assert data["c"].truth == Truth()
    assert [c.split for c in data] == ["train", "val", None]
    page = (tmp_path / "Annotations/a.xml").read_text()
    examples.say(tmp_path / "Annotations/a.xml", page.replace("<width>64</width>", "<width>0</width>"))
    assert open_dataset(tmp_path).cases == data.cases  # the size from the header


def test_luna(tmp_path: Path) -> None:
    examples.luna(tmp_path)
    data = open_dataset(tmp_path)
    assert [(c.id, c.columns["fold"]) for c in data] == [("1.2.3", 0.0), ("1.2.4", 1.0)]
    boxes = data["1.2.3"].truth.boxes
    assert boxes is not None
    # 2.8 mm across on 0.7 × 1.3 × 2.9 mm: 4 voxels, 2.15 voxels, and less than one
    assert boxes[0][0] == pytest.approx((0.5, 3 - 1.4 / 1.3 + 0.5, 5, 3.5, 3 + 1.4 / 1.3 - 0.5, 5), abs=1e-4)
    assert data["1.2.3"].truth.ignored == ()
    assert data["1.2.4"].truth.boxes == ()
    assert len(data["1.2.4"].truth.ignored) == 1


def test_bids(tmp_path: Path) -> None:
    examples.bids(tmp_path)
    data = open_dataset(tmp_path)
    assert list(data.inputs) == ["acq-fast_FLAIR", "T1w"]
    assert [(c.id, c.patient, c.site) for c in data] == [
        ("sub-01_ses-1", "sub-01", "north"), ("sub-01_ses-2", "sub-01", "north"), ("sub-02", "sub-02", "south")
    ]  # fmt: skip
    assert data["sub-01_ses-2"].inputs["acq-fast_FLAIR"] is None
    assert not data["sub-01_ses-2"].truth.annotated
    assert data["sub-01_ses-1"].columns == {"age": 31.0, "sex": "f", "edss": 2.5}
    assert data["sub-02"].columns == {"age": None, "sex": "m", "edss": None}
    assert data.labels == (Label("background"), Label("lesion"))
    assert (data.name, data.licence, data.patients_known) == ("MS", "CC0", True)
    examples.put(examples.mask(3, 2), tmp_path / "derivatives/second/sub-02/anat/sub-02_dseg.nii.gz")
    assert [len(c.truth.masks) for c in open_dataset(tmp_path)] == [1, 0, 2]


def test_bids_with_single_masks(tmp_path: Path) -> None:
    examples.bids(tmp_path)
    labels = tmp_path / "derivatives/labels"
    for file in list(labels.rglob("*_dseg.nii.gz")):
        file.rename(file.with_name(file.name.replace("_dseg", "_label-lesion_mask")))
    data = open_dataset(tmp_path)
    assert data.label_names == ("background", "lesion")
    assert [len(c.truth.masks) for c in data] == [1, 0, 1]


def test_a_table_beside_any_layout_says_more(tmp_path: Path) -> None:
    examples.msd(tmp_path)
    table = "case,patient,site,split,annotated,age\nliver_010,p1,A,val,liver,60\nliver_001,p1,B,,,\n"
    examples.say(tmp_path / "medmap.csv", table)
    data = open_dataset(tmp_path)
    assert [c.id for c in data] == ["liver_010", "liver_001", "liver_002", "liver_900"]
    assert (data["liver_010"].patient, data["liver_010"].site, data["liver_010"].split) == ("p1", "A", "val")
    assert data["liver_010"].truth.known == (1,)
    assert data["liver_001"].split is None
    assert data["liver_001"].columns == {"age": None}
    assert data["liver_002"].split == "train"


def test_real_ones(shared_data: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = open_dataset(shared_data / "hippocampus")
        cells = open_dataset(shared_data / "bccd")
    assert (len(data), data.label_names) == (200, ("background", "Anterior", "Posterior"))
    assert set(np.unique(read_ref(data, data.cases[7].truth.masks[0]).array)) == {0, 1, 2}
    assert (len(cells), cells.label_names) == (292, ("Platelets", "RBC", "WBC"))
    assert [sum(c.split == s for c in cells) for s in ("train", "val")] == [205, 87]
    assert cells["BloodImage_00000"].truth.boxes[0] == ((176.0, 259.0, 375.0, 490.0), 2)  # type: ignore[index]


def test_pictures_with_two_observers_through_a_table(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "chase_db1"
    stems = sorted(p.stem for p in folder.glob("*.jpg"))
    rows = [f"{s},{s[:-1]},{folder}/{s}.jpg,{folder}/{s}_1stHO.png,{folder}/{s}_2ndHO.png" for s in stems]
    examples.say(tmp_path / "eyes.csv", "\n".join(["case,patient,image,mask,mask_2", *rows]))
    data = open_dataset(tmp_path / "eyes.csv")
    assert (len(data), len({c.patient for c in data}), data.task) == (28, 14, "segment")
    assert {len(c.truth.masks) for c in data} == {2}
