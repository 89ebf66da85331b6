"""Finished runs that one is chosen from: whole, judged on cases held out of training, and all judged alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medmap.bundle import Bundle, BundleSpec
from medmap.errors import DataError, ReadError, UsageError, counted
from medmap.evaluate.folders import read_table
from medmap.evaluate.looks import LOG
from medmap.evaluate.outcome import MetricRow, MetricsFile, Table, last_stage, read_metrics
from medmap.evaluate.structures import StructureTable

MAIN = {"classify": "auroc", "segment": "dice", "detect": "ap50"}  # task → the score that it is judged by
HELD_OUT = {"oof": "out of fold", "val": "validation split"}
NAMED = 5  # cases that a refusal names
# settings of a run.yaml that change where and how long it runs, not what is learned
_ASIDE = ("reasons", "budget_s", "memory_bytes", "device")
_NO_RUN = "give the folder that medmap train wrote"


@dataclass(frozen=True, eq=False)
class Candidate:
    """A finished run, with the evaluation that its training left.

    Args:
        name: The run's folder, as it was given.
        bundle: Its bundle, verified.
        metrics: What ``evaluation/metrics.json`` says.
        table: What ``evaluation/predictions.csv`` holds.
        looks: How often the run's bundle was judged on test cases.
    """

    name: str
    bundle: Bundle
    metrics: MetricsFile
    table: Table
    looks: int = 0

    @property
    def main(self) -> str | None:
        """The score that the task is judged by; None where none is known."""
        if (self.metrics.model_extra or {}).get("kind") == "regression":
            return "mae"
        return MAIN.get(self.metrics.task)

    @property
    def scores(self) -> dict[str, MetricRow]:
        """Name → row, of the metrics over all classes or structures."""
        named: dict[str, list[MetricRow]] = {}
        for row in self.metrics.metrics:
            if row.group == "all" and row.average is None:
                named.setdefault(row.name, []).append(row)
        found = {name: last_stage(rows) for name, rows in named.items()}
        return {name: row for name, row in found.items() if row is not None}

    @property
    def folds(self) -> dict[str, int | None]:
        """Case → the fold whose network judged it, None for all on a validation split."""
        return dict(zip(self.table.cases, self.table.folds, strict=True))

    @property
    def units(self) -> set[str]:
        """What was judged, each in words: a case, or a structure of a case."""
        if not isinstance(self.table, StructureTable):
            return set(self.table.cases)
        own = self.table.of()
        return {f"{score.structure} of {case}" for case, score in zip(own.cases, own.scores, strict=True)}

    @property
    def settings(self) -> dict[str, Any]:
        """The run's settings by dotted name."""
        return dict(_flat({key: value for key, value in self.bundle.spec.run.items() if key not in _ASIDE}))


def candidate(folder: str | Path) -> Candidate:
    """Open a finished run.

    Args:
        folder: What ``medmap train`` wrote.

    Raises:
        ReadError: No run, or an evaluation that cannot be read.
        DataError: A run that is not finished, was not judged, or whose evaluation is of test cases, of cases that it
            learned from or of another bundle.
        BundleError: A bundle that is changed or incomplete.
    """
    path = Path(folder)
    _require_finished(path)
    bundle = Bundle.load(path)
    metrics = read_metrics(path / "evaluation")
    _require_held_out(path, metrics, bundle.spec)
    if metrics.bundle != bundle.digest:
        raise DataError(
            f"the evaluation in {path} is of another bundle than the one beside it",
            got=metrics.bundle or "several",
            expected=bundle.digest,
            remedy="train the run again",
        )
    table = read_table(path / "evaluation")
    if len(set(table.cases)) != metrics.cases:
        raise DataError(
            f"metrics.json and predictions.csv in {path / 'evaluation'} are of different cases",
            got=f"{len(set(table.cases))} in predictions.csv",
            expected=f"{metrics.cases}, as metrics.json says",
            remedy="train the run again",
        )
    return Candidate(str(folder), bundle, metrics, table, _looks(path))


def require_alike(runs: Sequence[Candidate]) -> None:
    """Refuse runs that do not answer the same question, or were not judged on the same cases in the same way.

    Raises:
        DataError: Another task, other classes, regions, splits, folds, rules or cases; says which.
        UsageError: One run, or the same bundle twice.
    """
    if len(runs) < 2:
        raise UsageError("one run leaves nothing to choose", got=counted(len(runs), "run"), expected="two or more")
    seen: dict[str, str] = {}
    for run in runs:
        if run.bundle.digest in seen:
            raise UsageError(f"{seen[run.bundle.digest]} and {run.name} are the same bundle", remedy="give it once")
        seen[run.bundle.digest] = run.name
    first = runs[0]
    for other in runs[1:]:
        _same_question(first, other)
        _same_cases(first, other)
        _same_folds(first, other)


def differing(runs: Sequence[Candidate]) -> list[dict[str, Any]]:
    """Of each run the settings that are not the same in all; None where a run has no such setting."""
    each = [run.settings for run in runs]
    names = dict.fromkeys(name for settings in each for name in settings)
    kept = [name for name in names if any(one.get(name) != each[0].get(name) for one in each)]
    return [{name: one.get(name) for name in kept} for one in each]


def in_words(spec: BundleSpec) -> str:
    """A bundle's network and what it looks at.

    Args:
        spec: What the bundle says of itself.
    """
    network, prepare = spec.members[0].network, spec.run.get("prepare") or {}
    words = str(network.get("name", "network"))
    if network.get("width", 1) != 1:
        words += f", width {network['width']:g}"
    if network.get("slices"):
        words += f", {network['slices']} slices"
    shape = " × ".join(str(side) for side in prepare.get("shape") or network.get("input_shape") or ())
    spacing = " × ".join(f"{value:.3g}" for value in prepare.get("spacing_mm") or ())
    return ", ".join(part for part in (words, shape + (f" of {spacing} mm" if spacing else "")) if part)


# ---------------------------------------------------------------------------------------------------------- one run


def _require_finished(path: Path) -> None:
    if not path.is_dir():
        got = "a file" if path.exists() else "nothing: it does not exist"
        raise ReadError(f"{path} is no run", got=got, expected="the folder of a finished run", remedy=_NO_RUN)
    if not (path / "bundle").is_dir() and (path / "metrics.json").is_file():
        raise ReadError(
            f"{path} is an evaluation, not a run: runs are chosen by the evaluation that training leaves in them; one "
            "chosen by its test result leaves the test worthless",
            remedy=_NO_RUN,
        )
    if not (path / "run.yaml").is_file() and not (path / "bundle").is_dir():
        got = "a bundle" if (path / "spec.json").is_file() else "a folder without run.yaml and bundle/"
        raise ReadError(f"{path} is no run", got=got, expected="the folder of a finished run", remedy=_NO_RUN)
    if not (path / "bundle").is_dir() or (path / "checkpoint" / "current.json").exists():
        raise DataError(
            f"the run {path} is not finished", remedy="finish it: medmap train with the same dataset and --resume"
        )
    if not (path / "evaluation" / "metrics.json").is_file():
        raise DataError(
            f"the run {path} was not judged: it has no evaluation",
            remedy="finish it with --resume, or train with folds or cases in the validation split",
        )


def _require_held_out(path: Path, metrics: MetricsFile, spec: BundleSpec) -> None:
    """Only cases that were held out of training, and are no test cases, may choose."""
    where = path / "evaluation"
    if metrics.split in ("test", "all"):
        raise DataError(
            f"{where} is an evaluation of the split {metrics.split}: choosing by test cases would make the test "
            "worthless",
            got=metrics.split,
            expected="oof or val",
            remedy="train the run again, and write evaluations of test cases elsewhere (-o)",
        )
    folds = (spec.run.get("ensemble") or {}).get("folds")
    expected = ("oof", "val") if folds is None else ("oof",) if folds else ("val",)
    if metrics.split not in expected:
        raise DataError(
            f"{where} is an evaluation of cases that the networks learned from",
            got=f"the split {metrics.split}",
            expected=" or ".join(expected),
            remedy="train the run again, and write other evaluations elsewhere (-o)",
        )


def _looks(path: Path) -> int:
    log = path / LOG
    return len(log.read_bytes().splitlines()) if log.is_file() else 0


def _flat(block: Mapping[str, Any], above: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in block.items():
        if isinstance(value, Mapping):
            found += _flat(value, f"{above}{key}.")
        else:
            found.append((f"{above}{key}", value))
    return found


# ---------------------------------------------------------------------------------------------------------- two runs


def _same_question(first: Candidate, other: Candidate) -> None:
    one, two = first.bundle.spec, other.bundle.spec
    regions = [spec.provenance.get("regions") for spec in (one, two)]
    rules = [(run.metrics.model_extra or {}).get("rules") for run in (first, other)]
    positive = [None if spec.positive is None else spec.labels[spec.positive].name for spec in (one, two)]
    labels = [", ".join(sorted(label.name for label in spec.labels)) for spec in (one, two)]
    splits = [HELD_OUT[run.metrics.split] for run in (first, other)]
    for what, (ours, theirs), remedy in (
        ("are of different tasks", (one.task, two.task), "give runs of one task"),
        ("have different kinds of classes", (one.kind, two.kind), "give runs of one dataset"),
        ("have different classes", labels, "give runs of one dataset"),
        ("have different positive classes", positive, "give runs of one dataset"),
        ("have different regions", regions, "give runs of one dataset"),
        ("were not judged in the same way", splits, "train both with the same --folds"),
        ("were judged by different rules", rules, "judge both by one rule"),
    ):
        if ours != theirs:
            raise DataError(
                f"{first.name} and {other.name} {what}",
                got=f"{theirs} in {other.name}",
                expected=f"{ours}, as in {first.name}",
                remedy=remedy,
            )


def _same_cases(first: Candidate, other: Candidate) -> None:
    said = []
    for one, two in ((first, other), (other, first)):
        # cases are named before their structures are
        only = sorted(one.folds.keys() - two.folds.keys()) or sorted(one.units - two.units)
        if only:
            failed = {failure.case: failure.reason for failure in two.metrics.failed}
            why = f" ({failed[only[0]].rstrip('.')})" if only[0] in failed else ""
            said.append(f"only in {one.name}: {only[0]}{why}{_more(only)}")
    if said:
        raise DataError(
            f"{first.name} and {other.name} were not judged on the same cases",
            got="; ".join(said),
            remedy="train both on one dataset, all their networks, with the same --seed and --folds",
        )


def _same_folds(first: Candidate, other: Candidate) -> None:
    ours, theirs = first.folds, other.folds
    moved = sorted(case for case in ours if ours[case] != theirs[case])
    if moved:
        raise DataError(
            f"{first.name} and {other.name} have different folds",
            got=f"{counted(len(moved), 'case')} judged in another fold: {moved[0]}{_more(moved)}",
            remedy="train both with the same --seed and --folds",
        )


def _more(names: Sequence[str]) -> str:
    """The rest of a list of which the first is named already."""
    shown = "".join(f", {name}" for name in names[1:NAMED])
    return shown + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
