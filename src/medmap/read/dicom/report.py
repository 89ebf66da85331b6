"""Measurement reports in: DICOM SR documents of template TID 1500 as groups of coded measurements.

PS3.16 TID 1500 (Measurement Report), 1410 and 1411 (Planar and Volumetric ROI), 1501 (Measurement and Qualitative
Evaluation Group), 300 (Measurement). Values keep the document's own codes and UCUM units; nothing is converted.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from medmap.errors import ReadError
from medmap.geometry import Floats
from medmap.read.dicom.document import document, items
from medmap.results import Label

REPORTS = tuple(f"1.2.840.10008.5.1.4.1.1.88.{n}" for n in (11, 22, 33, 34, 35))
TEMPLATE = "1500"
# DICOM Controlled Terminology (PS3.16 Annex D) and, where older documents have another code, both
MEASUREMENTS, GROUP = ("126010",), ("125007",)
TRACKING_ID, TRACKING_UID = ("112039",), ("112040",)
FINDING, CATEGORY = ("121071",), ("276214006",)
SITE = ("363698007", "G-C0E3")
METHOD, DERIVATION = ("370129005", "G-C036"), ("121401",)
PROCEDURE = ("121058",)
ALGORITHM = ("111001", "111003")  # name, version
ALGORITHM_PARAMETERS = ("111002",)
DEVICE = MappingProxyType(
    {"121012": "uid", "121013": "name", "121014": "manufacturer", "121015": "model", "121016": "serial"}
)


@dataclass(frozen=True)
class Measurement:
    """One number of a group.

    Args:
        concept: What was measured.
        value: The number; None where the document says that there is none.
        unit: UCUM code, such as ``mm``, ``ml``, ``[hnsf'U]`` or ``1``.
        derivation: How several values became one (mean, minimum …), or None.
        method: How it was measured, or None.
    """

    concept: Label
    value: float | None
    unit: str
    derivation: Label | None = None
    method: Label | None = None


@dataclass(frozen=True)
class Evaluation:
    """One quality of a group in words or codes: ``value`` of ``concept``."""

    concept: Label
    value: Label


@dataclass(frozen=True)
class ObjectReference:
    """Another DICOM object that a group speaks of.

    Args:
        purpose: Why it is referred to: referenced segment, source image …
        sop_class_uid: Its class.
        sop_instance_uid: Which one.
        frames: Frame numbers, from 1; empty means all.
        segments: Segment numbers of a segmentation; empty otherwise.
    """

    purpose: Label
    sop_class_uid: str
    sop_instance_uid: str
    frames: tuple[int, ...] = ()
    segments: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class Region:
    """A place drawn in a report.

    Args:
        graphic_type: ``POINT``, ``POLYLINE``, ``POLYGON``, ``CIRCLE``, ``ELLIPSE``, ``ELLIPSOID`` or ``MULTIPOINT``.
        points: (points, 3) in LPS millimetres of ``frame_of_reference``; or (points, 2), column and row on ``image``
            as PS3.3 C.18.6.1.2 counts them (0.5 is the centre of the first pixel).
        frame_of_reference: UID of the space; empty for a region on an image.
        image: The image that a two-dimensional region was drawn on, or None.
    """

    graphic_type: str
    points: Floats
    frame_of_reference: str = ""
    image: ObjectReference | None = None


@dataclass(frozen=True, eq=False)
class MeasurementGroup:
    """What a report says of one thing.

    Args:
        tracking_id, tracking_uid: By which it is known over time.
        finding: What it is, or None.
        category: Kind of finding, or None.
        sites: Where in the body.
        measurements: Numbers with units.
        evaluations: Qualities.
        regions: Places drawn.
        references: Segments and images.
        algorithm: Name and version of what measured, where stated.
    """

    tracking_id: str = ""
    tracking_uid: str = ""
    finding: Label | None = None
    category: Label | None = None
    sites: tuple[Label, ...] = ()
    measurements: tuple[Measurement, ...] = ()
    evaluations: tuple[Evaluation, ...] = ()
    regions: tuple[Region, ...] = ()
    references: tuple[ObjectReference, ...] = ()
    algorithm: str = ""

    @property
    def segments(self) -> tuple[ObjectReference, ...]:
        """References to segments of a segmentation."""
        return tuple(r for r in self.references if r.segments)

    def measured(self, concept: str, derivation: str | None = None) -> float | None:
        """The value of the first measurement whose concept (and derivation) has this name; None when there is none."""
        for m in self.measurements:
            if m.concept.name == concept and derivation in (None, m.derivation.name if m.derivation else None):
                return m.value
        return None


@dataclass(frozen=True, eq=False)
class MeasurementReport:
    """One measurement report.

    Args:
        groups: In the order of the document.
        title: Of the document.
        procedures: What was reported.
        devices: One mapping a device observer: ``uid``, ``name``, ``manufacturer``, ``model``, ``serial`` where stated.
        evidence: SOP Instance UIDs of the images and objects that the report rests on.
        uid, study_uid: Of the document.
        is_complete, is_verified: Its flags.
        warnings: What was odd on the way in.
    """

    groups: tuple[MeasurementGroup, ...]
    title: Label
    procedures: tuple[Label, ...] = ()
    devices: tuple[MappingProxyType[str, str], ...] = ()
    evidence: tuple[str, ...] = ()
    uid: str = ""
    study_uid: str = ""
    is_complete: bool = False
    is_verified: bool = False
    warnings: tuple[str, ...] = ()


def read_report(path: str | Path) -> MeasurementReport:
    """The groups of a measurement report.

    Args:
        path: A DICOM SR document of template TID 1500.

    Raises:
        ReadError: Another object, a report of another template, or values that are no numbers.
    """
    path = Path(path)
    notes: list[str] = []
    with document(path, REPORTS, "structured report", notes) as data:
        content = items(data, "ContentSequence")
        title = _concept(data) or Label("")
        template = [str(t.get("TemplateIdentifier") or "") for t in items(data, "ContentTemplateSequence")]
        lists = [item for item in content if _is(item, MEASUREMENTS)]
        if not lists and TEMPLATE not in template:
            raise ReadError(
                f"{path} is a structured report but no measurement report",
                got=f"{title.name or 'no title'}, template {', '.join(filter(None, template)) or 'not stated'}",
                expected="template TID 1500",
            )
        found = (one for part in lists for one in items(part, "ContentSequence") if _is(one, GROUP))
        return MeasurementReport(
            groups=tuple(_group(path, one, notes) for one in found),
            title=title,
            procedures=tuple(v for item in content if _is(item, PROCEDURE) and (v := _value(item))),
            devices=tuple(_devices(content)),
            evidence=tuple(dict.fromkeys(_evidence(data))),
            uid=str(data.get("SOPInstanceUID") or ""),
            study_uid=str(data.get("StudyInstanceUID") or ""),
            is_complete=data.get("CompletionFlag") == "COMPLETE",
            is_verified=data.get("VerificationFlag") == "VERIFIED",
            warnings=tuple(notes),
        )


def _label(code: Any) -> Label:
    value = code.get("CodeValue") or code.get("LongCodeValue") or code.get("URNCodeValue") or ""
    return Label(str(code.get("CodeMeaning") or value), f"{code.get('CodingSchemeDesignator') or ''}:{value}")


def _concept(item: Any) -> Label | None:
    return next((_label(code) for code in items(item, "ConceptNameCodeSequence")), None)


def _is(item: Any, codes: Sequence[str]) -> bool:
    concept = _concept(item)
    return concept is not None and concept.code is not None and concept.code.partition(":")[2] in codes


def _value(item: Any) -> Label | None:
    return next((_label(code) for code in items(item, "ConceptCodeSequence")), None)


def _coded(parent: Any, codes: Sequence[str]) -> tuple[Label, ...]:
    return tuple(v for item in items(parent, "ContentSequence") if _is(item, codes) and (v := _value(item)))


def _devices(content: Sequence[Any]) -> Iterator[MappingProxyType[str, str]]:
    current: dict[str, str] = {}
    for item in content:
        concept = _concept(item)
        name = DEVICE.get(concept.code.partition(":")[2]) if concept and concept.code else None
        if name == "uid" and current:
            yield MappingProxyType(current)
            current = {}
        if name:
            current[name] = str(item.get("UID") or item.get("TextValue") or "")
    if current:
        yield MappingProxyType(current)


def _evidence(data: Any) -> Iterator[str]:
    for keyword in ("CurrentRequestedProcedureEvidenceSequence", "PertinentOtherEvidenceSequence"):
        for study in items(data, keyword):
            for series in items(study, "ReferencedSeriesSequence"):
                for one in items(series, "ReferencedSOPSequence"):
                    yield str(one.get("ReferencedSOPInstanceUID") or "")


def _group(path: Path, group: Any, notes: list[str]) -> MeasurementGroup:
    content = items(group, "ContentSequence")
    texts: dict[str, str] = {}
    measurements, evaluations, regions, references = [], [], [], []
    for item in content:
        kind = item.get("ValueType")
        if _is(item, TRACKING_ID):
            texts["tracking_id"] = str(item.get("TextValue") or "")
        elif _is(item, TRACKING_UID):
            texts["tracking_uid"] = str(item.get("UID") or "")
        elif kind == "NUM":
            measurements.append(_measurement(path, item))
        elif kind in ("SCOORD", "SCOORD3D"):
            regions.append(_region(path, item))
        elif kind == "IMAGE":
            references.append(_reference(path, item))
        elif _is(item, ALGORITHM):
            texts["algorithm"] = f"{texts.get('algorithm', '')} {item.get('TextValue') or ''}".strip()
        elif _is(item, ALGORITHM_PARAMETERS):
            continue
        elif kind in ("CODE", "TEXT") and not _is(item, (*FINDING, *CATEGORY, *SITE, *METHOD)):
            concept, value = _concept(item), _value(item) or Label(str(item.get("TextValue") or ""))
            if concept is not None and value.name:
                evaluations.append(Evaluation(concept, value))
        elif kind not in ("CODE", "UIDREF"):
            notes.append(f"a group holds an item of type {kind}, which was not read")
    return MeasurementGroup(
        **texts,
        finding=next(iter(_coded(group, FINDING)), None),
        category=next(iter(_coded(group, CATEGORY)), None),
        sites=_coded(group, SITE),
        measurements=tuple(measurements),
        evaluations=tuple(evaluations),
        regions=tuple(regions),
        references=tuple(references),
    )


def _measurement(path: Path, item: Any) -> Measurement:
    concept = _concept(item) or Label("")
    value, unit = None, ""
    for measured in items(item, "MeasuredValueSequence"):
        number = measured.get("FloatingPointValue")
        number = measured.get("NumericValue") if number is None else number
        if number is None or not hasattr(number, "__float__") or not math.isfinite(float(number)):
            raise ReadError(f"{path}: {concept.name or 'a measurement'} is no finite number", got=repr(number)[:60])
        value = float(number)
        unit = next((str(u.get("CodeValue") or "") for u in items(measured, "MeasurementUnitsCodeSequence")), "")
    derivation, method = _coded(item, DERIVATION), _coded(item, METHOD)
    return Measurement(concept, value, unit, next(iter(derivation), None), next(iter(method), None))


def _region(path: Path, item: Any) -> Region:
    flat = item.get("ValueType") == "SCOORD"
    width = 2 if flat else 3
    raw = item.get("GraphicData")
    values = np.array(raw if hasattr(raw, "__len__") else [], dtype=np.float64)
    if not values.size or values.size % width or not np.isfinite(values).all():
        raise ReadError(
            f"{path} holds a region without sound coordinates", got=f"{values.size} numbers",
            expected=f"finite numbers in groups of {width}",
        )  # fmt: skip
    values.setflags(write=False)
    image = next((_reference(path, i) for i in items(item, "ContentSequence") if i.get("ValueType") == "IMAGE"), None)
    frame = "" if flat else str(item.get("ReferencedFrameOfReferenceUID") or "")
    if not flat and not frame:
        raise ReadError(f"{path} holds a region that does not say in which space it lies")
    return Region(str(item.get("GraphicType") or ""), values.reshape(-1, width), frame, image)


def _reference(path: Path, item: Any) -> ObjectReference:
    referred = items(item, "ReferencedSOPSequence")
    if len(referred) != 1 or not referred[0].get("ReferencedSOPInstanceUID"):
        raise ReadError(f"{path} refers to an image without naming it", expected="ReferencedSOPInstanceUID")
    one = referred[0]
    return ObjectReference(
        purpose=_concept(item) or Label(""),
        sop_class_uid=str(one.get("ReferencedSOPClassUID") or ""),
        sop_instance_uid=str(one.ReferencedSOPInstanceUID),
        frames=_numbers(one.get("ReferencedFrameNumber")),
        segments=_numbers(one.get("ReferencedSegmentNumber")),
    )


def _numbers(value: Any) -> tuple[int, ...]:
    if value is None or value == "":
        return ()
    return tuple(int(v) for v in value) if hasattr(value, "__iter__") else (int(value),)
