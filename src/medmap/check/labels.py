"""Labels that are probably wrong: confident learning, out of fold, on thumbnails (Northcutt, Jiang & Chuang 2021)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from medmap.check.facts import Facts
from medmap.check.issue import Issue
from medmap.check.shortcuts import FOLDS, fold_numbers
from medmap.dataset import Case
from medmap.errors import counted

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

FEWEST_A_CLASS = 20
NEIGHBOURS = 15
COMPONENTS = 40
SKILL = 0.10  # part of the way from chance to perfection, certain to two standard errors, or nothing is said
CERTAIN = 0.55  # probability of the other class from which a label is doubted
SHOWN_SHARE = 0.25  # never more than this share of the cases is called suspicious


def probabilities_out_of_fold(features: Floats, labels: Ints, fold: Ints) -> Floats:
    """(n, classes): the mean of logistic regression and of the nearest neighbours, each case judged by other folds.

    Args:
        features: (n, d), such as thumbnails.
        labels: (n,) class numbers from 0 without gaps.
        fold: (n,) the part in which a case is held out.
    """
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    classes = int(labels.max()) + 1
    result = np.zeros((len(labels), classes))
    for number in range(FOLDS):
        held, rest = fold == number, fold != number
        components = min(COMPONENTS, int(rest.sum()) // 5, features.shape[1])
        space = make_pipeline(PCA(components, svd_solver="randomized", random_state=0), StandardScaler())
        near, far = space.fit_transform(features[rest]), space.transform(features[held])
        models = (
            LogisticRegression(C=1.0, max_iter=2000),
            KNeighborsClassifier(min(NEIGHBOURS, int(rest.sum()) // 3), weights="distance"),
        )
        for model in models:
            model.fit(near, labels[rest])
            result[np.ix_(held, model.classes_)] += model.predict_proba(far) / len(models)
    return result


def confident_errors(probabilities: Floats, labels: Ints) -> tuple[Ints, Ints, float]:
    """Cases whose label is probably wrong, the most certain first.

    A case counts into the confident joint C[given][true] when its probability of a class reaches the mean probability
    of that class among the cases labelled so (Northcutt et al. 2021, equations 1 and 2); the number of errors between
    two classes comes from the joint, the cases are those with the largest margin ("prune by noise rate").

    Args:
        probabilities: (n, classes), out of fold.
        labels: (n,) given class numbers.

    Returns:
        Case positions; the class suggested for each; the estimated share of wrong labels.

    Example:
        >>> p = np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.2, 0.8], [0.05, 0.95]])
        >>> confident_errors(p, np.array([0, 0, 1, 1, 0]))[0].tolist()
        [4]
    """
    classes = probabilities.shape[1]
    thresholds = np.array([probabilities[labels == k, k].mean() for k in range(classes)])
    above = np.where(probabilities >= thresholds - 1e-12, probabilities, -1.0)
    confident = above.max(axis=1) >= 0
    guess = above.argmax(axis=1)
    joint = np.zeros((classes, classes))
    np.add.at(joint, (labels[confident], guess[confident]), 1)
    given = np.bincount(labels, minlength=classes).astype(np.float64)
    joint *= (given / np.maximum(joint.sum(axis=1), 1))[:, None]  # calibrated: rows sum to the labels given
    found: list[tuple[float, int, int]] = []
    for i in range(classes):
        for j in range(classes):
            expected = round(joint[i, j])
            if i == j or not expected:
                continue
            # both must hold: the joint counts the case, and the other class is the more probable one outright
            candidates = np.flatnonzero(confident & (labels == i) & (guess == j))
            margin = probabilities[candidates, j] - probabilities[candidates, i]
            keep = np.argsort(-margin, kind="stable")[:expected]
            found += [(float(margin[k]), int(candidates[k]), j) for k in keep if margin[k] > 0]
    found.sort(key=lambda row: (-row[0], row[1]))
    share = float((joint.sum() - np.trace(joint)) / max(joint.sum(), 1))
    return np.array([row[1] for row in found], np.int64), np.array([row[2] for row in found], np.int64), share


def _usable(facts: Facts) -> tuple[list[Case], Floats, Ints, list[int]] | None:
    """Cases with a class and a picture, their thumbnails, and classes with enough cases (renumbered)."""
    dataset = facts.dataset
    if dataset.task != "classify" or dataset.kind in ("multilabel", "regression"):
        return None
    pictures: dict[str, list[Floats]] = {}
    for image in facts.images:
        if image.thumbnail.any():
            pictures.setdefault(image.case, []).append(image.thumbnail.reshape(-1).astype(np.float64) / 255)
    cases = [c for c in dataset if c.truth.label is not None and len(pictures.get(c.id, ())) == len(dataset.inputs)]
    counts = np.bincount([c.truth.label or 0 for c in cases], minlength=len(dataset.labels)) if cases else np.zeros(0)
    classes = [k for k, count in enumerate(counts) if count >= FEWEST_A_CLASS]
    cases = [case for case in cases if case.truth.label in classes]
    if len(classes) < 2:
        return None
    labels = np.array([classes.index(case.truth.label or 0) for case in cases])
    return cases, np.stack([np.concatenate(pictures[case.id]) for case in cases]), labels, classes


def likely_label_error(facts: Facts) -> Iterator[Issue]:
    """Labels that the images of all other patients contradict."""
    names = facts.dataset.label_names
    usable = _usable(facts)
    fold = fold_numbers(usable[0]) if usable else None
    if usable is None or fold is None:
        yield _silent("There are too few cases to look for wrong labels "
                      f"(at least {FEWEST_A_CLASS} in each of two classes, one class a case)")  # fmt: skip
        return
    cases, features, labels, classes = usable
    probabilities = probabilities_out_of_fold(features, labels, fold)
    right = probabilities.argmax(axis=1) == labels
    balanced = float(np.mean([right[labels == k].mean() for k in range(len(classes))]))
    error = float(np.sqrt(np.sum([0.25 / (labels == k).sum() for k in range(len(classes))]))) / len(classes)
    if balanced - 2 * error < 1 / len(classes) + SKILL * (1 - 1 / len(classes)):
        yield _silent(f"Thumbnails do not tell the classes apart (balanced accuracy {balanced:.2f}), so wrong labels "
                      "cannot be found this way")  # fmt: skip
        return
    positions, suggested, share = confident_errors(probabilities, labels)
    sure = probabilities[positions, suggested] >= CERTAIN
    positions, suggested = positions[sure], suggested[sure]
    most = max(1, int(SHOWN_SHARE * len(cases)))
    positions, suggested = positions[:most], suggested[:most]
    if not len(positions):
        return
    rows = [
        {
            "case": cases[p].id,
            "given": names[classes[labels[p]]],
            "suggested": names[classes[s]],
            "probability": round(float(probabilities[p, s]), 3),
        }
        for p, s in zip(positions, suggested, strict=True)
    ]
    first = rows[0]
    yield Issue(
        "likely_label_error",
        "warning",
        f"{counted(len(rows), 'label')} of {len(cases):,} may be wrong, the most suspicious first: {first['case']} is "
        f"labelled {first['given']} and looks like {first['suggested']} ({first['probability']:.0%})",
        "Wrong labels in training blur the border between classes; in test they put a ceiling on every metric.",
        "Let an expert look at them without the label, from the top of the list; rare but right cases stand there too.",
        tuple(str(row["case"]) for row in rows),
        {"rows": rows, "estimated_share": round(share, 4), "balanced_accuracy": round(balanced, 3)},
    )


def _silent(why: str) -> Issue:
    return Issue(
        "label_errors_not_assessed",
        "info",
        why,
        "The dataset may hold wrong labels; this check cannot say.",
        "After training, look at the cases with the greatest loss in the report.",
    )
