"""check.html: what is wrong with a dataset, on one page that a person likes to read, prints and passes on."""

from __future__ import annotations

import base64
import struct
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmap.check.box_pictures import NOTHING, ROWS, Corners, box_labels, boxed, concerned
from medmap.check.issue import Issue, worst_first
from medmap.check.leaks import label_text
from medmap.check.mask_pictures import masked
from medmap.check.table import class_summary
from medmap.config import write_atomically
from medmap.dataset import Case, Dataset
from medmap.errors import DataError, UsageError
from medmap.image import Image
from medmap.write.colours import colour_of
from medmap.write.planes import three_planes

TEMPLATE = "page.html.jinja"
PICTURE_SIDE = 128  # pixels of a thumbnail on the page
PICTURES_AN_ISSUE = 8
GROUPS_AN_ISSUE = 6
SAMPLES_A_CLASS = 6
CLASSES_SHOWN = 6
STRUCTURES_LISTED = 24
CASES_LISTED = 200
HEADERS_SHOWN = 10
SEVERITY_WORDS = {"error": "Error", "warning": "Warning", "info": "Note"}


@dataclass(frozen=True)
class _Figure:
    """A thumbnail with its caption; ``picture`` is a data URI, None when the image cannot be shown."""

    case: str
    caption: str
    picture: str | None
    wide: bool = False
    outlined: frozenset[int] = frozenset()  # label values with an outline in the picture
    marked: bool = False  # boxes that the finding is about are drawn apart
    masked: bool = False  # a mask is outlined


@dataclass(frozen=True)
class _Legend:
    """The colours of outlines: ``(#rrggbb, structure)``, and how many more there are."""

    entries: list[tuple[str, str]]
    more: int


@dataclass(frozen=True)
class _Card:
    """An issue as the page shows it: its pictures in groups that belong together."""

    issue: Issue
    word: str
    groups: list[list[_Figure]]
    marked: str  # what is said of the boxes that are drawn apart
    shown_of: str
    listed: str
    headers: list[tuple[str, str, str]]


@dataclass
class _Album:
    """Thumbnails by case and by what is marked in them."""

    dataset: Dataset
    pictures: dict[tuple[str, frozenset[Corners]], str | None] = field(default_factory=dict)
    kinds: Counter[str] = field(default_factory=Counter)
    wide: set[str] = field(default_factory=set)
    outlined: dict[tuple[str, frozenset[Corners]], frozenset[int]] = field(default_factory=dict)

    def picture(self, case: Case, marked: frozenset[Corners] = NOTHING) -> str | None:
        if (case.id, marked) not in self.pictures:
            self.pictures[case.id, marked] = self._read(case, marked)
        return self.pictures[case.id, marked]

    def _read(self, case: Case, marked: frozenset[Corners]) -> str | None:
        from medmap.read import read_ref

        ref = next((ref for name in self.dataset.inputs if (ref := case.inputs.get(name)) is not None), None)
        if ref is None:
            return None
        try:
            image = read_ref(self.dataset, ref)
        except DataError:
            return None  # the issue beside it says why
        if not any(known == case.id for known, _ in self.pictures):
            self.kinds[_kind_of(image)] += 1
        if image.ndim == 3:
            self.wide.add(case.id)
        elif case.truth.boxes or marked:
            self.outlined[case.id, marked] = frozenset(label + 1 for _, label in case.truth.boxes or ())
            return data_uri(boxed(displayed(image), case, image.geometry.shape, marked))
        labels = self._labels(case, image, marked)
        if labels is not None:
            self.outlined[case.id, marked] = frozenset(int(value) for value in np.unique(labels) if value > 0)
        if image.ndim == 3:
            return data_uri(three_planes(image, labels))
        return data_uri(displayed(image) if labels is None else masked(displayed(image), labels))

    def _labels(self, case: Case, image: Image, marked: frozenset[Corners]) -> NDArray[Any] | None:
        """The first observer's labels on the image's grid, as training lays them, or the boxes; None without any."""
        from medmap.read import read_ref

        if not case.truth.masks:
            found = box_labels(case, image.geometry.shape, marked)
            return found if found is not None or not marked else box_labels(case, image.geometry.shape)
        try:
            mask = read_ref(self.dataset, case.truth.masks[0])
            if mask.geometry.shape != image.geometry.shape or mask.geometry.has_size != image.geometry.has_size:
                return None
            placed = mask.match(image.geometry) if mask.geometry.has_size else mask
            return np.asarray(placed.channels_first()[0])
        except DataError:
            return None  # an issue says why


def _kind_of(image: Image) -> str:
    size = " × ".join(map(str, image.geometry.shape))
    channels = f", {len(image.channels)} channels" if len(image.channels) > 1 else ""
    spacing = ""
    if image.geometry.has_size:
        spacing = ", " + " × ".join(f"{s:.3g}" for s in image.spacing_mm) + " mm"
    return f"{size}{channels}, {image.array.dtype}{spacing}"


def displayed(image: Image) -> NDArray[np.uint8]:
    """A picture for the screen: (rows, columns) or (rows, columns, 3), at most 128 pixels a side.

    Of a volume the middle slice along its last axis, turned so that the patient lies as radiologists look at it;
    grey is stretched from the 0.5th to the 99.5th percentile.
    """
    planes = np.asarray(image.channels_first())
    if image.ndim == 3:
        planes = planes[..., planes.shape[-1] // 2]
        if image.geometry.has_size:
            planes = planes.transpose(0, 2, 1)
    coloured = image.quantity == "colour" and len(planes) >= 3 and image.time_s is None
    planes = planes[:3] if coloured else planes[:1]
    step = max(1, -(-max(planes.shape[1:]) // (2 * PICTURE_SIDE)))
    values = np.nan_to_num(planes[:, ::step, ::step].astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    if coloured and image.array.dtype == np.uint8:
        low, high = 0.0, 255.0
    else:
        low, high = (float(v) for v in np.percentile(values, (0.5, 99.5)))
        if not high > low:
            low, high = float(values.min()), float(values.max())
    scaled = np.clip((values - low) / (high - low), 0, 1) if high > low else np.zeros_like(values)
    picture = np.rint(255 * scaled).astype(np.uint8)
    return np.moveaxis(picture, 0, 2) if coloured else picture[0]


def png_bytes(picture: NDArray[np.uint8]) -> bytes:
    """A grey or RGB picture as PNG (W3C PNG specification, third edition, sections 5 and 11)."""
    rows, columns = picture.shape[:2]
    colour_type = 2 if picture.ndim == 3 else 0
    head = struct.pack(">IIBBBBB", columns, rows, 8, colour_type, 0, 0, 0)
    lines = np.concatenate([np.zeros((rows, 1), np.uint8), picture.reshape(rows, -1)], axis=1)  # filter 0: as it is

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(lines.tobytes(), 6)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def data_uri(picture: NDArray[np.uint8]) -> str:
    """A picture that stands inside the page itself."""
    return "data:image/png;base64," + base64.b64encode(png_bytes(picture)).decode("ascii")


def write_check_report(issues: Sequence[Issue], dataset: Dataset, path: str | Path) -> Path:
    """Write check.html: one file without a link to anything outside it.

    Args:
        issues: What ``check`` found.
        dataset: The dataset they are about; images of the cases concerned are read again for the pictures.
        path: The file to write; an older report there is replaced.

    Returns:
        The path.

    Raises:
        UsageError: The file cannot be written.
    """
    path = Path(path)
    page = render(issues, dataset)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, page)
    except OSError as error:
        raise UsageError(
            f"{path} cannot be written", got=error.strerror or str(error), remedy="check space and permission"
        ) from error
    return path


def render(issues: Sequence[Issue], dataset: Dataset) -> str:
    """The page as text."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    album = _Album(dataset)
    cards = [_card(issue, dataset, album) for issue in worst_first(issues)]
    samples = _samples(dataset, album)
    shown = [figure for card in cards for group in card.groups for figure in group]
    shown += [figure for _, figures in samples for figure in figures]
    counts = Counter(issue.severity for issue in issues)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template(TEMPLATE).render(
        name=dataset.name,
        digest=dataset.digest,
        verdict=_verdict(counts),
        verdict_class=next((s for s in ("error", "warning", "info") if counts[s]), "clean"),
        facts=_summary(dataset, album),
        classes=_class_table(dataset),
        columns=_column_table(dataset),
        legend=_legend(dataset, shown),
        several=any(len(case.truth.masks) > 1 for case in dataset),
        samples=samples,
        cards=cards,
    )


def _verdict(counts: Counter[Any]) -> str:
    if not counts:
        return "Nothing was found."
    parts = []
    for severity, one, many in (("error", "error", "errors"), ("warning", "warning", "warnings"),
                                ("info", "note", "notes")):  # fmt: skip
        if counts[severity]:
            parts.append(f"{counts[severity]} {one if counts[severity] == 1 else many}")
    text = ", ".join(parts[:-1]) + (" and " if len(parts) > 1 else "") + parts[-1]
    if counts["error"]:
        return f"{text}. Results on this dataset would be wrong until the errors are mended."
    if counts["warning"]:
        return f"{text}. Nothing forbids training; read the warnings before you trust a result."
    return f"{text}. Nothing stands in the way."


# -- the dataset in numbers -------------------------------------------------------------------------------------------


def _summary(dataset: Dataset, album: _Album) -> list[tuple[str, str]]:
    patients = len({case.patient for case in dataset})
    sites = sorted({case.site for case in dataset if case.site})
    kinds = [kind for kind, _ in album.kinds.most_common(3)]
    inputs = ", ".join(name + (f" ({spec.modality})" if spec.modality else "") for name, spec in dataset.inputs.items())
    structures = [f"{value} {name}" for value, name in enumerate(dataset.label_names) if value]
    rows = [
        ("Task", f"{dataset.task} ({dataset.kind})" if dataset.task == "classify" else dataset.task),
        ("Cases", f"{len(dataset):,}"),
        ("Patients", f"{patients:,}" if dataset.patients_known else "not stated: every case counts as one"),
        ("Inputs", inputs),
        ("Images shown here", "; ".join(kinds) + (" …" if len(album.kinds) > 3 else "") if kinds else "none"),
    ]
    if any(case.truth.masks for case in dataset):
        rows.append(("Structures", _some(structures) or "not named"))
    if dataset.positive is not None:
        rows.append(("Positive class", dataset.label_names[dataset.positive]))
    if sites:
        rows.append(("Sites", f"{len(sites)}: {', '.join(sites[:6])}" + (" …" if len(sites) > 6 else "")))
    if dataset.licence:
        rows.append(("Licence", dataset.licence))
    if dataset.source:
        rows.append(("Source", dataset.source))
    return rows


def _some(names: Sequence[str]) -> str:
    more = len(names) - STRUCTURES_LISTED
    return ", ".join(names[:STRUCTURES_LISTED]) + (f" and {more} more" if more > 0 else "")


def _class_table(dataset: Dataset) -> dict[str, Any]:
    summary = class_summary(dataset)
    splits = list(summary)
    cases = Counter(case.split or "no split" for case in dataset)
    names = [name for name in (*dataset.label_names, "no annotation") if any(c[name] for c in summary.values())]
    largest = max((summary[s][n] for s in splits for n in names), default=1)
    rows = [
        {"name": name, "cells": [(summary[s][name], summary[s][name] / max(largest, 1)) for s in splits],
         "total": sum(summary[s][name] for s in splits)}
        for name in names
    ]  # fmt: skip
    return {"splits": splits, "rows": rows, "cases": [cases[s] for s in splits], "total": len(dataset)}


def _column_table(dataset: Dataset) -> list[tuple[str, str, str]]:
    """Column, how many are missing, what is in it."""
    rows = []
    for name in dict.fromkeys(name for case in dataset for name in case.columns):
        values = [case.columns.get(name) for case in dataset]
        known = [v for v in values if v is not None and v != ""]
        missing = len(values) - len(known)
        numbers = [float(v) for v in known if isinstance(v, int | float)]
        if known and len(numbers) == len(known) and len(set(numbers)) > 6:
            q1, q2, q3 = np.percentile(numbers, (25, 50, 75))
            text = f"median {q2:.4g}, quartiles {q1:.4g} to {q3:.4g}, range {min(numbers):.4g} to {max(numbers):.4g}"
        else:
            common = Counter(f"{v:g}" if isinstance(v, float) else str(v) for v in known)
            text = ", ".join(f"{v} ({n:,})" for v, n in common.most_common(5)) + (" …" if len(common) > 5 else "")
        rows.append((name, f"{missing / len(values):.0%}" if missing else "–", text or "empty"))
    return rows


def _samples(dataset: Dataset, album: _Album) -> list[tuple[str, list[_Figure]]]:
    """A few cases of each class, drawn by a fixed seed."""
    by_class: dict[str, list[Case]] = {}
    for case in dataset:
        by_class.setdefault(label_text(dataset, case) or "", []).append(case)
    order = sorted(by_class, key=lambda name: -len(by_class[name]))[:CLASSES_SHOWN]
    rng = np.random.default_rng(0)
    found = []
    for name in order:
        cases = by_class[name]
        drawn = rng.choice(len(cases), min(SAMPLES_A_CLASS, len(cases)), replace=False)
        figures = [_figure(dataset, cases[i], album, with_label=False) for i in sorted(drawn)]
        found.append((name or "Examples", [f for f in figures if f.picture]))
    return [(name, figures) for name, figures in found if figures]


# -- issues -----------------------------------------------------------------------------------------------------------


def _figure(
    dataset: Dataset,
    case: Case,
    album: _Album,
    extra: str = "",
    with_label: bool = True,
    marked: frozenset[Corners] = NOTHING,
) -> _Figure:
    label = extra or (label_text(dataset, case) if with_label else None)
    caption = " · ".join(part for part in (case.split, label) if part)
    picture = album.picture(case, marked)
    outlined = album.outlined.get((case.id, marked), frozenset())
    masks = bool(case.truth.masks) and (case.id, marked) in album.outlined
    return _Figure(case.id, caption, picture, case.id in album.wide, outlined, bool(marked), masks)


def _legend(dataset: Dataset, figures: Sequence[_Figure]) -> _Legend:
    """Which structure has which colour in some pictures; the colours come again after the last one."""
    values = sorted(frozenset[int]().union(*(figure.outlined for figure in figures)))
    first = 1 if dataset.task == "detect" else 0  # boxes have no background: their class 0 is drawn as 1
    names = {dataset.ignore: "ignored"} | {v: name for v, name in enumerate(dataset.label_names, first) if v}
    entries = [
        ("#{:02x}{:02x}{:02x}".format(*colour_of(value - 1)), names.get(value, f"value {value}"))
        for value in values[:STRUCTURES_LISTED]
    ]
    return _Legend(entries, len(values) - len(entries))


def _marked(figures: Sequence[_Figure], listed: int) -> str:
    """What is said of the boxes that a finding, which lists so many, draws apart."""
    if any(figure.marked and figure.wide for figure in figures):
        return "only the boxes of this finding are drawn"
    if any(figure.marked for figure in figures):
        return "the boxes of this finding" + (f", the first {ROWS} of them" if listed >= ROWS else "")
    return ""


def _card(issue: Issue, dataset: Dataset, album: _Album) -> _Card:
    known = {case.id for case in dataset}
    groups: list[list[str]] = [g["cases"] for g in issue.details.get("groups", ())]
    captions: dict[str, str] = dict(issue.details.get("captions", {}))
    for row in issue.details.get("rows", ()):
        if "suggested" in row:
            captions[row["case"]] = f"{row['given']} → {row['suggested']}?"
    if not groups:
        groups = [[case] for case in issue.cases]
    most = GROUPS_AN_ISSUE if "groups" in issue.details else PICTURES_AN_ISSUE
    shown = [[c for c in group[:4] if c in known] for group in groups[:most]]
    marks = concerned(issue.details)
    figures = [
        [_figure(dataset, dataset[c], album, captions.get(c, ""), marked=marks.get(c, NOTHING)) for c in group]
        for group in shown
        if group
    ]
    count = sum(len(group) for group in figures)
    of = f"{count} of {len(issue.cases):,} cases shown" if count < len(issue.cases) else ""
    if figures and not any(f.picture for group in figures for f in group):
        figures, of = [], ""
    listed = ", ".join(issue.cases[:CASES_LISTED])
    if len(issue.cases) > CASES_LISTED:
        listed += f" and {len(issue.cases) - CASES_LISTED:,} more"
    headers = [
        (row["case"], row["image_header"], row["mask_header"])
        for row in issue.details.get("rows", ())[:HEADERS_SHOWN]
        if "mask_header" in row
    ]
    marked = _marked([figure for group in figures for figure in group], sum(map(len, marks.values())))
    return _Card(issue, SEVERITY_WORDS[issue.severity], figures, marked, of, listed, headers)
