"""BIDS written: a subject a patient, a session a case, label maps in ``derivatives/labels``."""

from __future__ import annotations

import csv
import io
import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from medmap.dataset import Case, Dataset
from medmap.errors import DatasetError
from medmap.layouts.bids import DERIVATIVES, DESCRIPTION, PARTICIPANTS
from medmap.layouts.cases import column_cell, known_cell
from medmap.layouts.kept import kept_block, vocabulary
from medmap.layouts.placing import Placing

ENDING = ".nii.gz"
BIDS_VERSION = "1.9.0"
PIPELINE = "labels"
_INPUT = re.compile(r"((?:[a-zA-Z]+-[A-Za-z0-9+]+_)*)([A-Za-z0-9]+)")
# suffixes that the specification knows for one 3-D image of anatomy, and the folder they belong in
_ANATOMY = frozenset(
    [
        "T1w",
        "T2w",
        "PDw",
        "T2starw",
        "FLAIR",
        "inplaneT1",
        "inplaneT2",
        "PDT2",
        "angio",
        "T2star",
        "UNIT1",
        "T1map",
        "T2map",
        "defacemask",
    ]
)
_FOLDERS = {"dwi": "dwi", "bold": "func", "asl": "perf", "pet": "pet"}
_NOT_AVAILABLE = "n/a"


def write_bids(dataset: Dataset, placing: Placing) -> list[str]:
    """Place a dataset as BIDS with derivatives.

    Raises:
        DatasetError: Input names that BIDS cannot write.
        GeometryError: Pictures without millimetres, which a NIfTI file cannot be.
    """
    sessions = _sessions(dataset)
    notes: list[str] = []
    for name in dataset.inputs:
        _parts(name)
        if _parts(name)[1] not in _ANATOMY | _FOLDERS.keys():
            notes.append(
                f"BIDS knows no suffix {name}, and a validator will say so; where BIDS has one for these images (T1w, "
                "T2w, FLAIR, angio, bold, dwi, pet …), name the input after it in dataset.yaml and cases.csv"
            )
    for case, (subject, session) in zip(dataset, sessions, strict=True):
        _place(case, subject, session, placing)
    placing.text(DESCRIPTION, _json(_description(dataset)))
    pipeline = {
        "Name": f"{dataset.name}: labels",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "medmap"}],
    }
    placing.text(f"{DERIVATIVES}/{PIPELINE}/{DESCRIPTION}", _json(pipeline))
    if dataset.labels:
        rows = [["index", "name"], *([str(i), label.name] for i, label in enumerate(dataset.labels))]
        placing.text(f"{DERIVATIVES}/{PIPELINE}/dseg.tsv", _tsv(rows))
    _place_tables(dataset, sessions, placing)
    partial = [case.id for case in dataset if case.truth.known is not None]
    if partial:
        notes.append(f"{len(partial)} cases are annotated for some structures only; see the column annotated")
    return notes


def _sessions(dataset: Dataset) -> list[tuple[str, str | None]]:
    """Subject and session of each case, in letters and digits as BIDS wants them."""
    subjects: dict[str, str] = {}
    taken: set[str] = set()
    counts: dict[str, int] = defaultdict(int)
    for case in dataset:
        counts[case.patient] += 1
        if case.patient not in subjects:
            bare = re.sub(r"[^A-Za-z0-9]", "", re.sub(r"^sub-", "", case.patient)) or "x"
            name, n = bare, 1
            while name.lower() in taken:
                n += 1
                name = f"{bare}x{n}"
            taken.add(name.lower())
            subjects[case.patient] = name
    seen: dict[str, int] = defaultdict(int)
    found: list[tuple[str, str | None]] = []
    for case in dataset:
        seen[case.patient] += 1
        several = counts[case.patient] > 1
        found.append((subjects[case.patient], str(seen[case.patient]) if several else None))
    return found


def _parts(name: str) -> tuple[str, str]:
    match = _INPUT.fullmatch(name)
    if match is None or name.startswith(("sub-", "ses-")) or match[2] in ("mask", "dseg", "probseg"):
        raise DatasetError(
            "an input has a name that BIDS cannot write",
            got=repr(name),
            expected="a suffix such as T1w, letters and digits",
            remedy="rename the input",
        )
    return match[1], match[2]


def _place(case: Case, subject: str, session: str | None, placing: Placing) -> None:
    stem = f"sub-{subject}" + (f"_ses-{session}" if session else "")
    folder = f"sub-{subject}" + (f"/ses-{session}" if session else "")
    if all(ref is None for ref in case.inputs.values()):
        raise DatasetError("a case without any image cannot be in BIDS", case=case.id)
    for name, ref in case.inputs.items():
        if ref is None:
            continue
        entities, suffix = _parts(name)
        target = f"{folder}/{_FOLDERS.get(suffix, 'anat')}/{stem}_{entities}{suffix}{ENDING}"
        if placing.fits(ref, ENDING):
            placing.same(ref, target)
        else:
            placing.image(placing.read(ref), target)
    for n, ref in enumerate(case.truth.masks, 1):
        observer = f"_desc-observer{n}" if len(case.truth.masks) > 1 else ""
        target = f"{DERIVATIVES}/{PIPELINE}/{folder}/anat/{stem}{observer}_dseg{ENDING}"
        placing.mask(case, ref, target, ENDING)


def _description(dataset: Dataset) -> dict[str, Any]:
    return {
        "Name": dataset.name,
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "raw",
        **({"License": dataset.licence} if dataset.licence else {}),
        "medmap": kept_block(dataset),
    }


def _place_tables(dataset: Dataset, sessions: Sequence[tuple[str, str | None]], placing: Placing) -> None:
    """``participants.tsv``, and a table of sessions for subjects with several."""
    words = vocabulary(dataset)
    clinical = sorted({name for case in dataset for name in case.columns})
    partial = any(case.truth.known is not None for case in dataset)
    header = ["case", "patient", "site", "split", *(["annotated"] if partial else []), *clinical]
    if len(set(header)) < len(header) or {"participant_id", "session_id"} & set(header):
        raise DatasetError("a clinical column has a name that BIDS or medmap reserves", got=", ".join(clinical))

    def cells(case: Case) -> list[str]:
        patient = case.patient if dataset.patients_known or case.patient != case.id else ""
        row = [case.id, patient, case.site or "", case.split or ""]
        row += [known_cell(case.truth.known, words)] if partial else []
        return [c or _NOT_AVAILABLE for c in (*row, *(column_cell(case.columns.get(n)) for n in clinical))]

    by_subject: dict[str, list[tuple[str | None, Case]]] = defaultdict(list)
    for case, (subject, session) in zip(dataset, sessions, strict=True):
        by_subject[subject].append((session, case))
    rows = [["participant_id", *header]]
    for subject, cases in by_subject.items():
        several = len(cases) > 1
        rows.append([f"sub-{subject}", *([_NOT_AVAILABLE] * len(header) if several else cells(cases[0][1]))])
        if several:
            table = [["session_id", *header], *([f"ses-{session}", *cells(case)] for session, case in cases)]
            placing.text(f"sub-{subject}/sub-{subject}_sessions.tsv", _tsv(table))
    placing.text(PARTICIPANTS, _tsv(rows))


def _tsv(rows: Sequence[Sequence[str]]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, delimiter="\t", lineterminator="\n").writerows(rows)
    return buffer.getvalue()


def _json(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"
