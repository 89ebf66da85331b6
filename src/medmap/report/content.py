"""What a page holds, by what was evaluated: scores (classes or numbers), masks, or boxes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medmap.evaluate import DetectionTable, Report, StructureTable
from medmap.metrics import Estimate
from medmap.report.charts import class_counts, confusion, flow, forest
from medmap.report.detection_figures import detection_figures
from medmap.report.detection_pictures import ImageOf, class_key, legend, picture_rows
from medmap.report.detection_tables import detection_tables
from medmap.report.detection_words import (
    RULE as BOX_RULE,
)
from medmap.report.detection_words import (
    detection_facts,
    detection_headline,
    detection_methods,
    detection_summary,
    rule_words,
)
from medmap.report.figures import Figure, classification_figures, regression_figures, training_figures
from medmap.report.pictures import Images, galleries
from medmap.report.structure_figures import bland_altman_names, structure_figures
from medmap.report.structure_pictures import Drawn, outlines_key, worst_masks
from medmap.report.structure_tables import each_structure, structure_tables
from medmap.report.structure_words import (
    RULE,
    parts_words,
    rules_facts,
    structure_headline,
    structure_methods,
    structure_summary,
    tolerance_words,
)
from medmap.report.tables import Table, score_tables
from medmap.report.words import score_headline, score_methods, score_summary

TrainingLog = Sequence[Mapping[str, str]]


@dataclass(frozen=True)
class Sources:
    """Where a page's pictures of single cases come from; what is None is not shown.

    Args:
        images: From a case's identifier to its picture (8-bit grey or RGB).
        drawn: Of masks: from a case and a structure to the image with the true and the predicted mask.
        volumes: Of boxes: from a case's identifier to its image.
    """

    images: Images | None = None
    drawn: Drawn | None = None
    volumes: ImageOf | None = None


@dataclass(frozen=True)
class Content:
    """The parts of a page of one kind of evaluation.

    Args:
        template: The page's file.
        summary: The result in a sentence or two.
        methods: How every number was made, in paragraphs.
        headline: The few numbers at the top.
        facts: What was evaluated, a line each.
        tables: All tables.
        figures: All figures but those of the training, in the page's order.
        shown: Single cases, and what else the template asks for, by name.
    """

    template: str
    summary: Callable[[Report], str]
    methods: Callable[[Report], list[str]]
    headline: Callable[[Report], list[tuple[str, Estimate]]]
    facts: Callable[[Report], list[tuple[str, str]]]
    tables: Callable[[Report], list[Table]]
    figures: Callable[[Report], list[Figure | None]]
    shown: Callable[[Report, Sources], dict[str, Any]]


def _score_figures(report: Report) -> list[Figure | None]:
    table = report.predictions
    if table.kind == "regression":
        return [flow(report), *regression_figures(table), forest(report, "mae")]
    groups = [forest(report, name) for name in ("auroc", "sensitivity", "specificity")]
    return [flow(report), *classification_figures(report), confusion(table), *groups]


def _score_facts(report: Report) -> list[tuple[str, str]]:
    table = report.predictions
    rows = [("Predicted", ", ".join(table.labels)) if table.kind == "regression" else ("Classes", class_counts(table))]
    if table.positive_name is not None:
        rows.append(("Positive class", table.positive_name))
    if table.threshold is not None:
        rows.append(("Operating point", f"called {table.positive_name} from a score of {table.threshold:.3f}"))
    return rows


def _score_cases(report: Report, sources: Sources) -> dict[str, Any]:
    return {"shown": galleries(report.predictions, sources.images)}


def _mask_figures(report: Report) -> list[Figure | None]:
    groups = [forest(report, name) for name in ("dice", "hd95_mm", "nsd")]
    return [flow(report), *structure_figures(report.structures, report.rows), *groups]


def _mask_facts(report: Report) -> list[tuple[str, str]]:
    table = report.structures
    rows = [("Structures", ", ".join(table.structures)), ("Judged", ", ".join(dict.fromkeys(table.raters)))]
    return [*rows, ("Tolerance of NSD", tolerance_words(report)), *rules_facts(report.rules).items()]


def _mask_cases(report: Report, sources: Sources) -> dict[str, Any]:
    worst = worst_masks(report.structures, sources.drawn)
    return {
        "shown": worst,
        "pictured": any(one.picture for one in worst),
        "in_planes": any(one.volume for one in worst),
        "legend": outlines_key(),
        "rule": RULE,
        "parts": parts_words(report.structures),
        "each_structure": [table.name for table in each_structure(report)],
        "wide_tables": len(set(report.structures.raters)) > 1,
        "volume_figures": bland_altman_names(report.structures),
    }


def _box_figures(report: Report) -> list[Figure | None]:
    groups = [forest(report, name) for name in ("sensitivity", "froc_cpm", "ap50")]
    return [flow(report), *detection_figures(report), *groups]


def _box_cases(report: Report, sources: Sources) -> dict[str, Any]:
    rows = picture_rows(report.detections, sources.volumes)
    return {
        "shown": rows,
        "pictured": any(case.picture for row in rows for case in row.cases),
        "legend": legend(),
        "classes": class_key(report.detections),
        "large": report.detections.ndim == 2,
        "rule": f"{BOX_RULE} {rule_words(report.detections)}",
    }


SCORES = Content(
    "scores.html.j2",
    score_summary,
    score_methods,
    score_headline,
    _score_facts,
    score_tables,
    _score_figures,
    _score_cases,
)
MASKS = Content(
    "masks.html.j2",
    structure_summary,
    structure_methods,
    structure_headline,
    _mask_facts,
    structure_tables,
    _mask_figures,
    _mask_cases,
)


BOXES = Content(
    "boxes.html.j2",
    detection_summary,
    detection_methods,
    detection_headline,
    detection_facts,
    detection_tables,
    _box_figures,
    _box_cases,
)


def content_of(report: Report) -> Content:
    """The parts that fit a report."""
    if isinstance(report.table, DetectionTable):
        return BOXES
    return MASKS if isinstance(report.table, StructureTable) else SCORES


def summary(report: Report) -> str:
    """The result in plain words, as one would tell it to a colleague."""
    return content_of(report).summary(report)


def methods(report: Report) -> list[str]:
    """How every number was made: the paragraphs a paper needs."""
    return content_of(report).methods(report)


def every_table(report: Report) -> list[Table]:
    """All tables that the report has."""
    return content_of(report).tables(report)


def figures(report: Report, training_log: TrainingLog = ()) -> dict[str, Figure]:
    """Every figure that the report allows, by name, in the order of the page."""
    found = [*content_of(report).figures(report), *training_figures(training_log)]
    return {figure.name: figure for figure in found if figure is not None}
