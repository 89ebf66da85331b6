"""Whether a model does anything at all: one sentence where its numbers say that it is of no or little use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from medmap.evaluate.detections_rows import is_size_group
from medmap.evaluate.outcome import RowOf, last_stage

GUESSING = 0.5  # AUROC of scores that know nothing
FEWEST_RIGHT = {"dice": 0.5, "ap50": 0.1}
SHOWN = 4


@dataclass(frozen=True)
class _Rule:
    metric: str
    sentence: str

    def broken_by(self, row: RowOf) -> bool:
        """Whether a row tells of no or little use; a value that is not defined tells nothing."""
        if row.value is None:
            return False
        if self.metric in FEWEST_RIGHT:
            return row.value < FEWEST_RIGHT[self.metric]
        return (row.value if row.low is None else row.low) <= GUESSING


_RULES = (
    _Rule(
        "dice",
        "These masks are of little use. Dice is below 0.5 for {}: of the voxels that lie in the true mask or in the "
        "predicted one, fewer than a third lie in both.",
    ),
    _Rule("ap50", "These boxes are of little use. AP50, 1 where every finding is found and 0 where none is, is {}."),
    _Rule(
        "auroc",
        "Nothing shows that these scores tell the classes apart. AUROC, 0.5 for guessing, is {}.",
    ),
)


def little_use(rows: Sequence[RowOf]) -> list[str]:
    """A sentence for each kind of answer that is hardly better than none; none where all is well.

    Masks: Dice of a structure below 0.5. Boxes: AP50 of a class below 0.1. Scores: AUROC whose 95 % interval
    reaches down to 0.5. The limits are judgements; what lies above them may still be too poor for a purpose.

    Args:
        rows: Of a report or of ``metrics.json``; those of subgroups, of other observers and before calibration are
            passed over.

    Example:
        >>> from medmap.metrics import Estimate
        >>> told = little_use([Estimate("dice", 0.08, 0.02, 0.2, 12, "bootstrap", group="nodule")])
        >>> told[0].partition(":")[0]
        'These masks are of little use. Dice is below 0.5 for nodule 0.08 (0.02 to 0.20)'
    """
    told = []
    for rule in _RULES:
        named = [row for row in rows if row.name == rule.metric and row.average is None]
        ours = [row for row in named if "=" not in row.group and not is_size_group(row.group)]
        groups = dict.fromkeys(row.group for row in ours)
        last = [last_stage([row for row in ours if row.group == group]) for group in groups]
        bad = [row for row in last if row is not None and rule.broken_by(row)]
        alone = [row for row in bad if row.group != "all"] or bad
        if alone:
            told.append(rule.sentence.format(_listed(alone)))
    return told


def _listed(rows: Sequence[RowOf]) -> str:
    words = [_number(row) for row in sorted(rows, key=lambda row: row.value or 0.0)[:SHOWN]]
    more = f" and {len(rows) - SHOWN} more" if len(rows) > SHOWN else ""
    return ", ".join(words) + more


def _number(row: RowOf) -> str:
    name = "" if row.group == "all" else f"{row.group} "
    interval = "" if row.low is None or row.high is None else f" ({row.low:.2f} to {row.high:.2f})"
    return f"{name}{row.value:.2f}{interval}"
