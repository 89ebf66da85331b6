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

from medmap.deidentify.archive import journal_lines
from medmap.deidentify.profile import Profile
from medmap.deidentify.table import CURVE, EDITION, PRIVATE, by_tag

ACTIONS = {
    "X": "removed",
    "Z": "emptied",
    "D": "replaced by a dummy",
    "U": "replaced by another UID",
    "C": "cleaned",
    "K": "kept",
}
_MOST_LISTED = 1000


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

    @property
    def clean(self) -> bool:
        """Whether nothing identifying was found in the output."""
        return not self.residuals


def verification(journal: Path, profile: Profile) -> Verification:
    """Add up a journal."""
    lists: dict[str, list[tuple[str, str, int]]] = {}
    used: Counter[str] = Counter()
    residuals: Counter[tuple[str, str]] = Counter()
    problems: Counter[str] = Counter()
    notes: Counter[str] = Counter()
    holders: list[str] = []
    refused: list[dict[str, str]] = []
    places: tuple[set[str], set[str], set[str]] = (set(), set(), set())
    twice = _done_twice(journal)
    seen: set[str] = set()
    for line in journal_lines(journal):
        digest = str(line.get("s", ""))
        if "actions" in line:
            lists[str(line["actions"])] = [(str(t), str(a), int(n)) for t, a, n in line["rows"]]  # type: ignore[attr-defined]
        if "face" in line:
            notes.update([str(line["note"])] if "note" in line else ())
            faces = {(str(place), str(kind)) for place, kind in line.get("r", ())}  # type: ignore[attr-defined]
            residuals.update(faces)
            holders.extend([str(line["face"])] if faces and len(holders) < _MOST_LISTED else ())
        if not digest or digest in seen:
            continue
        if digest in twice:
            seen.add(digest)
        if "o" not in line:
            reason = str(line.get("fail") or line.get("skip"))
            problems[reason] += 1
            if "fail" in line and len(refused) < _MOST_LISTED:
                refused.append({"digest": digest, "reason": reason})
            continue
        used[str(line["a"])] += 1
        parts = str(line["o"]).split("/")
        for level, found in enumerate(places, 1):
            found.add("/".join(parts[:level]))
        notes.update(line.get("n", ()))  # type: ignore[call-overload]
        left = {(str(place), str(kind)) for place, kind in line.get("r", ())}  # type: ignore[attr-defined]
        residuals.update(left)
        if left and len(holders) < _MOST_LISTED:
            holders.append(str(line["o"]))
    failed = sum(n for reason, n in problems.items() if reason not in ("not DICOM", "DICOMDIR"))
    return Verification(
        edition=EDITION,
        methods=[list(code) for code in profile.method_codes],
        dates=profile.dates_modified,
        written=used.total(),
        skipped=problems.total() - failed,
        refused=failed,
        patients=len(places[0]),
        studies=len(places[1]),
        series=len(places[2]),
        attributes=_attributes(lists, used),
        residuals=[
            {"place": place, "name": _path_name(place), "kind": kind, "files": n}
            for (place, kind), n in sorted(residuals.items())
        ],
        residual_files=holders,
        problems=[{"reason": reason, "files": n} for reason, n in sorted(problems.items())],
        refused_files=refused,
        notes=[{"note": note, "files": n} for note, n in sorted(notes.items())],
    )


def _done_twice(journal: Path) -> set[str]:
    """Digests of files that stand in the journal more than once, as after a kill; eight bytes a file are held."""
    numbers = array("Q", (int(str(line["s"])[:16], 16) for line in journal_lines(journal) if "s" in line))
    values, counts = np.unique(np.frombuffer(numbers, np.uint64), return_counts=True)
    return {f"{int(number):016x}" for number in values[counts > 1]}


def _attributes(lists: dict[str, list[tuple[str, str, int]]], used: Counter[str]) -> list[dict[str, object]]:
    counts: Counter[tuple[str, str]] = Counter()
    for name, files in used.items():
        for tag, action, n in lists.get(name, ()):
            counts[tag, action] += n * files
    return [
        {"tag": tag, "name": attribute_name(tag), "action": ACTIONS[action], "count": n}
        for (tag, action), n in sorted(counts.items())
    ]


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
