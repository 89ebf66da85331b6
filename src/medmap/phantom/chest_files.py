"""Chest CT phantoms as files: a medmap dataset, or LUNA16's layout with world coordinates in a table."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Literal, get_args

import numpy as np

from medmap.config import to_yaml, write_atomically
from medmap.errors import UsageError
from medmap.image import Image
from medmap.phantom.files import SOURCE
from medmap.phantom.nodules import SHAPE, ChestCase, chest_case
from medmap.write import write

ChestLayout = Literal["medmap", "luna16"]
LABEL = "nodule"
SUBSETS = 10  # LUNA16 deals its scans into as many folders
FALSE_CANDIDATES = 20  # points on vessels that LUNA16's list of candidates holds for each scan here


def write_chest_dataset(
    folder: str | Path,
    cases: int = 40,
    seed: int = 0,
    *,
    layout: ChestLayout = "medmap",
    shape: tuple[int, int, int] = SHAPE,
    splits: Mapping[str, str] = MappingProxyType({}),
) -> Path:
    """Write chest CT phantoms with nodules as a detection dataset that ``open_dataset`` opens.

    One case is made and written at a time. ``medmap`` has NIfTI images, boxes in ``cases.csv`` and, beside it,
    ``nodules.csv`` with centres (LPS mm), diameters, densities and kinds; ``luna16`` has ``.mhd`` and ``.raw``,
    ``annotations.csv``, ``candidates.csv`` and patients, sites and splits in ``medmap.csv``.

    Args:
        folder: New or empty.
        cases: How many.
        seed: Case 3 of a seed is the same however many there are.
        layout: medmap or luna16.
        shape: Voxels of a case.
        splits: Case (``chest-0003``) → train, val or test; the others are left to medmap.

    Returns:
        The folder.

    Raises:
        UsageError: The folder is not empty, no case is asked for, or an unknown layout.
        DataError: No room for the nodules in so small a shape.
    """
    folder = Path(folder)
    if layout not in get_args(ChestLayout):
        raise UsageError("the phantom is not written so", got=repr(layout), expected=", ".join(get_args(ChestLayout)))
    if cases < 1:
        raise UsageError("a phantom data set has at least one case", got=cases)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} is not empty", remedy="choose another folder")
    rows: list[list[object]] = []
    wanted = ("nodules.csv",) if layout == "medmap" else ("annotations.csv", "candidates.csv")
    tables: dict[str, list[list[object]]] = {name: [] for name in wanted}
    for number in range(cases):
        case = chest_case(seed, number, shape=shape)
        split = splits.get(case.id, "")
        if layout == "medmap":
            rows.append(_own_case(folder, case, split, tables))
        else:
            rows.append(_luna_case(folder, case, (seed, number), split, tables))
    if layout == "medmap":
        header = ["case", "patient", "site", "split", "image", "boxes", "kernel", "slice_mm"]
        write_atomically(folder / "cases.csv", _csv([header, *rows]))
        write_atomically(folder / "dataset.yaml", to_yaml(_description(seed)))
    else:
        write_atomically(folder / "medmap.csv", _csv([["case", "patient", "site", "split", "kernel"], *rows]))
    for name, lines in tables.items():
        write_atomically(folder / name, _csv([_HEADERS[name], *lines]))
    return folder


_HEADERS: Mapping[str, list[object]] = MappingProxyType(
    {
        "nodules.csv": ["case", "x", "y", "z", "diameter_mm", "hu", "kind"],
        "annotations.csv": ["seriesuid", "coordX", "coordY", "coordZ", "diameter_mm"],
        "candidates.csv": ["seriesuid", "coordX", "coordY", "coordZ", "class"],
    }
)


def _csv(rows: Sequence[Sequence[object]]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue()


def _description(seed: int) -> dict[str, object]:
    return {
        "medmap_dataset": 1,
        "name": f"synthetic chest CT with nodules (seed {seed})",
        "task": "detect",
        "inputs": {"image": {"modality": "CT"}},
        "labels": {0: LABEL},
        "licence": "CC0-1.0",
        "source": SOURCE,
    }


def _own_case(folder: Path, case: ChestCase, split: str, tables: dict[str, list[list[object]]]) -> list[object]:
    name = f"images/{case.id}.nii.gz"
    (folder / "images").mkdir(parents=True, exist_ok=True)
    write(case.image, folder / name)
    tables["nodules.csv"].extend([case.id, *n.centre_mm, n.diameter_mm, n.value_hu, n.kind] for n in case.nodules)
    boxes = json.dumps([{"corners": list(corners), "label": LABEL} for corners, _ in case.boxes])
    columns = [case.columns["kernel"], case.columns["slice_mm"]]
    return [case.id, case.patient, case.site, split, name, boxes, *columns]


def _luna_case(
    folder: Path, case: ChestCase, place: tuple[int, int], split: str, tables: dict[str, list[list[object]]]
) -> list[object]:
    seed, number = place
    uid = f"2.25.{10**6 * (seed + 1) + number}"  # as PS3.5 B.2 makes them; ordered like the cases
    subset = folder / f"subset{number % SUBSETS}"
    subset.mkdir(parents=True, exist_ok=True)
    _write_mhd(case.image, subset / f"{uid}.mhd")
    found: list[list[object]] = [[uid, *n.centre_mm, n.diameter_mm] for n in case.nodules]
    tables["annotations.csv"].extend(found)
    step = max(1, len(case.vessels) // FALSE_CANDIDATES)
    points: list[list[object]] = [[uid, *end, 0] for _, end, _, _ in case.vessels[::step][:FALSE_CANDIDATES]]
    tables["candidates.csv"].extend([*points, *([*row[:4], 1] for row in found)])
    return [uid, case.patient, case.site, split, case.columns["kernel"]]


def _write_mhd(image: Image, path: Path) -> None:
    """A MetaImage header and its voxels beside it, first axis fastest, as LUNA16 has them."""
    affine = image.geometry.affine_lps_mm
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    directions = (affine[:3, :3] / spacing).T
    raw = path.with_suffix(".raw")

    def numbers(values: np.ndarray) -> str:
        return " ".join(repr(float(v)) for v in np.ravel(values))

    lines = [
        "ObjectType = Image",
        "NDims = 3",
        "BinaryData = True",
        "BinaryDataByteOrderMSB = False",
        "CompressedData = False",
        f"TransformMatrix = {numbers(directions)}",
        f"Offset = {numbers(affine[:3, 3])}",
        "CenterOfRotation = 0 0 0",
        f"ElementSpacing = {numbers(spacing)}",
        f"DimSize = {' '.join(str(n) for n in image.geometry.shape)}",
        "ElementType = MET_SHORT",
        f"ElementDataFile = {raw.name}",
    ]
    raw.write_bytes(image.array.astype("<i2").tobytes(order="F"))
    write_atomically(path, "\n".join(lines) + "\n")
