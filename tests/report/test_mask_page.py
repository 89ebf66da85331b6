"""The page of an evaluation of masks: its numbers, words and pictures; no network, no script, every word escaped."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from judged_masks import GRID, SHAPE, dataset, judged, masks
from test_report_page import HOSTILE, Page, parsed

from medmap.dataset import Dataset, Ref, Truth
from medmap.evaluate import (
    Failure,
    Report,
    StructureTable,
    case_scores,
    read_structures,
    report_from_masks,
    structure_rows,
    structure_subgroup_rows,
    structure_table,
    volume_agreement,
)
from medmap.evaluate.names import decimals
from medmap.geometry import Geometry
from medmap.image import Image
from medmap.metrics import Bootstrap, LesionCounts, MaskRules, MaskScores
from medmap.metrics.meanings import meaning
from medmap.report import drawn_of, every_table, figures, methods, render_html, save_evaluation, summary
from medmap.report.page import held_together
from medmap.report.structure_words import found_of, listed, parts_words, structure_headline
from medmap.results import Label, Mask
from medmap.write import write

FEW = Bootstrap(100)
LABELS = {1: Label("liver"), 2: Label("tumour")}


def report_of(table: StructureTable, **more: object) -> Report:
    groups, notes = structure_subgroup_rows(table)
    rows = (*structure_rows(table, FEW), *volume_agreement(table, FEW), *groups)
    return Report(
        "test",
        table,
        rows,
        "livers",
        "sha256:" + "ab" * 32,
        task="segment",
        notes=tuple(notes),
        rules=MaskRules(),
        **more,
    )


@pytest.fixture(scope="module")
def report() -> Report:
    return report_of(
        judged(dataset(24), observer=True),
        failed=(Failure("c900", "the file is truncated"),),
        warnings=("Look twice.",),
        flow=(("supplied", 25), ("unreadable or refused", 1), ("evaluated", 24)),
        bundles=("sha256:" + "cd" * 32,),
    )


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Eight cases on disk; case 3 misses the tumour, case 5 invents one."""
    folder = tmp_path_factory.mktemp("livers")
    cases = []
    for i, case in enumerate(dataset(8)):
        write(Image(masks(i)[0], GRID, "label"), folder / f"m{i}.nii.gz")
        write(Image(masks(i)[0].astype(np.int16) * 40, GRID), folder / f"{i}.nii.gz")
        cases.append(replace(case, truth=Truth(annotated=True, masks=(Ref(f"m{i}.nii.gz"),))))
    return replace(dataset(8).with_cases(cases), root=folder)


def predicted(case: str) -> Mask:
    return Mask(masks(int(case[1:]))[1], GRID, LABELS)


def test_the_page_is_well_formed_and_closed_to_the_network(report: Report, log: list[dict[str, str]]) -> None:
    html = render_html(report, training_log=log)
    page = Page(html)
    assert all(link.startswith(("#", "data:")) for link in page.links)
    assert not [tag for tag, _ in page.seen if tag in ("script", "link", "iframe", "object", "form")]
    assert not set(re.findall(r"https?://[^\s\"'<>]+", html)) - {"http://www.w3.org/2000/svg"}
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids())
    assert len(page.ids()) == len(set(page.ids()))
    assert page.text.index("Look twice.") < page.text.index(summary(report)[:30]), "warnings first"
    for words in (
        "Who was evaluated", "Missed and invented", "Can the volumes be used?", "Beside another observer",
        "Subgroups", "Single cases", "Training", "Methods", "c900", "no picture",
    ):  # fmt: skip
        assert words in page.text


def test_the_page_holds_the_numbers(report: Report) -> None:
    page = Page(render_html(report))
    for name in ("dice", "iou", "hd95_mm", "assd_mm", "nsd", "volume_error_ml", "lesion_sensitivity", "lesion_f1"):
        for group in ("all", "liver", "tumour"):
            row = report.row(name, group)
            assert row is not None
            assert row.value is not None
            assert decimals(row.value) in page.text, (name, group)
            assert row.low is None or f"{decimals(row.low)} to {decimals(row.high or 0)}" in page.text
    assert "NSD at 2 mm" in page.text
    assert "Dice of observer 2" in page.text


def test_the_summary_is_in_plain_words(report: Report) -> None:
    text, dice = summary(report), report.row("dice")
    assert dice is not None
    assert text.startswith(f"Masks of liver and tumour overlap the true ones by a Dice of {dice.value:.2f} (95 % CI ")
    assert "It is weakest for tumour" in text
    assert "Of 47 structures in the truth 1 was missed; 1 was drawn where there is none." in text
    assert "Another person (observer 2) has a Dice of" in text
    assert re.search(r"In 95 of 100 cases the volume is off by −0\.\d+ to \+0\.\d+ ml \(liver\) and", text)
    right = report_of(judged(dataset(12), noise=0.0).of(structure="liver"))
    assert "No structure was missed and none invented." in summary(right)
    assert "weakest" not in summary(right)
    assert summary(replace(report, rows=())) == "These cases do not allow a result to be stated."
    assert [listed("a"), listed("ab"), listed("abc"), listed("abcd")] == ["a", "a and b", "a, b and c", "4 structures"]


def test_words_are_explained_once(report: Report) -> None:
    html = render_html(report)
    for name in ("nsd", "hd95_mm", "iou", "assd_mm"):
        assert html.count(held_together(meaning(name))) == 1, name
    assert meaning("dice") not in html  # the sentence at the top says it


def test_missed_and_invented_are_counted(report: Report) -> None:
    found = found_of(report.structures.of(structure="tumour"))
    assert (found.cases, found.true, found.both, found.missed, found.invented) == (24, 23, 22, 1, 1)
    table = next(t for t in every_table(report) if t.name == "found")
    assert [row[0] for row in table.rows] == ["liver", "    observer 2", "tumour", "    observer 2"]
    assert table.rows[2][1:6] == ("24", "23", "22", "1", "1")
    rows = list(csv.DictReader(io.StringIO(table.csv)))
    assert (rows[2]["structure"], rows[2]["rater"], rows[2]["missed"]) == ("tumour", "prediction", "1")


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=9))
def test_every_case_is_found_missed_invented_or_empty(sizes: list[tuple[int, int, int]]) -> None:
    lesions = LesionCounts(0, 0, 0, 0)
    scores = [MaskScores("a", t, p, min(t, p, c), None, None, None, None, None, lesions) for t, p, c in sizes]
    names = tuple(f"c{i}" for i in range(len(scores)))
    found = found_of(StructureTable(names, names, tuple(scores)))
    empty = sum(not t and not p for t, p, _ in sizes)
    assert found.both + found.missed + found.invented + empty == found.cases == len(sizes)
    assert found.apart <= found.both <= found.true


def test_the_rules_are_said(report: Report) -> None:
    told = " ".join(methods(report))
    for words in (
        "distances the diagonal of the field of view", "Nikolov et al. 2021; 2 mm", "Bland and Altman",
        "touch by faces or corners); it is found when one of its voxels", "first observer is the truth", "quartiles",
    ):  # fmt: skip
        assert words in told
    stricter = replace(report, rules=MaskRules(lesion_overlap=0.5, lesion_connectivity="faces"))
    assert "touch by faces); it is found when more than 50 % of it lies" in " ".join(methods(stricter))
    unknown = " ".join(methods(replace(report, rules=None)))
    assert "A part, a lesion in the measures' names, is a connected component. " in unknown
    mixed = judged()
    mixed = replace(
        mixed,
        scores=tuple(replace(s, tolerance_mm=1.0 if s.structure == "liver" else 3.0) for s in mixed.scores),
    )
    assert "liver 1 mm, tumour 3 mm" in " ".join(methods(report_of(mixed)))


def test_measures_of_lesions_are_not_taken_for_more_than_they_are(report: Report) -> None:
    page = Page(render_html(report))
    assert page.text.count("Of liver and tumour, in one part in nearly every true mask,") == 1
    assert "lesions found" not in page.text
    assert "parts found" in page.text
    assert "Lesion sensitivity" in page.text, "a metric keeps its name"
    assert f"sha256:{'ab' * 32} (of the whole dataset, with all its splits)" in page.text
    assert "Lesion F1" not in [name for name, _ in structure_headline(report)]


def in_pieces(name: str, pieces: int) -> Report:
    """Cases whose structure is in so many parts."""
    score = MaskScores(name, 90, 90, 80, 1.0, 0.5, 0.9, 2.0, 0.1, LesionCounts(pieces, pieces, pieces, pieces))
    cases = tuple(f"c{i}" for i in range(12))
    return report_of(StructureTable(cases, cases, (score,) * 12))


def test_a_tree_in_pieces_has_no_lesions() -> None:
    vessels, plaques, kidney = in_pieces("retinal vessels", 6), in_pieces("plaque", 6), in_pieces("kidney", 1)
    assert "Of retinal vessels, which branch, they say where the tree breaks off" in parts_words(vessels.structures)
    assert "Of kidney, in one part" in parts_words(kidney.structures)
    assert parts_words(plaques.structures).endswith("pieces of a mask that hang together.")
    top = [["Lesion F1" in dict(structure_headline(one))] for one in (vessels, plaques, kidney)]
    assert top == [[False], [True], [False]]


def test_the_observer_stands_beside_the_prediction_on_the_same_cases(report: Report) -> None:
    table = next(t for t in every_table(report) if t.name == "observers")
    rows = list(csv.DictReader(io.StringIO(table.csv)))
    liver = next(row for row in rows if (row["metric"], row["group"]) == ("dice", "liver"))
    part = report.structures.of(structure="liver").values("dice")[:6]
    assert (int(liver["n"]), float(liver["prediction"])) == (6, pytest.approx(part.mean()))
    assert "observer 2" in table.title
    alone = report_of(report.structures.of())
    assert {t.name for t in every_table(alone)} == {t.name for t in every_table(report)} - {"observers"}


def test_many_structures_are_a_row_each() -> None:
    lesions = LesionCounts(1, 1, 1, 1)
    names = [f"organ {i}" for i in range(30)]
    scores = [MaskScores(name, 10, 10, i % 10, 1.0, 0.5, 0.9, 2.0, 0.1, lesions) for i in range(4) for name in names]
    cases = tuple(f"c{i}" for i in range(4) for _ in names)
    report = report_of(StructureTable(cases, cases, tuple(scores)))
    tables = {table.name: table for table in every_table(report)}
    assert "structure_1" not in tables
    assert "flow" not in figures(report), "nobody said where the cases came from"
    assert "Volumes of 8 more structures, drawn" in render_html(report)
    assert len(tables["structures"].rows) == 30
    assert len(Page(render_html(report)).ids()) < 40
    assert "Masks of 30 structures overlap" in summary(report)
    assert "off by" not in summary(report)


def test_without_millimetres_the_page_still_stands() -> None:
    data = dataset(12)
    plain = Geometry.without_size(SHAPE)
    scores = {case.id: case_scores(data, case, *masks(i), plain) for i, case in enumerate(data)}
    report = report_of(structure_table(data, scores))
    page = Page(render_html(report))
    assert "the images have no millimetres" in page.text
    assert "surfaces lie" not in summary(report)
    assert "Can the volumes be used?" not in page.text
    assert "not defined: the images have no millimetres" in " ".join(methods(report))


def test_hostile_names_stay_words(log: list[dict[str, str]]) -> None:
    table = judged(dataset(24), observer=True)
    scores = tuple(replace(s, structure=HOSTILE) if s.structure == "liver" else s for s in table.scores)
    table = replace(
        table,
        scores=scores,
        cases=tuple(f"{HOSTILE}{case}" for case in table.cases),
        raters=tuple("prediction" if rater == "prediction" else HOSTILE for rater in table.raters),
        sites=(HOSTILE, "\x00\ud800") * (len(table) // 2),
        columns={HOSTILE: (HOSTILE, "b") * (len(table) // 2)},
    )
    report = replace(report_of(table, warnings=(HOSTILE,)), dataset_name=HOSTILE)
    html = render_html(report, training_log=[{**row, "val_<b>": "1"} for row in log])
    page = Page(html)
    assert "<script" not in html
    assert HOSTILE in page.text
    for figure in figures(report).values():
        parsed(figure.svg)


def test_an_evaluation_is_saved_whole_with_the_worst_masks_drawn(
    stored: Dataset, log: list[dict[str, str]], tmp_path: Path
) -> None:
    report = report_from_masks(stored, ((case, predicted(case.id)) for case in stored), split="test")
    save_evaluation(report, tmp_path, dataset=stored, training_log=log)
    files = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert {"metrics.json", "predictions.csv", "report.html"} <= files
    assert {f"figures/{name}.svg" for name in figures(report, log)} <= files
    assert {f"tables/{table.name}.csv" for table in every_table(report)} <= files
    assert {"figures/dice.svg", "figures/volume_1.svg", "tables/metrics.csv", "tables/found.csv"} <= files
    assert read_structures(tmp_path).scores == report.structures.scores
    assert json.loads((tmp_path / "metrics.json").read_text())["task"] == "segment"
    for name in files:
        if name.startswith("tables/"):
            rows = list(csv.reader(io.StringIO((tmp_path / name).read_text())))
            assert len(rows) > 1, name
            assert {len(row) for row in rows} == {len(rows[0])}
    page = Page((tmp_path / "report.html").read_text())
    drawn = [a for tag, a in page.seen if tag == "img"]
    assert len(drawn) == 6
    assert all(a["alt"] and a["src"].startswith("data:image/png;base64,") for a in drawn)
    assert {"tumour: missed, Dice 0.00", "tumour: invented, Dice 0.00"} <= {a["alt"].partition(", ")[2] for a in drawn}
    assert "a volume in three planes, axial, frontal and sagittal" in page.text
    assert all(name in page.text for name in ("true outline", "predicted outline", "both run here"))
    downloads = {a["download"]: a["href"] for tag, a in page.seen if tag == "a" and "download" in a}
    assert base64.b64decode(downloads["dice.svg"].partition("base64,")[2]).decode() == figures(report)["dice"].svg


def test_masks_of_ones_own_are_asked_for_and_may_be_gone(stored: Dataset, tmp_path: Path) -> None:
    report = report_from_masks(stored, ((case, predicted(case.id)) for case in stored), split="test")
    asked = []

    def some(case: str) -> Mask | None:
        asked.append(case)
        return predicted(case) if case != "c3" else None

    save_evaluation(report, tmp_path / "own", dataset=stored, masks=some)
    page = Page((tmp_path / "own" / "report.html").read_text())
    assert len(asked) == 6
    assert len([tag for tag, _ in page.seen if tag == "img"]) == 5
    assert "no picture" in page.text
    save_evaluation(report, tmp_path / "without")
    assert not [tag for tag, _ in Page((tmp_path / "without" / "report.html").read_text()).seen if tag == "img"]


def test_what_is_drawn_is_the_structure(stored: Dataset) -> None:
    drawn = drawn_of(stored, predicted)("c1", "tumour")
    assert drawn is not None
    image, truth, found = drawn
    assert image.geometry.shape == SHAPE
    assert np.array_equal(truth, masks(1)[0] == 2)
    assert np.array_equal(found, masks(1)[1] == 2)
    regions = replace(stored, regions={"whole": (1, 2), "core": (2,)})
    both = np.stack([masks(1)[1] > 0, masks(1)[1] == 2], axis=-1)
    drawn = drawn_of(regions, lambda case: Mask(both, GRID, LABELS))("c1", "whole")
    assert drawn is not None
    assert np.array_equal(drawn[1], masks(1)[0] > 0)
    assert np.array_equal(drawn[2], both[..., 0])
    assert drawn_of(stored, lambda case: None)("c1", "liver") is None
    assert drawn_of(stored, predicted)("nobody", "liver") is None
    gone = stored.with_cases([replace(stored["c1"], inputs={"image": None})])
    assert drawn_of(gone, predicted)("c1", "liver") is None
    absent = stored.with_cases([replace(stored["c1"], inputs={"image": Ref("absent.nii.gz")})])
    assert drawn_of(absent, predicted)("c1", "liver") is None
