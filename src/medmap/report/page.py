"""The report as one HTML file: no network, no script, readable by a clinician, printable on A4."""

from __future__ import annotations

import base64
import csv
import io
import re
from pathlib import Path
from typing import Any

from medmap.config import write_atomically
from medmap.dataset import Dataset
from medmap.evaluate import MaskOf, Report
from medmap.evaluate.names import metric_name
from medmap.metrics.meanings import OUT_OF_FOLD, meaning, meanings
from medmap.report.content import Sources, TrainingLog, content_of, figures
from medmap.report.detection_pictures import ImageOf, volumes_of
from medmap.report.figures import Figure
from medmap.report.pictures import Images, images_of
from medmap.report.structure_pictures import Drawn, drawn_of
from medmap.report.tables import Table
from medmap.report.words import bits, interval, named_split, shown

SAID_ABOVE = frozenset({"dice"})  # what the sentence at the top explains
_TORN = re.compile(r"(?<=\d) (?=(?:%|mm|ml|ms|cm|px)(?![a-z]))|(?<=%) (?=CI\b|interval|limits)|(?<=\bCI) (?=[\d−+–])")


def render_html(
    report: Report,
    *,
    images: Images | None = None,
    drawn: Drawn | None = None,
    volumes: ImageOf | None = None,
    training_log: TrainingLog | None = None,
) -> str:
    """The whole page.

    Args:
        report: What was found.
        images: From a case's identifier to its picture (8-bit grey or RGB), or None; without it no image is shown.
        drawn: Of masks: from a case and a structure to the image with the true and the predicted mask (``drawn_of``).
        volumes: Of boxes: from a case's identifier to its image (``volumes_of``).
        training_log: Rows of ``log.csv``, for the training curves.
    """
    sources = Sources(images, drawn, volumes)
    return _page(report, content_of(report).tables(report), figures(report, training_log or ()), sources)


def _page(report: Report, tables: list[Table], drawings: dict[str, Figure], sources: Sources) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("medmap.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    content = content_of(report)
    headline = content.headline(report)
    page = environment.get_template(content.template).render(
        report=report,
        title=f"{report.dataset_name}: {named_split(report)}",
        split=named_split(report),
        summary=content.summary(report),
        methods=content.methods(report),
        headline=[(name, shown(row), interval(row), row.n, _says(row.name)) for name, row in headline],
        explained=_explained(report, [row.name for _, row in headline]),
        out_of_fold=OUT_OF_FOLD if report.split == "oof" else "",
        facts=_facts(report, content.facts(report)),
        figures={name: _drawing(figure, Markup) for name, figure in drawings.items()},
        tables={table.name: table for table in tables},
        files={table.name: _uri("text/csv;charset=utf-8", "\ufeff" + table.csv) for table in tables},
        bits=bits,
        **content.shown(report, sources),
    )
    # a character that no encoding holds must not cost the whole report
    return held_together(page).encode("utf-8", "replace").decode("utf-8")


def held_together(page: str) -> str:
    """The text with spaces that no line may break at between a number, its unit and what it is of.

    Example:
        >>> held_together("95 % CI 0.8 to 0.9").replace(chr(160), "~")
        '95~%~CI~0.8 to 0.9'
    """
    return _TORN.sub("\u00a0", page)


def _says(name: str) -> str:
    return "" if name in SAID_ABOVE else meaning(name)


def _explained(report: Report, before: list[str]) -> list[tuple[str, str]]:
    """The other metrics of the page with what each says."""
    names = (row.name for row in report.rows if row.group == "all")
    return [(metric_name(name), text) for name, text in meanings(names, before).items()]


def _drawing(figure: Figure, markup: Any) -> dict[str, Any]:
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


def _facts(report: Report, more: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """What was evaluated on what, in a few lines."""
    rows = [
        ("Dataset", report.dataset_name),
        ("Cases", f"{bits(report.cases)} of {bits(report.patients)} patients, {named_split(report)}"),
        *more,
    ]
    if report.looks is not None:
        rows.append(("Looks", f"this is look number {report.looks} at this test set"))
    rows.append(("Made", report.created.replace("T", " ").replace("+00:00", " UTC")))
    if report.dataset_digest:
        rows.append(("Dataset digest", f"{report.dataset_digest} (of the whole dataset, with all its splits)"))
    rows += [("Bundle digest", digest) for digest in report.bundles]
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
    masks: MaskOf | None = None,
    training_log: str | Path | TrainingLog | None = None,
) -> None:
    """Write an evaluation: ``metrics.json``, ``predictions.csv``, ``report.html``, ``tables/*.csv``, ``figures/*.svg``.

    Each file is written whole or not at all, ``report.html`` last.

    Args:
        report: What was found.
        folder: Where to; made when absent.
        dataset: Where the images of the worst and best cases are read from.
        images: The same by a function, see ``render_html``; it goes before ``dataset``.
        masks: From a case's identifier to its mask on the case's own grid, None where it is gone; without it the masks
            that the report kept are drawn. Without ``dataset`` none is.
        training_log: ``log.csv`` or its rows.

    Raises:
        OSError: The disk is full or the folder not writable.
    """
    folder = Path(folder)
    report.save(folder)
    rows = read_log(training_log) if isinstance(training_log, (str, Path)) else list(training_log or ())
    tables, drawings = content_of(report).tables(report), figures(report, rows)
    for table in tables:
        _write(folder / "tables" / f"{table.name}.csv", table.csv)
    for figure in drawings.values():
        _write(
            folder / "figures" / f"{figure.name}.svg", '<?xml version="1.0" encoding="UTF-8"?>\n' + figure.svg + "\n"
        )
    pictures = images or (None if dataset is None else images_of(dataset))
    found = masks or report.masks
    drawn = None if dataset is None or found is None else drawn_of(dataset, found)
    sources = Sources(pictures, drawn, None if dataset is None else volumes_of(dataset))
    _write(folder / "report.html", _page(report, tables, drawings, sources))


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, text.encode("utf-8", "replace"))
