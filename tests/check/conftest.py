"""A small data set without fault, and a way to make one with a fault."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow
from scipy.ndimage import gaussian_filter

from medmap.dataset import Case, Dataset, InputSpec, Ref, Truth
from medmap.results import Label

COUNT = 90
SPLITS = ("train", "train", "val", "test", "train")


def texture(seed: int, label: int, side: int = 28) -> np.ndarray:
    """Smooth random tissue; class 1 has a bright spot in the middle third."""
    rng = np.random.default_rng([seed, 77])
    field_ = gaussian_filter(rng.normal(size=(side, side)), 1.5)
    field_ = field_ / field_.std() * 20 + 90
    rows, columns = np.indices((side, side)) - side / 2 - rng.uniform(-2, 2, (2, 1, 1))
    if label:
        field_ += 130 * np.exp(-(rows**2 + columns**2) / (2 * (side / 8) ** 2))
    return np.clip(np.rint(field_), 0, 250).astype(np.uint8)


@dataclass
class Plan:
    """What a data set is to be; a test changes what it wants to be wrong."""

    folder: Path
    labels: list[int | None] = field(default_factory=lambda: [(i // 3) % 2 for i in range(COUNT)])
    images: dict[int, np.ndarray] = field(default_factory=dict)
    splits: list[str | None] = field(default_factory=lambda: [SPLITS[i % 5] for i in range(COUNT)])
    patients: list[str] = field(default_factory=lambda: [f"p{i:03d}" for i in range(COUNT)])
    sites: list[str | None] = field(
        default_factory=lambda: ["north" if i * 7 % 13 < 6 else "south" for i in range(COUNT)]
    )
    columns: dict[str, Sequence[object]] = field(
        default_factory=lambda: {"age": [float(40 + i * 29 % 31) for i in range(COUNT)]}
    )
    names: tuple[str, ...] = ("normal", "tumour")
    kind: str = "binary"
    patients_known: bool = True
    absent: set[int] = field(default_factory=set)

    @staticmethod
    def texture(seed: int, label: int, side: int = 28) -> np.ndarray:
        return texture(seed, label, side)

    def picture(self, i: int) -> np.ndarray:
        """What case i shows unless a test says otherwise."""
        return texture(i, self.labels[i] or 0)

    def path(self, i: int) -> Path:
        return self.folder / f"c{i:03d}.png"

    def write(self) -> Dataset:
        cases = []
        for i, label in enumerate(self.labels):
            array = self.images.get(i, texture(i, label or 0))
            name = f"c{i:03d}" + (
                ".npy" if array.dtype.kind == "f" or (array.ndim > 2 and array.shape[2] != 3) else ".png"
            )
            if name.endswith("npy"):
                np.save(self.folder / name, array)
            else:
                Pillow.fromarray(array).save(self.folder / name)
            truth = Truth() if label is None else Truth(annotated=True, label=label)
            cases.append(
                Case(
                    f"c{i:03d}",
                    self.patients[i],
                    {"image": None if i in self.absent else Ref(name)},
                    truth,
                    self.splits[i],
                    self.sites[i],
                    {key: values[i] for key, values in self.columns.items()},
                )
            )
        return Dataset(
            "planted",
            "classify",
            tuple(cases),
            {"image": InputSpec("OT")},
            tuple(Label(name) for name in self.names),
            self.kind,
            self.folder,
            1 if self.kind == "binary" else None,
            patients_known=self.patients_known,
        )


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    (tmp_path / "data").mkdir()
    return Plan(tmp_path / "data")
