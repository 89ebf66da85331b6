"""What is wrong with masks: grids that do not match, labels outside the list, empty, cut off, mirrored."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from medmap.check.facts import Facts
from medmap.check.issue import Issue, named
from medmap.check.masks import MaskFacts
from medmap.check.volumes import FEWEST, unusual
from medmap.dataset import Dataset
from medmap.errors import counted
from medmap.geometry import Geometry

FLIP_FITS = 1.25  # how much better a mirrored mask must fit the image than it does as it is
FLIP_LEAST = 1.05  # or this much, where it lies four robust standard deviations above what is usual
FLIP_USUAL = 0.9  # and how much worse mirrored masks usually fit, or the test says nothing here
MOST_UNNAMED = 64  # different values from which unnamed masks are no list of structures
_SIDE_WORDS = re.compile(r"(?i)(?<![a-z])(left|right|l|r|lt|rt)(?![a-z])")
_LEFT = ("left", "l", "lt")


def _cases(masks: Sequence[MaskFacts]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(mask.case for mask in masks))


def _one(masks: Sequence[object], one: str, many: str) -> str:
    return one if len(masks) == 1 else many


def header_text(geometry: Geometry) -> str:
    """A grid in a line: voxels, size, origin and orientation.

    The origin of a patient's grid is told in LPS, as DICOM, NRRD and MetaImage have it, and in RAS, as NIfTI has it.

    Example:
        >>> header_text(Geometry.from_spacing((4, 5, 6), (1, 1, 2.5), origin_mm=(0, -10, 3)))
        '4 × 5 × 6 voxels of 1 × 1 × 2.5 mm, first voxel at (0, -10, 3) mm LPS = (0, 10, 3) mm RAS, axes LPS'
    """
    voxels = " × ".join(str(n) for n in geometry.shape) + " voxels"
    if not geometry.has_size:
        return f"{voxels} without a size"
    size = " × ".join(f"{v:.4g}" for v in geometry.spacing_mm)
    lps = geometry.affine_lps_mm[:3, 3]
    origin = f"({_numbers(lps)}) mm"
    if geometry.kind == "patient":
        origin += f" LPS = ({_numbers(lps * (-1, -1, 1))}) mm RAS"
    return f"{voxels} of {size} mm, first voxel at {origin}, axes {geometry.orientation}"


def _numbers(values: Iterable[float]) -> str:
    return ", ".join(f"{value + 0:.4g}" for value in values)  # + 0: no "-0"


def grid_mismatch(facts: Facts) -> Iterator[Issue]:
    """Image and mask do not lie on one grid."""
    for relation in ("header", "shape", "outside"):
        odd = [mask for mask in facts.masks if mask.relation == relation and mask.image_geometry is not None]
        if not odd:
            continue
        rows = [
            {
                "case": mask.case,
                "mask": mask.mask_name,
                "file": mask.name,
                "image_header": header_text(mask.image_geometry),
                "mask_header": header_text(mask.geometry),
                "apart_mm": None if mask.apart_mm is None else round(mask.apart_mm, 4),
            }
            for mask in odd
            if mask.image_geometry is not None
        ]
        same = relation == "header"
        yield Issue(
            "grid_mismatch",
            "error",
            f"{counted(len(odd), 'mask')} {_one(odd, 'does', 'do')} not lie on the grid of "
            f"{_one(odd, 'its image', 'their images')}: {named(_cases(odd))}. "
            f"{odd[0].case}: image {rows[0]['image_header']}; mask {rows[0]['mask_header']}"
            + (f"; corners up to {odd[0].apart_mm:.4g} mm apart" if odd[0].apart_mm is not None else ""),
            "The structure is learned beside where it is, and every measure of the prediction is wrong.",
            "The voxels correspond and only the headers differ: medmap check --fix geometry writes the dataset anew "
            "with masks that have their image's header, and keeps the old ones; look at one of them first."
            if same
            else "Resample the mask to its image's grid where both headers are right (nearest neighbour), or find the "
            "mask that was drawn on this image.",
            _cases(odd),
            {"rows": rows[:100], "fixable": same},
        )


def fractional_mask(facts: Facts) -> Iterator[Issue]:
    """Values between the labels, as a resampling by interpolation leaves."""
    odd = [mask for mask in facts.masks if not mask.whole and mask.channels == 1]
    if odd:
        yield Issue(
            "fractional_mask",
            "error",
            f"{counted(len(odd), 'mask')} {_one(odd, 'holds', 'hold')} fractions, or far more values than structures: "
            f"{named(_cases(odd))}",
            "A value between two labels belongs to neither; rounding makes rims of wrong labels around structures.",
            "Take the mask before it was resampled, and resample it by nearest neighbour.",
            _cases(odd),
        )


def mask_with_channels(facts: Facts) -> Iterator[Issue]:
    """Masks of several channels (a channel a structure), where a map of labels is learned from."""
    odd = [mask for mask in facts.masks if mask.channels > 1]
    if odd:
        yield Issue(
            "mask_with_channels",
            "error",
            f"{counted(len(odd), 'mask')} {_one(odd, 'has', 'have')} several channels: {named(_cases(odd))}",
            "A mask is one map of labels; training leaves these cases out.",
            "Write one map of labels; structures that overlap are regions of its values (regions in dataset.yaml).",
            _cases(odd),
            {"channels": {mask.case: mask.channels for mask in odd[:100]}},
        )


def _unnamed(facts: Facts) -> Iterator[Issue]:
    """Masks of a dataset that names no structure at all."""
    voxels: Counter[int] = Counter()
    for mask in facts.masks:
        voxels.update(mask.counts)
    if voxels and len(voxels) <= MOST_UNNAMED:
        values = sorted(voxels)
        told = ", ".join(f"{value} ({voxels[value]:,} voxels)" for value in values)
        counted_on = list(range(1, len(values) + 1))
        names = ", ".join(f"{value}: NAME" for value in counted_on)
        renumber = ", ".join(f"{old} → {new}" for old, new in zip(values, counted_on, strict=True))
        yield Issue(
            "label_outside_list",
            "error",
            f"The dataset names no structure; the masks hold {told}",
            "Nothing can be learned or judged before it is said what the values mean.",
            ("" if values == counted_on else f"Renumber the masks without gaps ({renumber}), then ")
            + "medmap import DATASET DEST (unless it is in medmap's layout), and write "
            f"labels: {{{names}}} into dataset.yaml.",
            (),
            {"values": {str(value): voxels[value] for value in values}},
        )


def label_outside_list(facts: Facts) -> Iterator[Issue]:
    """Values that dataset.yaml gives no name."""
    dataset = facts.dataset
    if not dataset.labels:
        yield from _unnamed(facts)
        return
    known = set(range(len(dataset.labels)))
    known |= {dataset.ignore} if dataset.ignore is not None else set()
    known |= {value for values in dataset.regions.values() for value in values}
    odd = [(mask, sorted(set(mask.counts) - known)) for mask in facts.masks]
    odd = [(mask, values) for mask, values in odd if values]
    if odd:
        masks = [mask for mask, _ in odd]
        voxels: Counter[int] = Counter()
        for mask, values in odd:
            voxels.update({v: mask.counts[v] for v in values})
        told = ", ".join(f"{value} ({count:,} voxels)" for value, count in voxels.most_common(5))
        listed = ", ".join(f"{i} {name}" for i, name in enumerate(dataset.label_names[:8]))
        yield Issue(
            "label_outside_list",
            "error",
            f"{counted(len(odd), 'mask')} {_one(odd, 'holds', 'hold')} values that are no label of the dataset: {told};"
            f" {named(_cases(masks))}. The list is {listed}",
            "Training refuses or learns a structure without a name; a shifted numbering exchanges structures.",
            "Add the label to dataset.yaml, name it as ignore, or renumber the mask.",
            _cases(masks),
            {"values": {str(v): n for v, n in voxels.items()}, "by_case": {m.case: v for m, v in odd[:100]}},
        )


def empty_mask(facts: Facts) -> Iterator[Issue]:
    """Masks without any structure."""
    odd = [mask for mask in facts.masks if mask.whole and not mask.counts]
    if not odd:
        return
    everything = len(odd) == len(facts.masks)
    few = len(odd) <= max(1, len(facts.masks) // 20)
    yield Issue(
        "empty_mask",
        "error" if everything else "warning" if few else "info",
        f"{counted(len(odd), 'mask')} of {len(facts.masks):,} {_one(odd, 'is', 'are')} empty: {named(_cases(odd))}",
        "An empty mask says that somebody looked and found nothing; where nobody had looked, the network learns to "
        "overlook.",
        "Look at the images; leave the cell empty where nobody has drawn, keep the mask where there is nothing.",
        _cases(odd),
    )


def structure_without_voxels(facts: Facts) -> Iterator[Issue]:
    """A structure of the list that no mask, or hardly any, holds."""
    dataset = facts.dataset
    whole = [mask for mask in facts.masks if mask.whole]
    if not whole or len(dataset.labels) < 2:
        return
    present = Counter(value for mask in whole for value in mask.counts)
    absent = [dataset.label_names[v] for v in range(1, len(dataset.labels)) if not present[v]]
    if absent:
        yield Issue(
            "structure_without_voxels",
            "warning",
            f"No mask holds {named(absent)}",
            "Nothing can be learned or said about a structure that was never drawn.",
            "Add cases that show it, correct the numbering, or take it off the list.",
            details={"structures": absent},
        )
    rare = {dataset.label_names[v]: present[v] for v in range(1, len(dataset.labels)) if 0 < present[v] < len(whole)}
    if rare:
        told = ", ".join(f"{name} in {count:,}" for name, count in sorted(rare.items(), key=lambda pair: pair[1])[:4])
        yield Issue(
            "structure_not_everywhere",
            "info",
            f"Not every one of {len(whole):,} masks holds every structure: {told}",
            "Where a structure is absent from the patient this is right; where it was not drawn, the network learns to "
            "leave it out.",
            "Name the structures that were looked at in the column annotated, for cases that are labelled in part.",
            details={"present": rare, "masks": len(whole)},
        )


def structure_cut_off(facts: Facts) -> Iterator[Issue]:
    """A structure that reaches the edge of the grid, where it usually does not."""
    for value, masks in _by_value(facts).items():
        at_edge = [mask for mask in masks if mask.at_edge.get(value, 0) > 0]
        if not at_edge or len(at_edge) > len(masks) // 4 or len(masks) < FEWEST:
            continue
        share = {m.case: m.at_edge[value] / m.counts[value] for m in at_edge}
        worst = max(at_edge, key=lambda m: share[m.case])
        yield Issue(
            "structure_cut_off",
            "warning",
            f"{_label(facts.dataset, value)} reaches the edge of the grid in {counted(len(at_edge), 'mask')} of "
            f"{len(masks):,}: {named(_cases(at_edge))}; in {worst.case} {share[worst.case]:.1%} of it lies on the edge",
            "Its volume is too small there, and its shape ends where the scan does.",
            "Leave these cases out of what speaks of whole structures, or take a scan that shows all of it.",
            _cases(at_edge),
            {"structure": value, "share_at_edge": {case: round(v, 5) for case, v in list(share.items())[:100]}},
        )


def structure_size_outlier(facts: Facts) -> Iterator[Issue]:
    """A structure far larger or smaller than in the others: half drawn, drawn on another organ, fragments."""
    for value, masks in _by_value(facts).items():
        sized = [mask for mask in masks if mask.geometry.has_size and mask.geometry.ndim == 3]
        millilitres = [mask.counts[value] * mask.geometry.voxel_volume_mm3 / 1000 for mask in sized]
        far = unusual([math.log(v) for v in millilitres]) if millilitres else np.zeros(0, bool)
        middle = float(np.median(millilitres)) if millilitres else 0.0
        odd = [(m, v) for m, v, off in zip(sized, millilitres, far, strict=True) if off and not 0.5 < v / middle < 2]
        if odd and len(odd) <= len(sized) // 4:
            found = [mask for mask, _ in odd]
            yield Issue(
                "structure_size_outlier",
                "info",
                f"{_label(facts.dataset, value)} has another size than in the others in {counted(len(odd), 'mask')}: "
                f"{named(_cases(found))}; {odd[0][1]:.3g} ml in {found[0].case}, {middle:.3g} ml usually",
                "It may be the disease; or it was drawn in part, or something else was.",
                "Look at them.",
                _cases(found),
                {"structure": value, "usual_ml": round(middle, 4), "ml": {m.case: round(v, 4) for m, v in odd[:100]}},
            )


def _by_value(facts: Facts) -> Mapping[int, list[MaskFacts]]:
    found: dict[int, list[MaskFacts]] = defaultdict(list)
    for mask in facts.masks:
        for value in mask.counts:
            if value != facts.dataset.ignore:
                found[value].append(mask)
    return dict(sorted(found.items()))


def _label(dataset: Dataset, value: int) -> str:
    return dataset.label_names[value] if 0 < value < len(dataset.labels) else f"The value {value}"


# -- mirrored ---------------------------------------------------------------------------------------------------------


def mirrored_mask(facts: Facts) -> Iterator[Issue]:
    """A mask whose border lies on the image's edges only when it is mirrored."""
    judged = [(mask, mask.flips) for mask in facts.masks if mask.flips is not None]
    if len(judged) < 2:
        return
    for axis in range(max(len(flips) for _, flips in judged)):
        here = [(mask, flips[axis]) for mask, flips in judged if axis < len(flips)]
        best = {id(mask) for mask, flips in judged if int(np.argmax(flips)) == axis}  # each is named once
        usual = float(np.median([ratio for _, ratio in here]))
        limit = _flip_limit([ratio for _, ratio in here])
        odd = [(mask, ratio) for mask, ratio in here if ratio > limit and id(mask) in best]
        everywhere = usual > FLIP_FITS
        if not odd or not (everywhere or usual < FLIP_USUAL):
            continue
        odd.sort(key=lambda pair: -pair[1])
        masks = [mask for mask, _ in odd]
        yield Issue(
            "mirrored_mask",
            "error" if everywhere else "warning",
            f"{counted(len(odd), 'mask')} {_one(odd, 'fits', 'fit')} {_one(odd, 'its image', 'their images')} better "
            f"when mirrored along axis {axis}{_direction(masks[0], axis)}: {named(_cases(masks))}; in {masks[0].case} "
            f"the image changes {odd[0][1]:.2g} times as much under the mirrored border",
            "The structure is learned where it is not; Dice is near zero or, near a mid-line, silently too low.",
            "Look at the mask over its image; a converter flipped one of them. Convert both by the same tool.",
            _cases(masks),
            {"axis": axis, "usual": round(usual, 3), "times_better": {m.case: round(v, 3) for m, v in odd[:100]}},
        )


def _flip_limit(ratios: Sequence[float]) -> float:
    """The ratio from which a mirrored mask fits better than by chance."""
    if len(ratios) < FEWEST:
        return FLIP_FITS
    logs = np.log(np.maximum(ratios, 1e-6))
    middle = float(np.median(logs))
    spread = float(np.median(np.abs(logs - middle))) / 0.6745
    return float(np.clip(np.exp(middle + 4 * spread), FLIP_LEAST, FLIP_FITS))


def _direction(mask: MaskFacts, axis: int) -> str:
    letters = mask.geometry.orientation
    words = {"L": "left and right", "R": "left and right", "P": "front and back", "A": "front and back"}
    return f" ({words.get(letters[axis], 'head and feet')})" if len(letters) > axis and mask.geometry.has_size else ""


def sided_pairs(dataset: Dataset) -> list[tuple[int, int]]:
    """(left, right) label values: from mirror_pairs, else from names that differ only in the side they name.

    Example:
        >>> from medmap.dataset import Case, InputSpec
        >>> from medmap.results import Label
        >>> names = [Label(n) for n in ("background", "right lung", "left lung", "heart")]
        >>> sided_pairs(Dataset("d", "segment", (Case("a", "a", {}),), {"image": InputSpec()}, tuple(names)))
        [(2, 1)]
    """
    names = list(dataset.label_names)
    at: dict[tuple[str, bool], int] = {}
    for value, name in enumerate(names):
        found = _SIDE_WORDS.search(name.replace("_", " "))
        if found:
            at[_SIDE_WORDS.sub("", name.replace("_", " "), count=1).strip().lower(), found[1].lower() in _LEFT] = value
    pairs = [(value, at[rest, False]) for (rest, left), value in at.items() if left and (rest, False) in at]
    for first, second in dataset.mirror_pairs:
        if first in names and second in names:
            pair = (names.index(first), names.index(second))
            found = _SIDE_WORDS.search(first.replace("_", " "))
            if found and pair not in pairs and pair[::-1] not in pairs:
                pairs.append(pair if found[1].lower() in _LEFT else pair[::-1])
    return pairs


def sides_exchanged(facts: Facts) -> Iterator[Issue]:
    """A structure called left that lies on the right of the one called right, in the patient's own directions."""
    for left, right in sided_pairs(facts.dataset):
        both = [mask for mask in facts.masks if left in mask.centres_mm and right in mask.centres_mm]
        odd = [mask for mask in both if mask.centres_mm[left][0] < mask.centres_mm[right][0]]
        if odd:
            names = facts.dataset.label_names
            yield Issue(
                "sides_exchanged",
                "error",
                f"In {counted(len(odd), 'mask')} of {len(both):,} {names[left]} lies to the right of {names[right]}: "
                f"{named(_cases(odd))}",
                "Left and right are exchanged, in the labels, the array or the header: findings go to the wrong side.",
                "Look at the liver or the heart in the image: if it lies right, exchange the labels; if not, mend the "
                "header.",
                _cases(odd),
                {"left": left, "right": right},
            )
