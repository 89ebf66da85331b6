"""The report as one HTML file: no network, no script, readable by a clinician, printable on A4."""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medmap.config import write_atomically
from medmap.dataset import Dataset
from medmap.evaluate import Report, StructureTable
from medmap.report.charts import class_counts, confusion, flow, forest
from medmap.report.figures import Figure, classification_figures, regression_figures, training_figures
from medmap.report.pictures import Images, galleries, images_of
from medmap.report.tables import Table, every_table
from medmap.report.words import bits, headline, interval, methods, named_split, shown, summary

TrainingLog = Sequence[Mapping[str, str]]


def render_html(report: Report, *, images: Images | None = None, training_log: TrainingLog | None = None) -> str:
    """The whole page.

    Args:
        report: What was found.
        images: From a case's identifier to its picture (8-bit grey or RGB), or None; without it no image is shown.
        training_log: Rows of ``log.csv``, for the training curves.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("medmap.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    drawings = figures(report, training_log or ())
    tables = {table.name: table for table in every_table(report)}
    page = environment.get_template("page.html.j2").render(
        report=report,
        title=f"{report.dataset_name}: {named_split(report)}",
        split=named_split(report),
        summary=summary(report),
        methods=methods(report),
        headline=[(name, shown(row), interval(row), row.n) for name, row in headline(report)],
        facts=_facts(report),
        figures={name: _drawn(figure, Markup) for name, figure in drawings.items()},
        tables=tables,
        files={table.name: _uri("text/csv;charset=utf-8", "\ufeff" + table.csv) for table in tables.values()},
        galleries=galleries(report.predictions, images),
        bits=bits,
    )
    # a character that no encoding holds must not cost the whole report
    return page.encode("utf-8", "replace").decode("utf-8")


def figures(report: Report, training_log: TrainingLog = ()) -> dict[str, Figure]:
    """Every figure that the report allows, by name, in the order of the page."""
    table = report.predictions
    found: list[Figure | None] = [flow(report)]
    if table.kind == "regression":
        found += [*regression_figures(table), forest(report, "mae")]
    else:
        found += [*classification_figures(report), confusion(table)]
        found += [forest(report, name) for name in ("auroc", "sensitivity", "specificity")]
    found += training_figures(training_log)
    return {figure.name: figure for figure in found if figure is not None}


def _drawn(figure: Figure, markup: Any) -> dict[str, Any]:
    """The figure for the template; its SVG is medmap's own, every word in it escaped where it was drawn."""
    return {
        "name": figure.name,
        "title": figure.title,
        "svg": markup(figure.svg),
        "caption": figure.caption,
        "wide": figure.wide,
        "href": _uri("image/svg+xml", figure.svg),
    }


def _uri(kind: str, text: str) -> str:
    return f"data:{kind};base64," + base64.b64encode(text.encode("utf-8", "replace")).decode("ascii")


def _facts(report: Report) -> list[tuple[str, str]]:
    """What was evaluated on what, in a few lines."""
    table = report.predictions
    rows = [
        ("Dataset", report.dataset_name),
        ("Cases", f"{bits(report.cases)} of {bits(report.patients)} patients, {named_split(report)}"),
    ]
    if table.kind == "regression":
        rows.append(("Predicted", ", ".join(table.labels)))
    else:
        rows.append(("Classes", class_counts(table)))
    if table.positive_name is not None:
        rows.append(("Positive class", table.positive_name))
    if table.threshold is not None:
        rows.append(("Operating point", f"called {table.positive_name} from a score of {table.threshold:.3f}"))
    if report.looks is not None:
        rows.append(("Looks", f"this is look number {report.looks} at this test set"))
    rows.append(("Made", report.created.replace("T", " ").replace("+00:00", " UTC")))
    if report.dataset_digest:
        rows.append(("Dataset hash", report.dataset_digest))
    rows += [("Bundle hash", digest) for digest in report.bundles]
    return rows


def read_log(path: str | Path) -> list[dict[str, str]]:
    """The rows of a run's ``log.csv``; none where there is no such file."""
    path = Path(path)
    if not path.is_file():
        return []
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8", errors="replace"))))


def save_evaluation(
    report: Report,
    folder: str | Path,
    *,
    dataset: Dataset | None = None,
    images: Images | None = None,
    training_log: str | Path | TrainingLog | None = None,
) -> None:
    """Write an evaluation: ``metrics.json``, ``predictions.csv``, ``report.html``, ``tables/*.csv``, ``figures/*.svg``.

    Each file is written whole or not at all, ``report.html`` last.

    Args:
        report: What was found.
        folder: Where to; made when absent.
        dataset: Where the images of the worst and best cases are read from.
        images: The same by a function, see ``render_html``; it goes before ``dataset``.
        training_log: ``log.csv`` or its rows.

    Raises:
        OSError: The disk is full or the folder not writable.
    """
    folder = Path(folder)
    report.save(folder)
    if isinstance(report.table, StructureTable):
        return
    rows = read_log(training_log) if isinstance(training_log, (str, Path)) else list(training_log or ())
    for table in every_table(report):
        _write(folder / "tables" / f"{table.name}.csv", table.csv)
    for figure in figures(report, rows).values():
        _write(
            folder / "figures" / f"{figure.name}.svg", '<?xml version="1.0" encoding="UTF-8"?>\n' + figure.svg + "\n"
        )
    pictures = images or (None if dataset is None else images_of(dataset))
    _write(folder / "report.html", render_html(report, images=pictures, training_log=rows))


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, text.encode("utf-8", "replace"))


__all__ = ["Figure", "Table", "figures", "read_log", "render_html", "save_evaluation"]
