"""Measurement reports of others read, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag

from medmap.errors import ReadError
from medmap.read.dicom.report import read_report

HIGHDICOM = "dicom/highdicom"
PYDICOM = "dicom/pydicom_test_files/test_files"
CT = "1.3.6.1.4.1.5962.1.1.1.1.1.20040119072730.12322"


def test_a_planar_region_of_highdicom(shared_data: Path) -> None:
    report = read_report(shared_data / HIGHDICOM / "sr_document.dcm")
    assert report.title.code == "DCM:126000"
    assert [p.code for p in report.procedures] == ["LN:25045-6"]
    assert report.evidence == (CT,)
    assert not report.is_complete
    assert [dict(d) for d in report.devices] == [
        {"uid": "1.2.826.0.1.3680043.8.498.21942475928007893653780457882384425166"}
    ]
    (group,) = report.groups
    assert (group.tracking_id, group.finding.name) == ("Planar ROI Measurements", "Spinal cord")
    assert [s.name for s in group.sites] == ["Cervico-thoracic spine"]
    (area,) = group.measurements
    assert (area.concept.name, area.value, area.unit) == ("Area of defined region", 1.7, "cm2")
    (region,) = group.regions
    assert (region.graphic_type, region.points.tolist()) == ("CIRCLE", [[58, 52], [58, 41]])
    assert region.image is not None
    assert region.image.sop_instance_uid == CT


def test_several_groups_of_highdicom(shared_data: Path) -> None:
    report = read_report(shared_data / HIGHDICOM / "sr_document_with_multiple_groups.dcm")
    assert [g.tracking_id for g in report.groups] == ["Image0001", "LungNodule0001", "Aorta0001", "Vertebra0001"]
    image, nodule, aorta, vertebra = report.groups
    assert image.measured("Intensity Histogram Mean") == pytest.approx(-119.0738525390625)
    assert image.measurements[0].unit == "[hnsf'U]"
    assert image.references[0].sop_instance_uid == CT
    assert nodule.evaluations[0].value.name == "Not significant"
    assert nodule.category.code == "SCT:49755003"
    assert aorta.regions[0].points.shape == (4, 2)
    assert vertebra.regions[0].points.shape == (1, 3)
    assert vertebra.regions[0].frame_of_reference
    assert np.allclose(vertebra.regions[0].points, [[123.5, 234.1, -23.7]], atol=1e-5)
    assert report.groups[0].measured("Volume") is None


@pytest.mark.parametrize("name", ["reportsi.dcm", "reportsi_with_empty_number_tags.dcm"])
def test_a_report_of_another_template_is_said(shared_data: Path, name: str) -> None:
    with pytest.raises(ReadError, match="structured report but no measurement report"):
        read_report(shared_data / PYDICOM / name)


def test_an_image_is_no_report(shared_data: Path) -> None:
    with pytest.raises(ReadError, match=r"no structured report: got CT Image Storage"):
        read_report(shared_data / HIGHDICOM / "ct_image.dcm")


def _group(data: pydicom.Dataset) -> pydicom.Dataset:
    (measurements,) = [i for i in data.ContentSequence if i.ConceptNameCodeSequence[0].CodeValue == "126010"]
    return measurements.ContentSequence[0]


def _item(data: pydicom.Dataset, kind: str) -> pydicom.Dataset:
    return next(i for i in _group(data).ContentSequence if i.ValueType == kind)


def _raw(data: pydicom.Dataset, keyword: str, vr: str, value: bytes) -> None:
    tag = Tag(keyword)
    data[tag] = RawDataElement(tag, vr, len(value), value, 0, False, True)


def _no_graphics(data: pydicom.Dataset) -> None:
    del _item(data, "SCOORD").GraphicData


def _odd_graphics(data: pydicom.Dataset) -> None:
    _item(data, "SCOORD").GraphicData = [1.0, 2.0, 3.0]


def _nan_graphics(data: pydicom.Dataset) -> None:
    _item(data, "SCOORD").GraphicData = [1.0, float("nan"), 3.0, 4.0]


def _nan(data: pydicom.Dataset) -> None:
    (value,) = _item(data, "NUM").MeasuredValueSequence
    del value.FloatingPointValue
    _raw(value, "NumericValue", "DS", b"nan ")


def _nan_float(data: pydicom.Dataset) -> None:
    _item(data, "NUM").MeasuredValueSequence[0].FloatingPointValue = float("nan")


def _no_value(data: pydicom.Dataset) -> None:
    (value,) = _item(data, "NUM").MeasuredValueSequence
    del value.FloatingPointValue, value.NumericValue


def _no_reference(data: pydicom.Dataset) -> None:
    del _item(data, "SCOORD").ContentSequence[0].ReferencedSOPSequence


def _no_space(data: pydicom.Dataset) -> None:
    item = _item(data, "SCOORD")
    item.ValueType, item.GraphicData = "SCOORD3D", [1.0, 2.0, 3.0]


REFUSED: dict[str, tuple[Callable[[pydicom.Dataset], None], str]] = {
    "no coordinates": (_no_graphics, "without sound coordinates"),
    "an odd number of coordinates": (_odd_graphics, "without sound coordinates"),
    "NaN coordinates": (_nan_graphics, "without sound coordinates"),
    "NaN": (_nan, "no finite number"),
    "NaN as a float": (_nan_float, "no finite number"),
    "no number": (_no_value, "no finite number"),
    "an image that is not named": (_no_reference, "without naming it"),
    "no space": (_no_space, "in which space"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_one_sentence(shared_data: Path, tmp_path: Path, name: str) -> None:
    change, sentence = REFUSED[name]
    data = pydicom.dcmread(shared_data / HIGHDICOM / "sr_document.dcm")
    change(data)
    data.save_as(tmp_path / "sr.dcm")
    with pytest.raises(ReadError, match=sentence) as caught:
        read_report(tmp_path / "sr.dcm")
    assert "\n" not in str(caught.value)


def test_a_number_that_is_stated_to_be_absent(shared_data: Path, tmp_path: Path) -> None:
    data = pydicom.dcmread(shared_data / HIGHDICOM / "sr_document.dcm")
    _item(data, "NUM").MeasuredValueSequence = []
    data.save_as(tmp_path / "sr.dcm")
    assert read_report(tmp_path / "sr.dcm").groups[0].measurements[0].value is None


def test_nested_without_end(shared_data: Path, tmp_path: Path) -> None:
    data = pydicom.dcmread(shared_data / HIGHDICOM / "sr_document.dcm")
    whole = (shared_data / HIGHDICOM / "sr_document.dcm").read_bytes()
    opened = b"\x40\x00\x30\xa7SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
    at = whole.find(b"\x40\x00\x30\xa7")
    assert data.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.1"
    (tmp_path / "deep.dcm").write_bytes(whole[:at] + opened * 5000)
    with pytest.raises(ReadError):
        read_report(tmp_path / "deep.dcm")
