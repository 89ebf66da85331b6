"""Every defect is found when it is planted, and nothing is found where nothing is wrong."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image as Pillow

from medmap.check import CHECKS, WHEN_ASKED, Issue, check, leakage
from medmap.check.door import issues_of
from medmap.check.facts import Facts, collect, facts_of
from medmap.dataset import Case, Dataset, InputSpec, Ref, Truth
from medmap.geometry import Geometry
from medmap.image import Image, Source
from medmap.layouts import open_dataset
from medmap.phantom import classification, write_study
from medmap.results import Label

SMALL = {"too_few_cases"}  # ninety cases are not many


def codes(issues: list[Issue]) -> set[str]:
    return {issue.code for issue in issues}


def only(issues: list[Issue], code: str) -> Issue:
    found = [issue for issue in issues if issue.code == code]
    assert len(found) == 1, (code, issues)
    return found[0]


def test_a_clean_data_set_has_no_issue(plan):
    issues = check(plan.write(), label_errors=True)
    assert codes(issues) <= SMALL, issues
    assert leakage(plan.write()) == []


def test_every_issue_carries_the_code_of_its_row(plan):
    plan.images[3] = plan.picture(2)
    plan.images[4] = np.zeros((20, 20), np.uint8)
    plan.columns["age"] = [None] * 60 + [1.0] * 30
    dataset = plan.write()
    plan.path(7).write_bytes(plan.path(7).read_bytes()[:90])
    facts = collect(dataset)
    several = 0
    for code, look in CHECKS.items():
        for issue in look(facts):
            several += 1
            assert issue.code == code
            assert all((issue.message, issue.effect, issue.remedy))
            assert set(issue.cases) <= {case.id for case in dataset}
            assert json.loads(json.dumps(issue.as_json()))["code"] == code
    assert several >= 5
    assert set(CHECKS) >= WHEN_ASKED


def test_the_worst_comes_first(plan):
    plan.absent = {0}
    plan.images[5] = np.full((28, 28), 7, np.uint8)
    plan.patients_known = False
    severities = [issue.severity for issue in check(plan.write())]
    assert severities == sorted(severities, key=("error", "warning", "info").index)
    assert set(severities) == {"error", "warning", "info"}


def test_progress_counts_every_image(plan):
    seen: list[tuple[int, int]] = []
    plan.absent = {1}
    check(plan.write(), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(i + 1, 89) for i in range(89)]


# -- files ------------------------------------------------------------------------------------------------------


def test_broken_and_missing_files_are_named_and_the_rest_is_checked(plan):
    plan.images[40] = plan.images[41] = plan.picture(40)
    dataset = plan.write()
    plan.path(3).write_bytes(plan.path(3).read_bytes()[:150])
    plan.path(4).write_bytes(b"")
    plan.path(5).write_bytes(b"GIF89a not a picture at all")
    plan.path(6).unlink()
    issues = check(dataset)
    assert only(issues, "unreadable_file").cases == ("c003", "c004", "c005")
    assert only(issues, "unreadable_file").severity == "error"
    assert only(issues, "missing_file").cases == ("c006",)
    assert "c003.png" in only(issues, "unreadable_file").details["reasons"]["c003"]
    assert "duplicate_across_splits" in codes(issues) or "duplicate_images" in codes(issues)


def test_values_that_are_not_finite(plan):
    array = plan.picture(8).astype(np.float32)
    array[2, 3] = np.nan
    plan.images = {i: plan.picture(i).astype(np.float32) for i in range(90)} | {8: array}
    assert only(check(plan.write()), "not_finite_values").cases == ("c008",)


def test_a_file_that_is_not_what_its_name_says(plan):
    dataset = plan.write()
    buffer = io.BytesIO()
    Pillow.fromarray(plan.picture(9)).save(buffer, "BMP")
    plan.path(9).write_bytes(buffer.getvalue())
    assert "c009" in only(check(dataset), "reader_warning").cases


# -- pixels -----------------------------------------------------------------------------------------------------


def test_constant_and_nearly_blank_images(plan):
    plan.images[10] = np.zeros((28, 28), np.uint8)
    plan.images[11] = np.full((28, 28), 255, np.uint8)
    speck = np.zeros((28, 28), np.uint8)
    speck[3, 4:7] = range(100, 103)
    plan.images[12] = speck
    faint = np.full((28, 28), 100, np.uint8)
    faint[::2] = 101
    plan.images[13] = faint
    issues = check(plan.write())
    assert only(issues, "constant_image").cases == ("c010", "c011")
    assert only(issues, "nearly_blank_image").cases == ("c012", "c013")
    assert not codes(issues) & {"duplicate_images", "duplicate_across_splits"}  # two blank images are no copies


def test_a_saturated_image(plan):
    plan.images[14] = np.clip(plan.picture(14).astype(int) * 4, 0, 255).astype(np.uint8)
    found = only(check(plan.write()), "saturated_image")
    assert found.cases == ("c014",)
    assert 0 < found.details["share_at_maximum"]["c014"] <= 1


def test_white_backgrounds_everywhere_are_not_saturated(plan):
    for i in range(90):
        array = plan.picture(i).copy()
        array[:4] = 255
        plan.images[i] = array
    assert "saturated_image" not in codes(check(plan.write()))


def test_masks_are_not_called_saturated_or_blank(plan):
    rng = np.random.default_rng(0)
    for i in range(90):
        array = np.zeros((28, 28), np.uint8)
        array[tuple(rng.integers(2, 24, (2, 30 + i)))] = 255
        plan.images[i] = array
    assert not codes(check(plan.write())) & {"saturated_image", "nearly_blank_image", "near_duplicate_images"}


def test_an_inverted_image_among_others_that_look_alike(plan):
    for i in range(90):
        scene = np.zeros((28, 28))
        scene[6:22, 8:20] = 150
        plan.images[i] = (scene + 0.3 * plan.texture(i, 0)).astype(np.uint8)
    plan.images[15] = 255 - plan.images[15]
    assert only(check(plan.write()), "inverted_image").cases == ("c015",)


# -- what differs -------------------------------------------------------------------------------------------------


def test_mixed_sizes_channels_and_depths(plan):
    plan.images[20] = plan.texture(20, 0, side=32)
    plan.images[21] = np.stack([plan.picture(21)] * 3, axis=2)
    plan.images[22] = plan.picture(22).astype(np.uint16) * 256
    issues = check(plan.write())
    assert only(issues, "mixed_sizes").cases == ("c020",)
    assert only(issues, "mixed_sizes").details["counts"] == {"28 × 28": 89, "32 × 32": 1}
    assert "brought to one size" in only(issues, "mixed_sizes").effect
    assert only(issues, "mixed_channels").cases == ("c021",)
    assert "c022" in only(issues, "mixed_bit_depths").cases


def test_pictures_and_volumes_side_by_side(plan):
    plan.images[23] = np.random.default_rng(0).integers(0, 255, (9, 8, 7)).astype(np.float32)
    assert only(check(plan.write()), "mixed_dimensions").cases == ("c023",)


def _facts(images: list[Image]) -> Facts:
    cases = tuple(Case(f"c{i}", f"p{i}", {"image": Ref(f"{i}.x")}, Truth(True)) for i in range(len(images)))
    dataset = Dataset("facts", "segment", cases, {"image": InputSpec()})
    return Facts(dataset, tuple(facts_of(f"c{i}", "image", image) for i, image in enumerate(images)), ())


def _volume(seed: int, orientation: np.ndarray, spacing: float = 1.0, **source) -> Image:
    array = (400 * np.random.default_rng(seed).normal(size=(8, 9, 10))).astype(np.float32)  # with air, as a CT
    affine = np.eye(4)
    affine[:3, :3] = orientation * spacing * 4
    return Image(array, Geometry((8, 9, 10), affine), source=Source(**source))


def test_mixed_orientations_spacings_polarity_and_modalities():
    straight, flipped = np.eye(3), np.diag([-1.0, -1, 1])
    same = [_volume(i, straight, modality="CT", photometric="MONOCHROME2") for i in range(5)]
    assert issues_of(_facts(same)) == []
    issues = issues_of(_facts([*same, _volume(9, flipped, 1.5, modality="MR", photometric="MONOCHROME1")]))
    for code in ("mixed_orientations", "mixed_spacings", "mixed_polarity", "mixed_modalities"):
        assert only(issues, code).cases == ("c5",)
    assert only(issues, "mixed_orientations").details["counts"] == {"LPS": 5, "RAS": 1}
    no_size = Image(np.random.default_rng(3).normal(size=(8, 9, 10)), Geometry.without_size((8, 9, 10)))
    found = [i for i in issues_of(_facts([*same, no_size])) if i.code == "mixed_spacings"]
    assert [issue.cases for issue in found] == [("c5",)]


def test_spacings_that_differ_by_rounding_are_the_same():
    images = [_volume(i, np.eye(3), 1 + i * 1e-4) for i in range(4)]
    assert issues_of(_facts(images)) == []


# -- the table ----------------------------------------------------------------------------------------------------


def test_classes_missing_from_a_split_or_everywhere(plan):
    plan.splits = ["train" if label else split for label, split in zip(plan.labels, plan.splits, strict=True)]
    plan.names, plan.kind = ("normal", "tumour", "cyst"), "multiclass"
    issues = check(plan.write())
    missing = only(issues, "class_missing_from_split")
    assert missing.details["missing"] == {"val": ["tumour"], "test": ["tumour"]}
    assert missing.severity == "warning"
    assert only(issues, "class_without_cases").details["classes"] == ["cyst"]


def test_a_class_missing_from_train_is_an_error(plan):
    plan.splits = ["test" if label else split for label, split in zip(plan.labels, plan.splits, strict=True)]
    assert only(check(plan.write()), "class_missing_from_split").severity == "error"


def test_one_class_only_is_an_error(plan):
    plan.labels = [0] * 90
    assert only(check(plan.write()), "class_without_cases").severity == "error"


def test_imbalance_and_few_cases(plan):
    plan.labels = [int(i % 30 == 0) for i in range(90)]
    issues = check(plan.write())
    assert only(issues, "class_imbalance").severity == "warning"
    assert only(issues, "class_imbalance").details["counts"] == {"normal": 87, "tumour": 3}
    few = [issue for issue in issues if issue.code == "too_few_cases"]
    assert few[0].severity == "warning"
    assert "tumour has 3 cases" in few[0].message


def test_enough_cases_are_enough():
    cases = tuple(
        Case(f"c{i}", f"p{i}", {"image": Ref("x")}, Truth(True, label=i % 2), "test" if i % 5 == 0 else "train")
        for i in range(320)
    )
    dataset = Dataset("many", "classify", cases, {"image": InputSpec()}, (Label("a"), Label("b")), "binary", positive=1)
    assert issues_of(Facts(dataset, (), ())) == []


def test_missing_labels_inputs_and_values(plan):
    plan.labels[30] = plan.labels[31] = None
    plan.absent = {32}
    plan.sites[33] = None
    plan.columns["stage"] = ["II" if i % 2 else "" for i in range(90)]
    issues = check(plan.write())
    assert only(issues, "missing_label").cases == ("c030", "c031")
    assert only(issues, "missing_label").severity == "warning"
    assert only(issues, "missing_input").cases == ("c032",)
    missing = only(issues, "missing_value")
    assert missing.details["missing"] == {"stage": 45, "site": 1}
    assert missing.severity == "warning"


def test_no_label_at_all_is_an_error(plan):
    plan.labels = [None] * 90
    assert only(check(plan.write()), "missing_label").severity == "error"


def test_multi_label_regression_and_boxes_are_checked_too(plan):
    dataset = plan.write()
    values = dataset.with_cases(
        [type(c)(c.id, c.patient, c.inputs, Truth(True, values=(float(i % 2), float("nan"))), c.split)
         for i, c in enumerate(dataset)]
    )  # fmt: skip
    several = Dataset("m", "classify", values.cases, values.inputs, values.labels, "multilabel", values.root)
    assert "class_without_cases" in codes(check(several, label_errors=True))  # nobody has the second
    number = Dataset("r", "classify", values.cases, values.inputs, values.labels[:1], "regression", values.root)
    assert not codes(check(number)) & {"class_without_cases", "class_imbalance", "shortcut_border"}
    boxes = [Truth(True, boxes=(((1.0, 1.0, 5.0, 5.0), 0),) if i % 2 else ()) for i in range(90)]
    cases = [type(c)(c.id, c.patient, c.inputs, boxes[i], c.split, "ab"[i % 2]) for i, c in enumerate(dataset)]
    detect = Dataset("d", "detect", tuple(cases), dataset.inputs, dataset.labels, root=dataset.root)
    assert "a finding" in only(check(detect), "shortcut_column").message


@pytest.mark.parametrize("seed", range(3))
def test_no_false_alarm_on_other_clean_sets(plan, seed):
    rng = np.random.default_rng(seed)
    plan.images = {i: plan.texture(1000 * seed + i, plan.labels[i] or 0) for i in range(90)}
    plan.columns = {"age": rng.normal(60, 9, 90).tolist(), "kvp": rng.choice([80.0, 100.0, 120.0], 90).tolist()}
    plan.sites = rng.choice(["a", "b", "c"], 90).tolist()
    assert not codes(check(plan.write())) - SMALL


def test_a_data_set_of_which_nothing_can_be_read_or_of_two_cases(plan):
    dataset = plan.write()
    for i in range(90):
        plan.path(i).write_bytes(b"")
    issues = check(dataset, label_errors=True)
    assert len(only(issues, "unreadable_file").cases) == 90
    two = dataset.with_cases(dataset.cases[:2])
    assert "unreadable_file" in codes(check(two, label_errors=True))


def test_volumes_and_several_inputs(tmp_path):
    cases = classification(24, 2, shape=(16, 16, 12), modality="MR")
    data = open_dataset(write_study(tmp_path / "study", cases, format="npy"))
    assert codes(check(data, label_errors=True)) <= {*SMALL, "label_errors_not_assessed"}
    twice = [replace(c, inputs={"image": c.inputs["image"], "second": c.inputs["image"]}) for c in data]
    copied = replace(twice[1], inputs={"image": twice[0].inputs["image"], "second": None})
    several = replace(data, cases=(twice[0], copied, *twice[2:]), inputs={"image": InputSpec(), "second": InputSpec()})
    issues = check(several)
    assert only(issues, "duplicate_images").cases == (data.cases[0].id, data.cases[1].id)
    assert only(issues, "missing_input").details["input"] == "second"


def test_every_labelled_case_in_test_is_an_error(plan):
    plan.splits = ["test"] * 90
    assert only(check(plan.write()), "no_training_cases").severity == "error"


def test_one_patient_alone_is_an_error(plan):
    from dataclasses import replace

    data = plan.write()
    same = data.with_cases([replace(case, patient="P", split=None) for case in data])
    found = check(replace(same, patients_known=True))
    assert only(found, "one_patient").severity == "error"
    assert not [issue for issue in check(data) if issue.code in ("one_patient", "no_training_cases")]
