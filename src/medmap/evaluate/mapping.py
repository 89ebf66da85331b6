"""Another hospital's data in a bundle's terms: its classes and inputs under the bundle's names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from medmap.dataset import Case, Dataset, Truth
from medmap.errors import UsageError

if TYPE_CHECKING:
    from medmap.bundle import Bundle

COLOURS = ("red", "green", "blue", "alpha")  # the order in which every reader of medmap gives them
INDEXED = ("binary", "multiclass", "ordinal")  # kinds whose truth is one class index


def in_terms_of(
    bundle: Bundle,
    dataset: Dataset,
    labels: Mapping[str, str | None] | None = None,
    inputs: Mapping[str, str] | None = None,
) -> Dataset:
    """The dataset with the bundle's classes, in the bundle's order, and its inputs.

    Args:
        bundle: What will answer.
        dataset: Cases with truth in their own words.
        labels: Their class → the bundle's class; several may become one; None leaves a class's cases out (of boxes,
            the class's boxes). A class that is not named keeps its name.
        inputs: Their input → the bundle's input (several files of one case are several inputs).

    Raises:
        UsageError: A class or an input the bundle does not know, another kind of truth, or no case left.
    """
    own = _with_inputs(bundle, dataset, dict(inputs or {}))
    if dataset.task != bundle.spec.task:
        raise UsageError("the dataset is for another task than the bundle", got=dataset.task, expected=bundle.spec.task)
    if bundle.spec.task == "segment":
        return _with_structures(bundle, own, dict(labels or {}))
    if bundle.spec.task == "detect":
        return _with_boxes(bundle, own, dict(labels or {}))
    return _with_labels(bundle, own, dict(labels or {}))


def channel_order(channels: Mapping[str, str] | Sequence[str]) -> tuple[str, ...]:
    """Their channels' names in the order in which the bundle takes channels.

    Args:
        channels: Their channel → ours, colours in any order (ours are red, green, blue), others in the bundle's order;
            or their names alone, in the bundle's order.

    Raises:
        UsageError: No channel, or one of ours that is given twice.

    Example:
        >>> channel_order({"b": "blue", "g": "green", "r": "red"})
        ('r', 'g', 'b')
    """
    if isinstance(channels, str) or not channels:
        raise UsageError("channels are a mapping of names, or names in order", got=repr(channels))
    if not isinstance(channels, Mapping):
        return tuple(channels)
    ours = list(channels.values())
    if len(set(ours)) != len(ours):
        raise UsageError("two channels become the same one", got=ours, expected="each of the bundle's channels once")
    theirs = {our: their for their, our in channels.items()}
    order = [name for name in COLOURS if name in theirs] if set(ours) <= set(COLOURS) else ours
    return tuple(theirs[name] for name in order)


def _with_inputs(bundle: Bundle, dataset: Dataset, inputs: dict[str, str]) -> Dataset:
    wanted = tuple(bundle.spec.inputs)
    if unknown := sorted(set(inputs) - set(dataset.inputs)):
        raise UsageError("the dataset has no such input", got=unknown, expected=sorted(dataset.inputs))
    named = {inputs.get(theirs, theirs): theirs for theirs in dataset.inputs}
    if not inputs and len(wanted) == 1 and len(dataset.inputs) == 1:
        named = {wanted[0]: next(iter(dataset.inputs))}
    missing = [name for name in wanted if name not in named]
    if missing:
        raise UsageError(
            "the dataset lacks an input of the bundle",
            got=sorted(dataset.inputs),
            expected=", ".join(wanted),
            remedy=f"say which input it is (inputs={{'theirs': {missing[0]!r}}})",
        )
    if tuple(dataset.inputs) == wanted and all(named[name] == name for name in wanted):
        return dataset
    cases = tuple(
        replace(case, inputs={name: case.inputs[named[name]] for name in wanted if named[name] in case.inputs})
        for case in dataset
    )
    return replace(dataset, cases=cases, inputs={name: dataset.inputs[named[name]] for name in wanted})


def _with_labels(bundle: Bundle, dataset: Dataset, labels: dict[str, str | None]) -> Dataset:
    ours = tuple(label.name for label in bundle.labels)
    kind = bundle.spec.kind or dataset.kind
    theirs = dataset.label_names
    if dataset.kind != kind and not {dataset.kind, kind} <= set(INDEXED):
        raise UsageError("bundle and dataset hold other kinds of truth", got=dataset.kind, expected=kind)
    if unknown := sorted(set(labels) - set(theirs)):
        raise UsageError("the dataset has no such class", got=unknown, expected=", ".join(theirs))
    becomes = {name: labels.get(name, name) for name in theirs}
    strange = [name for name in theirs if becomes[name] is not None and becomes[name] not in ours]
    if strange and (kind not in INDEXED or any(_has(case, dataset, strange) for case in dataset)):
        raise UsageError(
            "the bundle does not know a class of the dataset",
            got=", ".join(str(becomes[name]) for name in strange),
            expected=", ".join(ours),
            remedy=f"say what it is called there (--label {strange[0]}=…), or leave it out (--label {strange[0]}=)",
        )
    if kind not in INDEXED and (absent := [name for name in ours if name not in becomes.values()]):
        raise UsageError("the dataset says nothing about a class of the bundle", got=absent, expected=", ".join(ours))
    target = {i: ours.index(str(becomes[n])) if becomes[n] in ours else None for i, n in enumerate(theirs)}
    moved = [_moved(case, target, len(ours)) for case in dataset]
    cases = tuple(case for case in moved if case is not None)
    if not any(case.truth.annotated for case in cases) and any(case.truth.annotated for case in dataset):
        raise UsageError(f"no case of {dataset.name} has a class that the bundle knows", expected=", ".join(ours))
    positive = bundle.spec.positive if kind == "binary" else None
    return replace(dataset, cases=cases, labels=bundle.labels, kind=kind, positive=positive)


def _with_structures(bundle: Bundle, dataset: Dataset, labels: dict[str, str | None]) -> Dataset:
    ours = tuple(label.name for label in bundle.labels)
    regions = {name: tuple(values) for name, values in dict(bundle.spec.provenance.get("regions") or {}).items()}
    if regions:
        return _with_regions(dataset, regions, labels)
    theirs = tuple(labels.get(name, name) for name in dataset.label_names)
    if theirs != ours:
        raise UsageError(
            "the masks have other structures, or the same in another order, than the bundle's",
            got=", ".join(str(name) for name in theirs),
            expected=", ".join(ours),
            remedy="say what a structure is called there, or import the masks with the bundle's values",
        )
    return replace(dataset, labels=bundle.labels)


def _with_regions(dataset: Dataset, regions: dict[str, tuple[int, ...]], labels: dict[str, str | None]) -> Dataset:
    """The dataset with the bundle's regions; they are made of the same values of its masks."""
    theirs = {str(labels.get(name, name)): values for name, values in dataset.regions.items()}
    if theirs != regions or list(theirs) != list(regions):
        raise UsageError(
            "the dataset has other regions than the bundle's",
            got=theirs or "none",
            expected=regions,
            remedy="state the same regions in dataset.yaml, or import the masks with the bundle's values",
        )
    return replace(dataset, regions=theirs)


def _with_boxes(bundle: Bundle, dataset: Dataset, labels: dict[str, str | None]) -> Dataset:
    ours, theirs = tuple(label.name for label in bundle.labels), dataset.label_names
    if unknown := sorted(set(labels) - set(theirs)):
        raise UsageError("the dataset has no such class", got=unknown, expected=", ".join(theirs))
    becomes = [labels.get(name, name) for name in theirs]
    if strange := [name for name, our in zip(theirs, becomes, strict=True) if our is not None and our not in ours]:
        raise UsageError(
            "the bundle does not know a class of the dataset",
            got=", ".join(strange),
            expected=", ".join(ours),
            remedy=f"say what it is called there (--label {strange[0]}=…), or leave it out (--label {strange[0]}=)",
        )
    if not any(becomes):
        raise UsageError(f"no class of {dataset.name} is left to be found", expected=", ".join(ours))
    target = {number: ours.index(our) for number, our in enumerate(becomes) if our is not None}
    if theirs == ours and all(number == our for number, our in target.items()) and len(target) == len(ours):
        return replace(dataset, labels=bundle.labels)
    cases = tuple(replace(case, truth=_boxes_moved(case.truth, target, len(ours))) for case in dataset)
    return replace(dataset, cases=cases, labels=bundle.labels)


def _boxes_moved(truth: Truth, target: Mapping[int, int], count: int) -> Truth:
    """A truth with its boxes in the bundle's classes; those that the dataset does not have were not looked at."""
    if truth.boxes is None:
        return truth
    looked_at = target if truth.known is None else [number for number in truth.known if number in target]
    # a class that several of theirs become was looked at where all of them were
    partly = {our for number, our in target.items() if number not in looked_at}
    known = tuple(sorted({target[number] for number in looked_at} - partly))
    if not known:
        return Truth()
    boxes, ignored = (
        tuple((corners, target[label]) for corners, label in some if label in target)
        for some in (truth.boxes, truth.ignored)
    )
    return replace(truth, boxes=boxes, ignored=ignored, known=None if len(known) == count else known)


def _has(case: Case, dataset: Dataset, names: list[str]) -> bool:
    return case.truth.label is not None and dataset.label_names[case.truth.label] in names


def _moved(case: Case, target: Mapping[int, int | None], count: int) -> Case | None:
    """The case with its truth in the bundle's order; None where its class is left out."""
    truth = case.truth
    if truth.label is not None:
        label = target[truth.label]
        return None if label is None else replace(case, truth=replace(truth, label=label))
    if truth.values is not None:
        values = np.full(count, np.nan)
        for theirs, value in enumerate(truth.values):
            ours = target.get(theirs)
            if ours is not None:  # of several that become one, any that is there counts
                values[ours] = np.fmax(values[ours], value)
        return replace(case, truth=replace(truth, values=tuple(map(float, values))))
    return case
