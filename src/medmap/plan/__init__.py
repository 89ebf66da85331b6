"""From data to ``run.yaml``: a fingerprint, stated rules, and a short trial on this machine."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from medmap.check import require_usable_boxes
from medmap.config import validate, with_overrides
from medmap.dataset import Dataset, with_splits
from medmap.errors import ConfigError, DataError, counted
from medmap.fit import keep_heap
from medmap.plan import classify, rules, segment
from medmap.plan import detect as detect
from medmap.plan.fingerprint import Fingerprint, fingerprint, sample_images
from medmap.plan.recipes import RECIPES
from medmap.plan.run import (
    RESERVE_S,
    RESERVE_SHARE,
    CoarseSection,
    EnsembleSection,
    NetworkSection,
    Run,
    SplitsSection,
)
from medmap.plan.trial import OF_ANY_WIDTH, Measured, build, make_task, measure, network_options
from medmap.prepare import PrepareSection
from medmap.runtime import available_cores, peak_rss_bytes
from medmap.tasks import TASKS

FEWEST_STEPS = 500  # of a coarse network; with fewer it finds nothing, or anything
# keys that a task's draft is drawn around where they are set by hand
DRAWN = {"classify": (), "detect": (), "segment": ("prepare.shape", "prepare.spacing_mm")}
DRAFTS: dict[str, Any] = {"classify": classify, "detect": detect, "segment": segment}  # how each task is planned

__all__ = [
    "RECIPES", "RESERVE_S", "RESERVE_SHARE", "CoarseSection", "EnsembleSection", "Fingerprint", "NetworkSection", "Run",
    "build", "choose_device", "fingerprint", "make_task", "network_options", "plan", "require_learnable",
    "sample_images", "training_cases",
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
    texts = list(overrides)
    require_learnable(dataset)
    dealt = _dealt(dataset, fixed, texts)
    pool = training_cases(dealt)
    facts = fingerprint(pool)
    validate(EnsembleSection, {"folds": folds or 0, "members": max(1, folds or 1)}, "--folds")
    words = {"seed": 0, "device": "auto", "budget_s": budget_s, **fixed}
    words["memory_bytes"] = words.get("memory_bytes") or _default_memory()
    words["network"], words["prepare"] = _network_by_hand(texts), _grid_by_hand(texts, facts.dimensions)
    words["coarse"] = {"prepare": _grid_by_hand(_of_coarse(texts), facts.dimensions)}
    run = DRAFTS[pool.task].first_draft(pool, facts, recipe_name, words)
    if not any(case.split == "test" for case in dealt):
        run = run.model_copy(update={"reasons": {**run.reasons, "splits.test": NO_TEST}})
    drafted = run.network.width
    left = None if budget_s is None else max(1.0, budget_s * (1 - RESERVE_SHARE) - RESERVE_S - spent_s)
    run = _with_time_for_coarse(run, texts, left).override(texts, DRAWN[pool.task])
    if run.network.name not in OF_ANY_WIDTH and run.network.width == drafted:
        # the rules' width was for a network of medmap's own
        run = run.model_copy(update={"network": run.network.model_copy(update={"width": 1.0})})
    asked = (recipe_name, folds, texts)
    if run.coarse is not None:
        both = _cascaded(run, pool, facts, left, asked)
        if both.coarse is not None:
            return both
        reasons = {where: why for where, why in run.reasons.items() if not where.startswith("coarse")}
        run = run.model_copy(update={"coarse": None, "reasons": {**reasons, "coarse": both.reasons["coarse"]}})
    return _settled(run, pool, facts, left, asked)


def _with_time_for_coarse(run: Run, texts: list[str], left_s: float | None) -> Run:
    """The draft without its coarse network where the time is too short for one.

    Raises:
        ConfigError: Something is set of a coarse network and there is none.
    """
    coarse = run.coarse
    if coarse is not None and left_s is not None and left_s * coarse.time_share < RESERVE_S:
        why = f"{left_s:.0f} s are too short for a coarse network before this one: looked for everywhere"
        reasons = {where: text for where, text in run.reasons.items() if not where.startswith("coarse")}
        run = run.model_copy(update={"coarse": None, "reasons": {**reasons, "coarse": why}})
    by_hand = [text for text in texts if text.strip().startswith("coarse.")]
    if run.coarse is None and by_hand:
        raise ConfigError(
            "no coarse network is planned for these images",
            got=by_hand[0],
            remedy="leave it out; one is planned where structures fill a small part of large volumes and time allows",
        )
    return run


def _settled(
    run: Run, pool: Dataset, facts: Fingerprint, left_s: float | None, asked: tuple[str, int | None, list[str]]
) -> Run:
    """A draft measured and fitted into the time left; what was set by hand wins."""
    recipe_name, folds, texts = asked
    draft = DRAFTS[pool.task]
    run, measured, spent = _arranged(run, pool, facts, left_s, (recipe_name == "rules", folds, texts))
    settled: Run = draft.settled(_with_speed(run, measured, texts), spent, facts, recipe_name, folds)
    if left_s is not None and (short := rules.short_of_time(spent)) is not None:
        settled = settled.model_copy(update={"reasons": {**settled.reasons, "budget": short}})
    return settled.override(texts, DRAWN[pool.task])


def _cascaded(
    run: Run, pool: Dataset, facts: Fingerprint, left_s: float | None, asked: tuple[str, int | None, list[str]]
) -> Run:
    """Both networks measured and fitted into their parts of the time, all reasons in one list.

    Where the coarse one would have too few steps to find anything it is left out, and the one reason says why.
    """
    texts = asked[2]
    share = run.coarse.time_share if run.coarse else 0.0
    coarse_s = None if left_s is None else left_s * share
    run = _settled(
        run, pool, facts, None if left_s is None or coarse_s is None else left_s - coarse_s - RESERVE_S, asked
    )
    coarse = run.coarse_run
    if coarse is None:
        return run
    own = _of_coarse(texts)
    found = _settled(coarse, pool, facts, coarse_s, ("rules", run.ensemble.folds, own))
    # as many networks as the run itself has, in the time that fewer would have had
    epochs = max(1, found.fit.epochs * found.ensemble.members // coarse.ensemble.members)
    fit = found.fit.model_copy(update={"epochs": min(epochs, found.fit.epochs)})
    section = CoarseSection.of(found.model_copy(update={"fit": fit})).model_copy(update={"time_share": share})
    learned = facts.training * (1 - 1 / run.ensemble.folds if run.ensemble.folds else 1)
    steps = fit.epochs * max(1, int(learned * section.task.patches / fit.batch_size))
    if steps < FEWEST_STEPS and not own:
        why = f"{counted(steps, 'step')} of a coarse network would find nothing reliably: looked for everywhere"
        return run.model_copy(update={"coarse": None, "reasons": {"coarse": why}})
    told = {where: why for where, why in found.reasons.items() if not where.startswith("ensemble")}
    many = counted(coarse.ensemble.members, "network")
    told["fit.epochs"] = (
        f"{many}, as many as the run itself has, of {counted(fit.epochs, 'epoch')} in {share:.0%} of the time"
    )
    reasons = {**run.reasons, **{f"coarse.{where}": why for where, why in told.items()}}
    drawn = [*DRAWN[pool.task], *(f"coarse.{key}" for key in DRAWN[pool.task])]
    return run.model_copy(update={"coarse": section, "reasons": reasons}).override(texts, drawn)


def _of_coarse(texts: list[str]) -> list[str]:
    """What was set of the coarse network, as settings of its own run."""
    return [text.strip().removeprefix("coarse.") for text in texts if text.strip().startswith("coarse.")]


NO_TEST = (
    "no case is kept for a test: all are learned from or choose something, and are judged out of fold where there are "
    "folds; medmap evaluate wants other cases"
)


def _network_by_hand(texts: list[str]) -> dict[str, Any]:
    """What was set of the network, as its section takes it; a draft is made around it.

    Raises:
        ConfigError: An override that the section does not take.
    """
    asked = with_overrides({}, texts).get("network") or {}
    if not isinstance(asked, dict):
        raise ConfigError("network is a block", got=repr(asked), expected="network.name=…, network.width=…")
    section = validate(NetworkSection, {"name": "fcos", **asked}, "network")
    return {name: getattr(section, name) for name in asked}


def _grid_by_hand(texts: list[str], dimensions: int) -> dict[str, Any]:
    """``shape`` and ``spacing_mm`` where they were set: what a network for masks is drawn for.

    Raises:
        ConfigError: An override that the section does not take.
    """
    asked = with_overrides({}, texts).get("prepare") or {}
    if not isinstance(asked, dict):
        raise ConfigError("prepare is a block", got=repr(asked), expected="prepare.shape=…, prepare.spacing_mm=…")
    chosen = {name: asked[name] for name in ("shape", "spacing_mm") if asked.get(name) is not None}
    grid = "spacing" if "spacing_mm" in chosen else "native"
    section = validate(PrepareSection, {"shape": (8,) * dimensions, "grid": grid, **chosen}, "prepare")
    for name in chosen:
        if len(getattr(section, name)) != dimensions:
            raise ConfigError(
                f"prepare.{name} has another number of axes than the images", got=getattr(section, name),
                expected=f"{dimensions} numbers",
            )  # fmt: skip
    return {name: getattr(section, name) for name in chosen}


def require_learnable(dataset: Dataset) -> None:
    """Refuse what training cannot learn from, before a pixel is read.

    Raises:
        DataError: A task that is not learned yet; boxes that mean nothing in their images.
    """
    if dataset.task not in TASKS:
        raise DataError(f"{dataset.name} is for another task", got=dataset.task, expected=", ".join(TASKS))
    require_usable_boxes(dataset)


def _dealt(dataset: Dataset, fixed: dict[str, Any], texts: list[str]) -> Dataset:
    """The dataset with the splits that training will deal, by the seed and shares that were asked for."""
    asked = with_overrides({}, texts)
    splits = validate(SplitsSection, asked.get("splits") or {}, "splits")
    seed = asked.get("seed", fixed.get("seed", 0))
    if not isinstance(seed, int) or not 0 <= seed < 2**31:
        raise ConfigError("a seed is a whole number from 0 on", got=seed)
    return with_splits(dataset, seed, splits.shares)


def _arranged(
    run: Run,
    pool: Dataset,
    facts: Fingerprint,
    left_s: float | None,
    asked: tuple[bool, int | None, list[str]],
) -> tuple[Run, Measured, rules.Arrangement]:
    """Measure the step, fit it into time and memory, and take a narrower network where the time is short."""
    free, folds, texts = asked
    task = make_task(run, pool)
    unwelcome = task.supports(facts.dimensions, facts.channels)
    if unwelcome:
        raise DataError(f"{run.task.kind} does not take {unwelcome}")
    device = choose_device(run.device)
    _set_threads(run.fit.threads)
    begin = time.monotonic()
    before = peak_rss_bytes()
    while True:
        measured = measure(task, run, device)
        run = _within_memory(run, before, peak_rss_bytes(), texts)
        still = None if left_s is None else max(1.0, left_s - (time.monotonic() - begin))
        spent = DRAFTS[pool.task].arranged(run, measured.step_s, facts, still, folds)
        slimmer = rules.narrower(run.network, spent) if free else None
        if slimmer is None or any(text.startswith("network.width") for text in texts):
            return run, measured, spent
        allowed = f"{counted(spent.members, 'network')} of {counted(spent.epochs, 'epoch')}"
        why = f"half of {run.network.width:g}: wider, the time would allow only {allowed}"
        run = run.model_copy(update={"network": slimmer, "reasons": {**run.reasons, "network.width": why}})


def _within_memory(run: Run, before: int | None, peak: int | None, texts: list[str]) -> Run:
    """The run with a batch that fits its memory; what a step takes grows with the images in it.

    Raises:
        DataError: Not even the smallest batch fits.
    """
    if (
        before is None
        or peak is None
        or peak <= run.memory_bytes
        or any(text.startswith("fit.batch_size") for text in texts)
    ):
        return run
    each = max(1, peak - before) / run.fit.batch_size
    fitting = int((run.memory_bytes - before) / each)
    if fitting < 2:
        raise DataError(
            "a training step does not fit the memory allowed",
            got=f"{run.memory_bytes / 2**30:.2f} GiB",
            expected=f"at least {(before + 2 * each) / 2**30:.2f} GiB",
            remedy="--memory, a smaller prepare.shape or a smaller network",
        )
    size = 2 ** (fitting.bit_length() - 1)
    why = (
        f"measured here: {run.fit.batch_size} images a step took {peak / 2**30:.1f} GiB; {size} fit the memory allowed"
    )
    fit = run.fit.model_copy(update={"batch_size": min(size, run.fit.batch_size)})
    return run.model_copy(update={"fit": fit, "reasons": {**run.reasons, "fit.batch_size": why}})


def training_cases(dataset: Dataset) -> Dataset:
    """The annotated cases outside the test split.

    Raises:
        DataError: There is none.
    """
    kept = [case for case in dataset if case.split != "test" and case.truth.annotated]
    if not kept:
        raise DataError(f"{dataset.name} has no annotated case outside the test split", remedy="label some cases")
    return dataset.with_cases(kept)


def _with_speed(run: Run, measured: Measured, texts: list[str]) -> Run:
    if any(text.startswith("fit.precision") for text in texts):
        return run
    update = {"precision": measured.precision, "channels_last": measured.channels_last}
    reasons = {**run.reasons, "fit.precision": measured.reason}
    return run.model_copy(update={"fit": run.fit.model_copy(update=update), "reasons": reasons})


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


def _set_threads(count: int | None) -> None:
    import torch

    torch.set_num_threads(count or available_cores())


def _default_memory() -> int:
    import psutil

    return max(2**30, int(psutil.virtual_memory().available * 0.6))
