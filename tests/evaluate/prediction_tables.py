"""Predictions of every kind, made from a seed."""

import numpy as np

from medmap.evaluate import PredictionTable


def names(prefix, n):
    return tuple(f"{prefix}{i:03d}" for i in range(n))


def softmax(z):
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def binary(n=120, seed=0, **changes):
    rng = np.random.default_rng(seed)
    ill = rng.random(n) < 0.35
    z = rng.normal(np.where(ill, 1.0, -1.2), 1.3)
    two = lambda p: np.stack([p, 1 - p], axis=1)  # noqa: E731
    fields = {
        "cases": names("case_", n),
        "patients": names("P", n),
        "truth": np.where(ill, 0, 1),
        "scores": two(1 / (1 + np.exp(-z))),
        "labels": ("malignant", "benign"),
        "kind": "binary",
        "positive": 0,
        "thresholds": (0.3, 0.7),
        "uncalibrated": two(1 / (1 + np.exp(-2 * z))),
        "spread": two(np.full(n, 0.05)),
        "abstained": np.abs(z) < 0.3,
        "sites": tuple(rng.choice(["Ghent", "Lund"], n)),
        "splits": ("test",) * n,
        "columns": {
            "age": tuple(float(v) for v in rng.integers(20, 90, n)),
            "sex": tuple(str(v) for v in rng.choice(["f", "m"], n)),
            "stage": tuple(None if v == "-" else str(v) for v in rng.choice(["I", "II", "-"], n)),
        },
    }
    return PredictionTable(**{**fields, **changes})


def several(kind="multiclass", n=150, seed=1):
    rng = np.random.default_rng(seed)
    truth = rng.choice(3, n, p=[0.5, 0.3, 0.2])
    far = np.abs(np.arange(3)[None] - truth[:, None])
    z = -1.5 * far + rng.normal(0, 0.9, (n, 3))
    return PredictionTable(
        names("c", n), names("p", n), truth, softmax(z), ("none", "mild", "severe"), kind, uncalibrated=softmax(2 * z)
    )


def multilabel(n=150, seed=2):
    rng = np.random.default_rng(seed)
    truth = (rng.random((n, 3)) < [0.4, 0.2, 0.1]).astype(float)
    z = rng.normal(2 * truth - 1, 1)
    truth[rng.random((n, 3)) < 0.05] = np.nan
    truth[0, 0] = 1
    scores = 1 / (1 + np.exp(-z))
    return PredictionTable(
        names("c", n),
        names("p", n),
        truth,
        scores,
        ("effusion", "nodule; left", "hernia"),
        "multilabel",
        thresholds=(0.4, 0.3, 0.2),
    )


def regression(n=100, seed=3, targets=1):
    rng = np.random.default_rng(seed)
    truth = rng.normal(60, 12, (n, targets))
    labels = tuple(f"age {t}" for t in range(targets))
    return PredictionTable(
        names("c", n), names("p", n), truth, truth + rng.normal(1, 5, (n, targets)), labels, "regression"
    )


KINDS = {
    "binary": binary,
    "multiclass": several,
    "ordinal": lambda: several("ordinal"),
    "multilabel": multilabel,
    "regression": regression,
    "two targets": lambda: regression(targets=2),
}
