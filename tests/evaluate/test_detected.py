"""From boxes that are there already to a report, to a file, and back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from judged_boxes import CELLS, NODULES, answers, dataset, grid, scene
from judged_masks import judged
from sklearn.metrics import roc_auc_score

from medmap.dataset import Dataset, Truth
from medmap.errors import DataError, DatasetError, ReadError, UsageError
from medmap.evaluate import (
    DetectionRules,
    DetectionTable,
    MetricsFile,
    Options,
    compare,
    compare_detections,
    detection_rows,
    detection_table,
    detections_text,
    evaluate,
    in_terms_of,
    judge,
    read_detections,
    report_from_boxes,
    size_ranges,
    write_detections,
    write_structures,
)
from medmap.geometry import Geometry
from medmap.layouts.boxes import Fitting
from medmap.layouts.luna import corners_of_ball
from medmap.metrics import Bootstrap, BoxList, HitRule
from medmap.metrics.boxes import box_diameters
from medmap.metrics.froc import ALARM, HIT, UNSEEN
from medmap.predict import FailedCase
from medmap.results import Boxes, Label, Prediction

FEW = Bootstrap(200)
QUICK = DetectionRules(bootstrap=FEW)
NAMES = {
    "ap50", "ap50_95", "froc_cpm", "auroc", "sensitivity", "ppv", "f1", "false_positives_per_image",
    *(f"sensitivity_at_fppi_{rate}" for rate in ("0.125", "0.25", "0.5", "1", "2", "4", "8")),
}  # fmt: skip


@pytest.fixture(scope="module")
def volumes() -> DetectionTable:
    data = dataset()
    return detection_table(data, answers(data))


@pytest.fixture(scope="module")
def pictures() -> DetectionTable:
    data = dataset(flat=True, known=True)
    return detection_table(data, answers(data))


def test_boxes_become_a_report(tmp_path: Path) -> None:
    data = dataset(24)
    cases = [replace(case, truth=Truth()) if case.id == "c3" else case for case in data]
    data = data.with_cases(cases)
    report = report_from_boxes(data, answers(data), split="test", rules=QUICK)
    assert (report.task, report.cases, report.patients, report.failed) == ("detect", 23, 22, ())
    assert report.flow == (("supplied", 24), ("that nobody has looked at", 1), ("evaluated", 23))
    assert "1 case that nobody has looked at is left out" in " ".join(report.warnings)
    assert {row.name for row in report.rows} == {*NAMES, "ap10"}
    for row in report.rows:
        if row.value is not None and row.low is not None:
            assert row.low <= row.value <= row.high, row
    report.save(tmp_path)
    document = json.loads((tmp_path / "metrics.json").read_text())
    MetricsFile.model_validate(document)
    assert (document["rules"], document["labels"], document["thresholds"]) == ({"hit": "centre"}, ["nodule"], [0.5])
    again = read_detections(tmp_path)
    assert detection_rows(again, FEW) == tuple(
        r for r in report.rows if "=" not in r.group or r.group.startswith("size")
    )


def test_boxes_that_hit_nothing_are_called_of_little_use() -> None:
    data = dataset(24)
    poor = [
        (case, replace(one, corners=one.corners[:0], label_ids=one.label_ids[:0], scores=one.scores[:0]))
        for case, one in answers(data)
    ]
    report = report_from_boxes(data, poor, split="test", rules=QUICK)
    assert any(text.startswith("These boxes are of little use") for text in report.warnings)
    good = report_from_boxes(data, answers(data), split="test", rules=QUICK)
    assert not any("of little use" in text for text in good.warnings)


@pytest.mark.parametrize("kind", ["volumes", "pictures"])
def test_the_file_is_read_back_to_the_same_bits(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    table: DetectionTable = request.getfixturevalue(kind)
    write_detections(table, tmp_path / "predictions.csv")
    again = read_detections(tmp_path)
    for name in ("cases", "patients", "labels", "thresholds", "rule", "known", "splits", "folds", "sites", "frames"):
        assert getattr(again, name) == getattr(table, name), name
    assert dict(again.columns) == dict(table.columns)
    np.testing.assert_array_equal(again.called, table.called)
    for ours, theirs in ((again.found, table.found), (again.true, table.true)):
        for name in ("cases", "corners", "labels", "scores", "ignored", "centres", "diameters"):
            np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name), err_msg=name)
    assert detections_text(again) == detections_text(table)


def test_the_file_says_in_words_what_became_of_a_box(volumes: DetectionTable) -> None:
    header, *lines = (line.split(",") for line in detections_text(volumes).splitlines())
    rows = [dict(zip(header, line, strict=True)) for line in lines]
    assert {row["case"] for row in rows} == set(volumes.cases)
    found = [row for row in rows if row["box"] == "found"]
    missed = [row for row in rows if row["matched"] == "missed"]
    assert len(found) == len(volumes.found)
    assert len(missed) == int((volumes.findings & (volumes.hits.by < 0)).sum()) > 0
    for row in found:
        if row["matched"].startswith("hit"):
            other = next(
                r for r in rows if r["case"] == row["case"] and r["box"] == "true" and r["number"] == row["matched"][4:]
            )
            assert other["matched"].startswith("found")
    geometry = grid(0, False)
    first = next(row for row in found if row["case"] == "c0")
    low, high = (np.array([float(first[f"{axis}{end}"]) for axis in "ijk"]) for end in (0, 1))
    np.testing.assert_allclose(
        [float(v) for v in first["centre_mm"].strip("'").split()], geometry.to_world((low + high) / 2)[0]
    )
    axes = np.array([float(v) for v in first["direction"].strip("'").split()]).reshape(3, 3)
    np.testing.assert_allclose(axes.T * geometry.spacing_mm, geometry.affine_lps_mm[:3, :3], atol=1e-12)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 23), min_size=1, max_size=12, unique=True), st.booleans())
def test_any_part_of_a_table_comes_back(rows: list[int], flat: bool) -> None:
    data = dataset(flat=flat).with_cases([dataset(flat=flat).cases[row] for row in rows])
    part = detection_table(data, answers(data))
    whole = detection_table(dataset(flat=flat), answers(dataset(flat=flat)))
    cut = whole.at(sorted(rows))
    order = [part.cases.index(case) for case in cut.cases]
    assert sorted(part.cases) == sorted(cut.cases)
    assert len(part.found) == len(cut.found)
    assert [part.patients[i] for i in order] == list(cut.patients)
    assert int(part.findings.sum()) == int(cut.findings.sum())


def test_millimetres_and_rules(volumes: DetectionTable, pictures: DetectionTable) -> None:
    assert (volumes.sized, volumes.unit, str(volumes.rule)) == (True, "mm", "centre")
    assert (pictures.sized, pictures.unit, str(pictures.rule)) == (False, "px", "iou 0.5")
    assert [part.name for part in size_ranges(volumes)] == ["size<5mm", "size=5–10mm", "size≥10mm"]
    assert [part.name for part in size_ranges(pictures)] == ["size<32px", "size=32–96px", "size≥96px"]
    for table in (volumes, pictures):
        parts = size_ranges(table, (7.0, 30.0))
        assert sum(int(part.holds(table.true.diameters).sum()) for part in parts) == len(table.true)


def test_rows_by_hand() -> None:
    # one class, three cases: two findings found (0.9, 0.4), one missed, alarms of 0.7 and 0.2; called from 0.5
    box = [0.0, 0.0, 9.0, 9.0]
    other = [50.0, 50.0, 69.0, 69.0]
    table = DetectionTable(
        cases=("a", "b", "c"),
        patients=("p", "q", "r"),
        labels=("cell",),
        found=BoxList([0, 0, 1, 2], [box, other, box, box], [0] * 4, [0.9, 0.7, 0.4, 0.2]),
        called=[True, True, False, False],
        true=BoxList([0, 1, 1], [box, box, other], [0] * 3),
        thresholds=(0.5,),
        rule=HitRule("iou", 0.5),
    )
    at = {row.name: row for row in detection_rows(table, FEW) if row.group == "all"}
    assert at["sensitivity"].value == pytest.approx(1 / 3)
    assert at["sensitivity"].threshold == 0.5
    assert at["ppv"].value == 0.5
    assert at["f1"].value == pytest.approx(2 / (3 + 2))
    assert at["false_positives_per_image"].value == pytest.approx(1 / 3)
    # alarms an image 0, 1/3, 1/3, 2/3; found 1/3, 1/3, 2/3, 2/3
    assert at["sensitivity_at_fppi_0.25"].value == pytest.approx(1 / 3)
    assert at["sensitivity_at_fppi_0.5"].value == pytest.approx(2 / 3)
    assert at["froc_cpm"].value == pytest.approx((2 * 1 / 3 + 5 * 2 / 3) / 7)
    # scores 0.9, 0.4 with a finding, 0.2 without
    assert at["auroc"].value == 1
    # precision 1 up to a recall of 1/3 (34 of 101 recalls), 2/3 up to 2/3 (33 more)
    assert at["ap50"].value == pytest.approx((34 + 33 * 2 / 3) / 101)
    small = {row.name: row for row in detection_rows(table, FEW, (15.0,)) if row.group == "size<15px"}
    assert small["sensitivity"].value == 0.5
    assert small["sensitivity"].n == 2


def test_classes_are_averaged_and_pooled(pictures: DetectionTable) -> None:
    rows = detection_rows(pictures, FEW)
    for name in ("ap50", "froc_cpm", "sensitivity", "ppv"):
        each = [row.value for row in rows if row.name == name and row.group in pictures.labels]
        whole = next(row for row in rows if row.name == name and row.group == "all" and row.average is None)
        assert len(each) == 3
        assert whole.value == pytest.approx(np.mean(each))
    pooled = next(row for row in rows if row.name == "sensitivity" and row.average == "micro")
    assert pooled.value == pytest.approx(pictures.found_when_called[pictures.findings].mean())
    alarms = (pictures.hits.outcomes == ALARM) & pictures.called
    total = next(row for row in rows if row.name == "false_positives_per_image" and row.group == "all")
    assert total.value == pytest.approx(alarms.sum() / len(pictures), rel=0.05)  # of one case a class was not known


def test_auroc_is_that_of_the_largest_scores(volumes: DetectionTable) -> None:
    row = next(row for row in detection_rows(volumes, FEW) if row.name == "auroc")
    scores, yes = [], []
    for number in range(len(volumes)):
        here = volumes.true.cases == number
        if volumes.findings[here].any() or not here.any():
            scores.append(volumes.found.scores[volumes.found.cases == number].max(initial=0))
            yes.append(bool(volumes.findings[here].any()))
    assert row.value == pytest.approx(roc_auc_score(yes, scores))
    assert row.n == len(yes)


def test_a_class_that_nobody_looked_for_is_not_judged(pictures: DetectionTable) -> None:
    unseen = (pictures.found.cases == 0) & (pictures.found.labels > 0)
    assert unseen.any()
    assert (pictures.hits.outcomes[unseen] == UNSEEN).all()
    assert not (pictures.hits.outcomes[~unseen] == UNSEEN).any()


def test_without_findings_and_without_boxes() -> None:
    data = dataset(10)
    nothing = data.with_cases([replace(case, truth=Truth(annotated=True, boxes=())) for case in data])
    report = report_from_boxes(nothing, answers(nothing), split="test", rules=QUICK)
    assert report.row("ap50").value is None
    assert report.row("ap50").reason == "nothing to find"
    assert report.row("false_positives_per_image").value > 0
    assert "nothing can be said about what is found" in report.warnings[0]
    none = [(case, found.taken(np.zeros(len(found.scores), bool))) for case, found in answers(data)]
    report = report_from_boxes(data, none, split="test", rules=QUICK)
    assert (report.row("ap50").value, report.row("froc_cpm").value, report.row("sensitivity").value) == (0, 0, 0)
    assert report.row("ap50").high > 0
    assert report.row("ppv").value is None
    assert report.row("false_positives_per_image").high > 0
    assert "Not one box was found." in report.warnings
    assert set(read_detections_text(report.detections).cases) == set(report.detections.cases)


def read_detections_text(table: DetectionTable, folder: str = "") -> DetectionTable:
    import tempfile

    with tempfile.TemporaryDirectory() as place:
        write_detections(table, Path(place) / "predictions.csv")
        return read_detections(place)


def test_compare_from_the_files_alone(tmp_path: Path) -> None:
    data = dataset(40)
    for name, skill in (("good", 2.0), ("poor", 0.4)):
        report_from_boxes(data, answers(data, skill=skill), split="test", rules=QUICK).save(tmp_path / name)
    found = compare(tmp_path / "good", tmp_path / "poor")
    at = {(row.name, row.group): row for row in found.rows}
    assert {name for name, _ in at} == {"ap50", "ap50_95", "froc_cpm", "sensitivity", "false_positives_per_image"}
    for (name, _), row in at.items():
        better = -1 if name == "false_positives_per_image" else 1
        assert row.low * better > 0
        assert row.high * better > 0
        assert row.p < 0.05
    back = compare(tmp_path / "poor", tmp_path / "good")
    assert [row.difference for row in back.rows] == pytest.approx([-row.difference for row in found.rows])
    same = compare(tmp_path / "good", tmp_path / "good")
    assert all(row.p == 1 and row.difference == 0 for row in same.rows)
    for name in ("ap50", "froc_cpm", "sensitivity", "false_positives_per_image"):
        own = read_detections(tmp_path / "good")
        expected = next(row for row in detection_rows(own, FEW) if row.name == name)
        assert at[name, "all"].a == pytest.approx(expected.value)


def test_compare_says_when_both_are_of_one_bundle(tmp_path: Path) -> None:
    data = dataset(12)
    for name, skill, bundle in (("a", 2.0, "sha256:1"), ("b", 1.9, "sha256:1"), ("c", 0.4, "sha256:2")):
        one = report_from_boxes(data, answers(data, skill=skill), split="test", rules=QUICK)
        replace(one, bundles=(bundle,)).save(tmp_path / name)
    assert (
        compare(tmp_path / "a", tmp_path / "b")
        .warnings[0]
        .startswith("Both evaluations are of the same bundle (sha256:1)")
    )
    assert not compare(tmp_path / "a", tmp_path / "c").warnings
    (tmp_path / "b" / "metrics.json").write_text("not json")
    assert not compare(tmp_path / "a", tmp_path / "b").warnings


def test_compare_classes_in_another_order(pictures: DetectionTable) -> None:
    data = dataset(flat=True, known=True)
    names = (CELLS[2], CELLS[0], CELLS[1])
    place = (1, 2, 0)
    cases = []
    for case in data:
        boxes, ignored = (tuple((c, place[k]) for c, k in some) for some in (case.truth.boxes, case.truth.ignored))
        known = None if case.truth.known is None else tuple(sorted(place[k] for k in case.truth.known))
        cases.append(replace(case, truth=replace(case.truth, boxes=boxes, ignored=ignored, known=known)))
    other = replace(data, cases=tuple(cases), labels=names)
    found = [
        (case, replace(b, label_ids=np.array(place)[b.label_ids], labels=names, thresholds=(0.4, 0.5, 0.45)))
        for case, (_, b) in zip(cases, answers(data), strict=True)
    ]
    result = compare_detections(pictures, detection_table(other, found), bootstrap=FEW)
    assert all(row.difference == pytest.approx(0) for row in result.rows)


def test_what_cannot_be_compared(volumes: DetectionTable, pictures: DetectionTable, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="same question"):
        compare_detections(volumes, pictures)
    with pytest.raises(DataError, match=r"different rules of hits.*iou 0\.3.*centre.*--hit"):
        compare_detections(volumes, replace(volumes, rule=HitRule("iou", 0.3)))
    moved = replace(volumes, true=replace(volumes.true, corners=volumes.true.corners + 1))
    with pytest.raises(DataError, match="another truth"):
        compare_detections(volumes, moved)
    with pytest.raises(DataError, match="other patients"):
        compare_detections(volumes, replace(volumes, patients=tuple(f"x{i}" for i in range(24))))
    with pytest.raises(DataError, match="no case in common"):
        compare_detections(volumes.at([0, 1]), volumes.at([2, 3]))
    write_detections(volumes, tmp_path / "boxes.csv")
    write_structures(judged(), tmp_path / "masks.csv")
    with pytest.raises(DataError, match="boxes and one of masks"):
        compare(tmp_path / "boxes.csv", tmp_path / "masks.csv")


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (",found,", ",guessed,", "guessed"),
        (",centre,", ",luck,", "rule of hits"),
        (",0.5,centre", ",much,centre", "cell that cannot be read"),
        ("threshold_nodule", "limit_nodule", "no table of boxes"),
    ],
)
def test_files_that_are_refused(volumes: DetectionTable, tmp_path: Path, old: str, new: str, says: str) -> None:
    text = detections_text(volumes)
    assert old in text
    path = tmp_path / "predictions.csv"
    path.write_text(text.replace(old, new))
    with pytest.raises(ReadError, match=says):
        read_detections(tmp_path)
    with pytest.raises(ReadError, match="does not exist"):
        read_detections(tmp_path / "absent.csv")


def test_boxes_that_do_not_fit_are_counted() -> None:
    data = dataset(6)
    found = list(answers(data))
    others = replace(found[0][1], labels=(Label("mass"),))
    report = report_from_boxes(data, [(found[0][0], others), *found[1:]], split="test", rules=QUICK)
    assert [failure.case for failure in report.failed] == ["c0"]
    assert ("unreadable or refused", 1) in report.flow
    flat = Boxes(np.zeros((0, 4)), np.zeros(0, int), np.zeros(0), NODULES, grid(0, True))
    report = report_from_boxes(data, [(found[0][0], flat), *found[1:]], split="test", rules=QUICK)
    assert "other axes" in report.failed[0].reason
    with pytest.raises(DatasetError, match="both found and true"):
        report_from_boxes(data, (), split="test")
    empty = [replace(case, truth=Truth(annotated=True, boxes=())) for case in data]
    with pytest.raises(DataError, match="planes and volumes"):
        detection_table(data, [(empty[0], flat), (empty[1], found[1][1])])
    with pytest.raises(DataError, match="stands twice"):
        detection_table(data, [found[0], found[0]])
    with pytest.raises(UsageError, match=r"report\.detections"):
        _ = report.structures
    assert report.detections.cases


def test_in_another_hospitals_words() -> None:
    data = dataset(6, flat=True)
    theirs = replace(data, labels=(Label("WBC"), Label("RBC"), Label("artefact")))
    bundle = SimpleNamespace(
        labels=CELLS, spec=SimpleNamespace(task="detect", inputs={"image": SimpleNamespace(modality="CT")}, kind=None)
    )
    words = {"WBC": "white", "RBC": "red", "artefact": None}
    ours = in_terms_of(bundle, theirs, words)
    assert ours.labels == CELLS
    for before, after in zip(data, ours, strict=True):
        expected = [(c, {0: 1, 1: 0}[k]) for c, k in before.truth.boxes if k < 2]
        assert list(after.truth.boxes) == expected
        assert after.truth.known == (0, 1)
    with pytest.raises(UsageError, match="does not know a class"):
        in_terms_of(bundle, theirs)
    with pytest.raises(UsageError, match="no such class"):
        in_terms_of(bundle, data, {"green": "red"})
    assert in_terms_of(bundle, data).cases == data.cases


def test_hits_are_in_millimetres(volumes: DetectionTable) -> None:
    for box in np.flatnonzero(volumes.hits.outcomes == HIT):
        truth = volumes.hits.truth[box]
        apart = np.linalg.norm(volumes.found.centres[box] - volumes.true.centres[truth])
        assert apart < volumes.true.diameters[truth] / 2
    case, found = next(iter(answers(dataset())))
    np.testing.assert_allclose(volumes.found.centres[volumes.found.cases == 0], found.centres_mm())
    assert scene(0, False)[2].geometry == found.geometry
    assert case.id == "c0"


def test_a_bundles_boxes_are_judged_as_they_come(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Unannotated cases are not even predicted, one that fails is counted, and both are said."""
    data = dataset(8)
    data = data.with_cases([replace(case, truth=Truth()) if case.id in ("c1", "c2") else case for case in data])
    bundle = SimpleNamespace(
        labels=NODULES,
        spec=SimpleNamespace(
            task="detect",
            inputs={"image": SimpleNamespace(modality="CT")},
            kind=None,
            run={},
            provenance={},
            members=(),
        ),
        decision=None,
        digest="sha256:" + "ab" * 32,
        path=tmp_path / "run" / "bundle",
    )
    bundle.path.mkdir(parents=True)

    def predicted(bundles: object, asked: Dataset, **how: object) -> Iterator[Prediction | FailedCase]:
        for case, found in answers(asked):
            if case.id == "c4":
                yield FailedCase("c4", "the file is truncated")
            else:
                yield Prediction(case.id, {"boxes": found})

    monkeypatch.setattr(judge, "predict_cases", predicted)
    monkeypatch.setattr(judge, "content_hash", lambda whole, case: "")
    report = evaluate([bundle], data, "test")
    assert set(report.detections.cases) == {"c0", "c3", "c5", "c6", "c7"}
    assert report.flow == (("supplied", 8), ("without a truth", 2), ("unreadable or refused", 1), ("evaluated", 5))
    told = " ".join(report.warnings)
    assert "2 cases that nobody has looked at are left out" in told
    assert "1 of 6 cases could not be evaluated" in told
    assert report.looks == 1
    with pytest.raises(UsageError, match="boxes are neither recalibrated"):
        evaluate([bundle], data, "test", options=Options(aggregate_by="patient"))


@settings(deadline=None)
@given(
    st.floats(0.4, 1.2),
    st.floats(0.6, 5),
    st.floats(3, 20),
    st.tuples(st.floats(0.2, 0.8), st.floats(0.2, 0.8), st.floats(0, 1)),
    st.floats(0, 3),
)
def test_a_balls_box_gives_back_its_diameter(
    wide: float, thick: float, diameter: float, place: tuple[float, float, float], turn: float
) -> None:
    """Also in slices thicker than the ball, and where the ball reaches beyond the first or the last slice."""
    shape = (120, 110, 40)
    affine = np.diag([wide, wide, thick, 1.0])
    rotation = np.eye(4)
    rotation[:2, :2] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    geometry = Geometry(shape, rotation @ affine)
    centre = np.array(place) * (np.array(shape) - 1)
    corners = Fitting("ball").fit(corners_of_ball(geometry, geometry.to_world(centre)[0], diameter), shape, "ball")
    edges = (np.array(corners[3:]) - corners[:3] + 1) * geometry.spacing_mm
    assert box_diameters(edges[None])[0] == pytest.approx(diameter, rel=1e-6)


def test_nearly_all_found_is_not_reported_as_certain() -> None:
    """Ten patients, every finding found, a false alarm above one of them: draws would give 0.99 to 1."""
    box = [0.0, 0.0, 9.0, 9.0]
    cases = np.arange(10)
    alarm = np.array([[50.0, 50.0, 59.0, 59.0]])
    table = DetectionTable(
        cases=tuple(f"c{n}" for n in cases),
        patients=tuple(f"p{n}" for n in cases),
        labels=("cell",),
        found=BoxList([*cases, 0], np.concatenate([[box] * 10, alarm]), [0] * 11, [*np.linspace(0.5, 0.9, 10), 0.51]),
        called=[True] * 11,
        true=BoxList(cases, [box] * 10, [0] * 10),
        rule=HitRule("iou", 0.5),
    )
    for row in detection_rows(table, FEW):
        if row.group == "all" and row.name in ("ap50", "froc_cpm", "sensitivity_at_fppi_1"):
            assert row.value > 0.98
            assert row.low < 0.75
            assert row.value <= row.high <= 1
