"""A synthetic set after the MIDI-B challenge: objects, what should become of each, and the score.

The kinds of action are the challenge's ten (medical image de-identification benchmark, MICCAI 2024), and attributes
that must be gone.
"""

from __future__ import annotations

import io
import random
from collections import Counter
from typing import Any

import numpy as np
import pydicom
from objects import ct_slice, file_of
from PIL import Image as Picture
from PIL import ImageDraw, ImageFont
from pydicom.dataset import Dataset

from medmap import phantom
from medmap.deidentify.instance import made
from medmap.deidentify.profile import Profile
from medmap.deidentify.secrets import Key

KEY = Key(bytes(range(32)))
KINDS = (
    "date shifted", "patient id consistent", "pixels hidden", "pixels retained", "tag removed", "tag retained",
    "text not null", "text removed", "text retained", "uid changed", "uid consistent",
)  # fmt: skip
RETAINED = (
    "Modality", "Manufacturer", "ManufacturerModelName", "Rows", "Columns", "PixelSpacing", "KVP", "SliceThickness",
    "ImagePositionPatient", "ImageOrientationPatient", "BodyPartExamined", "PatientSex", "PatientAge", "PatientWeight",
    "RescaleSlope", "RescaleIntercept", "SeriesNumber", "InstanceNumber", "ImageType", "SOPClassUID", "StudyTime",
)  # fmt: skip
CR, US = "1.2.840.10008.5.1.4.1.1.1", "1.2.840.10008.5.1.4.1.1.6.1"
SIDE = 448
Wrong = tuple[str, str, Any, str]


def score(objects: int, pictures: int, seed: int) -> tuple[Counter[str], list[Wrong]]:
    """De-identify a set and judge every action.

    Args:
        objects: Small CT slices of ten families of values, judged by header and by pixels that stay.
        pictures: Larger ones whose pixels are looked at; every second with two lines of text painted in.
        seed: Of the set.

    Returns:
        How many actions of each kind, and those that are wrong.
    """
    draw, seen = random.Random(seed), {}
    kinds: Counter[str] = Counter()
    wrong: list[Wrong] = []
    for number in range(objects + pictures):
        ds, answers = header_object(draw, number)
        ink = None
        if number >= objects:
            ink = picture_of(draw, ds, with_text=number % 2 == 0)
            answers = [
                (kind, keyword, ds[keyword].value if kind == "tag retained" else answer)
                for kind, keyword, answer in answers
                if kind != "pixels retained"
            ]
        before = ds.PixelData
        options = {"keep": ["dates-modified", "patient", "device"], "clean": ["descriptors", "structured", "pixels"]}
        result = made(io.BytesIO(file_of(ds)), Profile.of(**options), KEY)
        found = pydicom.dcmread(io.BytesIO(result.content)) if result is not None else Dataset()
        for kind, keyword, answer in answers:
            kinds[kind] += 1
            if not is_right(kind, keyword, answer, found, seen):
                wrong.append((kind, keyword, answer, str(found.get(keyword))))
        for kind, right in pixels_right(ink, before, found.PixelData) if ink is not None else ():
            kinds[kind] += 1
            if not right:
                wrong.append((kind, "PixelData", ds.Modality, f"object {number}"))
    return kinds, wrong


def picture_of(draw: random.Random, ds: Dataset, *, with_text: bool) -> list[np.ndarray]:
    """Give an object a picture of anatomy, with lines that name the patient; where each line's ink is."""
    if draw.random() < 0.5:
        image, ds.Modality, ds.SOPClassUID = phantom.ct_slice(draw.randrange(10**6), shape=(112, 112)).image, "CR", CR
    else:
        image, ds.Modality, ds.SOPClassUID = phantom.ultrasound(draw.randrange(10**6), shape=(112, 112)).image, "US", US
    array = image.array.astype(float)
    array = (array - array.min()) / np.ptp(array) * 190 + 10
    canvas = Picture.fromarray(array.astype(np.uint8)).resize((SIDE, SIDE), Picture.Resampling.BICUBIC)
    plain, lines = np.asarray(canvas).copy(), []
    name = str(ds.PatientName).replace("^", ", ").upper()
    date = ds.StudyDate
    said = [f"{name} {ds.PatientID}", f"{date[:4]}-{date[4:6]}-{date[6:]} {ds.PatientID}"]
    for text, row in zip(said, (draw.randrange(4, 60), draw.randrange(340, 400)), strict=True):
        if with_text:
            size = draw.choice([14, 16, 20, 24])
            ImageDraw.Draw(canvas).text((draw.randrange(4, 60), row), text, fill=255, font=ImageFont.load_default(size))
            lines.append(np.asarray(canvas) != plain)
            plain = np.asarray(canvas).copy()
    ds.Rows = ds.Columns = SIDE
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 8, 8, 7, 0
    ds.PixelData = np.asarray(canvas).tobytes()
    return lines


def pixels_right(lines: list[np.ndarray], before: bytes, after: bytes) -> list[tuple[str, bool]]:
    """Whether the ink of each line is gone, and whether all that is not near a line stayed."""
    old, new = (np.frombuffer(data, np.uint8).reshape(SIDE, SIDE) for data in (before, after))
    near = np.zeros(old.shape, bool)
    hidden = []
    for ink in lines:
        strong = ink & (old > 200)
        hidden.append(("pixels hidden", bool((new[strong] < 128).all())))
        rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
        reach = 2 * (rows[-1] - rows[0] + 1)
        near[max(0, rows[0] - reach) : rows[-1] + reach, max(0, columns[0] - reach) : columns[-1] + reach] = True
    return [*hidden, ("pixels retained", bool((old == new)[~near].all()))]


WORDS = ("thorax", "lung", "contrast", "axial", "follow up", "low dose", "arterial", "knee", "with and without")


def header_object(draw: random.Random, number: int) -> tuple[Dataset, list[tuple[str, str, Any]]]:
    """An object of the challenge's kind, and what should become of it: (kind, keyword, expected)."""
    family = draw.choice(["Vandermolen", "Okonkwo", "Lindqvist", "Szymanski", "Abernathy"])
    given_name = draw.choice(["Philippa", "Thaddeus", "Marguerite", "Leopold"])
    mrn = f"{draw.randrange(10**6, 10**7)}"
    date = f"20{draw.randrange(10, 22)}{draw.randrange(1, 13):02}{draw.randrange(1, 29):02}"
    spelled = draw.choice([date, f"{date[:4]}-{date[4:6]}-{date[6:]}", f"{date[4:6]}/{date[6:]}/{date[:4]}"])
    text = draw.choice(WORDS)
    identifier = draw.choice(
        [f"{given_name} {family}", f"MRN {mrn}", spelled, f"Dr. {family}", "555-201-3344", f"{family}, {given_name}"]
    )
    ds = ct_slice(
        number,
        PatientName=f"{family}^{given_name}",
        PatientID=mrn,
        StudyDate=date,
        ContentDate=date,
        SeriesDate=date,
        AcquisitionDate=date,
        SeriesDescription=f"{text} {identifier}",
        StudyDescription=text,
        PatientAge="055Y",
        ImageComments=f"{identifier} {text}",
        PatientAddress="1 Some Street",
        OtherPatientIDs=mrn,
        OperatorsName=f"{family}^A",
        ProtocolName=text,
        ManufacturerModelName="Scanner 9",
        StudyInstanceUID=f"1.2.840.99999.{mrn}",
        SOPInstanceUID=f"1.2.840.99999.{mrn}.{number}",
    )
    answers: list[tuple[str, str, Any]] = [
        ("text removed", "SeriesDescription", identifier),
        ("text removed", "ImageComments", identifier),
        ("text retained", "SeriesDescription", text),
        ("text retained", "ImageComments", text),
        ("text retained", "StudyDescription", text),
        ("text retained", "ProtocolName", text),
        ("text not null", "PatientID", None),
        ("text not null", "PatientName", None),
        ("text not null", "SeriesDescription", None),
        ("tag removed", "PatientAddress", None),
        ("tag removed", "OtherPatientIDs", None),
        *(("date shifted", k, date) for k in ("StudyDate", "SeriesDate", "ContentDate", "AcquisitionDate")),
        *(("uid changed", k, str(ds[k].value)) for k in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")),
        *(("uid consistent", k, str(ds[k].value)) for k in ("StudyInstanceUID", "SeriesInstanceUID")),
        ("patient id consistent", "PatientID", mrn),
        ("pixels retained", "PixelData", ds.PixelData),
        *(("tag retained", k, ds[k].value) for k in RETAINED),
    ]
    return ds, answers


def is_right(kind: str, keyword: str, answer: Any, found: Dataset, seen: dict[tuple[str, str], str]) -> bool:
    value = found.get(keyword)
    if kind == "tag removed":
        return keyword not in found
    if kind in ("tag retained", "pixels retained"):
        return bool(value == answer)
    if kind == "text not null":
        return bool(str(value))
    if kind == "text removed":
        return not any(word in str(value) for word in str(answer).replace(",", "").split() if len(word) > 3)
    if kind == "text retained":
        return str(answer) in str(value)
    if kind == "date shifted":
        return len(str(value)) == 8 and str(value) != answer
    if kind == "uid changed":
        return str(value) != answer and pydicom.uid.UID(str(value)).is_valid
    return seen.setdefault((kind, answer), str(value)) == str(value) != answer
