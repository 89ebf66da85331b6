"""Volumes of few thick slices, oblique in the patient: planned in 2.5-D, trained, exported, judged, asked."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from medmap.bundle import Bundle
from medmap.cli import run as medmap
from medmap.geometry import Geometry
from medmap.image import Image
from medmap.plan import Run
from medmap.predict import predict
from medmap.read import read
from medmap.write import write

SPACING = np.array([0.9, 1.1, 7.0])


def oblique(shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float64]:
    """Thick slices, a little turned about two axes, off the origin."""
    turn = np.eye(3)
    for i, j, angle in ((0, 1, 0.2), (1, 2, -0.3)):
        plane = np.eye(3)
        plane[i, i] = plane[j, j] = np.cos(angle)
        plane[i, j], plane[j, i] = -np.sin(angle), np.sin(angle)
        turn = turn @ plane
    affine = np.eye(4)
    affine[:3, :3] = turn * SPACING
    affine[:3, 3] = rng.uniform(-50, 50, 3)
    return affine


@pytest.fixture(scope="module")
def thick(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve volumes of five to seven slices, each with a bright block on noise and its mask."""
    folder = tmp_path_factory.mktemp("thick") / "data"
    rng = np.random.default_rng(3)
    (folder / "images").mkdir(parents=True)
    rows = ["case,patient,split,image,mask"]
    for n in range(12):
        shape = (int(rng.integers(24, 33)), int(rng.integers(24, 33)), int(rng.integers(5, 8)))
        mask = np.zeros(shape, np.uint8)
        row, column = rng.integers(3, 10, 2)
        mask[row : row + 10, column : column + 9, 1:4] = 1
        grid = Geometry(shape, oblique(shape, rng), "patient")
        image = rng.normal(0, 20, shape) + 100 * mask
        write(Image(image.astype(np.float32), grid), folder / f"images/{n}.nii.gz")
        write(Image(mask, grid, "label"), folder / f"images/{n}_mask.nii.gz")
        rows.append(f"c{n},p{n},{'test' if n >= 10 else 'train'},images/{n}.nii.gz,images/{n}_mask.nii.gz")
    (folder / "cases.csv").write_text("\n".join(rows) + "\n")
    (folder / "dataset.yaml").write_text(
        "medmap_dataset: 1\nname: thick\ntask: segment\ninputs: {image: {modality: MR}}\n"
        "labels: {0: background, 1: block}\n"
    )
    return folder


def settings(**more: object) -> list[str]:
    values = {"fit.epochs": 16, "fit.learning_rate": 1e-2, "fit.threads": 1, "task.patches": 6, "fit.select": "last"}
    values |= {"ensemble.members": 1, "ensemble.folds": 2, **more}
    return [word for key, value in values.items() for word in ("--set", f"{key}={value}")]


def test_thick_slices_are_planned_trained_and_judged(thick: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert medmap(["train", str(thick), "-o", str(out), "--quiet", *settings(**{"network.width": 0.25})]) == 0
    run = Run.load(out / "run.yaml")
    assert (run.network.slices, run.network.slice_axis) == (3, 2)
    assert run.prepare.shape[2] == 4
    assert run.augment.flat_axis == 2
    assert "too few for a network of volumes" in run.reasons["network.slices"]
    bundle = Bundle.load(out)
    assert {"onnx", "openvino"} <= bundle.spec.engines.keys()
    assert all(parity["passed"] for parity in bundle.spec.engines.values())
    found = json.loads((out / "evaluation/metrics.json").read_text())
    dice = next(row for row in found["metrics"] if row["name"] == "dice" and row["group"] == "all")
    assert dice["value"] > 0.8
    image = read(thick / "images/11.nii.gz")
    mask = predict(bundle, image).outputs["mask"]
    assert mask.geometry == image.geometry  # type: ignore[union-attr]
    truth = read(thick / "images/11_mask.nii.gz").array == 1
    answer = np.asarray(mask.array) == 1  # type: ignore[union-attr]
    assert 2 * (answer & truth).sum() / (answer.sum() + truth.sum()) > 0.8


def test_a_decoder_over_a_pictures_encoder_goes_by_slices(thick: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    more = {"network.name": "unet+timm:resnet18", "fit.epochs": 1, "task.patches": 1, "network.slices": 1}
    assert medmap(["train", str(thick), "-o", str(out), "--quiet", *settings(**more)]) == 0
    network = Bundle.load(out).spec.members[0].network
    assert network["name"] == "unet+timm:resnet18"
    assert network["slices"] == 1
