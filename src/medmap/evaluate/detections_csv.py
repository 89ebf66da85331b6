"""The table of detections as ``predictions.csv``: one row a box, found or true, read back to the same bits.

``box`` says what a row is: ``found``; ``true``; ``ignored`` (a true box that is neither to be found nor to be missed);
``none`` for a case that holds no box at all, so that no case is lost. ``number`` counts the found and the true boxes of
a case, each from 1. ``matched`` of a found box: ``hit 2``, ``double 2``, ``ignored 1`` with the number of the true box,
``false alarm``, or ``not looked at``; of a true box ``found 3`` with the number of the surest box on it, or ``missed``.
``i0 j0 k0 i1 j1 k1`` are index coordinates at voxel centres, ``k`` empty in a plane. ``called`` is yes where a box
reaches the operating point; ``threshold_<label>`` gives that, the same in every row. ``known`` numbers the classes that
were looked at in a case, from 0, where not all were.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from medmap.config import write_atomically
from medmap.errors import MedmapError, ReadError
from medmap.evaluate.csvfile import (
    cell_of,
    clinical_cell,
    clinical_columns,
    joined,
    optional_text,
    plain_text,
    read_rows,
    text_cell,
)
from medmap.evaluate.detections import DetectionTable, Frame
from medmap.metrics import BoxList, HitRule
from medmap.metrics.boxes import box_diameters
from medmap.metrics.froc import DOUBLE, HIT, OUTCOMES, SPARED

FOUND, TRUE, IGNORED, NONE = "found", "true", "ignored", "none"
CASE = ("case", "patient", "split", "fold")
CORNERS = ("i0", "j0", "k0", "i1", "j1", "k1")
BOX = (*CORNERS, "centre_mm", "size_mm", "direction", "label", "score", "matched", "box", "number", "called")
LAST = ("rule", "known", "spacing_mm", "site")
NEEDED = (*CASE, *BOX, *LAST[:-1])
CUT = "threshold_"
Cell = str | float | int | None
_ON_A_TRUE_BOX = (HIT, DOUBLE, SPARED)


def detections_text(table: DetectionTable) -> str:
    """The text of ``predictions.csv`` of a detection."""
    cuts: Sequence[float | None] = table.thresholds or [None] * len(table.labels)
    header = [*CASE, *BOX, *(CUT + name for name in table.labels), *LAST, *(f"column_{name}" for name in table.columns)]
    found, true = _of_cases(table.found, len(table)), _of_cases(table.true, len(table))
    numbers = [_numbers(rows, len(boxes)) for rows, boxes in ((found, table.found), (true, table.true))]
    lines = [[text_cell(name) for name in header]]
    for row in range(len(table)):
        frame, known = table.frames[row], table.known[row]
        head = [table.cases[row], table.patients[row], table.splits[row], table.folds[row]]
        seen = None if known is None else " ".join(map(str, known)) or "nothing"
        more = [*cuts, str(table.rule), seen, _numbers_text(frame.spacing_mm or ()), table.sites[row]]
        clinical = [clinical_cell(values[row]) for values in table.columns.values()]
        boxes = [_found_box(table, box, numbers) for box in found[row]]
        boxes += [_true_box(table, box, numbers) for box in true[row]]
        for cells in boxes or [[*[None] * (len(BOX) - 3), NONE, None, None]]:
            lines.append([*map(cell_of, [*head, *cells, *more]), *clinical])
    return joined(lines)


def _of_cases(boxes: BoxList, cases: int) -> list[list[int]]:
    """Rows of the boxes of each case."""
    order = np.argsort(boxes.cases, kind="stable")
    ends = np.searchsorted(boxes.cases[order], np.arange(1, cases))
    return [part.tolist() for part in np.split(order, ends)]


def _numbers(rows: Sequence[Sequence[int]], count: int) -> list[int]:
    """The number of each box within its case, from 1."""
    found = [0] * count
    for part in rows:
        for number, row in enumerate(part, start=1):
            found[row] = number
    return found


def _placed(table: DetectionTable, boxes: BoxList, row: int) -> list[Cell]:
    """Corners, centre, size and directions of a box."""
    n = table.ndim
    corners = [float(v) for v in boxes.corners[row]]
    blank: list[Cell] = [None] * (3 - n)
    frame = table.frames[int(boxes.cases[row])]
    cells: list[Cell] = [*corners[:n], *blank, *corners[n:], *blank]
    if frame.spacing_mm is None:
        return [*cells, None, None, None]
    size = (boxes.corners[row, n:] - boxes.corners[row, :n] + 1) * np.array(frame.spacing_mm)
    directions = " ".join(repr(v) for axis in frame.directions for v in axis)
    return [*cells, _numbers_text(boxes.centres[row].tolist()), _numbers_text(size.tolist()), directions]


def _numbers_text(values: Sequence[float]) -> str | None:
    """Numbers with a blank between them; none where there are none."""
    return " ".join(map(repr, values)) or None


def _found_box(table: DetectionTable, row: int, numbers: Sequence[Sequence[int]]) -> list[Cell]:
    boxes, hits = table.found, table.hits
    outcome, truth = int(hits.outcomes[row]), int(hits.truth[row])
    matched = OUTCOMES[outcome] + (f" {numbers[1][truth]}" if outcome in _ON_A_TRUE_BOX else "")
    called = "yes" if table.called[row] else "no"
    label, score = table.labels[int(boxes.labels[row])], float(boxes.scores[row])
    return [*_placed(table, boxes, row), label, score, matched, FOUND, numbers[0][row], called]


def _true_box(table: DetectionTable, row: int, numbers: Sequence[Sequence[int]]) -> list[Cell]:
    boxes, by = table.true, int(table.hits.by[row])
    ignored = bool(boxes.ignored[row])
    matched = None if not table.findings[row] else "missed" if by < 0 else f"found {numbers[0][by]}"
    label = table.labels[int(boxes.labels[row])]
    return [*_placed(table, boxes, row), label, None, matched, IGNORED if ignored else TRUE, numbers[1][row], None]


def write_detections(table: DetectionTable, path: str | Path) -> None:
    """Write ``predictions.csv``, whole or not at all.

    Raises:
        OSError: The disk is full or the folder not writable.
    """
    write_atomically(path, detections_text(table).encode("utf-8", "backslashreplace"))


def read_detections(path: str | Path) -> DetectionTable:
    """Read the table back; everything can be judged again from it.

    Args:
        path: The file, or the folder that ``predictions.csv`` stands in.

    Raises:
        ReadError: Absent, unreadable, no such table, a cell that cannot be read.
        DataError: Rows that contradict each other.
    """
    path = Path(path)
    path = path / "predictions.csv" if path.is_dir() else path
    header, rows = read_rows(path)
    missing = [name for name in NEEDED if name not in header]
    labels = tuple(name.removeprefix(CUT) for name in header if name.startswith(CUT))
    if missing or not rows or not labels:
        raise ReadError(
            f"{path} is no table of boxes",
            got=f"{len(rows)} rows; missing columns: {', '.join(missing) or 'none'}; {len(labels)} classes",
            expected=", ".join((*NEEDED, f"{CUT}<label>")),
            remedy="give the folder that medmap evaluate wrote for a detection",
        )
    columns = dict(zip(header, zip(*rows, strict=True), strict=True))
    try:
        return _table(columns, labels)
    except (KeyError, ValueError) as error:
        raise ReadError(f"{path} has a cell that cannot be read", got=str(error)) from error
    except MedmapError as error:
        raise ReadError(f"{path} contradicts itself", got=str(error)) from error


def _table(columns: Mapping[str, Sequence[str]], labels: tuple[str, ...]) -> DetectionTable:
    first: dict[str, int] = {}
    for row, case in enumerate(columns["case"]):
        first.setdefault(case, row)
    place = {case: number for number, case in enumerate(first)}
    heads = list(first.values())
    one = {name: [cells[row] for row in heads] for name, cells in columns.items()}
    kinds = columns["box"]
    if strange := set(kinds) - {FOUND, TRUE, IGNORED, NONE}:
        raise ValueError(f"a row is {min(strange)!r}: found, true, ignored or none is known")
    ndim = 3 if any(columns["k0"]) else 2 if any(columns["i0"]) else len(_floats(one["spacing_mm"][0])) or 3
    of_found = [row for row, kind in enumerate(kinds) if kind == FOUND]
    of_true = [row for row, kind in enumerate(kinds) if kind in (TRUE, IGNORED)]
    frames = tuple(map(_frame, one["spacing_mm"], _directions(columns, first)))
    index = {name: number for number, name in enumerate(labels)}
    lists = [_boxes(columns, rows, ndim, frames, (place, index)) for rows in (of_found, of_true)]
    cuts = [columns[CUT + name][0] for name in labels]
    return DetectionTable(
        cases=tuple(map(plain_text, one["case"])),
        patients=tuple(map(plain_text, one["patient"])),
        labels=labels,
        found=lists[0],
        called=np.array([columns["called"][row] == "yes" for row in of_found], dtype=np.bool_),
        true=lists[1],
        thresholds=tuple(map(float, cuts)) if all(cuts) else (),
        rule=HitRule.parse(columns["rule"][0]),
        known=tuple(_known(cell) for cell in one["known"]),
        frames=frames,
        splits=tuple(map(optional_text, one["split"])),
        folds=tuple(int(cell) if cell else None for cell in one["fold"]),
        sites=tuple(map(optional_text, one.get("site", [""] * len(heads)))),
        columns=clinical_columns(one),
    )


def _directions(columns: Mapping[str, Sequence[str]], first: Mapping[str, int]) -> list[str]:
    """The directions of each case, from any of its boxes."""
    found = dict.fromkeys(first, "")
    for case, cell in zip(columns["case"], columns["direction"], strict=True):
        found[case] = found[case] or cell
    return list(found.values())


def _frame(spacing: str, directions: str) -> Frame:
    if not spacing:
        return Frame()
    values = _floats(directions)
    axes = tuple(tuple(values[start : start + 3]) for start in range(0, len(values), 3))
    return Frame(tuple(_floats(spacing)), axes)


def _known(cell: str) -> tuple[int, ...] | None:
    return None if not cell else () if cell == "nothing" else tuple(map(int, cell.split()))


def _floats(cell: str) -> list[float]:
    return [float(word) for word in plain_text(cell).split()]


def _boxes(
    columns: Mapping[str, Sequence[str]],
    rows: Sequence[int],
    ndim: int,
    frames: Sequence[Frame],
    numbered: tuple[Mapping[str, int], Mapping[str, int]],
) -> BoxList:
    place, index = numbered
    names = (*CORNERS[:ndim], *CORNERS[3 : 3 + ndim])
    corners = np.array([[float(columns[name][row]) for name in names] for row in rows]).reshape(-1, 2 * ndim)
    cases = np.array([place[columns["case"][row]] for row in rows], dtype=np.int64)
    more = {}
    if frames and all(frame.spacing_mm is not None for frame in frames):
        steps = np.array([frame.spacing_mm for frame in frames], dtype=np.float64).reshape(len(frames), -1)
        edges = (corners[:, ndim:] - corners[:, :ndim] + 1) * steps[cases, :ndim]
        centres = np.array([_floats(columns["centre_mm"][row]) for row in rows]).reshape(-1, 3)
        more = {"centres": centres, "diameters": box_diameters(edges)}
    return BoxList(
        cases,
        corners,
        np.array([index[plain_text(columns["label"][row])] for row in rows], dtype=np.int64),
        np.array([float(columns["score"][row] or 1) for row in rows], dtype=np.float64),
        np.array([columns["box"][row] == IGNORED for row in rows], dtype=np.bool_),
        **more,
    )
