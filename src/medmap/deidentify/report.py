"""The verification report: what was done to every attribute, and what is left that should be gone.

It holds names of attributes, counts and digests, and nothing that any attribute said; it can be given away with the
data. Which source file a digest means stands in the journal.
"""

from __future__ import annotations

import json
from array import array
from collections import Counter
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from medmap.deidentify.actions import DUMMY, EMPTY
from medmap.deidentify.archive import lines_that_count
from medmap.deidentify.pixels import LIMIT_BYTES as PICTURE_LIMIT_BYTES
from medmap.deidentify.profile import Profile
from medmap.deidentify.table import CURVE, EDITION, PRIVATE, by_tag
from medmap.deidentify.walk import PATIENT_ID, PATIENT_NAME

ACTIONS = {
    "X": "removed",
    "Z": "emptied",
    "D": "replaced by a dummy",
    "U": "replaced by another UID",
    "C": "cleaned",
    "K": "kept",
}
_PSEUDONYMISED = {  # an empty value would do (Z), a pseudonym keeps a patient's files together
    f"{tag:08X}": {EMPTY, DUMMY} for tag in (PATIENT_NAME, PATIENT_ID)
}
_MOST_LISTED = 1000
_MOST_PENDING = 1 << 14


@dataclass(frozen=True)
class Verification:
    """What a run did, as a document.

    Args:
        edition: Of the table.
        methods: Codes of CID 7050 and their meaning.
        dates: Value of Longitudinal Temporal Information Modified.
        written, skipped, refused: Numbers of files.
        patients, studies, series: Numbers of different ones in the output.
        attributes: ``{tag, name, action, count}`` for each attribute and action.
        residuals: ``{place, name, kind, files}``: what is left, by attribute.
        residual_files: Output files that hold it, the first thousand.
        problems: ``{reason, files}`` of what was not copied.
        refused_files: ``{digest, reason}`` of refused files, the first thousand.
        notes: What else was done, and to how many files.
        limits: What was not looked at, in sentences.
    """

    edition: str
    methods: list[list[str]]
    dates: str
    written: int
    skipped: int
    refused: int
    patients: int
    studies: int
    series: int
    attributes: list[dict[str, object]]
    residuals: list[dict[str, Any]]
    residual_files: list[str]
    problems: list[dict[str, object]]
    refused_files: list[dict[str, str]]
    notes: list[dict[str, object]]
    limits: list[str]

    @property
    def clean(self) -> bool:
        """Whether nothing identifying was found in the output."""
        return not self.residuals


def verification(journal: Path, profile: Profile) -> Verification:
    """Add up a journal."""
    total = _Total(_done_twice(journal))
    for line in lines_that_count(journal):
        total.add(line)
    return Verification(
        edition=EDITION,
        methods=[list(code) for code in profile.method_codes],
        dates=profile.dates_modified,
        limits=limits(profile),
        written=total.used.total(),
        skipped=total.problems.total() - total.refused,
        refused=total.refused,
        patients=len(total.patients),
        studies=len(total.studies),
        series=len(total.series),
        attributes=_attributes(total.lists, total.used),
        residuals=[
            {"place": place, "name": _path_name(place), "kind": kind, "files": n}
            for (place, kind), n in sorted(total.residuals.items())
        ],
        residual_files=total.holders,
        problems=[{"reason": reason, "files": n} for reason, n in sorted(total.problems.items())],
        refused_files=total.refused_files,
        notes=[{"note": note, "files": n} for note, n in sorted(total.notes.items())],
    )


class _Total:
    """What the lines of a journal add up to; a file done twice, as after a kill, counts once."""

    def __init__(self, twice: set[str]) -> None:
        self._twice, self._seen = twice, set[str]()
        self.lists: dict[str, list[tuple[str, str, int]]] = {}
        self.used: Counter[str] = Counter()
        self.residuals: Counter[tuple[str, str]] = Counter()
        self.problems: Counter[str] = Counter()
        self.notes: Counter[str] = Counter()
        self.refused = 0
        self.refused_files: list[dict[str, str]] = []
        self.holders: list[str] = []
        self.patients, self.studies, self.series = _Distinct(), _Distinct(), _Distinct()

    def add(self, line: dict[str, Any]) -> None:
        """One line: an action list, a series whose face was looked for, or a file."""
        if "actions" in line:
            self.lists[str(line["actions"])] = [(str(t), str(a), int(n)) for t, a, n in line["rows"]]
        elif "face" in line:
            self.notes.update([str(line["note"])] if "note" in line else ())
            self._left(line, str(line["face"]))
        elif "s" in line and str(line["s"]) not in self._seen:
            if line["s"] in self._twice:
                self._seen.add(str(line["s"]))
            if "o" in line:
                self._file(line)
            else:
                self._not_copied(line)

    def _file(self, line: dict[str, Any]) -> None:
        self.used[str(line["a"])] += 1
        self.notes.update(line.get("n", ()))
        name = str(line["o"])
        patient, study, series = name.split("/")[:3]
        self.patients.add(patient)
        self.studies.add(f"{patient}/{study}")
        self.series.add(f"{patient}/{study}/{series}")
        self._left(line, name)

    def _left(self, line: dict[str, Any], holder: str) -> None:
        left = {(str(place), str(kind)) for place, kind in line.get("r", ())}
        self.residuals.update(left)
        if left and len(self.holders) < _MOST_LISTED:
            self.holders.append(holder)

    def _not_copied(self, line: dict[str, Any]) -> None:
        reason = str(line.get("fail") or line.get("skip"))
        self.problems[reason] += 1
        if "fail" in line:
            self.refused += 1
            if len(self.refused_files) < _MOST_LISTED:
                self.refused_files.append({"digest": str(line["s"]), "reason": reason})


class _Distinct:
    """Counts different words by eight bytes each, however often they come."""

    def __init__(self) -> None:
        self._known, self._new = np.zeros(0, np.int64), array("q")

    def add(self, word: str) -> None:
        """Count a word."""
        self._new.append(hash(word))
        if len(self._new) >= _MOST_PENDING:
            self._settle()

    def _settle(self) -> None:
        self._known = np.unique(np.concatenate([self._known, np.frombuffer(self._new, np.int64)]))
        self._new = array("q")

    def __len__(self) -> int:
        self._settle()
        return len(self._known)


def limits(profile: Profile) -> list[str]:
    """What a run with these options does not look at or cannot promise, in sentences for the report."""
    found = [
        "A name that stands in no identifying attribute of the same file is found in texts only by its form: after a "
        "title, beside a record number, in an address.",
        "Numbers that are measured or packed (waveforms, look-up tables, meshes) are searched for the bytes of words, "
        "not for what they draw.",
        "Video is not unpacked: every object with video is listed as something left.",
    ]
    if "pixels" in profile.clean:
        found += [
            "Original pictures of CT, MR, PET and the like were not searched for painted text; how many stands above.",
            "Very small letters and letters on heavy noise can be overlooked: look at the sheet of samples. Of many "
            "frames the first, middle and last are read, the others where they look different from these.",
            f"Pictures that unpack to more than {PICTURE_LIMIT_BYTES >> 30} GiB, and those that no decoder here reads, "
            "are listed as something left.",
        ]
    else:
        found.append("Text painted into pixels was not looked for (--clean pixels).")
    if "face" in profile.clean:
        found.append(
            "Defacing is a geometric rule, not a segmentation: teeth, the back of the neck and the form of the skull "
            "stay. Heads of fewer than eight slices are left as they are."
        )
    else:
        found.append("Faces in CT and MR of heads were not taken out (--clean face).")
    if "safe-private" in profile.keep:
        found.append("Of the standard's safe private attributes those stay that medmap knows; all others were removed.")
    return found


def _done_twice(journal: Path) -> set[str]:
    """Digests of files that stand in the journal more than once, as after a kill; eight bytes a file are held."""
    numbers = array("Q", (int(str(line["s"])[:16], 16) for line in lines_that_count(journal) if "s" in line))
    values = np.frombuffer(numbers, np.uint64)
    values.sort()
    return {f"{int(number):016x}" for number in np.unique(values[1:][values[1:] == values[:-1]])}


def _attributes(lists: dict[str, list[tuple[str, str, int]]], used: Counter[str]) -> list[dict[str, object]]:
    counts: Counter[tuple[str, str]] = Counter()
    for name, files in used.items():
        for tag, action, n in lists.get(name, ()):
            counts[tag, action] += n * files
    return [
        {"tag": tag, "name": attribute_name(tag), "action": _action_name(tag, action), "count": n}
        for (tag, action), n in sorted(counts.items())
    ]


def _action_name(tag: str, action: str) -> str:
    return "replaced by a pseudonym" if action in _PSEUDONYMISED.get(tag, ()) else ACTIONS[action]


def attribute_name(tag: str) -> str:
    """The name of an attribute by its tag or pattern; nothing of its value."""
    from pydicom.datadict import dictionary_description, dictionary_has_tag

    if tag in by_tag():
        return by_tag()[tag].name
    if tag in (PRIVATE, CURVE):
        return "Private Attributes"
    if len(tag) == 8 and all(c in "0123456789ABCDEF" for c in tag):
        number = int(tag, 16)
        if dictionary_has_tag(number):
            return str(dictionary_description(number))
        return "private attribute" if (number >> 16) % 2 else "unknown attribute"
    return {"unknown": "attributes that the standard does not know", "pixels": "pixel data"}.get(tag, tag)


def _path_name(place: str) -> str:
    return " › ".join(attribute_name(tag) for tag in place.split("/"))


def write_report(found: Verification, path: Path, samples: str | None = None) -> tuple[Path, Path]:
    """Write the report as HTML and, beside it, as JSON.

    Args:
        found: What was done.
        path: The page; its sister ends in ``.json``.
        samples: Name of a sample sheet of images that stands beside the page.

    Returns:
        Both files.
    """
    from jinja2 import Environment

    source = resources.files("medmap.deidentify").joinpath("report.html.jinja").read_text(encoding="utf-8")
    page = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(source)
    document = {"medmap_deidentification": 1, "clean": found.clean, **asdict(found)}
    sister = path.with_suffix(".json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page.render(found=found, samples=samples), encoding="utf-8")
    sister.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path, sister
