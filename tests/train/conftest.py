"""A small learnable dataset on disk, and a run of seconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medmap.augment import AugmentSection
from medmap.dataset import Dataset
from medmap.fit import FitSection
from medmap.layouts import open_dataset
from medmap.plan import EnsembleSection, NetworkSection, Run
from medmap.prepare import PrepareSection


@pytest.fixture
def npz(tmp_path: Path) -> Path:
    return write_npz(tmp_path / "squares.npz")


def write_npz(path: Path, sizes: tuple[int, int, int] = (48, 16, 24), side: int = 16, seed: int = 3) -> Path:
    """A MedMNIST-like file: class 1 has a bright square."""
    rng = np.random.default_rng(seed)
    arrays = {}
    for name, n in zip(("train", "val", "test"), sizes, strict=True):
        labels = (np.arange(n) % 2).astype(np.uint8)
        images = rng.integers(0, 120, (n, side, side)).astype(np.uint8)
        for image, label in zip(images, labels, strict=True):
            if label:
                row, column = rng.integers(0, side - 6, 2)
                image[row : row + 6, column : column + 6] += 70
        arrays |= {f"{name}_images": images, f"{name}_labels": labels[:, None]}
    np.savez(path, **arrays)
    return path


@pytest.fixture
def data(npz: Path) -> Dataset:
    return open_dataset(npz)


@pytest.fixture
def run() -> Run:
    return Run(
        prepare=PrepareSection(shape=(16, 16)),
        augment=AugmentSection(flip_axes=(1,)),
        network=NetworkSection(name="small_resnet", width=0.25),
        fit=FitSection(epochs=3, batch_size=16, learning_rate=2e-3, warmup_epochs=1, threads=1, select="last"),
        ensemble=EnsembleSection(folds=2, members=2),
    )
