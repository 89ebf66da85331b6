"""Corrected labels make a new version, and what changed can be read."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import layout_examples as examples
import numpy as np
import pytest

from medmap.dataset import Case, Dataset, InputSpec, Ref, Truth
from medmap.errors import DatasetError, ReadError
from medmap.layouts import Difference, difference, import_dataset, open_dataset, write_dataset
from medmap.layouts.hashes import hashes_text, read_hashes, sha256_of
from medmap.read import read_ref
from medmap.results import Label


@pytest.fixture
def first(tmp_path: Path) -> Path:
    examples.msd(tmp_path / "source")
    import_dataset(tmp_path / "source", tmp_path / "v1", copy=True)
    return tmp_path / "v1"


def corrected(tmp_path: Path) -> Path:
    """The source with one mask corrected in two voxels, a case less and a case more."""
    shutil.copytree(tmp_path / "source", tmp_path / "again")
    path = tmp_path / "again/labelsTr/liver_002.nii.gz"
    mask = examples.mask(1)
    values = mask.array.copy()
    livers = np.argwhere(values == 1)[:2]
    values[tuple(livers[0])] = 2
    values[tuple(livers[1])] = 0
    path.unlink()
    examples.put(replace(mask, array=values), path)
    return tmp_path / "again"


def test_a_new_version_names_the_old_one(first: Path, tmp_path: Path) -> None:
    old = open_dataset(first)
    assert (old.version, old.parent) == (1, None)
    assert old.hashes.keys() == {f"images/labelsTr/{c}.nii.gz" for c in examples.CASES}
    done = subprocess.run(["sha256sum", "--check", "--quiet", "truth.sha256"], cwd=first, check=False)  # noqa: S607
    assert done.returncode == 0
    new = import_dataset(corrected(tmp_path), tmp_path / "v2", copy=True, replaces=first)
    assert (new.version, new.parent) == (2, old.digest)
    assert new.digest != old.digest
    found = difference(old, new)
    volume = old_volume(old)
    assert found.follows
    assert [(c.kind, c.case) for c in found.changes] == [("mask", "liver_002")] * 2
    assert found.changes[0].text == f"liver: 0 voxels added, 2 removed ({-2 * volume:+.3g} ml)"
    assert found.changes[1].text == f"tumour: 1 voxel added, 0 removed ({volume:+.3g} ml)"
    text = found.as_text()
    assert "version 1" in text
    assert "version 2" in text
    assert "mask: 2" in text
    assert found.as_json()["changes"][0]["case"] == "liver_002"
    third = import_dataset(tmp_path / "v2", tmp_path / "v3", replaces=tmp_path / "v2")
    assert third.version == 3


def old_volume(data: Dataset) -> float:
    return read_ref(data, data.cases[0].truth.masks[0]).geometry.voxel_volume_mm3 / 1000


def test_nothing_changed(first: Path, tmp_path: Path) -> None:
    old = open_dataset(first)
    found = difference(old, open_dataset(first))
    assert not found
    assert "nothing changed" in found.as_text()
    assert "does not name the old one" in found.as_text()
    assert not difference(open_dataset(tmp_path / "source"), old)


def test_a_mask_that_was_overwritten_in_place(tmp_path: Path) -> None:
    examples.msd(tmp_path / "source")
    old = import_dataset(tmp_path / "source", tmp_path / "v1")
    (tmp_path / "source/labelsTr/liver_001.nii.gz").unlink()
    examples.put(examples.mask(7), tmp_path / "source/labelsTr/liver_001.nii.gz")
    new = import_dataset(tmp_path / "source", tmp_path / "v2", replaces=tmp_path / "v1")
    assert [c.text for c in difference(old, new).changes] == [
        "labelsTr/liver_001.nii.gz changed; the file of the old version no longer exists as it was"
    ]


def test_another_grid(first: Path, tmp_path: Path) -> None:
    again = corrected(tmp_path)
    for name, change in (("liver_001", "moved"), ("liver_010", "cut")):
        path = again / f"labelsTr/{name}.nii.gz"
        path.unlink()
        image = examples.mask(0)
        moved = replace(image, geometry=image.geometry.flip((0,)))
        examples.put(
            moved
            if change == "moved"
            else replace(image, array=image.array[1:], geometry=image.geometry.crop((1, 0, 0), (4, 7, 11))),
            path,
        )
    texts = {c.case: c.text for c in difference(open_dataset(first), open_dataset(again)).changes}
    assert texts["liver_001"] == "the grid lies elsewhere"
    assert texts["liver_010"] == "another grid: (5, 7, 11) → (4, 7, 11)"


BOX = (1.0, 1.0, 5.0, 5.0)


def boxed(*boxes: tuple[tuple[float, ...], int], **changes: object) -> Dataset:
    case = Case("a", "p", {"image": Ref("a.png")}, Truth(True, boxes=boxes), "train", None, {"age": 60.0})
    return Dataset("d", "detect", (replace(case, **changes),), {"image": InputSpec()}, (Label("RBC"), Label("WBC")))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("new", "kind", "text"),
    [
        (boxed((BOX, 1)), "boxes", "RBC → WBC"),
        (boxed(((1, 1, 5, 6), 0)), "boxes", "RBC moved from [1.0, 1.0, 5.0, 5.0] to [1, 1, 5, 6]"),
        (boxed(((1, 1, 5, 6), 1)), "boxes", "RBC → WBC moved from [1.0, 1.0, 5.0, 5.0] to [1, 1, 5, 6]"),
        (boxed(), "boxes", "RBC removed at [1.0, 1.0, 5.0, 5.0]"),
        (boxed((BOX, 0), ((20, 20, 21, 21), 1)), "boxes", "WBC added at [20, 20, 21, 21]"),
        (boxed(truth=Truth()), "boxes", "1 box → not annotated"),
        (boxed(truth=Truth(True, boxes=((BOX, 0),), ignored=((BOX, 1),))), "boxes",
         "ignored: WBC added at [1.0, 1.0, 5.0, 5.0]"),
        (boxed(truth=Truth(True, boxes=((BOX, 0),), known=(0,))), "annotated", "all → RBC"),
        (boxed((BOX, 0), split="val"), "split", "train → val"),
        (boxed((BOX, 0), patient="q"), "patient", "p → q"),
        (boxed((BOX, 0), columns={"age": 61.0}), "column", "age: 60 → 61"),
        (boxed((BOX, 0), inputs={"image": None}), "input", "image gone"),
    ],
)  # fmt: skip
def test_each_kind_of_change(new: Dataset, kind: str, text: str) -> None:
    found = difference(boxed((BOX, 0)), new)
    assert [(c.kind, c.text) for c in found.changes] == [(kind, text)]
    assert found.of(kind) == found.changes


def test_labels_cases_and_the_whole() -> None:
    labels = (Label("benign"), Label("malignant"))

    def version(*truths: Truth, **changes: object) -> Dataset:
        cases = tuple(Case(f"c{i}", f"c{i}", {"image": Ref("a.png")}, t) for i, t in enumerate(truths))
        return replace(Dataset("d", "classify", cases, {"image": InputSpec()}, labels), **changes)  # type: ignore[arg-type]

    old = version(Truth(True, 0), Truth(), Truth(True, 1))
    new = version(Truth(True, 1), Truth(True, 0), labels=(labels[0], Label("cancer")), parent=old.digest, version=2)
    found = difference(old, new)
    assert [(c.kind, c.case, c.text) for c in found.changes] == [
        ("dataset", "", "labels: benign, malignant → benign, cancer"),
        ("removed", "c2", "no split, malignant"),
        ("label", "c0", "benign → cancer"),
        ("label", "c1", "not annotated → benign"),
    ]
    assert difference(new, version(Truth(True, 1), Truth(True, 0), Truth())).of("added")[0].text.endswith("annotated")
    assert found.as_text(shown=1).endswith("… and 3 more\n")
    with pytest.raises(DatasetError, match="two tasks"):
        difference(old, boxed((BOX, 0)))
    assert isinstance(found, Difference)


def test_targets_and_numbers_of_masks(tmp_path: Path) -> None:
    for name in ("x", "y"):
        examples.put(examples.volume(ord(name)), tmp_path / f"{name}.nii.gz")

    def version(task: str, truth: Truth) -> Dataset:
        case = Case("a", "a", {"image": Ref("x.nii.gz")}, truth)
        return Dataset("d", task, (case,), {"image": InputSpec()}, root=tmp_path)  # type: ignore[arg-type]

    x, y = Ref("x.nii.gz"), Ref("y.nii.gz")
    one = version("enhance", Truth(True, target=x))
    assert difference(one, version("enhance", Truth(True, target=y))).changes[0].text == "y.nii.gz changed"
    assert difference(one, version("enhance", Truth())).changes[0].text == "removed"
    assert not difference(one, one)
    mask = version("segment", Truth(True, masks=(x,)))
    assert difference(mask, version("segment", Truth(True, masks=(x, y)))).changes[0].text == "1 → 2 masks"
    assert difference(mask, version("segment", Truth())).changes[0].text == "1 → no masks"


def test_records_of_hashes(tmp_path: Path) -> None:
    examples.msd(tmp_path / "source")
    data = import_dataset(tmp_path / "source", tmp_path / "v1", copy=True)
    written = write_dataset(data, tmp_path / "w")
    assert open_dataset(written).digest == data.digest
    (tmp_path / "v1/truth.sha256").write_text("nonsense\n")
    with pytest.raises(DatasetError, match=r"truth\.sha256, line 1: no sha256 and path"):
        open_dataset(tmp_path / "v1")
    (tmp_path / "v1/truth.sha256").write_bytes(b"\xff")
    with pytest.raises(ReadError, match="cannot be read"):
        read_hashes(tmp_path / "v1/truth.sha256")
    with pytest.raises(DatasetError, match="line break"):
        hashes_text({"a\nb": "0" * 64})
    with pytest.raises(DatasetError, match="cannot be read"):
        sha256_of(tmp_path / "nowhere")
    (tmp_path / "source/labelsTr/liver_001.nii.gz").unlink()
    with pytest.raises(DatasetError, match="do not exist"):
        import_dataset(tmp_path / "source", tmp_path / "v2", replaces=tmp_path / "w")


@pytest.mark.parametrize("copy", [False, True])
def test_partial_labels_and_ignored_boxes_are_imported(tmp_path: Path, copy: bool) -> None:
    examples.picture(tmp_path / "a.png")
    truth = Truth(True, boxes=((BOX, 0),), known=(1,), ignored=((BOX, 1),))
    case = Case("a", "p", {"image": Ref("a.png"), "t2": None}, truth)
    inputs = {"image": InputSpec("US", ("x", "y")), "t2": InputSpec()}
    data = Dataset("d", "detect", (case,), inputs, (Label("RBC"), Label("WBC")), root=tmp_path)
    write_dataset(data, tmp_path / "described")
    again = import_dataset(tmp_path / "described", tmp_path / "out", copy=copy)
    assert (again.cases[0].truth, again.inputs) == (truth, inputs)
    assert again.cases[0].inputs["t2"] is None
    if not copy:
        assert again.digest == data.digest


def test_a_version_of_another_task(tmp_path: Path) -> None:
    examples.coco(tmp_path / "coco")
    examples.msd(tmp_path / "msd")
    with pytest.raises(DatasetError, match="has the task of the old one: got segment, expected detect"):
        import_dataset(tmp_path / "msd", tmp_path / "out", replaces=tmp_path / "coco")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["msd", "nnunet", "monai", "bids", "coco", "yolo", "voc", "luna", "nndetection"])
def test_every_layout_is_imported_whole(name: str, tmp_path: Path) -> None:
    examples.EXAMPLES[name](tmp_path / "source")
    data = open_dataset(tmp_path / "source")
    again = import_dataset(tmp_path / "source", tmp_path / "out")
    assert [repr(c) for c in again] == [repr(c) for c in data]
    assert (again.labels, again.inputs, dict(again.regions), again.ignore) == (
        data.labels, data.inputs, dict(data.regions), data.ignore
    )  # fmt: skip
    if not data.hashes and not again.hashes:
        assert again.digest == data.digest
