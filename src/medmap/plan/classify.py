"""The plan of a classification: from the fingerprint to a run, and from the measured speed to epochs and members."""

from __future__ import annotations

from typing import Any

from medmap.config import validate
from medmap.dataset import Dataset
from medmap.plan import rules
from medmap.plan.fingerprint import Fingerprint
from medmap.plan.recipes import recipe
from medmap.plan.run import EnsembleSection, NetworkSection, Run
from medmap.runtime import available_cores


def first_draft(pool: Dataset, facts: Fingerprint, recipe_name: str, words: dict[str, Any]) -> Run:
    """A run as the rules, or a classical recipe, have it, before anything is measured.

    Args:
        pool: The cases to learn from.
        facts: Their fingerprint.
        recipe_name: ``rules``, ``cnn`` or ``vgg16``.
        words: ``seed``, ``device``, ``budget_s``, ``memory_bytes``; ``init`` where it was given.
    """
    prepare, reasons = rules.prepare_section(facts)
    network, why_network = rules.network_section(prepare.shape, facts)
    augmentation, why_augment = rules.augment_section(facts, pool)
    batch = rules.batch_size(facts.training, prepare.shape)
    given = {name: words[name] for name in ("seed", "device", "budget_s", "memory_bytes")}
    run = validate(Run, {**given, "prepare": prepare.model_dump()}, "the plan").model_copy(
        update={"augment": augmentation, "network": network, "reasons": reasons | why_network | why_augment}
    )
    rate, why_rate = rules.learning_rate(NetworkSection(name=network.name, init=words.get("init")), batch)
    fit = run.fit.model_copy(update={"batch_size": batch, "threads": available_cores(), "learning_rate": rate})
    reasons = {**run.reasons, "fit.batch_size": f"{facts.training} cases to learn from, {batch} a step"}
    reasons |= {"fit.learning_rate": why_rate}
    smooth = run.task.model_copy(update={"label_smoothing": 0.05 if pool.kind != "regression" else 0.0})
    run = run.model_copy(update={"fit": fit, "task": smooth, "reasons": reasons})
    if recipe_name != "rules":
        run = _with_recipe(run, recipe_name, rules.safe_flips(facts, pool))
    if "init" in words:
        chosen = run.network.model_copy(update={"init": words["init"]})
        run = run.model_copy(update={"network": chosen, "reasons": {**run.reasons, "network.init": "set by hand"}})
    if run.network.init and recipe_name == "rules":
        run = _with_transfer(run)
    return run


def arranged(run: Run, step_s: float, facts: Fingerprint, left_s: float | None, folds: int | None) -> rules.Arrangement:
    """How the time left is spent at the measured speed."""
    return rules.arrange(step_s, run.fit.batch_size, facts.training, left_s, folds)


def _with_transfer(run: Run) -> Run:
    """Starting weights are kept at first: early stages frozen, then thawed, deeper ones always slower."""
    fit = run.fit.model_copy(update={"layer_decay": 0.75, "frozen_stages": 2, "thaw_epoch": 3})
    why = "starting weights: two stages rest for three epochs, then each stage learns at 0.75 of the next one's pace"
    return run.model_copy(update={"fit": fit, "reasons": {**run.reasons, "fit.layer_decay": why}})


def _with_recipe(run: Run, name: str, flips: tuple[int, ...]) -> Run:
    chosen = recipe(name)
    data = run.model_dump()
    for section, values in chosen.items():
        data[section] = {**data[section], **values}
    data["augment"]["flip_axes"] = tuple(axis for axis in data["augment"]["flip_axes"] if axis in flips)
    told = {f"{section}.*": f"the classical recipe {name}" for section in chosen}
    kept = {k: v for k, v in run.reasons.items() if k.split(".")[0] not in chosen}
    return Run.model_validate({**data, "reasons": {**kept, **told}})


def settled(run: Run, spent: rules.Arrangement, facts: Fingerprint, name: str, folds: int | None) -> Run:
    """The run with its epochs, members and folds."""
    reasons = dict(run.reasons)
    if name != "rules":
        members = max(1, folds or 0)
        epochs = (
            min(run.fit.epochs, max(1, spent.epochs * spent.members // members)) if run.budget_s else run.fit.epochs
        )
        fit = run.fit.model_copy(update={"epochs": epochs})
        ensemble = EnsembleSection(folds=folds or 0, members=members)
        return run.model_copy(update={"fit": fit, "ensemble": ensemble})
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
    reasons["ensemble.folds"] = rules.folds_in_words(spent, folds is not None)
    ensemble = EnsembleSection(folds=spent.folds, members=spent.members)
    return run.model_copy(update={"fit": run.fit.model_copy(update=update), "ensemble": ensemble, "reasons": reasons})
