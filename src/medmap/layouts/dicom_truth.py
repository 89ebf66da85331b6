"""Truth that lies in a DICOM archive itself: segmentations, structure sets and measurement reports on its series.

Segmentations and structure sets are masks. The regions of a report (TID 1500) are boxes around them; a report without
regions states the findings of its series, as classes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from medmap.dataset import Ref, TaskName, Truth
from medmap.errors import DatasetError, ReadError
from medmap.geometry import Geometry
from medmap.layouts.cases import Vocabulary, guess_vocabulary
from medmap.layouts.naming import natural_key
from medmap.read.dicom.report import MeasurementGroup, MeasurementReport, read_report
from medmap.read.dicom.segmentation import segments_of, source_series_of
from medmap.read.dicom.structures import read_structures
from medmap.read.dicom.studies import Series, Study
from medmap.results import Label

BACKGROUND = Label("background")
OBJECTS = ("segmentation", "structures", "report")
UNNAMED = "finding"
PRESENCE, PRESENT = "DCM:121052", "DCM:121053"  # Presence of property; Present (PS3.16 annex D)


@dataclass
class Truths:
    """What an archive says of its own series.

    Args:
        masks: Series → objects, each with the names of its numbered regions.
        boxes: Series → boxes with the name of what was found.
        findings: Series → what a report without regions found.
        labels: Names with their codes, over the whole archive.
        notes: What was left out, in sentences.
    """

    masks: dict[str, list[tuple[Path, dict[int, str]]]] = field(default_factory=lambda: defaultdict(list))
    boxes: dict[str, list[tuple[tuple[float, ...], str]]] = field(default_factory=lambda: defaultdict(list))
    findings: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    labels: dict[str, Label] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def task(self, series: Iterable[str]) -> TaskName | None:
        """The task that these series have truth for; None without any."""
        wanted = set(series)
        for found, name in ((self.masks, "segment"), (self.boxes, "detect"), (self.findings, "classify")):
            if wanted & found.keys():
                return name  # type: ignore[return-value]
        return None

    def vocabulary(self, task: TaskName, series: Sequence[str]) -> Vocabulary:
        """The classes of a task, in an order that does not depend on the order of the archive."""
        if task == "classify":
            return guess_vocabulary([";".join(self.findings.get(uid, ())) for uid in series])
        names: set[str] = set()
        for uid in series:
            if task == "segment":
                names.update(name for _, regions in self.masks.get(uid, ()) for name in regions.values())
            else:
                names.update(name for _, name in self.boxes.get(uid, ()))
        labels = tuple(self.labels[name] for name in sorted(names, key=natural_key))
        return Vocabulary((BACKGROUND, *labels) if task == "segment" else labels, "multiclass", {})

    def of(self, uid: str, task: TaskName, words: Vocabulary, root: Path) -> Truth:
        """The truth of one series.

        Raises:
            DatasetError: Objects with different structures of one series: they are parts, not observers.
        """
        names = [label.name for label in words.labels]
        if task == "segment" and uid in self.masks:
            return self._mask_truth(uid, names, root)
        if task == "detect" and uid in self.boxes:
            return Truth(True, boxes=tuple((corners, names.index(name)) for corners, name in self.boxes[uid]))
        if task == "classify" and uid in self.findings:
            return words.truth(";".join(self.findings[uid]), f"the report on series {uid}")
        return Truth()

    def _mask_truth(self, uid: str, names: Sequence[str], root: Path) -> Truth:
        drawn = {frozenset(regions.values()) for _, regions in self.masks[uid]}
        if len(drawn) > 1:
            told = "; ".join(", ".join(sorted(some)) for some in sorted(drawn, key=sorted))
            raise DatasetError(
                "a series has several objects with different structures, which are no observers of the same",
                got=told[:200],
                remedy="put the structures of a series into one segmentation or structure set",
            )
        refs = []
        for path, regions in self.masks[uid]:
            # segment 1 becomes the dataset's label 2: seg.dcm#1>2
            member = ",".join(f"{number}>{names.index(name)}" for number, name in sorted(regions.items()))
            refs.append(Ref(relative(path, root), member or None))
        (some,) = drawn
        known = tuple(i for i, name in enumerate(names) if i == 0 or name in some)
        return Truth(True, masks=tuple(refs), known=known if len(known) < len(names) else None)


def relative(path: Path, root: Path) -> str:
    """A path below the root as the table writes it; absolute where it lies elsewhere."""
    try:
        return path.resolve().relative_to(root.resolve()).as_posix()
    except ValueError:
        return path.resolve().as_posix()


def truths_of(found: Sequence[Study]) -> Truths:
    """What the objects of an archive say of its series.

    Raises:
        ReadError: An object that is damaged.
    """
    truths = Truths()
    for study in found:
        for series in study.series:
            for instance in series.instances if series.kind in OBJECTS else ():
                if instance.member is not None:
                    note = "segmentations, structure sets and reports inside a zip were not used: unpack it"
                    truths.notes += [] if note in truths.notes else [note]
                elif series.kind == "segmentation":
                    regions = {segment.number: segment.label for segment in segments_of(instance.path)}
                    _add_masks(truths, source_series_of(instance.path), instance.path, regions)
                elif series.kind == "structures":
                    structures = read_structures(instance.path)
                    regions = {roi.number: roi.label for roi in structures.rois}
                    _add_masks(truths, structures.series_uids, instance.path, regions)
                else:
                    _add_report(truths, study, instance.path)
    return truths


def _add_masks(truths: Truths, series: Iterable[str], path: Path, regions: Mapping[int, Label]) -> None:
    for label in regions.values():
        truths.labels.setdefault(label.name, label)
    for uid in series:
        truths.masks[uid].append((path, {number: label.name for number, label in regions.items()}))


# -- reports ----------------------------------------------------------------------------------------------------------


def _add_report(truths: Truths, study: Study, path: Path) -> None:
    try:
        report = read_report(path)
    except ReadError as error:
        truths.notes.append(f"a report was not used: {error}")  # other templates than TID 1500 are no truth
        return
    for series in study.series:
        if not set(report.evidence) & {instance.sop_instance_uid for instance in series.instances}:
            continue
        if series.kind in OBJECTS:
            continue
        if any(group.regions for group in report.groups):
            _add_boxes(truths, series, report)
        else:
            truths.findings[series.uid] += [name for group in report.groups for name in _found(group)]


def _found(group: MeasurementGroup) -> list[str]:
    """What a group without a region says: its finding, unless that is said to be absent; else what was evaluated."""
    stated = [e.value.code or "" for e in group.evaluations if (e.concept.code or "").startswith(PRESENCE)]
    if group.finding is not None:
        return [group.finding.name] if all(code.startswith(PRESENT) for code in stated) else []
    return [evaluation.value.name for evaluation in group.evaluations]


def _add_boxes(truths: Truths, series: Series, report: MeasurementReport) -> None:
    """One box a group: its regions are the outlines of one thing on several slices."""
    geometry = series.open().geometry
    for group in (group for group in report.groups if group.regions):
        frames = {region.frame_of_reference for region in group.regions}
        widths = {region.points.shape[1] for region in group.regions}
        corners = None
        if len(frames) == len(widths) == 1:
            corners = _box(np.concatenate([region.points for region in group.regions]), frames.pop(), geometry)
        if corners is None:
            truths.notes.append(
                f"a region of a report on series {series.uid} was not used: it does not lie in the series' space"
            )
            continue
        label = group.finding or Label(UNNAMED)
        truths.labels.setdefault(label.name, label)
        truths.boxes[series.uid].append((corners, label.name))


def _box(points: np.ndarray, frame_of_reference: str, geometry: Geometry) -> tuple[float, ...] | None:
    """The voxels whose centres lie between the outermost points, as corners in index coordinates.

    None for a region of another space, one outside the grid, and one drawn on a single image of several.
    """
    if points.shape[1] == 2 and geometry.ndim == 2:
        index = points[:, ::-1] - 0.5  # column and row, counted from the outer edge, to row and column of centres
    elif points.shape[1] == 3 and geometry.kind == "patient":
        if geometry.frame_of_reference and frame_of_reference not in ("", geometry.frame_of_reference):
            return None
        index = geometry.to_index(points)
    else:
        return None
    low, high = np.ceil(index.min(axis=0) - 1e-3), np.floor(index.max(axis=0) + 1e-3)
    middle = np.rint(index.mean(axis=0))
    low, high = np.minimum(low, middle), np.maximum(high, middle)  # smaller than a voxel: that voxel
    last = np.array(geometry.shape) - 1
    if (high < 0).any() or (low > last).any():
        return None
    return tuple(float(v) for v in (*np.clip(low, 0, last), *np.clip(high, 0, last)))
