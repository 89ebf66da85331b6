"""After the last epoch: decision, bundle, export with its parity test, evaluation, card."""

from __future__ import annotations

import platform
import shutil
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medmap import __version__
from medmap.bundle import Bundle, BundleSpec, InputSpec, LabelSpec, MemberSpec, export, model_card
from medmap.dataset import Case
from medmap.decision import Decision, fit_calibration, fit_thresholds
from medmap.errors import BundleError
from medmap.evaluate import Circumstances, Failure, Report, operating_point, report_from_table, table_of
from medmap.plan import sample_images
from medmap.report import save_evaluation
from medmap.runtime import available_cores, cpu_facts
from medmap.train.events import Event

if TYPE_CHECKING:
    from medmap.train import Trained, Work

PARITY_CASES = 16
# Images this much coarser or finer than any seen in training are not what the bundle is for.
SPACING_MARGIN = 1.5


def finish(work: Work, done: Sequence[Trained]) -> Bundle:
    """Leave the bundle, its exported form, and the evaluation on the cases that judged the members."""
    cases, numbers, fold = judged_cases(work, done)
    decision, notes = fit_decision(work, cases, numbers)
    spec = _spec(work, done, decision, notes)
    report = _report(work, cases, numbers, fold, decision) if cases else None
    estimates = [row.as_json() for row in report.rows] if report else []
    states = [one.weights for one in done]
    bundle = Bundle.write(work.output / "bundle", spec, states, card=model_card(spec, estimates), overwrite=True)
    bundle = _exported(work, bundle, done, estimates)
    if report is not None:
        report = replace(report, bundles=(bundle.digest,))
        save_evaluation(report, work.output / "evaluation", dataset=work.dataset, training_log=work.output / "log.csv")
        _tell(work, report)
    shutil.rmtree(work.output / "store", ignore_errors=True)  # prepared pixels have served
    return bundle


def judged_cases(work: Work, done: Sequence[Trained]) -> tuple[list[Case], list[NDArray[np.float32]], list[int | None]]:
    """Each judged case once, with the numbers of all members (and views) that did not learn from it, and its fold."""
    rows: dict[int, list[NDArray[np.float32]]] = defaultdict(list)
    fold: dict[int, int | None] = {}
    for one in done:
        for row, values in zip(one.member.judge, one.logits, strict=True):
            rows[int(row)].append(values)
            fold.setdefault(int(row), one.member.fold)
    order = sorted(rows)
    numbers = [np.concatenate(rows[row]) for row in order]
    return [work.store.cases[row] for row in order], numbers, [fold[row] for row in order]


def fit_decision(
    work: Work, cases: Sequence[Case], numbers: Sequence[NDArray[np.float32]]
) -> tuple[Decision, list[str]]:
    """Temperature and thresholds from cases that the networks judged without having learned from them."""
    task, run = work.task, work.run
    accepts = {name: accepted(work, spec.modality) for name, spec in work.dataset.inputs.items()}
    how = "out of fold" if run.ensemble.folds else "validation split"
    fitted_on = {"cases": len(cases), "how": how if cases else "nothing"}
    plain = Decision(
        positive=work.dataset.positive if task.kind == "binary" else None, accepts=accepts, fitted_on=fitted_on
    )
    if not cases:
        return plain, ["no validation case: scores are not calibrated and no operating point is fitted"]
    if task.kind == "regression":
        return plain, []
    truth = task.truth(cases)
    together = np.stack([task.combine(rows) for rows in numbers])
    fitted = fit_calibration(together, truth, task.kind)
    if task.kind in ("binary", "multiclass"):
        counts = np.bincount(truth, minlength=len(task.labels))
        plain = plain.with_(fitted_on={**fitted_on, "priors": (counts / counts.sum()).tolist()})
    notes = [f"calibration: {fitted.reason}"] if fitted.reason else []
    decision = plain.with_(temperature=fitted.temperature, prior_shift=fitted.offsets)
    if task.kind == "ordinal":
        return decision, notes
    found = fit_thresholds(
        task.probabilities(together, decision),
        truth,
        task.kind,
        run.decision.target,
        positive=plain.positive,
        prevalence=run.decision.prevalence if task.kind == "binary" else None,
    )
    notes += [f"operating point: {found.reason}"] if found.reason else []
    return decision.with_(thresholds=found.values, target=found.target, prevalence=run.decision.prevalence), notes


def accepted(work: Work, modality: str | None) -> dict[str, Any]:
    """What images the bundle is for: modality, quantity, dimensions, channels, spacing within half as much again."""
    images = list(sample_images(work.dataset.with_cases(work.store.cases), 50))
    flat = [value for image in images if image.geometry.has_size for value in image.spacing_mm]
    limits = [round(min(flat) / SPACING_MARGIN, 4), round(max(flat) * SPACING_MARGIN, 4)] if flat else None
    section = work.run.prepare
    quantities = sorted({image.quantity for image in images})
    shape = {"ndim": len(section.shape), "channels": section.channels, "spacing_mm": limits}
    return {"modality": modality, "quantities": quantities, **shape}


def _spec(work: Work, done: Sequence[Trained], decision: Decision, notes: list[str]) -> BundleSpec:
    run, data = work.run, work.dataset
    network = {
        "name": run.network.name,
        "dimensions": len(run.prepare.shape),
        "in_channels": run.prepare.channels,
        "outputs": work.task.outputs,
        "input_shape": list(run.prepare.shape),
        "dropout": run.network.dropout,
        "width": run.network.width,
        "stem": run.network.stem,
    }
    recipe = work.recipe.as_json()
    stopped = [f"network {one.member.number + 1}: {one.stopped}" for one in done if one.stopped]
    if len(done) < run.ensemble.members:
        stopped.append(f"the time budget allowed {len(done)} of {run.ensemble.members} networks")
    return BundleSpec(
        task=run.task.kind,
        name=data.name,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        medmap_version=__version__,
        kind=work.task.kind,
        labels=tuple(LabelSpec(name=label.name, code=label.code) for label in work.task.labels),
        positive=data.positive,
        inputs={
            name: InputSpec(modality=spec.modality, channels=run.prepare.channels, size=run.prepare.shape)
            for name, spec in data.inputs.items()
        },
        members=tuple(MemberSpec(network=network, recipe=recipe, fold=one.member.fold) for one in done),
        decision=decision.to_json(),
        run=run.model_dump(mode="json"),
        provenance=_provenance(work, done),
        licence=data.licence or "not stated",
        warnings=(*work.warnings, *stopped, *notes),
    )


def _provenance(work: Work, done: Sequence[Trained]) -> dict[str, Any]:
    import torch

    rows = sorted({int(row) for one in done for row in (*one.member.learn, *one.member.judge)})
    facts = cpu_facts()
    return {
        "dataset": work.dataset.name,
        "dataset_digest": work.dataset.digest,
        "cases": len(rows),
        "patients": len({work.store.cases[row].patient for row in rows}),
        "training_case_hashes": sorted({work.store.hashes[row] for row in rows} - {""}),
        "epochs": [one.epochs for one in done],
        "folds": work.run.ensemble.folds,
        "target_scale": list(work.task.scale),
        "seconds": round(work.clock.spent_s, 1),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {available_cores()} cores",
        "processor_bfloat16": facts.fast_bfloat16,
        "source": work.dataset.source,
    }


def _exported(work: Work, bundle: Bundle, done: Sequence[Trained], estimates: list[dict[str, Any]]) -> Bundle:
    """The bundle with its ONNX form and the engines' parity on real prepared cases."""
    work.listen(Event("line", "exporting, and comparing the engines on prepared cases"))
    rows = done[0].member.judge if len(done[0].member.judge) else done[0].member.learn
    inputs = work.store.take(rows[:PARITY_CASES])
    try:
        exported = export(bundle, ("onnx", "openvino"), inputs, make_card=lambda spec: model_card(spec, estimates))
    except BundleError as error:
        work.listen(Event("warning", f"the network runs on torch alone: {error}"))
        return bundle
    for name, parity in exported.spec.engines.items():
        verdict = "the same answer" if parity["passed"] else "another answer: not used"
        apart = "" if parity["max_abs"] is None else f" (at most {parity['max_abs']:.2g} apart)"
        work.listen(Event("line", f"{name}: {verdict}{apart}"))
    return exported


def _report(
    work: Work,
    cases: Sequence[Case],
    numbers: Sequence[NDArray[np.float32]],
    fold: list[int | None],
    decision: Decision,
) -> Report:
    answers = {c.id: work.task.decode(row, decision=decision) for c, row in zip(cases, numbers, strict=True)}
    dealt = {c.id: part for c, part in zip(cases, fold, strict=True) if part is not None}
    judged = work.dataset.with_cases(cases)
    table = table_of(judged, answers, thresholds=operating_point(work.task.kind, decision), folds=dealt)
    split = "oof" if work.run.ensemble.folds else "val"
    failed = tuple(Failure(case, reason) for case, reason in work.store.failed.items())
    flow = (("supplied", len(work.dataset)), ("readable", len(work.dataset) - len(failed)), ("evaluated", len(cases)))
    found = Circumstances(failed=failed, flow=flow, started=time.monotonic() - work.clock.spent_s)
    return report_from_table(
        table, split=split, dataset=work.dataset, warnings=list(work.warnings), circumstances=found
    )


def _tell(work: Work, report: Report) -> None:
    shown = {"auroc", "accuracy", "balanced_accuracy", "mae", "quadratic_kappa"}
    judged = {"oof": "out of fold", "val": "validation"}.get(report.split, report.split)
    for row in report.rows:
        if row.name in shown and row.group == "all" and row.average is None and row.value is not None:
            if row.stage not in (None, "calibrated"):
                continue
            interval = f" ({row.low:.3f} to {row.high:.3f})" if row.low is not None else ""
            work.listen(Event("line", f"{judged}: {row.name} {row.value:.3f}{interval}, n = {row.n}"))
