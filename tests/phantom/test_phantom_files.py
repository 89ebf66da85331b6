"""A phantom written to files opens as the dataset it was."""

from __future__ import annotations

import numpy as np
import pydicom
import pytest
import SimpleITK

from medmap import phantom
from medmap.errors import DataError, GeometryError, UsageError
from medmap.geometry import Geometry
from medmap.image import Image, Source
from medmap.layouts import open_dataset
from medmap.read import read, read_ref
from medmap.write import write_dicom_slice
from medmap.write.dicom import uid


@pytest.mark.parametrize(("format", "shift"), [("nifti", 0), ("png", 1024), ("npy", 0), ("dicom", 0)])
def test_classification_comes_back(tmp_path, format, shift):
    cases = phantom.classification(4, 1, shape=(32, 32))
    folder = phantom.write_study(tmp_path / "study", cases, format=format, splits={cases[0].id: "test"})
    data = open_dataset(folder)
    assert (data.task, data.kind, data.positive) == ("classify", "binary", 1)
    assert data.label_names == ("no nodule", "nodule")
    assert "ynthetic" in data.name
    assert "ynthetic" in data.source
    assert [case.split for case in data] == ["test", None, None, None]
    for case, made in zip(data, cases, strict=True):
        assert (case.id, case.patient, case.site) == (made.id, made.patient, made.site)
        assert case.truth.label == made.label
        assert dict(case.columns) == dict(made.columns)
        image = read_ref(data, case.inputs["image"])
        array = image.array.reshape(made.image.array.shape) if image.array.ndim == 3 else image.array
        np.testing.assert_array_equal(array.astype(np.int32) - shift, made.image.array)


def test_segmentation_detection_and_enhancement_come_back(tmp_path):
    cases = phantom.segmentation(2, 3, shape=(24, 24, 16), modality="MR", lesions=(1, 2))
    data = open_dataset(phantom.write_study(tmp_path / "s", cases, task="segment"))
    assert data.label_names == ("background", "ventricle", "lesion")
    for case, made in zip(data, cases, strict=True):
        np.testing.assert_array_equal(read_ref(data, case.truth.masks[0]).array, made.mask)
        assert read_ref(data, case.inputs["image"]).geometry.same_grid(made.image.geometry)
    data = open_dataset(phantom.write_study(tmp_path / "d", cases, task="detect"))
    assert [case.truth.boxes for case in data] == [made.boxes for made in cases]
    data = open_dataset(phantom.write_study(tmp_path / "e", cases, task="enhance"))
    np.testing.assert_array_equal(read_ref(data, data.cases[0].truth.target).array, cases[0].clean.array)


def test_a_dicom_slice_is_read_by_pydicom_and_by_medmap(tmp_path):
    case = phantom.ct_slice(2, shape=(32, 48))
    path = write_dicom_slice(
        case.image, tmp_path / "a.dcm", patient_id="P7", study="one", number=3, attributes={"PatientSex": "F"}
    )
    header = pydicom.dcmread(path)
    assert header.Modality == "CT"
    assert header.PatientID == "P7"
    assert header.PatientName == "Phantom^Synthetic"
    assert "ynthetic" in header.ImageComments
    assert (header.InstanceNumber, header.PatientSex) == (3, "F")
    assert header.SOPClassUID.name == "CT Image Storage"
    assert header.StudyInstanceUID == uid("P7", "one")
    assert header.file_meta.TransferSyntaxUID.name == "Explicit VR Little Endian"
    stored = header.pixel_array.astype(int) * float(header.RescaleSlope) + float(header.RescaleIntercept)
    np.testing.assert_array_equal(stored, case.image.array)
    back = read(path)
    np.testing.assert_array_equal(back.array, case.image.array)
    assert back.quantity == "HU"
    assert back.geometry.same_grid(case.image.geometry)
    again = write_dicom_slice(
        case.image, tmp_path / "b.dcm", patient_id="P7", study="one", number=3, attributes={"PatientSex": "F"}
    )
    assert again.read_bytes() == path.read_bytes()


def test_an_oblique_slice_keeps_its_place(tmp_path):
    source = phantom.oblique()
    affine = source.geometry.affine_lps_mm.copy()
    grid = Geometry((5, 7), affine)
    image = Image(source.array[:, :, 0], grid, "arbitrary", source=Source(modality="MR"))
    write_dicom_slice(image, tmp_path / "o.dcm", patient_id="P1", study="s")
    back = read(tmp_path / "o.dcm")
    np.testing.assert_array_equal(back.array, image.array)
    corners = [[0, 0], [4, 6], [4, 0]]
    np.testing.assert_allclose(back.geometry.to_world(corners), grid.to_world(corners), atol=1e-9)


def test_pictures_without_a_place_and_in_colour(tmp_path):
    picture = phantom.ultrasound(1, shape=(33, 31)).image
    write_dicom_slice(picture, tmp_path / "us.dcm", patient_id="P1", study="s")
    back = read(tmp_path / "us.dcm")
    np.testing.assert_array_equal(back.array, picture.array)
    assert not back.geometry.has_size
    colour = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    image = Image(colour, Geometry.without_size((9, 7)), "colour", ("red", "green", "blue"))
    write_dicom_slice(image, tmp_path / "rgb.dcm", patient_id="P1", study="s")
    np.testing.assert_array_equal(read(tmp_path / "rgb.dcm").array, colour)
    radiograph = Image(
        np.arange(12, dtype=np.uint16).reshape(3, 4) * 5000,
        Geometry.from_spacing((3, 4), (0.2, 0.3), "detector"),
        source=Source(modality="CR"),
    )
    write_dicom_slice(radiograph, tmp_path / "cr.dcm", patient_id="P1", study="s")
    back = read(tmp_path / "cr.dcm")
    assert back.spacing_mm == pytest.approx((0.2, 0.3))
    np.testing.assert_array_equal(back.array, radiograph.array)


def _flat(array, **changes) -> Image:
    return Image(np.asarray(array), Geometry.without_size(np.shape(array)), **changes)


@pytest.mark.parametrize(
    ("image", "error"),
    [
        (phantom.oblique(), DataError),  # a volume
        (_flat([[0.5, 1.0]]), DataError),
        (_flat([[-1, 1]]), DataError),
        (_flat([[0, 70_000]]), DataError),
        (_flat([[0.0, np.nan]]), DataError),
        (_flat([[0, 1]], source=Source(modality="CT")), GeometryError),
        (Image(np.full((2, 2), 4000, np.int16), Geometry.from_spacing((2, 2), (1, 1)), "HU"), DataError),
        (
            Image(np.zeros((2, 2), np.uint8), Geometry((2, 2), np.array([[1, 0.5, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0],
                                                                         [0, 0, 0, 1.0]]))),
            GeometryError,
        ),
    ],
)  # fmt: skip
def test_slices_that_cannot_be_written(tmp_path, image, error):
    with pytest.raises(error):
        write_dicom_slice(image, tmp_path / "a.dcm", patient_id="P", study="s")
    assert not (tmp_path / "a.dcm").exists()


def test_a_file_is_not_written_over_or_into_nowhere(tmp_path):
    image = _flat(np.zeros((4, 4), np.uint8))
    (tmp_path / "a.dcm").write_text("mine")
    with pytest.raises(UsageError, match="exists"):
        write_dicom_slice(image, tmp_path / "a.dcm", patient_id="P", study="s")
    assert (tmp_path / "a.dcm").read_text() == "mine"
    with pytest.raises(UsageError, match="cannot be written"):
        write_dicom_slice(image, tmp_path / "nowhere" / "a.dcm", patient_id="P", study="s")
    with pytest.raises(UsageError, match="a patient"):
        write_dicom_slice(image, tmp_path / "b.dcm", patient_id="", study="s")


def test_write_study_refuses(tmp_path):
    cases = phantom.classification(1, 0, shape=(16, 16))
    volume = phantom.classification(1, 0, shape=(16, 16, 16))
    sound = phantom.classification(1, 0, shape=(16, 16), modality="US")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("x")
    for call in (
        lambda: phantom.write_study(tmp_path / "full", cases),
        lambda: phantom.write_study(tmp_path / "a", []),
        lambda: phantom.write_study(tmp_path / "b", cases, task="guess"),
        lambda: phantom.write_study(tmp_path / "c", cases, format="tga"),
        lambda: phantom.write_study(tmp_path / "d", volume, format="png"),
        lambda: phantom.write_study(tmp_path / "f", sound, format="nifti"),
    ):
        with pytest.raises(UsageError):
            call()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["full"]


def test_a_volume_as_a_dicom_series_is_the_same_volume(tmp_path):
    (case,) = phantom.segmentation(1, 3, shape=(48, 40, 12))
    data = open_dataset(phantom.write_study(tmp_path / "s", [case], task="segment", format="dicom"))
    image = read_ref(data, data.cases[0].inputs["image"])
    np.testing.assert_array_equal(image.match(case.image.geometry).array, case.image.array)
    mask = read_ref(data, data.cases[0].truth.masks[0])
    np.testing.assert_array_equal(mask.match(case.image.geometry).array, case.mask)
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path / "s" / "images" / case.id)))
    theirs = reader.Execute()
    for index in ((0, 0, 0), (7, 31, 11), (39, 0, 4)):
        ours = image.geometry.to_index([theirs.TransformIndexToPhysicalPoint(index)])[0]
        assert image.array[tuple(np.rint(ours).astype(int))] == theirs[index]
