"""From masks that are there already to a report: what is counted, what is kept, what a second observer makes of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from judged_masks import GRID, dataset, judged, masks
from prediction_tables import binary

from medmap.dataset import Case, Dataset, Ref, Truth
from medmap.errors import DataError, DatasetError, ReadError
from medmap.evaluate import (
    WorstKept,
    badness,
    beside_observers,
    case_scores,
    compare,
    read_structures,
    report_from_masks,
    write_predictions,
    write_structures,
)
from medmap.image import Image
from medmap.metrics import Bootstrap, MaskRules
from medmap.results import Label, Mask
from medmap.write import write

FEW = Bootstrap(200)
LABELS = {1: Label("liver"), 2: Label("tumour")}


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Ten cases on disk; the first four have a second observer, the last has no truth."""
    folder = tmp_path_factory.mktemp("livers")
    data = dataset(10)
    cases = []
    for i, case in enumerate(data):
        refs = []
        for number, mask in enumerate((masks(i)[0], masks(i, 0.1)[1])):
            if number == 0 or i < 4:
                write(Image(mask, GRID, "label"), folder / f"{i}_{number}.nii.gz")
                refs.append(Ref(f"{i}_{number}.nii.gz"))
        write(Image(masks(i)[0].astype(np.int16) * 40, GRID), folder / f"{i}.nii.gz")
        cases.append(replace(case, truth=Truth(annotated=True, masks=tuple(refs)) if i < 9 else Truth()))
    return replace(data.with_cases(cases), root=folder)


def predicted(data: Dataset, noise: float = 0.4) -> Iterator[tuple[Case, Mask]]:
    for i, case in enumerate(data):
        yield case, Mask(masks(i, noise)[1], GRID, LABELS)


def test_masks_become_a_report(stored: Dataset, tmp_path: Path) -> None:
    rules = MaskRules({"tumour": 3.0}, lesion_overlap=0.5)
    report = report_from_masks(stored, predicted(stored), split="test", rules=rules)
    assert (report.cases, report.task, report.failed) == (9, "segment", ())
    assert report.flow == (("supplied", 10), ("without a true mask", 1), ("evaluated", 9))
    assert report.row("dice") is not None
    assert set(report.structures.raters) == {"prediction", "observer 2"}
    report.save(tmp_path)
    document = json.loads((tmp_path / "metrics.json").read_text())
    assert document["rules"] == {
        "tolerance_mm": {"tumour": 3.0}, "lesion_overlap": 0.5, "lesion_connectivity": "corners"
    }  # fmt: skip
    assert read_structures(tmp_path).scores == report.structures.scores
    assert "masks" not in document


def test_a_case_that_cannot_be_read_is_counted_and_leaves_no_row(stored: Dataset) -> None:
    broken = replace(stored["c0"].truth, masks=(*stored["c0"].truth.masks, Ref("absent.nii.gz")))
    data = stored.with_cases([replace(case, truth=broken) if case.id == "c0" else case for case in stored])
    report = report_from_masks(data, predicted(data), split="test")
    assert [failure.case for failure in report.failed] == ["c0"]
    assert "c0" not in report.structures.cases, "not even the observer who could be read"
    assert ("unreadable or refused", 1) in report.flow
    assert any("1 of 9 cases could not be evaluated" in text for text in report.warnings)
    with pytest.raises(DatasetError, match="both a mask"):
        report_from_masks(data, (), split="test")


def test_only_the_worst_masks_are_kept(stored: Dataset) -> None:
    report = report_from_masks(stored, predicted(stored), split="test")
    worst: dict[str, tuple[float, float]] = {}
    for case, score in zip(report.structures.of().cases, report.structures.of().scores, strict=True):
        worst[case] = min(worst.get(case, (2.0, 0.0)), badness(score))
    assert report.masks is not None
    order = sorted(worst, key=lambda case: worst[case])
    for i in range(10):
        mask = report.masks(f"c{i}")
        assert (mask is not None) == (f"c{i}" in order[:6])
        if mask is not None:
            assert np.array_equal(mask.array, masks(i)[1])
            assert (mask.geometry, dict(mask.labels)) == (GRID, LABELS)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=20), st.integers(1, 4))
def test_whatever_the_order_the_worst_stay(order: list[int], most: int) -> None:
    data = dataset(10)
    kept = WorstKept(most)
    bad = {}
    for i in order:
        scores = case_scores(data, data.cases[i], *masks(i), GRID)
        kept.judged(f"c{i}", Mask(masks(i)[1], GRID, LABELS), scores)
        bad[f"c{i}"] = min(map(badness, scores))
    there = {case for case in bad if kept(case) is not None}
    assert len(there) == min(most, len(bad))
    assert max(bad[case] for case in there) <= min((bad[c] for c in bad if c not in there), default=(9.0, 9.0))


def test_overlapping_regions_and_cases_without_a_structure_are_kept_or_not() -> None:
    kept = WorstKept()
    both = np.zeros((*GRID.shape, 2), bool)
    both[2:4, 2:4, 2:4] = True
    scores = case_scores(dataset(regions=True), dataset().cases[0], both, both, GRID)
    kept.judged("a", Mask(both, GRID, LABELS), scores)
    kept.judged("b", Mask(both, GRID, LABELS), ())
    found = kept("a")
    assert found is not None
    assert np.array_equal(found.array, both)
    assert kept("b") is None


def test_the_prediction_beside_a_second_observer() -> None:
    table = judged(observer=True)
    found = beside_observers(table, FEW)
    assert list(found) == ["observer 2"]
    report = found["observer 2"]
    assert report.cases == 6, "those that this observer has drawn"
    dice = next(row for row in report.rows if (row.name, row.group) == ("dice", "liver"))
    part = table.of(structure="liver").at(range(6))
    assert dice.a == pytest.approx(part.values("dice").mean())
    assert dice.b == pytest.approx(table.of("observer 2", "liver").values("dice").mean())
    assert beside_observers(table.of(), FEW) == {}


def test_two_evaluations_of_one_kind_are_compared_and_of_two_kinds_refused(tmp_path: Path) -> None:
    for name, noise in (("good", 0.1), ("bad", 0.9)):
        (tmp_path / name).mkdir()
        write_structures(judged(noise=noise), tmp_path / name / "predictions.csv")
    report = compare(tmp_path / "good", tmp_path / "bad" / "predictions.csv")
    dice = next(row for row in report.rows if (row.name, row.group) == ("dice", "all"))
    assert dice.difference is not None
    assert dice.difference > 0
    (tmp_path / "scores").mkdir()
    write_predictions(binary(), tmp_path / "scores" / "predictions.csv")
    for pair in (("good", "scores"), ("scores", "good")):
        with pytest.raises(DataError, match="masks and one of scores cannot be compared"):
            compare(*(tmp_path / name for name in pair))
    with pytest.raises(ReadError, match="does not exist"):
        compare(tmp_path / "good", tmp_path / "nowhere")
    (tmp_path / "other.csv").write_text("name,age\na,1\n")
    with pytest.raises(ReadError, match="no table of predictions"):
        compare(tmp_path / "other.csv", tmp_path / "other.csv")
