"""Finished runs for tests: a bundle of a few numbers, and the evaluation of predictions made from a seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from judged_boxes import answers as boxes_found
from judged_boxes import dataset as boxes_dataset
from judged_masks import judged as judged_anew
from prediction_tables import binary

from medmap.bundle import Bundle, BundleSpec
from medmap.evaluate import (
    DetectionRules,
    PredictionTable,
    Report,
    StructureTable,
    report_from_boxes,
    report_from_table,
    structure_rows,
)
from medmap.metrics import Bootstrap, Estimate

FEW = Bootstrap(200)


def folded(table: Any, split: str = "oof") -> Any:
    """A table as training leaves it: cases of two folds, or of the validation split."""
    cases = list(dict.fromkeys(table.cases))
    folds = tuple(cases.index(case) % 2 if split == "oof" else None for case in table.cases)
    return replace(table, folds=folds, splits=("train" if split == "oof" else "val",) * len(table.cases))


def noisy(table: PredictionTable, seed: int = 9, noise: float = 0.2) -> PredictionTable:
    """Another model's answers for the same cases."""
    rng = np.random.default_rng(seed)
    if table.kind == "regression":
        return replace(table, scores=table.scores + rng.normal(0, 20 * noise, table.scores.shape))
    chance = np.clip(table.scores + rng.normal(0, noise, table.scores.shape), 0.001, 0.999)
    if table.kind != "multilabel":
        chance = chance / chance.sum(axis=1, keepdims=True)
    return replace(table, scores=chance, uncalibrated=None, decided=())


def of_scores(table: PredictionTable, split: str = "oof") -> Report:
    """The evaluation of scores."""
    return report_from_table(folded(table, split), split=split)


judged = cache(judged_anew)


@cache
def _rows(table: StructureTable) -> tuple[Estimate, ...]:
    return structure_rows(table, FEW)


def of_masks(table: StructureTable, split: str = "oof") -> Report:
    """The evaluation of masks."""
    return Report(split, folded(table, split), _rows(table), "livers", None, task="segment")


@cache
def of_boxes(skill: float = 1.0, split: str = "oof") -> Report:
    """The evaluation of boxes."""
    data = boxes_dataset(20)
    folds = {case.id: number % 2 for number, case in enumerate(data)} if split == "oof" else None
    found = boxes_found(data, skill=skill)
    return report_from_boxes(data, found, split=split, rules=DetectionRules(bootstrap=FEW), folds=folds)


def finished(folder: Path, report: Report, *, weights: int = 10, members: int = 1, **changes: Any) -> Path:
    """A run's folder: ``run.yaml``, a bundle of ``weights`` numbers a member, and the evaluation."""
    names = report.structures.structures if report.task == "segment" else report.table.labels
    kind = getattr(report.table, "kind", None)
    network = {"name": "unet", "input_shape": [48, 48], **changes.pop("network", {})}
    settings: dict[str, Any] = {
        "seed": 0,
        "ensemble": {"folds": 2 if report.split == "oof" else 0, "members": members},
        "fit": {"epochs": weights},
        "reasons": {"fit.epochs": folder.name},
    }
    fields: dict[str, Any] = {
        "task": report.task,
        "name": folder.name,
        "created": "2025-01-31T12:00:00Z",
        "medmap_version": "0.1.0",
        "kind": kind,
        "labels": [{"name": name} for name in names],
        "positive": getattr(report.table, "positive", None),
        "inputs": {"image": {"modality": "CT"}},
        "members": [{"network": network, "recipe": {}} for _ in range(members)],
        "run": settings | changes.pop("run", {}),
        **changes,
    }
    states = [{"w": torch.zeros(weights)} for _ in range(members)]
    bundle = Bundle.write(folder / "bundle", BundleSpec.model_validate(fields), states, card=f"# {folder.name}\n")
    replace(report, bundles=(bundle.digest,)).save(folder / "evaluation")
    (folder / "run.yaml").write_text("seed: 0\n")
    return folder


def good_and_poor(folder: Path, **poor: Any) -> tuple[Path, Path]:
    """Two runs that outlined the same livers, the first much better and larger than the second."""
    good = finished(folder / "good", of_masks(judged(noise=0.1)), weights=1000)
    return good, finished(folder / "poor", of_masks(judged(noise=0.9)), **poor)


# what each task's runs are made of: a better and a worse evaluation, the main score, whether less of it is better
TASKS: dict[str, tuple[Callable[[], Report], Callable[[], Report], str]] = {
    "masks": (lambda: of_masks(judged(noise=0.1)), lambda: of_masks(judged(noise=0.9)), "dice"),
    "boxes": (lambda: of_boxes(2.0), lambda: of_boxes(0.4), "ap50"),
    "scores": (lambda: of_scores(binary()), lambda: of_scores(noisy(binary(), noise=0.5)), "auroc"),
}
