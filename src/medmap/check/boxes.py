"""What is wrong with boxes: beside their image, in another unit, twice, or of odd size."""

from __future__ import annotations

import math
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medmap.check.box_pictures import ROUNDED, ROWS
from medmap.check.facts import Facts
from medmap.check.issue import Issue, named
from medmap.check.volumes import unusual
from medmap.dataset import Case, Dataset
from medmap.errors import BoxError, DataError, QualityWarning, counted
from medmap.metrics.boxes import box_iou

Floats = NDArray[np.float64]

BEYOND = 1.0  # voxels that a box may reach beyond its image without a word: what rounding makes
SMALLEST_IMAGE = 8  # voxels along two axes from which a box within 0…1 is no box of pixels
PARTS_BEYOND = 0.05  # part of an image's side that a box in parts may reach beyond it
PERCENT = 100.5
LEAST_INSIDE = 0.1  # part of a box that must lie in its image to be meant: what shows less is not learned
BY_CHANCE = 1e-6  # probability below which boxes in the first hundred voxels of every image are no chance
SAME_PLACE = 0.95  # intersection over union
WHOLE = 0.98  # part of each axis from which a box is as large as the image
SIZE_RATIO = 3.0  # times larger or smaller than the class's median, besides five robust deviations of logarithms
STANDS_OUT = 0.25  # share of the boxes up to which what differs is an exception
HEADERS_AT_ONCE = 4


@dataclass(frozen=True)
class _Box:
    """A box with what it lies in; ``edges`` are its extents in whole voxels."""

    case: str
    corners: tuple[float, ...]
    label: int
    ignored: bool
    shape: tuple[int, ...]
    spacing_mm: tuple[float, ...] | None

    @property
    def edges(self) -> Floats:
        half = len(self.corners) // 2
        return np.subtract(self.corners[half:], self.corners[:half], dtype=np.float64) + 1

    @property
    def size(self) -> float:
        """Geometric mean of its edges, in mm where the image has them, else in voxels."""
        edges = self.edges * np.asarray(self.spacing_mm) if self.spacing_mm else self.edges
        return float(np.exp(np.log(edges).mean()))

    def row(self, dataset: Dataset) -> dict[str, object]:
        """As a finding lists it."""
        return {
            "case": self.case,
            "label": dataset.label_names[self.label],
            "corners": [round(v, ROUNDED) for v in self.corners],
            "image": list(self.shape),
        }


def _boxes(facts: Facts) -> list[_Box]:
    """Every box whose image could be read, on as many axes as that has."""
    if facts.dataset.task != "detect":
        return []
    grids = {image.case: (image.shape, image.spacing_mm) for image in reversed(facts.images)}
    return [box for case in facts.dataset if case.id in grids for box in _boxes_of(case, *grids[case.id])]


def _boxes_of(case: Case, shape: tuple[int, ...], spacing_mm: tuple[float, ...] | None) -> Iterator[_Box]:
    rows = [(row, False) for row in case.truth.boxes or ()] + [(row, True) for row in case.truth.ignored]
    for (corners, label), ignored in rows:
        if len(corners) == 2 * len(shape):
            yield _Box(case.id, corners, label, ignored, shape, spacing_mm)


def _listed(boxes: Sequence[_Box], facts: Facts) -> dict[str, object]:
    return {"rows": [box.row(facts.dataset) for box in boxes[:ROWS]]}


def _cases(boxes: Sequence[_Box]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(box.case for box in boxes))


def _shown(box: _Box) -> str:
    corners = ", ".join(f"{v:g}" for v in box.corners)
    return f"{box.case}: ({corners}) in {' × '.join(str(n) for n in box.shape)}"


# -- where they lie ---------------------------------------------------------------------------------------------------


def box_axes(facts: Facts) -> Iterator[Issue]:
    """Boxes of two axes in volumes, or of three in pictures."""
    shapes = {image.case: image.shape for image in reversed(facts.images)}
    cases = facts.dataset if facts.dataset.task == "detect" else ()
    odd = [case.id for case in cases if case.id in shapes and _other_axes(case, shapes[case.id])]
    if odd:
        yield Issue(
            "box_axes",
            "error",
            f"{counted(len(odd), 'case')} {_has(odd)} boxes of another number of axes than the image: {named(odd)}",
            "Such boxes lie nowhere.",
            "Give a corner as many coordinates as the image has axes: four numbers in a picture, six in a volume.",
            tuple(odd),
        )


def _other_axes(case: Case, shape: Sequence[int]) -> bool:
    return any(len(corners) != 2 * len(shape) for corners, _ in (*(case.truth.boxes or ()), *case.truth.ignored))


def require_usable_boxes(dataset: Dataset) -> None:
    """Refuse to learn from boxes that mean nothing in their images; reads the headers of images that have boxes.

    A layout with sizes of its own refuses such boxes when it is opened; in medmap's own table they stand as written.

    Raises:
        BoxError: Boxes of another number of axes, of which hardly anything lies in their image, or in parts or percent
            of its size.
    """
    from concurrent.futures import ThreadPoolExecutor

    cases = [case for case in dataset if case.truth.boxes or case.truth.ignored]
    if dataset.task != "detect" or not cases:
        return
    with ThreadPoolExecutor(HEADERS_AT_ONCE) as pool:
        shapes = dict(zip((c.id for c in cases), pool.map(lambda c: _shape_of(dataset, c), cases), strict=True))
    known = [(case, shape) for case in cases if (shape := shapes[case.id]) is not None]
    odd = next((case for case, shape in known if _other_axes(case, shape)), None)
    boxes = [box for case, shape in known for box in _boxes_of(case, shape, None)]
    outside = [box for box in boxes if _beyond(box.corners, box.shape)[1]]
    unit = _in_parts(boxes) or _in_percent(boxes)
    remedy = "medmap check lists all of them, with the cause where it can be told"
    if odd is not None:
        what = f"case {odd.id} has boxes of another number of axes than its image"
        raise BoxError(what, "box_axes", remedy=remedy, case=odd.id)
    for code, found, told in (
        ("box_outside_image", outside, "outside the image"),
        ("box_wrong_unit", unit, "in parts or percent of the image's size"),
    ):
        if found:
            what = f"{counted(len(found), 'box', 'boxes')} of {len(boxes):,} {_lie(found)} {told}"
            what += f", the first {_shown(found[0])}"
            raise BoxError(what, code, remedy=remedy, case=found[0].case)
    partly = [box for box in boxes if _beyond(box.corners, box.shape)[0]]
    if partly:
        warnings.warn(
            f"{counted(len(partly), 'box', 'boxes')} of {len(boxes):,} {'reaches' if len(partly) == 1 else 'reach'} "
            f"beyond the image, the first {_shown(partly[0])}",
            QualityWarning,
            stacklevel=3,
        )


def _shape_of(dataset: Dataset, case: Case) -> tuple[int, ...] | None:
    """The shape of a case's first image; None where its header cannot be read, which reading it will say."""
    from medmap.read import open_header

    ref = next((r for name in dataset.inputs if (r := case.inputs.get(name)) is not None), None)
    try:
        return None if ref is None else open_header(dataset.resolve(ref), ref.member).geometry.shape
    except DataError:
        return None


def box_outside_image(facts: Facts) -> Iterator[Issue]:
    """Boxes beside their image, wholly or nearly so, or reaching beyond it."""
    boxes = _boxes(facts)
    lie = [_beyond(box.corners, box.shape) for box in boxes]
    outside = [box for box, (_, wholly) in zip(boxes, lie, strict=True) if wholly]
    partly = [box for box, (some, wholly) in zip(boxes, lie, strict=True) if some and not wholly]
    if outside:
        yield Issue(
            "box_outside_image",
            "error",
            f"{counted(len(outside), 'box', 'boxes')} of {len(boxes):,} {_lie(outside)} outside the image,"
            f" the first {_shown(outside[0])}{_exchanged(boxes, outside)}",
            "Nothing is there to be learned; the true place goes without a box and is learned as background.",
            "Corners are index coordinates, low corner before high corner, rows before columns, counted from 0. See "
            "whether the boxes belong to another image or another resolution of it.",
            _cases(outside),
            _listed(outside, facts),
        )
    if partly:
        yield Issue(
            "box_partly_outside",
            "warning",
            f"{counted(len(partly), 'box', 'boxes')} of {len(boxes):,} {'reaches' if len(partly) == 1 else 'reach'} "
            f"beyond the image, the first {_shown(partly[0])}{_exchanged(boxes, partly)}",
            "A box that is cut has another size and centre than was meant, and is found less often.",
            "Cut them at the edge of the image where an object reaches beyond it; else look for a shift or a scale.",
            _cases(partly),
            _listed(partly, facts),
        )


def _lie(boxes: Sequence[object]) -> str:
    return "lies" if len(boxes) == 1 else "lie"


def _are(boxes: Sequence[object]) -> str:
    return "is" if len(boxes) == 1 else "are"


def _has(boxes: Sequence[object]) -> str:
    return "has" if len(boxes) == 1 else "have"


def _beyond(corners: Sequence[float], shape: Sequence[int]) -> tuple[bool, bool]:
    """Whether a box reaches beyond its image by more than a voxel, and whether hardly any of it lies inside."""
    sides = list(zip(corners[: len(shape)], corners[len(shape) :], shape, strict=True))
    partly = any(a < -BEYOND or b > n - 1 + BEYOND for a, b, n in sides)
    inside = math.prod(max(0.0, (min(b, n - 1) - max(a, 0) + 1) / (b - a + 1)) for a, b, n in sides)
    return partly, partly and inside < LEAST_INSIDE


def _exchanged(boxes: Sequence[_Box], odd: Sequence[_Box]) -> str:
    """A hint where all boxes fit once the axes are taken in reverse: x before y."""
    fits = True
    for box in boxes:
        half = len(box.shape)
        turned = (*box.corners[:half][::-1], *box.corners[half:][::-1])
        fits = fits and not any(_beyond(turned, box.shape))
    return "; every box fits when the order of the axes is reversed (x before y?)" if fits and odd else ""


def box_wrong_unit(facts: Facts) -> Iterator[Issue]:
    """Parts or percent of the image's size where voxels belong."""
    boxes = _boxes(facts)
    parts = _in_parts(boxes)
    percent = [] if parts else _in_percent(boxes)
    for odd, unit in ((parts, "parts of the image's size (0 to 1)"), (percent, "percent of the image's size")):
        if odd:
            yield Issue(
                "box_wrong_unit",
                "error",
                f"{counted(len(odd), 'box', 'boxes')} of {len(boxes):,} {'seems' if len(odd) == 1 else 'seem'} to be "
                f"in {unit}, not in voxels, the first {_shown(odd[0])}",
                "Every such box lies in the first corner of its image, where nothing is.",
                "Multiply them by the image's size along each axis; mind that x is the last axis of a picture.",
                _cases(odd),
                _listed(odd, facts),
            )


def _in_parts(boxes: Sequence[_Box]) -> list[_Box]:
    return [
        box
        for box in boxes
        if sorted(box.shape)[-2] >= SMALLEST_IMAGE
        and all(-PARTS_BEYOND <= v <= 1 + PARTS_BEYOND for v in box.corners)
        and any(v != int(v) for v in box.corners)
    ]


def _in_percent(boxes: Sequence[_Box]) -> list[_Box]:
    """All boxes, where every one lies within 0…100 in images so large, and so many, that this is no chance."""
    if not boxes or not all(0 <= v <= PERCENT for box in boxes for v in box.corners):
        return []
    shapes = {box.case: box.shape for box in boxes}
    chance = math.fsum(math.log(min(1.0, PERCENT / n)) for shape in shapes.values() for n in shape)
    spans = max(v for box in boxes for v in box.corners) >= PERCENT / 2
    return list(boxes) if spans and chance < math.log(BY_CHANCE) else []


# -- twice, and of odd size -------------------------------------------------------------------------------------------


def duplicate_boxes(facts: Facts) -> Iterator[Issue]:
    """Two boxes in one place, of the same class or of another."""
    by_case: dict[str, list[_Box]] = defaultdict(list)
    boxes = _boxes(facts)
    odd_unit = {id(box) for box in _in_parts(boxes)}
    for box in boxes:
        if not box.ignored and id(box) not in odd_unit:
            by_case[box.case].append(box)
    same: list[_Box] = []
    other: list[tuple[_Box, _Box]] = []
    for rows in by_case.values():
        for one, two in _pairs(rows):
            if one.label == two.label:
                same.append(two)
            else:
                other.append((one, two))
    if same:
        yield Issue(
            "duplicate_boxes",
            "warning",
            f"{counted(len(same), 'box', 'boxes')} {_lie(same)} where another of the same class does, in "
            f"{named(_cases(same))}",
            "One object counts twice in training, and as one hit and one miss when a network finds it once.",
            "Remove the copies; two exports joined in one file are the usual cause.",
            _cases(same),
            _listed(same, facts),
        )
    if other:
        names = facts.dataset.label_names
        pairs = Counter(" and ".join(sorted((names[a.label], names[b.label]))) for a, b in other).most_common(3)
        cases = _cases([one for one, _ in other])
        yield Issue(
            "conflicting_boxes",
            "warning",
            f"{counted(len(other), 'pair')} of boxes {_lie(other)} in one place with different classes "
            f"({', '.join(f'{name}: {n}' for name, n in pairs)}), in {named(cases)}",
            "The network is told that one object is both; whichever it answers, one box counts as missed.",
            "Keep the right one, unless an object may have several classes.",
            cases,
            {"pairs": [[a.row(facts.dataset), b.row(facts.dataset)] for a, b in other[:ROWS]]},
        )


def _pairs(rows: Sequence[_Box]) -> Iterator[tuple[_Box, _Box]]:
    """Boxes of one case that cover each other almost wholly; one against the rest at a time, to save memory."""
    corners = np.array([box.corners for box in rows], np.float64)
    for n in range(len(rows) - 1):
        for later in np.flatnonzero(box_iou(corners[n : n + 1], corners[n + 1 :])[0] > SAME_PLACE):
            yield rows[n], rows[n + 1 + int(later)]


def box_sizes(facts: Facts) -> Iterator[Issue]:
    """Boxes of one voxel, as large as the image, or unlike the others of their class."""
    boxes = [box for box in _boxes(facts) if not box.ignored]
    odd_unit = {id(box) for box in _in_parts(boxes)}
    boxes = [box for box in boxes if id(box) not in odd_unit and not _beyond(box.corners, box.shape)[1]]
    tiny = [box for box in boxes if (box.edges.max() if len(box.edges) == 3 else box.edges.min()) <= 1]
    whole = [box for box in boxes if (box.edges >= WHOLE * np.asarray(box.shape)).all()]
    if tiny:
        yield Issue(
            "tiny_box",
            "warning",
            f"{counted(len(tiny), 'box', 'boxes')} {_are(tiny)} not larger than a voxel, in {named(_cases(tiny))}",
            "A single voxel shows no object: such a box is missed, or learned as noise.",
            "Give findings that are points a diameter (medmap import --points), and remove clicks that went astray.",
            _cases(tiny),
            _listed(tiny, facts),
        )
    if whole:
        yield Issue(
            "box_fills_image",
            "warning",
            f"{counted(len(whole), 'box', 'boxes')} {_are(whole)} as large as the image, in {named(_cases(whole))}",
            "It says that something is there, not where; a network learns that the whole image is an object.",
            "Draw the object's own box, or make it a label of the image and classify.",
            _cases(whole),
            _listed(whole, facts),
        )
    yield from _size_outliers(boxes, facts)


def _size_outliers(boxes: Sequence[_Box], facts: Facts) -> Iterator[Issue]:
    by_class: dict[tuple[int, bool], list[_Box]] = defaultdict(list)
    for box in boxes:
        by_class[box.label, box.spacing_mm is not None].append(box)
    odd: list[tuple[float, _Box]] = []
    medians: dict[str, str] = {}
    for (label, sized), rows in by_class.items():
        sizes = np.log([box.size for box in rows])
        away = np.abs(sizes - np.median(sizes))
        far = unusual(sizes.tolist()) & (away >= math.log(SIZE_RATIO))
        if 0 < far.sum() <= STANDS_OUT * len(rows):
            odd += [(float(away[n]), rows[n]) for n in np.flatnonzero(far)]
            unit = "mm" if sized else "pixels"
            medians[facts.dataset.label_names[label]] = f"{math.exp(float(np.median(sizes))):.3g} {unit}"
    if odd:
        odd.sort(key=lambda row: -row[0])
        found = [box for _, box in odd]
        yield Issue(
            "box_size_outlier",
            "info",
            f"{counted(len(odd), 'box', 'boxes')} of {len(boxes):,} {_has(odd)} another size "
            f"than is usual ({', '.join(f'{name}: {size}' for name, size in medians.items())}), for example "
            f"{found[0].size:.3g} in {_shown(found[0])}",
            "Anchors and patches are planned from the sizes; what is far off is found less often.",
            "Look at them: a box around a group, a slip of the mouse, or a rare finding.",
            _cases(found),
            _listed(found, facts),
        )
