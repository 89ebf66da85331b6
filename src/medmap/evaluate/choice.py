"""The best of several finished runs, by the cases that were held out while each was trained."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field

from medmap.bundle import Bundle
from medmap.config import Section
from medmap.errors import DataError, UsageError, counted
from medmap.evaluate.candidates import HELD_OUT, Candidate, candidate, differing, in_words, require_alike
from medmap.evaluate.compare import aligned, difference_cells, shown
from medmap.evaluate.folders import compare_any
from medmap.evaluate.looks import LOG
from medmap.evaluate.names import LOWER_IS_BETTER, SIGNED
from medmap.evaluate.outcome import MetricRow
from medmap.evaluate.verdict import little_use
from medmap.metrics import Comparison

CHANCE = 0.05  # from this p value on, a difference is called one that chance may give
ROUNDING = 1e-6  # between a score that was written down and one that is computed again
WIDE, MOST = 40, 12  # characters of a setting, and settings, that the text has room for
FILE = "choice.json"


@dataclass(frozen=True, eq=False)
class Ranked:
    """One of the runs.

    Args:
        run: Its folder.
        bundle: Its bundle.
        score: The metric that was chosen by, with its interval.
        difference: The run less the best one, on the same cases; None for the best one itself.
        weights: Numbers that all its networks hold together.
        settings: Those of its settings that are not the same in all runs.
    """

    run: str
    bundle: Bundle
    score: MetricRow
    difference: Comparison | None
    weights: int
    settings: Mapping[str, Any]

    @property
    def value(self) -> float:
        """The score."""
        return float("nan") if self.score.value is None else self.score.value

    @property
    def within_chance(self) -> bool:
        """Whether a test says that chance may give the difference to the best run."""
        return self.difference is not None and self.difference.p is not None and self.difference.p >= CHANCE

    @property
    def networks(self) -> int:
        """Members of the bundle."""
        return len(self.bundle.spec.members)

    def as_json(self) -> dict[str, Any]:
        """Plain values for a file."""
        gap = None if self.difference is None else self.difference.as_json()
        return {
            "run": self.run,
            "bundle": self.bundle.digest,
            "network": in_words(self.bundle.spec),
            "networks": self.networks,
            "weights": self.weights,
            "value": self.score.value,
            "low": self.score.low,
            "high": self.score.high,
            "n": self.score.n,
            "less_the_best": None
            if gap is None
            else {key: gap.get(key) for key in ("difference", "low", "high", "p", "n", "method", "reason")},
            "settings": dict(self.settings),
        }


@dataclass(frozen=True, eq=False)
class Choice:
    """Runs in the order of a score, the best first, and how sure that order is.

    Args:
        by: The metric.
        task: What the runs were trained for.
        split: ``oof`` or ``val``.
        cases: Cases that all runs were judged on.
        patients: Their patients.
        ranked: The runs, the best first; of equal ones the smallest.
        warnings: What a reader must know, in sentences.
    """

    by: str
    task: str
    split: str
    cases: int
    patients: int
    ranked: tuple[Ranked, ...]
    warnings: tuple[str, ...] = ()

    @property
    def best(self) -> Ranked:
        """The run with the best score."""
        return self.ranked[0]

    @property
    def lower_is_better(self) -> bool:
        """Whether a smaller score is a better one."""
        return self.by in LOWER_IS_BETTER

    @property
    def better_than_next(self) -> bool | None:
        """Whether the best run is better than the next one by more than chance may give; None where no test says."""
        gap = self.ranked[1].difference
        if gap is None or gap.p is None or gap.difference is None:
            return None
        return gap.p < CHANCE and (gap.difference > 0) == self.lower_is_better

    @property
    def alternative(self) -> Ranked | None:
        """The smallest run that is within chance of the best and smaller than it, or None."""
        smaller = [one for one in self.ranked[1:] if one.within_chance and one.weights < self.best.weights]
        return min(smaller, key=lambda one: (one.weights, one.networks), default=None)

    @property
    def verdict(self) -> tuple[str, ...]:
        """Sentences: whether the best is really better than the next, and what else might be taken."""
        told = [self._beside_the_next()]
        other = self.alternative
        if other is not None:
            told.append(
                f"{other.run} is smaller ({_size(other)} against {_size(self.best)} weights) and within chance of the "
                "best: take it where memory or time count."
            )
        return tuple(told)

    def _beside_the_next(self) -> str:
        best, second = self.ranked[:2]
        scores = f"{self.by} {shown(best.value)} against {shown(second.value)}"
        gap = second.difference
        if gap is None or self.better_than_next is None:
            why = "no test" if gap is None else gap.reason
            return (
                f"{best.run} has the best score, but whether by more than chance over {second.run} is not known "
                f"({scores}): {why}."
            )
        difference, interval, p = difference_cells(gap)
        found = f"{scores}; difference {difference}, 95 % interval {interval}, p {p if p.startswith('<') else '= ' + p}"
        if self.better_than_next:
            return f"{best.run} is better than {second.run}, the next ({found})."
        if _rounded(best.value) == _rounded(second.value):
            which = "smaller" if (best.weights, best.networks) < (second.weights, second.networks) else "first"
            return f"{best.run} and {second.run} have the same score: the {which} one is chosen ({found})."
        return f"{best.run} has the best score, but within chance of {second.run}, the next ({found})."

    def as_json(self) -> dict[str, Any]:
        """``choice.json`` as plain values."""
        return {
            "medmap_choice": 1,
            "task": self.task,
            "split": self.split,
            "by": self.by,
            "better": "lower" if self.lower_is_better else "higher",
            "cases": self.cases,
            "patients": self.patients,
            "chosen": self.best.run,
            "bundle": self.best.bundle.digest,
            "better_than_next": self.better_than_next,
            "alternative": None if self.alternative is None else self.alternative.run,
            "runs": [one.as_json() for one in self.ranked],
            "verdict": list(self.verdict),
            "warnings": list(self.warnings),
        }

    def as_text(self) -> str:
        """The table for the terminal."""
        head = ("run", "network", "weights", self.by, "95 % interval", "less the best", "95 % interval", "p")
        better = "less" if self.lower_is_better else "more"
        lines = [
            f"{counted(len(self.ranked), 'run')} by {self.by} ({better} is better), {counted(self.cases, 'case')} of "
            f"{counted(self.patients, 'patient')}, {HELD_OUT[self.split]}",
            "",
            *aligned([head, *(_cells(one) for one in self.ranked)]),
        ]
        if self.best.settings:
            lines += ["", "settings that differ, in the same order:", *self._settings()]
        return "\n".join(lines)

    def _settings(self) -> list[str]:
        """The settings that differ, as many as a person reads and as short as a line bears."""
        names = self.best.settings
        each = {name: [json.dumps(one.settings[name], ensure_ascii=False) for one in self.ranked] for name in names}
        narrow = [f"{name}: {' | '.join(texts)}" for name, texts in each.items() if max(map(len, texts)) <= WIDE]
        left = len(each) - len(narrow[:MOST])
        return [*narrow[:MOST], *([f"and {left} more: --json shows them"] if left else [])]

    def save(self, folder: str | Path) -> Bundle:
        """Copy the chosen bundle to ``folder/bundle``, with ``choice.json`` beside it, all of it or nothing.

        The copy has the bytes and the digest of the original. Looks at test cases that were written down so far go
        with it.

        Args:
            folder: Must not exist, or be empty.

        Raises:
            BundleError: The folder is taken, or the disk is full or not writable.
        """
        text = json.dumps(self.as_json(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        beside = {FILE: text.encode("utf-8", "backslashreplace")}
        log = self.best.bundle.path.parent / LOG
        if log.is_file():
            beside[LOG] = log.read_bytes()
        return self.best.bundle.copied(folder, beside)


def choose_run(runs: Sequence[str | Path], by: str | None = None) -> Choice:
    """Rank finished runs by how they did on the cases held out while they were trained, and choose the best.

    Only the evaluations that training left are looked at, out of fold or of the validation split: test cases stay
    unseen. The differences are tested as ``compare`` does, patients drawn together or by the paired test of the metric.

    Args:
        runs: Two or more folders that ``medmap train`` wrote, on the same cases and folds.
        by: A metric over all classes or structures; the task's main one when absent (AUROC, Dice, AP50; mean absolute
            error of numbers).

    Raises:
        UsageError: Fewer than two runs, the same bundle twice, a metric that they do not have or that has no better
            and worse.
        ReadError: A folder that is no run.
        DataError: A run that is not finished or not judged on held-out cases; runs that were not judged alike.
        BundleError: A bundle that is changed or incomplete.

    Example:
        ``mm.choose_run(["runs/fine", "runs/coarse"]).save("chosen")``
    """
    if len(runs) < 2:
        raise UsageError("one run leaves nothing to choose", got=counted(len(runs), "run"), expected="two or more")
    found = [candidate(folder) for folder in runs]
    require_alike(found)
    name = by or found[0].main
    if name is None:
        raise UsageError(f"no main score of {found[0].metrics.task} is known", remedy="name a metric: --by")
    rows = {one.name: _score(one, name, found) for one in found}
    sizes = {one.name: one.bundle.weight_count for one in found}
    settings = {one.name: more for one, more in zip(found, differing(found), strict=True)}
    sign = 1 if name in LOWER_IS_BETTER else -1

    def order(one: Candidate) -> tuple[float, int, int]:
        return sign * _rounded(rows[one.name].value or 0.0), sizes[one.name], len(one.bundle.spec.members)

    best, *others = sorted(found, key=order)
    gaps = {other.name: _difference(other, best, name, rows) for other in others}
    ranked = tuple(
        Ranked(one.name, one.bundle, rows[one.name], gaps.get(one.name), sizes[one.name], settings[one.name])
        for one in (best, *others)
    )
    first = best.metrics
    told = tuple(_warnings(best, found, name))
    return Choice(name, first.task, first.split, first.cases, first.patients, ranked, told)


def _score(run: Candidate, name: str, found: Sequence[Candidate]) -> MetricRow:
    if name in SIGNED:
        raise UsageError(f"of {name} neither more nor less is better", remedy="choose by another metric")
    if name not in run.scores:
        common = [known for known in found[0].scores if all(known in one.scores for one in found)]
        raise UsageError(
            f"{run.name} has no metric of that name over all cases",
            got=repr(name),
            expected=", ".join(known for known in common if known not in SIGNED),
        )
    row = run.scores[name]
    if row.value is None:
        raise DataError(f"{name} is not defined in {run.name}", got=row.reason, remedy="choose by another metric")
    return row


def _difference(run: Candidate, best: Candidate, name: str, rows: Mapping[str, MetricRow]) -> Comparison:
    """The run less the best one, from what ``compare`` finds; a reason where it has no test of the metric."""
    try:
        report = compare_any(run.table, best.table, run.name, best.name)
    except DataError as error:
        raise DataError(
            f"{run.name} and {best.name} cannot be compared: {error.what}",
            got=error.got,
            expected=error.expected,
            remedy=error.remedy,
            case=error.case,
        ) from error
    ours, theirs = (rows[one.name].value or 0.0 for one in (run, best))
    tested = next((row for row in report.rows if (row.name, row.group) == (name, "all")), None)
    if tested is None:
        reason = f"there is no paired test of {name}"
        return Comparison(name, "all", ours, theirs, ours - theirs, None, None, None, rows[run.name].n, None, reason)
    if name == run.main:  # other metrics may be defined in some cases of one run alone
        for one, said, follows in ((run, ours, tested.a), (best, theirs, tested.b)):
            if follows is None or abs(said - follows) > ROUNDING:
                raise DataError(
                    f"metrics.json and predictions.csv in {one.name}/evaluation do not belong together",
                    got=f"{name} {said:.6g}",
                    expected=f"{shown(follows)}, which follows from predictions.csv",
                    remedy="train the run again",
                )
    return tested


def _warnings(best: Candidate, found: Sequence[Candidate], name: str) -> list[str]:
    told = [
        f"The {name} of {best.name} is the best of {len(found)} on the cases that chose it, so it is optimistic. How "
        "good the chosen bundle is, only test cases tell: medmap evaluate … --split test."
    ]
    told += little_use(best.metrics.metrics)
    if len(found) > 2:
        told.append("Each p value is of one pair alone; among several, one is small by chance more easily.")
    if failed := {failure.case: failure.reason for run in found for failure in run.metrics.failed}:
        case, reason = next(iter(failed.items()))
        more = f" and {len(failed) - 1} more" if len(failed) > 1 else ""
        told.append(f"Cases that could not be evaluated are missing from every score: {case} ({reason}){more}.")
    for run in found:
        planned = (run.bundle.spec.run.get("ensemble") or {}).get("members")
        if planned and len(run.bundle.spec.members) < planned:
            told.append(f"{run.name} has {len(run.bundle.spec.members)} of the {planned} networks it was planned with.")
    if looked := [run.name for run in found if run.looks]:
        told.append(
            f"Test cases were looked at already with {', '.join(looked)}: whoever chooses with that in mind has no "
            "test set any more."
        )
    return told


def _rounded(value: float) -> float:
    """A score as it is ranked: what differs by less than rounding is equal."""
    return round(value, 9)


def _size(one: Ranked) -> str:
    return f"{one.weights / 1e6:.2f} million" if one.weights >= 1e5 else f"{one.weights:,}"


def _cells(one: Ranked) -> tuple[str, ...]:
    interval = "–" if one.score.low is None else f"{shown(one.score.low)} to {shown(one.score.high)}"
    gap = ("–", "–", "–") if one.difference is None else difference_cells(one.difference)
    networks = f"{one.networks} × " if one.networks > 1 else ""
    return one.run, networks + in_words(one.bundle.spec), _size(one), shown(one.value), interval, *gap


# ----------------------------------------------------------------------------------------------------- choice.json


class Gap(Section):
    """A run less the best one, on the same cases."""

    difference: float | None
    low: float | None
    high: float | None
    p: float | None
    n: int = Field(ge=0)
    method: str | None
    reason: str | None


class ChosenAmong(Section):
    """One of the runs, the best first."""

    run: str
    bundle: str
    network: str
    networks: int = Field(ge=1)
    weights: int = Field(ge=0)
    value: float
    low: float | None
    high: float | None
    n: int = Field(ge=0)
    less_the_best: Gap | None
    settings: dict[str, Any]


class ChoiceFile(Section):
    """``choice.json``: which run was chosen, among which, by what. Readers ignore keys they do not know."""

    model_config = ConfigDict(extra="allow")

    medmap_choice: Literal[1]
    task: str
    split: Literal["oof", "val"]
    by: str
    better: Literal["higher", "lower"]
    cases: int = Field(ge=0)
    patients: int = Field(ge=0)
    chosen: str
    bundle: str
    better_than_next: bool | None
    alternative: str | None
    runs: tuple[ChosenAmong, ...] = Field(min_length=2)
    verdict: tuple[str, ...]
    warnings: tuple[str, ...]


def choice_schema() -> dict[str, Any]:
    """The JSON Schema of ``choice.json``."""
    return ChoiceFile.model_json_schema()
