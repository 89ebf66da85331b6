"""A small example of every layout, each as its owner would write it; volumes on the oblique grid, never a cube."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as Pillow

from grids import oblique_image
from medmap.image import Image
from medmap.write import write

CASES = ("liver_001", "liver_002", "liver_010")


def volume(seed: int = 0) -> Image:
    """The oblique image with its values dealt anew."""
    image = oblique_image()
    values = np.random.default_rng(seed).permutation(image.array.ravel()).reshape(image.array.shape)
    return replace(image, array=values, geometry=replace(image.geometry, frame_of_reference=None))


def mask(seed: int = 0, top: int = 3) -> Image:
    """A label map on the oblique grid with the values 0 … ``top`` − 1."""
    image = volume()
    values = np.random.default_rng(1000 + seed).integers(0, top, image.array.shape).astype(np.uint8)
    return replace(image, array=values, quantity="label")


def put(image: Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write(image, path)


def picture(path: Path, rows: int = 48, columns: int = 64, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(0, 256, (rows, columns, 3)).astype(np.uint8)
    Pillow.fromarray(values).save(path)


def say(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def msd(root: Path) -> None:
    for i, case in enumerate(CASES):
        put(volume(i), root / f"imagesTr/{case}.nii.gz")
        put(mask(i), root / f"labelsTr/{case}.nii.gz")
    put(volume(9), root / "imagesTs/liver_900.nii.gz")
    rows = [{"image": f"./imagesTr/{c}.nii.gz", "label": f"./labelsTr/{c}.nii.gz"} for c in CASES]
    say(
        root / "dataset.json",
        {
            "name": "Liver",
            "licence": "CC BY-SA 4.0",
            "reference": "a clinic",
            "tensorImageSize": "3D",
            "modality": {"0": "CT"},
            "labels": {"0": "background", "1": "liver", "2": "tumour"},
            "numTraining": 3,
            "numTest": 1,
            "training": rows,
            "test": ["./imagesTs/liver_900.nii.gz"],
        },
    )


def monai(root: Path) -> None:
    for i, case in enumerate(CASES):
        put(volume(i), root / f"scans/{case}.nii.gz")
    rows = [{"image": f"scans/{c}.nii.gz", "label": i % 2, "fold": i, "age": 60 + i} for i, c in enumerate(CASES)]
    say(root / "datalist.json", {"training": rows[:2], "validation": rows[2:]})


def nnunet(root: Path) -> None:
    for i, case in enumerate(CASES):
        put(volume(i), root / f"imagesTr/{case}_0000.nii.gz")
        put(volume(50 + i), root / f"imagesTr/{case}_0001.nii.gz")
        put(mask(i, 4), root / f"labelsTr/{case}.nii.gz")
    put(volume(9), root / "imagesTs/liver_900_0000.nii.gz")
    put(volume(59), root / "imagesTs/liver_900_0001.nii.gz")
    say(
        root / "dataset.json",
        {
            "channel_names": {"0": "T1", "1": "FLAIR"},
            "labels": {"background": 0, "whole": [1, 2], "core": 2, "ignore": 3},
            "regions_class_order": [1, 2],
            "numTraining": 3,
            "file_ending": ".nii.gz",
        },
    )
    folds = [{"train": [c for c in CASES if c != held], "val": [held]} for held in CASES]
    say(root / "splits_final.json", folds)


def nndetection(root: Path) -> None:
    for i, case in enumerate(CASES[:2]):
        put(volume(i), root / f"raw_splitted/imagesTr/{case}_0000.nii.gz")
        values = np.zeros((5, 7, 11), np.uint8)
        values[1:3, 2:6, 4:5] = 1
        values[4, 0, 7:11] = 2
        put(replace(mask(i), array=values), root / f"raw_splitted/labelsTr/{case}.nii.gz")
        say(root / f"raw_splitted/labelsTr/{case}.json", {"instances": {"1": 0, "2": 1}})
    yaml = "task: Task000_X\nname: Nodules\nlabels:\n  '0': nodule\n  '1': mass\nmodalities:\n  '0': CT\ndim: 3\n"
    say(root / "dataset.yaml", yaml)


def coco(root: Path) -> None:
    for i, name in enumerate(("a.png", "b.png")):
        picture(root / "images" / name, seed=i)
    content = {
        "info": {"description": "Cells"},
        "licenses": [{"id": 1, "name": "MIT"}],
        "images": [
            {"id": 7, "file_name": "a.png", "width": 64, "height": 48},
            {"id": 9, "file_name": "b.png", "width": 64, "height": 48},
        ],
        "categories": [{"id": 3, "name": "WBC"}, {"id": 1, "name": "RBC"}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 3, "bbox": [10, 20, 5, 4], "iscrowd": 0, "area": 20},
            {"id": 2, "image_id": 7, "category_id": 1, "bbox": [0, 0, 64, 48], "iscrowd": 1, "segmentation": {}},
            {"id": 3, "image_id": 7, "category_id": 1, "segmentation": [[1, 2, 6, 2, 6, 9]]},
        ],
    }
    say(root / "annotations/instances_train.json", content)


def yolo(root: Path) -> None:
    for name in ("train/images/a.png", "train/images/b.png", "valid/images/c.png"):
        picture(root / name)
    say(root / "train/labels/a.txt", "1 0.5 0.25 0.25 0.5\n0 0.1 0.1 0.2 0.1 0.2 0.3 0.1 0.3\n")
    say(root / "valid/labels/c.txt", "")
    say(root / "data.yaml", "train: ../train/images\nval: ../valid/images\nnc: 2\nnames: ['RBC', 'WBC']\n")


def voc(root: Path, difficult: str = "0") -> None:
    for name in ("a", "b", "c"):
        picture(root / f"JPEGImages/{name}.jpg")
    size = "<size><width>64</width><height>48</height><depth>3</depth></size>"
    box = "<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>10</xmax><ymax>2</ymax></bndbox>"
    one = f"<object><name>WBC</name><difficult>0</difficult>{box}</object>"
    two = f"<object><name>RBC</name><difficult>1</difficult>{box}</object>"
    say(root / "Annotations/a.xml", f"<annotation><filename>a.jpg</filename>{size}{one}{two}</annotation>")
    say(root / "Annotations/b.xml", f"<annotation>{size}</annotation>")
    say(root / "ImageSets/Main/train.txt", "a\n")
    say(root / "ImageSets/Main/val.txt", "b  1\n")


def luna(root: Path) -> None:
    import SimpleITK

    for i, uid in enumerate(("1.2.3", "1.2.4")):
        (root / f"subset{i}").mkdir(parents=True)
        put(volume(i), root / "x.mha")
        SimpleITK.WriteImage(SimpleITK.ReadImage(str(root / "x.mha")), str(root / f"subset{i}/{uid}.mhd"))
        (root / "x.mha").unlink()
    centre = volume().geometry.to_world([[2, 3, 5]])[0]
    row = ",".join(str(v) for v in centre)
    say(root / "annotations.csv", f"seriesuid,coordX,coordY,coordZ,diameter_mm\n1.2.3,{row},2.8\n9.9.9,{row},2.8\n")
    say(
        root / "annotations_excluded.csv",
        f"seriesuid,coordX,coordY,coordZ,diameter_mm\n1.2.3,{row},-1\n1.2.4,{row},4\n",
    )
    say(root / "candidates.csv", f"seriesuid,coordX,coordY,coordZ,class\n1.2.3,{row},1\n")


def bids(root: Path) -> None:
    say(root / "dataset_description.json", {"Name": "MS", "BIDSVersion": "1.9.0", "License": "CC0"})
    say(
        root / "participants.tsv",
        "participant_id\tage\tsex\tsite\nsub-01\t31\tf\tnorth\nsub-02\tn/a\tm\tsouth\nsub-99\t1\tm\tx\n",
    )
    for i, stem in enumerate(
        ("sub-01/ses-1/anat/sub-01_ses-1", "sub-01/ses-2/anat/sub-01_ses-2", "sub-02/anat/sub-02")
    ):
        put(volume(i), root / f"{stem}_T1w.nii.gz")
        if i != 1:
            put(volume(70 + i), root / f"{stem}_acq-fast_FLAIR.nii.gz")
            put(mask(i, 2), root / f"derivatives/labels/{stem}_dseg.nii.gz")
    say(root / "derivatives/labels/desc-manual_dseg.tsv", "index\tname\n1\tlesion\n")
    say(root / "sub-01/sub-01_sessions.tsv", "session_id\tedss\nses-1\t2.5\nses-2\t3\n")


def described(root: Path) -> None:
    put(volume(), root / "a.nii.gz")
    put(mask(), root / "m.nii.gz")
    say(
        root / "dataset.yaml",
        "medmap_dataset: 1\nname: x\ntask: segment\ninputs: {image: {}}\nlabels: {1: a, 2: b}\n",
    )
    say(root / "cases.csv", "case,image,mask\n1,a.nii.gz,m.nii.gz\n")


def csv(root: Path) -> None:
    picture(root / "a.png")
    say(root / "cases.csv", "image,label\na.png,x\n")


def gandlf(root: Path) -> None:
    say(root / "train.csv", "SubjectID,Channel_0,Label\n1,a.nii.gz,m.nii.gz\n")


def innereye(root: Path) -> None:
    say(root / "dataset.csv", "subject,channel,filePath\n1,ct,a.nii\n1,mask,m.nii\n")


def medmnist(root: Path) -> None:
    root.mkdir(parents=True, exist_ok=True)
    np.savez(root / "toy.npz", train_images=np.zeros((2, 4, 5), np.uint8), train_labels=np.array([[0], [1]]))


def pairs(root: Path) -> None:
    for n, case in enumerate(CASES):
        put(volume(n), root / f"images/{case}.nii.gz")
        put(mask(n), root / f"masks/{case}.nii.gz")


def folders(root: Path) -> None:
    picture(root / "a/1.png")
    picture(root / "b/1.png")


EXAMPLES: dict[str, Callable[[Path], None]] = {
    "yolo": yolo, "nndetection": nndetection, "medmap": described, "nnunet": nnunet, "msd": msd, "coco": coco,
    "monai": monai, "bids": bids, "luna": luna, "voc": voc, "innereye": innereye, "gandlf": gandlf, "csv": csv,
    "medmnist": medmnist, "pairs": pairs, "folders": folders,
}  # fmt: skip
