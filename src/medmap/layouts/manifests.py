"""CSV manifests without a description: medmap's own columns, GaNDLF's and InnerEye's.

::

    image,label[,case,patient,split,site, clinical …]         own (also path, file or filename for image)
    SubjectID,Channel_0[,Channel_1 …],Label | ValueToPredict  GaNDLF; Label is a mask
    subject,channel,filePath[,institutionId,label]            InnerEye: one row for each subject and channel
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from medmap.dataset import Dataset, InputSpec, TaskName
from medmap.errors import DatasetError, LayoutError
from medmap.layouts.cases import (
    TRUTH_OF_TASK,
    Columns,
    Vocabulary,
    cases_of,
    guess_vocabulary,
    is_image_column,
    is_truth_column,
)
from medmap.layouts.naming import natural_key, positive_index
from medmap.layouts.table import Table, read_header, read_table

# other words for medmap's columns, in lower case
_ALIASES = {
    "path": "image",
    "file": "image",
    "filename": "image",
    "filepath": "image",
    "file_path": "image",
    "image_path": "image",
    "class": "label",
    "diagnosis": "label",
    "case_id": "case",
    "id": "case",
    "patient_id": "patient",
    "patientid": "patient",
    "subject": "patient",
    "subject_id": "patient",
    "subjectid": "patient",
}
# InnerEye channels that hold truth, not an input
_TRUTH_CHANNELS = frozenset({"mask", "segmentation", "seg", "ground_truth", "groundtruth", "gt", "labelmap"})


def _table_of(path: Path) -> Path | None:
    """The manifest: the file itself, ``cases.csv`` in a folder, or the only table there."""
    if path.is_file():
        return path if path.suffix.lower() in (".csv", ".tsv") else None
    if (path / "cases.csv").is_file():
        return path / "cases.csv"
    found = [p for p in path.iterdir() if p.suffix.lower() == ".csv" and not p.name.startswith(".")]
    return found[0] if len(found) == 1 else None


def _reading(accept: Callable[[tuple[str, ...]], bool]) -> Callable[[Path], bool]:
    def recognises(path: Path) -> bool:
        table = _table_of(path)
        return table is not None and accept(read_header(table))

    return recognises


def _is_gandlf(header: tuple[str, ...]) -> bool:
    names = {h.lower() for h in header}
    return "channel_0" in names and bool({"subjectid", "patient_id"} & names)


def _is_innereye(header: tuple[str, ...]) -> bool:
    return {"subject", "channel", "filepath"} <= {h.lower() for h in header}


def _is_own(header: tuple[str, ...]) -> bool:
    return any(is_image_column(h) for h in _renamed(header))


recognise_gandlf = _reading(_is_gandlf)
recognise_innereye = _reading(_is_innereye)
recognise_cases = _reading(_is_own)


def _renamed(header: tuple[str, ...]) -> tuple[str, ...]:
    """medmap's names for the columns; a name that is already taken keeps its own."""
    names = [h.lower() if h.lower() in ("case", "patient", "site", "split") or _known(h.lower()) else h for h in header]
    for i, name in enumerate(names):
        alias = _ALIASES.get(name.lower())
        if alias is not None and alias not in names:
            names[i] = alias
    return tuple(names)


def _known(name: str) -> bool:
    return is_image_column(name) or is_truth_column(name)


def _file(path: Path) -> Path:
    table = _table_of(path)
    if table is None:
        raise LayoutError(f"{path} is no manifest", expected="one CSV table")
    return table


def open_cases(path: Path, task: TaskName | None = None) -> Dataset:
    """A table with medmap's own columns and no ``dataset.yaml``; classes are seen from the table.

    Raises:
        DatasetError: Columns or cells that cannot be meant so.
    """
    table = read_table(_file(path))
    return _dataset(Table(table.path, _renamed(table.header), table.rows, table.lines), task)


def open_gandlf(path: Path, task: TaskName | None = None) -> Dataset:
    """A GaNDLF manifest: ``Channel_*`` are inputs, ``Label`` a mask, ``ValueToPredict`` a class or number.

    Raises:
        DatasetError: Columns or cells that cannot be meant so.
    """
    table = read_table(_file(path))
    names = []
    for name in table.header:
        low = name.lower()
        if low in ("subjectid", "patient_id"):
            names.append("patient")
        elif re.fullmatch(r"valuetopredict(_0)?", low):
            names.append("label")
        elif low == "label":
            names.append("mask")
        elif re.fullmatch(r"channel_\d+", low):
            names.append(low)
        else:
            names.append(name)
    inputs = sorted((n for n in names if re.fullmatch(r"channel_\d+", n)), key=natural_key)
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise DatasetError(f"{table.path}: two columns mean the same", got=", ".join(twice))
    return _dataset(Table(table.path, tuple(names), table.rows, table.lines), task, inputs)


def open_innereye(path: Path, task: TaskName | None = None) -> Dataset:
    """An InnerEye manifest: one row for each subject and channel; ``institutionId`` is the site.

    A ``label`` column makes it a classification; without, a channel called mask, segmentation or the like is the
    truth.

    Raises:
        DatasetError: A subject with two files for one channel, or two labels.
        LayoutError: A segmentation whose truth is spread over one file a structure.
    """
    table = read_table(_file(path))
    at = {name.lower(): i for i, name in enumerate(table.header)}
    subjects: dict[str, dict[str, str]] = {}
    channels: dict[str, None] = {}
    lines: list[int] = []
    others = [n for n in table.header if n.lower() not in ("subject", "channel", "filepath", "institutionid")]
    for n, row in enumerate(table.rows):
        subject, channel = row[at["subject"]], row[at["channel"]]
        if not subject or not channel:
            raise DatasetError(f"{table.where(n)}: subject and channel are both needed", got=(subject, channel))
        cells = subjects.setdefault(subject, {})
        if len(subjects) > len(lines):
            lines.append(table.lines[n])
        channels[channel] = None
        site = row[at["institutionid"]] if "institutionid" in at else ""
        new = {f"channel:{channel}": row[at["filepath"]], "site": site}
        new.update({name: row[table.header.index(name)] for name in others})
        for name, value in new.items():
            if value and cells.get(name) not in (None, "", value):
                raise DatasetError(
                    f"{table.where(n)}: a subject has two values for {name.removeprefix('channel:')}",
                    got=f"{cells[name]} and {value}",
                )
            cells[name] = value or cells.get(name, "")
    truth = [c for c in channels if c.lower() in _TRUTH_CHANNELS]
    inputs = [c for c in channels if c not in truth]
    labelled = any(name.lower() == "label" for name in others)
    if not labelled and len(truth) != 1:
        raise LayoutError(
            f"{table.path}: which channel is the truth cannot be told",
            got=", ".join(channels),
            expected="a label column, or one channel called mask or segmentation",
            remedy="merge the structures into one label map, and write a dataset.yaml",
        )
    return _dataset(_widened(table.path, subjects, inputs, truth, others, lines), task, inputs)


def _widened(
    path: Path,
    subjects: dict[str, dict[str, str]],
    inputs: list[str],
    truth: list[str],
    others: list[str],
    lines: list[int],
) -> Table:
    """One row a subject, of medmap's own columns."""
    masks = ["mask" if i == 0 else f"mask_{i + 1}" for i in range(len(truth))]
    named = ["label" if n.lower() == "label" else n for n in others]
    header = ("patient", "site", *inputs, *masks, *named)
    keys = ["site", *(f"channel:{c}" for c in (*inputs, *truth)), *others]
    rows = [[subject, *(cells.get(key, "") for key in keys)] for subject, cells in subjects.items()]
    return Table(path, header, rows, lines)


def _dataset(table: Table, task: TaskName | None, inputs: list[str] | None = None) -> Dataset:
    if inputs is None:
        inputs = sorted((n for n in table.header if is_image_column(n)), key=natural_key)
    if not inputs:
        raise DatasetError(f"{table.path} has no column of images", got=", ".join(table.header[:20]), expected="image")
    columns = Columns.of(table.header, inputs)
    have: dict[TaskName, str] = {t: c for t, c in TRUTH_OF_TASK.items() if c in table.header}
    if task is None:
        if len(have) != 1:
            raise DatasetError(
                f"{table.path} does not say what is to be learnt",
                got=", ".join(have.values()) or "no truth column",
                expected=" or ".join(TRUTH_OF_TASK.values()),
                remedy="give the task",
            )
        (task,) = have
    cells = table.column("label") if "label" in table.header else []
    words = guess_vocabulary(cells) if cells or task == "classify" else _box_words(table, columns)
    cases, known = cases_of(table, _with_ids(table, columns), words)
    kind = words.kind
    names = [label.name for label in words.labels]
    return Dataset(
        name=_name_of(table.path),
        task=task,
        cases=cases,
        inputs={name: InputSpec() for name in inputs},
        labels=words.labels,
        kind=kind,
        root=table.path.parent,
        positive=positive_index(names) if kind == "binary" else None,
        patients_known=known,
    )


def _name_of(path: Path) -> str:
    return path.stem if path.stem not in ("cases", "dataset", "train") else path.resolve().parent.name or path.stem


def _with_ids(table: Table, columns: Columns) -> Columns:
    """Patients as case identifiers where the table names no cases and no patient twice."""
    if columns.case is None and columns.patient is not None:
        patients = [row[columns.patient] for row in table.rows]
        if len(set(patients)) == len(patients) and all(patients):
            return Columns(columns.patient, *list(vars(columns).values())[1:])
    return columns


def _box_words(table: Table, columns: Columns) -> Vocabulary:
    """Classes of boxes, as they occur."""
    import json

    names: set[str] = set()
    for row in table.rows if columns.boxes is not None else []:
        try:
            found = json.loads(row[columns.boxes or 0] or "[]")
        except (ValueError, RecursionError):
            continue  # the row is refused with its line number when it is read
        names.update(str(b["label"]) for b in found if isinstance(b, dict) and "label" in b)
    return guess_vocabulary(sorted(names), "multiclass")
