"""What stands twice: a patient in two splits, an image in two cases; and whether the labels of copies agree."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from medmap.check.duplicates import equal_groups
from medmap.check.facts import Facts, Progress, references
from medmap.check.issue import Issue, named, worst_first
from medmap.dataset import SPLITS, Case, Dataset
from medmap.errors import DataError, counted

SHOWN_GROUPS = 50  # groups written out in an issue's details

OPTIMISTIC = (
    "The network is tested on what it has learned by heart: every metric of the second split is too good, "
    "and the error is not visible in the metric's interval."
)


def label_text(dataset: Dataset, case: Case) -> str | None:
    """A case's truth as a person would say it; None where nobody has looked or the truth is no class."""
    truth = case.truth
    if truth.label is not None:
        return dataset.labels[truth.label].name
    if truth.values is None:
        return None
    if dataset.kind == "regression":
        return ", ".join(f"{v:g}" for v in truth.values)
    pairs = zip(dataset.label_names, truth.values, strict=False)
    named_parts = [name + ("?" if math.isnan(v) else "") for name, v in pairs if v != 0]
    return " + ".join(named_parts) or "none of the classes"


def _labels_of(dataset: Dataset, group: Sequence[Case]) -> list[str]:
    texts = (label_text(dataset, case) for case in group)
    return list(dict.fromkeys(text for text in texts if text is not None))


def _splits_of(group: Sequence[Case]) -> list[str]:
    found = {case.split for case in group}
    return [name for name in SPLITS if name in found]


def _described(dataset: Dataset, group: Sequence[Case]) -> dict[str, Any]:
    return {
        "cases": [case.id for case in group],
        "splits": [case.split for case in group],
        "patients": [case.patient for case in group],
        "labels": [label_text(dataset, case) for case in group],
    }


def _one(dataset: Dataset, case: Case) -> str:
    said = [part for part in (case.split, label_text(dataset, case)) if part]
    return f"{case.id} ({': '.join(said)})" if said else case.id


def _told(dataset: Dataset, groups: Iterable[Sequence[Case]]) -> list[list[Case]]:
    """Groups in the order in which a person wants them: labels that disagree first, then what reaches into test.

    Within a group one case of each split and label comes first.
    """
    found = []
    for group in groups:
        kinds: dict[tuple[str | None, str | None], int] = {}
        for place, case in enumerate(group):
            kinds.setdefault((case.split, label_text(dataset, case)), place)
        firsts = sorted(kinds.values())
        found.append([group[p] for p in firsts] + [c for p, c in enumerate(group) if p not in firsts])
    found.sort(key=lambda g: (len(_labels_of(dataset, g)) < 2, not any(c.split == "test" for c in g)))
    return found


def _agreement(dataset: Dataset, groups: Sequence[Sequence[Case]]) -> str:
    """A clause on whether the copies carry the same label."""
    labelled = [group for group in groups if sum(label_text(dataset, c) is not None for c in group) > 1]
    if not labelled:
        return ""
    differing = [group for group in labelled if len(_labels_of(dataset, group)) > 1]
    if len(labelled) == 1:
        return "; their labels disagree" if differing else "; their labels agree"
    if not differing:
        return "; in all of them the labels agree"
    return f"; in {len(differing):,} of {len(labelled):,} the labels disagree"


def _issue(dataset: Dataset, groups: list[list[Case]], row: tuple[Any, ...], message: str) -> Issue:
    code, severity, effect, remedy = row
    cases = tuple(dict.fromkeys(case.id for group in groups for case in group))
    described = [_described(dataset, group) for group in groups[:SHOWN_GROUPS]]
    return Issue(code, severity, message, effect, remedy, cases, {"count": len(groups), "groups": described})


# -- patients ---------------------------------------------------------------------------------------------------------


def patient_across_splits(dataset: Dataset) -> Iterator[Issue]:
    """One patient in two splits."""
    if not dataset.patients_known:
        return
    by_patient: dict[str, list[Case]] = defaultdict(list)
    for case in dataset:
        by_patient[case.patient].append(case)
    groups = [group for group in by_patient.values() if len(_splits_of(group)) > 1]
    if not groups:
        return
    first = groups[0]
    where = " and ".join(_splits_of(first))
    message = (
        f"{counted(len(groups), 'patient')} {'stands' if len(groups) == 1 else 'stand'} in more than one split: "
        f"{named([group[0].patient for group in groups])}; patient {first[0].patient} is in {where}"
    )
    remedy = "Empty the split column: medmap splits by patient; or move each patient's cases into one split."
    yield _issue(dataset, groups, ("patient_across_splits", "error", OPTIMISTIC, remedy), message)


def patients_unknown(facts: Facts) -> Iterator[Issue]:
    """The table names no patients, so that each case counts as another one."""
    dataset = facts.dataset
    if dataset.patients_known:
        return
    yield Issue(
        "patients_unknown",
        "info",
        "The dataset does not say which cases belong to the same patient; every case counts as a patient of its own",
        "If a patient has several cases, they may fall into different splits, and intervals come out too narrow.",
        "Add a patient column (pseudonyms) to cases.csv, or to a medmap.csv beside another layout, if any patient has "
        "more than one case.",
    )


# -- copies -----------------------------------------------------------------------------------------------------------


def _across(dataset: Dataset, groups: Iterable[list[Case]]) -> Iterator[Issue]:
    """Exact copies in two splits."""
    found = _told(dataset, (group for group in groups if len(_splits_of(group)) > 1))
    if not found:
        return
    first = found[0]
    if len(found) == 1:
        head = f"The same image stands in {' and '.join(_splits_of(first))}: " + " and ".join(
            _one(dataset, case) for case in first[:3]
        )
    else:
        head = f"{counted(len(found), 'image')} stand in more than one split, the first as " + " and ".join(
            _one(dataset, case) for case in first[:3]
        )
    remedy = "Remove the copies from one of the splits, test first of all; look at their labels before you choose."
    row = ("duplicate_across_splits", "error", OPTIMISTIC, remedy)
    yield _issue(dataset, found, row, head + _agreement(dataset, found))


def duplicate_across_splits(facts: Facts) -> Iterator[Issue]:
    """The same image in two splits."""
    yield from _across(facts.dataset, facts.exact_groups)


def duplicate_conflicting_labels(facts: Facts) -> Iterator[Issue]:
    """The same image with different labels."""
    dataset = facts.dataset
    found = _told(dataset, (group for group in facts.exact_groups if len(_labels_of(dataset, group)) > 1))
    if found:
        head = f"{counted(len(found), 'image')} {'carries' if len(found) == 1 else 'carry'} different labels: "
        message = head + " and ".join(_one(dataset, case) for case in found[0][:3])
        yield _issue(
            dataset,
            found,
            (
                "duplicate_conflicting_labels",
                "error",
                "At least one label is wrong: training is told two answers to one question, and the best possible "
                "accuracy is below 1.",
                "Ask an expert which label is right; correct it or remove the image.",
            ),
            message,
        )


def duplicate_images(facts: Facts) -> Iterator[Issue]:
    """The same image twice, not in two splits."""
    dataset = facts.dataset
    found = _told(dataset, (group for group in facts.exact_groups if len(_splits_of(group)) < 2))
    if not found:
        return
    strangers = [group for group in found if len({case.patient for case in group}) > 1]
    head = f"{counted(len(found), 'image')} {'stands' if len(found) == 1 else 'stand'} more than once: "
    message = head + " and ".join(_one(dataset, case) for case in found[0][:3]) + _agreement(dataset, found)
    effect = "Copies count several times in training and make intervals too narrow."
    if strangers and dataset.patients_known:
        effect += f" In {len(strangers):,} of them the copies belong to different patients: one of the names is wrong."
    if strangers and not dataset.has_splits:
        effect += " A split made by patient can put the copies on both sides."
    row = ("duplicate_images", "warning", effect, "Keep one of each, or give the copies the same patient.")
    yield _issue(dataset, found, row, message)


def near_duplicate_across_splits(facts: Facts) -> Iterator[Issue]:
    """Images that look the same, in two splits."""
    dataset = facts.dataset
    found = _told(dataset, (group for group in facts.near_groups if len(_splits_of(group)) > 1))
    if found:
        head = (
            f"{counted(len(found), 'group')} of images that look the same {'reaches' if len(found) == 1 else 'reach'}"
        )
        message = f"{head} across splits, the first: " + " and ".join(_one(dataset, case) for case in found[0][:3])
        row = (
            "near_duplicate_across_splits",
            "warning",
            "Neighbouring frames, rescaled or recompressed copies let the network recognise a test case: "
            "metrics come out too good.",
            "Look at the pairs; put what comes from one patient or one acquisition into one split.",
        )
        yield _issue(dataset, found, row, message + _agreement(dataset, found))


def near_duplicate_images(facts: Facts) -> Iterator[Issue]:
    """Images that look the same, not in two splits."""
    dataset = facts.dataset
    found = _told(dataset, (group for group in facts.near_groups if len(_splits_of(group)) < 2))
    if not found:
        return
    strangers = [group for group in found if len({case.patient for case in group}) > 1]
    risky = bool(strangers) and not dataset.has_splits
    head = f"{counted(len(found), 'group')} of images that look the same: "
    message = head + " and ".join(_one(dataset, case) for case in found[0][:3]) + _agreement(dataset, found)
    effect = "They say less than their number suggests: intervals come out too narrow."
    if risky:
        effect += " They count as different patients, so a split can put them on both sides."
    remedy = "Give cases of one patient the same patient name; keep one of several copies."
    if not strangers:
        remedy = "Nothing, if one patient was imaged several times: intervals are taken over patients."
    yield _issue(dataset, found, ("near_duplicate_images", "warning" if risky else "info", effect, remedy), message)


# -- for train: leakage alone -----------------------------------------------------------------------------------------


def content_hashes(dataset: Dataset, progress: Progress | None = None) -> dict[str, str]:
    """Hash of all of a case's pixels, by case; a case with an image that cannot be read is left out."""
    from medmap.read import read_ref

    parts: dict[str, list[str]] = {}
    broken: set[str] = set()
    total = sum(1 for _ in references(dataset)) if progress else 0
    for done, (case, name, ref) in enumerate(references(dataset), start=1):
        try:
            image = read_ref(dataset, ref)
        except DataError:
            broken.add(case.id)  # `check` and whoever reads it next say so
        else:
            blank = bool((image.array == image.array.flat[0]).all())
            if blank:
                broken.add(case.id)  # two blank images are not one image twice
            else:
                parts.setdefault(case.id, []).append(f"{name}:{image.content_sha256()}")
        if progress:
            progress(done, total)
    return {case: "|".join(hashes) for case, hashes in parts.items() if case not in broken}


def leakage(dataset: Dataset, hashes: Mapping[str, str] | None = None) -> list[Issue]:
    """What makes the metrics of supplied splits too good: one patient or one image in two of them.

    Args:
        dataset: With splits; without any there is nothing to leak between.
        hashes: Hash of the content of each case's images, by case; read from the images when not given.

    Returns:
        At most one issue of each kind, ``patient_across_splits`` and ``duplicate_across_splits``; for a label that
        differs between copies the message says so.

    Example:
        >>> from medmap.dataset import InputSpec, Ref
        >>> cases = [Case(n, "p7", {"image": Ref(n)}, split=s) for n, s in (("a", "train"), ("b", "test"))]
        >>> leakage(Dataset("demo", "segment", tuple(cases), {"image": InputSpec()}), hashes={})[0].code
        'patient_across_splits'
    """
    splits = Counter(case.split for case in dataset)
    if len(splits.keys() - {None}) < 2:
        return []
    found = list(patient_across_splits(dataset))
    known = content_hashes(dataset) if hashes is None else hashes
    cases = [case for case in dataset if case.id in known]
    groups = equal_groups([known[case.id] for case in cases])
    found += _across(dataset, ([cases[p] for p in group] for group in groups))
    return worst_first(found)
