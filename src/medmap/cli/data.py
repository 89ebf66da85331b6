"""Commands about data: what something is, known layouts in and out, what is wrong with it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from medmap.cli.options import Json, Layout, Quiet
from medmap.cli.settings import require_file, require_folder
from medmap.cli.show import Screen
from medmap.config import write_atomically
from medmap.errors import DatasetError, MedmapWarning, UsageError, counted

if TYPE_CHECKING:
    from medmap.check import Issue
    from medmap.dataset import Dataset, TaskName


def info(
    path: Annotated[Path, typer.Argument(help="An image file, a DICOM study, a dataset, a run or a bundle.")],
    header: Annotated[bool, typer.Option("--header", help="Do not read the pixels.")] = False,
    json: Json = False,
) -> None:
    """Say what something is: geometry, channels, value range, what is odd about it."""
    from medmap.cli.about import about, series_lines

    screen = Screen(json=json)
    with _told(screen):
        facts = about(path, header)
    if json:
        screen.document(facts)
        return
    lines = facts.pop("series", [])
    width = max(len(k) for k in facts)
    for key, value in facts.items():
        if value not in (None, [], "", {}):
            screen.result(f"{key.ljust(width)}  {_plain(value)}")
    for line in series_lines(lines):
        screen.result(line)


def _plain(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        numbers = all(isinstance(v, (int, float)) for v in value)
        return (" × " if numbers else ", ").join(f"{v:g}" if isinstance(v, float) else str(v) for v in value)
    if isinstance(value, dict):
        return ", ".join(f"{k}: {v}" for k, v in value.items())
    return f"{value:g}" if isinstance(value, float) else str(value)


@contextmanager
def _told(screen: Screen) -> Iterator[None]:
    """Warnings about the data as lines of their own, each once, instead of Python's way of showing them."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", MedmapWarning)
        yield
    for text in dict.fromkeys(str(item.message) for item in caught if issubclass(item.category, MedmapWarning)):
        screen.warning(text)


def import_(
    source: Annotated[Path, typer.Argument(help="Data in any known layout.")],
    dest: Annotated[Path, typer.Argument(help="The dataset folder to write.")],
    layout: Layout = "auto",
    task: Annotated[str | None, typer.Option("--task", help="classify, detect, segment or enhance.")] = None,
    copy: Annotated[bool, typer.Option("--copy", help="Copy the images instead of referring to them.")] = False,
    labels: Annotated[
        Path | None, typer.Option("--labels", help="DICOM studies: a spreadsheet (.csv, .xlsx) with a row a study.")
    ] = None,
    on: Annotated[
        str | None, typer.Option("--on", help="Join it by series, study, accession or patient (default: what matches).")
    ] = None,
    label_column: Annotated[str | None, typer.Option("--label-column", help="Its column of labels.")] = None,
    series: Annotated[
        str | None, typer.Option("--series", help="DICOM studies: which series, as 'axial T1, >= 20 slices'.")
    ] = None,
    replaces: Annotated[
        Path | None, typer.Option("--replaces", help="The dataset of which this is the corrected one.")
    ] = None,
    points: Annotated[
        Path | None, typer.Option("--points", help="Findings as a CSV: case,x,y,z,diameter_mm[,label] in LPS mm.")
    ] = None,
    min_voxels: Annotated[
        int, typer.Option("--min-voxels", help="Boxes from masks (--task detect): smaller parts are left out.")
    ] = 1,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Turn any known layout into a dataset folder: dataset.yaml beside cases.csv."""
    from medmap.cli.documents import of_dataset
    from medmap.dataset import TASKS
    from medmap.layouts import UNMATCHED, dicom_dataset, import_dataset, require_free

    if task is not None and task not in TASKS:
        raise UsageError("unknown task", got=repr(task), expected=", ".join(TASKS))
    kind = cast("TaskName | None", task)
    screen = Screen(quiet, json)
    if labels is None and series is None:
        if on or label_column:
            raise UsageError("--on and --label-column speak of a spreadsheet", remedy="name it with --labels")
        with _told(screen):
            found = _for_boxes(source, layout, kind, points, min_voxels)
            data = import_dataset(found or source, dest, layout=layout, task=kind, copy=copy, replaces=replaces)
        document = of_dataset(data, dest)
    else:
        if points is not None or min_voxels != 1:
            raise UsageError("--points and --min-voxels do not go with a spreadsheet of labels")
        require_free(dest)
        archive = dicom_dataset(source, labels=labels, on=on, label=label_column, series=series, task=kind)
        data = import_dataset(archive.dataset, dest, copy=copy, replaces=replaces)
        write_atomically(dest / UNMATCHED, archive.left_csv())
        document = {**of_dataset(data, dest), **archive.as_json()}
        for line in archive.as_lines():
            screen.line(line)
    if json:
        screen.document(document)
        return
    version = f", version {data.version}" if replaces is not None else ""
    if not any(case.truth.annotated for case in data):
        screen.warning(_unlabelled(data, labels))
    screen.result(f"{counted(len(data), 'case')} of {data.name} ({data.task}){version} in {dest / 'dataset.yaml'}")


def _for_boxes(
    source: Path, layout: str, task: TaskName | None, points: Path | None, min_voxels: int
) -> Dataset | None:
    """The dataset opened for boxes from points, or from masks with a least size; None where neither is asked for."""
    from medmap.layouts import boxes_from_points, open_dataset, open_for_boxes

    if points is None and min_voxels == 1:
        return None
    if points is not None and (task not in (None, "detect") or min_voxels != 1):
        raise UsageError("--points makes boxes of points", remedy="leave out --min-voxels, and --task or say detect")
    if points is None and task != "detect":
        raise UsageError("--min-voxels is about boxes from masks", remedy="add --task detect")
    if points is None:
        return open_for_boxes(source, layout=layout, min_voxels=min_voxels)
    try:
        images = open_dataset(source, layout=layout, task=task or "detect")
    except DatasetError:
        images = open_dataset(source, layout=layout)
    return boxes_from_points(images, points)


def _unlabelled(data: Dataset, labels: Path | None) -> str:
    """What to do about a dataset without any truth."""
    if labels is None:
        return "no case has a label or a mask; a spreadsheet of labels joins DICOM studies: --labels SHEET"
    columns = ", ".join(dict.fromkeys(name for case in data for name in case.columns)) or "none"
    return (
        f"no case has a label: in {labels.name} no column is called label, class, diagnosis, target, outcome, finding "
        f"or grade, or it is empty; name it with --label-column (columns of the cases: {columns})"
    )


def convert(
    dataset: Annotated[Path, typer.Argument(help="A dataset in any known layout.")],
    dest: Annotated[Path, typer.Argument(help="The folder to write.")],
    to: Annotated[str, typer.Option("--layout", help="nnunet, msd, coco, bids, voc, yolo or luna16.")],
    link: Annotated[bool, typer.Option("--link", help="Hard links instead of copies, where possible.")] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write a dataset in another layout; files are rewritten only where that layout asks for it."""
    from medmap.cli.documents import of_dataset
    from medmap.layouts import EXPORTS, convert_dataset, open_dataset

    screen = Screen(quiet, json)
    with _told(screen):
        data = convert_dataset(open_dataset(dataset), require_folder(dest), to, link=link)
    note = next(row.handed_over(dest) for row in EXPORTS if row.name == to)
    if json:
        screen.document({**of_dataset(data, dest), "dataset": str(dest), "layout": to, "note": note})
        return
    screen.result(f"{counted(len(data), 'case')} of {data.name} ({data.task}) as {to} in {dest}")
    if note is not None:
        screen.line(f"note: {note}")


def diff(
    old: Annotated[Path, typer.Argument(help="A dataset in any known layout.")],
    new: Annotated[Path, typer.Argument(help="A later version of it.")],
    json: Json = False,
) -> None:
    """Say what changed between two versions of a dataset: cases, labels, boxes, masks, splits."""
    from medmap.layouts import difference, open_dataset

    screen = Screen(json=json)
    with _told(screen):
        found = difference(open_dataset(old), open_dataset(new))
    if json:
        screen.document(found.as_json())
        return
    screen.result(found.as_text().rstrip("\n"))


def fetch(
    name: Annotated[str, typer.Argument(help="Name of a public dataset.")],
    dest: Annotated[Path, typer.Argument(help="Folder to put it in.")],
    source: Annotated[str | None, typer.Option("--from", help="A folder or URL to take it from.")] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Get a public dataset by name; its checksum is verified, a broken download is resumed."""
    from medmap.cli.documents import of_fetched
    from medmap.layouts import fetch as fetch_dataset

    with Screen(quiet, json) as screen:
        path = fetch_dataset(name, require_folder(dest), source, screen.counter("fetching"))
    if json:
        screen.document(of_fetched(name, path))
        return
    screen.result(f"{path} (checksum verified)")


def check(
    dataset: Annotated[Path, typer.Argument(help="A dataset in any known layout.")],
    report: Annotated[Path | None, typer.Option("--report", help="Also write an HTML report.")] = None,
    label_errors: Annotated[bool, typer.Option("--label-errors", help="Also look for wrong labels (slower).")] = False,
    fix: Annotated[
        str | None, typer.Option("--fix", help="geometry: masks with their image's header, in a new dataset folder.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder of the mended dataset (default: DATASET-mended).")
    ] = None,
    layout: Layout = "auto",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Find everything wrong with a dataset, worst first; exit code 1 with findings at error level.

    With --fix geometry the dataset is first written anew, with masks that have their image's header; the new one is
    checked, the old one is not touched.
    """
    from medmap.check import cases_refused, refused_boxes, worst_first, write_check_report
    from medmap.check import check as check_dataset
    from medmap.layouts import gathering, open_dataset

    if report is not None:
        require_file(report)
    with gathering() as refused:
        data = open_dataset(dataset, layout=layout)
    with Screen(quiet, json) as screen:
        mended = [] if fix is None else [_mended(data, fix, dataset, output, screen)]
        if mended and mended[0].cases:
            data = open_dataset(mended[0].details["folder"])
        left_out = cases_refused(refused, data)
        told = screen.counter("checking")
        found = check_dataset(data, label_errors=label_errors, progress=told, refused=left_out)
        issues = mended + worst_first([*refused_boxes(refused, data), *found])
    if report is not None:
        write_check_report(issues, data, report)
    if json:
        screen.document([issue.as_json() for issue in issues])
    else:
        for issue in issues:
            names = ", ".join(issue.cases[:5]) + (f" and {len(issue.cases) - 5} more" if len(issue.cases) > 5 else "")
            screen.result(f"{issue.severity}: {issue.code}: {issue.message}" + (f" [{names}]" if names else ""))
            screen.line(f"    effect: {issue.effect}\n    remedy: {issue.remedy}")
        errors = sum(issue.severity == "error" for issue in issues)
        screen.result(f"{counted(len(data), 'case')}: {counted(len(issues), 'finding')}, {errors} at error level")
        if report is not None:
            screen.result(f"report: {report}")
    if any(issue.severity == "error" for issue in issues):
        raise typer.Exit(1)


def _mended(data: Dataset, fix: str, source: Path, output: Path | None, screen: Screen) -> Issue:
    """The dataset written anew with mended headers, as a finding that says what was done."""
    from medmap.check import mend_geometry, mending_issue
    from medmap.layouts import write_dataset

    if fix != "geometry":
        raise UsageError("only the geometry can be fixed", got=repr(fix), expected="geometry")
    folder = output or source.with_name(f"{source.name.split('.')[0]}-mended")
    mending = mend_geometry(data, folder, screen.counter("mending"))
    if mending.mended:
        write_dataset(mending.dataset, folder)
    return mending_issue(mending, folder)
