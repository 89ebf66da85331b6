"""Reports of every kind, with everything that a page may show."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

# predictions are made in one place, beside the tests of what judges them
sys.path.append(str(Path(__file__).resolve().parents[1] / "evaluate"))

from prediction_tables import KINDS

from medmap.evaluate import Baseline, Circumstances, Failure, Looks, Options, report_from_table
from medmap.evaluate.baselines import compared, headline_rows
from medmap.metrics import Bootstrap


def full_report(kind, **changes):
    """A report with baselines, failures, a flow and several looks."""
    table = KINDS[kind]()
    if changes:
        table = replace(table, **changes)
    weaker = replace(table, scores=table.scores[::-1], uncalibrated=None, decided=(), abstained=None)
    simple = Baseline(
        "thumbnails",
        "logistic regression on thumbnails",
        tuple(headline_rows(weaker)),
        tuple(compared(table, weaker)),
        60,
    )
    found = Circumstances(
        bundles=("sha256:" + "ab" * 32,),
        failed=(Failure("c900", "the file is truncated"),),
        flow=(("supplied", 300), ("without a truth", 3), ("unreadable or refused", 1), ("evaluated", len(table))),
        looks=Looks(3, ("This is look number 3 at this test set.",)),
        baselines=(simple,),
    )
    quick = Options(bootstrap=Bootstrap(200), aggregate_by=("patient",) if kind == "binary" else ())
    return report_from_table(table, split="test", options=quick, circumstances=found, warnings=found.looks.warnings)


@pytest.fixture(scope="session")
def reports():
    return {kind: full_report(kind) for kind in KINDS}


@pytest.fixture(params=KINDS)
def report(request, reports):
    return reports[request.param]


@pytest.fixture(scope="session")
def log():
    rows = []
    for member in range(2):
        for epoch in range(1, 6):
            rows.append(
                {
                    "member": str(member),
                    "epoch": str(epoch),
                    "train_loss": f"{1 / epoch}",
                    "val_auroc": f"{0.9 - 0.3 / epoch}",
                }
            )
    return rows


@pytest.fixture(scope="session")
def picture():
    def of(case):
        return np.arange(64, dtype=np.uint8).reshape(8, 8)

    return of
