"""MedMNIST files of every kind: 2-D, 3-D, colour, several labels, grades, numbers; official ones by name."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import medmap as mm
from medmap.errors import DatasetError, LayoutError, UsageError
from medmap.layouts import import_dataset, open_dataset
from medmap.layouts.medmnist import OFFICIAL
from medmap.read import read_ref

RNG = np.random.default_rng(2)


def made(
    path: Path,
    labels: dict[str, np.ndarray],
    shape: tuple[int, ...] = (28, 28),
) -> Path:
    arrays = {}
    for split, table in labels.items():
        arrays[f"{split}_images"] = RNG.integers(0, 256, (len(table), *shape)).astype(np.uint8)
        arrays[f"{split}_labels"] = table
    np.savez_compressed(path, **arrays)
    return path


def column(*values: float, dtype: str = "uint8") -> np.ndarray:
    return np.array(values, dtype)[:, None]


def test_two_classes(tmp_path: Path) -> None:
    path = made(tmp_path / "own.npz", {"train": column(0, 1, 1), "val": column(1), "test": column(0, 0)})
    data = open_dataset(path)
    assert (data.kind, data.label_names, data.positive) == ("binary", ("0", "1"), 1)
    assert [c.split for c in data] == ["train"] * 3 + ["val"] + ["test"] * 2
    assert [c.truth.label for c in data] == [0, 1, 1, 1, 0, 0]
    assert not data.patients_known
    assert (data.licence, data.inputs["image"].modality) == (None, None)
    with np.load(path) as arrays:
        np.testing.assert_array_equal(read_ref(data, data["train_1"].inputs["image"]).array, arrays["train_images"][1])


@pytest.mark.parametrize(
    ("table", "kind", "count"),
    [
        (column(0, 1, 2, 3), "multiclass", 4),
        (column(0, 0, 0), "binary", 2),
        (np.array([0, 1, 2]), "multiclass", 3),
        (np.array([[0, 1, 1], [0, 0, 0], [1, 0, 1]], np.uint8), "multilabel", 3),
        (column(0.5, 2.25, -1, dtype="float32"), "regression", 1),
        (column(0, 2, dtype="float64"), "multiclass", 3),
    ],
)
def test_the_labels_say_what_kind_it_is(tmp_path: Path, table: np.ndarray, kind: str, count: int) -> None:
    data = open_dataset(made(tmp_path / "own.npz", {"train": table, "test": table}))
    assert (data.kind, len(data.labels)) == (kind, count)
    truth = [c.truth for c in data.split("test")]
    if kind in ("multilabel", "regression"):
        np.testing.assert_allclose([t.values for t in truth], table.reshape(len(table), -1))
    else:
        assert [t.label for t in truth] == table.ravel().astype(int).tolist()


def test_unknown_labels_are_not_annotated(tmp_path: Path) -> None:
    data = open_dataset(made(tmp_path / "own.npz", {"train": column(0, np.nan, 1, dtype="float32")}))
    assert [c.truth.annotated for c in data] == [True, False, True]
    several = np.array([[0, 1], [np.nan, 1], [np.nan, np.nan]], np.float32)
    data = open_dataset(made(tmp_path / "more.npz", {"train": several}))
    assert [c.truth.annotated for c in data] == [True, True, False]
    assert np.isnan(data.cases[1].truth.values[0])


@pytest.mark.parametrize(("shape", "ndim", "channels"), [((28, 28), 2, 1), ((28, 28, 3), 2, 3), ((28, 28, 28), 3, 1)])
def test_grey_colour_and_volumes(tmp_path: Path, shape: tuple[int, ...], ndim: int, channels: int) -> None:
    data = open_dataset(made(tmp_path / "own.npz", {"train": column(0, 1)}, shape))
    image = read_ref(data, data.cases[1].inputs["image"])
    assert (image.ndim, len(image.channels), image.geometry.kind) == (ndim, channels, "none")


def test_official_sets_are_known_by_name(tmp_path: Path) -> None:
    data = open_dataset(made(tmp_path / "retinamnist_64.npz", {"train": column(0, 3, 4)}))
    assert (data.kind, data.name, data.inputs["image"].modality) == ("ordinal", "RetinaMNIST", "OP")
    data = open_dataset(made(tmp_path / "organmnist3d.npz", {"train": column(*range(11))}, (6, 6, 6)))
    assert data.label_names[0] == "liver"
    assert ("kidney-left", "kidney-right") in data.mirror_pairs
    data = open_dataset(made(tmp_path / "nodulemnist3d.npz", {"train": column(0, 1)}))
    assert (data.kind, data.positive) == ("binary", 1)
    data = open_dataset(made(tmp_path / "chestmnist.npz", {"train": np.zeros((2, 14), np.uint8)}))
    assert (data.kind, data.label_names[13]) == ("multilabel", "hernia")
    data = open_dataset(made(tmp_path / "dermamnist.npz", {"train": column(0, 1)}))
    assert (len(data.labels), data.licence) == (7, "CC BY-NC 4.0")


def test_a_file_called_like_an_official_set_but_another(tmp_path: Path) -> None:
    data = open_dataset(made(tmp_path / "breastmnist.npz", {"train": column(0, 1, 2)}))
    assert (data.label_names, data.positive, data.name) == (("0", "1", "2"), None, "breastmnist")


def test_the_table_of_official_sets_is_sane() -> None:
    assert len(OFFICIAL) == 18
    assert len({o.md5 for o in OFFICIAL.values()}) == 18
    for name, official in OFFICIAL.items():
        assert re.fullmatch(r"[0-9a-f]{32}", official.md5), name
        assert len(set(official.classes)) == len(official.classes)
        assert (official.positive is None) == (len(official.classes) != 2)
        assert {n for pair in official.mirror_pairs for n in pair} <= set(official.classes)


@pytest.mark.parametrize(
    ("arrays", "error", "what"),
    [
        ({"x": np.zeros((3, 4))}, LayoutError, "no arrays of a MedMNIST"),
        ({"train_images": np.zeros((3, 4, 4))}, mm.MedmapError, "train_labels"),
        ({"train_images": np.zeros((3, 4, 4)), "train_labels": np.zeros((2, 1))}, LayoutError, "belong together"),
        ({"train_images": np.zeros((3, 4, 4)), "train_labels": np.zeros((3, 1, 1))}, LayoutError, "belong together"),
        ({"train_images": np.zeros((3, 4, 4)), "train_labels": np.array(["a"] * 3)}, DatasetError, "no numbers"),
        ({"train_images": np.zeros((3, 4, 4)), "train_labels": np.array([[-1], [0], [1]])}, DatasetError, "range"),
        ({"train_images": np.zeros((3, 4, 4)), "train_labels": np.full((3, 1), np.inf)}, DatasetError, "no numbers"),
        ({"train_images": np.zeros((3, 4, 4)), "train_labels": np.full((3, 2), 7)}, DatasetError, "0, 1 or NaN"),
        ({"train_images": np.zeros((3, 4, 4)), "train_labels": np.zeros((3, 0))}, LayoutError, "different numbers"),
        ({"train_images": np.zeros((0, 4, 4)), "train_labels": np.zeros((0, 1))}, LayoutError, "no arrays"),
    ],
)
def test_what_is_no_medmnist(tmp_path: Path, arrays: dict[str, np.ndarray], error: type, what: str) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(error, match=what):
        open_dataset(tmp_path / "a.npz")


def test_splits_of_different_width_and_other_tasks(tmp_path: Path) -> None:
    path = made(tmp_path / "a.npz", {"train": column(0, 1), "test": np.zeros((2, 3), np.uint8)})
    with pytest.raises(LayoutError, match="different numbers"):
        open_dataset(path)
    with pytest.raises(DatasetError, match="nothing else"):
        open_dataset(made(tmp_path / "b.npz", {"train": column(0, 1)}), task="segment")
    with pytest.raises(LayoutError, match="no MedMNIST"):
        open_dataset(tmp_path, layout="medmnist")


def test_one_row_is_recorded_whatever_the_split(tmp_path: Path) -> None:
    data = open_dataset(made(tmp_path / "a.npz", {"test": column(0, 1)}))
    assert {c.split for c in data} == {"test"}
    with pytest.raises(UsageError):
        data.split("train")


def test_breastmnist(shared_data: Path) -> None:
    for path in (shared_data / "medmnist" / "breastmnist.npz", shared_data / "medmnist"):
        data = mm.open_dataset(path)
        assert [len(data.split(s)) for s in ("train", "val", "test")] == [546, 78, 156]
        assert (data.label_names, data.positive, data.kind) == (("malignant", "normal, benign"), 0, "binary")
        assert (data.licence, data.inputs["image"].modality, data.name) == ("CC BY 4.0", "US", "BreastMNIST")


def test_importing_breastmnist_loses_nothing(shared_data: Path, tmp_path: Path) -> None:
    source = mm.open_dataset(shared_data / "medmnist" / "breastmnist.npz")
    data = import_dataset(shared_data / "medmnist" / "breastmnist.npz", tmp_path / "breast")
    assert data.digest == source.digest
    assert (data.licence, data.source, data.patients_known) == (source.licence, source.source, False)
    ref = data.cases[700].inputs["image"]
    np.testing.assert_array_equal(read_ref(data, ref).array, read_ref(source, ref).array)
