"""Every row of PS3.15 Table E.1-1 and every option column, at nesting depths 0 to 3, against an oracle of its own.

The oracle reads the published table where the shared data is here, else the packed one; types of attributes come from
highdicom's copy of PS3.3. It shares no code with the implementation.
"""

from __future__ import annotations

import csv
import io
import json
from functools import cache
from pathlib import Path
from typing import Any

import pydicom
import pytest
from objects import CT, file_of
from pydicom.config import IGNORE
from pydicom.datadict import dictionary_VR, keyword_for_tag
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from medmap.deidentify.instance import made
from medmap.deidentify.profile import KEEP, Profile
from medmap.deidentify.secrets import Key
from medmap.deidentify.walk import walked

ROOT = Path(__file__).resolve().parents[2]
JSON = ROOT.parent / "shared" / "data" / "standard" / "confidentiality_profile_attributes.json"
KEY = Key(bytes(range(32)))
COLUMNS = {
    "basic": "basicProfile", "dates": "rtnLongFullDatesOpt", "dates-modified": "rtnLongModifDatesOpt",
    "patient": "rtnPatCharsOpt", "device": "rtnDevIdOpt", "uids": "rtnUIDsOpt", "institution": "rtnInstIdOpt",
    "safe-private": "rtnSafePrivOpt", "descriptors": "cleanDescOpt", "structured": "cleanStructContOpt",
    "graphics": "cleanGraphOpt",
}  # fmt: skip
NEUTRAL = 0x00409096  # a sequence that the table does not speak of
PLANTED = "Quixotely"  # the patient's name, in every text
DEPTHS = range(4)


def read_rows() -> list[dict[str, str]]:
    if JSON.exists():
        found = []
        for row in json.loads(JSON.read_text()):
            codes = {name: row[column] for name, column in COLUMNS.items() if column in row}
            found.append({"tag": row["tag"], **codes})
        return found
    table = ROOT / "src" / "medmap" / "deidentify" / "table.tsv"
    lines = [line for line in table.read_text().splitlines() if not line.startswith("#")]
    found = []
    for row in csv.DictReader(lines, delimiter="\t"):
        tag = row["tag"] if row["tag"] != "odd" else "(GGGG,EEEE) WHERE GGGG IS ODD"
        found.append({"tag": tag, **{name: row[name] for name in COLUMNS if row[name] != "-"}})
    return found


ROWS = read_rows()


def example_tag(text: str) -> int:
    if "ODD" in text:
        return 0x00091001
    digits = "".join(c for c in text.upper() if c in "0123456789ABCDEFX")
    return int(digits.replace("50XXXXXX", "50103000").replace("60XX", "6002"), 16)


def vr_of(tag: int) -> str:
    if tag >> 24 in (0x50, 0x60):
        return "LT" if tag & 0xFFFF == 0x4000 else "OW"
    return "LO" if (tag >> 16) % 2 else str(dictionary_VR(tag))[:2]


VALUES: dict[str, Any] = {
    "AE": PLANTED.upper(), "AS": "071Y", "CS": "ODDCODE", "DA": "20190817", "DT": "20190817101112", "TM": "101112",
    "DS": "61.5", "IS": "7", "PN": f"{PLANTED}^Dulcinea", "UI": "1.2.826.0.1.3680043.9.7777.5", "UR": "http://quixotely.example",
    "US": 7, "OB": b"Quixotely bytes ", "OW": b"Quixotely bytes ", "UN": b"Quixotely bytes ",
}  # fmt: skip


def element(tag: int) -> DataElement:
    vr = vr_of(tag)
    if vr == "SQ":
        item = Dataset()
        item.CodeMeaning = f"axial view of {PLANTED}"
        item.ReferencedSOPInstanceUID = VALUES["UI"]
        return DataElement(tag, "SQ", Sequence([item]))
    # what an option keeps does not hold the name, which is taken out of every text that stays
    text = (
        f"Kept {tag:08X}" if tag in rows_with("K") else f"axial {PLANTED}" if tag in rows_with("C") else f"{PLANTED} 77"
    )
    return DataElement(tag, vr, VALUES.get(vr, text), validation_mode=IGNORE)


@cache
def rows_with(code: str) -> frozenset[int]:
    return frozenset(example_tag(row["tag"]) for row in ROWS if code in row.values())


def private_creator(tag: int) -> DataElement | None:
    return DataElement(tag >> 16 << 16 | 0x10, "LO", "QUIXOTELY PRIVATE") if (tag >> 16) % 2 else None


def nested(fill: Any) -> Dataset:
    """An object whose attributes stand at every depth."""
    top = Dataset()
    top.SOPClassUID, top.SOPInstanceUID, top.PatientName, top.PatientID = (
        CT,
        "1.2.3.4.5.6.7",
        f"{PLANTED}^Dulcinea",
        "4711-X",
    )
    level = top
    for depth in DEPTHS:
        fill(level)
        if depth < DEPTHS[-1]:
            below = Dataset()
            level[NEUTRAL] = DataElement(NEUTRAL, "SQ", Sequence([below]))
            level = below
    return top


def level_of(top: Dataset, depth: int) -> Dataset:
    for _ in range(depth):
        top = top[NEUTRAL].value[0]
    return top


def profile_of(column: str) -> Profile:
    if column == "basic":
        return Profile()
    return Profile.of(keep=[column]) if column in KEEP else Profile.of(clean=[column])


@cache
def ct_types() -> dict[str, str]:
    """Keyword of each attribute at the top of a CT image, and its strictest type, from highdicom's PS3.3."""
    from highdicom import _standard_utils as standard

    modules = standard.get_module_attribute_map()
    types: dict[str, str] = {}
    for module in standard.get_iod_module_map()["ct-image"]:
        for attribute in modules[module["key"]]:
            if not attribute["path"]:
                types[attribute["keyword"]] = min(attribute["type"], types.get(attribute["keyword"], "3"))
    return types


def expected(row: dict[str, str], column: str, tag: int, depth: int) -> str:
    """The action that the standard asks for: X, Z, D, U, K or C."""
    vr = vr_of(tag)
    code = row.get(column, "") or row["basic"]
    if code == "C" and vr in ("OB", "OW", "UN") and tag >> 24 != 0x60:
        code = row["basic"]  # bytes of a time or a curve cannot be cleaned: the Basic Profile's action
    kind = ct_types().get(keyword_for_tag(tag), "3") if depth == 0 else "3"
    if code == "C" and (tag >> 16) % 2:
        return "X"  # a private attribute that is not on the list of safe ones
    if len(code) == 1:
        return "D" if code == "Z" and kind.startswith("1") else code
    if kind.startswith("1"):
        return "U" if "U" in code else "D"
    if kind.startswith("2"):
        return "Z" if "Z" in code else "D"
    return code[0]


@cache
def output(column: str) -> Dataset:
    """An object with all rows at every depth, de-identified as a file and read again by pydicom."""

    def fill(level: Dataset) -> None:
        for row in ROWS:
            tag = example_tag(row["tag"])
            if tag >> 16 not in (0, 2):
                if creator := private_creator(tag):
                    level[creator.tag] = creator
                level[tag] = element(tag)
        if level.get("SOPClassUID"):
            level.PatientName, level.PatientID = f"{PLANTED}^Dulcinea", "4711-X"

    result = made(io.BytesIO(file_of(nested(fill))), profile_of(column), KEY)
    assert result is not None
    return pydicom.dcmread(io.BytesIO(result.content))


@cache
def command_output(tag: int, column: str) -> Dataset:
    """A group that no file may hold, walked in memory."""
    top = nested(lambda level: level.__setitem__(tag, element(tag)))
    walked(top, profile_of(column), KEY)
    return top


def text_of(value: Any) -> str:
    return "\\".join(map(str, value)) if isinstance(value, (list, pydicom.multival.MultiValue)) else str(value)


def right(action: str, level: Dataset, tag: int) -> bool:
    """Whether what is found is what the action asks for."""
    vr, before = vr_of(tag), element(tag)
    if action == "X":
        return tag not in level
    if tag not in level:
        return False
    value = level[tag].value
    if action == "Z":
        return not value or (tag in (0x00100010, 0x00100020) and text_of(value).startswith("P"))
    if action == "K" and vr != "SQ":
        return value == before.value
    if vr == "SQ":
        text = level[tag].to_json()
        # kept, cleaned and replaced sequences hold no name, and no UID of the patient's unless UIDs are kept
        return len(value) == 1 and PLANTED not in text
    if action == "D":
        return bool(value) and value != before.value and PLANTED.lower() not in text_of(value).lower()
    if action == "U":
        return text_of(value).startswith("2.25.")
    if vr == "TM" or tag == 0x00080201:
        return value == before.value or tag == 0x00080201
    if vr in ("DA", "DT"):
        return text_of(value) != text_of(before.value) and text_of(value)[8:] == text_of(before.value)[8:]
    if vr in ("LO", "SH", "ST", "LT", "UT", "UC"):
        return "axial" in value and PLANTED not in value
    return value is not None


def test_the_table_has_all_rows() -> None:
    from medmap.deidentify.table import rows

    assert len(rows()) == len(ROWS) == 621
    ours = {row.tag.upper(): row for row in rows()}
    for row in ROWS:
        tag = "ODD" if "ODD" in row["tag"] else "".join(c for c in row["tag"].upper() if c in "0123456789ABCDEFX")
        assert ours[tag].basic == row["basic"]
        assert dict(ours[tag].options) == {k: v for k, v in row.items() if k not in ("tag", "basic")}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["tag"])
def test_every_row_in_every_column_at_every_depth(row: dict[str, str]) -> None:
    tag = example_tag(row["tag"])
    wrong = []
    for column in COLUMNS:
        top = command_output(tag, column) if tag >> 16 in (0, 2) else output(column)
        for depth in DEPTHS:
            action = expected(row, column, tag, depth)
            if tag >> 16 == 0x6002 and column == "graphics":
                continue  # planes are cleaned as pictures: test_embedded
            if not right(action, level_of(top, depth), tag):
                wrong.append((column, depth, action, str(level_of(top, depth).get(tag))))
    assert not wrong
