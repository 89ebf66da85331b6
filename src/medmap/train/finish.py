"""After the last epoch: decision, bundle, export with its parity test, evaluation, card."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from medmap import __version__
from medmap.bundle import COARSE, Bundle, BundleSpec, InputSpec, LabelSpec, MemberSpec, export, model_card
from medmap.decision import Decision
from medmap.errors import BundleError
from medmap.evaluate import Report, little_use
from medmap.plan import network_options
from medmap.report import save_evaluation
from medmap.runtime import Parity, available_cores, cpu_facts
from medmap.train.events import Event

if TYPE_CHECKING:
    from medmap.train.parts import Trained, Work

PARITY_CASES = 16


def finish(work: Work, done: Sequence[Trained]) -> Bundle:
    """Leave the bundle, its exported form, and the evaluation on the cases that judged the members."""
    found = work.craft.concluded(work, done)
    report = found.report
    poor = little_use(report.rows) if report else []
    spec = _spec(work, done, found.decision, [*poor, *found.notes])
    for text in spec.warnings:
        if text not in work.warnings:
            work.listen(Event("warning" if text in poor else "line", text))
    estimates = [row.as_json() for row in report.rows] if report else []
    states = [one.weights for one in done]
    coarse = work.coarse.bundle.contents() if work.coarse else {}
    files = {f"{COARSE}/{name}": data for name, data in coarse.items()}
    card = model_card(spec, estimates)
    bundle = Bundle.write(work.output / "bundle", spec, states, card=card, files=files, overwrite=True)
    bundle = _exported(work, bundle, done, estimates)
    if report is not None:
        told = dict.fromkeys((*report.warnings, *(f"Training: {text}." for text in _stopped(work, done))))
        report = replace(report, bundles=(bundle.digest,), warnings=tuple(told))
        save_evaluation(report, work.output / "evaluation", dataset=work.dataset, training_log=work.output / "log.csv")
        _tell(work, report)
    shutil.rmtree(work.output / "store", ignore_errors=True)  # prepared pixels have served
    return bundle


def _stopped(work: Work, done: Sequence[Trained]) -> list[str]:
    """Which networks were cut short, and how many were never trained."""
    told = [f"network {one.member.number + 1}: {one.stopped}" for one in done if one.stopped]
    if len(done) < work.run.ensemble.members:
        told.append(f"the time budget allowed {len(done)} of {work.run.ensemble.members} networks")
    return told


def _spec(work: Work, done: Sequence[Trained], decision: Decision, notes: list[str]) -> BundleSpec:
    run, data = work.run, work.dataset
    network = {"name": run.network.name, "outputs": work.task.outputs, **network_options(run)}
    recipe = work.recipe.as_json()
    return BundleSpec(
        task=run.task.kind,
        name=data.name,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        medmap_version=__version__,
        kind=getattr(work.task, "kind", None),
        labels=tuple(LabelSpec(name=label.name, code=label.code) for label in work.task.labels),
        positive=data.positive,
        inputs={
            name: InputSpec(
                modality=spec.modality, channels=run.prepare.channels // len(data.inputs), size=run.prepare.shape
            )
            for name, spec in data.inputs.items()
        },
        members=tuple(MemberSpec(network=network, recipe=recipe, fold=one.member.fold) for one in done),
        decision=decision.to_json(),
        run=run.model_dump(mode="json"),
        provenance=_provenance(work, done),
        licence=data.licence or "not stated",
        warnings=(*work.warnings, *_stopped(work, done), *notes),
    )


def _provenance(work: Work, done: Sequence[Trained]) -> dict[str, Any]:
    import torch

    learned = {int(row) for one in done for row in one.member.learn}
    rows = sorted(learned | {int(row) for one in done for row in one.member.judge})
    hashes = {work.store.hashes[row] for row in learned} - {""}
    facts = cpu_facts()
    return {
        "dataset": work.dataset.name,
        "dataset_digest": work.dataset.digest,
        "cases": len(rows),
        "patients": len({work.store.cases[row].patient for row in rows}) if work.dataset.patients_known else None,
        "training_case_hashes": sorted(hashes),
        "validation_case_hashes": sorted({work.store.hashes[row] for row in rows} - hashes - {""}),
        "epochs": [one.epochs for one in done],
        "folds": work.run.ensemble.folds,
        **work.craft.provenance(work),
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
    inputs, truths = work.craft.parity_examples(work, [int(row) for row in rows[:PARITY_CASES]])
    try:
        exported = export(
            bundle, ("onnx", "openvino"), inputs, truths=truths, make_card=lambda spec: model_card(spec, estimates)
        )
    except BundleError as error:
        work.listen(Event("warning", f"the network runs on torch alone: {error}"))
        return bundle
    for name, parity in exported.spec.engines.items():
        work.listen(Event("line", f"{name}: {Parity(**parity).verdict}"))
    return exported


def _tell(work: Work, report: Report) -> None:
    shown = {"dice", "auroc", "accuracy", "balanced_accuracy", "mae", "quadratic_kappa", "ap50", "froc_cpm"}
    judged = {"oof": "out of fold", "val": "validation"}.get(report.split, report.split)
    for row in report.rows:
        if row.name in shown and row.group == "all" and row.average is None and row.value is not None:
            if row.stage not in (None, "calibrated"):
                continue
            interval = f" ({row.low:.3f} to {row.high:.3f})" if row.low is not None else ""
            work.listen(Event("line", f"{judged}: {row.name} {row.value:.3f}{interval}, n = {row.n}"))
