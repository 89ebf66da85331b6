"""RT structure sets in: regions of interest with their names, codes, colours and contours in millimetres.

PS3.3 C.8.8.5 (Structure Set), C.8.8.6 (ROI Contour) and C.8.8.8 (RT ROI Observations). Filling the contours on a grid
is the matter of ``contours``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medmap.errors import ReadError
from medmap.geometry import Floats
from medmap.read.dicom.document import code_of, document, items
from medmap.results import Label

STRUCTURE_SET = "1.2.840.10008.5.1.4.1.1.481.3"
# PS3.3 C.8.8.6.1; the first two enclose an area
CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
CONTOUR_KINDS = (*CLOSED, "OPEN_PLANAR", "OPEN_NONPLANAR", "POINT")


@dataclass(frozen=True, eq=False)
class Contour:
    """One line or point of a region.

    Args:
        kind: ``CLOSED_PLANAR``, ``CLOSEDPLANAR_XOR``, ``OPEN_PLANAR``, ``OPEN_NONPLANAR`` or ``POINT``.
        points_mm: (points, 3) in LPS millimetres; the closing line back to the first point is not repeated.
        image_uids: SOP Instance UIDs of the images that it was drawn on, where stated.
    """

    kind: str
    points_mm: Floats
    image_uids: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Roi:
    """One region of interest.

    Args:
        number: ROI Number, unique in the structure set.
        label: Its name, and its code (``SCT:…|Meaning``) where one is stated.
        frame_of_reference: UID of the space in which the contours lie.
        contours: All its contours, in file order.
        colour: Red, green and blue from 0 to 255, or None.
        interpreted_type: RT ROI Interpreted Type, such as ``ORGAN`` or ``GTV``; may be empty.
        algorithm: ``AUTOMATIC``, ``SEMIAUTOMATIC``, ``MANUAL`` or empty.
        description: In words; may be empty.
    """

    number: int
    label: Label
    frame_of_reference: str
    contours: tuple[Contour, ...] = ()
    colour: tuple[int, int, int] | None = None
    interpreted_type: str = ""
    algorithm: str = ""
    description: str = ""

    @property
    def name(self) -> str:
        """The ROI's name."""
        return self.label.name

    @property
    def closed(self) -> tuple[Contour, ...]:
        """The contours that enclose an area."""
        return tuple(c for c in self.contours if c.kind in CLOSED)


@dataclass(frozen=True, eq=False)
class StructureSet:
    """All regions of one RT structure set.

    Args:
        rois: In the order of the file.
        label: Structure Set Label.
        uid: SOP Instance UID.
        study_uid: Study Instance UID.
        series_uids: Series that the structure set refers to.
        image_uids: SOP Instance UIDs of the images that it refers to.
        path: The file.
        warnings: What was odd on the way in, in sentences.
    """

    rois: tuple[Roi, ...]
    label: str = ""
    uid: str = ""
    study_uid: str = ""
    series_uids: tuple[str, ...] = ()
    image_uids: tuple[str, ...] = ()
    path: str = ""
    warnings: tuple[str, ...] = ()

    def roi(self, number: int) -> Roi:
        """The region of a number.

        Raises:
            ReadError: There is none.
        """
        for roi in self.rois:
            if roi.number == number:
                return roi
        known = ", ".join(f"{roi.number} ({roi.name})" for roi in self.rois) or "none"
        raise ReadError("the structure set has no region of this number", got=number, expected=f"one of {known}")


def is_structure_set(header: Any) -> bool:
    """Whether a data set is an RT structure set."""
    return str(header.get("SOPClassUID", "")) == STRUCTURE_SET


def read_structures(path: str | Path) -> StructureSet:
    """The regions of an RT structure set.

    Args:
        path: A DICOM file of the class RT Structure Set Storage.

    Raises:
        ReadError: Another object, damaged, or parts that contradict each other: a coordinate that is no number, a
            count that is wrong, a region number that is unknown or used twice, a region without a space.
    """
    path = Path(path)
    notes: list[str] = []
    with document(path, (STRUCTURE_SET,), "RT structure set", notes) as data:
        rois = _rois(path, data, notes)
        series, images = _references(data)
        return StructureSet(
            rois=rois,
            label=str(data.get("StructureSetLabel") or ""),
            uid=str(data.get("SOPInstanceUID") or ""),
            study_uid=str(data.get("StudyInstanceUID") or ""),
            series_uids=series,
            image_uids=images,
            path=str(path),
            warnings=tuple(notes),
        )


def _references(data: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Series and images under Referenced Frame of Reference Sequence (PS3.3 C.8.8.5)."""
    series: list[str] = []
    images: list[str] = []
    for frame in items(data, "ReferencedFrameOfReferenceSequence"):
        for study in items(frame, "RTReferencedStudySequence"):
            for one in items(study, "RTReferencedSeriesSequence"):
                series.append(str(one.get("SeriesInstanceUID") or ""))
                images.extend(str(i.get("ReferencedSOPInstanceUID") or "") for i in items(one, "ContourImageSequence"))
    return _known(series), _known(images)


def _known(uids: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(u for u in uids if u))


def _rois(path: Path, data: Any, notes: list[str]) -> tuple[Roi, ...]:
    stated: dict[int, Any] = {}
    for item in items(data, "StructureSetROISequence"):
        number = _number(path, item, "ROINumber")
        if number in stated:
            raise ReadError(f"{path} uses a region number twice", got=number, expected="one region for each number")
        stated[number] = item
    if not stated:
        raise ReadError(f"{path} is a structure set without a region")
    drawn = _by_number(path, data, "ROIContourSequence", stated)
    observed = _by_number(path, data, "RTROIObservationsSequence", stated)
    return tuple(
        _roi(path, item, drawn.get(number, []), observed.get(number, []), notes) for number, item in stated.items()
    )


def _number(path: Path, item: Any, keyword: str) -> int:
    value = item.get(keyword)
    if value is None or isinstance(value, str):
        raise ReadError(f"{path} has a region without a number", got=repr(value), expected=keyword)
    return int(value)


def _by_number(path: Path, data: Any, keyword: str, stated: Mapping[int, Any]) -> dict[int, list[Any]]:
    found: dict[int, list[Any]] = {}
    for item in items(data, keyword):
        number = _number(path, item, "ReferencedROINumber")
        if number not in stated:
            raise ReadError(
                f"{path} describes a region that it does not name ({keyword})", got=f"region number {number}",
                expected=f"one of {', '.join(map(str, stated))}",
            )  # fmt: skip
        found.setdefault(number, []).append(item)
    return found


def _roi(path: Path, item: Any, drawn: Sequence[Any], observed: Sequence[Any], notes: list[str]) -> Roi:
    number = int(item.ROINumber)
    name = str(item.get("ROIName") or f"region {number}")
    frame = str(item.get("ReferencedFrameOfReferenceUID") or "")
    if not frame:
        raise ReadError(
            f"{path}: region {number} does not say in which space it lies", expected="ReferencedFrameOfReferenceUID"
        )
    contours: list[Contour] = []
    colour = None
    for one in drawn:
        colour = colour or _colour(one.get("ROIDisplayColor"))
        contours.extend(_contour(path, number, c) for c in items(one, "ContourSequence"))
    return Roi(
        number=number,
        label=Label(name, next((c for o in observed if (c := code_of(o, "RTROIIdentificationCodeSequence"))), None)),
        frame_of_reference=frame,
        contours=_once(number, contours, notes),
        colour=colour,
        interpreted_type=next((str(o.get("RTROIInterpretedType") or "") for o in observed), ""),
        algorithm=str(item.get("ROIGenerationAlgorithm") or ""),
        description=str(item.get("ROIDescription") or ""),
    )


def _colour(value: Any) -> tuple[int, int, int] | None:
    if value is None or isinstance(value, str) or not hasattr(value, "__len__") or len(value) != 3:
        return None
    red, green, blue = (min(max(int(v), 0), 255) for v in value)
    return red, green, blue


def _contour(path: Path, number: int, item: Any) -> Contour:
    kind = str(item.get("ContourGeometricType") or "")
    if kind not in CONTOUR_KINDS:
        raise ReadError(
            f"{path}: region {number} has a contour of an unknown kind", got=repr(kind),
            expected=", ".join(CONTOUR_KINDS),
        )  # fmt: skip
    points = _points(path, number, item)
    declared = item.get("NumberOfContourPoints")
    if declared is not None and int(declared) != len(points):
        raise ReadError(
            f"{path}: region {number} has a contour with another number of points than it declares",
            got=len(points), expected=int(declared),
        )  # fmt: skip
    least = 3 if kind in CLOSED else 1
    if len(points) < least:
        raise ReadError(
            f"{path}: region {number} has a contour of kind {kind} with too few points",
            got=len(points), expected=f"at least {least}",
        )  # fmt: skip
    images = _known(str(i.get("ReferencedSOPInstanceUID") or "") for i in items(item, "ContourImageSequence"))
    return Contour(kind, points, images)


def _points(path: Path, number: int, item: Any) -> Floats:
    # the bytes are taken as they stand: a value object for each of some 10^6 numbers would take most of the time
    element = item.get_item("ContourData")
    raw = b"" if element is None else element.value
    if isinstance(raw, bytes):
        texts: Sequence[Any] = raw.strip(b" \0").split(b"\\") if raw.strip(b" \0") else []
    else:
        texts = list(raw) if hasattr(raw, "__iter__") and not isinstance(raw, str) else [raw] if raw else []
    try:
        values = np.array([float(t) for t in texts], dtype=np.float64)
    except ValueError as error:
        raise ReadError(f"{path}: region {number} has a coordinate that is no number", got=str(error)[:100]) from error
    if len(values) % 3 or not len(values):
        raise ReadError(
            f"{path}: region {number} has a contour whose coordinates are no triplets", got=f"{len(values)} numbers"
        )
    if not np.isfinite(values).all():
        raise ReadError(f"{path}: region {number} has a contour with a coordinate that is not finite")
    values.setflags(write=False)
    return values.reshape(-1, 3)


def _once(number: int, contours: Sequence[Contour], notes: list[str]) -> tuple[Contour, ...]:
    """Each contour once: by the even-odd rule a contour and its copy would cancel each other out."""
    kept: dict[tuple[str, bytes], Contour] = {}
    for contour in contours:
        kept.setdefault((contour.kind, contour.points_mm.tobytes()), contour)
    if len(kept) < len(contours):
        notes.append(f"region {number} holds {len(contours) - len(kept)} contours twice; each was taken once")
    return tuple(kept.values())
