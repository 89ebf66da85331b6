"""LUNA16: chest CT as ``.mhd`` in subset folders, nodules as centres and diameters in a CSV.

``annotations.csv`` has ``seriesuid, coordX, coordY, coordZ, diameter_mm``: world coordinates of the ``.mhd``, which are
LPS millimetres (luna16.grand-challenge.org, data). A nodule becomes the smallest box of voxels around the ball.
Findings of ``annotations_excluded.csv`` are neither found nor missed. ``candidates.csv`` lists points without a size
and is left alone.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from medmap.dataset import Case, Dataset, InputSpec, Ref, TaskName, Truth
from medmap.errors import BoxError, DatasetError, LayoutError
from medmap.geometry import Geometry
from medmap.layouts.boxes import Corners, Fitting, corners_of_edges, refused
from medmap.layouts.foreign import require_task
from medmap.layouts.kept import with_kept_table
from medmap.layouts.naming import natural_key
from medmap.layouts.table import read_header, read_table
from medmap.read import open_header
from medmap.results import Label

ANNOTATIONS = "annotations.csv"
EXCLUDED = "annotations_excluded.csv"
_COLUMNS = ("seriesuid", "coordx", "coordy", "coordz")
_SUBSET = re.compile(r"subset_?(\d+)", re.IGNORECASE)
_PLACES = (".", "CSVFILES", "evaluationScript/annotations")

Ball = tuple[tuple[float, float, float], float]


def corners_of_ball(geometry: Geometry, centre_lps_mm: Sequence[float], diameter_mm: float) -> Corners:
    """Corner voxels of the smallest box of voxels around a ball, on any grid, oblique ones too.

    Example:
        >>> corners_of_ball(Geometry.from_spacing((9, 9, 9), (1.0, 2.0, 4.0)), (4.0, 8.0, 16.0), 8.0)
        (0.5, 2.5, 3.5, 7.5, 5.5, 4.5)
    """
    to_index = np.linalg.inv(geometry.affine_lps_mm)
    centre = (to_index @ (*centre_lps_mm, 1.0))[:3]
    # how far a ball of radius 1 mm reaches along each index axis
    reach = np.linalg.norm(to_index[:3, :3], axis=1) * diameter_mm / 2
    return corners_of_edges((centre - reach).tolist(), (centre + reach).tolist())


def _table(path: Path, name: str) -> Path | None:
    return next((path / place / name for place in _PLACES if (path / place / name).is_file()), None)


def recognise_luna(path: Path) -> bool:
    """Whether ``path`` holds ``annotations.csv`` with world coordinates (or is that file)."""
    file = path if path.is_file() and path.name == ANNOTATIONS else _table(path, ANNOTATIONS) if path.is_dir() else None
    return file is not None and {*_COLUMNS, "diameter_mm"} <= {h.lower() for h in read_header(file)}


def open_luna(path: Path, task: TaskName | None = None) -> Dataset:
    """A LUNA16 folder as a dataset; reads the tables, and headers of the scans that have nodules.

    Every scan was looked at: one without a row has no nodule. Subsets become the column ``fold``.

    Raises:
        LayoutError: No table with the columns.
        DatasetError: None of the rows is of a scan that is there (rows of other scans are left alone: a download of
            some subsets is usual), sizes that are no numbers, or nodules outside their scan.
        ReadError: A header that cannot be read.
    """
    require_task(task, "detect", "LUNA16")
    folder = path if path.is_dir() else path.parent
    table = _table(folder, ANNOTATIONS)
    if table is None:
        raise LayoutError(f"{folder} has no {ANNOTATIONS}", expected="seriesuid, coordX, coordY, coordZ, diameter_mm")
    scans = _scans(folder)
    if not scans:
        raise LayoutError(f"{folder} holds no .mhd scans", expected="subset0/…mhd")
    more = _table(folder, EXCLUDED)
    balls, excluded = _balls(table), _balls(more, without_size=True) if more is not None else {}
    strangers = sorted(balls.keys() - scans.keys())
    if balls and len(strangers) == len(balls):
        raise DatasetError(f"{table} names none of the scans in {folder}", got=strangers[0])
    needed = [uid for uid in scans if balls.get(uid) or excluded.get(uid)]
    with ThreadPoolExecutor(4) as pool:
        grids = dict(zip(needed, pool.map(lambda uid: open_header(folder / scans[uid]).geometry, needed), strict=True))
    fitting = Fitting(str(table))
    cases = []
    for uid, file in scans.items():
        boxes = _fitted(balls.get(uid, []), grids.get(uid), uid, fitting)
        ignored = _fitted(excluded.get(uid, []), grids.get(uid), uid, fitting)
        subset = _SUBSET.match(file)
        columns = {"fold": float(subset[1])} if subset else {}
        cases.append(Case(uid, uid, {"image": Ref(file)}, Truth(True, boxes=boxes, ignored=ignored), columns=columns))
    fitting.warn()
    dataset = Dataset(
        name="LUNA16",
        task="detect",
        cases=tuple(cases),
        inputs={"image": InputSpec("CT")},
        labels=(Label("nodule"),),
        root=folder,
        patients_known=False,
    )
    return with_kept_table(dataset, folder)


def _scans(folder: Path) -> dict[str, str]:
    """Series UID → file: scans lie in the folder or one below."""
    files = [p for pattern in ("*.mhd", "*/*.mhd", "*.mha", "*/*.mha") for p in folder.glob(pattern)]
    names = sorted((p.relative_to(folder).as_posix() for p in files), key=natural_key)
    found: dict[str, str] = {}
    for name in names:
        uid = name.rsplit("/", 1)[-1].rsplit(".", 1)[0]
        if uid in found:
            raise DatasetError(f"{folder} holds a scan twice", got=f"{found[uid]} and {name}")
        found[uid] = name
    return found


def _balls(path: Path, *, without_size: bool = False) -> dict[str, list[Ball]]:
    table = read_table(path)
    at = {name.lower(): i for i, name in enumerate(table.header)}
    missing = [name for name in (*_COLUMNS, "diameter_mm") if name not in at]
    if missing:
        raise LayoutError(f"{path} lacks columns", got=", ".join(missing))
    found: dict[str, list[Ball]] = defaultdict(list)
    for n, row in enumerate(table.rows):
        try:
            x, y, z, diameter = (float(row[at[name]]) for name in ("coordx", "coordy", "coordz", "diameter_mm"))
        except ValueError as error:
            what = f"{table.where(n)}: a coordinate is no number"
            refused(BoxError(what, "box_unreadable", got=str(error), case=row[at["seriesuid"]]))
            continue
        if without_size and diameter <= 0:
            continue  # a mark without a size covers nothing
        if not all(map(math.isfinite, (x, y, z, diameter))) or not 0 < diameter < 1000:
            what = f"{table.where(n)}: no position and diameter in mm"
            refused(BoxError(what, "box_without_size", got=(x, y, z, diameter), case=row[at["seriesuid"]]))
            continue
        found[row[at["seriesuid"]]].append(((x, y, z), diameter))
    return found


def _fitted(
    balls: Sequence[Ball], grid: Geometry | None, uid: str, fitting: Fitting
) -> tuple[tuple[Corners, int], ...]:
    if grid is None:
        return ()
    boxes = (corners_of_ball(grid, centre, diameter) for centre, diameter in balls)
    return tuple((kept, 0) for box in boxes if (kept := fitting.fit(box, grid.shape, uid)) is not None)
