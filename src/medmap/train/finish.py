"""After the last epoch: decision, bundle, export with its parity test, evaluation, card."""

from __future__ import annotations

import platform
from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medmap import __version__
from medmap.bundle import Bundle, BundleSpec, InputSpec, LabelSpec, MemberSpec, export, model_card
from medmap.dataset import Case
from medmap.decision import Decision, fit_temperature, fit_thresholds
from medmap.evaluate import PredictionTable, Report, report_from_table
from medmap.report import save_evaluation
from medmap.results import Scores
from medmap.runtime import available_cores, cpu_facts
from medmap.train.events import Event

if TYPE_CHECKING:
    from medmap.train import Trained, Work

PARITY_CASES = 16


def finish(work: Work, done: Sequence[Trained]) -> Bundle:
    """Leave the bundle, its exported form, and the evaluation on the cases that judged the members."""
    cases, numbers, fold = judged_cases(work, done)
    decision, notes = fit_decision(work, cases, numbers)
    spec = _spec(work, done, decision, notes)
    report = _report(work, cases, numbers, fold, decision) if cases else None
    estimates = [row.as_json() for row in report.rows] if report else []
    states = [one.weights for one in done]
    bundle = Bundle.write(work.output / "bundle", spec, states, card=model_card(spec, estimates), overwrite=True)
    bundle = _exported(work, bundle, done)
    if report is not None:
        save_evaluation(report, work.output / "evaluation", dataset=work.dataset, training_log=work.output / "log.csv")
        _tell(work, report)
    return bundle


def judged_cases(work: Work, done: Sequence[Trained]) -> tuple[list[Case], NDArray[np.float32], list[int | None]]:
    """Each judged case once, its numbers averaged over the members that did not learn from it, and its fold."""
    rows: dict[int, list[NDArray[np.float32]]] = defaultdict(list)
    fold: dict[int, int | None] = {}
    for one in done:
        for row, values in zip(one.member.judge, one.logits, strict=True):
            rows[int(row)].append(values)
            fold[int(row)] = one.member.fold
    order = sorted(rows)
    numbers = [np.mean(rows[row], axis=0) for row in order]
    table = np.array(numbers, dtype=np.float32).reshape(len(order), work.task.outputs)
    return [work.store.cases[row] for row in order], table, [fold[row] for row in order]


def fit_decision(work: Work, cases: Sequence[Case], numbers: NDArray[np.float32]) -> tuple[Decision, list[str]]:
    """Temperature and thresholds from cases that the networks judged without having learned from them."""
    task, run = work.task, work.run
    accepts = {name: {"modality": spec.modality} for name, spec in work.dataset.inputs.items()}
    how = "out of fold" if run.ensemble.folds else "validation split"
    plain = Decision(
        thresholds=_plain_thresholds(task.kind, len(task.labels)),
        accepts=accepts,
        fitted_on={"cases": len(cases), "how": how if cases else "nothing: thresholds are the plain ones"},
    )
    if not cases or task.kind == "regression":
        return plain, [] if cases else ["no validation case: scores are not calibrated and thresholds are plain"]
    truth = task.truth(cases)
    if task.kind == "ordinal":
        above = (truth[:, None] > np.arange(task.outputs)).astype(np.float64)
        temperature = float(np.mean(fit_temperature(numbers, above, "multilabel")))
        return _with(plain, temperature=temperature), []
    temperature = fit_temperature(numbers, truth, task.kind)
    chance = task.probabilities(numbers, temperature)
    thresholds = fit_thresholds(
        chance,
        truth,
        task.kind,
        run.decision.target,
        prevalence=run.decision.prevalence,
        positive=work.dataset.positive,
    )
    return _with(
        plain,
        temperature=temperature,
        thresholds=thresholds,
        target=run.decision.target,
        prevalence=run.decision.prevalence,
    ), []


def _with(decision: Decision, **changes: Any) -> Decision:
    import dataclasses

    return dataclasses.replace(decision, **changes)


def _plain_thresholds(kind: str, classes: int) -> tuple[float, ...]:
    return (0.5,) * classes if kind in ("binary", "multilabel") else (1 / classes,) * classes


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
        warnings=tuple([*work.warnings, *stopped, *notes]),
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
        "training_case_hashes": sorted({work.store.hashes[row] for row in rows}),
        "epochs": [one.epochs for one in done],
        "folds": work.run.ensemble.folds,
        "target_scale": list(work.task.scale),
        "seconds": round(work.clock.spent_s, 1),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {available_cores()} cores, {facts.name}".rstrip(", "),
        "source": work.dataset.source,
    }


def _exported(work: Work, bundle: Bundle, done: Sequence[Trained]) -> Bundle:
    """The bundle with its ONNX form and the engines' parity on real prepared cases."""
    work.listen(Event("line", "exporting, and comparing the engines on prepared cases"))
    rows = done[0].member.judge if len(done[0].member.judge) else done[0].member.learn
    inputs = work.store.take(rows[:PARITY_CASES])
    exported = export(bundle, ("onnx", "openvino"), inputs)
    for name, parity in exported.spec.engines.items():
        verdict = "the same answer" if parity["passed"] else "another answer: not used"
        work.listen(Event("line", f"{name}: {verdict} (at most {parity['max_abs']:.2g} apart)"))
    return exported


def _report(
    work: Work, cases: Sequence[Case], numbers: NDArray[np.float32], fold: list[int | None], decision: Decision
) -> Report:
    answers = [work.task.decode(row, decision=decision) for row in numbers]
    table = table_of(work, cases, answers, fold, decision)
    split = "oof" if work.run.ensemble.folds else "val"
    return report_from_table(table, split=split, dataset=work.dataset, warnings=list(work.warnings))


def table_of(
    work: Work, cases: Sequence[Case], answers: Sequence[Scores], fold: list[int | None], decision: Decision
) -> PredictionTable:
    """The members' answers for the cases that judged them, as evaluation takes it."""
    return PredictionTable.from_scores(work.dataset, cases, answers, folds=fold, thresholds=decision.thresholds)


def _tell(work: Work, report: Report) -> None:
    shown = {"auroc", "accuracy", "balanced_accuracy", "mae", "quadratic_kappa"}
    for row in report.rows:
        if row.name in shown and row.group == "all" and row.average is None and row.value is not None:
            if row.stage not in (None, "calibrated"):
                continue
            interval = f" ({row.low:.3f} to {row.high:.3f})" if row.low is not None else ""
            work.listen(Event("line", f"{report.split}: {row.name} {row.value:.3f}{interval}, n = {row.n}"))
