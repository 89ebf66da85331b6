"""FROC: how many findings are found at how many false alarms a case, by LUNA16's rule or by overlap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from medmap.errors import UsageError
from medmap.metrics.boxes import MOST_DETECTIONS, BoxList, kept_rows, match_boxes, pairs
from medmap.metrics.inputs import Bools, Floats, Ints, Patients
from medmap.metrics.intervals import Interval, student

RATES = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)  # false alarms a case at which LUNA16 reads the curve
HitBy = Literal["centre", "iou"]
MISSED = -np.inf
HIT, DOUBLE, SPARED, ALARM, UNSEEN = range(5)  # what becomes of a found box
OUTCOMES = ("hit", "double", "ignored", "false alarm", "not looked at")
_LOOSE_3D, _LOOSE_2D = 0.1, 0.5


@dataclass(frozen=True)
class HitRule:
    """When a box has found a finding.

    Args:
        by: ``centre``: its centre lies nearer to the finding's than half the finding's diameter (LUNA16). Several
            boxes on one finding count once, and the others are no false alarms. ``iou``: it overlaps the finding, the
            surest box first, and each finding once (COCO); a second box on it is a false alarm.
        iou: Intersection over union from which it does, in (0, 1]; not looked at with ``centre``.

    Raises:
        UsageError: An unknown rule, an overlap out of range.

    Example:
        >>> str(HitRule()), str(HitRule("iou", 0.5))
        ('centre', 'iou 0.5')
    """

    by: HitBy = "centre"
    iou: float = _LOOSE_3D

    def __post_init__(self) -> None:
        if self.by not in get_args(HitBy) or not 0 < self.iou <= 1:
            raise UsageError("unknown rule of hits", got=f"{self.by}, {self.iou}", expected="centre, or iou in 0 … 1")

    def __str__(self) -> str:
        return self.by if self.by == "centre" else f"iou {self.iou:g}"

    @classmethod
    def parse(cls, text: str) -> HitRule:
        """The rule that ``str`` wrote.

        Raises:
            UsageError: No such rule.
        """
        by, _, share = text.partition(" ")
        try:
            return cls(by, float(share) if share else _LOOSE_3D)  # type: ignore[arg-type]
        except ValueError as error:
            raise UsageError("unknown rule of hits", got=repr(text), expected="centre, or iou and a share") from error

    @classmethod
    def usual(cls, ndim: int, sized: bool) -> HitRule:
        """By the centre in volumes with millimetres; else by overlap: 0.5 in a plane, 0.1 in a volume (nnDetection)."""
        return cls("iou", _LOOSE_2D) if ndim == 2 else cls() if sized else cls("iou", _LOOSE_3D)


@dataclass(frozen=True, eq=False)
class Hits:
    """What became of every true and every found box.

    Args:
        scores: (n,) of the surest box on each true box; −inf where it was missed.
        by: (n,) row of that found box, −1 where there is none.
        outcomes: (m,) of each found box: HIT, DOUBLE, SPARED (on an ignored one), ALARM, UNSEEN (beyond the number of
            boxes that are looked at).
        truth: (m,) row of the true box that a hit, a double or a spared box lies on, −1 for none.
    """

    scores: Floats
    by: Ints
    outcomes: Ints
    truth: Ints


def find_hits(found: BoxList, true: BoxList, rule: HitRule | None = None, *, most: int = MOST_DETECTIONS) -> Hits:
    """Hold found boxes against the true ones of the same case and class.

    Args:
        found: With scores, and centres in the unit of the true boxes' diameters.
        true: Ignored ones spare a found box from being a false alarm, and are not missed.
        rule: When a box is a hit; by the centre when absent.
        most: Boxes of a class in a case that are looked at, the surest.

    Raises:
        UsageError: Boxes of other numbers of axes.

    Source: Setio et al., Med. Image Anal. 42:1–13 (2017), with its script ``noduleCADEvaluationLUNA16``; by overlap:
    Baumgartner et al., nnDetection, MICCAI (2021).

    Example:
        >>> true = BoxList([0], [[0, 0, 9, 9]], [0])
        >>> found = BoxList([0, 0], [[2, 2, 11, 11], [30, 30, 39, 39]], [0, 0], [0.6, 0.9])
        >>> hits = find_hits(found, true)
        >>> hits.scores.tolist(), [OUTCOMES[o] for o in hits.outcomes]
        ([0.6], ['hit', 'false alarm'])
    """
    if found.ndim != true.ndim:
        raise UsageError("found and true boxes have other axes", got=found.ndim, expected=true.ndim)
    given = rule or HitRule()
    return _by_overlap(found, true, given.iou, most) if given.by == "iou" else _by_centre(found, true, most)


def _by_centre(found: BoxList, true: BoxList, most: int) -> Hits:
    rows, _ = kept_rows(found, most)
    outcomes, truth = np.full(len(found), UNSEEN), np.full(len(found), -1)
    outcomes[rows] = ALARM
    scores, by = np.full(len(true), MISSED), np.full(len(true), -1)
    for which, whom in pairs(found, true, rows):
        apart = ((found.centres[rows[which]] - true.centres[whom]) ** 2).sum(axis=1)
        inside = apart < (true.diameters[whom] / 2) ** 2
        box, finding, apart = rows[which[inside]], whom[inside], apart[inside]
        spared = true.ignored[finding]
        order = np.lexsort((-apart, ~spared))  # the last one written stays: a finding, the nearest
        truth[box[order]] = finding[order]
        outcomes[box[order]] = np.where(spared[order], SPARED, DOUBLE)
        # a finding's boxes come the surest first, also from block to block: written backwards, it stays
        new = ~spared & (by[finding] < 0)
        by[finding[new][::-1]] = box[new][::-1]
    there = by >= 0
    scores[there] = found.scores[by[there]]
    outcomes[by[there]] = HIT
    return Hits(scores, by, outcomes, truth)


def _by_overlap(found: BoxList, true: BoxList, iou: float, most: int) -> Hits:
    matches = match_boxes(found, true, [iou], most=most)
    outcomes, truth = np.full(len(found), UNSEEN), np.full(len(found), -1)
    truth[matches.rows] = matches.truth[0]
    outcomes[matches.rows] = np.where(matches.ignored[0], SPARED, np.where(matches.hit[0], HIT, ALARM))
    scores, by = np.full(len(true), MISSED), np.full(len(true), -1)
    right = matches.rows[matches.hit[0]]
    scores[truth[right]], by[truth[right]] = found.scores[right], right
    return Hits(scores, by, outcomes, truth)


@dataclass(frozen=True, eq=False)
class FrocCurve:
    """Corners of a FROC curve, from nothing called to every box.

    Args:
        alarms: (k,) false alarms a case, rising.
        sensitivity: (k,) share of the findings that are found, rising.
        thresholds: (k,) score from which a box is called; the first is infinite.
    """

    alarms: Floats
    sensitivity: Floats
    thresholds: Floats

    def at(self, rates: Sequence[float] = RATES) -> Floats:
        """Sensitivity at these false alarms a case: linear between corners, beyond the last as it is there (LUNA16)."""
        return np.asarray(np.interp(rates, self.alarms, self.sensitivity))


class RankedFindings:
    """Findings and false alarms in the order of their scores, ready to be weighed again and again.

    Args:
        finding_scores: (n,) of the surest box on each finding; −inf where it was missed.
        finding_codes: (n,) whose weight each takes.
        alarm_scores: (f,) of the false alarms.
        alarm_codes: (f,) whose weight each takes.
        case_codes: (c,) whose weight each case takes, those without finding and box too.
        count: How many weights there are.
    """

    def __init__(
        self,
        finding_scores: Floats,
        finding_codes: Ints,
        alarm_scores: Floats,
        alarm_codes: Ints,
        case_codes: Ints,
        count: int,
    ) -> None:
        found = np.isfinite(finding_scores)
        self._findings = np.bincount(finding_codes, minlength=count).astype(np.float64)
        self._cases = np.bincount(case_codes, minlength=count).astype(np.float64)
        right, wrong = np.argsort(-finding_scores[found], kind="stable"), np.argsort(-alarm_scores, kind="stable")
        self._right, self._wrong = finding_codes[found][right], alarm_codes[wrong]
        rights, wrongs = finding_scores[found][right], alarm_scores[wrong]
        self.thresholds = np.unique(np.concatenate([rights, wrongs]))[::-1]
        self._rights_to = np.searchsorted(-rights, -self.thresholds, side="right")
        self._wrongs_to = np.searchsorted(-wrongs, -self.thresholds, side="right")

    @property
    def cells(self) -> int:
        """Numbers that one set of weights is spread over."""
        return len(self._right) + len(self._wrong)

    @property
    def findings(self) -> int:
        """Findings there are."""
        return int(self._findings.sum())

    def _corners(self, weights: NDArray[np.floating]) -> tuple[Floats, Floats]:
        sums = []
        for codes, to, total in (
            (self._wrong, self._wrongs_to, weights @ self._cases),
            (self._right, self._rights_to, weights @ self._findings),
        ):
            running = np.zeros((len(weights), len(codes) + 1))
            np.cumsum(weights[:, codes], axis=1, dtype=np.float64, out=running[:, 1:])
            corners = np.zeros((len(weights), len(to) + 1))
            with np.errstate(divide="ignore", invalid="ignore"):
                corners[:, 1:] = running[:, to] / total[:, None]
            sums.append(corners)
        return sums[0], sums[1]

    def curve(self) -> FrocCurve:
        """The curve of the cases as they are; sensitivity is 0 where there is nothing to find."""
        alarms, sensitivity = self._corners(np.ones((1, len(self._cases))))
        return FrocCurve(alarms[0], np.nan_to_num(sensitivity[0]), np.append(np.inf, self.thresholds))

    def weighted(self, weights: NDArray[np.floating], rates: Sequence[float] = RATES) -> Floats:
        """(draws, rates) sensitivity at these false alarms a case; NaN where a draw holds nothing to find.

        Args:
            weights: (draws, count).
            rates: False alarms a case.
        """
        found = np.full((len(weights), len(rates)), np.nan)
        step = max(1, 400_000 // max(self.cells, 1))
        for start in range(0, len(weights), step):
            drawn = weights[start : start + step]
            there = drawn @ self._findings > 0
            for row, (x, y) in enumerate(zip(*self._corners(drawn), strict=True)):
                if there[row]:
                    found[start + row] = np.interp(rates, x, y)
        return found

    def values(self, rates: Sequence[float] = RATES) -> Floats:
        """(rates,) sensitivity of the cases as they are; NaN where there is nothing to find."""
        return np.asarray(self.weighted(np.ones((1, len(self._cases))), rates)[0])


def rank_findings(hits: Hits, found: BoxList, true: BoxList, seen: Bools, who: Patients) -> RankedFindings:
    """Findings and false alarms of some cases and classes, ready for the curve.

    Args:
        hits: What became of the boxes.
        found: The found boxes.
        true: The true ones.
        seen: (cases, classes) whether a class was looked for in a case; a case counts where any was.
        who: Patient of each case.
    """
    wanted = ~true.ignored & seen[true.cases, true.labels]
    alarms = (hits.outcomes == ALARM) & seen[found.cases, found.labels]
    return RankedFindings(
        hits.scores[wanted],
        who.codes[true.cases[wanted]],
        found.scores[alarms],
        who.codes[found.cases[alarms]],
        who.codes[np.flatnonzero(seen.any(axis=1))],
        who.count,
    )


def froc_curve(hits: Hits, found: BoxList, true: BoxList, cases: int) -> FrocCurve:
    """Sensitivity against false alarms a case, all classes together.

    Args:
        hits: What became of the boxes (``find_hits``).
        found: The found boxes.
        true: The true ones.
        cases: How many cases were looked at, those without finding and box too.

    Raises:
        UsageError: A box of a case beyond these.

    Source: Bunch et al., Proc. SPIE 127:124–135 (1977); Setio et al., Med. Image Anal. 42:1–13 (2017).

    Example:
        >>> true = BoxList([0, 1], [[0, 0, 9, 9], [5, 5, 14, 14]], [0, 0])
        >>> found = BoxList([0, 0], [[0, 0, 9, 9], [30, 30, 39, 39]], [0, 0], [0.9, 0.8])
        >>> curve = froc_curve(find_hits(found, true), found, true, 4)
        >>> curve.alarms.tolist(), curve.sensitivity.tolist()
        ([0.0, 0.0, 0.25], [0.0, 0.5, 0.5])
    """
    last = max(found.cases.max(initial=-1), true.cases.max(initial=-1))
    if last >= cases:
        raise UsageError("a box lies in a case that was not counted", got=int(last), expected=f"0 … {cases - 1}")
    classes = 1 + max(found.labels.max(initial=0), true.labels.max(initial=0))
    seen = np.ones((cases, classes), dtype=np.bool_)
    return rank_findings(hits, found, true, seen, Patients.of(None, cases)).curve()


def jackknife(value: float, without: Floats) -> Interval | None:
    """95 % interval of a share from its values with each patient left out in turn; None below two patients.

    Args:
        value: The estimate, 0 … 1.
        without: (patients,) the estimate without each.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 11.

    Example:
        >>> [round(end, 3) for end in jackknife(0.8, np.array([0.75, 0.8, 0.85, 0.8]))]
        [0.605, 0.995]
    """
    known = without[np.isfinite(without)]
    if len(known) < 2:
        return None
    n = len(known)
    half = student(n - 1) * float(np.sqrt((n - 1) / n * ((known - known.mean()) ** 2).sum()))
    return max(0.0, value - half), min(1.0, value + half)
