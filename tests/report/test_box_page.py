"""The page of an evaluation of boxes: numbers, words, curves, pictures; no network, no script, every word escaped."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from judged_boxes import answers, dataset, grid
from test_report_page import HOSTILE, Page, parsed

from medmap.dataset import Dataset, Ref, Truth
from medmap.evaluate import DetectionRules, Failure, Report, detection_table, report_from_boxes
from medmap.geometry import Geometry
from medmap.image import Image
from medmap.metrics import Bootstrap
from medmap.metrics.froc import ALARM
from medmap.metrics.meanings import OUT_OF_FOLD, meaning
from medmap.report import (
    boxes_drawn,
    every_table,
    figures,
    methods,
    picture_rows,
    render_html,
    save_evaluation,
    summary,
)
from medmap.report import detection_pictures as pictures
from medmap.report.detection_figures import froc_figure
from medmap.results import Label
from medmap.write import write
from medmap.write.colours import paper_colour_of

QUICK = DetectionRules(bootstrap=Bootstrap(200))


def report_of(data: Dataset, **more: object) -> Report:
    return report_from_boxes(data, answers(data), split="test", rules=QUICK, **more)


@pytest.fixture(scope="module")
def volumes() -> Report:
    return replace(report_of(dataset(24)), failed=(Failure("c900", "the file is truncated"),))


@pytest.fixture(scope="module")
def cells() -> Report:
    return report_of(dataset(24, flat=True, known=True))


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Six volumes on disk; each true box is bright."""
    folder = tmp_path_factory.mktemp("nodules")
    data = dataset(6)
    for number, case in enumerate(data):
        array = np.full(grid(number, False).shape, -850, np.int16)
        for corners, _ in case.truth.boxes or ():
            low, high = np.floor(corners[:3]).astype(int), np.ceil(corners[3:]).astype(int)
            array[tuple(slice(a, b + 1) for a, b in zip(low, high, strict=True))] = 30
        write(Image(array, grid(number, False), "HU"), folder / f"{number}.nii.gz")
    return replace(data, root=folder)


@pytest.mark.parametrize("kind", ["volumes", "cells"])
def test_the_page_holds_every_number_and_asks_for_nothing(kind: str, request: pytest.FixtureRequest) -> None:
    report: Report = request.getfixturevalue(kind)
    html = render_html(report)
    page = Page(html)
    assert "script" not in {tag for tag, _ in page.seen}
    assert all(link.startswith(("data:", "#")) for link in page.links)
    words = " ".join(page.words)
    for row in report.rows:
        if row.group == "all" and row.value is not None and row.average is None:
            assert f"{row.value:.3f}" in words, row
    for figure in figures(report).values():
        parsed(figure.svg)
    assert set(figures(report)) >= {"flow", "froc", "precision_recall", "sizes"}
    names = {table.name for table in every_table(report)}
    assert names >= {"metrics", "found", "sizes", "characteristics"}
    assert ("classes" in names) == (kind == "cells")


def test_what_is_said(volumes: Report, cells: Report) -> None:
    table = volumes.detections
    missed = int(table.findings.sum() - table.found_when_called[table.findings].sum())
    assert f"{missed} were missed" in summary(volumes)
    assert "of 100 are found" in summary(volumes)
    assert "on average over the classes" in summary(cells)
    assert "LUNA16" in " ".join(methods(volumes))
    assert "half the finding's diameter" in " ".join(methods(volumes))
    assert "intersection over union of 0.5, the surest box first" in " ".join(methods(cells))
    assert "called from these scores: red 0.500, white 0.450, platelet 0.400" in " ".join(methods(cells))
    without = replace(volumes, table=replace(table, thresholds=(), called=np.ones(len(table.found), bool)))
    assert "of every box" in " ".join(methods(without))


def test_words_are_explained_once_where_they_stand_first(volumes: Report, cells: Report) -> None:
    for report in (volumes, cells):
        html = render_html(report)
        names = {row.name for row in report.rows if row.group == "all"}
        assert {"ap50", "froc_cpm", "auroc"} <= names
        for name in names:
            if meaning(name):
                assert html.count(meaning(name)) == 1, name
        assert html.index(meaning("ap50")) < html.index("IoU 0.5")
        assert OUT_OF_FOLD not in html
    assert OUT_OF_FOLD in render_html(replace(volumes, split="oof"))


def test_nothing_to_find_is_said() -> None:
    data = dataset(8)
    data = data.with_cases([replace(case, truth=Truth(annotated=True, boxes=())) for case in data])
    report = report_of(data)
    assert "nothing to find in these images" in summary(report)
    html = render_html(report)
    assert "nothing to find" in html
    assert "froc" not in figures(report)


def test_counts_of_the_tables_are_those_of_the_boxes(volumes: Report) -> None:
    table = volumes.detections
    found = next(t for t in every_table(volumes) if t.name == "found")
    row = dict(zip(found.header, found.rows[0], strict=True))
    assert int(row["findings"]) == int(row["found"]) + int(row["missed"]) == int(table.findings.sum())
    assert int(row["false alarms"]) == int(((table.hits.outcomes == ALARM) & table.called).sum())
    assert int(row["images"]) == len(table)
    sizes = next(t for t in every_table(volumes) if t.name == "sizes")
    assert sum(int(line[1]) for line in sizes.rows) == int(table.findings.sum())


def test_single_findings_are_pictured_where_they_are(stored: Dataset, tmp_path: Path) -> None:
    report = report_of(stored)
    save_evaluation(report, tmp_path, dataset=stored)
    html = (tmp_path / "report.html").read_text()
    rows = picture_rows(report.detections, pictures.volumes_of(stored))
    assert {row.title for row in rows} <= {"Missed", "False alarms", "Found"}
    shown = [case for row in rows for case in row.cases]
    assert shown
    assert all(case.picture for case in shown)
    assert html.count('<image href="data:image/png') == len(shown)
    assert (tmp_path / "figures" / "froc.svg").exists()
    for line, _ in pictures.legend():
        assert line in html


@pytest.mark.parametrize("number", [0, 3])
def test_a_box_is_drawn_around_its_finding(stored: Dataset, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bright pixels of the picture lie inside the rectangle, whatever way the volume lies in the patient."""
    table = report_of(stored).detections
    seen = []
    monkeypatch.setattr(pictures, "png_uri", lambda pixels: seen.append(pixels) or "data:")
    image = pictures.volumes_of(stored)(f"c{number}")
    assert image is not None
    turned = [image, image.moved(*image.geometry.oriented("RAS")), image.moved(*image.geometry.oriented("SLP"))]
    finding = int(np.flatnonzero(table.findings & (table.true.cases == number))[0])
    for one in turned:
        to = np.linalg.inv(one.geometry.affine_lps_mm) @ image.geometry.affine_lps_mm
        moved = replace(table.true, corners=pictures._turned(table.true.corners, to))
        here = replace(table, true=moved, found=replace(table.found, corners=pictures._turned(table.found.corners, to)))
        svg = boxes_drawn(here, number, one, moved.corners[finding])
        pixels = seen.pop()
        kind = "found" if table.found_when_called[finding] else "missed"
        at = re.search(
            rf'true box, {kind}</title><rect x="([\d.-]+)" y="([\d.-]+)" width="([\d.]+)" height="([\d.]+)"', svg
        )
        x, y, width, height = map(float, at.groups())
        rows, columns = np.nonzero(pixels > 128)
        scale = (
            pictures.WIDE / pixels.shape[1],
            float(re.search(r'viewBox="0 0 [\d.]+ ([\d.]+)"', svg)[1]) / pixels.shape[0],
        )
        inside = (
            (columns * scale[0] > x - 2 * scale[0])
            & (columns * scale[0] < x + width + scale[0])
            & (rows * scale[1] > y - 2 * scale[1])
            & (rows * scale[1] < y + height + scale[1])
        )
        assert len(rows) > 0
        assert inside.mean() > 0.6  # another finding may be near
        assert inside.sum() * scale[0] * scale[1] > 0.5 * width * height


def test_a_plane_is_shown_whole(cells: Report) -> None:
    table = cells.detections
    image = Image(np.zeros((300, 400, 3), np.uint8), grid(0, True), "colour", ("red", "green", "blue"))
    rows = picture_rows(table, lambda case: image)
    assert rows[0].title == "Worst cases"
    svg = rows[0].cases[0].picture
    assert 'viewBox="0 0 480 360"' in svg
    strange = Image(np.zeros((4, 4, 4), np.int16), Geometry.from_spacing((4, 4, 4), (1.0, 1.0, 1.0)))
    assert boxes_drawn(table, 0, strange) is None
    assert all(case.picture is None for row in picture_rows(table, None) for case in row.cases)


def test_each_box_on_a_plane_says_its_class(cells: Report) -> None:
    table = cells.detections
    image = Image(np.zeros((300, 400, 3), np.uint8), grid(0, True), "colour", ("red", "green", "blue"))
    seen = []
    for row in range(len(table)):
        svg = boxes_drawn(table, row, image)
        tags = re.findall(r">([^<]*)</text>", svg)
        drawn = [t for t in re.findall(r"<g><title>([^<]*)</title>", svg) if "found box, right" not in t]
        signs = dict(zip(table.labels, ("R", "W", "P"), strict=True))
        names = [t.split(":")[0] for t in drawn]
        assert sorted(tags) in (sorted(names), sorted(signs[name] for name in names))
        seen += tags
    assert {"red", "white", "platelet"} & set(seen)
    html = render_html(cells, volumes=lambda case: image)
    assert "Tags name the class: R is red, W is white, P is platelet." in html
    alone = replace(
        table, labels=("cell",), true=replace(table.true, labels=0 * table.true.labels),
        found=replace(table.found, labels=0 * table.found.labels), thresholds=(0.5,), known=(None,) * len(table),
    )  # fmt: skip
    assert "</text>" not in boxes_drawn(alone, 0, image)


def test_curves_have_the_colours_of_the_classes_on_every_picture(cells: Report) -> None:
    table = cells.detections
    for name in ("froc", "precision_recall"):
        for number in range(3):
            assert f'stroke="{paper_colour_of(number)}"' in figures(cells)[name].svg
    without = replace(table, true=replace(table.true, labels=np.maximum(table.true.labels, 1)))  # none of the first
    svg = froc_figure(replace(cells, table=without), [1, 2]).svg
    assert f'stroke="{paper_colour_of(0)}"' not in svg
    assert f'stroke="{paper_colour_of(1)}"' in svg


def test_no_word_of_the_data_becomes_markup() -> None:
    data = dataset(12, flat=True)
    labels = tuple(Label(f"{HOSTILE}{n}") for n in range(3))
    cases = [replace(case, id=case.id + HOSTILE) for case in data]
    hostile = replace(data, cases=tuple(cases), labels=labels, name=HOSTILE)
    found = [(case, replace(boxes, labels=labels)) for case, (_, boxes) in zip(cases, answers(data), strict=True)]
    report = report_from_boxes(hostile, found, split="test", rules=QUICK)
    image = Image(np.zeros((300, 400), np.uint8), grid(0, True))
    html = render_html(report, volumes=lambda case: image)
    assert HOSTILE not in html
    assert "script" not in {tag for tag, _ in Page(html).seen}
    parsed(boxes_drawn(report.detections, 0, image) or "")


def test_a_table_without_a_picture_says_so(tmp_path: Path) -> None:
    data = dataset(6)
    data = replace(data, root=tmp_path, cases=tuple(replace(c, inputs={"image": Ref("absent.nii.gz")}) for c in data))
    save_evaluation(report_of(data), tmp_path, dataset=data)
    assert "no picture" in (tmp_path / "report.html").read_text()


def test_the_same_boxes_give_the_same_page(volumes: Report) -> None:
    again = replace(report_of(dataset(24)), failed=volumes.failed, created=volumes.created, seconds=volumes.seconds)
    assert render_html(again) == render_html(volumes)
    assert detection_table(dataset(24), answers(dataset(24))).cases == volumes.detections.cases


def test_an_operating_point_beyond_the_axis_is_told_in_words(cells: Report) -> None:
    assert "beyond the axis" not in figures(cells)["froc"].caption
    data = dataset(24, flat=True)
    flood = [(case, boxes.taken(np.repeat(np.arange(len(boxes.scores)), 40))) for case, boxes in answers(data)]
    flooded = report_from_boxes(data, flood, split="test", rules=QUICK)
    assert "beyond the axis, in false alarms an image: red " in figures(flooded)["froc"].caption


def test_cases_judged_out_of_fold_are_no_training_cases() -> None:
    data = dataset(24)
    data = data.with_cases([replace(case, split="train") for case in data])
    words = "say nothing about new patients"
    for split, said in (("train", True), ("oof", False)):
        report = report_from_boxes(data, answers(data), split=split, rules=QUICK)
        assert any(words in warning for warning in report.warnings) is said
