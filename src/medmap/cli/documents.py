"""What ``--json`` says of ``train``, ``plan``, ``import`` and ``fetch``: paths, digests, headline numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medmap.bundle import Bundle
    from medmap.dataset import Dataset
    from medmap.plan import Run


def of_training(bundle: Bundle, output: Path) -> dict[str, Any]:
    """The bundle and its evaluation; ``report`` is None where no case could judge the networks."""
    report = output / "evaluation" / "report.html"
    metrics = output / "evaluation" / "metrics.json"
    found = json.loads(metrics.read_text(encoding="utf-8")) if metrics.exists() else {"metrics": []}
    return {
        "run": str(output),
        "bundle": str(bundle.path),
        "digest": bundle.digest,
        "members": len(bundle.spec.members),
        "report": str(report) if report.exists() else None,
        "split": found.get("split"),
        "metrics": {
            row["name"]: {key: row[key] for key in ("value", "low", "high")}
            for row in found["metrics"]
            if row["group"] == "all" and row["average"] is None and row["stage"] in (None, "calibrated")
        },
        "warnings": list(bundle.spec.warnings),
    }


def of_plan(run: Run, output: Path) -> dict[str, Any]:
    """What will be trained, in short, and why."""
    return {
        "plan": str(output),
        "network": run.network.name,
        "shape": list(run.prepare.shape),
        "folds": run.ensemble.folds,
        "members": run.ensemble.members,
        "epochs": run.fit.epochs,
        "batch_size": run.fit.batch_size,
        "seed": run.seed,
        "device": run.device,
        "budget_s": run.budget_s,
        "memory_bytes": run.memory_bytes,
        "reasons": dict(run.reasons),
    }


def of_dataset(data: Dataset, folder: Path) -> dict[str, Any]:
    """The dataset that an import wrote."""
    return {
        "dataset": str(folder / "dataset.yaml"),
        "digest": data.digest,
        "name": data.name,
        "task": data.task,
        "labels": list(data.label_names),
        "cases": len(data),
        "patients": len({case.patient for case in data}) if data.patients_known else None,
    }


def of_fetched(name: str, path: Path) -> dict[str, Any]:
    """The file that a fetch left, whose checksum was verified."""
    from medmap.layouts import PUBLIC

    public = PUBLIC[name]
    return {
        "name": name,
        "path": str(path),
        "bytes": path.stat().st_size,
        "digest": f"md5:{public.md5}",
        "licence": public.licence,
    }
