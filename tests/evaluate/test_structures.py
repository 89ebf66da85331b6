"""The table of structures: built from a dataset, written, read back, summed up, compared."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from judged_masks import GRID, SHAPE, dataset, judged, masks

from medmap.errors import DataError, DatasetError, ReadError
from medmap.evaluate import (
    StructureTable,
    case_scores,
    compare_structure_folders,
    compare_structures,
    known_structures,
    read_structures,
    structure_rows,
    structure_subgroup_rows,
    structure_table,
    structures_of,
    structures_text,
    volume_agreement,
    write_structures,
)
from medmap.evaluate.structures import as_labels
from medmap.evaluate.structures_rows import METRICS
from medmap.geometry import Geometry
from medmap.metrics import Bootstrap, Estimate, LesionCounts, MaskRules, MaskScores

FEW = Bootstrap(200)


def by_name(rows: tuple[Estimate, ...] | list[Estimate], stage: str | None = None) -> dict[tuple[str, str], Estimate]:
    return {(row.name, row.group): row for row in rows if row.stage == stage}


def test_rows_of_every_structure_and_of_all() -> None:
    table = judged()
    rows = by_name(structure_rows(table, FEW))
    assert {name for name, _ in rows} == set(METRICS)
    assert {group for _, group in rows} == {"all", "liver", "tumour"}
    dice = table.values("dice")
    names = np.array([score.structure for score in table.scores])
    assert rows["dice", "liver"].value == pytest.approx(dice[names == "liver"].mean())
    # here every case has both structures, so the mean of means is the mean
    assert rows["dice", "all"].value == pytest.approx(dice.mean())
    for row in rows.values():
        assert row.low is not None
        assert row.value is not None
        assert row.low <= row.value <= row.high  # type: ignore[operator]
    assert rows["nsd", "all"].tolerance_mm == 2.0
    assert rows["nsd", "all"].as_json()["tolerance_mm"] == 2.0
    assert "tolerance_mm" not in rows["dice", "all"].as_json()


def test_missed_and_invented_structures_never_drop_out() -> None:
    table = judged()
    tumours = table.of(structure="tumour")
    assert len(tumours) == 12
    assert [tumours.scores[i].dice for i in (3, 5)] == [0, 0]
    assert tumours.scores[3].hd95_mm == tumours.scores[5].hd95_mm == GRID.field_of_view_diagonal_mm
    rows = by_name(structure_rows(table, FEW))
    assert rows["dice", "tumour"].n == 12
    assert rows["hd95_mm", "tumour"].n == 12
    assert rows["lesion_sensitivity", "tumour"].n == 11  # case 5 has no lesion to find
    assert rows["lesion_precision", "tumour"].n == 11  # in case 3 none was predicted
    assert rows["lesion_f1", "tumour"].n == 12


def test_a_structure_that_was_not_annotated_drops_out() -> None:
    data = dataset(known=True)
    assert known_structures(data, data.cases[0]) == ("liver",)
    table = judged(data)
    rows = by_name(structure_rows(table, FEW))
    assert (rows["dice", "liver"].n, rows["dice", "tumour"].n, rows["dice", "all"].n) == (12, 11, 12)
    per_case = {}
    for case, score in zip(table.cases, table.scores, strict=True):
        per_case.setdefault(case, []).append(score.dice)
    assert rows["dice", "all"].value == pytest.approx(np.mean([np.mean(v) for v in per_case.values()]))


def test_regions_and_ignored_voxels_of_the_dataset() -> None:
    data = dataset(regions=True)
    assert structures_of(data) == {1: "whole", 2: "core"}
    truth, prediction = masks(0)
    whole, core = case_scores(data, data.cases[0], truth, prediction, GRID)
    assert whole.truth_voxels == (truth > 0).sum()
    assert core.truth_voxels == (truth == 2).sum()
    channels = np.stack([prediction > 0, prediction == 2], axis=-1)
    assert case_scores(data, data.cases[0], truth, channels, GRID) == (whole, core)
    both = np.stack([truth > 0, truth == 2], axis=-1)
    assert case_scores(replace(data, ignore=255), data.cases[0], both, channels, GRID) == (whole, core)
    half = replace(data.cases[0], truth=replace(data.cases[0].truth, known=(0, 2)))
    assert known_structures(data, half) == ("core",)

    ignoring = dataset(ignore=255)
    marked = truth.copy()
    marked[:4] = 255
    expected = case_scores(
        ignoring,
        ignoring.cases[0],
        np.where(marked == 255, 0, truth).astype(np.uint8),
        prediction * (marked < 255),
        GRID,
    )
    assert case_scores(ignoring, ignoring.cases[0], marked, prediction, GRID) == expected
    assert structures_of(dataset(ignore=2)) == {1: "liver"}


def test_masks_are_taken_as_they_are_read() -> None:
    data, (truth, prediction) = dataset(), masks(0)
    expected = case_scores(data, data.cases[0], truth, prediction, GRID)
    for kind in (np.int16, np.int64, np.float32, np.uint16):
        assert case_scores(data, data.cases[0], truth.astype(kind), prediction, GRID) == expected
    one = replace(data, labels=data.labels[:2])
    binary = case_scores(one, data.cases[0], truth == 1, prediction == 1, GRID)
    assert binary == expected[:1]
    assert as_labels(np.array([0, 300], np.int32)).dtype == np.uint16
    for wrong in (np.array([0.5]), np.array([-1]), np.array([np.nan]), np.array([70_000]), np.array(["a"])):
        with pytest.raises(DataError, match="mask"):
            as_labels(wrong)


def test_a_second_observer_stands_beside_the_model() -> None:
    table = judged(observer=True)
    rows = structure_rows(table, FEW)
    model, observer = by_name(rows), by_name(rows, "observer 2")
    assert observer["dice", "liver"].n == 6
    assert observer["dice", "liver"].value > model["dice", "liver"].value
    assert by_name(structure_rows(table.of(), FEW)) == model
    stages = {row.stage for row in volume_agreement(table)}
    assert stages == {None, "observer 2"}


def test_volumes_agree() -> None:
    table = judged()
    rows = by_name(volume_agreement(table, FEW))
    liver = table.of(structure="liver")
    gaps = liver.values("volume_prediction_ml") - liver.values("volume_truth_ml")
    assert rows["volume_bias_ml", "liver"].value == pytest.approx(gaps.mean())
    assert rows["volume_limit_high_ml", "liver"].value == pytest.approx(gaps.mean() + 1.959964 * gaps.std(ddof=1))
    assert rows["volume_bias_ml", "liver"].method == FEW.method  # two cases are of one patient


def test_without_millimetres_the_reason_is_said() -> None:
    data = dataset()
    plain = Geometry.without_size(SHAPE)
    scores = {case.id: case_scores(data, case, *masks(i), plain) for i, case in enumerate(data)}
    rows = by_name(structure_rows(structure_table(data, scores), FEW))
    assert rows["dice", "all"].value is not None
    assert rows["hd95_mm", "all"].reason == "the images have no millimetres"
    assert rows["volume_error_ml", "liver"].value is None
    assert rows["volume_error_ml", "liver"].reason is not None
    assert volume_agreement(structure_table(data, scores)) == ()


def test_tolerances_that_differ_are_not_called_one() -> None:
    data = dataset()
    rules = MaskRules({"liver": 1.0, "tumour": 3.0})
    scores = {case.id: case_scores(data, case, *masks(i), GRID, rules) for i, case in enumerate(data)}
    rows = by_name(structure_rows(structure_table(data, scores), FEW))
    assert [rows["nsd", name].tolerance_mm for name in ("all", "liver", "tumour")] == [None, 1.0, 3.0]


def test_subgroups_by_site_and_column() -> None:
    rows, notes = structure_subgroup_rows(judged(dataset(24), observer=True))
    found = by_name(rows)
    assert found["dice", "site=north"].n == 12
    assert found["dice", "site=south"].value is not None
    small = [row for row in rows if row.group.startswith("age=")]
    assert small
    assert all(row.value is None and "fewer than 10" in row.reason for row in small)
    assert notes == ["No subgroups: note has the same value everywhere."]


def test_there_and_back_again(tmp_path: Path) -> None:
    table = judged(dataset(known=True), observer=True)
    write_structures(table, tmp_path / "predictions.csv")
    back = read_structures(tmp_path)
    for name in ("cases", "patients", "scores", "raters", "splits", "folds", "sites"):
        assert getattr(back, name) == getattr(table, name)
    assert dict(back.columns) == dict(table.columns)
    text = (tmp_path / "predictions.csv").read_text()
    assert "'=1+1" in text
    assert structures_text(back) == text
    assert text.startswith("case,patient,split,fold,structure,rater,dice,iou,")


@given(st.text(min_size=1, max_size=12).filter(lambda t: t.strip() == t), st.sampled_from([None, 0.1 + 0.2, 1e-300]))
def test_any_name_and_number_comes_back(
    tmp_path_factory: pytest.TempPathFactory, name: str, value: float | None
) -> None:
    name = name.encode("utf-8", "backslashreplace").decode()
    score = MaskScores(name, 5, 4, 3, value, value, None, None, value, LesionCounts(1, 0, 0, 0))
    table = StructureTable((name,), (name,), (score,), sites=(name,), columns={name: (name,)})
    folder = tmp_path_factory.mktemp("csv")
    write_structures(table, folder / "predictions.csv")
    back = read_structures(folder)
    assert (back.cases, back.patients, back.scores, back.sites) == ((name,), (name,), (score,), (name,))
    assert dict(back.columns) == {name: (name,)}


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "predictions.csv"
    with pytest.raises(ReadError, match="does not exist"):
        read_structures(tmp_path)
    path.write_text("case,patient\na,b\n")
    with pytest.raises(ReadError, match="no table of structures"):
        read_structures(tmp_path)
    write_structures(judged(), path)
    header, first, *rest = path.read_text().splitlines()
    at = {name: number for number, name in enumerate(header.split(","))}

    def changed(name: str, value: str) -> None:
        cells = first.split(",")
        cells[at[name]] = value
        path.write_text("\n".join([header, ",".join(cells), *rest]) + "\n")

    for name, value in (
        ("dice", "0.99"),
        ("dice", ""),
        ("truth_voxels", "x"),
        ("hd95_mm", "nan"),
        ("lesions_found", "9"),
    ):
        changed(name, value)
        with pytest.raises(ReadError, match="row 2 cannot be read"):
            read_structures(path)
    changed("fold", "one")
    with pytest.raises(ReadError, match="fold"):
        read_structures(path)
    changed("patient", "somebody")
    with pytest.raises(DataError, match="no patient, or two"):
        read_structures(path)


def test_a_table_that_contradicts_itself_is_refused() -> None:
    score = MaskScores("liver", 1, 1, 1, 0.0, 0.0, 1.0, 2.0, None, LesionCounts(1, 1, 1, 1))
    with pytest.raises(DataError, match="do not fit the cases"):
        StructureTable(("a",), ("a", "b"), (score,))
    with pytest.raises(DataError, match="stands twice"):
        StructureTable(("a", "a"), ("p", "p"), (score, score))
    with pytest.raises(DataError, match="no patient, or two"):
        StructureTable(("a", "a"), ("p", "q"), (score, replace(score, structure="tumour")))
    with pytest.raises(DatasetError, match="no such case"):
        structure_table(dataset(), {"x": (score,)})
    with pytest.raises(DatasetError, match="both a mask"):
        structure_table(dataset(), {})
    with pytest.raises(DatasetError, match="names no structure"):
        structures_of(replace(dataset(), labels=dataset().labels[:1]))


def test_the_better_model_is_found() -> None:
    good, bad = judged(noise=0.1), judged(noise=0.9)
    report = compare_structures(good, bad, "good", "bad", FEW)
    rows = {(row.name, row.group): row for row in report.rows}
    dice = rows["dice", "all"]
    assert dice.difference is not None
    assert dice.difference > 0
    assert dice.p is not None
    assert dice.p < 0.05
    assert rows["hd95_mm", "liver"].difference < 0
    turned = compare_structures(bad, good, bootstrap=FEW)
    other = next(row for row in turned.rows if (row.name, row.group) == ("dice", "all"))
    assert (other.difference, other.p) == pytest.approx((-dice.difference, dice.p))
    assert (report.cases, report.patients, report.warnings) == (12, 11, ())
    assert "good" in report.as_text()


def test_only_what_both_judged_is_compared(tmp_path: Path) -> None:
    a, b = judged(observer=True), judged(dataset(10))
    folders = tmp_path / "a", tmp_path / "b"
    for folder, table in zip(folders, (a, b.at(np.array(b.cases) != "c9")), strict=True):
        folder.mkdir()
        write_structures(table, folder / "predictions.csv")
    report = compare_structure_folders(*folders)
    assert (report.cases, report.only_in_a, report.only_in_b) == (9, 3, 0)
    assert "3 cases are in the first evaluation only" in report.warnings[0]


def test_unlike_evaluations_are_not_compared() -> None:
    table = judged()
    other = replace(table, scores=tuple(replace(s, truth_voxels=s.truth_voxels + 1) for s in table.scores))
    with pytest.raises(DataError, match="another truth"):
        compare_structures(table, other)
    with pytest.raises(DataError, match="other patients"):
        compare_structures(table, replace(table, patients=tuple(f"q{p}" for p in table.patients)))
    with pytest.raises(DataError, match="in common"):
        compare_structures(table.of(structure="liver"), table.of(structure="tumour"))
    looser = replace(table, scores=tuple(replace(s, tolerance_mm=3.0) for s in table.scores))
    report = compare_structures(table, looser, bootstrap=FEW)
    assert "nsd" not in {row.name for row in report.rows}
    assert "NSD is left out" in report.warnings[-1]
    trained = replace(table, splits=("train",) * len(table))
    assert "training split" in compare_structures(table, trained, bootstrap=FEW).warnings[0]


@pytest.mark.parametrize(("patients", "words"), [(4, "so no difference can be told from chance"), (8, "too narrow")])
def test_few_patients_are_said_to_show_little(patients: int, words: str) -> None:
    a, b = (judged(dataset(patients + 1), noise).of() for noise in (0.1, 0.9))
    report = compare_structures(a, b)
    assert report.patients == patients
    assert any(f"Only {patients} patients: no p can be below" in text and words in text for text in report.warnings)
    assert all(row.p is None or row.p >= 2 / 2**patients for row in report.rows)
    many = compare_structures(*(judged(dataset(24), noise).of() for noise in (0.1, 0.9)))
    assert not any("no p can be below" in text for text in many.warnings)
