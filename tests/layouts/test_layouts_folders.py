"""A folder for each class, with and without splits and patients; what is no image is left out, and said."""

from __future__ import annotations

import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from medmap.errors import DatasetError, LayoutError, QualityWarning, ReadError, UsageError
from medmap.layouts import LAYOUTS, open_dataset
from medmap.layouts.naming import positive_index, unique_ids
from medmap.read import read_ref


def put(path: Path, value: int = 7) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Pillow.fromarray(np.full((5, 6), value, np.uint8)).save(path)


def test_classes_only(tmp_path: Path) -> None:
    for name in ("malignant/img10.png", "malignant/img2.png", "normal/x.png"):
        put(tmp_path / name)
    data = open_dataset(tmp_path)
    assert [c.id for c in data] == ["img2", "img10", "x"]
    assert [c.truth.label for c in data] == [0, 0, 1]
    assert (data.label_names, data.kind, data.positive) == (("malignant", "normal"), "binary", 0)
    assert {c.split for c in data} == {None}
    assert not data.patients_known
    assert read_ref(data, data.cases[0].inputs["image"]).array.shape == (5, 6)


@pytest.mark.parametrize(
    ("folders", "splits"),
    [
        (("train", "val", "test"), ("train", "val", "test")),
        (("Training", "Validation", "Testing"), ("train", "val", "test")),
        (("train", "test"), ("train", "test")),
    ],
)  # fmt: skip
def test_splits_above(tmp_path: Path, folders: tuple[str, ...], splits: tuple[str, ...]) -> None:
    for folder in folders:
        for label in ("b", "a", "10", "9"):
            put(tmp_path / folder / label / "1.png")
    data = open_dataset(tmp_path)
    assert data.label_names == ("9", "10", "a", "b")
    assert data.kind == "multiclass"
    assert [c.split for c in data] == sorted(
        [s for s in splits for _ in range(4)], key=lambda s: folders[splits.index(s)]
    )
    assert len({c.id for c in data}) == len(data)


def test_patients_below(tmp_path: Path) -> None:
    for name in ("sick/p1/a.png", "sick/p1/series/b.png", "sick/p2/a.png", "well/p3/a.png"):
        put(tmp_path / name)
    data = open_dataset(tmp_path)
    assert data.patients_known
    assert sorted((c.patient, c.truth.label) for c in data) == [("p1", 0), ("p1", 0), ("p2", 0), ("p3", 1)]
    put(tmp_path / "well" / "loose.png")
    assert not open_dataset(tmp_path).patients_known


def test_hidden_files_are_ignored_and_strangers_named(tmp_path: Path) -> None:
    for name in ("a/1.png", "b/1.png", ".git/x.png", "a/.hidden.png", "__MACOSX/1.png", "a/Thumbs.db"):
        put(tmp_path / "x.png")
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / "x.png").rename(tmp_path / name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(open_dataset(tmp_path)) == 2
    (tmp_path / "a" / "notes.txt").write_text("x")
    (tmp_path / "README.md").write_text("x")
    with pytest.warns(QualityWarning, match=r"2 files .* skipped: a/notes.txt, README.md"):
        assert len(open_dataset(tmp_path)) == 2


def test_other_image_formats(tmp_path: Path) -> None:
    put(tmp_path / "a" / "1.jpg")
    put(tmp_path / "b" / "2.tif")
    (tmp_path / "b" / "3.nii.gz").write_bytes(b"not opened yet")
    assert [c.id for c in open_dataset(tmp_path)] == ["1", "2", "3"]


def test_what_is_no_class_folder(tmp_path: Path) -> None:
    with pytest.raises(LayoutError, match="in no known layout: got an empty folder"):
        open_dataset(tmp_path)
    put(tmp_path / "only" / "1.png")
    with pytest.raises(LayoutError, match="at least two classes"):
        open_dataset(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(LayoutError, match="at least two classes"):
        open_dataset(tmp_path, layout="folders")
    put(tmp_path / "loose.png")
    with pytest.raises(LayoutError) as caught:
        open_dataset(tmp_path)
    assert "loose.png" in str(caught.value)
    assert all(row.name in str(caught.value) for row in LAYOUTS)


def test_wrong_calls(tmp_path: Path) -> None:
    put(tmp_path / "a" / "1.png")
    put(tmp_path / "b" / "1.png")
    with pytest.raises(UsageError, match="unknown layout"):
        open_dataset(tmp_path, layout="imagenet")
    with pytest.raises(UsageError, match="unknown task"):
        open_dataset(tmp_path, task="guess")  # type: ignore[arg-type]
    with pytest.raises(DatasetError, match="nothing else"):
        open_dataset(tmp_path, task="detect")
    with pytest.raises(ReadError, match="does not exist"):
        open_dataset(tmp_path / "absent")
    with pytest.raises(ReadError, match="does not exist"):
        open_dataset("a\0b")
    (tmp_path / "x.txt").write_text("x")
    with pytest.raises(LayoutError, match=r"a file x\.txt"):
        open_dataset(tmp_path / "x.txt")


def test_folders_that_lead_in_a_circle_or_too_deep(tmp_path: Path) -> None:
    put(tmp_path / "a" / "1.png")
    put(tmp_path / "b" / "1.png")
    (tmp_path / "a" / "again").symlink_to(tmp_path / "a")
    with pytest.raises(LayoutError, match="nested too deeply"):
        open_dataset(tmp_path)


def test_a_folder_that_may_not_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "a" / "1.png")

    def forbidden(_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("os.scandir", forbidden)
    with pytest.raises(ReadError, match="cannot be listed"):
        open_dataset(tmp_path, layout="folders")


@pytest.mark.parametrize(
    ("names", "positive"),
    [(("malignant", "normal"), 0), (("normal", "pneumonia"), 1), (("benign", "malignant"), 1),
     (("no_tumour", "tumour"), 1), (("case", "control"), 0), (("0", "1"), 1), (("nodule", "other"), 1),
     (("abnormal", "normal"), 0), (("COVID", "Non-COVID"), 0)],
)  # fmt: skip
def test_the_finding_is_the_positive_class(names: tuple[str, str], positive: int) -> None:
    assert positive_index(names) == positive


def test_identifiers_are_unique_even_for_twins() -> None:
    assert unique_ids(["a/x.png", "a/x.jpg"]) == ["a_x.png", "a_x.jpg"]
    assert len(set(unique_ids(["a/b_c.png", "a_b/c.png", "b/c.png"]))) == 3


def test_twenty_thousand_files_open_without_reading_one(tmp_path: Path) -> None:
    for label in ("a", "b"):
        (tmp_path / label).mkdir()
        for i in range(10_000):
            (tmp_path / label / f"{i}.png").touch()
    start = time.perf_counter()
    assert len(open_dataset(tmp_path)) == 20_000
    assert time.perf_counter() - start < 3
