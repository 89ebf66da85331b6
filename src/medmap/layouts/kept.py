"""What medmap knows of a dataset and a foreign layout has no place for, kept beside that layout's own files.

* ``medmap.csv``: ``case, patient, site, split, annotated`` and clinical columns, one row a case. Other programs leave
  it alone; anybody may write one by hand beside a dataset of theirs.
* a ``medmap`` block in the layout's JSON: names of inputs, coded labels, regions, ignore value, mirror pairs.
"""

from __future__ import annotations

import csv
import io
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from medmap.config import validate
from medmap.dataset import COLUMN_TYPES, Case, Dataset, InputSpec
from medmap.errors import ConfigError, DatasetError, LayoutError, QualityWarning
from medmap.layouts.cases import ID_COLUMNS, Vocabulary, column_cell, known_cell, known_classes, typed_column
from medmap.layouts.described import Description, description
from medmap.layouts.naming import SPLIT_NAMES
from medmap.layouts.table import Table, read_table
from medmap.results import Label

KEPT_TABLE = "medmap.csv"
_KEYS = ("inputs", "labels", "regions", "ignore", "mirror_pairs", "licence", "source", "version", "parent")


def vocabulary(dataset: Dataset) -> Vocabulary:
    """The words of a dataset's cells."""
    return Vocabulary(dataset.labels, dataset.kind, {i: i for i in range(len(dataset.labels))})


def kept_table(dataset: Dataset) -> str:
    """The contents of ``medmap.csv``."""
    words = vocabulary(dataset)
    clinical = sorted({name for case in dataset for name in case.columns})
    reserved = sorted(set(clinical) & {*ID_COLUMNS, "annotated"})
    if reserved:
        raise DatasetError("a clinical column has a name that the table reserves", got=", ".join(reserved))
    partial = ["annotated"] if any(case.truth.known is not None for case in dataset) else []
    buffer = io.StringIO()
    rows = csv.writer(buffer, lineterminator="\n")
    rows.writerow([*ID_COLUMNS, *partial, *clinical])
    for case in dataset:
        patient = case.patient if dataset.patients_known or case.patient != case.id else ""
        cells = [case.id, patient, case.site or "", case.split or ""]
        cells += [known_cell(case.truth.known, words)] if partial else []
        rows.writerow([*cells, *(column_cell(case.columns.get(name)) for name in clinical)])
    return buffer.getvalue()


def with_kept_table(dataset: Dataset, folder: Path, *, part: bool = False) -> Dataset:
    """The dataset with what ``medmap.csv`` in ``folder`` says; unchanged when there is none.

    Args:
        dataset: As the layout tells it.
        folder: Where the table stands.
        part: Whether the dataset is one of several files of the folder; rows of the others are left alone.

    Raises:
        DatasetError: Rows for cases that are not there, no ``case`` column, unknown splits or classes.
    """
    path = folder / KEPT_TABLE
    if not path.is_file():
        return dataset
    table = read_table(path)
    if "case" not in table.header:
        raise DatasetError(f"{path} has no column case", got=", ".join(table.header[:20]))
    ids = table.column("case")
    have = {case.id for case in dataset}
    strangers = [i for i in ids if i not in have]
    if (strangers and not part) or len(set(ids)) != len(ids):
        raise DatasetError(
            f"{path} names cases that are not in the dataset, or one twice", got=", ".join(strangers[:5]) or "one twice"
        )
    at = {case_id: n for n, case_id in enumerate(ids)}
    typed = {name: typed_column(table.column(name)) for name in table.header if name not in (*ID_COLUMNS, "annotated")}
    words = vocabulary(dataset)
    cases = [_told(case, table, at.get(case.id), typed, words) for case in dataset]
    order = sorted(range(len(cases)), key=lambda n: at.get(cases[n].id, len(at)))
    known = "patient" in table.header and have <= at.keys() and all(table.column("patient"))
    return replace(dataset, cases=tuple(cases[n] for n in order), patients_known=known or dataset.patients_known)


def _told(
    case: Case, table: Table, n: int | None, typed: Mapping[str, Sequence[COLUMN_TYPES]], words: Vocabulary
) -> Case:
    if n is None:
        return case
    cells = dict(zip(table.header, table.rows[n], strict=True))
    truth = case.truth
    looked_at = known_classes(cells.get("annotated", ""), table.where(n), words)
    if looked_at is not None:
        truth = replace(truth, known=looked_at)
    split = case.split
    if "split" in cells:
        split = SPLIT_NAMES.get(cells["split"].lower()) if cells["split"] else None
        if cells["split"] and split is None:
            raise DatasetError(f"{table.where(n)}: unknown split", got=repr(cells["split"]))
    return replace(
        case,
        patient=cells.get("patient") or case.patient,
        site=cells.get("site") or case.site,
        split=split,
        truth=truth,
        columns={**case.columns, **{name: values[n] for name, values in typed.items()}},
    )


def kept_block(dataset: Dataset) -> dict[str, Any]:
    """The ``medmap`` block of a layout's JSON."""
    said = description(dataset, ".")
    return {key: said[key] for key in _KEYS if key in said}


def with_kept_block(dataset: Dataset, block: object, where: str) -> Dataset:
    """The dataset with what a ``medmap`` block says beyond the layout's own words, which win where both speak.

    Raises:
        LayoutError: No block that medmap wrote.
    """
    if block is None:
        return dataset
    base = {"medmap_dataset": 1, "name": dataset.name, "task": dataset.task, "inputs": {"image": {}}}
    try:
        if not isinstance(block, dict) or not set(block) <= set(_KEYS):
            raise ConfigError("no block", got=repr(block)[:80])
        said = validate(Description, {**base, **block}, where)
    except ConfigError as error:
        raise LayoutError(f"{where}: the medmap block cannot be understood", got=str(error)) from error
    changes: dict[str, Any] = {"mirror_pairs": said.mirror_pairs, "version": said.version, "parent": said.parent}
    changes["licence"] = dataset.licence or said.licence
    changes["source"] = dataset.source or said.source
    regions = {name: tuple(values) for name, values in said.regions.items()}
    labels = tuple(Label(v) if isinstance(v, str) else Label(v.name, v.code) for _, v in sorted(said.labels.items()))
    if labels and sorted(said.labels) == list(range(len(labels))) and _agree(dataset, labels, regions):
        changes |= {"labels": labels, "regions": regions}
        changes["ignore"] = dataset.ignore if dataset.ignore is not None else said.ignore
    elif labels:
        warnings.warn(f"{where}: labels were changed since the export; its own are taken", QualityWarning, stacklevel=4)
    if len(said.inputs) == len(dataset.inputs) == 1 or said.inputs.keys() == dataset.inputs.keys():
        changes |= _renamed(dataset, said)
    return replace(dataset, **changes)


def _agree(dataset: Dataset, labels: tuple[Label, ...], regions: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether the layout's own words say the same: its labels, or, in nnU-Net's way, its regions.

    nnU-Net names regions of several values, and writes one of a single value as that value's name.
    """
    names = tuple(label.name for label in labels)
    if not dataset.regions and dataset.label_names == names:
        return True
    several = {name: values for name, values in regions.items() if len(values) > 1}
    single = {values[0]: name for name, values in regions.items() if len(values) == 1}
    made = all(dataset.label_names[i] == name for i, name in single.items() if i < len(dataset.labels))
    top = max((v for values in regions.values() for v in values), default=0)
    return made and dict(dataset.regions) == several and len(dataset.labels) == top + 1 <= len(labels)


def _renamed(dataset: Dataset, said: Description) -> dict[str, Any]:
    # several are told apart by name, never by order
    names = (
        dict(zip(dataset.inputs, said.inputs, strict=True)) if len(said.inputs) == 1 else {n: n for n in said.inputs}
    )
    inputs = {name: InputSpec(spec.modality, spec.channels) for name, spec in said.inputs.items()}
    cases = tuple(replace(c, inputs={names[name]: ref for name, ref in c.inputs.items()}) for c in dataset)
    return {"inputs": inputs, "cases": cases}
