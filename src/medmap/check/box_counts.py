"""What the boxes of a dataset say by their number: classes, images without any, images with far too many."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from medmap.check.facts import Facts
from medmap.check.issue import Issue, Severity, named
from medmap.check.volumes import FEWEST, unusual
from medmap.dataset import SPLITS, Case, Dataset
from medmap.errors import counted

FEW, SOME = 10, 30  # boxes of a class
IMBALANCE, STRONG_IMBALANCE = 4.0, 20.0
FEWEST_EMPTY = 3
BY_CHANCE = 0.01  # probability below which all empty images in one place are no chance
COUNT_RATIO = 3.0  # times more boxes than the median
STANDS_OUT = 0.25  # share of the images up to which what differs is an exception
ROWS = 100  # of a finding's list


# -- classes ----------------------------------------------------------------------------------------------------------


def box_counts(dataset: Dataset, split: str | None = None) -> dict[str, int]:
    """Boxes of each class, of one split or all."""
    counts = dict.fromkeys(dataset.label_names, 0)
    for case in dataset:
        if split is None or case.split == split:
            for _, label in case.truth.boxes or ():
                counts[dataset.label_names[label]] += 1
    return counts


def box_classes(facts: Facts) -> Iterator[Issue]:
    """Classes without boxes, missing from a split, rare, or far rarer than others."""
    dataset = facts.dataset
    counts = box_counts(dataset) if dataset.task == "detect" else {}
    if not counts:
        return
    without = [name for name, count in counts.items() if not count]
    if without:
        nothing = len(without) == len(counts)
        yield Issue(
            "class_without_boxes",
            "error" if nothing else "warning",
            "No case has a box" if nothing else f"No box is of class {named(without)}",
            "Nothing can be learned or said about what is nowhere.",
            "Add cases with boxes, or remove the class from dataset.yaml.",
            details={"classes": without, "counts": counts},
        )
    yield from _missing_from_split(dataset, counts)
    yield from _rare(counts)


def _missing_from_split(dataset: Dataset, counts: Mapping[str, int]) -> Iterator[Issue]:
    by_split = {s: box_counts(dataset, s) for s in SPLITS if any(case.split == s for case in dataset)}
    gone = {s: [n for n, count in counts.items() if count and not here[n]] for s, here in by_split.items()}
    gone = {split: names for split, names in gone.items() if names}
    if gone:
        severity: Severity = "error" if "train" in gone else "warning"
        yield Issue(
            "box_class_missing_from_split",
            severity,
            "; ".join(f"{split} has no box of class {named(names)}" for split, names in gone.items()),
            "What is not in train is never learned; what is not in val or test cannot be judged.",
            "Empty the split column: medmap spreads every class over the splits.",
            details={"missing": gone},
        )


def _rare(counts: Mapping[str, int]) -> Iterator[Issue]:
    few = {name: count for name, count in counts.items() if 0 < count < SOME}
    if few:
        yield Issue(
            "too_few_boxes",
            "warning" if min(few.values()) < FEW else "info",
            ", ".join(f"{name} has {counted(count, 'box', 'boxes')}" for name, count in list(few.items())[:4]),
            "Sensitivity for so few objects is known to ten percentage points and worse.",
            "Collect more, join the class with a neighbouring one, or use cross-validation.",
            details={"counts": few},
        )
    some = {name: count for name, count in counts.items() if count}
    if len(some) < 2:
        return
    common, rare = max(some, key=some.__getitem__), min(some, key=some.__getitem__)
    ratio = some[common] / some[rare]
    if ratio >= IMBALANCE:
        yield Issue(
            "box_class_imbalance",
            "warning" if ratio >= STRONG_IMBALANCE else "info",
            f"{common} has {some[common]:,} boxes, {rare} {some[rare]:,}: {ratio:.0f} to 1",
            "A mean over all boxes speaks of the common class.",
            "Judge every class by itself; draw training examples so that rare classes are seen as often.",
            details={"counts": dict(counts), "ratio": round(ratio, 2)},
        )


# -- images without boxes ---------------------------------------------------------------------------------------------


def images_without_boxes(facts: Facts) -> Iterator[Issue]:
    """Looked at and empty is one thing, not looked at another: how many there are of each, and what is odd about it."""
    dataset = facts.dataset
    if dataset.task != "detect":
        return
    full = [case for case in dataset if case.truth.boxes]
    bare = [case for case in dataset if case.truth.boxes is not None and not case.truth.boxes]
    empty = [case for case in bare if case.id not in facts.refused]
    lost = [
        case for case in bare if case.id in facts.refused
    ]  # what they had was refused: nobody said that it is empty
    unseen = [case for case in dataset if case.truth.boxes is None]
    if empty or unseen or lost:
        refused = f", {len(lost):,} whose boxes were all refused" if lost else ""
        yield Issue(
            "images_without_boxes",
            "info",
            f"{len(bare) + len(unseen):,} of {counted(len(dataset), 'image')} without a box: {len(empty):,} looked at "
            f"and empty, {len(unseen):,} not annotated{refused}",
            "An empty image teaches what is no finding and counts for false alarms; one that is not annotated is left "
            "out of training and of every metric.",
            "See that each is what it says: [] in cases.csv is empty, a blank cell is not annotated.",
            (),
            {"empty": [case.id for case in empty], "not_annotated": [case.id for case in unseen]}
            | ({"refused": [case.id for case in lost]} if lost else {}),
        )
    if unseen and full and not empty:
        yield Issue(
            "empty_or_not_annotated",
            "warning",
            f"{counted(len(unseen), 'image')} {'is' if len(unseen) == 1 else 'are'} not annotated and none is said to "
            f"be empty: {named([case.id for case in unseen])}",
            "If somebody looked at them and found nothing, false alarms on normal images are neither learned against "
            "nor counted.",
            "Write [] for images on which somebody looked and found nothing.",
            tuple(case.id for case in unseen),
        )
    yield from _in_one_place(full, empty)


def _in_one_place(full: Sequence[Case], empty: Sequence[Case]) -> Iterator[Issue]:
    """Empty images that all come from one site or stand in one split, while the others do not."""
    ways: tuple[tuple[str, Callable[[Case], str | None]], ...] = (
        ("site", lambda case: case.site),
        ("split", lambda case: case.split),
    )
    for what, of in ways:
        here, there = {of(case) for case in empty}, Counter(of(case) for case in full)
        (place,) = here if len(here) == 1 else (None,)
        if place is None or len(empty) < FEWEST_EMPTY or not full:
            continue
        share = (there[place] + len(empty)) / (len(full) + len(empty))
        if share ** len(empty) < BY_CHANCE:
            yield Issue(
                "empty_images_in_one_place",
                "warning",
                f"All {len(empty):,} images without a finding {'come from site' if what == 'site' else 'stand in'} "
                f"{place}, {there[place]:,} of {len(full):,} with findings do",
                "What gives the place away (scanner, protocol) tells whether there is a finding."
                if what == "site"
                else "Elsewhere false alarms on normal images are neither learned against nor counted.",
                "Collect images without a finding from every site."
                if what == "site"
                else "Spread them over the splits; empty the split column and medmap does.",
                tuple(case.id for case in empty),
                {what: place},
            )


def boxes_per_image(facts: Facts) -> Iterator[Issue]:
    """Images with far more boxes than the others."""
    cases = [case for case in facts.dataset if facts.dataset.task == "detect" and case.truth.boxes]
    if len(cases) < FEWEST:
        return
    counts = np.array([len(case.truth.boxes or ()) for case in cases])
    middle = float(np.median(counts))
    far = unusual(counts.tolist(), COUNT_RATIO) & (counts > middle)
    if 0 < far.sum() <= STANDS_OUT * len(cases):
        odd = [case for case, is_far in zip(cases, far, strict=True) if is_far]
        most = max(odd, key=lambda case: len(case.truth.boxes or ()))
        yield Issue(
            "many_boxes",
            "info",
            f"{counted(len(odd), 'image')} {'has' if len(odd) == 1 else 'have'} far more boxes than the others (median "
            f"{middle:g}): {most.id} has {len(most.truth.boxes or ()):,}",
            "One image weighs as much as many in every metric that counts boxes.",
            "See whether boxes of several images, or of several readers, were joined.",
            tuple(case.id for case in odd),
            {"counts": {case.id: len(case.truth.boxes or ()) for case in odd[:ROWS]}},
        )
