"""What an evaluation found: a frozen value that becomes ``metrics.json`` and ``predictions.csv``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import ConfigDict, Field

from medmap.config import Section, read_text, validate, write_atomically
from medmap.decision import Decision
from medmap.errors import ConfigError, ReadError, UsageError
from medmap.evaluate.csvfile import write_predictions
from medmap.evaluate.detections import DetectionTable
from medmap.evaluate.detections_csv import write_detections
from medmap.evaluate.kept import MaskOf
from medmap.evaluate.looks import Looks
from medmap.evaluate.structures import StructureTable
from medmap.evaluate.structures_csv import write_structures
from medmap.evaluate.table import PredictionTable
from medmap.metrics import Comparison, Estimate, MaskRules

FORMAT = 1
Flow = tuple[tuple[str, int], ...]
Table = PredictionTable | StructureTable | DetectionTable


@dataclass(frozen=True)
class Failure:
    """A case that gave no prediction, and why."""

    case: str
    reason: str


@dataclass(frozen=True)
class Baseline:
    """A simple model beside the network, judged on the same cases.

    Args:
        name: majority, thumbnails or columns.
        what: What it is, in a sentence.
        rows: Its metrics.
        against: The network less this baseline, on the same cases.
        trained_on: Cases it learned from.
        reason: Why there is none, or None.
    """

    name: str
    what: str
    rows: tuple[Estimate, ...] = ()
    against: tuple[Comparison, ...] = ()
    trained_on: int = 0
    reason: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Plain values for a file."""
        out: dict[str, Any] = {
            "name": self.name,
            "what": self.what,
            "trained_on": self.trained_on,
            "metrics": [row.as_json() for row in self.rows],
            "network_less_baseline": [row.as_json() for row in self.against],
        }
        return out if self.reason is None else {**out, "reason": self.reason}


@dataclass(frozen=True)
class Aggregated:
    """The same evaluation with several cases taken together: per eye, per patient.

    Args:
        by: What was taken together: ``patient`` or a column (within each patient).
        units: How many of them there are.
        rows: Their metrics, with intervals over patients.
        rule: How scores and truths were joined, in a sentence.
    """

    by: str
    units: int
    rows: tuple[Estimate, ...]
    rule: str

    def as_json(self) -> dict[str, Any]:
        """Plain values for a file."""
        rows = [row.as_json() for row in self.rows]
        return {"by": self.by, "units": self.units, "rule": self.rule, "metrics": rows}


@dataclass(frozen=True, eq=False)
class Report:
    """An evaluation, whole: numbers with intervals, what to be warned of, and the predictions they come from.

    Args:
        split: train, val, test, all, or oof (out of fold).
        table: The predictions.
        rows: The metrics.
        dataset_name, dataset_digest: The dataset that the judged cases are of, whole: all its splits.
        task: The mapping's kind.
        bundles: Digests of the bundles that answered together; empty when predictions alone were given.
        warnings: What a reader must know first, in sentences, worst first.
        failed: Cases that gave no prediction.
        flow: From the cases supplied to those evaluated: (what, how many), in order.
        seconds: How long predicting and computing took.
        looks: This look's number at these test cases, or None where looks are not counted.
        recalibrated: The decision fitted again on a site's own cases, for the one bundle that answered; None where
            that was not asked for, or where several bundles answered together. ``recalibrated_bundle`` keeps it.
        baselines: Simple models on the same cases.
        aggregated: The same per patient or per column, where asked for.
        notes: What was left out of the tables, and why.
        rules: Of masks: the tolerance of surfaces, and when a lesion counts as found; None where that is not known.
        masks: Of masks: from a case's identifier to what was predicted, None for those that were not kept; in no file.
        created: When, ISO 8601, UTC.
    """

    split: str
    table: Table
    rows: tuple[Estimate, ...]
    dataset_name: str
    dataset_digest: str | None
    task: str = "classify"
    bundles: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    failed: tuple[Failure, ...] = ()
    flow: tuple[tuple[str, int], ...] = ()
    seconds: float = 0.0
    looks: int | None = None
    recalibrated: Decision | None = None
    baselines: tuple[Baseline, ...] = ()
    aggregated: tuple[Aggregated, ...] = ()
    notes: tuple[str, ...] = ()
    rules: MaskRules | None = None
    masks: MaskOf | None = field(default=None, repr=False)
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    @property
    def predictions(self) -> PredictionTable:
        """The predictions of classes or numbers.

        Raises:
            UsageError: This is an evaluation of masks or boxes.
        """
        if not isinstance(self.table, PredictionTable):
            raise UsageError(f"an evaluation of {_what(self.table)} has no table of scores", remedy=_TAKE)
        return self.table

    @property
    def structures(self) -> StructureTable:
        """The measures of masks.

        Raises:
            UsageError: This is an evaluation of something else.
        """
        if not isinstance(self.table, StructureTable):
            raise UsageError(f"an evaluation of {_what(self.table)} has no table of structures", remedy=_TAKE)
        return self.table

    @property
    def detections(self) -> DetectionTable:
        """The boxes beside the true ones.

        Raises:
            UsageError: This is an evaluation of something else.
        """
        if not isinstance(self.table, DetectionTable):
            raise UsageError(f"an evaluation of {_what(self.table)} has no table of boxes", remedy=_TAKE)
        return self.table

    @property
    def cases(self) -> int:
        """Cases evaluated."""
        return len(set(self.table.cases))

    @property
    def patients(self) -> int:
        """Patients evaluated."""
        return len(set(self.table.patients))

    def row(
        self, name: str, group: str = "all", stage: str | None = None, average: str | None = None
    ) -> Estimate | None:
        """The metric of a group; without ``stage`` the last one (calibrated before uncalibrated), or None."""
        fits = [r for r in self.rows if (r.name, r.group, r.average) == (name, group, average)]
        if stage is None:
            return last_stage(fits)
        return next((r for r in fits if r.stage == stage), None)

    def as_json(self) -> dict[str, Any]:
        """``metrics.json`` as plain values."""
        document: dict[str, Any] = {
            "medmap_metrics": FORMAT,
            "task": self.task,
            "split": self.split,
            "cases": self.cases,
            "patients": self.patients,
            "failed": [{"case": f.case, "reason": f.reason} for f in self.failed],
            "bundle": self.bundles[0] if len(self.bundles) == 1 else None,
            "dataset": self.dataset_digest,
            "seconds": round(self.seconds, 3),
            "metrics": [row.as_json() for row in self.rows],
            "warnings": list(self.warnings),
        }
        if len(self.bundles) > 1:
            document["bundles"] = list(self.bundles)
        document |= {
            "dataset_name": self.dataset_name,
            "created": self.created,
            **_described(self.table),
            **({} if self.rules is None else {"rules": _ruled(self.rules)}),
            "flow": [{"what": what, "cases": count} for what, count in self.flow],
            "looks": self.looks,
            "baselines": [baseline.as_json() for baseline in self.baselines],
            "aggregated": [part.as_json() for part in self.aggregated],
            "notes": list(self.notes),
        }
        return document

    def json_text(self) -> str:
        """The text of ``metrics.json``; NaN has no place in it."""
        return json.dumps(self.as_json(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    def save(self, folder: str | Path) -> None:
        """Write ``metrics.json`` and ``predictions.csv`` into a folder, each whole or not at all.

        After recalibration also ``decision.json``, the decision for this site; one of an earlier evaluation is removed.

        ``medmap.report.save_evaluation`` writes these and ``report.html``.

        Raises:
            OSError: The disk is full or the folder not writable.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        if isinstance(self.table, StructureTable):
            write_structures(self.table, folder / "predictions.csv")
        elif isinstance(self.table, DetectionTable):
            write_detections(self.table, folder / "predictions.csv")
        else:
            write_predictions(self.table, folder / "predictions.csv")
        if self.recalibrated is None:
            (folder / "decision.json").unlink(missing_ok=True)
        else:
            text = json.dumps(self.recalibrated.to_json(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
            write_atomically(folder / "decision.json", text.encode("utf-8", "backslashreplace"))
        write_atomically(folder / "metrics.json", self.json_text().encode("utf-8", "backslashreplace"))


_TAKE = "take report.predictions of scores, report.structures of masks, report.detections of boxes"


def _what(table: Table) -> str:
    """What was judged, in a word."""
    return "masks" if isinstance(table, StructureTable) else "boxes" if isinstance(table, DetectionTable) else "scores"


def _described(table: Table) -> dict[str, Any]:
    """What a table is of, for ``metrics.json``."""
    if isinstance(table, StructureTable):
        return {"labels": list(table.structures)}
    if isinstance(table, DetectionTable):
        return {
            "labels": list(table.labels),
            "thresholds": list(table.thresholds) or None,
            "rules": {"hit": str(table.rule)},
            "findings": int(table.findings.sum()),
            "boxes": len(table.found),
        }
    return {
        "kind": table.kind,
        "labels": list(table.labels),
        "positive": table.positive_name,
        "thresholds": None if table.thresholds is None else list(table.thresholds),
        "abstained": int(table.abstained.sum()) if table.abstained is not None else 0,
    }


def _ruled(rules: MaskRules) -> dict[str, Any]:
    """The rules of masks, for ``metrics.json``."""
    given = rules.tolerance_mm
    return {
        "tolerance_mm": dict(given) if isinstance(given, Mapping) else given,
        "lesion_overlap": rules.lesion_overlap,
        "lesion_connectivity": rules.lesion_connectivity,
    }


@dataclass(frozen=True)
class Circumstances:
    """What only the one who predicted knows of an evaluation; each as ``Report`` has it.

    Args:
        extra: Further rows: after recalibration.
        recalibrated: The decision after recalibration.
        started: ``time.monotonic()`` from which the seconds count.
        dataset_digest: Of the whole dataset, where only some of its cases are given to be judged.
    """

    bundles: tuple[str, ...] = ()
    failed: tuple[Failure, ...] = ()
    flow: Flow = ()
    looks: Looks = field(default_factory=lambda: Looks(None))
    baselines: tuple[Baseline, ...] = ()
    extra: tuple[Estimate, ...] = ()
    recalibrated: Decision | None = None
    started: float | None = None
    dataset_digest: str | None = None


class MetricRow(Section):
    """One row of ``metrics``: a value with its 95 % interval over patients, or null with the reason."""

    name: str
    group: str
    average: str | None
    stage: str | None
    value: float | None
    low: float | None
    high: float | None
    n: int = Field(ge=0)
    method: str | None
    threshold: float | None = None
    tolerance_mm: float | None = None
    reason: str | None = None


RowOf = TypeVar("RowOf", Estimate, MetricRow)
_STAGES = ("calibrated", None, "uncalibrated")


def last_stage(rows: Sequence[RowOf]) -> RowOf | None:
    """Of rows of one metric and group the one that counts: calibrated before uncalibrated; None where there is none."""
    fits = [row for row in rows if row.stage in _STAGES]
    return min(fits, key=lambda row: _STAGES.index(row.stage), default=None)


class FailedCase(Section):
    """A case that gave no prediction, and why."""

    case: str
    reason: str


class MetricsFile(Section):
    """``metrics.json``: what an evaluation found. Readers ignore keys they do not know."""

    model_config = ConfigDict(extra="allow")

    medmap_metrics: Literal[1]
    task: str
    split: str
    cases: int = Field(ge=0)
    patients: int = Field(ge=0)
    failed: tuple[FailedCase, ...]
    bundle: str | None
    bundles: tuple[str, ...] | None = None
    dataset: str | None
    seconds: float = Field(ge=0)
    metrics: tuple[MetricRow, ...]
    warnings: tuple[str, ...]


def read_metrics(folder: str | Path) -> MetricsFile:
    """Read ``metrics.json`` back.

    Args:
        folder: The evaluation's folder.

    Raises:
        ReadError: Absent, unreadable, or no such file.
    """
    path = Path(folder) / "metrics.json"
    try:
        data = json.loads(read_text(path, _MAX_BYTES))
        return validate(MetricsFile, data if isinstance(data, dict) else {}, str(path))
    except ConfigError as error:
        raise ReadError(error.what, got=error.got, remedy=_AGAIN) from error
    except (ValueError, RecursionError) as error:
        raise ReadError(f"{path} is not valid JSON", got=f"{error!s:.200}", remedy=_AGAIN) from error


_MAX_BYTES = 2**28
_AGAIN = "give a folder that medmap train or medmap evaluate wrote"


def metrics_schema() -> dict[str, Any]:
    """The JSON Schema of ``metrics.json``."""
    return MetricsFile.model_json_schema()
