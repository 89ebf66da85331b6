"""The way from bundles and a dataset to a report: choose the cases, predict them, judge the predictions."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from medmap.bundle import Bundle
from medmap.check import require_usable_boxes
from medmap.dataset import Case, Dataset, with_splits
from medmap.decision import Decision, calibrated, decide, recalibrate
from medmap.errors import DataError, DatasetError, UsageError
from medmap.evaluate.baselines import baselines, not_beaten
from medmap.evaluate.detected import NO_PATIENTS, DetectionRules, report_from_boxes, unannotated_words
from medmap.evaluate.leakage import leaks, leaks_of_recalibration, shared_patients
from medmap.evaluate.looks import log_look
from medmap.evaluate.mapping import channel_order, in_terms_of
from medmap.evaluate.outcome import Circumstances, Failure, Flow, Report
from medmap.evaluate.pictures import Small, content_hash, small
from medmap.evaluate.rows import aggregated, all_rows, stage_rows, subgroup_rows, weak_groups
from medmap.evaluate.segmented import failure_words, report_from_masks
from medmap.evaluate.table import PredictionTable, known, table_of
from medmap.evaluate.verdict import little_use
from medmap.metrics import Bootstrap, Estimate
from medmap.predict import FailedCase, MaskView, predict_cases, predict_masks
from medmap.results import Boxes, Mask, Prediction, ScoreKind, Scores

Progress = Callable[[int, int], None]
Answer = TypeVar("Answer", Mask, Boxes)
FEW_POSITIVES = 20


@dataclass(frozen=True)
class Options:
    """What an evaluation may be asked for beyond the plain one.

    Args:
        labels: For another hospital's data: their class → the bundle's class; None leaves a class's cases out.
        inputs: Their input → the bundle's input.
        channels: Their channel's name → ours (red, green, blue, in any order; others in the bundle's order), or their
            names in the bundle's order; None: as the images are read. Channels that are not named are left out.
        aggregate_by: ``patient``, or columns within a patient (an eye, a breast): cases are taken together by each.
        recalibrate_on: A split, or case identifiers, to fit calibration and operating point on; those patients are
            then left out of the evaluation, and the result stands beside the bundle's own.
        baselines: Whether simple models are fitted and judged beside the network.
        bootstrap: Replicates and seed of resampled intervals.
        boxes: When a box is a hit, and ranges of size; of detections alone.
        masks: Where and how masks are looked for; of segmentations alone.
    """

    labels: Mapping[str, str | None] | None = None
    inputs: Mapping[str, str] | None = None
    channels: Mapping[str, str] | tuple[str, ...] | None = None
    aggregate_by: str | tuple[str, ...] = ()
    recalibrate_on: str | tuple[str, ...] | None = None
    baselines: bool = True
    bootstrap: Bootstrap = field(default_factory=Bootstrap)
    boxes: DetectionRules | None = None
    masks: MaskView | None = None


def evaluate(
    bundle: Bundle | Sequence[Bundle],
    dataset: Dataset,
    split: str | None = None,
    *,
    options: Options | None = None,
    engine: str = "auto",
    device: str = "auto",
    progress: Progress | None = None,
) -> Report:
    """Judge a bundle, or several that answer together, on the labelled cases of a dataset.

    Every look at a test set is written into the run folder of the bundle and counted in the report.

    Args:
        bundle: What answers.
        dataset: Cases with truth.
        split: train, val, test or all; None takes test where there is one, else all. A dataset without splits that
            the bundle was trained on is dealt as it was then.
        options: Mapping of another hospital's words, aggregation, recalibration, baselines.
        engine, device: As ``predict`` takes them.
        progress: Called with (done, of) while predicting.

    Returns:
        The report; ``report.save(folder)`` writes it, ``medmap.report.save_evaluation`` with its HTML page.

    Raises:
        UsageError: A split that is not there, classes or channels that cannot be mapped.
        DatasetError: No case with both a prediction and a truth.

    Example:
        ``mm.evaluate(mm.Bundle.load("runs/first"), data, "test").row("auroc").value``
    """
    started = time.monotonic()
    options = options or Options()
    bundles = [bundle] if isinstance(bundle, Bundle) else list(bundle)
    if not bundles:
        raise UsageError("there is no bundle to evaluate")
    whole = in_terms_of(bundles[0], as_dealt(dataset, bundles), options.labels, options.inputs)
    chosen = split or ("test" if any(case.split == "test" for case in whole) else "all")
    inside = whole.split(chosen)
    task = bundles[0].spec.task
    if task in _WITHOUT_SCORES and (options.recalibrate_on is not None or options.aggregate_by):
        what = _WITHOUT_SCORES[task]
        raise UsageError(f"{what} are neither recalibrated nor taken together", remedy="leave these options out")
    require_usable_boxes(inside)
    if task != "detect" and options.boxes is not None:
        raise UsageError("only boxes are judged by hits and sizes", got=task, remedy="leave these options out")
    fitted_on, judged = _separated(whole, inside, options.recalibrate_on)
    asked = partial(_asked(options), engine=engine, device=device, progress=progress)
    answers = asked(bundles, whole.with_cases([*judged, *fitted_on]))
    if task in _WITHOUT_SCORES:
        return _judged_as_they_come(bundles, whole, dataset, inside, (chosen, judged, answers, started), options)
    scores, failed = _scores_and_failures(answers, whole.name)
    decision = bundles[0].decision
    table = table_of(whole.with_cases(judged), scores, thresholds=operating_point(whole.kind, decision))
    pictures = _pictures(whole, table.cases)
    looks = log_look(bundles, whole, chosen, table.cases)
    site: SiteResult | None = None
    told = [
        *leaks(bundles, {case: picture.sha256 for case, picture in pictures.items()}, chosen),
        *shared_patients(whole, chosen),
        *looks.warnings,
    ]
    if fitted_on:
        sites = table_of(whole.with_cases(fitted_on), scores)
        site = recalibrated(table, sites, decision, options.bootstrap)
        hashes = {case: content_hash(whole, whole[case]) for case in sites.cases}
        told = [*leaks_of_recalibration(bundles, hashes), *told, *([site.note] if site.note else [])]
    simple = baselines(table, whole, pictures) if options.baselines else ()
    found = Circumstances(
        bundles=tuple(b.digest for b in bundles),
        failed=tuple(failed),
        flow=_flow(dataset, inside, judged, fitted_on, failed, len(table)),
        looks=looks,
        baselines=simple,
        extra=site.rows if site else (),
        recalibrated=site.decision if site and len(bundles) == 1 else None,
        started=started,
    )
    return report_from_table(table, split=chosen, dataset=whole, warnings=told, options=options, circumstances=found)


def _asked(options: Options) -> Callable[..., Iterator[Prediction | FailedCase]]:
    """How bundles are asked: as usual, or for masks looked for in a way of its own.

    Raises:
        UsageError: Both a way of its own and a mapping of channels.
    """
    order = None if options.channels is None else channel_order(options.channels)
    if options.masks is None:
        return partial(predict_cases, channels=order)
    if order is not None:
        raise UsageError("channels are not mapped where masks are looked for within a box or mirrored", got=list(order))
    return partial(predict_masks, view=options.masks)


_WITHOUT_SCORES = {"segment": "masks", "detect": "boxes"}  # task → what each case is answered with


def _judged_as_they_come(
    bundles: Sequence[Bundle],
    whole: Dataset,
    supplied: Dataset,
    inside: Dataset,
    how: tuple[str, list[Case], Iterable[Prediction | FailedCase], float],
    options: Options,
) -> Report:
    """The report of masks or boxes, each case taken as it is answered."""
    chosen, judged, answers, started = how
    cases = {case.id: case for case in judged}
    failed: list[Failure] = []
    seen: dict[str, str] = {}

    def answered(name: str, kind: type[Answer]) -> Iterator[tuple[Case, Answer]]:
        for answer in answers:
            if isinstance(answer, FailedCase):
                failed.append(Failure(answer.case, answer.reason))
                continue
            output = answer.outputs[name]
            if isinstance(output, kind):
                seen[answer.case] = content_hash(whole, cases[answer.case])
                yield cases[answer.case], output

    looks = log_look(bundles, whole, chosen, tuple(cases))
    digests = tuple(b.digest for b in bundles)
    found = Circumstances(bundles=digests, looks=looks, started=started, dataset_digest=whole.digest)
    data = whole.with_cases(judged)
    if bundles[0].spec.task == "detect":
        rules = replace(options.boxes or DetectionRules(), bootstrap=options.bootstrap)
        report = report_from_boxes(data, answered("boxes", Boxes), split=chosen, rules=rules, circumstances=found)
    else:
        report = report_from_masks(data, answered("mask", Mask), split=chosen, circumstances=found)
    without = sum(1 for case in inside if case.truth.boxes is None) if whole.task == "detect" else 0
    told = [*leaks(bundles, seen, chosen), *shared_patients(whole, chosen), *looks.warnings]
    words = [*failure_words(failed, report.cases), *unannotated_words(without)]
    warnings = dict.fromkeys([*told, *report.warnings, *words])
    every = (*report.failed, *failed)
    flow = _flow(supplied, inside, judged, [], list(every), report.cases)
    return replace(report, warnings=tuple(warnings), failed=every, flow=flow)


def report_from_table(
    table: PredictionTable,
    *,
    split: str,
    dataset: Dataset | None = None,
    warnings: Sequence[str] = (),
    options: Options | None = None,
    circumstances: Circumstances | None = None,
) -> Report:
    """The report of predictions that are there already: pure, no image is read.

    Args:
        table: The predictions.
        split: Which cases these are; ``oof`` for out of fold.
        dataset: Where they are from.
        warnings: What is known to be wrong already, worst first.
        options: Aggregation and the bootstrap's replicates.
        circumstances: What happened while predicting.
    """
    given, found = options or Options(), circumstances or Circumstances()
    started = time.monotonic() if found.started is None else found.started
    rows = all_rows(table, given.bootstrap)
    groups, notes = subgroup_rows(table)
    by = (given.aggregate_by,) if isinstance(given.aggregate_by, str) else given.aggregate_by
    together = tuple(aggregated(table, name, given.bootstrap) for name in by)
    report = Report(
        split=split,
        table=table,
        rows=(*rows, *found.extra, *groups),
        dataset_name=dataset.name if dataset else "predictions",
        dataset_digest=dataset.digest if dataset else None,
        task=dataset.task if dataset else "classify",
        bundles=found.bundles,
        failed=found.failed,
        flow=found.flow or (("supplied", len(table)), ("evaluated", len(table))),
        looks=found.looks.count,
        recalibrated=found.recalibrated,
        baselines=found.baselines,
        aggregated=together,
        notes=tuple(notes),
    )
    headline = report.row("mae" if table.kind == "regression" else "auroc")
    told = [
        *warnings,
        *failure_words(found.failed, len(table)),
        *little_use(rows),
        *not_beaten(found.baselines),
        *_few(table),
        *weak_groups(groups, headline),
    ]
    patients = () if dataset is None or dataset.patients_known else (NO_PATIENTS,)
    every = tuple(dict.fromkeys([*told, *patients]))
    return replace(report, warnings=every, seconds=time.monotonic() - started)


def _few(table: PredictionTable) -> list[str]:
    """A sentence where a class has so few cases that its numbers are hardly known."""
    if table.kind == "regression":
        return []
    if table.kind == "multilabel":
        counts = {name: int(np.nansum(table.truth[:, c])) for c, name in enumerate(table.labels)}
    else:
        counts = {name: int((table.truth == c).sum()) for c, name in enumerate(table.labels)}
    few = [f"{name} ({count})" for name, count in counts.items() if count < FEW_POSITIVES]
    if not few:
        return []
    named = ", ".join(few[:6]) + (f" and {len(few) - 6} more" if len(few) > 6 else "")
    return [
        f"Fewer than {FEW_POSITIVES} cases of: {named}. What is said about them is hardly certain; mind the intervals."
    ]


def operating_point(kind: ScoreKind, decision: Decision) -> tuple[float, ...] | None:
    """A decision's thresholds as a prediction table takes them; None for grades and numbers, which have none."""
    return decision.thresholds or None if kind in ("binary", "multiclass", "multilabel") else None


def as_dealt(dataset: Dataset, bundles: Sequence[Bundle]) -> Dataset:
    """The dataset with the splits it had when a bundle was trained on it, where training dealt them.

    Recognised by the hash the bundle keeps: the same cases, dealt again from the same seed.
    """
    if all(case.split is not None for case in dataset) and any(case.split == "val" for case in dataset):
        return dataset
    for bundle in bundles:
        dealt = with_splits(dataset, int(bundle.spec.run.get("seed", 0)), _shares(bundle))
        if dealt.digest == bundle.spec.provenance.get("dataset_digest"):
            return dealt
        plain = with_splits(dataset, int(bundle.spec.run.get("seed", 0)))
        if plain.digest == bundle.spec.provenance.get("dataset_digest"):
            return plain
    return dataset


def _shares(bundle: Bundle) -> tuple[float, float, float]:
    given = bundle.spec.run.get("splits", {})
    return tuple(float(given.get(name, plain)) for name, plain in (("train", 0.7), ("val", 0.1), ("test", 0.2)))  # type: ignore[return-value]


def _separated(
    whole: Dataset, inside: Dataset, recalibrate_on: str | tuple[str, ...] | None
) -> tuple[list[Case], list[Case]]:
    """Cases to recalibrate on, and cases to judge: labelled, and no patient in both.

    Raises:
        UsageError: Nothing to recalibrate on, or nothing left to judge.
    """
    labelled = [case for case in inside if _known(case, whole)]
    if recalibrate_on is None:
        if not labelled:
            raise DatasetError(f"no case of {whole.name} to evaluate has a truth", remedy="label them, or use predict")
        return [], labelled
    if isinstance(recalibrate_on, str):
        fitted_on = list(whole.split(recalibrate_on))
    else:
        fitted_on = [whole[name] for name in recalibrate_on]
    fitted_on = [case for case in fitted_on if _known(case, whole)]
    taken = {case.patient for case in fitted_on}
    judged = [case for case in labelled if case.patient not in taken]
    if not fitted_on or not judged:
        raise UsageError(
            "recalibration needs labelled cases of its own, and others to be judged on",
            got=f"{len(fitted_on)} to recalibrate on, {len(judged)} to judge",
        )
    return fitted_on, judged


def _known(case: Case, whole: Dataset) -> bool:
    if whole.task == "detect":
        return case.truth.boxes is not None
    return bool(case.truth.masks) if whole.task == "segment" else known(case, whole.kind)


def _scores_and_failures(
    answers: Iterable[Prediction | FailedCase], name: str
) -> tuple[dict[str, Scores], list[Failure]]:
    scores: dict[str, Scores] = {}
    failed = []
    for answer in answers:
        if isinstance(answer, FailedCase):
            failed.append(Failure(answer.case, answer.reason))
        else:
            scores[answer.case] = _scores(answer)
    if not scores:
        raise DatasetError(f"no case of {name} can be predicted", got=failed[0].reason)
    return scores, failed


def _scores(answer: Prediction) -> Scores:
    for output in answer.outputs.values():
        if isinstance(output, Scores):
            return output
    raise DatasetError("the bundle gives no scores", got=", ".join(answer.outputs), expected="a classifier")


def _pictures(dataset: Dataset, cases: Sequence[str]) -> dict[str, Small]:
    found = {}
    for case in cases:
        try:
            found[case] = small(dataset, dataset[case])
        except (
            DataError
        ):  # it was predicted a moment ago; without its picture it is only not looked for among the learned
            continue
    return found


def _flow(
    supplied: Dataset,
    inside: Dataset,
    judged: Sequence[Case],
    fitted_on: Sequence[Case],
    failed: Sequence[Failure],
    n: int,
) -> Flow:
    """From the cases supplied to those evaluated, and where the others went."""
    ids = {case.id for case in judged}
    lost = sum(failure.case in ids for failure in failed)
    apart = {case.id for case in fitted_on} - ids
    patients = {case.patient for case in fitted_on}
    kept_back = sum(case.id in apart or case.patient in patients for case in inside)
    unlabelled = len(inside) - len(judged) - kept_back
    steps = [
        ("supplied", len(supplied)),
        ("of another split, or a class left out", len(supplied) - len(inside)),
        ("kept for recalibration", kept_back),
        ("without a truth", unlabelled),
        ("unreadable or refused", lost),
        ("evaluated", n),
    ]
    return tuple((what, count) for what, count in steps if count or what in ("supplied", "evaluated"))


@dataclass(frozen=True)
class SiteResult:
    """What recalibration on a site's own cases gave.

    Args:
        rows: The metrics after it, stage ``recalibrated``.
        decision: What was fitted, in the place of the bundle's.
        note: What could not be fitted, in a sentence, or None.
    """

    rows: tuple[Estimate, ...]
    decision: Decision
    note: str | None = None


def recalibrated(
    table: PredictionTable, sites: PredictionTable, decision: Decision, bootstrap: Bootstrap
) -> SiteResult:
    """The metrics after calibration and operating point were fitted again on a site's own cases.

    Temperature and prior shift are fitted on the logarithms of the uncalibrated probabilities, which are the logits up
    to a constant (of an ensemble: of its mean).

    Args:
        table: The cases to judge.
        sites: The site's own cases, of other patients.
        decision: The bundle's.
        bootstrap: Replicates and seed.

    Raises:
        UsageError: Grades or numbers, which cannot be recalibrated.
    """
    kind = table.kind
    if kind not in ("binary", "multiclass", "multilabel"):
        raise UsageError("only classes can be recalibrated", got=kind, expected="binary, multiclass or multilabel")
    shares = decision.fitted_on.get("priors")
    priors = tuple(shares) if shares else _shares_of(sites)
    own = decision.with_(positive=table.positive)
    if sites.uncalibrated is None:  # what there is was calibrated before: the decision is in it already
        own = own.with_(temperature=1.0, prior_shift=None)
    found = recalibrate(_logits(sites), own, kind, priors=priors, truth=sites.truth)
    chance = np.clip(calibrated(_logits(table), found.decision, kind), 0, 1)
    after = table.with_scores(chance, found.decision.thresholds or None, decide(chance, found.decision, kind).abstained)
    rows = stage_rows(after, after.scores, "recalibrated", bootstrap)
    note = None if found.reason is None else f"Recalibration: {found.reason.rstrip('.')}."
    return SiteResult(tuple(rows), found.decision, note)


def _shares_of(table: PredictionTable) -> tuple[float, ...]:
    """(C,) how common each class is, kept off 0 and 1."""
    if table.kind == "multilabel":
        there = ~np.isnan(table.truth)
        return tuple(((np.nansum(table.truth, axis=0) + 1) / (there.sum(axis=0) + 2)).tolist())
    counts = np.bincount(table.truth, minlength=len(table.labels)) + 1.0
    return tuple((counts / counts.sum()).tolist())


def _logits(table: PredictionTable) -> NDArray[np.float64]:
    chance = np.clip(table.scores if table.uncalibrated is None else table.uncalibrated, 1e-12, 1 - 1e-12)
    return np.log(chance) - np.log1p(-chance) if table.kind == "multilabel" else np.log(chance)
