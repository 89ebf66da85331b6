"""One small trained run for all tests of the command line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medmap.cli import run as medmap

FAST = [
    "--set",
    "fit.epochs=2",
    "--set",
    "network.width=0.25",
    "--set",
    "ensemble.folds=2",
    "--set",
    "ensemble.members=2",
]


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset file and a run trained on it."""
    folder = tmp_path_factory.mktemp("world")
    rng = np.random.default_rng(0)
    arrays = {}
    for name, n in (("train", 40), ("val", 10), ("test", 20)):
        labels = np.arange(n) % 2
        arrays[f"{name}_images"] = (rng.integers(0, 150, (n, 16, 16)) + labels[:, None, None] * 80).astype(np.uint8)
        arrays[f"{name}_labels"] = labels[:, None].astype(np.uint8)
    np.savez(folder / "easy.npz", **arrays)
    assert medmap(["train", str(folder / "easy.npz"), "-o", str(folder / "run"), "--quiet", *FAST]) == 0
    return folder
