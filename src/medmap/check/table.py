"""What the table alone says: classes, splits, what is missing."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator

from medmap.check.facts import Facts
from medmap.check.issue import Issue, Severity, named
from medmap.dataset import SPLITS, Dataset
from medmap.errors import counted

IMBALANCE = 4.0  # commonest class over rarest
STRONG_IMBALANCE = 20.0
FEW = 10  # cases of a class with which nothing can be learned or judged
SOME = 30
MOSTLY_MISSING = 0.5


def class_counts(dataset: Dataset, split: str | None = None) -> dict[str, int]:
    """Cases of each class (multi-label: cases that have it), of one split or all."""
    counts = dict.fromkeys(dataset.label_names, 0)
    if dataset.task != "classify" or dataset.kind == "regression":
        return {}
    for case in dataset:
        if split is not None and case.split != split:
            continue
        if case.truth.label is not None:
            counts[dataset.label_names[case.truth.label]] += 1
        for name, value in zip(dataset.label_names, case.truth.values or (), strict=False):
            counts[name] += int(value == 1)
    return counts


def class_without_cases(facts: Facts) -> Iterator[Issue]:
    """A declared class that no case has; or one class only."""
    counts = class_counts(facts.dataset)
    empty = [name for name, count in counts.items() if not count]
    some = [name for name, count in counts.items() if count]
    alone = len(some) == 1 and facts.dataset.kind not in ("multilabel", "regression")
    if not empty and not alone:
        return
    nobody = f"No case belongs to {named(empty)}" if empty else f"Every case belongs to {some[0]}"
    yield Issue(
        "class_without_cases",
        "error" if alone else "warning",
        nobody + ("; there is nothing to tell apart" if alone else ""),
        "Nothing can be learned or said about a class without cases.",
        "Add cases, or remove the class from dataset.yaml.",
        details={"classes": empty},
    )


def nothing_to_learn_from(facts: Facts) -> Iterator[Issue]:
    """No labelled case outside test, or one patient alone."""
    labelled = [case for case in facts.dataset if case.truth.annotated]
    if labelled and all(case.split == "test" for case in labelled):
        yield Issue(
            "no_training_cases",
            "error",
            "Every labelled case is in test",
            "Nothing may be learned from test cases: training refuses.",
            "Empty the split column, or label cases for train and val.",
        )
    patients = {case.patient for case in facts.dataset}
    if facts.dataset.patients_known and len(patients) == 1 and len(facts.dataset) > 1:
        yield Issue(
            "one_patient",
            "error",
            f"All {len(facts.dataset)} cases are of one patient",
            "Splits are by patient: nobody is left to judge the network on.",
            "Add patients, or mend the patient column if it is wrong.",
        )


def class_missing_from_split(facts: Facts) -> Iterator[Issue]:
    """A class that stands in some splits only."""
    dataset = facts.dataset
    everywhere = class_counts(dataset)
    missing: dict[str, list[str]] = {}
    for split in SPLITS:
        if not any(case.split == split for case in dataset):
            continue
        here = class_counts(dataset, split)
        if gone := [name for name, count in everywhere.items() if count and not here[name]]:
            missing[split] = gone
    if missing:
        severity: Severity = "error" if "train" in missing else "warning"
        yield Issue(
            "class_missing_from_split",
            severity,
            "; ".join(f"{split} has no case of {named(names)}" for split, names in missing.items()),
            "What is not in train is never learned; what is not in val or test cannot be judged (AUROC is undefined).",
            "Empty the split column: medmap spreads every class over the splits.",
            details={"missing": missing},
        )


def too_few_cases(facts: Facts) -> Iterator[Issue]:
    """A class with so few cases that little can be learned or judged."""
    dataset = facts.dataset
    counts = {name: count for name, count in class_counts(dataset).items() if 0 < count < SOME}
    if counts:
        few = min(counts.values()) < FEW
        yield Issue(
            "too_few_cases",
            "warning" if few else "info",
            ", ".join(f"{name} has {counted(count, 'case')}" for name, count in list(counts.items())[:4]),
            _interval_words(min(counts.values())),
            "Collect more cases of these classes, join them with a neighbouring class, or use cross-validation.",
            details={"counts": counts},
        )
    in_test = {name: n for name, n in class_counts(dataset, "test").items() if 0 < n < SOME and name not in counts}
    if in_test:
        few = min(in_test.values()) < FEW
        yield Issue(
            "too_few_cases",
            "warning" if few else "info",
            "In test, " + ", ".join(f"{name} has {counted(n, 'case')}" for name, n in list(in_test.items())[:4]),
            _interval_words(min(in_test.values())),
            "Enlarge the test split, or judge by cross-validation (--folds 5).",
            details={"counts_in_test": in_test},
        )


def _interval_words(count: int) -> str:
    half = 1.96 * math.sqrt(0.8 * 0.2 / count)
    return f"With {counted(count, 'case')} a sensitivity of 80 % is known to about ±{100 * half:.0f} percentage points."


def class_imbalance(facts: Facts) -> Iterator[Issue]:
    """One class far commoner than another."""
    if facts.dataset.kind == "multilabel":
        return
    counts = {name: count for name, count in class_counts(facts.dataset).items() if count}
    if len(counts) < 2:
        return
    common, rare = max(counts, key=counts.__getitem__), min(counts, key=counts.__getitem__)
    ratio = counts[common] / counts[rare]
    if ratio < IMBALANCE:
        return
    always = counts[common] / sum(counts.values())
    yield Issue(
        "class_imbalance",
        "warning" if ratio >= STRONG_IMBALANCE else "info",
        f"{common} has {counts[common]:,} cases, {rare} {counts[rare]:,}: {ratio:.0f} to 1",
        f"Always answering {common} is right in {always:.0%} of the cases: accuracy says little here.",
        "Judge by AUROC, balanced accuracy and sensitivity; train with class weights or balanced sampling.",
        details={"counts": counts, "ratio": round(ratio, 2)},
    )


def missing_label(facts: Facts) -> Iterator[Issue]:
    """Cases that nobody has annotated."""
    dataset = facts.dataset
    without = [case.id for case in dataset if not case.truth.annotated]
    if without:
        everything = len(without) == len(dataset)
        yield Issue(
            "missing_label",
            "error" if everything else "warning",
            f"{counted(len(without), 'case')} of {len(dataset):,} {'has' if len(without) == 1 else 'have'} no "
            f"annotation: {named(without)}",
            "They are left out of training and of every metric; if there is a reason, the rest is biased.",
            "Join a table of labels (medmap import STUDIES DEST --labels SHEET for DICOM), or annotate them."
            if everything
            else "Annotate them, or remove the rows; write [] where somebody looked and found nothing.",
            tuple(without),
        )


def missing_input(facts: Facts) -> Iterator[Issue]:
    """Cases without one of the inputs."""
    dataset = facts.dataset
    for name in dataset.inputs:
        without = [case.id for case in dataset if case.inputs.get(name) is None]
        if without:
            yield Issue(
                "missing_input",
                "warning",
                f"{counted(len(without), 'case')} of {len(dataset):,} {'has' if len(without) == 1 else 'have'} no "
                f"{name}: {named(without)}",
                "A network of several inputs sees nothing there; whether an input is missing can give a class away.",
                "Add the images, or remove the input or the cases.",
                tuple(without),
                {"input": name},
            )


def missing_value(facts: Facts) -> Iterator[Issue]:
    """Clinical columns with empty cells; a site or scanner too."""
    dataset = facts.dataset
    names = list(dict.fromkeys(name for case in dataset for name in case.columns))
    empty = {name: [c.id for c in dataset if _gone(c.columns.get(name))] for name in names}
    if any(case.site for case in dataset):
        empty["site"] = [case.id for case in dataset if not case.site]
    empty = {name: cases for name, cases in empty.items() if cases}
    if not empty:
        return
    shares = {name: len(cases) / len(dataset) for name, cases in empty.items()}
    worst = sorted(shares, key=lambda name: -shares[name])
    yield Issue(
        "missing_value",
        "warning" if shares[worst[0]] >= MOSTLY_MISSING else "info",
        "Values are missing in " + ", ".join(f"{name} ({shares[name]:.0%})" for name in worst[:5])
        + (f" and {counted(len(worst) - 5, 'more column')}" if len(worst) > 5 else ""),
        "Subgroup rows leave these cases out, and values are seldom missing by chance.",
        "Fill in what is known; drop columns that are mostly empty.",
        tuple(dict.fromkeys(case for cases in empty.values() for case in cases)),
        {"missing": {name: len(cases) for name, cases in empty.items()}},
    )  # fmt: skip


def _gone(value: object) -> bool:
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def class_summary(dataset: Dataset) -> dict[str, Counter[str]]:
    """Split → class → cases, for the page."""
    found: dict[str, Counter[str]] = {}
    for split in (*SPLITS, None):
        cases = [case for case in dataset if case.split == split]
        if not cases:
            continue
        counts: Counter[str] = Counter()
        for case in cases:
            if case.truth.label is not None:
                counts[dataset.label_names[case.truth.label]] += 1
            elif not case.truth.annotated:
                counts["no annotation"] += 1
            elif case.truth.boxes is not None:
                for label in {label for _, label in case.truth.boxes}:
                    counts[dataset.label_names[label]] += 1
            else:
                for name, value in zip(dataset.label_names, case.truth.values or (), strict=False):
                    counts[name] += int(value == 1)
        found[split or "no split"] = counts
    return found
