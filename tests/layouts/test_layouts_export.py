"""Exported and opened again: the same cases, truth voxel by voxel, splits, labels, regions; whole or not at all."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import layout_examples as examples
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medmap.dataset import Case, Dataset, InputSpec, Ref, Truth
from medmap.errors import DatasetError, GeometryError, LayoutError, QualityWarning, ReadError, UsageError
from medmap.layouts import EXPORTS, convert_dataset, open_dataset
from medmap.layouts.boxes import corners_of_edges, edges_of_corners
from medmap.layouts.coco import bbox_of_corners, corners_of_bbox
from medmap.layouts.voc import corners_of_bndbox
from medmap.layouts.yolo import corners_of_line
from medmap.read import read_ref
from medmap.results import Label


@contextmanager
def quietly() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", QualityWarning)
        yield


@contextmanager
def said(words: str) -> Iterator[None]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    assert any(words in str(w.message) for w in caught if w.category is QualityWarning), [
        str(w.message) for w in caught
    ]
    assert {w.category for w in caught} == {QualityWarning}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def channels(data: Dataset, case: Case) -> dict[str, Any]:
    """Every channel of a case by name, whether files hold one or several."""
    found: dict[str, Any] = {}
    for name, ref in case.inputs.items():
        if ref is None:
            continue
        image = read_ref(data, ref)
        names = data.inputs[name].channels
        if len(names) > 1 and image.array.shape[-1] == len(names):
            found |= {c: (image.array[..., i], image.geometry) for i, c in enumerate(names)}
        elif len(image.channels) > 1:
            found |= {c: (image.array[..., i], image.geometry) for i, c in enumerate(image.channels)}
        else:
            found[name] = (image.array, image.geometry)
    return found


def require_same(old: Dataset, new: Dataset, observers: int = 1) -> None:
    """Cases, patients, sites, splits, columns, labels, regions; every channel and mask voxel by voxel, in place."""
    assert [c.id for c in new] == [c.id for c in old]
    assert new.labels == old.labels
    assert dict(new.regions) == dict(old.regions)
    assert (new.task, new.mirror_pairs, new.licence) == (old.task, old.mirror_pairs, old.licence)
    for before, after in zip(old, new, strict=True):
        assert (after.patient, after.site, after.split) == (before.patient, before.site, before.split)
        names = {**dict.fromkeys(before.columns), **dict.fromkeys(after.columns)}
        assert [before.columns.get(n) for n in names] == [after.columns.get(n) for n in names]
        assert after.truth.annotated == before.truth.annotated
        assert after.truth.known == before.truth.known
        ours, theirs = channels(old, before), channels(new, after)
        assert sorted(theirs) == sorted(ours)
        for name, (array, geometry) in ours.items():
            assert np.array_equal(theirs[name][0], array)
            assert theirs[name][1].same_grid(geometry)
        assert len(after.truth.masks) == min(len(before.truth.masks), observers)
        for a, b in zip(before.truth.masks, after.truth.masks, strict=False):
            one, two = read_ref(old, a), read_ref(new, b)
            first = one.array if old.ignore is None else np.where(one.array == old.ignore, new.ignore, one.array)
            assert np.array_equal(first, two.array)
            assert two.geometry.same_grid(one.geometry)


def rich(root: Path, *, missing: bool = True, observers: int = 1, formats: tuple[str, ...] = (".nii.gz",)) -> Dataset:
    """Two inputs, coded labels, regions, an ignore value, patients with several cases, partial labels, columns."""
    cases = []
    for n in range(5):
        ending = formats[n % len(formats)]
        names = (f"a{n}{ending}", f"b{n}{ending}", *(f"m{n}_{k}{ending}" for k in range(observers)))
        for k, name in enumerate(names):
            image = examples.volume(10 * n + k) if k < 2 else examples.mask(10 * n + k, 4)
            if k >= 2:
                image = replace(image, array=np.where(image.array == 3, 255, image.array).astype(np.uint8))
            examples.put(image, root / name)
        inputs = {"T1w": Ref(names[0]), "FLAIR": None if missing and n == 1 else Ref(names[1])}
        truth = Truth() if n == 4 else Truth(True, masks=tuple(map(Ref, names[2:])), known=(1,) if n == 2 else None)
        split = ("train", "val", "test", "train", "test")[n]
        columns = {"age": None if n == 3 else 40.5 + n, "sex": "fmfmf"[n], "fold": float(n % 2)}
        cases.append(Case(f"case_{n}", f"p{n // 2}", inputs, truth, split, "north" if n else None, columns))
    return Dataset(
        "Rich: one",
        "segment",
        tuple(cases),
        {"T1w": InputSpec("MR"), "FLAIR": InputSpec("MR")},
        (Label("background"), Label("left", "SCT:1|Left"), Label("right")),
        root=root,
        regions={"both": (1, 2), "core": (2,)},
        ignore=255,
        mirror_pairs=(("left", "right"),),
        licence="CC0",
        source="a clinic",
    )


@pytest.mark.parametrize("formats", [(".nii.gz",), (".mha",), (".nrrd", ".nii.gz")])
@pytest.mark.parametrize("layout", ["nnunet", "bids"])
def test_everything_a_segmentation_can_say_comes_back(layout: str, formats: tuple[str, ...], tmp_path: Path) -> None:
    data = rich(tmp_path / "source", formats=formats)
    before = contents(tmp_path / "source")
    with said("for some structures only"):
        again = convert_dataset(data, tmp_path / "out", layout)
    require_same(data, again)
    assert contents(tmp_path / "source") == before
    assert again.ignore == (3 if layout == "nnunet" else 255)
    assert {n: s.modality for n, s in again.inputs.items()} == {"T1w": "MR", "FLAIR": "MR"}
    assert again["case_1"].inputs["FLAIR"] is None
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "source"]
    with quietly():
        third = convert_dataset(again, tmp_path / "third", layout)
    require_same(again, third)


def test_a_decathlon_file_holds_several_inputs(tmp_path: Path) -> None:
    data = rich(tmp_path / "source", missing=False)
    with said("for some structures only"):
        again = convert_dataset(data, tmp_path / "out", "msd")
    require_same(data, again)
    assert again.inputs == {"image": InputSpec(None, ("T1w", "FLAIR"))}
    assert again.ignore == 255
    with quietly():
        apart = convert_dataset(again, tmp_path / "apart", "nnunet")  # the channels in files of their own again
    assert list(apart.inputs) == ["T1w", "FLAIR"]
    require_same(data, apart)
    with quietly(), pytest.raises(DatasetError, match="cannot lack a channel"):
        convert_dataset(rich(tmp_path / "other"), tmp_path / "no", "msd")
    assert not (tmp_path / "no").exists()


def test_several_observers(tmp_path: Path) -> None:
    data = rich(tmp_path / "source", observers=2)
    with quietly():
        require_same(data, convert_dataset(data, tmp_path / "bids", "bids"), observers=2)
    with said("several observers; the first"):
        require_same(data, convert_dataset(data, tmp_path / "nnunet", "nnunet"))


SEGMENTATIONS = ["msd", "nnunet", "bids", "medmap"]


@pytest.mark.parametrize("source", SEGMENTATIONS)
@pytest.mark.parametrize("layout", ["nnunet", "msd", "bids"])
def test_each_layout_into_each(source: str, layout: str, tmp_path: Path) -> None:
    examples.EXAMPLES[source](tmp_path / "source")
    data = open_dataset(tmp_path / "source")
    if layout == "msd" and source == "bids":  # a session without FLAIR
        with quietly(), pytest.raises(DatasetError, match="cannot lack"):
            convert_dataset(data, tmp_path / "out", layout)
        return
    with quietly():
        again = convert_dataset(data, tmp_path / "out", layout)
        require_same(data, again)
        assert open_dataset(tmp_path / "out").digest == again.digest  # recognised without being told


def test_the_words_of_nnunet(tmp_path: Path) -> None:
    data = rich(tmp_path / "source", missing=False)
    with quietly():
        convert_dataset(data, tmp_path / "out", "nnunet")
    words = json.loads((tmp_path / "out/dataset.json").read_text())
    assert words["channel_names"] == {"0": "T1w", "1": "FLAIR"}
    assert words["labels"] == {"background": 0, "both": [1, 2], "core": 2, "ignore": 3}
    assert words["regions_class_order"] == [2, 2]
    assert words["numTraining"] == len(list((tmp_path / "out/labelsTr").iterdir())) == 3
    assert json.loads((tmp_path / "out/splits_final.json").read_text())[0]["val"] == ["case_0"]
    assert sorted(p.name for p in (tmp_path / "out/imagesTs").iterdir())[-1] == "case_4_0001.nii.gz"
    assert set(np.unique(read_ref(open_dataset(tmp_path / "out"), Ref("labelsTr/case_0.nii.gz")).array)) == {0, 1, 2, 3}


def test_pictures_into_nnunet(tmp_path: Path) -> None:
    examples.picture(tmp_path / "s/a.png")
    examples.put(replace(examples.mask(), array=np.eye(5, 7, dtype=np.uint8), geometry=_flat()), tmp_path / "s/m.png")
    examples.say(tmp_path / "s/cases.csv", "case,image,mask\n1,a.png,m.png\n")
    data = replace(open_dataset(tmp_path / "s"), labels=(Label("background"), Label("vessel")))
    again = convert_dataset(data, tmp_path / "out", "nnunet")
    assert json.loads((tmp_path / "out/dataset.json").read_text())["channel_names"]["2"] == "blue"
    assert (tmp_path / "out/imagesTr/1_0000.png").read_bytes() == (tmp_path / "s/a.png").read_bytes()
    require_same(data, again)
    with pytest.raises(GeometryError, match="millimetres"):
        convert_dataset(data, tmp_path / "no", "bids")
    assert not (tmp_path / "no").exists()


def _flat() -> Any:
    from medmap.geometry import Geometry

    return Geometry.without_size((5, 7))


def test_others_read_what_was_written(tmp_path: Path) -> None:
    import nibabel
    import SimpleITK

    data = rich(tmp_path / "source", missing=False, formats=(".mha",))
    with quietly():
        for layout in ("msd", "nnunet", "bids"):
            convert_dataset(data, tmp_path / layout, layout)
    rows = json.loads((tmp_path / "msd/dataset.json").read_text())["training"]
    assert [Path(row["image"]).name for row in rows] == ["case_0.nii.gz", "case_1.nii.gz", "case_3.nii.gz"]
    assert all((tmp_path / "msd" / row["label"]).is_file() for row in rows)
    first = read_ref(data, data.cases[0].inputs["FLAIR"])  # type: ignore[arg-type]
    ras = np.diag([-1.0, -1.0, 1.0, 1.0]) @ first.geometry.affine_lps_mm
    joined = nibabel.load(tmp_path / "msd" / rows[0]["image"])
    assert joined.shape == (5, 7, 11, 2)
    assert np.array_equal(np.asarray(joined.dataobj)[..., 1], first.array)
    assert np.allclose(joined.affine, ras, atol=1e-4)
    for path in ("nnunet/imagesTr/case_0_0001.mha", "bids/sub-p0/ses-1/anat/sub-p0_ses-1_FLAIR.nii.gz"):
        other = SimpleITK.ReadImage(str(tmp_path / path))
        assert np.array_equal(SimpleITK.GetArrayFromImage(other).T, first.array)
        assert np.allclose(
            other.TransformContinuousIndexToPhysicalPoint((4, 6, 10)), first.geometry.to_world([[4, 6, 10]]), atol=1e-3
        )


# -- boxes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["coco", "yolo", "voc"])
def test_boxes_come_back(source: str, tmp_path: Path) -> None:
    examples.EXAMPLES[source](tmp_path / "source")
    data = open_dataset(tmp_path / "source")
    again = convert_dataset(data, tmp_path / "out", "coco")
    assert [(c.id, c.split) for c in again] == [(c.id, c.split) for c in data]
    assert [c.truth for c in again] == [c.truth for c in data]
    assert again.labels == data.labels
    for a, b in zip(data, again, strict=True):
        assert np.array_equal(read_ref(data, a.inputs["image"]).array, read_ref(again, b.inputs["image"]).array)
    assert open_dataset(tmp_path / "out").digest == again.digest


def test_pictures_that_are_no_pictures_yet(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", rows=np.random.default_rng(0).integers(0, 255, (2, 9, 12)).astype(np.uint8))
    boxes = ((((1.5, 2.0, 3.0, 4.0), 0),), ())
    cases = [
        Case(f"c{i}", f"p{i}", {"image": Ref("x.npz", f"rows/{i}")}, Truth(True, boxes=b, known=(0,)))
        for i, b in enumerate(boxes)
    ]
    data = Dataset("d", "detect", tuple(cases), {"image": InputSpec()}, (Label("a"), Label("b")), root=tmp_path)
    with said("for some classes only"):
        again = convert_dataset(data, tmp_path / "out", "coco")
    assert [c.truth for c in again] == [c.truth for c in data]
    assert [c.patient for c in again] == ["p0", "p1"]
    assert np.array_equal(
        read_ref(data, data.cases[1].inputs["image"]).array, read_ref(again, again.cases[1].inputs["image"]).array
    )


WHOLE = st.tuples(*[st.integers(0, 400)] * 2, *[st.integers(1, 300)] * 2)
PARTS = st.tuples(*[st.floats(0, 400)] * 2, *[st.floats(1, 300)] * 2)


@given(WHOLE | PARTS)
def test_coco_there_and_back(bbox: tuple[float, float, float, float]) -> None:
    assert bbox_of_corners(corners_of_bbox(bbox)) == pytest.approx(bbox, abs=1e-6)


@given(WHOLE)
def test_the_conventions_agree_on_pixels(bbox: tuple[int, int, int, int]) -> None:
    x, y, width, height = bbox
    painted = np.zeros((720, 720), bool)
    painted[y : y + height, x : x + width] = True
    rows, columns = np.nonzero(painted.any(1))[0], np.nonzero(painted.any(0))[0]
    expected = (rows[0], columns[0], rows[-1], columns[-1])
    assert corners_of_bbox(bbox) == expected
    assert corners_of_bndbox(x + 1, y + 1, x + width, y + height) == expected
    line = ((x + width / 2) / 720, (y + height / 2) / 720, width / 720, height / 720)
    assert corners_of_line(*line, (720, 720)) == pytest.approx(expected, abs=1e-6)


@given(st.lists(st.tuples(st.floats(-50, 50), st.floats(1, 60)), min_size=2, max_size=3))
def test_edges_there_and_back(sides: list[tuple[float, float]]) -> None:
    low, high = [a for a, _ in sides], [a + size for a, size in sides]
    again = edges_of_corners(corners_of_edges(low, high))
    assert again[0] == pytest.approx(low, abs=1e-6)
    assert again[1] == pytest.approx(high, abs=1e-6)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 63), st.integers(0, 47), st.booleans(), st.integers(0, 1)), max_size=6))
def test_any_boxes_come_back(tmp_path: Path, rows: list[tuple[int, int, bool, int]]) -> None:
    examples.picture(tmp_path / "a.png")
    made = [((r / 2, c / 2, r / 2 + 9.25, c / 2 + 3.0), label, crowd) for c, r, crowd, label in rows]
    truth = Truth(
        True,
        boxes=tuple((box, label) for box, label, crowd in made if not crowd),
        ignored=tuple((box, label) for box, label, crowd in made if crowd),
    )
    case = Case("a", "a", {"image": Ref("a.png")}, truth)
    data = Dataset("d", "detect", (case,), {"image": InputSpec()}, (Label("x"), Label("y")), root=tmp_path)
    out = tmp_path / os.urandom(6).hex()
    assert convert_dataset(data, out, "coco").cases[0].truth == truth


# -- whole or nothing ------------------------------------------------------------------------------------------------


def test_nothing_is_overwritten_and_nothing_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    examples.msd(tmp_path / "source")
    data = open_dataset(tmp_path / "source")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/x").write_text("mine")
    with pytest.raises(UsageError, match="not empty"):
        convert_dataset(data, tmp_path / "full", "nnunet")
    with pytest.raises(UsageError, match="no such layout"):
        convert_dataset(data, tmp_path / "out", "kitti")
    with pytest.raises(DatasetError, match="no truth for this task"):
        convert_dataset(data, tmp_path / "out", "coco")
    (tmp_path / "source/imagesTr/liver_010.nii.gz").unlink()
    with pytest.raises(Exception, match="does not exist"):
        convert_dataset(data, tmp_path / "out", "nnunet")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copyfile", full)
    for row in ("nnunet", "msd", "bids"):
        with pytest.raises(UsageError, match="No space left"):
            convert_dataset(data, tmp_path / "out", row)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["full", "source"]
    assert {row.name for row in EXPORTS if row.task == "segment"} == {"nnunet", "msd", "bids"}


def test_a_mask_with_values_of_no_class_is_not_renumbered(tmp_path: Path) -> None:
    data = rich(tmp_path / "source", missing=False)
    (tmp_path / "source/m0_0.nii.gz").unlink()
    examples.put(examples.mask(0, 4), tmp_path / "source/m0_0.nii.gz")
    with quietly(), pytest.raises(DatasetError, match="values of no class: got 3"):
        convert_dataset(data, tmp_path / "out", "nnunet")


def test_what_is_no_image_is_not_copied(tmp_path: Path) -> None:
    data = rich(tmp_path / "source", missing=False)
    (tmp_path / "source/a0.nii.gz").unlink()
    (tmp_path / "source/a0.nii.gz").symlink_to("/etc/passwd")
    with quietly(), pytest.raises(ReadError, match="holds no nifti"):
        convert_dataset(data, tmp_path / "out", "bids")
    assert not (tmp_path / "out").exists()


def test_links_share_their_bytes(tmp_path: Path) -> None:
    examples.msd(tmp_path / "source")
    data = open_dataset(tmp_path / "source")
    convert_dataset(data, tmp_path / "out", "nnunet", link=True)
    assert (tmp_path / "out/imagesTr/liver_001_0000.nii.gz").samefile(tmp_path / "source/imagesTr/liver_001.nii.gz")
    convert_dataset(data, tmp_path / "copy", "nnunet")
    assert not (tmp_path / "copy/imagesTr/liver_001_0000.nii.gz").samefile(
        tmp_path / "source/imagesTr/liver_001.nii.gz"
    )


@pytest.mark.parametrize(
    ("layout", "change", "sentence"),
    [
        ("nnunet", {"id": "../x"}, "cannot be a file's name"),
        ("nnunet", {"id": ".x"}, "cannot be a file's name"),
        ("msd", {"id": "a/b"}, "cannot be a file's name"),
        ("nnunet", {"columns": {"split": "x"}}, "reserves"),
        ("bids", {"columns": {"session_id": "x"}}, "reserves"),
        ("bids", {"inputs": {"T1w": None, "FLAIR": None}}, "without any image"),
    ],
)
def test_what_a_layout_cannot_hold(layout: str, change: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    data = rich(tmp_path / "source", missing=False)
    first, *others = data.cases
    with quietly(), pytest.raises(DatasetError, match=sentence):
        convert_dataset(data.with_cases([replace(first, **change), *others]), tmp_path / "out", layout)
    assert not (tmp_path / "out").exists()


def test_what_bids_and_coco_cannot_hold(tmp_path: Path) -> None:
    data = rich(tmp_path / "source", missing=False)
    odd = replace(
        data,
        inputs={"T1 w": InputSpec()},
        cases=tuple(replace(c, inputs={"T1 w": c.inputs["T1w"]}) for c in data),
    )
    with quietly(), pytest.raises(DatasetError, match="BIDS cannot write"):
        convert_dataset(odd, tmp_path / "out", "bids")
    plain = replace(
        odd, inputs={"scan": InputSpec()}, cases=tuple(replace(c, inputs={"scan": c.inputs["T1 w"]}) for c in odd)
    )
    with said("knows no suffix scan"):
        assert list(convert_dataset(plain, tmp_path / "out", "bids").inputs) == ["scan"]
    boxed = Case("a", "a", {"image": Ref("a0.nii.gz")}, Truth(True, boxes=()))
    volumes = Dataset("d", "detect", (boxed,), {"image": InputSpec()}, (Label("x"),), root=data.root)
    with pytest.raises(DatasetError, match="pictures, not volumes"):
        convert_dataset(volumes, tmp_path / "coco", "coco")
    lost = replace(volumes, cases=(replace(boxed, inputs={"image": None}),))
    with pytest.raises(DatasetError, match="without its picture"):
        convert_dataset(lost, tmp_path / "coco", "coco")
    two = replace(volumes, inputs={"image": InputSpec(), "b": InputSpec()})
    with pytest.raises(DatasetError, match="one picture a case"):
        convert_dataset(two, tmp_path / "coco", "coco")


def test_an_export_that_somebody_changed(tmp_path: Path) -> None:
    data = rich(tmp_path / "source", missing=False)
    data = data.with_cases([replace(c, truth=replace(c.truth, known=None)) for c in data])
    with quietly():
        convert_dataset(data, tmp_path / "out", "nnunet")
    words = json.loads((tmp_path / "out/dataset.json").read_text())
    examples.say(tmp_path / "out/dataset.json", {**words, "labels": {"background": 0, "liver": 1}})
    with said("labels were changed since"):
        assert open_dataset(tmp_path / "out").label_names == ("background", "liver")
    for block in ([], {"labels": {"x": 1}}, {"root": "/"}):
        examples.say(tmp_path / "out/dataset.json", {**words, "medmap": block})
        with pytest.raises(LayoutError, match="medmap block"):
            open_dataset(tmp_path / "out")


def test_real_ones_come_back(shared_data: Path, tmp_path: Path) -> None:
    spine = shared_data / "spine"
    pairs = {"t1": ("t1w", "t1w_seg-manual"), "t2": ("t2", "t2_seg-manual"), "t2s": ("t2s", "t2s_gmseg_manual")}
    rows = [f"{n},{spine}/{n}/{a}.nii.gz,{spine}/{n}/{b}.nii.gz" for n, (a, b) in pairs.items()]
    examples.say(tmp_path / "spine.csv", "\n".join(["case,image,mask", *rows]))
    cord = replace(open_dataset(tmp_path / "spine.csv"), labels=(Label("background"), Label("cord")))
    brain = open_dataset(shared_data / "hippocampus")
    with quietly():
        for layout in ("nnunet", "msd", "bids"):
            require_same(cord, convert_dataset(cord, tmp_path / f"cord_{layout}", layout))
            few = brain.with_cases(brain.cases[:5])
            require_same(few, convert_dataset(few, tmp_path / f"brain_{layout}", layout))
    cells = open_dataset(shared_data / "bccd")
    cells = cells.with_cases(cells.cases[:40])
    again = convert_dataset(cells, tmp_path / "cells", "coco")
    assert [c.truth for c in again] == [c.truth for c in cells]
    assert [c.split for c in again] == [c.split for c in cells]
