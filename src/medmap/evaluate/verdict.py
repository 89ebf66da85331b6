"""Whether a model does anything at all: one sentence where its numbers say that it is of no or little use."""

from __future__ import annotations

from collections.abc import Sequence

from medmap.evaluate.detections_rows import is_size_group
from medmap.evaluate.outcome import RowOf, last_stage

GUESSING = 0.5  # AUROC of scores that know nothing
SURELY = 0.8  # from this AUROC on a wide interval is one of few cases, which is told elsewhere
LEAST_DICE = 0.5
LEAST_FOUND = 0.2  # of the parts of a structure in the true masks
LEAST_AP = 0.1
SHOWN = 4
_BEGINNINGS = ("These masks are of", "These masks miss", "These boxes are of", "Nothing shows that these scores")


def little_use(rows: Sequence[RowOf]) -> list[str]:
    """Sentences on answers that are hardly better than none; none where all is well.

    Masks: Dice of a structure below 0.5, or fewer than a fifth of its true parts met (a structure that most cases do
    not have has a high Dice of empty masks). Boxes: AP below 0.1 by the mildest rule of overlap. Scores: AUROC below
    0.8 whose 95 % interval reaches down to 0.5. The limits are judgements; what lies above them may still be too poor
    for a purpose. Predicted numbers have no rule here: their baselines say what they are worth.

    Args:
        rows: Of a report or of ``metrics.json``; those of subgroups, of sizes, of other observers and before
            calibration are passed over.

    Example:
        >>> from medmap.metrics import Estimate
        >>> told = little_use([Estimate("dice", 0.08, 0.02, 0.2, 12, "bootstrap", group="nodule")])
        >>> told[0].partition(":")[0]
        'These masks are of little use. Dice is below 0.5 for nodule 0.08 (0.02 to 0.20)'
    """
    found: dict[str, Sequence[RowOf]] = {name: _last(rows, name) for name in ("ap10", "ap50", "auroc")}
    if boxes := found["ap10"] or found["ap50"]:  # images are not what boxes are judged by
        return _of_boxes(boxes)
    return [*_of_masks(rows), *_of_scores(found["auroc"])]


def says_little_use(text: str) -> bool:
    """Whether a warning, of a report or of a bundle, is one of ``little_use``.

    Example:
        >>> says_little_use("These boxes are of little use. AP50 …"), says_little_use("patients are not known")
        (True, False)
    """
    return text.startswith(_BEGINNINGS)


def _of_masks(rows: Sequence[RowOf]) -> list[str]:
    told = []
    if bad := _by_name([row for row in _last(rows, "dice") if (row.value or 0.0) < LEAST_DICE]):
        told.append(
            f"These masks are of little use. Dice is below 0.5 for {_listed(bad)}: of the voxels that lie in the true "
            "mask or in the predicted one, fewer than a third lie in both."
        )
    named = {row.group for row in bad}
    missed = [row for row in _last(rows, "lesion_sensitivity") if (row.value or 0.0) < LEAST_FOUND]
    if named != {"all"} and (left := [row for row in _by_name(missed) if row.group not in named]):
        told.append(
            "These masks miss nearly all that is there. Of the parts in the true masks so many are met at all: "
            f"{_listed(left)}. Where most cases have none, Dice does not show it."
        )
    return told


def _of_boxes(rows: Sequence[RowOf]) -> list[str]:
    poor = [row for row in rows if row.group == "all" and (row.value or 0.0) < LEAST_AP]
    return [
        f"These boxes are of little use. {row.name.upper()}, 1 where all boxes are right and 0 where none is, is "
        f"{_number(row)}."
        for row in poor
    ]


def _of_scores(rows: Sequence[RowOf]) -> list[str]:
    return [
        f"Nothing shows that these scores tell the classes apart. AUROC, 0.5 for guessing, is {_number(row)}."
        for row in rows
        if row.group == "all" and _guessing(row)
    ]


def _last(rows: Sequence[RowOf], name: str) -> list[RowOf]:
    """The rows of a metric that count, one a class or structure, and defined."""
    named = [row for row in rows if row.name == name and row.average is None]
    ours = [row for row in named if "=" not in row.group and not is_size_group(row.group)]
    last = (
        last_stage([row for row in ours if row.group == group]) for group in dict.fromkeys(row.group for row in ours)
    )
    return [row for row in last if row is not None and row.value is not None]


def _by_name(bad: Sequence[RowOf]) -> Sequence[RowOf]:
    """Structures by name where there are any, else what is said of all."""
    return [row for row in bad if row.group != "all"] or bad


def _guessing(row: RowOf) -> bool:
    value = row.value or 0.0
    return value < SURELY and (value if row.low is None else row.low) <= GUESSING


def _listed(rows: Sequence[RowOf]) -> str:
    words = [_number(row) for row in sorted(rows, key=lambda row: row.value or 0.0)[:SHOWN]]
    more = f" and {len(rows) - SHOWN} more" if len(rows) > SHOWN else ""
    return ", ".join(words) + more


def _number(row: RowOf) -> str:
    name = "" if row.group == "all" else f"{row.group} "
    interval = "" if row.low is None or row.high is None else f" ({row.low:.2f} to {row.high:.2f})"
    return f"{name}{row.value:.2f}{interval}"
