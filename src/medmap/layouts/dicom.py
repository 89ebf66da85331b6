"""What every hospital has: a folder of DICOM studies, and often a spreadsheet of labels beside it.

A case is one series of a study. Truth is what lies in the archive itself (segmentations, structure sets) or the row of
a spreadsheet. Patients get pseudonyms in the order of their identifiers, so that no identifier of a patient leaves the
archive; site and scanner come from the headers as columns.
"""

from __future__ import annotations

import csv
import io
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from medmap.dataset import COLUMN_TYPES, Case, Dataset, InputSpec, Ref, TaskName
from medmap.errors import DatasetError, LayoutError, ReadError, counted
from medmap.layouts.cases import Vocabulary, guess_vocabulary, is_truth_column, typed_column
from medmap.layouts.dicom_truth import Truths, relative, truths_of
from medmap.layouts.join import KEY_COLUMNS, Joined, Keys, join, label_column, near_keys, plain_name
from medmap.layouts.naming import positive_index
from medmap.layouts.spreadsheet import read_spreadsheet
from medmap.layouts.table import Table
from medmap.read.dicom.choose import choose
from medmap.read.dicom.file import is_dicom
from medmap.read.dicom.studies import Series, Study, studies

PICTURES = ("volume", "picture", "cine")
LOOKED_AT = 400  # files of a folder from which it is told what it is
INPUT = "image"
UNMATCHED = "unmatched.csv"
NO_IMAGE, NO_ROW = "no image of this key", "no row of the table"
# attribute → column; what differs between scanners and may give a class away
COLUMNS: Mapping[str, str] = {
    "PatientSex": "sex",
    "PatientAge": "age",
    "Manufacturer": "manufacturer",
    "ManufacturerModelName": "scanner",
    "MagneticFieldStrength": "field_strength_t",
    "KVP": "tube_voltage_kv",
    "ConvolutionKernel": "kernel",
    "SliceThickness": "slice_thickness_mm",
    "BodyPartExamined": "body_part",
    "SeriesDescription": "series",
}
# columns of a spreadsheet that name a person and stay where they are
NAMES = ("patientname", "name", "firstname", "lastname", "surname", "birthdate", "dateofbirth", "dob", "address")


@dataclass(frozen=True)
class Left:
    """Something on one side for which there is nothing on the other.

    Args:
        side: ``table`` or ``images``.
        key: By what it is known there.
        reason: Why it became no case.
        near: Keys of the other side that are left too and differ by one letter: perhaps meant.
    """

    side: str
    key: str
    reason: str
    near: tuple[str, ...] = ()

    @property
    def reason_in_full(self) -> str:
        """The reason, with the keys that are near; for the list beside the data, not for the screen."""
        return self.reason + (f" (near: {', '.join(self.near[:3])})" if self.near else "")


@dataclass(frozen=True)
class Archive:
    """A dataset made from DICOM studies, and what did not become a case.

    Args:
        dataset: The dataset.
        left: Rows and studies that are no case.
        joined_by: ``accession (AccessionNumber)`` …; None without a spreadsheet.
        notes: What a person should know of the joining.
    """

    dataset: Dataset
    left: tuple[Left, ...] = ()
    joined_by: str | None = None
    notes: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Plain values for a machine: by what was joined, and what is left on each side."""
        left = {side: [one.key for one in self.left if one.side == side] for side in ("table", "images")}
        return {"joined_by": self.joined_by, "unmatched": left, "notes": list(self.notes)}

    def as_lines(self) -> list[str]:
        """What a person should read after an import."""
        lines = [] if self.joined_by is None else [f"joined by {self.joined_by}"]
        sides = (("table", "row", "rows", "without an image"), ("images", "study", "studies", "that became no case"))
        for side, one_, several, what in sides:
            mine = [one for one in self.left if one.side == side]
            reasons = Counter(one.reason for one in mine)
            if mine:
                told = "; ".join(f"{n} {reason}" for reason, n in reasons.most_common(3))
                near = sum(bool(one.near) for one in mine)
                typed = f", {near} of them with a key near to theirs" if near else ""
                lines.append(f"{counted(len(mine), one_, several)} {what} ({told}): listed in {UNMATCHED}{typed}")
        return [*lines, *(f"note: {note}" for note in self.notes)]

    def left_csv(self) -> str:
        """What did not match as a table: side, key, reason."""
        buffer = io.StringIO()
        rows = csv.writer(buffer, lineterminator="\n")
        rows.writerow(["side", "key", "reason"])
        rows.writerows([one.side, one.key, one.reason_in_full] for one in self.left)
        return buffer.getvalue()


@dataclass(frozen=True)
class _Found:
    """One series that may become a case."""

    study: Study
    series: Series

    @property
    def keys(self) -> Keys:
        return Keys(self.series.uid, self.study.uid, self.series.accession, self.series.patient_id)


@dataclass(frozen=True)
class _Sheet:
    """A spreadsheet whose rows were joined: its label column, and series → row."""

    table: Table
    label: str | None
    row_of: Mapping[str, int]

    def cells(self, column: str, series: Iterable[str]) -> list[str]:
        """The cells of one column for some series."""
        at = self.table.header.index(column)
        return [self.table.rows[self.row_of[uid]][at] for uid in series]


def recognise_dicom(path: Path) -> bool:
    """Whether a path is a folder of DICOM studies: one patient in each of its folders, not one class."""
    if not path.is_dir():
        return False
    tops: dict[str, set[str]] = defaultdict(set)
    files = islice((f for f in _files(path)), LOOKED_AT)
    seen = [f for f in files if _is_dicom(f)]
    if not seen:
        return False
    for file in seen[:: max(1, len(seen) // 40)]:
        parts = file.relative_to(path).parts
        tops[parts[0] if len(parts) > 1 else ""].add(_patient_of(file))
    several = sum(len(patients) > 1 for patients in tops.values())
    flat = len(tops) == 1
    return flat or 2 * several < len(tops)


def _files(path: Path) -> Iterable[Path]:
    for folder, inner, names in os.walk(path):
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        yield from (Path(folder) / name for name in sorted(names) if not name.startswith("."))


def _is_dicom(file: Path) -> bool:
    if not file.is_file():
        return False
    with file.open("rb") as opened:
        return is_dicom(opened.read(512))


def _patient_of(file: Path) -> str:
    try:
        found = next(iter(studies(file)), None)
    except ReadError:  # one damaged file does not decide what its folder is; reading the studies names it
        return ""
    return "" if found is None else found.patient_id


def open_dicom_studies(path: Path, task: TaskName | None = None) -> Dataset:
    """A folder of DICOM studies in place: every series of images is a case.

    A spreadsheet in the folder itself is taken for its labels when it has a key column and a column of labels.

    Raises:
        LayoutError: No series of images.
        DatasetError: A spreadsheet that cannot be joined.
    """
    sheet = _own_spreadsheet(path)
    return dicom_dataset(path, labels=sheet, task=task).dataset


def _own_spreadsheet(path: Path) -> Path | None:
    found = [
        file
        for file in sorted(path.iterdir() if path.is_dir() else ())
        if file.suffix.lower() in (".csv", ".tsv", ".xlsx") and file.name != UNMATCHED
    ]
    return found[0] if len(found) == 1 else None


def dicom_dataset(
    path: str | Path,
    *,
    labels: str | Path | None = None,
    on: str | None = None,
    label: str | None = None,
    series: str | None = None,
    task: TaskName | None = None,
) -> Archive:
    """A dataset from DICOM studies, joined with a spreadsheet where there is one.

    Args:
        path: A folder, zip or DICOMDIR.
        labels: A CSV file or workbook with one row a series, study or patient.
        on: series, study, accession or patient: by what the rows are joined; None takes the most exact that matches.
        label: The column that holds the label; None takes the one whose name says so.
        series: Which series of a study is meant, in words: ``axial T1 after contrast, >= 20 slices``.
        task: classify or segment, where both a label and masks are there.

    Returns:
        The dataset, and what did not match, on both sides.

    Raises:
        LayoutError: No series of images in the archive.
        DatasetError: Rows that contradict each other; nothing matches; studies with several series and no rule.
    """
    path = Path(path)
    found = list(studies(path))
    candidates = _candidates(found, series)
    if not candidates:
        what = Counter(s.kind for study in found for s in study.series)
        raise LayoutError(
            f"no series of {path} can be a case",
            got=", ".join(f"{n} {kind}" for kind, n in what.most_common()) or "no DICOM object",
            expected="series of images" + (f" that match {series!r}" if series else ""),
            remedy="a rule takes derived series only when it says so: 'derived, …'"
            if series and what["derived"]
            else None,
        )
    truths = truths_of(found)
    if labels is None:
        data = _dataset(path, candidates, truths, task, ids=_ids(found, candidates))
        return Archive(data, notes=tuple(truths.notes))
    table = read_spreadsheet(Path(labels))
    joined = join(table, [one.keys for one in candidates], on)
    chosen, left = _one_a_study(candidates, joined, found)
    column = label_column(table, label)
    if column is None and task == "classify":
        raise DatasetError(
            f"{table.path.name} has no column of labels",
            got=", ".join(table.header[:12]),
            remedy="name it: --label-column",
        )
    sheet = _Sheet(table, column, {candidates[i].series.uid: joined.row_of[i] for i in chosen})
    picked = [candidates[i] for i in chosen]
    ids = _ids(found, picked)
    dataset = _dataset(path, picked, truths, task, ids=ids, sheet=sheet)
    keys = table.column(joined.column)
    left += [Left("table", keys[n], NO_IMAGE) for n in joined.rows_left]
    left = _with_near(left)
    return Archive(dataset, tuple(left), f"{joined.level} ({joined.column})", (*_notes(joined, dataset), *truths.notes))


def _notes(joined: Joined, dataset: Dataset) -> tuple[str, ...]:
    notes = []
    if joined.loosely:
        notes.append(
            f"{counted(len(joined.loosely), 'key')} matched only after leading zeros or letter case were left aside: "
            "the spreadsheet has lost them"
        )
    if joined.level == "patient" and len({c.patient for c in dataset}) < len(dataset):
        notes.append("rows were joined by patient: each study of a patient got the same label")
    return tuple(notes)


def _candidates(found: Sequence[Study], rule: str | None) -> list[_Found]:
    result = []
    for study in found:
        pictures = [s for s in study.series if s.kind in PICTURES]
        # of an archive that was converted or anonymised every picture may call itself derived
        pictures = pictures or [s for s in study.series if s.kind == "derived"]
        if rule is not None:
            pictures = choose([s for s in study.series if s.kind in (*PICTURES, "derived", "localiser")], rule)
        result += [_Found(study, one) for one in pictures]
    return result


def _one_a_study(candidates: Sequence[_Found], joined: Joined, found: Sequence[Study]) -> tuple[list[int], list[Left]]:
    """The candidates that become cases: one a study (a row that names a series means that one), and the rest."""
    by_study: dict[str, list[int]] = defaultdict(list)
    for i, one in enumerate(candidates):
        by_study[one.study.uid].append(i)
    chosen: list[int] = []
    left: list[Left] = []
    several: list[str] = []
    for study in found:
        indices = by_study.get(study.uid, [])
        mine = [i for i in indices if i in joined.row_of]
        key = _named(study, joined)
        if not indices:
            left.append(Left("images", key, "no series of images, or none that the rule takes"))
        elif not mine:
            left.append(Left("images", key, NO_ROW))
        elif joined.level == "series" or len(mine) == 1:
            chosen += mine
        else:
            several += [candidates[i].series.description or candidates[i].series.modality for i in mine]
            left.append(Left("images", key, f"{len(mine)} series could be meant; say which with a rule"))
    if not chosen:
        counts = ", ".join(f"{name!r} ({n})" for name, n in Counter(several).most_common(6))
        raise DatasetError(
            "every study that matches holds several series, and which one is meant is not said",
            got=counts or "no study",
            remedy="give a rule: --series 'axial T1, largest', or rows that name a SeriesInstanceUID",
        )
    return chosen, left


def _with_near(left: Sequence[Left]) -> list[Left]:
    """What is left, with keys of the other side that are left too and look alike."""
    rows = [one.key for one in left if one.reason == NO_IMAGE]
    images = [one.key for one in left if one.reason == NO_ROW]
    near = {NO_IMAGE: near_keys(rows, images), NO_ROW: near_keys(images, rows)}
    return [replace(one, near=tuple(near.get(one.reason, {}).get(one.key, ()))) for one in left]


def _named(study: Study, joined: Joined) -> str:
    """What a study is called on the list of what is left: by the key that was asked for, else its UID."""
    keys = {"accession": study.accession, "patient": study.patient_id, "study": study.uid}
    return keys.get(joined.level) or study.uid


# -- cases ------------------------------------------------------------------------------------------------------------


def _ids(found: Sequence[Study], chosen: Sequence[_Found]) -> dict[str, tuple[str, str]]:
    """Series → (case, patient): pseudonyms by the order of patient identifiers, numbers within a patient."""
    patients = sorted({study.patient_id or study.uid for study in found})
    pseudonym = {name: f"P{n + 1:0{max(4, len(str(len(patients))))}d}" for n, name in enumerate(patients)}
    result: dict[str, tuple[str, str]] = {}
    counts: Counter[str] = Counter()
    totals = Counter(pseudonym[one.study.patient_id or one.study.uid] for one in chosen)
    for one in sorted(chosen, key=lambda o: (o.study.patient_id, o.study.date, o.study.uid, o.series.number or 0)):
        patient = pseudonym[one.study.patient_id or one.study.uid]
        counts[patient] += 1
        case = patient if totals[patient] == 1 else f"{patient}-{counts[patient]}"
        result[one.series.uid] = (case, patient)
    return result


def _dataset(
    path: Path,
    chosen: Sequence[_Found],
    truths: Truths,
    task: TaskName | None,
    *,
    ids: Mapping[str, tuple[str, str]],
    sheet: _Sheet | None = None,
) -> Dataset:
    root = path if path.is_dir() else path.parent
    series = [one.series.uid for one in chosen]
    kind, words, by_sheet = _meant(truths, task, series, sheet)
    cases = []
    for one in sorted(chosen, key=lambda o: ids[o.series.uid]):
        case, patient = ids[one.series.uid]
        if by_sheet is not None:
            (cell,) = by_sheet.cells(str(by_sheet.label), [one.series.uid])
            truth = words.truth(cell, by_sheet.table.where(by_sheet.row_of[one.series.uid]))
        else:
            truth = truths.of(one.series.uid, kind, words, root)
        cases.append(
            Case(case, patient, {INPUT: _ref(one.series, root)}, truth, None, _site(one.series), _columns(one.series))
        )
    cases = _without_empty_columns(cases)
    if sheet is not None:
        cases = _with_table_columns(cases, chosen, ids, sheet)
    modalities = {one.series.modality for one in chosen}
    return Dataset(
        name=path.stem or path.resolve().name,
        task=kind,
        cases=tuple(cases),
        inputs={INPUT: InputSpec(modalities.pop() if len(modalities) == 1 else None)},
        labels=words.labels,
        kind=words.kind,
        root=root,
        positive=positive_index([x.name for x in words.labels]) if words.kind == "binary" else None,
        patients_known=all(one.study.patient_id for one in chosen),
    )


def _without_empty_columns(cases: list[Case]) -> list[Case]:
    """The cases without the headers' columns that are filled in none of them: a CT has no field strength."""
    kept = {name for case in cases for name, value in case.columns.items() if value is not None}
    return [
        replace(case, columns={name: value for name, value in case.columns.items() if name in kept}) for case in cases
    ]


def _meant(
    truths: Truths, task: TaskName | None, series: Sequence[str], sheet: _Sheet | None
) -> tuple[TaskName, Vocabulary, _Sheet | None]:
    """The task, its classes, and the spreadsheet where that is where the truth stands."""
    labelled = sheet is not None and sheet.label is not None
    kind: TaskName = task or ("classify" if labelled else truths.task(series) or "classify")
    if sheet is not None and labelled and kind == "classify":
        return kind, guess_vocabulary(sheet.cells(str(sheet.label), sheet.row_of)), sheet
    return kind, truths.vocabulary(kind, series), None


def _ref(series: Series, root: Path) -> Ref:
    """A file for a series of one, else the folder that holds the series and its UID."""
    paths = {instance.path for instance in series.instances}
    zipped = any(instance.member is not None for instance in series.instances)
    if len(paths) == 1 and not zipped:
        return Ref(relative(next(iter(paths)), root))
    where = next(iter(paths)) if zipped else Path(os.path.commonpath([p.parent for p in paths]))
    return Ref(relative(where, root), series.uid)


def _site(series: Series) -> str | None:
    return str(series.headers.get("InstitutionName") or "").strip() or None


def _columns(series: Series) -> dict[str, COLUMN_TYPES]:
    found: dict[str, COLUMN_TYPES] = {}
    for keyword, name in COLUMNS.items():
        value = series.headers.get(keyword)
        if isinstance(value, list | tuple):
            value = "\\".join(str(v) for v in value)
        if keyword == "PatientAge":
            found[name] = _years(str(value or ""))
        elif isinstance(value, int | float):
            found[name] = float(value)
        else:
            found[name] = str(value).strip() if value else None
    return found


def _years(text: str) -> float | None:
    """Years of an age string (PS3.5 section 6.2, AS).

    Example:
        >>> _years("045Y"), _years("006M"), _years("x")
        (45.0, 0.5, None)
    """
    unit = {"Y": 1.0, "M": 12.0, "W": 52.1775, "D": 365.2425}.get(text[-1:].upper())
    return float(text[:-1]) / unit if unit and text[:-1].isdigit() else None


def _with_table_columns(
    cases: Sequence[Case], chosen: Sequence[_Found], ids: Mapping[str, tuple[str, str]], sheet: _Sheet
) -> list[Case]:
    """The other columns of the spreadsheet; keys, and what names a person, stay behind."""
    left = {name for names in KEY_COLUMNS.values() for name in names} | {*NAMES, "split", "site", "case"}
    wanted = [
        c for c in sheet.table.header if c != sheet.label and plain_name(c) not in left and not is_truth_column(c)
    ]
    series_of = {ids[one.series.uid][0]: one.series.uid for one in chosen}
    series = [series_of[case.id] for case in cases]
    taken = {*COLUMNS.values(), INPUT}
    values = {f"table_{c}" if c in taken else c: typed_column(sheet.cells(c, series)) for c in wanted}
    return [
        replace(case, columns={**case.columns, **{name: cells[n] for name, cells in values.items()}})
        for n, case in enumerate(cases)
    ]
