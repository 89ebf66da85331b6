"""What identifies, spelled otherwise or standing where nobody looks, is found and goes."""

from __future__ import annotations

import io
from typing import Any

import pydicom
import pytest
from objects import ct_slice, file_of
from pydicom.config import IGNORE
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

from medmap.deidentify.instance import made
from medmap.deidentify.profile import Profile
from medmap.deidentify.secrets import Key


def deidentified(ds: Dataset, **options: Any) -> Dataset:
    result = made(io.BytesIO(file_of(ds)), Profile.of(**options), Key(bytes(range(32))))
    assert result is not None
    assert result.residuals == ()
    return pydicom.dcmread(io.BytesIO(result.content))


@pytest.mark.parametrize(
    ("name", "spelled"),
    [
        ("Quixotely^Ägidius", "QuixotelyAegidius"),
        ("Quixotely^Ägidius", "ÄGIDIUS"),
        ("Quixotely^Ägidius", "Agidius"),
        ("Quixotely^Ägidius", "A\u0308gidius"),
        ("Quixotely^Ägidius", "Quixotely1950"),
        ("Quixotely^Ägidius", "aquixotely"),
        ("Quixotely^Ägidius", "scan_quixotely_2"),
        ("Li^Wu", "LiWu"),
        ("Li^Wu", "li_wu"),
        ("Smith-Jones^Al", "SmithJones"),
        ("O'Neil^Tom", "ONeil"),
    ],
)
@pytest.mark.parametrize("clean", [[], ["descriptors", "structured"]])
def test_names_spelled_otherwise_go_too(name: str, spelled: str, clean: list[str]) -> None:
    ds = ct_slice(SpecificCharacterSet="ISO_IR 192", PatientName=name, WindowCenterWidthExplanation=spelled)
    assert spelled not in str(deidentified(ds, clean=clean).get("WindowCenterWidthExplanation"))


@pytest.mark.parametrize(
    "spelled",
    [
        *("12.6.1950", "6/12/1950", "12/06/50", "500612", "12th June 1950", "12-JUN-50", "1950 Jun 12"),
        *("19500612120000", "1950-6-12", "1950_06_12", "12 de junio de 1950", "12. Juni 1950", "DOB19500612"),
        *("1950:06:12", "12 06 1950", "12.Juni.1950", "June 12th 1950"),
    ],
)
def test_dates_spelled_otherwise_go_too(spelled: str) -> None:
    ds = ct_slice(PatientBirthDate="19500612", WindowCenterWidthExplanation=f"of {spelled}")
    assert spelled not in str(deidentified(ds).WindowCenterWidthExplanation)


@pytest.mark.parametrize("spelled", ["xPID774411y", "774411", "PID 774411", "pid-774411", "NR774411"])
def test_identifiers_within_other_words_go_too(spelled: str) -> None:
    ds = ct_slice(PatientID="PID774411", WindowCenterWidthExplanation=f"window {spelled}")
    assert "774411" not in str(deidentified(ds).WindowCenterWidthExplanation)


@pytest.mark.parametrize("group", [0x0042, 0x0054, 0x0070])
def test_a_name_is_found_whatever_tag_follows_it(group: int) -> None:
    ds = ct_slice(PatientName="Quixotely^Marla")
    for number in [n for n in ds.keys() if int(n) >= 0x00281055]:  # noqa: SIM118
        del ds[number]
    ds.add_new(0x00281055, "LO", "by Quixotely")  # of even length: the next tag's first byte, a letter, follows
    ds.add_new(group << 16 | 0x0400, "US", 1)
    result = made(io.BytesIO(file_of(ds)), Profile.of(), Key(bytes(range(32))))
    assert result is not None
    assert b"Quixotely" not in result.content


def test_a_name_is_a_name_under_another_representation() -> None:
    ds = ct_slice(PatientName=None)
    ds[0x00100010] = DataElement(0x00100010, "LO", "Quixotely^Marla", validation_mode=IGNORE)
    ds.WindowCenterWidthExplanation = "for Quixotely"
    assert "Quixotely" not in str(deidentified(ds).WindowCenterWidthExplanation)


def test_a_uid_that_only_begins_like_a_standard_one_is_mapped() -> None:
    ds = ct_slice(StudyInstanceUID="1.2.840.10008.99.774411.19500612", FrameOfReferenceUID="1.2.840.10008.1.4.1.1")
    found = deidentified(ds)
    assert found.StudyInstanceUID.startswith("2.25.")
    assert found.FrameOfReferenceUID == "1.2.840.10008.1.4.1.1"  # Talairach


def test_what_was_done_before_is_said_without_names() -> None:
    ds = ct_slice(PatientName="Quixotely^Marla", DeidentificationMethod="script of Dr. Osgoodly for Quixotely")
    method = " ".join(deidentified(ds).DeidentificationMethod)
    assert "Osgoodly" not in method
    assert "Quixotely" not in method
    assert "script" in method
