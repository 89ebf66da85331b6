"""medmap's own layout: ``dataset.yaml`` (what the data is) beside ``cases.csv`` (one row a case)."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from medmap.config import Section, parse_yaml, read_text, to_yaml, validate, write_atomically
from medmap.dataset import Dataset, InputSpec, TaskName
from medmap.errors import ConfigError, DatasetError, ReadError, UsageError
from medmap.layouts.cases import Columns, Vocabulary, cases_of, guess_vocabulary, rows_of
from medmap.layouts.hashes import HASHES, hashes_text, read_hashes
from medmap.layouts.naming import positive_index
from medmap.layouts.table import read_table
from medmap.results import Label, ScoreKind

DESCRIPTION = "dataset.yaml"
TABLE = "cases.csv"
BACKGROUND = "background"


def _name(value: Any) -> Any:
    """Numbers may be names, truth values are a name that lacks its quotes."""
    if isinstance(value, bool):
        raise ValueError("a truth value is no name; write the name in quotes")
    return str(value) if isinstance(value, int | float) else value


Name = Annotated[str, BeforeValidator(_name), Field(min_length=1, max_length=500)]


MOST_STRUCTURES = 255  # a mask's value is a byte, and the last one is what is ignored


class CodedLabel(Section):
    """A class with its code in a terminology."""

    name: Name
    code: Annotated[str, Field(description="code in a terminology, as SCT:…")] | None = None


class InputDescription(Section):
    """What is known of an input."""

    modality: Annotated[str, Field(description="DICOM modality code: CT, MR, US, DX, SM …")] | None = None
    channels: Annotated[tuple[Name, ...], Field(description="names of the channels of one file, in order")] = ()


class Description(Section):
    """``dataset.yaml``: what the cases of ``cases.csv`` mean."""

    medmap_dataset: Annotated[Literal[1], Field(description="version of this file's format")]
    name: Name
    task: TaskName
    inputs: Annotated[dict[str, InputDescription], Field(min_length=1, description="a column of cases.csv for each")]
    labels: Annotated[dict[int, Name | CodedLabel], Field(default_factory=dict, description="number → class")]
    kind: Annotated[ScoreKind | None, Field(description="how classes hang together; else seen from the table")] = None
    positive: Annotated[Name | None, Field(description="the class that a binary score speaks of")] = None
    regions: Annotated[
        dict[Name, tuple[int, ...]], Field(default_factory=dict, description="overlapping structures: name → values")
    ]
    ignore: Annotated[
        Annotated[int, Field(ge=1, le=255)] | None, Field(description="value that no loss and no metric looks at")
    ] = None
    mirror_pairs: Annotated[tuple[tuple[str, str], ...], Field(description="classes that a mirror swaps")] = ()
    root: Annotated[str, Field(description="folder that relative paths start from")] = "."
    licence: str | None = None
    source: str | None = None
    version: Annotated[int, Field(ge=1, description="one more each time corrected labels replace a version")] = 1
    parent: Annotated[str, Field(description="digest of the version that this one replaces")] | None = None

    @model_validator(mode="after")
    def _values_of_masks(self) -> Description:
        if self.ignore is not None and self.ignore in self.labels:
            raise ValueError(f"ignore: {self.ignore} is also a class under labels")
        if self.task == "segment" and len(self.labels) > MOST_STRUCTURES:
            raise ValueError(f"masks hold at most {MOST_STRUCTURES} values, the background among them")
        return self


def dataset_schema() -> dict[str, Any]:
    """The JSON Schema of ``dataset.yaml``."""
    return Description.model_json_schema()


def recognise_described(path: Path) -> bool:
    """Whether ``path`` is a ``dataset.yaml`` or a folder with one."""
    if path.is_file():
        return path.suffix.lower() in (".yaml", ".yml")
    return (path / DESCRIPTION).is_file()


def open_described(path: Path, task: TaskName | None = None) -> Dataset:
    """A dataset from its ``dataset.yaml``.

    Raises:
        ConfigError: The description is wrong.
        DatasetError: The table is wrong, or contradicts the description.
        ReadError: A file or the root folder is absent.
    """
    file = path if path.is_file() else path / DESCRIPTION
    text = read_text(file)
    said = validate(Description, parse_yaml(text, str(file)), str(file))
    if task is not None and task != said.task:
        raise DatasetError(f"{file} is about another task", got=said.task, expected=task)
    root = file.parent / said.root
    if "\0" in said.root or not root.is_dir():
        raise ReadError(f"the folder that root names in {file} does not exist", got=said.root)
    table = read_table(file.parent / TABLE)
    columns = Columns.of(table.header, list(said.inputs))
    cells = [row[columns.label] for row in table.rows] if columns.label is not None else []
    words = _vocabulary(said, cells, str(file))
    cases, known = cases_of(table, columns, words)
    return Dataset(
        name=said.name,
        task=said.task,
        cases=cases,
        inputs={name: InputSpec(spec.modality, spec.channels) for name, spec in said.inputs.items()},
        labels=words.labels,
        kind=words.kind,
        root=root,
        positive=_positive(said, words, str(file)),
        regions=dict(said.regions),
        ignore=said.ignore,
        mirror_pairs=_mirror_pairs(said, words, str(file)),
        licence=said.licence,
        source=said.source,
        patients_known=known,
        version=said.version,
        parent=said.parent,
        hashes=read_hashes(file.parent / HASHES),
    )


def _label(value: str | CodedLabel) -> Label:
    return Label(value.name, value.code) if isinstance(value, CodedLabel) else Label(value)


def _vocabulary(said: Description, cells: list[str], where: str) -> Vocabulary:
    if not said.labels:
        if said.task == "classify" or any(cells):
            return guess_vocabulary(cells, said.kind)
        return Vocabulary((), said.kind or "multiclass", {})
    given = dict(sorted(said.labels.items()))
    if said.task == "segment" and 0 not in given:
        given = {0: BACKGROUND, **given}
    first = min(given)
    if list(given) != list(range(first, first + len(given))) or (said.task == "segment" and first != 0):
        raise ConfigError(
            f"{where}: labels are not counted without gaps", got=", ".join(map(str, said.labels)), expected="0, 1, 2 …"
        )
    labels = tuple(_label(v) for v in given.values())
    kind = said.kind or guess_vocabulary(cells).kind
    if said.kind is None and kind != "multilabel":
        kind = "binary" if said.task == "classify" and len(labels) == 2 else "multiclass"
    return Vocabulary(labels, kind, {number: i for i, number in enumerate(given)})


def _positive(said: Description, words: Vocabulary, where: str) -> int | None:
    names = [label.name for label in words.labels]
    if said.positive is None:
        return positive_index(names) if words.kind == "binary" and len(names) == 2 else None
    if said.positive in names:
        return names.index(said.positive)
    if said.positive.isascii() and said.positive.isdigit() and int(said.positive) in words.numbers:
        return words.numbers[int(said.positive)]
    raise ConfigError(f"{where}: positive names no class", got=said.positive, expected=", ".join(names))


def _mirror_pairs(said: Description, words: Vocabulary, where: str) -> tuple[tuple[str, str], ...]:
    known = {label.name for label in words.labels} | set(said.regions)
    for pair in said.mirror_pairs:
        if not set(pair) <= known:
            raise ConfigError(f"{where}: mirror_pairs names an unknown class", got=pair, expected=", ".join(known))
    return said.mirror_pairs


# -- writing ---------------------------------------------------------------------------------------------------------


def write_dataset(dataset: Dataset, folder: str | Path) -> Path:
    """Write ``dataset.yaml`` and ``cases.csv`` for a dataset into a folder; images stay where they are.

    Returns:
        The path of the ``dataset.yaml``.

    Raises:
        UsageError: The folder already describes a dataset, or cannot be written.
        DatasetError: Names that the files could not give back.
    """
    folder = Path(folder)
    existing = [name for name in (DESCRIPTION, TABLE, HASHES) if (folder / name).exists()]
    if existing:
        raise UsageError(f"{folder} already holds {' and '.join(existing)}", remedy="choose another folder")
    yaml_text, table_text = texts(dataset, root_text(dataset.root, folder))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / TABLE, table_text)
        if dataset.hashes:
            write_atomically(folder / HASHES, hashes_text(dataset.hashes))
        write_atomically(folder / DESCRIPTION, yaml_text)  # last: a folder without it is no dataset
    except OSError as error:
        raise UsageError(
            f"{folder} cannot be written", got=error.strerror, remedy="free space, or permission"
        ) from error
    return folder / DESCRIPTION


def root_text(root: Path, folder: Path) -> str:
    """How ``dataset.yaml`` in ``folder`` names ``root``: relative when they live side by side, else absolute."""
    here, there = folder.resolve(), root.resolve()
    if here.parent in (there, *there.parents):
        return Path(os.path.relpath(there, here)).as_posix()
    return there.as_posix()


def texts(dataset: Dataset, root: str) -> tuple[str, str]:
    """The contents of ``dataset.yaml`` and ``cases.csv``.

    Raises:
        DatasetError: Names that the files could not give back.
    """
    words = Vocabulary(dataset.labels, dataset.kind, {i: i for i in range(len(dataset.labels))})
    rows = rows_of(dataset.cases, list(dataset.inputs), words, dataset.patients_known)
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return to_yaml(description(dataset, root)), buffer.getvalue()


def _input(spec: InputSpec) -> dict[str, Any]:
    modality = {"modality": spec.modality} if spec.modality else {}
    return modality | ({"channels": list(spec.channels)} if spec.channels else {})


def description(dataset: Dataset, root: str) -> Mapping[str, Any]:
    """The keys and values of ``dataset.yaml``; what says nothing is left out."""
    positive = None if dataset.positive is None else dataset.labels[dataset.positive].name
    optional: dict[str, Any] = {
        "labels": {
            i: {"name": label.name, "code": label.code} if label.code else label.name
            for i, label in enumerate(dataset.labels)
        },
        "kind": dataset.kind if dataset.task == "classify" else None,
        "positive": positive,
        "regions": {name: list(values) for name, values in dataset.regions.items()},
        "ignore": dataset.ignore,
        "mirror_pairs": [list(pair) for pair in dataset.mirror_pairs],
        "root": None if root == "." else root,
        "licence": dataset.licence,
        "source": dataset.source,
        "version": dataset.version if dataset.version > 1 else None,
        "parent": dataset.parent,
    }
    return {
        "medmap_dataset": 1,
        "name": dataset.name,
        "task": dataset.task,
        "inputs": {n: _input(spec) for n, spec in dataset.inputs.items()},
        **{key: value for key, value in optional.items() if value not in (None, {}, [])},
    }
