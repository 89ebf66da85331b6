"""Tables of judged masks for tests: phantom-like balls, some missed, some invented."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from medmap.dataset import Case, Dataset, InputSpec, Ref, Truth
from medmap.evaluate import StructureTable, case_scores, structure_table
from medmap.geometry import Geometry
from medmap.results import Label

SHAPE = (9, 10, 11)
GRID = Geometry.from_spacing(SHAPE, (1.0, 1.2, 2.5))


def ball(centre: np.ndarray, radius: float, value: int, into: np.ndarray) -> None:
    index = np.stack(np.meshgrid(*(np.arange(n) for n in SHAPE), indexing="ij"), axis=-1)
    into[np.linalg.norm(index - centre, axis=-1) < radius] = value


def masks(number: int, noise: float = 0.4) -> tuple[np.ndarray, np.ndarray]:
    """Truth and prediction of a case: a liver, a tumour; case 3 misses the tumour, case 5 invents one."""
    rng = np.random.default_rng(number)
    truth, prediction = np.zeros((2, *SHAPE), np.uint8)
    centre = np.array(SHAPE) / 2 + rng.normal(0, 0.3, 3)
    for mask in (truth, prediction):
        shift = rng.normal(0, noise, 3) if mask is prediction else 0.0
        ball(centre + shift, 3.2 + 0.1 * number % 1, 1, mask)
        if not ((mask is prediction and number == 3) or (mask is truth and number == 5)):
            ball(centre + shift, 1.6, 2, mask)
    return truth, prediction


def dataset(n: int = 12, *, regions: bool = False, known: bool = False, ignore: int | None = None) -> Dataset:
    """Cases of ``n`` patients but the last two, who are one; the first knows only the liver where ``known``."""
    cases = tuple(
        Case(
            f"c{i}",
            f"p{min(i, n - 2)}",
            {"image": Ref(f"{i}.nii.gz")},
            Truth(annotated=True, masks=(Ref(f"m{i}.nii.gz"),), known=(1,) if known and i == 0 else None),
            split="test",
            site=("north", "south")[i % 2],
            columns={"age": 40.0 + i, "note": "=1+1"},
        )
        for i in range(n)
    )
    names = ("background", "liver", "tumour")
    return Dataset(
        "livers",
        "segment",
        cases,
        {"image": InputSpec("CT")},
        tuple(Label(name) for name in names),
        root=Path(),
        regions={"whole": (1, 2), "core": (2,)} if regions else {},
        ignore=ignore,
    )


def judged(data: Dataset | None = None, noise: float = 0.4, observer: bool = False) -> StructureTable:
    """The table of a dataset's cases; ``observer`` adds a second one, nearer to the truth than the model."""
    data = dataset() if data is None else data
    scores = {case.id: case_scores(data, case, *masks(i, noise), GRID) for i, case in enumerate(data)}
    second = {case.id: case_scores(data, case, *masks(i, 0.1), GRID) for i, case in enumerate(data) if i < 6}
    return structure_table(
        data, scores, observers={"observer 2": second} if observer else None, folds={"c0": 0, "c1": 1}
    )
