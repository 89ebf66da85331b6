"""From data to ``run.yaml``: a fingerprint, stated rules, and a short trial on this machine."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from typing import Any

from medmap.dataset import Dataset, with_splits
from medmap.errors import DataError
from medmap.fit import keep_heap
from medmap.plan import rules
from medmap.plan.fingerprint import Fingerprint, fingerprint, sample_images
from medmap.plan.recipes import RECIPES, recipe
from medmap.plan.run import EnsembleSection, NetworkSection, Run
from medmap.plan.trial import Measured, build, measure
from medmap.tasks import classify

# Kept back from the budget for reading, export with its parity test, evaluation and the report; and for a slow moment.
RESERVE_S = 40.0
RESERVE_SHARE = 0.08

__all__ = [
    "RECIPES", "RESERVE_S", "RESERVE_SHARE", "EnsembleSection", "Fingerprint", "NetworkSection", "Run", "build",
    "choose_device", "fingerprint", "plan", "sample_images", "training_cases", "usable_threads",
]  # fmt: skip


def plan(
    dataset: Dataset,
    *,
    budget_s: float | None = None,
    recipe_name: str = "rules",
    overrides: Iterable[str] = (),
    folds: int | None = None,
    spent_s: float = 0.0,
    **fixed: Any,
) -> Run:
    """A complete run for a dataset, within a time budget measured on this machine, each choice with its reason.

    Args:
        dataset: What to learn from; only cases outside the test split are looked at for classes and counts.
        budget_s: From process start to exit, seconds; None for as long as it takes.
        recipe_name: ``rules``, or a classical recipe: ``cnn``, ``vgg16``.
        overrides: ``block.key=value`` texts that win over every rule.
        folds: Number of folds, when the user says so.
        spent_s: Part of the budget already used.
        fixed: ``seed``, ``device``, ``memory_bytes`` and ``init``, when the user says so.

    Raises:
        DataError: Images that cannot be read or that the task does not support.
        ConfigError: An override that is wrong.
    """
    keep_heap()
    facts = fingerprint(with_splits(dataset, int(fixed.get("seed", 0))))
    run, task = _first_draft(dataset, facts, recipe_name, fixed, budget_s)
    texts = list(overrides)
    if any(text.startswith("network.name=") for text in texts):  # the rules' width was for the rules' network
        run = run.model_copy(update={"network": run.network.model_copy(update={"width": 1.0})})
    run = run.override(texts)
    device = choose_device(run.device)
    _set_threads(run.fit.threads)
    left = None if budget_s is None else max(1.0, budget_s * (1 - RESERVE_SHARE) - RESERVE_S - spent_s)
    begin = time.monotonic()
    while True:
        measured = measure(task, run, device)
        still = None if left is None else max(1.0, left - (time.monotonic() - begin))
        spent = rules.arrange(measured.step_s, run.fit.batch_size, facts.training, still, folds)
        slimmer = rules.narrower(run.network, spent, facts.training) if recipe_name == "rules" else None
        if slimmer is None or any(text.startswith("network.") for text in texts):
            break
        why = f"half of {run.network.width:g}: wider, the time would allow only {spent.members} × {spent.epochs} epochs"
        run = run.model_copy(update={"network": slimmer, "reasons": {**run.reasons, "network.width": why}})
    run = _with_speed(run, measured, texts)
    run = _with_arrangement(run, spent, facts, recipe_name, folds)
    return run.override(texts)


def _first_draft(
    dataset: Dataset, facts: Fingerprint, recipe_name: str, fixed: dict[str, Any], budget_s: float | None
) -> tuple[Run, classify.Classify]:
    prepare, reasons = rules.prepare_section(facts)
    network, why_network = rules.network_section(prepare.shape, facts)
    augmentation, why_augment = rules.augment_section(facts, dataset)
    batch = rules.batch_size(facts.training, prepare.shape)
    run = Run(
        seed=int(fixed.get("seed", 0)),
        device=fixed.get("device", "auto"),
        prepare=prepare,
        augment=augmentation,
        network=network,
        budget_s=budget_s,
        memory_bytes=int(fixed.get("memory_bytes") or _default_memory()),
        reasons=reasons | why_network | why_augment,
    )
    rate, why_rate = rules.learning_rate(NetworkSection(name=network.name, init=fixed.get("init")), batch)
    fit = run.fit.model_copy(update={"batch_size": batch, "threads": usable_threads(), "learning_rate": rate})
    reasons = {**run.reasons, "fit.batch_size": f"{facts.training} cases to learn from, {batch} a step"}
    reasons |= {"fit.learning_rate": why_rate}
    smooth = run.task.model_copy(update={"label_smoothing": 0.05 if dataset.kind != "regression" else 0.0})
    run = run.model_copy(update={"fit": fit, "task": smooth, "reasons": reasons})
    if recipe_name != "rules":
        run = _with_recipe(run, recipe_name)
    if "init" in fixed:
        chosen = run.network.model_copy(update={"init": fixed["init"]})
        run = run.model_copy(update={"network": chosen, "reasons": {**run.reasons, "network.init": "set by hand"}})
    task = classify.make(run.task, training_cases(dataset))
    unwelcome = task.supports(facts.dimensions, facts.channels)
    if unwelcome:
        raise DataError(f"{run.task.kind} does not take {unwelcome}")
    return run, task


def training_cases(dataset: Dataset) -> Dataset:
    """The annotated cases outside the test split.

    Raises:
        DataError: There is none.
    """
    kept = [case for case in dataset if case.split != "test" and case.truth.annotated]
    if not kept:
        raise DataError(f"{dataset.name} has no annotated case outside the test split", remedy="label some cases")
    return dataset.with_cases(kept)


def _with_recipe(run: Run, name: str) -> Run:
    chosen = recipe(name)
    data = run.model_dump()
    for section, values in chosen.items():
        data[section] = {**data[section], **values}
    told = {f"{section}.*": f"the classical recipe {name}" for section in chosen}
    kept = {k: v for k, v in run.reasons.items() if k.split(".")[0] not in chosen}
    return Run.model_validate({**data, "reasons": {**kept, **told}})


def _with_speed(run: Run, measured: Measured, texts: list[str]) -> Run:
    if any(text.startswith("fit.precision") for text in texts):
        return run
    update = {"precision": measured.precision, "channels_last": measured.channels_last}
    reasons = {**run.reasons, "fit.precision": measured.reason}
    return run.model_copy(update={"fit": run.fit.model_copy(update=update), "reasons": reasons})


def _with_arrangement(run: Run, spent: rules.Arrangement, facts: Fingerprint, name: str, folds: int | None) -> Run:
    reasons = dict(run.reasons)
    if name != "rules":
        epochs = min(run.fit.epochs, spent.epochs * spent.members) if run.budget_s else run.fit.epochs
        return run.model_copy(update={"fit": run.fit.model_copy(update={"epochs": epochs})})
    few = facts.training < rules.NOISY_VALIDATION
    update: dict[str, Any] = {"epochs": spent.epochs, "warmup_epochs": max(1.0, round(spent.epochs * 0.1, 1))}
    update["select"] = "last" if few else "best"
    update["validate_every"] = max(1, spent.epochs // 20) if few else 1
    reasons["fit.epochs"] = spent.reason
    reasons["fit.select"] = (
        f"{facts.training} cases: the difference between two epochs is noise, so the last averaged weights are kept"
        if few
        else "enough validation cases to tell epochs apart"
    )
    if folds is not None:
        reasons["ensemble.folds"] = "set by hand"
    elif spent.folds:
        reasons["ensemble.folds"] = (
            f"fewer than {rules.FOLDS_BELOW} cases: each is learned from and judged out of fold, together they answer"
        )
    else:
        reasons["ensemble.folds"] = "enough cases for one network and a validation split"
    ensemble = EnsembleSection(folds=spent.folds, members=spent.members)
    return run.model_copy(update={"fit": run.fit.model_copy(update=update), "ensemble": ensemble, "reasons": reasons})


def choose_device(name: str) -> Any:
    """The torch device a run's ``device`` means here.

    Raises:
        DataError: A GPU is asked for and there is none.
    """
    import torch

    if name == "cuda" and not torch.cuda.is_available():
        raise DataError("the run asks for a GPU and this machine has none", remedy="--device cpu")
    use_gpu = name == "cuda" or (name == "auto" and torch.cuda.is_available())
    return torch.device("cuda" if use_gpu else "cpu")


def usable_threads() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _set_threads(count: int | None) -> None:
    import torch

    torch.set_num_threads(count or usable_threads())


def _default_memory() -> int:
    import psutil

    return max(2**30, int(psutil.virtual_memory().available * 0.6))
