"""Measurement reports out: DICOM SR of template TID 1500 from masks, boxes and scores, through highdicom.

A structure becomes a volumetric region (TID 1411), a called box a planar (TID 1410) or volumetric one, a class a group
of measurements and evaluations (TID 1501), as does a class that was looked for and not found. Every concept is coded,
every number has a UCUM unit. Coordinates in a report are 32-bit numbers (PS3.5, FL): places are exact to some 10⁻⁵ mm.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from medmap.errors import DataError, GeometryError, UsageError
from medmap.geometry import Floats
from medmap.image import Image
from medmap.results import Boxes, Label, Mask, Prediction, Scores
from medmap.write.dicom.boxed import box_polygons, findings, not_found
from medmap.write.dicom.codes import PRIVATE, category_of, coded, laterality
from medmap.write.dicom.made import series_of
from medmap.write.dicom.measures import Measure, of_box, of_region
from medmap.write.dicom.outlines import keyholed, outlined
from medmap.write.dicom.presentation import rectangle
from medmap.write.dicom.seg import tracking_uid
from medmap.write.dicom.slice import uid
from medmap.write.dicom.source import (
    MANUFACTURER,
    About,
    Laid,
    Origin,
    cut_frames,
    equipment,
    laid_on,
    require_same_frame,
    version_of,
)
from medmap.write.dicom.structures import region_of

SEGMENTATIONS = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
PROCEDURES: Mapping[str, tuple[str, str, str]] = MappingProxyType(
    {
        "CT": ("25045-6", "LN", "CT unspecified body region"),
        "MR": ("25056-3", "LN", "MRI unspecified body region"),
        "PT": ("44136-0", "LN", "PET unspecified body region"),
        "NM": ("49118-3", "LN", "NM unspecified body region"),
        "CR": ("43468-8", "LN", "XR unspecified body region"),
        "DX": ("43468-8", "LN", "XR unspecified body region"),
    }
)
ANY_PROCEDURE = ("363679005", "SCT", "Imaging procedure")
PROBABILITY = ("122157", "DCM", "Probability")
CERTAINTY = ("111012", "DCM", "Certainty of Finding")
PRESENCE = ("121052", "DCM", "Presence of property")
PRESENT, ABSENT = ("121053", "DCM", "Present"), ("121054", "DCM", "Absent")
UNDETERMINED = ("121059", "DCM", "Presence Undetermined")
# no public terminology has a word for whether a network's scores were calibrated
CALIBRATION = ("CALIBRATION", PRIVATE, "Calibration of the scores")
CALIBRATED = ("CALIBRATED", PRIVATE, "Calibrated on cases not learned from")
NOT_CALIBRATED = ("NOT_CALIBRATED", PRIVATE, "Not calibrated")
PREDICTED = ("PREDICTED_VALUE", PRIVATE, "Predicted value")
NO_UNIT = ("1", "UCUM", "no units")
PERCENT = ("%", "UCUM", "Percent")


@dataclass(frozen=True, eq=False)
class _Made:
    """What every group of one report refers to."""

    origin: Origin
    about: About
    segmentation: Any = None

    @property
    def series(self) -> str:
        return str(self.origin.first.SeriesInstanceUID)


def measurement_report(
    value: Prediction | Mask | Boxes | Scores, origin: Origin, about: About, segmentation: Any = None
) -> Any:
    """A measurement report (a pydicom data set, not yet written).

    Args:
        value: A prediction with masks, boxes and scores, or one of these.
        origin: The series it was made from; with its pixels also mean, deviation and extremes are reported.
        about: Title, algorithm, bundle.
        segmentation: The segmentation object that shows the mask: a file or a pydicom data set. Without it the
            outlines stand in the report itself, as regions on the source's images.

    Raises:
        UsageError: Nothing that a report can hold.
        GeometryError: Another frame of reference, or a mask that does not lie on the source.
        DataError: A segmentation of other images or without a structure of the mask.
    """
    import highdicom as hd

    made = _Made(origin, about, _segmentation(segmentation, origin))
    outputs = dict(value.outputs) if isinstance(value, Prediction) else {type(value).__name__.lower(): value}
    groups = [group for name, output in outputs.items() for group in _groups(name, output, made)]
    if not groups:
        raise UsageError(
            "a report holds masks, boxes and scores",
            got=", ".join(type(o).__name__ for o in outputs.values()) or "none",
        )
    content = hd.sr.MeasurementReport(
        observation_context=_observer(about), procedure_reported=_procedure(origin), imaging_measurements=groups
    )
    device = equipment(about)
    evidence = [*origin.images, *([made.segmentation] if made.segmentation is not None else [])]
    report = hd.sr.Comprehensive3DSR(
        evidence=evidence,
        content=content[0],
        is_complete=True,
        specific_character_set="ISO_IR 192",
        **series_of(about, "SR"),
        **device,
    )
    report.CodingSchemeIdentificationSequence = [_private_scheme()]
    return report


def _private_scheme() -> Any:
    from pydicom.dataset import Dataset

    item: Any = Dataset()
    item.CodingSchemeDesignator, item.CodingSchemeName = PRIVATE, "Names of medmap and of its users' data sets"
    item.CodingSchemeResponsibleOrganization = MANUFACTURER
    return item


def _segmentation(given: Any, origin: Origin) -> Any | None:
    """The segmentation, refused when it was made of other images."""
    from pydicom import dcmread
    from pydicom.errors import InvalidDicomError

    if given is None:
        return None
    if isinstance(given, str | Path):
        try:
            given = dcmread(given, stop_before_pixels=True)
        except (InvalidDicomError, OSError, EOFError, ValueError) as error:
            raise DataError(f"{given} cannot be read as a segmentation", got=str(error)[:200]) from error
    if str(given.get("SOPClassUID")) not in SEGMENTATIONS:
        raise DataError("this is no segmentation", got=str(given.get("Modality") or "another object"))
    ours, theirs = origin.frame_of_reference, str(given.get("FrameOfReferenceUID") or "") or None
    if ours and theirs and ours != theirs:
        raise GeometryError(
            "the segmentation lies in another frame of reference than the source", got=theirs, expected=ours
        )
    series = [str(s.get("SeriesInstanceUID")) for s in given.get("ReferencedSeriesSequence") or []]
    if str(origin.first.SeriesInstanceUID) not in series:
        raise DataError(
            "the segmentation was made of another series", got=", ".join(series) or "no reference",
            expected=str(origin.first.SeriesInstanceUID),
        )  # fmt: skip
    return given


def _concept(row: tuple[str, str, str]) -> Any:
    import highdicom as hd

    return hd.sr.CodedConcept(*row)


def _observer(about: About) -> Any:
    """The device that says so: medmap, by the bundle's hash."""
    import highdicom as hd

    device = hd.sr.DeviceObserverIdentifyingAttributes(
        uid=uid("device", about.algorithm, version_of(about), about.bundle),
        name=about.algorithm or MANUFACTURER,
        manufacturer_name=MANUFACTURER,
        model_name=f"{about.algorithm or MANUFACTURER} {version_of(about)}",
        serial_number=about.bundle or None,
    )
    context = hd.sr.ObserverContext(_concept(("121007", "DCM", "Device")), device)
    return hd.sr.ObservationContext(observer_device_context=context)


def _procedure(origin: Origin) -> Any:
    """What the source's study says was done, else what its modality says."""
    for item in origin.first.get("ProcedureCodeSequence") or []:
        if item.get("CodeValue") and item.get("CodingSchemeDesignator") and item.get("CodeMeaning"):
            return _concept((str(item.CodeValue), str(item.CodingSchemeDesignator), str(item.CodeMeaning)))
    return _concept(PROCEDURES.get(str(origin.first.get("Modality") or ""), ANY_PROCEDURE))


def _algorithm(about: About, more: Sequence[str] = ()) -> Any:
    import highdicom as hd

    parameters = [*([f"bundle {about.bundle}"] if about.bundle else []), *more]
    return hd.sr.AlgorithmIdentification(
        name=about.algorithm or MANUFACTURER, version=version_of(about), parameters=parameters or None
    )


def _groups(name: str, output: Any, made: _Made) -> Iterator[Any]:
    if isinstance(output, Mask):
        yield from _structures(output, made)
    elif isinstance(output, Boxes):
        yield from _boxes(output, made)
    elif isinstance(output, Scores):
        yield from _classes(name, output, made)


def _numbers(measures: Sequence[Measure]) -> list[Any]:
    import highdicom as hd

    return [
        hd.sr.Measurement(
            name=_concept(m.concept), value=float(m.value), unit=_concept(m.unit),
            derivation=None if m.derivation is None else _concept(m.derivation),
        )
        for m in measures
    ]  # fmt: skip


def _calibration(calibrated: bool) -> Any:
    import highdicom as hd

    return hd.sr.QualitativeEvaluation(_concept(CALIBRATION), _concept(CALIBRATED if calibrated else NOT_CALIBRATED))


def _site(label: Label) -> list[Any] | None:
    """Which side, where the label says so."""
    import highdicom as hd

    side = laterality(label)
    return None if side is None else [hd.sr.FindingSite(coded(label), laterality=side)]


def _structures(mask: Mask, made: _Made) -> Iterator[Any]:
    import highdicom as hd

    if mask.geometry.kind != "patient" or mask.geometry.ndim != 3:
        raise GeometryError("a region's volume needs a place in the patient", got=f"{mask.geometry.kind} grid")
    require_same_frame(mask.geometry, made.origin)
    for value, label in mask.labels.items():
        region = region_of(mask, value)
        image = _fitting(made.origin.pixels, mask)
        evaluations = [_calibration(mask.calibrated)]
        if not region.any():
            # a structure that was looked for and not found has no region to draw
            evaluations.append(hd.sr.QualitativeEvaluation(_concept(PRESENCE), _concept(ABSENT)))
            yield hd.sr.MeasurementsAndQualitativeEvaluations(
                **_named(label, made), measurements=_numbers(of_region(region, mask.geometry, None)[:1]),
                qualitative_evaluations=evaluations,
            )  # fmt: skip
            continue
        where = (
            _segment(label, made)
            if made.segmentation is not None
            else {"referenced_regions": _drawn(region, mask, made)}
        )
        yield hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
            **_named(label, made), **where, measurements=_numbers(of_region(region, mask.geometry, image)),
            qualitative_evaluations=evaluations,
        )  # fmt: skip


def _named(label: Label, made: _Made) -> dict[str, Any]:
    import highdicom as hd

    return {
        "tracking_identifier": hd.sr.TrackingIdentifier(tracking_uid(made.series, made.about, label), label.name),
        "finding_type": coded(label),
        "finding_category": category_of(label),
        "finding_sites": _site(label),
        "algorithm_id": _algorithm(made.about),
    }


def _fitting(image: Image | None, mask: Mask) -> Image | None:
    """The image when it lies voxel on voxel under the mask and has one channel."""
    fits = image is not None and image.geometry.same_grid(mask.geometry) and image.array.shape == mask.geometry.shape
    return image if fits else None


def _segment(label: Label, made: _Made) -> dict[str, Any]:
    import highdicom as hd

    wanted = tracking_uid(made.series, made.about, label)
    segments = made.segmentation.get("SegmentSequence") or []
    for by in ("tracking", "name"):
        for segment in segments:
            found = (
                segment.get("TrackingUID") == wanted
                if by == "tracking"
                else segment.get("SegmentLabel") == label.name[:64]
            )
            if found:
                return {
                    "referenced_segment": hd.sr.ReferencedSegment(
                        str(made.segmentation.SOPClassUID), str(made.segmentation.SOPInstanceUID),
                        int(segment.SegmentNumber),
                        source_series=hd.sr.SourceSeriesForSegmentation(made.series),
                    )
                }  # fmt: skip
    raise DataError(
        f"the segmentation has no segment for {label.name}",
        got=", ".join(str(s.get("SegmentLabel")) for s in segments) or "no segment",
    )


def _drawn(region: Any, mask: Mask, made: _Made) -> list[Any]:
    """The outlines as closed lines on the source's images; 0.5, 0.5 is the centre of the first pixel (PS3.3 C.18.6)."""
    laid = laid_on(mask.geometry, made.origin)
    if not laid:
        raise GeometryError(
            "the mask does not lie on the slices of the source", got=f"grid of {mask.geometry.shape}",
            remedy="take it back to the grid of its source first, or give its segmentation",
        )  # fmt: skip
    frames = cut_frames(region, mask.geometry, laid, made.origin.size)
    regions = []
    for one, frame in zip(laid, frames, strict=True):
        for area in outlined(frame):
            line = keyholed(area)[:, ::-1] + 0.5
            regions.append(_image_region(np.concatenate((line, line[:1])), one, made))
    return regions


def _image_region(closed: Floats, one: Laid, made: _Made) -> Any:
    """A closed line of columns and rows on one frame of the source."""
    import highdicom as hd

    image = made.origin.images[one.plane.image]
    several = int(image.get("NumberOfFrames") or 1) > 1
    source = hd.sr.SourceImageForRegion(
        str(image.SOPClassUID), str(image.SOPInstanceUID), [one.plane.frame + 1] if several else None
    )
    return hd.sr.ImageRegion(hd.sr.GraphicTypeValues.POLYLINE, closed, source)


def _boxes(boxes: Boxes, made: _Made) -> Iterator[Any]:
    import highdicom as hd

    algorithm = _algorithm(made.about, _operating_point(boxes))
    for finding in findings(boxes, made.series, made.about):
        measures = of_box(boxes, finding.row) if boxes.geometry.has_size else []
        named = {
            **_named(finding.label, made),
            "algorithm_id": algorithm,
            "tracking_identifier": hd.sr.TrackingIdentifier(finding.tracking_uid, finding.name),
            "measurements": _numbers([*measures, Measure(CERTAINTY, finding.score * 100, PERCENT)]),
            "qualitative_evaluations": [_calibration(boxes.calibrated)],
        }
        where = _place(boxes, finding.row, made)
        if "referenced_region" in where:
            yield hd.sr.PlanarROIMeasurementsAndQualitativeEvaluations(**named, **where)
        else:
            yield hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations(**named, **where)
    for label in not_found(boxes):
        yield hd.sr.MeasurementsAndQualitativeEvaluations(
            **{**_named(label, made), "algorithm_id": algorithm},
            qualitative_evaluations=[hd.sr.QualitativeEvaluation(_concept(PRESENCE), _concept(ABSENT))],
        )


def _operating_point(boxes: Boxes) -> list[str]:
    return [
        f"{label.name}: reported from a score of {t:.4g} on"
        for label, t in zip(boxes.labels, boxes.thresholds, strict=False)
    ]


def _place(boxes: Boxes, row: int, made: _Made) -> dict[str, Any]:
    """Where a box lies: in the patient, else (a radiograph) on the picture itself.

    Raises:
        GeometryError: Neither.
    """
    import highdicom as hd

    frame = made.origin.frame_of_reference
    require_same_frame(boxes.geometry, made.origin)
    if boxes.geometry.kind == "patient" and frame is not None:
        polygons = box_polygons(boxes, row)
        kind = hd.sr.GraphicTypeValues3D.POLYGON
        if len(polygons) == 1:
            return {"referenced_region": hd.sr.ImageRegion3D(kind, polygons[0], frame)}
        series = hd.sr.SourceSeriesForSegmentation(made.series)
        return {"referenced_volume_surface": hd.sr.VolumeSurface(kind, polygons, frame, source_series=series)}
    laid = laid_on(boxes.geometry, made.origin) if boxes.geometry.ndim == 2 else []
    if not laid:
        raise GeometryError("a box in a report has a place in the patient", got=f"{boxes.geometry.kind} grid")
    line = rectangle(boxes.corners[row, :2], boxes.corners[row, 2:], laid[0], made.origin)
    return {"referenced_region": _image_region(line, laid[0], made)}


def _classes(name: str, scores: Scores, made: _Made) -> Iterator[Any]:
    import highdicom as hd

    for i, label in enumerate(scores.labels):
        number = PREDICTED if scores.kind == "regression" else PROBABILITY
        evaluations = []
        if scores.kind != "regression":
            decided = UNDETERMINED if scores.abstained else PRESENT if label.name in scores.decided else ABSENT
            evaluations = [
                hd.sr.QualitativeEvaluation(_concept(PRESENCE), _concept(decided)),
                _calibration(scores.calibrated),
            ]
        named = _named(label, made)
        del named["finding_category"]  # a class may be anything: a stage, a view, a diagnosis
        tracked = uid("tracking", made.series, made.about.bundle, name, label.name)
        named["tracking_identifier"] = hd.sr.TrackingIdentifier(tracked, f"{name}: {label.name}"[:64])
        yield hd.sr.MeasurementsAndQualitativeEvaluations(
            **named, measurements=_numbers([Measure(number, float(scores.values[i]), NO_UNIT)]),
            qualitative_evaluations=evaluations,
        )  # fmt: skip
