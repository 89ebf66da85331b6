"""Rows of ``cases.csv`` to cases and back: the one home of how a cell is written.

``case, patient, site, split``, one column an input, ``label | mask | boxes | target``, then clinical columns.

* an empty input cell: not acquired; an empty truth cell: nobody has looked
* ``label``: a class by name or number; several ``a;b``; ``?c`` is uncertain; ``[]`` is looked at, none of them
* ``mask, mask_2 …``: one an observer
* ``boxes``: JSON, ``[{"corners": [i0, j0, i1, j1], "label": "RBC"}]``; ``[]`` is looked at, nothing found; a box with
  ``"ignored": true`` is neither found nor missed
* ``annotated``: the classes that were looked at, ``liver;spleen``; empty: all of them
* a path is relative to the dataset's root and stays inside it (``..`` does not lead out), or absolute;
  ``path#member`` is a part of a file
"""

from __future__ import annotations

import json
import math
import posixpath
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from medmap.dataset import COLUMN_TYPES, Case, Ref, TaskName, Truth
from medmap.errors import BoxError, DatasetError
from medmap.layouts.boxes import refused
from medmap.layouts.naming import SPLIT_NAMES, natural_key
from medmap.layouts.table import Table
from medmap.results import Label, ScoreKind

ID_COLUMNS = ("case", "patient", "site", "split")
EMPTY = "[]"  # looked at, nothing of it there
MAX_INTEGER_CLASSES = 20
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_MISSING = frozenset({"", "nan", "na", "n/a", "none", "null"})
_MASK = re.compile(r"mask(_[0-9]+)?")
_IMAGE = re.compile(r"image(_[0-9]+)?")
TRUTH_OF_TASK: dict[TaskName, str] = {"classify": "label", "segment": "mask", "detect": "boxes", "enhance": "target"}
FARTHEST = 1e9  # voxels from the first one that a corner may lie; what is farther, or no number, is a slip


def is_truth_column(name: str) -> bool:
    """Whether a column's name is reserved for truth.

    Example:
        >>> [is_truth_column(n) for n in ("mask_2", "label", "age")]
        [True, True, False]
    """
    return name in ("label", "boxes", "target", "annotated") or bool(_MASK.fullmatch(name))


def is_image_column(name: str) -> bool:
    """Whether a column of a table without description holds images: ``image``, ``image_2`` …"""
    return bool(_IMAGE.fullmatch(name))


def number(text: str) -> float | None:
    """The number a cell holds, or None; an identifier with leading zeros is no number.

    Example:
        >>> number("63"), number("1e-3"), number("007"), number("inf")
        (63.0, 0.001, None, None)
    """
    if not _NUMBER.fullmatch(text) or re.match(r"[+-]?0\d", text):
        return None
    value = float(text)
    return value if math.isfinite(value) else None


def ref(text: str, where: str) -> Ref | None:
    """The reference a cell holds; None for an empty cell.

    Raises:
        DatasetError: A relative path that leads out of the dataset's root, or no path at all.
    """
    if not text:
        return None
    found = Ref.parse(text.replace("\\", "/"))
    if not found.path:
        raise DatasetError(f"{where}: a member without a file", got=repr(text), expected="path#member")
    if not found.path.startswith("/") and posixpath.normpath(found.path).split("/")[0] == "..":
        raise DatasetError(
            f"{where}: the path leads out of the dataset's folder",
            got=repr(text),
            expected="a path inside root, or an absolute path",
            remedy="set root in dataset.yaml to the folder that holds the images",
        )
    return found


@dataclass(frozen=True)
class Vocabulary:
    """What a label cell may say.

    Args:
        labels: The classes in index order.
        kind: How they hang together.
        numbers: Number in the file → class index, where the owner counts otherwise than from 0.
    """

    labels: tuple[Label, ...]
    kind: ScoreKind
    numbers: Mapping[int, int]

    def index(self, text: str, where: str) -> int:
        """Class index of a name or number.

        Raises:
            DatasetError: Unknown.
        """
        for i, label in enumerate(self.labels):
            if label.name == text:
                return i
        value = number(text)
        if value is not None and value == int(value) and int(value) in self.numbers:
            return self.numbers[int(value)]
        names = ", ".join(label.name for label in self.labels[:10]) + (" …" if len(self.labels) > 10 else "")
        raise DatasetError(f"{where}: unknown class", got=repr(text), expected=names)

    def truth(self, text: str, where: str) -> Truth:
        """The truth that a label cell states.

        Raises:
            DatasetError: Unknown classes, no number for a regression, or several classes where one is right.
        """
        if not text:
            return Truth()
        if self.kind == "regression":
            return Truth(annotated=True, values=self._numbers(text, where))
        if self.kind == "multilabel":
            values = [0.0] * len(self.labels)
            for part in () if text == EMPTY else text.split(";"):
                name = part.strip()
                values[self.index(name.removeprefix("?").strip(), where)] = math.nan if name.startswith("?") else 1.0
            return Truth(annotated=True, values=tuple(values))
        return Truth(annotated=True, label=self.index(text, where))

    def _numbers(self, text: str, where: str) -> tuple[float, ...]:
        values = [number(part.strip()) for part in text.split(";")]
        if None in values or len(values) != max(len(self.labels), 1):
            raise DatasetError(
                f"{where}: no number to predict", got=repr(text), expected=f"{len(self.labels)} number(s)"
            )
        return tuple(v for v in values if v is not None)

    def cell(self, truth: Truth) -> str:
        """The label cell that states a truth; the inverse of ``truth``."""
        if truth.label is not None:
            return self.labels[truth.label].name
        if not truth.annotated or truth.values is None:
            return ""
        if self.kind == "regression":
            return ";".join(_plain(v) for v in truth.values)
        parts = [
            ("?" if math.isnan(v) else "") + label.name
            for v, label in zip(truth.values, self.labels, strict=True)
            if v != 0
        ]
        return ";".join(parts) or EMPTY


def guess_vocabulary(cells: Sequence[str], kind: ScoreKind | None = None) -> Vocabulary:
    """Classes from the label cells alone.

    ``;``, ``?`` or ``[]`` mean several labels a case; numbers that are not whole, or more than 20 different ones, mean
    a regression; everything else are classes, in the order in which people count.

    Raises:
        DatasetError: Cells that are no numbers, for a regression.
    """
    filled = [c for c in cells if c]
    different = set(filled)
    if kind is None:
        numbers = [number(c) for c in different]
        if any(";" in c or c.startswith("?") or c == EMPTY for c in different):
            kind = "multilabel"
        elif numbers and all(v is not None for v in numbers):
            whole = all(v == int(v) for v in numbers if v is not None)
            if not whole or len(different) > MAX_INTEGER_CLASSES:
                kind = "regression"
    if kind == "regression":
        width = filled[0].count(";") + 1 if filled else 1
        names = [f"value_{i + 1}" for i in range(width)] if width > 1 else ["value"]
    elif kind == "multilabel":
        parts = {p.strip().removeprefix("?").strip() for c in different if c != EMPTY for p in c.split(";")}
        names = sorted(parts - {""}, key=natural_key)
    else:
        names = sorted(different, key=natural_key)
        kind = kind or ("binary" if len(names) == 2 else "multiclass")
    return Vocabulary(tuple(Label(n) for n in names), kind, {})


@dataclass(frozen=True)
class Columns:
    """Which column of a table is what, by position.

    Args:
        case, patient, site, split: None where the table has none.
        inputs: Input name → position.
        label, boxes, target: Positions or None.
        masks: Positions, one an observer.
        clinical: Column name → position.
        annotated: Position of the classes that were looked at, or None.
    """

    case: int | None
    patient: int | None
    site: int | None
    split: int | None
    inputs: Mapping[str, int]
    label: int | None
    boxes: int | None
    target: int | None
    masks: tuple[int, ...]
    clinical: Mapping[str, int]
    annotated: int | None = None

    @classmethod
    def of(cls, header: Sequence[str], inputs: Sequence[str]) -> Columns:
        """The columns of medmap's own table.

        Raises:
            DatasetError: An input has no column.
        """
        at = {name: i for i, name in enumerate(header)}
        missing = [name for name in inputs if name not in at]
        if missing:
            raise DatasetError(
                "the table has no column for an input", got=", ".join(header[:20]), expected=", ".join(missing)
            )
        masks = sorted((n for n in header if _MASK.fullmatch(n) and n not in inputs), key=natural_key)
        taken = {*ID_COLUMNS, *inputs, *masks, "label", "boxes", "target", "annotated"}
        return cls(
            case=at.get("case"),
            patient=at.get("patient"),
            site=at.get("site"),
            split=at.get("split"),
            inputs={name: at[name] for name in inputs},
            label=at.get("label"),
            boxes=at.get("boxes"),
            target=at.get("target") if "target" not in inputs else None,
            masks=tuple(at[n] for n in masks),
            clinical={n: i for n, i in at.items() if n not in taken},
            annotated=at.get("annotated") if "annotated" not in inputs else None,
        )


def cases_of(table: Table, columns: Columns, words: Vocabulary) -> tuple[tuple[Case, ...], bool]:
    """The cases of a table, and whether every row names its patient.

    Raises:
        DatasetError: A cell that cannot be meant so; the message names file and line.
    """
    typed = {name: typed_column([row[i] for row in table.rows]) for name, i in columns.clinical.items()}
    ids = _ids(table, columns)
    memo: dict[str, Truth] = {}  # equal cells, one value
    cases: list[Case] = []
    known = columns.patient is not None
    for n, row in enumerate(table.rows):
        patient = row[columns.patient] if columns.patient is not None else ""
        known = known and bool(patient)
        cases.append(
            Case(
                id=ids[n],
                patient=patient or ids[n],
                inputs={name: ref(row[i], table.where(n)) if row[i] else None for name, i in columns.inputs.items()},
                truth=_truth(table, n, columns, words, memo, ids[n]),
                split=_split(row[columns.split], table, n) if columns.split is not None else None,
                site=(row[columns.site] or None) if columns.site is not None else None,
                columns={name: values[n] for name, values in typed.items()},
            )
        )
    if not cases:
        raise DatasetError(f"{table.path} has no rows", expected="one row for each case")
    return tuple(cases), known


def _ids(table: Table, columns: Columns) -> list[str]:
    if columns.case is not None:
        for n, row in enumerate(table.rows):
            if not row[columns.case]:
                raise DatasetError(f"{table.where(n)}: the case has no identifier")
        return [row[columns.case] for row in table.rows]
    digits = len(str(len(table.rows)))
    return [f"case_{n + 1:0{digits}d}" for n in range(len(table.rows))]


def _split(text: str, table: Table, n: int) -> str | None:
    if not text:
        return None
    name = SPLIT_NAMES.get(text.lower())
    if name is None:
        raise DatasetError(f"{table.where(n)}: unknown split", got=repr(text), expected="train, val, test or empty")
    return name


def _truth(table: Table, n: int, columns: Columns, words: Vocabulary, memo: dict[str, Truth], case: str) -> Truth:
    row, where = table.rows[n], table.where(n)
    text = row[columns.label] if columns.label is not None else ""
    if text not in memo:
        memo[text] = words.truth(text, where)
    truth = memo[text]
    masks = tuple(found for i in columns.masks if (found := ref(row[i], where)) is not None)
    boxes, ignored = _boxes(row[columns.boxes], where, words, case) if columns.boxes is not None else (None, ())
    target = ref(row[columns.target], where) if columns.target is not None else None
    if masks or boxes is not None or target is not None:
        truth = Truth(True, truth.label, truth.values, masks, boxes, target, None, ignored)
    looked_at = known_classes(row[columns.annotated], where, words) if columns.annotated is not None else None
    if looked_at is None:
        return truth
    if not truth.annotated:
        raise DatasetError(f"{where}: classes were looked at but there is no truth", got=row[columns.annotated or 0])
    if truth.values is not None and words.kind == "multilabel":  # nobody looked: neither present nor absent
        values = (math.nan if i not in looked_at and v == 0 else v for i, v in enumerate(truth.values))
        truth = replace(truth, values=tuple(values))
    return replace(truth, known=looked_at)


def known_classes(text: str, where: str, words: Vocabulary) -> tuple[int, ...] | None:
    """The classes that a cell ``liver;spleen`` says were looked at; None for an empty cell: all.

    Raises:
        DatasetError: An unknown class.
    """
    if not text:
        return None
    return tuple(sorted({words.index(part.strip(), where) for part in text.split(";")}))


def known_cell(known: tuple[int, ...] | None, words: Vocabulary) -> str:
    """The inverse of ``known_classes``.

    Raises:
        DatasetError: A class whose name holds a semicolon.
    """
    names = [words.labels[i].name for i in known or ()]
    if any(";" in name for name in names):
        raise DatasetError("a class has a name that a list of classes cannot hold", got=", ".join(names))
    return ";".join(names)


Boxed = tuple[tuple[tuple[float, ...], int], ...]


def _boxes(text: str, where: str, words: Vocabulary, case: str) -> tuple[Boxed | None, Boxed]:
    if not text:
        return None, ()
    wanted = '[{"corners": [i0, j0, i1, j1], "label": "name"}]'
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{where}: boxes are no JSON", got=repr(text[:80]), expected=wanted) from error
    found: list[tuple[tuple[float, ...], int]] = []
    ignored: list[tuple[tuple[float, ...], int]] = []
    for item in rows if isinstance(rows, list) else [rows]:
        wrong = _wrong_box(item, words)
        if wrong is not None:
            what, code, got, expected = wrong
            refused(BoxError(f"{where}: {what}", code, got=got, expected=expected or wanted, case=case))
            continue
        box = (tuple(float(v) for v in item["corners"]), words.index(str(item["label"]), where))
        (ignored if item.get("ignored") else found).append(box)
    return tuple(found), tuple(ignored)


def _wrong_box(item: object, words: Vocabulary) -> tuple[str, str, object, str] | None:
    """What is wrong with a box of the cell, the code of the finding, the value and what is expected; or None."""
    corners = item.get("corners") if isinstance(item, dict) else None
    good = (
        isinstance(item, dict)
        and item.keys() - {"ignored"} == {"corners", "label"}
        and isinstance(item.get("ignored", False), bool)
        and isinstance(corners, list)
        and len(corners) in (4, 6)
        and all(isinstance(v, int | float) and not isinstance(v, bool) and abs(v) <= FARTHEST for v in corners)
    )
    if not good or corners is None or not isinstance(item, dict):
        return "a box is written otherwise", "box_unreadable", repr(item)[:80], ""
    half = len(corners) // 2
    if any(low > high for low, high in zip(corners[:half], corners[half:], strict=True)):
        return "a box has swapped corners", "box_swapped_corners", corners, "low corner, high corner"
    try:
        words.index(str(item["label"]), "")
    except DatasetError as error:
        return "a box of an unknown class", "box_unknown_class", error.got, str(error.expected)
    return None


def typed_column(cells: list[str]) -> list[COLUMN_TYPES]:
    """A clinical column: numbers when every cell that is not missing is one, else text."""
    missing = [c.lower() in _MISSING for c in cells]
    numbers = [None if gone else number(c) for c, gone in zip(cells, missing, strict=True)]
    if all(gone or v is not None for gone, v in zip(missing, numbers, strict=True)):
        return list(numbers)
    return [c or None for c in cells]


def _plain(value: float) -> str:
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(value)


def rows_of(cases: Sequence[Case], inputs: Sequence[str], words: Vocabulary, patients_known: bool) -> list[list[str]]:
    """Header and rows of ``cases.csv``; the inverse of ``cases_of``.

    Raises:
        DatasetError: A name that the table could not give back.
    """
    clinical = list(dict.fromkeys(name for case in cases for name in case.columns))
    masks = max((len(case.truth.masks) for case in cases), default=0)
    mask_names = ["mask" if i == 0 else f"mask_{i + 1}" for i in range(masks)]
    truth = [
        *(["label"] if any(c.truth.label is not None or c.truth.values is not None for c in cases) else []),
        *mask_names,
        *(["boxes"] if any(c.truth.boxes is not None for c in cases) else []),
        *(["target"] if any(c.truth.target is not None for c in cases) else []),
        *(["annotated"] if any(c.truth.known is not None for c in cases) else []),
    ]
    header = [*ID_COLUMNS, *inputs, *truth, *clinical]
    if len(set(header)) != len(header):
        twice = sorted({n for n in header if header.count(n) > 1})
        raise DatasetError("a clinical column or input has a name that the table reserves", got=", ".join(twice))
    for label in words.labels:
        if words.kind == "multilabel" and (";" in label.name or label.name.startswith("?") or label.name == EMPTY):
            raise DatasetError("a class has a name that several-label cells cannot hold", got=repr(label.name))
    rows = [header]
    for case in cases:
        answer = {
            "label": words.cell(case.truth),
            "boxes": _boxes_cell(case.truth, words),
            "target": _ref_cell(case.truth.target),
            "annotated": known_cell(case.truth.known, words),
            **{
                name: _ref_cell(case.truth.masks[i]) if i < len(case.truth.masks) else ""
                for i, name in enumerate(mask_names)
            },
        }
        patient = case.patient if patients_known or case.patient != case.id else ""
        rows.append(
            [case.id, patient, case.site or "", case.split or ""]
            + [_ref_cell(case.inputs.get(name)) for name in inputs]
            + [answer[name] for name in truth]
            + [column_cell(case.columns.get(name)) for name in clinical]
        )
    return rows


def _ref_cell(found: Ref | None) -> str:
    if found is None:
        return ""
    if "#" in found.path or "\\" in found.path:
        raise DatasetError(
            "a file's name cannot be written into a table", got=repr(found.path), remedy="rename it without # and \\"
        )
    return str(found)


def _boxes_cell(truth: Truth, words: Vocabulary) -> str:
    if truth.boxes is None:
        return ""
    rows: list[dict[str, object]] = [{"corners": list(box), "label": words.labels[i].name} for box, i in truth.boxes]
    rows += [{"corners": list(box), "label": words.labels[i].name, "ignored": True} for box, i in truth.ignored]
    return json.dumps(rows, ensure_ascii=False)


def column_cell(value: COLUMN_TYPES) -> str:
    """How a clinical value stands in a cell; the inverse of ``typed_column``."""
    if value is None:
        return ""
    return _plain(value) if isinstance(value, float | int) else value
