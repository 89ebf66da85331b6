"""Every damage a layout can have: one clear sentence that names the place, the value and what was expected."""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import layout_examples as examples
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medmap.errors import (
    ConfigError,
    DataError,
    DatasetError,
    LayoutError,
    LimitError,
    MedmapError,
    QualityWarning,
    ReadError,
)
from medmap.layouts import foreign, open_dataset
from medmap.layouts.boxes import Fitting
from medmap.layouts.foreign import inside, names_by_value, require_files

Damage = Callable[[Path], None]


def changed(name: str, **keys: Any) -> Damage:
    """The JSON with other values; None removes the key."""

    def damage(root: Path) -> None:
        said = json.loads((root / name).read_text())
        said = {k: v for k, v in {**said, **keys}.items() if v is not None}
        examples.say(root / name, said)

    return damage


def text(name: str, content: str) -> Damage:
    return lambda root: examples.say(root / name, content)


def swapped(name: str, old: str, new: str) -> Damage:
    def damage(root: Path) -> None:
        before = (root / name).read_text()
        assert old in before
        (root / name).write_text(before.replace(old, new))

    return damage


def gone(name: str) -> Damage:
    return lambda root: (root / name).unlink()


COCO, VOC = "annotations/instances_train.json", "Annotations/a.xml"
FAR = "<xmin>71</xmin><ymin>2</ymin><xmax>80<"


def image(name: str) -> list[dict[str, Any]]:
    return [{"id": 7, "file_name": name, "width": 64, "height": 48}]


def annotation(**keys: Any) -> list[dict[str, Any]]:
    return [{"id": 1, "image_id": 7, "category_id": 1, "bbox": [1, 2, 3, 4], **keys}]


DAMAGES: list[tuple[str, Damage, type[MedmapError], str]] = [
    ("msd", changed("dataset.json", modality={}), LayoutError, "modality and labels are both needed"),
    ("msd", text("dataset.json", "{"), LayoutError, "no valid JSON"),
    ("msd", text("dataset.json", "[" * 100_000), LayoutError, "no valid JSON"),
    ("msd", text("dataset.json", "[]"), LayoutError, "does not hold keys and values: got list"),
    ("msd", gone("dataset.json"), ReadError, "does not exist"),
    ("msd", changed("dataset.json", labels={"0": "b", "-1": "x"}), DatasetError, "class numbers out of range"),
    ("msd", changed("dataset.json", labels={"99999999": "x"}), DatasetError, "class numbers out of range"),
    ("msd", changed("dataset.json", labels=None), LayoutError, "both needed"),
    ("msd", changed("dataset.json", labels=["x"]), LayoutError, "labels is not usable"),
    ("msd", changed("dataset.json", training={"image": "a"}), LayoutError, "training is no list of cases"),
    ("msd", changed("dataset.json", training=[], test=[]), LayoutError, "lists no cases"),
    ("msd", changed("dataset.json", training=[7]), LayoutError, r"training\[0\] is no case"),
    ("msd", changed("dataset.json", training=[{"image": 7}]), LayoutError, "an image is no path"),
    ("msd", changed("dataset.json", training=[{"image": "../../etc/passwd"}]), DatasetError, "leads out of"),
    ("msd", changed("dataset.json", training=[{"image": "a/../../x.nii"}]), DatasetError, "leads out of"),
    ("msd", changed("dataset.json", training=[{"image": "..\\x.nii"}]), DatasetError, "leads out of"),
    ("msd", changed("dataset.json", training=[{"image": "/etc/passwd"}]), DatasetError, "absolute path"),
    ("msd", changed("dataset.json", training=[{"image": "a\0b"}]), DatasetError, "no path"),
    ("msd", gone("imagesTr/liver_002.nii.gz"), DatasetError, "names 1 files that do not exist: got imagesTr/liver_002"),
    ("msd", gone("labelsTr/liver_002.nii.gz"), DatasetError, "names 1 files that do not exist"),
    (
        "msd",
        changed("dataset.json", training=[{"image": "imagesTr/liver_001.nii.gz"}] * 2, test=[]),
        DatasetError,
        "an image twice",
    ),
    ("msd", text("medmap.csv", "case,age\nnobody,3\n"), DatasetError, "not in the dataset"),
    ("msd", text("medmap.csv", "age\n3\n"), DatasetError, "no column case"),
    ("msd", text("medmap.csv", "case,split\nliver_001,dev2\n"), DatasetError, "unknown split"),
    ("msd", text("medmap.csv", "case,annotated\nliver_001,spleen\n"), DatasetError, "unknown class"),
    ("msd", text("medmap.csv", "case,annotated\nliver_900,liver\n"), DatasetError, "belong to an annotated case"),
    (
        "msd",
        changed("dataset.json", training=[{"image": ["imagesTr/liver_001.nii.gz", "imagesTr/liver_002.nii.gz"]}]),
        LayoutError,
        "is one image",
    ),
    ("monai", changed("datalist.json", training=[{"image": "scans/liver_001.nii.gz", "box": []}]), LayoutError, "box"),
    (
        "monai",
        changed("datalist.json", training=[{"image": "scans/liver_001.nii.gz", "label": ["a", "b"]}]),
        LayoutError,
        "one file or one class",
    ),
    (
        "monai",
        changed("datalist.json", training=[{"image": "scans/liver_001.nii.gz", "label": "scans/liver_002.nii.gz"}]),
        DatasetError,
        "some labels are files",
    ),
    ("monai", changed("datalist.json", labels={"0": "a"}), DatasetError, "unknown label"),
    ("monai", changed("datalist.json", validation=[{"image": "/no/such.nii", "label": 0}]), DatasetError, "not exist"),
    ("nnunet", changed("dataset.json", labels={"background": 0, "a": 1, "b": 1}), DatasetError, "one number"),
    ("nnunet", changed("dataset.json", labels={"background": 0, "ignore": 1, "b": 2}), DatasetError, "highest label"),
    ("nnunet", changed("dataset.json", labels={"background": 0, "b": 10**9}), DatasetError, "out of range"),
    ("nnunet", changed("dataset.json", labels={"background": 0, "b": "x"}), LayoutError, "names to numbers"),
    ("nnunet", changed("dataset.json", labels=None), LayoutError, "labels is missing"),
    ("nnunet", changed("dataset.json", channel_names={"1": "CT"}), LayoutError, "without gaps"),
    ("nnunet", changed("dataset.json", channel_names={}), LayoutError, "channel_names is missing"),
    ("nnunet", changed("dataset.json", channel_names={"0": "T1"}), DatasetError, "more channels than"),
    ("nnunet", changed("dataset.json", file_ending="/../x"), LayoutError, "file_ending is not usable"),
    ("nnunet", changed("dataset.json", file_ending=".mha"), LayoutError, "no training images"),
    (
        "nnunet",
        changed("dataset.json", dataset={"x": {"images": ["../../secret"]}}),
        DatasetError,
        "leads out of the dataset's folder",
    ),
    ("nnunet", changed("dataset.json", dataset={"x": {"images": ["gone.nii.gz"]}}), DatasetError, "do not exist"),
    ("nnunet", gone("imagesTr/liver_001_0000.nii.gz"), DatasetError, "^$"),
    ("nnunet", text("splits_final.json", "{}"), LayoutError, "no list of folds"),
    ("nnunet", text("splits_final.json", '[{"train": []}]'), LayoutError, "val is missing"),
    ("nnunet", text("splits_final.json", '[{"train": [], "val": ["nobody"]}]'), DatasetError, "have no image"),
    ("nndetection", gone("raw_splitted/labelsTr/liver_001.json"), DatasetError, "no JSON beside it"),
    (
        "nndetection",
        changed("raw_splitted/labelsTr/liver_001.json", instances={"1": 0}),
        DatasetError,
        "different instances",
    ),
    (
        "nndetection",
        changed("raw_splitted/labelsTr/liver_001.json", instances={"1": 0, "2": 7}),
        DatasetError,
        "unknown class: got 7",
    ),
    ("nndetection", gone("raw_splitted/imagesTr/liver_001_0000.nii.gz"), DatasetError, "have no image"),
    ("nndetection", swapped("dataset.yaml", "'1': mass", "'7': mass"), LayoutError, "without gaps"),
    ("nndetection", swapped("dataset.yaml", "'0': CT", "'0': {}"), LayoutError, "modalities.0 is not usable"),
    ("coco", changed(COCO, images=image("../../a.png")), DatasetError, "leads out of"),
    ("coco", changed(COCO, images=image("/etc/a.png")), DatasetError, "absolute path"),
    ("coco", changed(COCO, images=image("no.png")), DatasetError, "not found"),
    ("coco", gone("images/b.png"), DatasetError, "do not exist"),
    ("coco", changed(COCO, images=image("a.png") * 2), DatasetError, "same id"),
    ("coco", changed(COCO, images=[{**image("a.png")[0], "width": 128, "height": 96}]), DatasetError,
     "another size.*48 × 64.*96 × 128"),
    ("coco", changed(COCO, images=[{"id": "x", "file_name": "a.png"}]), LayoutError, "images.0.id is not usable"),
    ("coco", changed(COCO, annotations=annotation(image_id=5)), DatasetError, r"annotations\[0\] is of an image that"),
    ("coco", changed(COCO, annotations=annotation(category_id=5)), DatasetError, "unknown category: got 5"),
    ("coco", changed(COCO, annotations=annotation(bbox=[100, 2, 3, 4])), DatasetError, "outside its image"),
    ("coco", changed(COCO, annotations=annotation(bbox=[1, 2, -3, 4])), DatasetError, "without width or height"),
    ("coco", changed(COCO, annotations=annotation(bbox=[0.1, 0.2, 0.3, 0.4])), DatasetError, "parts of the image's"),
    ("coco", changed(COCO, annotations=annotation(bbox=[1, 2, 3])), LayoutError, "annotations.0.bbox"),
    ("coco", swapped(COCO, "[10, 20, 5, 4]", "[10, 20, NaN, 4]"), LayoutError, "not usable"),
    ("coco", changed(COCO, annotations=annotation(bbox=None)), DatasetError, "no box and no polygon"),
    ("coco", changed(COCO, annotations=annotation(iscrowd=2)), LayoutError, "iscrowd"),
    ("yolo", text("train/labels/a.txt", "1 100 20 30 40"), DatasetError, "a.txt, line 1: pixels"),
    ("yolo", text("train/labels/a.txt", "2 .5 .5 .1 .1"), DatasetError, "class out of range: got 2, expected 0 to 1"),
    ("yolo", text("train/labels/a.txt", "0.5 .5 .5 .1 .1"), DatasetError, "class out of range"),
    ("yolo", text("train/labels/a.txt", "0 .5 .5 .1"), DatasetError, "no box"),
    ("yolo", text("train/labels/a.txt", "0 .5 .5 .1 .1 .9"), DatasetError, "no box"),
    ("yolo", text("train/labels/a.txt", "cell .5 .5 .1 .1"), DatasetError, "no box"),
    ("yolo", text("train/labels/a.txt", "0 nan .5 .1 .1"), DatasetError, "no box"),
    ("yolo", text("train/labels/a.txt", "0 .5 .5 .1 0"), DatasetError, "without width or height"),
    ("yolo", text("train/labels/a.txt", "0 -.5 .5 .1 .1"), DatasetError, "negative"),
    ("yolo", swapped("data.yaml", "nc: 2", "nc: 3"), LayoutError, "do not count the classes"),
    ("yolo", swapped("data.yaml", "../train/images", "../../elsewhere"), DatasetError, "leads out of"),
    ("yolo", swapped("data.yaml", "../train/images", "nowhere"), DatasetError, "does not exist"),
    ("yolo", swapped("data.yaml", "names: ['RBC', 'WBC']", "names: []"), LayoutError, "names"),
    ("yolo", text("train/images/a.png", "no picture"), ReadError, r"a\.png"),
    ("voc", text(VOC, "<annotation>"), LayoutError, "no valid XML"),
    ("voc", text(VOC, '<!DOCTYPE x [<!ENTITY a "b">]><annotation/>'), LayoutError, "declares entities"),
    ("voc", swapped(VOC, "<xmax>10</xmax>", "<xmax>ten</xmax>"), LayoutError, "bndbox/xmax is no number"),
    ("voc", swapped(VOC, "<xmax>10</xmax>", "<xmax>0</xmax>"), DatasetError, "swapped corners"),
    ("voc", swapped(VOC, "<xmin>1</xmin>", "<xmin>inf</xmin>"), LayoutError, "no number"),
    ("voc", swapped(VOC, "<name>WBC</name>", "<name> </name>"), LayoutError, "no name"),
    ("voc", swapped(VOC, "<width>64</width>", "<width>-3</width>"), DatasetError, "^$"),
    ("voc", swapped(VOC, "<height>48</height>", "<height>1</height>"), DatasetError, "another size.*48 × 64.*1 × 64"),
    ("voc", swapped(VOC, "<width>64</width><height>48", "<width>48</width><height>64"), DatasetError, "on its side"),
    ("voc", swapped(VOC, "<xmin>1</xmin><ymin>2</ymin><xmax>10<", FAR), DatasetError, "outside its image"),
    ("voc", swapped(VOC, "<xmin>1</xmin><ymin>2</ymin><xmax>10</xmax><ymax>2</ymax>",
                    "<xmin>0.1</xmin><ymin>0.2</ymin><xmax>0.5</xmax><ymax>1</ymax>"), DatasetError, "in parts"),
    ("voc", gone("JPEGImages/a.jpg"), DatasetError, "pictures that do not exist: got a"),
    ("voc", text("ImageSets/Main/train.txt", "zz\n"), DatasetError, "names 1 pictures that do not exist"),
    ("luna", text("annotations.csv", "seriesuid,coordX,coordY,coordZ,diameter_mm\n1.2.3,a,1,1,1\n"), DatasetError,
     "line 2: a coordinate is no number"),
    ("luna", text("annotations.csv", "seriesuid,coordX,coordY,coordZ,diameter_mm\n1.2.3,1,1,1,-1\n"), DatasetError,
     "no position and diameter"),
    ("luna", text("annotations.csv", "seriesuid,coordX,coordY,coordZ,diameter_mm\n1.2.3,9999,1,1,3\n"), DatasetError,
     "outside its image"),
    ("luna", text("annotations.csv", "seriesuid,coordX,coordY,coordZ,diameter_mm\n7,1,1,1,3\n"), DatasetError,
     "none of the scans"),
    ("luna", text("annotations.csv", "seriesuid,coordX,coordY\n7,1,1\n"), LayoutError, "lacks columns"),
    ("luna", text("subset1/1.2.3.mhd", "x"), DatasetError, "a scan twice"),
    ("bids", text("dataset_description.json", "[]"), LayoutError, "keys and values"),
    ("bids", text("participants.tsv", "id\n1\n"), DatasetError, "no column participant_id"),
    ("bids", text("participants.tsv", "participant_id\nsub-77\n"), DatasetError, "none of the subjects"),
    ("bids", text("participants.tsv", "participant_id\tsplit\nsub-01\tx\n"), DatasetError, "unknown split"),
    ("bids", text("derivatives/labels/desc-manual_dseg.tsv", "a\tb\n1\t2\n"), DatasetError, "names no structures"),
    ("bids", text("derivatives/labels/desc-manual_dseg.tsv", "index\tname\nx\ty\n"), DatasetError, "no number and"),
    ("bids", text("sub-01/ses-1/anat/sub-02_T1w.nii.gz", ""), DatasetError, "another subject"),
    ("bids", text("derivatives/labels/sub-02/anat/sub-02_space-x_dseg.nii.gz", ""), LayoutError, "two label maps"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "damage", "error", "sentence"), DAMAGES, ids=[f"{n}-{i}" for i, (n, *_) in enumerate(DAMAGES)]
)
def test_one_clear_sentence(name: str, damage: Damage, error: type[MedmapError], sentence: str, tmp_path: Path) -> None:
    examples.EXAMPLES[name](tmp_path)
    damage(tmp_path)
    if sentence == "^$":  # nothing to refuse: a missing channel, a size that the header gives
        assert len(open_dataset(tmp_path, layout=name)) >= 2
        return
    with pytest.raises(error, match=sentence) as caught:
        open_dataset(tmp_path, layout=name)
    assert len(str(caught.value)) < 600
    assert "\n" not in str(caught.value)


def test_structures_spread_over_masks(tmp_path: Path) -> None:
    examples.bids(tmp_path)
    labels = tmp_path / "derivatives/labels"
    for n, file in enumerate(sorted(labels.rglob("*_dseg.nii.gz"))):
        file.rename(file.with_name(file.name.replace("_dseg", f"_label-part{n}_mask")))
    with pytest.raises(LayoutError, match="spread over one mask each: got part0, part1"):
        open_dataset(tmp_path)


def test_truth_without_images(tmp_path: Path) -> None:
    examples.nnunet(tmp_path / "n")
    for file in (tmp_path / "n/imagesTr").glob("liver_001*"):
        file.unlink()
    with pytest.raises(DatasetError, match="labels of cases that have no image: got liver_001"):
        open_dataset(tmp_path / "n")
    examples.nndetection(tmp_path / "d")
    (tmp_path / "d/raw_splitted/imagesTr/liver_002_0000.nii.gz").rename(
        tmp_path / "d/raw_splitted/imagesTr/liver_002_0001.nii.gz"
    )
    with pytest.raises(DatasetError, match="more channels than modalities"):
        open_dataset(tmp_path / "d")


def test_boxes_that_reach_beyond_are_cut_and_counted(tmp_path: Path) -> None:
    examples.coco(tmp_path)
    changed(COCO, annotations=annotation(bbox=[60, 40, 30, 7]) + annotation(bbox=[-0.4, 0, 9, 9]))(tmp_path)
    with pytest.warns(QualityWarning, match=r"1 boxes reach beyond their image .* first .*annotations\[0\]"):
        data = open_dataset(tmp_path)
    assert data.cases[0].truth.boxes == (((40, 60, 46, 63), 0), ((0, 0, 8, 7.6), 0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Fitting("x").warn()
    with pytest.raises(DatasetError, match="undefined corners"):
        Fitting("x").fit((0, 0, float("nan"), 1), (5, 5), "here")


def test_two_files_that_name_a_category_differently(tmp_path: Path) -> None:
    examples.coco(tmp_path)
    said = json.loads((tmp_path / COCO).read_text())
    said["categories"][0]["name"] = "platelet"
    examples.say(tmp_path / "annotations/instances_val.json", said)
    with pytest.raises(DatasetError, match="another name than in the other files: got platelet, expected WBC"):
        open_dataset(tmp_path)


def test_instances_are_whole_numbers() -> None:
    from medmap.layouts.nndetection import instance_boxes

    for wrong in (0.5, -1, 10**6):
        with pytest.raises(DatasetError, match="no numbers of instances"):
            instance_boxes(np.array([[wrong, 0]]), "mask")


def test_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    examples.msd(tmp_path)
    monkeypatch.setattr(foreign, "MAX_JSON_BYTES", 10)
    with pytest.raises(LimitError, match="too large for a list of cases"):
        open_dataset(tmp_path, layout="msd")
    (tmp_path / "dataset.json").write_bytes(b"\xff\xfe1234")
    with pytest.raises(ReadError, match="not text in UTF-8"):
        open_dataset(tmp_path, layout="msd")


def test_paths_and_names() -> None:
    assert inside("a/./b/../c", "x") == "a/c"
    assert inside("/a/../b", "x", absolute=True) == "/b"
    for wrong in ("", "  ", "..", "a/../..", "/x"):
        with pytest.raises(DatasetError):
            inside(wrong, "x")
    with pytest.raises(DatasetError, match="out of range"):
        names_by_value({}, "x")
    with pytest.raises(DatasetError, match="names 4 files that do not exist: got a, b/c, d …"):
        require_files(Path("/nowhere"), ["a", "b/c", "d", "e"], "x")


def test_a_description_of_channels_versions_and_partial_labels(tmp_path: Path) -> None:
    examples.described(tmp_path)
    yaml = (tmp_path / "dataset.yaml").read_text()
    for line, sentence in (
        ("version: 0\n", "version"),
        ("parent: 7\n", "parent"),
        ("chanels: 1\n", "unknown key"),
        ("ignore: 300\n", "ignore"),
        ("ignore: -1\n", "ignore"),
        ("ignore: 1\n", "ignore: 1 is also a class under labels"),
        ("regions: {'': [1]}\n", "regions"),
    ):
        examples.say(tmp_path / "dataset.yaml", yaml + line)
        with pytest.raises(ConfigError, match=sentence):
            open_dataset(tmp_path)
    many = "medmap_dataset: 1\nname: many\ntask: segment\ninputs: {image: {}}\nlabels:\n"
    examples.say(tmp_path / "dataset.yaml", many + "".join(f"  {n}: s{n}\n" for n in range(256)))
    with pytest.raises(ConfigError, match="at most 255 values"):
        open_dataset(tmp_path)
    examples.say(tmp_path / "dataset.yaml", yaml)
    for cell, sentence in (("c", "unknown class"), ("a;c", "unknown class")):
        examples.say(tmp_path / "cases.csv", f"case,image,mask,annotated\n1,a.nii.gz,m.nii.gz,{cell}\n")
        with pytest.raises(DatasetError, match=sentence):
            open_dataset(tmp_path)
    examples.say(tmp_path / "cases.csv", "case,image,mask,annotated\n1,a.nii.gz,,a\n")
    with pytest.raises(DatasetError, match="there is no truth"):
        open_dataset(tmp_path)
    examples.say(tmp_path / "cases.csv", "case,image,mask,annotated\n1,a.nii.gz,m.nii.gz,b;a\n")
    assert open_dataset(tmp_path)["1"].truth.known == (1, 2)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 10**9) | st.floats() | st.text("a./\\\0é#0", max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["0", "1", "image", "id", "x"]), inner, max_size=3)
    ),
    max_leaves=5,
)
JSONS = {"msd": "dataset.json", "nnunet": "dataset.json", "monai": "datalist.json", "coco": COCO}


@pytest.mark.parametrize("name", JSONS)
def test_any_other_value_gives_a_dataset_or_a_sentence(name: str, tmp_path: Path) -> None:
    examples.EXAMPLES[name](tmp_path)
    said = json.loads((tmp_path / JSONS[name]).read_text())

    @settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.sampled_from(sorted(said)), ANYTHING, st.booleans())
    def holds(key: str, value: Any, deep: bool) -> None:
        changed = json.loads(json.dumps(said))
        if deep and isinstance(changed[key], list) and changed[key] and isinstance(changed[key][0], dict):
            changed[key][0][sorted(changed[key][0])[0]] = value
        else:
            changed[key] = value
        examples.say(tmp_path / JSONS[name], changed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", QualityWarning)
            for layout in (name, "auto"):
                with contextlib.suppress(DataError, ConfigError):  # anything else is a defect
                    open_dataset(tmp_path, layout=layout)

    holds()
