"""BIDS with derivatives: subjects, sessions, suffixes; masks and label maps of ``derivatives/``.

::

    dataset_description.json   participants.tsv
    sub-01/[ses-1/]anat/sub-01_[ses-1_]T1w.nii.gz
    sub-01/sub-01_sessions.tsv
    derivatives/labels/sub-01/[ses-1/]anat/sub-01_[ses-1_]dseg.nii.gz      derivatives/labels/[…_]dseg.tsv

A case is one session of a subject; its inputs are named by suffix and the entities that tell several apart
(``acq-highres_T1w``). Files that end in ``_dseg`` hold several structures, ``_mask`` one
(bids-specification.readthedocs.io, imaging derivatives). Several pipelines, or ``desc-``, are several observers.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from medmap.dataset import COLUMN_TYPES, Case, Dataset, InputSpec, Ref, TaskName, Truth
from medmap.errors import DatasetError, LayoutError
from medmap.layouts.cases import known_classes, typed_column
from medmap.layouts.foreign import Foreign, json_object, names_by_value, parsed, require_task
from medmap.layouts.kept import vocabulary, with_kept_block
from medmap.layouts.naming import SPLIT_NAMES, natural_key
from medmap.layouts.table import Table, read_table
from medmap.results import Label

DESCRIPTION = "dataset_description.json"
PARTICIPANTS = "participants.tsv"
DERIVATIVES = "derivatives"
SUFFIXES = (".nii.gz", ".nii")
_NAME = re.compile(r"sub-([A-Za-z0-9]+)((?:_[a-zA-Z]+-[A-Za-z0-9+]+)*)_([A-Za-z0-9]+)(\.nii(?:\.gz)?)")
_TRUTH = frozenset({"mask", "dseg"})
_NOT_INPUTS = frozenset({"probseg", "xfm", "sbref"})
_CASE_COLUMNS = ("case", "patient", "split", "site", "annotated")


class _Description(Foreign):
    Name: str | None = None
    License: str | None = None
    medmap: Any = None


@dataclass(frozen=True)
class _File:
    path: str
    subject: str
    session: str | None
    entities: Mapping[str, str]
    suffix: str


def recognise_bids(path: Path) -> bool:
    """Whether ``path`` is a folder with ``dataset_description.json`` and ``sub-…`` folders."""
    if not path.is_dir() or not (path / DESCRIPTION).is_file():
        return False
    return any(p.name.startswith("sub-") and p.is_dir() for p in path.iterdir())


def open_bids(path: Path, task: TaskName | None = None) -> Dataset:
    """A BIDS folder as a dataset; reads names and tables, no pixel.

    Columns of ``participants.tsv`` and of ``…_sessions.tsv`` are clinical columns; ``split``, ``site``, ``case``,
    ``patient`` and ``annotated`` among them mean what they mean in ``cases.csv``.

    Raises:
        LayoutError: No images, or structures spread over one mask each.
        DatasetError: Tables of subjects that are not there, unknown splits.
    """
    require_task(task, "segment", "BIDS with derivatives")
    said = parsed(_Description, json_object(path / DESCRIPTION), str(path / DESCRIPTION))
    images = [f for f in _files(path, "") if f.suffix not in _TRUTH | _NOT_INPUTS]
    if not images:
        raise LayoutError(f"{path} holds no images of subjects", expected="sub-01/anat/sub-01_T1w.nii.gz")
    found: dict[tuple[str, str | None], dict[str, str]] = defaultdict(dict)
    for file in images:
        found[file.subject, file.session][_input_name(file)] = file.path
    names = sorted({name for inputs in found.values() for name in inputs}, key=natural_key)
    masks = _masks(path, found.keys())
    labels = _labels(path, masks)
    observers = sorted({o for files in masks.values() for o in files}, key=natural_key)
    cases = []
    for (subject, session), inputs in found.items():
        case = f"sub-{subject}" + (f"_ses-{session}" if session else "")
        refs = {name: Ref(inputs[name]) if name in inputs else None for name in names}
        mine = masks.get((subject, session), {})
        truth = Truth(True, masks=tuple(Ref(mine[o].path) for o in observers if o in mine)) if mine else Truth()
        cases.append(Case(case, f"sub-{subject}", refs, truth))
    dataset = Dataset(
        name=said.Name or path.resolve().name,
        task="segment",
        cases=tuple(cases),
        inputs={name: InputSpec("MR" if _is_mr(name) else None) for name in names},
        labels=labels,
        root=path,
        licence=said.License,
    )
    dataset = with_kept_block(dataset, said.medmap, str(path / DESCRIPTION))
    return _with_tables(dataset, path)


_MR = re.compile(r"(.*_)?(T1w|T2w|T2star|T2starw|FLAIR|PDw|PDT2|inplaneT[12]|angio|dwi|bold|asl|UNIT1|MTS|MTR|MP2RAGE)")


def _is_mr(name: str) -> bool:
    return bool(_MR.fullmatch(name))


def _files(root: Path, prefix: str) -> Iterator[_File]:
    """Images below ``sub-…`` folders of ``root``; ``prefix`` is written before their paths."""
    for subject in sorted((p for p in root.iterdir() if p.name.startswith("sub-") and p.is_dir()), key=_natural):
        for file in sorted(subject.rglob("*.nii*"), key=_natural):
            match = _NAME.fullmatch(file.name)
            if match is None or file.parent.name == "fmap" or file.name.startswith("."):
                continue
            if f"sub-{match[1]}" != subject.name:
                raise DatasetError(f"{file} lies in the folder of another subject", got=subject.name)
            entities = dict(e.split("-", 1) for e in match[2].strip("_").split("_") if e)
            session = entities.pop("ses", None)
            path = prefix + file.relative_to(root).as_posix()
            yield _File(path, match[1], session, entities, match[3])


def _natural(path: Path) -> tuple[tuple[int, int, str], ...]:
    return natural_key(path.as_posix())


def _input_name(file: _File) -> str:
    return "_".join([*(f"{k}-{v}" for k, v in file.entities.items()), file.suffix])


Masks = dict[tuple[str, str | None], dict[str, _File]]


def _masks(path: Path, sessions: Any) -> Masks:
    """Truth files by subject and session, then by observer; label maps before single masks."""
    if not (path / DERIVATIVES).is_dir():
        return {}
    pipelines = sorted((p for p in (path / DERIVATIVES).iterdir() if p.is_dir()), key=_natural)
    files = [
        (p.name, f)
        for p in pipelines
        for f in _files(p, f"{DERIVATIVES}/{p.name}/")
        if f.suffix in _TRUTH and (f.subject, f.session) in sessions
    ]
    wanted = "dseg" if any(f.suffix == "dseg" for _, f in files) else "mask"
    found: Masks = defaultdict(dict)
    structures = {f.entities.get("label") for _, f in files if f.suffix == "mask"}
    if wanted == "mask" and len(structures) > 1:
        raise LayoutError(
            f"{path / DERIVATIVES}: structures are spread over one mask each",
            got=", ".join(sorted(str(s) for s in structures)),
            expected="one _dseg file with all of them, or masks of one structure",
        )
    for pipeline, file in files:
        if file.suffix != wanted:
            continue
        observer = f"{pipeline}/{file.entities.get('desc', '')}"
        here = found[file.subject, file.session]
        if observer in here:
            raise LayoutError(
                f"{path / DERIVATIVES}: a session has two label maps of one observer",
                got=f"{here[observer].path} and {file.path}",
                remedy="keep those on the grid of the images",
            )
        here[observer] = file
    return found


def _labels(path: Path, masks: Masks) -> tuple[Label, ...]:
    files = [f for mine in masks.values() for f in mine.values()]
    if not files:
        return ()
    if files[0].suffix == "mask":
        return (Label("background"), Label(files[0].entities.get("label", "structure")))
    pipelines = sorted({f.path.split("/")[1] for f in files})
    for name in pipelines:
        tables = sorted((path / DERIVATIVES / name).glob("*dseg.tsv"))
        if tables:
            return _listed(read_table(tables[0]))
    return ()


def _listed(table: Table) -> tuple[Label, ...]:
    if not {"index", "name"} <= set(table.header):
        raise DatasetError(f"{table.path} names no structures", got=", ".join(table.header), expected="index, name")
    names: dict[int, str] = {}
    for n, (index, name) in enumerate(zip(table.column("index"), table.column("name"), strict=True)):
        if not index.isdigit() or not name:
            raise DatasetError(f"{table.where(n)}: no number and name of a structure", got=(index, name))
        names[int(index)] = name
    return tuple(Label(n) for n in names_by_value(names, str(table.path)))


# tables -------------------------------------------------------------------------------------------------------------


def _with_tables(dataset: Dataset, path: Path) -> Dataset:
    rows: dict[str, dict[str, str]] = {}
    sessions: dict[str, dict[str, str]] = {}
    if (path / PARTICIPANTS).is_file():
        rows = _rows(read_table(path / PARTICIPANTS), "participant_id")
        strangers = sorted(rows.keys() - {case.patient for case in dataset}, key=natural_key)
        if strangers and len(strangers) == len(rows):
            raise DatasetError(f"{path / PARTICIPANTS} names none of the subjects", got=", ".join(strangers[:3]))
    for subject in sorted({case.patient for case in dataset}):
        table = path / subject / f"{subject}_sessions.tsv"
        if table.is_file():
            for session, cells in _rows(read_table(table), "session_id").items():
                sessions[f"{subject}_{session}"] = cells
    told = [{**rows.get(c.patient, {}), **sessions.get(c.id, {})} for c in dataset]
    names = list(dict.fromkeys(name for cells in told for name in cells if name not in _CASE_COLUMNS))
    typed = {name: typed_column([cells.get(name, "") for cells in told]) for name in names}
    cases = [
        _told(case, cells, {name: values[n] for name, values in typed.items()}, dataset)
        for n, (case, cells) in enumerate(zip(dataset, told, strict=True))
    ]
    known = all(cells.get("patient", "x") for cells in told)
    return replace(dataset, cases=tuple(cases), patients_known=known)


def _rows(table: Table, key: str) -> dict[str, dict[str, str]]:
    """Rows by their key; what is not available is an empty cell."""
    if key not in table.header:
        raise DatasetError(f"{table.path} has no column {key}", got=", ".join(table.header[:10]))
    at = table.header.index(key)
    return {
        row[at]: {
            name: "" if cell == "n/a" else cell for name, cell in zip(table.header, row, strict=True) if name != key
        }
        for row in table.rows
    }


def _told(case: Case, cells: Mapping[str, str], columns: Mapping[str, COLUMN_TYPES], dataset: Dataset) -> Case:
    split = cells.get("split", "")
    if split and split.lower() not in SPLIT_NAMES:
        raise DatasetError("unknown split", got=split, expected="train, val, test", case=case.id)
    truth = case.truth
    looked_at = known_classes(cells.get("annotated", ""), case.id, vocabulary(dataset))
    if looked_at is not None:
        truth = replace(truth, known=looked_at)
    own = cells.get("case") or case.id
    return replace(
        case,
        id=own,
        patient=(cells["patient"] or own) if "patient" in cells else case.patient,
        split=SPLIT_NAMES[split.lower()] if split else None,
        site=cells.get("site") or None,
        truth=truth,
        columns=columns,
    )
