"""A folder of DICOM studies as a dataset: pseudonyms, columns, a spreadsheet of labels, masks of the archive itself."""

from __future__ import annotations

import csv
import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grids import oblique_geometry
from medmap.cli import run as medmap
from medmap.errors import DatasetError, LayoutError, QualityWarning
from medmap.geometry import Geometry
from medmap.image import Image, Source
from medmap.layouts import convert_dataset, dicom_dataset, import_dataset, open_dataset
from medmap.layouts.dicom import recognise_dicom
from medmap.layouts.dicom_truth import _box
from medmap.read import read, read_ref
from medmap.results import Boxes, Label, Mask, Scores
from medmap.write import write
from medmap.write.dicom import uid, write_dicom_slice

SHAPE = (9, 7)


def volume(seed: int, slices: int) -> Image:
    array = np.random.default_rng(seed).integers(-1000, 1000, (*SHAPE, slices)).astype(np.int16)
    affine = np.diag([1.3, 0.7, 2.9, 1.0])[[1, 0, 2, 3]]  # rows run along y
    affine[:3, 3] = (-13.7, 42.1, -88.3)
    return Image(array, Geometry((*SHAPE, slices), affine), "HU", source=Source(modality="CT"))


def study(
    root: Path, patient: str, accession: str, *, series: str = "AXIAL", slices: int = 4, seed: int = 0, name: str = "s"
) -> Path:
    """One series of one study, a file a slice."""
    image = volume(seed, slices)
    folder = root / patient / name / series
    folder.mkdir(parents=True)
    for k in range(slices):
        affine = image.geometry.affine_lps_mm.copy()
        affine[:3, 3] = image.geometry.to_world([[0, 0, k]])[0]
        flat = Image(image.array[:, :, k], Geometry(SHAPE, affine), "HU", source=image.source)
        write_dicom_slice(
            flat, folder / f"{k}.dcm", patient_id=patient, study=name, number=k + 1,
            attributes={
                "AccessionNumber": accession, "SeriesDescription": series, "InstitutionName": f"Hospital {patient[0]}",
                "Manufacturer": "ACME", "PatientSex": "F", "PatientAge": "061Y", "PatientName": "Secret^Name",
                "SeriesInstanceUID": uid(patient, name, series),
                "SOPInstanceUID": uid(patient, name, series, k), "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
            },
        )  # fmt: skip
    return folder


@pytest.fixture
def archive(tmp_path):
    root = tmp_path / "pacs"
    for n, patient in enumerate(("ZED77", "ANN12", "BOB34")):
        study(root, patient, f"00{n}5", seed=n)
    return root


def sheet(path: Path, *rows: list[str]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


def test_every_series_is_a_case_under_a_pseudonym(archive):
    data = open_dataset(archive)
    assert [case.patient for case in data] == ["P0001", "P0002", "P0003"]
    assert "ANN12" not in "".join(f"{case.id}{case.patient}{case.columns}" for case in data)
    assert "Secret" not in repr(data.cases)
    first = data.cases[0]  # by the order of the identifiers
    assert first.site == "Hospital A"
    assert first.columns["manufacturer"] == "ACME"
    assert first.columns["age"] == 61
    assert data.inputs["image"].modality == "CT"
    image = read_ref(data, first.inputs["image"])
    expected = volume(1, 4)
    assert sorted(image.array.ravel()) == sorted(expected.array.ravel())
    assert image.quantity == "HU"


def test_a_spreadsheet_is_joined_and_what_is_left_stands_on_both_sides(archive, tmp_path):
    table = sheet(
        tmp_path / "labels.csv",
        ["Accession Number", "Diagnosis", "Smoker", "PatientName"],
        ["0005", "benign", "yes", "Secret"],
        ["15", "malignant", "no", "Secret"],
        ["99", "malignant", "no", "Secret"],
    )
    found = dicom_dataset(archive, labels=table)
    data = found.dataset
    assert found.joined_by == "accession (Accession Number)"
    named = {case.patient: data.labels[case.truth.label].name for case in data}
    assert named == {"P0003": "benign", "P0001": "malignant"}
    assert data["P0003"].columns["Smoker"] == "yes"
    assert "PatientName" not in data["P0003"].columns
    assert {(one.side, one.reason) for one in found.left} == {
        ("table", "no image of this key"), ("images", "no row of the table"),
    }  # fmt: skip
    assert "leading zeros" in found.notes[0]
    rows = list(csv.DictReader(found.left_csv().splitlines()))
    assert {row["key"] for row in rows} == {"99", "0025"}


def test_a_mistyped_key_is_named_beside_the_one_it_may_mean(archive, tmp_path):
    rows = [["ZED77", "a"], ["ANN21", "b"], ["XAVER1", "b"]]
    found = dicom_dataset(archive, labels=sheet(tmp_path / "labels.csv", ["PatientID", "label"], *rows))
    reasons = {row["key"]: row["reason"] for row in csv.DictReader(found.left_csv().splitlines())}
    assert reasons == {
        "ANN21": "no image of this key (near: ANN12)",
        "XAVER1": "no image of this key",
        "ANN12": "no row of the table (near: ANN21)",
        "BOB34": "no row of the table",
    }
    told = "\n".join(found.as_lines())
    assert (
        "2 rows without an image (2 no image of this key): listed in unmatched.csv, 1 of them with a key near" in told
    )
    assert "ANN" not in told, "keys of patients stand in the file alone"


def test_several_series_of_a_study_need_a_rule(archive, tmp_path):
    for n, patient in enumerate(("ZED77", "ANN12", "BOB34")):
        study(archive, patient, f"00{n}5", series="CORONAL REFORMAT", slices=6, seed=9 + n)
    table = sheet(tmp_path / "labels.csv", ["PatientID", "label"], ["ZED77", "a"], ["ANN12", "b"], ["BOB34", "b"])
    with pytest.raises(DatasetError, match=r"several series.*--series"):
        dicom_dataset(archive, labels=table)
    found = dicom_dataset(archive, labels=table, series=">= 6 slices")
    assert len(found.dataset) == 3
    assert {case.columns["series"] for case in found.dataset} == {"CORONAL REFORMAT"}
    by_series = sheet(tmp_path / "series.csv", ["SeriesInstanceUID", "label"], [uid("ANN12", "s", "AXIAL"), "b"])
    (case,) = dicom_dataset(archive, labels=by_series).dataset
    assert case.columns["series"] == "AXIAL"


def test_two_studies_of_a_patient_are_two_cases_of_one_patient(archive):
    study(archive, "ANN12", "0077", seed=5, name="later")
    data = open_dataset(archive)
    assert [case.id for case in data] == ["P0001-1", "P0001-2", "P0002", "P0003"]
    assert [case.patient for case in data][:2] == ["P0001", "P0001"]


def test_segmentations_of_the_archive_are_the_truth(archive):
    labels = {1: Label("liver", "SCT:10200004|Liver"), 2: Label("tumour", "SCT:108369006|Neoplasm")}
    for patient, order in (("ANN12", (1, 2)), ("BOB34", (2, 1))):
        folder = archive / patient / "s" / "AXIAL"
        image = read(folder)
        array = np.zeros(image.geometry.shape, np.uint8)
        array[2:5, 1:4, 1:3] = 1
        array[6, 5, 2] = 2
        mask = Mask(array, image.geometry, {value: labels[order[value - 1]] for value in (1, 2)})
        write(mask, archive / patient / "s" / "seg.dcm", format="dicom-seg", source=folder)
    data = open_dataset(archive)
    assert data.task == "segment"
    assert data.label_names == ("background", "liver", "tumour")
    assert data.labels[1].code is not None
    assert data.labels[1].code.startswith("SCT:10200004")
    for case, liver in ((data["P0001"], 18), (data["P0002"], 1)):
        mask = read_ref(data, case.truth.masks[0])
        assert int((mask.array == 1).sum()) == liver
        assert int((mask.array == 2).sum()) == 19 - liver
    assert not data["P0003"].truth.annotated


def test_what_is_a_folder_of_studies_and_what_a_folder_per_class(tmp_path):
    classes = tmp_path / "classes"
    for n in range(6):
        folder = study(tmp_path / "made", f"PAT{n}", str(n), slices=1, seed=n)
        target = classes / ("benign" if n % 2 else "malignant")
        target.mkdir(parents=True, exist_ok=True)
        (folder / "0.dcm").rename(target / f"{n}.dcm")
    assert not recognise_dicom(classes)
    assert open_dataset(classes).label_names == ("benign", "malignant")
    assert not recognise_dicom(tmp_path / "absent")
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("x")
    assert not recognise_dicom(tmp_path / "text")


def test_no_images_and_no_labels_are_sentences(archive, tmp_path):
    with pytest.raises(LayoutError, match="can be a case"):
        dicom_dataset(archive, series=">= 400 slices")
    table = sheet(tmp_path / "labels.csv", ["PatientID", "remark"], ["ZED77", "a"])
    with pytest.raises(DatasetError, match="no column of labels"):
        dicom_dataset(archive, labels=table, task="classify")
    assert dicom_dataset(archive, labels=table).dataset.cases[0].columns["remark"] == "a"


def test_the_command_writes_a_dataset_and_the_list_of_what_is_left(archive, tmp_path, capsys):
    table = sheet(tmp_path / "labels.csv", ["PatientID", "label"], ["ZED77", "a"], ["ANN12", "b"], ["NOBODY", "b"])
    dest = tmp_path / "data"
    words = ["import", str(archive), str(dest), "--labels", str(table), "--on", "patient"]
    assert medmap([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["unmatched"] == {"table": ["NOBODY"], "images": ["BOB34"]}
    again = open_dataset(dest)
    assert [case.id for case in again] == ["P0001", "P0003"]
    assert read_ref(again, again["P0001"].inputs["image"]).geometry.shape == (*SHAPE, 4)
    assert (dest / "unmatched.csv").read_text().startswith("side,key,reason\n")
    assert medmap([*words]) == 2  # the folder is in use
    assert medmap(["import", str(archive), str(tmp_path / "x"), "--on", "patient"]) == 2


def test_an_import_gives_the_same_dataset_as_opening_in_place(archive, tmp_path):
    here = open_dataset(archive)
    there = import_dataset(archive, tmp_path / "data")
    assert [case.id for case in here] == [case.id for case in there]
    for case in here:
        first = read_ref(here, case.inputs["image"])
        second = read_ref(there, there[case.id].inputs["image"])
        assert first.content_sha256() == second.content_sha256()


def test_a_segmentation_that_describes_some_structures_is_a_partial_label(archive):
    for patient, names in (("ANN12", ("liver", "spleen")), ("BOB34", ("liver",))):
        image = read(archive / patient / "s" / "AXIAL")
        array = np.zeros(image.geometry.shape, np.uint8)
        for value, _ in enumerate(names, start=1):
            array[value, 2:5, 1] = value
        mask = Mask(array, image.geometry, {v: Label(name) for v, name in enumerate(names, start=1)})
        write(mask, archive / patient / "s" / "seg.dcm", format="dicom-seg", source=archive / patient / "s" / "AXIAL")
    data = open_dataset(archive)
    assert data.label_names == ("background", "liver", "spleen")
    assert data["P0001"].truth.known is None
    assert data["P0002"].truth.known == (0, 1)


def test_several_objects_with_different_structures_are_no_observers(archive):
    folder = archive / "ANN12" / "s" / "AXIAL"
    image = read(folder)
    array = np.zeros(image.geometry.shape, np.uint8)
    array[2:4, 2:4, 1] = 1
    for name in ("liver", "spleen"):
        mask = Mask(array, image.geometry, {1: Label(name)})
        write(mask, archive / "ANN12" / f"{name}.dcm", format="dicom-seg", source=folder)
    with pytest.raises(DatasetError, match="no observers"):
        open_dataset(archive)


def test_regions_of_a_report_are_boxes(archive):
    folder = archive / "ANN12" / "s" / "AXIAL"
    image = read(folder)
    corners = np.array([[1.0, 2, 0, 3, 5, 2], [6, 1, 3, 7, 2, 3]])
    boxes = Boxes(corners, np.array([0, 1]), np.array([0.9, 0.4]), (Label("nodule"), Label("cyst")), image.geometry)
    write(boxes, archive / "ANN12" / "s" / "report.dcm", format="dicom-sr", source=folder)
    data = open_dataset(archive)
    assert data.task == "detect"
    assert data.label_names == ("Cyst", "Nodule")  # by the codes they were written with
    found = {data.label_names[label]: corners for corners, label in data["P0001"].truth.boxes}
    np.testing.assert_array_equal(found["Nodule"], corners[0])
    np.testing.assert_array_equal(found["Cyst"], corners[1])
    assert data["P0002"].truth.boxes is None  # nobody has looked


def test_findings_of_reports_are_classes(archive):
    for patient, values in (("ANN12", (0.1, 0.9)), ("BOB34", (0.8, 0.2))):
        labels = (Label("benign"), Label("malignant"))
        decided = labels[int(np.argmax(values))].name
        scores = Scores(labels, np.array(values), "binary", decided=(decided,))
        folder = archive / patient / "s" / "AXIAL"
        write(scores, archive / patient / "s" / "report.dcm", format="dicom-sr", source=folder)
    data = open_dataset(archive)
    assert data.task == "classify"
    named = {case.patient: case.truth.label for case in data if case.truth.annotated}
    assert {p: data.label_names[i] for p, i in named.items()} == {"P0001": "malignant", "P0002": "benign"}
    assert not data["P0003"].truth.annotated


@given(st.integers(0, 2**32 - 1))
def test_a_box_comes_back_from_the_points_around_it(seed):
    rng = np.random.default_rng(seed)
    grid = oblique_geometry()
    low = rng.integers(0, grid.shape)
    high = low + rng.integers(0, np.array(grid.shape) - low)
    edges = np.array(np.meshgrid(*zip(low - 0.45, high + 0.45, strict=True))).reshape(3, -1).T
    assert _box(grid.to_world(edges), grid.frame_of_reference, grid) == (*map(float, low), *map(float, high))
    assert _box(grid.to_world(edges), "9.9.9", grid) is None
    assert _box(grid.to_world(edges + 100), grid.frame_of_reference, grid) is None


def test_an_export_puts_a_segmentation_on_the_grid_of_its_image(archive, tmp_path):
    marked = {}
    for patient in ("ANN12", "BOB34", "ZED77"):
        image = read(archive / patient / "s" / "AXIAL")
        array = np.zeros(image.geometry.shape, np.uint8)
        array[2:6, 1:4, 1:3] = 1
        marked[patient] = array
        mask = Mask(array, image.geometry, {1: Label("liver")})
        write(mask, archive / patient / "s" / "seg.dcm", format="dicom-seg", source=archive / patient / "s" / "AXIAL")
    data = open_dataset(archive)
    case = data["P0001"]
    assert read_ref(data, case.truth.masks[0]).geometry.shape == (*SHAPE, 2)  # the planes that hold something
    for layout in ("nnunet", "msd", "bids"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", QualityWarning)
            made = convert_dataset(data, tmp_path / layout, layout)
        case = made["P0001"]
        (ref,) = case.inputs.values()
        found = read_ref(made, case.truth.masks[0])
        assert found.geometry.same_grid(read_ref(made, ref).geometry), layout
        assert np.array_equal(found.match(read(archive / "ANN12" / "s" / "AXIAL").geometry).array, marked["ANN12"])


@pytest.mark.parametrize(("shift_mm", "words"), [(0.9, "does not lie on the grid"), (2.9 * 3, "beside its image")])
def test_a_mask_that_is_not_on_its_image_is_not_exported(tmp_path, shift_mm, words):
    image = volume(3, 4)
    write(image, tmp_path / "image.nii.gz")
    affine = image.geometry.affine_lps_mm.copy()
    affine[2, 3] += shift_mm
    mask = Image(np.ones(image.geometry.shape, np.uint8), Geometry(image.geometry.shape, affine), "label")
    write(mask, tmp_path / "mask.nrrd")
    (tmp_path / "cases.csv").write_text("case,image,mask\nc1,image.nii.gz,mask.nrrd\n")
    with pytest.raises(DatasetError, match=words):
        convert_dataset(open_dataset(tmp_path / "cases.csv"), tmp_path / "out", "msd")
    assert not (tmp_path / "out").exists()


def test_copying_takes_the_files_of_the_series_that_are_cases(archive, tmp_path):
    for n, patient in enumerate(("ZED77", "ANN12", "BOB34")):
        study(archive, patient, f"00{n}5", series="CORONAL", slices=6, seed=9 + n)
    (archive / "BOB34" / "s" / "AXIAL" / "remark.txt").write_text("not an image")
    here = dicom_dataset(archive, series=">= 6 slices").dataset
    there = import_dataset(here, tmp_path / "data", copy=True)
    files = [
        path.relative_to(tmp_path / "data") for path in (tmp_path / "data" / "images").rglob("*") if path.is_file()
    ]
    assert len(files) == 3 * 6
    shutil.rmtree(archive)
    for case in here:
        assert read_ref(there, there[case.id].inputs["image"]).geometry.shape == (*SHAPE, 6)
    before = there.files_digest()
    (tmp_path / "data" / files[0]).write_bytes(b"another")
    assert there.files_digest() != before


def test_copying_follows_no_link_out_of_a_series(archive, tmp_path):
    data = open_dataset(archive)
    slice_ = archive / "ANN12" / "s" / "AXIAL" / "2.dcm"
    slice_.rename(tmp_path / "elsewhere.dcm")
    slice_.symlink_to(tmp_path / "elsewhere.dcm")
    with pytest.raises(DatasetError, match="link out of the dataset's folder"):
        import_dataset(data, tmp_path / "data", copy=True)
    slice_.unlink()
    shutil.rmtree(archive / "ANN12")
    (archive / "ANN12" / "s" / "AXIAL").mkdir(parents=True)
    with pytest.raises(DatasetError, match="no series can be read there"):
        import_dataset(data, tmp_path / "data", copy=True)
    assert not (tmp_path / "data").exists()
