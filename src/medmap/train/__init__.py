"""The conductor: leakage, recipe, store, members, decision, bundle, export, report, card. The loop is ``fit``'s."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medmap import prepare
from medmap.bundle import COARSE
from medmap.check import leakage
from medmap.dataset import Dataset, with_splits
from medmap.errors import ConfigError, DataError, InterruptedRun, NotFiniteError, UsageError
from medmap.evaluate import says_little_use
from medmap.feed import Feed
from medmap.fit import FitState, fit, keep_heap, start
from medmap.networks import load_weights
from medmap.plan import Run, build, choose_device, make_task, require_learnable, sample_images, training_cases
from medmap.runtime import available_cores
from medmap.train import cascade, classified, detected, segmented
from medmap.train.checkpoint import Checkpoints
from medmap.train.clock import Clock
from medmap.train.events import Event, Listener, warn_only
from medmap.train.finish import finish
from medmap.train.initial import initial_weights
from medmap.train.members import Member, members
from medmap.train.parts import Trained, Work
from medmap.train.record import Record
from medmap.train.sheet import write_contact_sheet

if TYPE_CHECKING:
    from medmap.bundle import Bundle

__all__ = ["Clock", "Event", "Trained", "train"]

# what stands in a run's folder before its first epoch
BEGUN = ("run.yaml", "augmented.png", "log.csv", "tensorboard", "store", COARSE)
CRAFTS: dict[str, Any] = {
    "classify": classified,
    "detect": detected,
    "segment": segmented,
}  # what is each task's own in a training


def train(
    run: Run,
    dataset: Dataset,
    output: str | Path,
    *,
    resume: bool = False,
    listener: Listener = warn_only,
    started: float | None = None,
) -> Bundle:
    """Train a run on a dataset and leave a usable bundle, its evaluation and its log.

    Args:
        run: From ``plan`` or ``Run.load``.
        dataset: Cases without a split are dealt into train, val and test by patient; test cases are never learned from.
        output: The run's folder; must not exist yet, unless ``resume``.
        resume: Go on where a killed or interrupted run of the same ``run.yaml`` stands.
        listener: Told what happens; the default turns warnings into Python warnings.
        started: ``time.time()`` from which the budget counts; default now.

    Raises:
        UsageError: The folder exists, or there is nothing to resume.
        DataError: Data that cannot be learned from; a loss that is no number (with the cases of the batch).
        InterruptedRun: Ctrl-C; the state is saved.

    Example:
        ``bundle = mm.train(mm.plan(data, budget_s=600), data, "runs/first")``
    """
    keep_heap()
    require_learnable(dataset)
    folder = _folder(Path(output), resume)
    clock = Clock(time.time() if started is None else started, run.budget_s)
    with _empty_if_refused(folder, resume):
        work = _prepare(run, with_splits(dataset, run.seed, run.splits.shares), folder, (clock, listener, resume))
        done: list[Trained] = []
        try:
            _train_members(work, done)
        except (KeyboardInterrupt, NotFiniteError) as stop:
            _leave_what_there_is(work, done)
            if isinstance(stop, NotFiniteError):
                raise
            raise InterruptedRun("stopped by hand; every finished epoch is saved", remedy="--resume goes on") from stop
    return finish(work, done)


@contextmanager
def _empty_if_refused(folder: Path, resume: bool) -> Iterator[None]:
    """The folder as it was found, empty, where a run is refused before its first epoch: the next call may take it."""
    try:
        yield
    except (ConfigError, DataError) as refused:
        learned = any((folder / made).exists() for made in ("checkpoint", f"{COARSE}/checkpoint", f"{COARSE}/bundle"))
        if not (resume or learned or isinstance(refused, NotFiniteError)):
            for made in (folder / name for name in BEGUN):
                shutil.rmtree(made) if made.is_dir() else made.unlink(missing_ok=True)
        raise


def _leave_what_there_is(work: Work, done: list[Trained]) -> None:
    """A usable bundle of the finished networks, else of the one in progress; nothing before its first epoch."""
    if not done:
        held = work.checkpoints.load("current")
        first = members(work.store, work.run.ensemble, work.run.seed)[0]
        if held is None or held[1]["member"] != first.number:
            return
        state = start(build(work.task, work.run, seed=first.seed), work.run.fit, choose_device(work.run.device))
        state.restore(held[0], held[1]["state"])
        done.append(_trained(work, first, state, f"stopped after epoch {state.epoch} of {work.run.fit.epochs}"))
    work.listen(Event("line", f"writing the bundle of {len(done)} of {work.run.ensemble.members} networks"))
    finish(work, done)


def _folder(output: Path, resume: bool) -> Path:
    taken = output.exists() and any(output.iterdir()) if output.is_dir() else output.exists()
    if resume and not (output / "run.yaml").exists():
        raise UsageError(f"there is nothing to resume in {output}", remedy="start without --resume")
    if taken and not resume:
        raise UsageError(f"{output} is not empty", remedy="choose another folder, or go on with --resume")
    output.mkdir(parents=True, exist_ok=True)
    return output


def _prepare(run: Run, dataset: Dataset, output: Path, how: tuple[Clock, Listener, bool]) -> Work:
    import torch

    clock, listener, resume = how
    listen = _once(listener)
    threads = run.fit.threads or available_cores()
    fit_section = run.fit.model_copy(update={"threads": threads})
    run = run.model_copy(update={"fit": fit_section, "device": choose_device(run.device).type})
    if not resume:
        run.save(output / "run.yaml")
    coarse_bundle = _coarse_first(run, dataset, output, (listen, resume))
    torch.set_num_threads(threads)  # after the coarse network, which has threads of its own
    recipe = prepare.fit(run.prepare, sample_images(training_cases(dataset), 1000))
    craft = CRAFTS[run.task.kind]

    def progress(done: int, total: int) -> None:
        listen(Event("progress", "preparing", done, total))

    store = craft.store(run, dataset, recipe, output / "store", progress)
    pool, coarse = cascade.looked_at(_pool(store), run, coarse_bundle, output / COARSE)
    if coarse is not None and not coarse.reliable:
        run = run.model_copy(update={"coarse": None, "reasons": {**run.reasons, "coarse": coarse.doubt or ""}})
    checkpoints = Checkpoints(output / "checkpoint", _digest(run, recipe, pool, coarse))
    checkpoints.require_same_run()
    hashes = {case.id: digest for case, digest in zip(store.cases, store.hashes, strict=True) if digest}
    leaks = [f"{issue.message.rstrip('.')}. {issue.effect}" for issue in leakage(_met(dataset, pool, run), hashes)]
    doubts = [*craft.doubts(dataset.with_cases(pool.cases)), *([coarse.doubt] if coarse and coarse.doubt else [])]
    for event in (*(Event("leakage", text) for text in leaks), *(Event("warning", text) for text in doubts)):
        listen(event)
    for case, reason in store.failed.items():
        listen(Event("warning", f"left out: {reason}" if case in reason else f"left out: case {case}: {reason}"))
    task = make_task(run, dataset.with_cases(pool.cases))
    for where, why in run.reasons.items():
        listen(Event("line", f"{where}: {why}"))
    write_contact_sheet(output / "augmented.png", pool, task, run, recipe)
    record, warned = Record(output), (*leaks, *doubts)
    coarse = coarse if run.coarse else None
    return Work(run, dataset, output, task, craft, recipe, pool, checkpoints, clock, listen, record, warned, coarse)


def _once(listen: Listener) -> Listener:
    """A listener that hears each warning once: a coarse network and the other have the same to say of their data."""
    heard: set[str] = set()

    def told(event: Event) -> None:
        if event.kind not in ("warning", "leakage") or event.text not in heard:
            listen(event)
        heard.add(event.text)

    return told


def _coarse_first(run: Run, dataset: Dataset, output: Path, how: tuple[Listener, bool]) -> Bundle | None:
    """The coarse network, trained in a folder of its own before anything else; None where the run has none."""
    coarse = run.coarse_run
    if coarse is None:
        return None
    listen, resume = how
    folder = output / COARSE
    # a network that cannot be made is found before hours of training another
    build(make_task(run, training_cases(dataset)), run, seed=0)
    if resume and (done := cascade.finished(folder)) is not None:
        return done

    def told(event: Event) -> None:
        if says_little_use(event.text):  # it is rough by design, and judged by where it says to look
            event = replace(event, kind="line")
        listen(event if event.kind in ("warning", "leakage") else replace(event, text=f"coarse: {event.text}"))

    begun = resume and (folder / "run.yaml").exists()
    return cascade.finish(folder, train(coarse, dataset, folder, resume=begun, listener=told))


def _pool(store: Any) -> Any:
    """The store as training may see it: annotated cases outside the test split."""
    rows = [i for i, c in enumerate(store.cases) if c.split != "test" and c.truth.annotated]
    return store.subset(rows)


def _met(dataset: Dataset, pool: Any, run: Run) -> Dataset:
    """The cases between which something can leak: the pool and the test split; folds make one split of the pool."""
    learned = {case.id for case in pool.cases}
    cases = [case for case in dataset if case.id in learned or case.split == "test"]
    if run.ensemble.folds:
        cases = [case if case.split == "test" else replace(case, split="train") for case in cases]
    return dataset.with_cases(cases)


def _digest(run: Run, recipe: prepare.Recipe, store: Any, coarse: cascade.Coarse | None) -> str:
    """What makes a checkpoint this run's: settings but budget and words, the recipe, the pixels, where is looked."""
    import hashlib
    import json

    settings = run.model_dump(mode="json", exclude={"reasons", "budget_s", "memory_bytes"})
    where = coarse.as_json() if coarse else None
    facts = [settings, recipe.as_json(), [c.id for c in store.cases], store.hashes, where]
    text = json.dumps(facts, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _train_members(work: Work, done: list[Trained]) -> None:
    longest = 0.0
    for member in members(work.store, work.run.ensemble, work.run.seed):
        begin = time.monotonic()
        if done and work.clock.left_s < longest * 0.97:
            work.listen(
                Event("line", f"the budget ends training after {len(done)} of {work.run.ensemble.members} networks")
            )
            break
        finished = work.checkpoints.load(f"member{member.number}")
        trained = _restored(member, *finished) if finished else _train_member(work, member)
        done.append(trained)
        if not finished:
            longest = max(longest, time.monotonic() - begin)
            _keep(work, trained)
        work.record.member_done(trained.member.number, trained.rows)


def _train_member(work: Work, member: Member) -> Trained:
    run, task = work.run, work.task
    net = build(task, run, seed=member.seed)
    if run.network.init:
        report = load_weights(net, initial_weights(run.network.init, member.number))
        if member.number == 0:
            work.listen(Event("line", f"starting weights: {len(report.loaded)} tensors from {run.network.init}"))
    state = start(net, run.fit, choose_device(run.device))
    feed = feed_of(work, member)
    held = work.checkpoints.load("current")
    if held is not None and held[1]["member"] == member.number:
        state.restore(held[0], held[1]["state"])
    stopped: list[str] = []
    epoch_s: list[float] = []
    begin = [time.monotonic()]

    def on_epoch(now: FitState) -> bool:
        work.checkpoints.save("current", now.tensors(), {"member": member.number, "state": now.facts()})
        work.record.epoch(member.number, now.rows)
        epoch_s.append(time.monotonic() - begin[0])
        begin[0] = time.monotonic()
        if now.epoch < run.fit.epochs and work.clock.left_s < float(np.median(epoch_s[-5:])):
            stopped.append(f"the time budget ended in epoch {now.epoch} of {run.fit.epochs}")
        return bool(stopped)

    def on_step(epoch: int, step: int, loss: float) -> bool:
        total = run.ensemble.members * run.fit.epochs * feed.steps
        at = (member.number * run.fit.epochs + epoch) * feed.steps + step + 1
        work.listen(Event("progress", work.record.headline(member.number, epoch, loss, state.rows), at, total))
        return work.clock.left_s < 0

    fit(task, feed, member.judge, run.fit, state, on_epoch, on_step)
    if not stopped and state.epoch < run.fit.epochs:
        stopped.append(f"no better epoch for {run.fit.patience_epochs} epochs")
    return _trained(work, member, state, stopped[0] if stopped else None)


def _trained(work: Work, member: Member, state: FitState, stopped: str | None) -> Trained:
    """What a member leaves: the weights that are kept, and what they make of the cases that judge it."""
    net = state.take_best()
    kept = work.craft.learned(work, member, state)
    weights = {k: v.detach().cpu().contiguous() for k, v in net.state_dict().items()}
    return Trained(member, weights, kept, state.rows, state.epoch, stopped)


def feed_of(work: Work, member: Member) -> Feed:
    """The batches a member learns from."""
    cases = [work.store.cases[int(row)] for row in member.learn]
    weights = work.task.sampling_weights(cases)
    section, repeats = work.run.augment, getattr(work.run.task, "patches", 1)
    return Feed(work.store, member.learn, work.task, work.run.fit.batch_size, member.seed, section, weights, repeats)


def _keep(work: Work, trained: Trained) -> None:
    tensors = {f"weights.{k}": v for k, v in trained.weights.items()} | trained.kept
    facts = {"rows": trained.rows, "epochs": trained.epochs, "stopped": trained.stopped}
    work.checkpoints.save(f"member{trained.member.number}", tensors, facts)
    work.checkpoints.drop("current")


def _restored(member: Member, tensors: dict[str, Any], facts: dict[str, Any]) -> Trained:
    weights = {k.removeprefix("weights."): v for k, v in tensors.items() if k.startswith("weights.")}
    kept = {k: v for k, v in tensors.items() if not k.startswith("weights.")}
    return Trained(member, weights, kept, facts["rows"], facts["epochs"], facts["stopped"])
