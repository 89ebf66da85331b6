"""A model that is of little use is called so, in the report, in its bundle and where it answers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from medmap.bundle import Bundle
from medmap.cli import run as medmap
from medmap.evaluate import little_use, read_structures, report_from_table, says_little_use
from medmap.evaluate.table import PredictionTable
from medmap.layouts import open_dataset
from medmap.metrics import Estimate
from medmap.train import train
from nested_masks import nested_run, write_nested


def row(name: str, value: float | None, low: float | None = None, high: float | None = None, **more: str) -> Estimate:
    return Estimate(name, value, low, high, 20, None if low is None else "bootstrap", **more)  # type: ignore[arg-type]


def test_its_own_sentences_are_known_again() -> None:
    bad = [row("dice", 0.1, group="a"), row("lesion_sensitivity", 0.0, group="b"), row("auroc", 0.5)]
    told = [*little_use(bad), *little_use([row("ap50", 0.0)])]
    assert len(told) == 4
    assert all(says_little_use(text) for text in told)
    assert not says_little_use("calibration: the scores say nothing about these cases")


def test_structures_with_little_overlap_are_named_worst_first() -> None:
    rows = [
        row("dice", 0.4, 0.3, 0.5),
        row("dice", 0.9, 0.8, 0.95, group="liver"),
        row("dice", 0.45, 0.3, 0.6, group="spleen"),
        row("dice", 0.0, 0.0, 0.01, group="tumour"),
        row("dice", 0.1, group="site=south"),
        row("dice", 0.2, group="liver", stage="observer 2"),
        row("iou", 0.1, group="liver"),
    ]
    (said,) = little_use(rows)
    assert said.startswith("These masks are of little use.")
    assert "for tumour 0.00 (0.00 to 0.01), spleen 0.45 (0.30 to 0.60):" in said
    assert "liver" not in said
    assert "south" not in said
    assert little_use([one for one in rows if one.group in ("liver", "site=south")]) == []
    assert "is below 0.5 for 0.40 (0.30 to 0.50):" in little_use(rows[:1])[0]
    many = [row("dice", 0.01 * n, group=f"s{n}") for n in range(9)]
    assert "s3 0.03 and 5 more" in little_use(many)[0]


def test_a_structure_that_most_cases_lack_is_judged_by_what_is_met() -> None:
    """Empty masks of a lesion that four of twenty cases have: Dice 0.80, and nothing found."""
    rows = [
        row("dice", 0.8, 0.6, 0.95, group="lesion"),
        row("dice", 0.8, 0.6, 0.95),
        row("lesion_sensitivity", 0.0, 0.0, 0.5, group="lesion"),
        row("lesion_sensitivity", 0.0, 0.0, 0.5),
    ]
    (said,) = little_use(rows)
    assert said.startswith("These masks miss nearly all")
    assert "lesion 0.00 (0.00 to 0.50)" in said
    both = [row("dice", 0.1, group="lesion"), row("lesion_sensitivity", 0.1, group="lesion")]
    assert len(little_use(both)) == 1, "said once"
    assert little_use([row("lesion_sensitivity", None, group="lesion"), row("dice", 0.9, group="lesion")]) == []


def test_scores_that_may_be_guesses() -> None:
    assert little_use([row("auroc", 0.7, 0.55, 0.8, stage="calibrated")]) == []
    (said,) = little_use([row("auroc", 0.6, 0.45, 0.75, stage="uncalibrated")])
    assert "0.60 (0.45 to 0.75)" in said
    both = [row("auroc", 0.6, 0.45, 0.75, stage="uncalibrated"), row("auroc", 0.7, 0.6, 0.75, stage="calibrated")]
    assert little_use(both) == [], "what counts is the last stage"
    assert little_use([row("auroc", None), row("auroc", 0.51)]) == []
    assert "guessing, is 0.49" in little_use([row("auroc", 0.49)])[0]
    rare = [row("auroc", 0.93, 0.84, 0.99), row("auroc", 0.6, 0.3, 0.9, group="rare")]
    assert little_use(rare) == [], "all classes together are told apart"
    assert little_use([row("auroc", 1.0, 0.29, 1.0)]) == [], "few cases are told of elsewhere"


def test_boxes_that_hit_nothing_by_the_mildest_rule() -> None:
    boxes = [row("ap50", 0.09), row("ap50", 0.02, group="size<5mm"), row("ap50", 0.02, group="size=5–10mm")]
    assert little_use(boxes)[0].endswith("is 0.09.")
    assert little_use([row("ap50", 0.1), row("auroc", 0.6, 0.4, 0.8)]) == [], "images are not what boxes are judged by"
    assert little_use([row("ap50", 0.0), row("ap10", 0.94)]) == [], "roughly placed, and found"
    assert "AP10" in little_use([row("ap50", 0.0), row("ap10", 0.05)])[0]


def test_scores_at_random_are_called_so_in_their_report() -> None:
    cases = tuple(f"c{n}" for n in range(40))
    truth, scores = np.arange(40) % 2, np.full((40, 2), 0.5)
    table = PredictionTable(cases, cases, truth, scores, ("no", "yes"), "binary", positive=1)
    assert any("tell the classes apart" in text for text in report_from_table(table, split="val").warnings)


def test_a_network_that_learned_nothing_says_so_wherever_it_goes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_nested(tmp_path / "data", count=10)
    told = []
    run = nested_run(epochs=1)
    fit = run.fit.model_copy(update={"learning_rate": 1e-7})
    train(run.model_copy(update={"fit": fit}), open_dataset(data), tmp_path / "run", listener=told.append)
    said = [event.text for event in told if event.kind == "warning"]
    assert any("These masks are of little use" in text for text in said)
    bundle = Bundle.load(tmp_path / "run")
    assert "These masks are of little use" in bundle.spec.warnings[0]
    assert "These masks are of little use" in (bundle.path / "CARD.md").read_text()
    metrics = json.loads((tmp_path / "run/evaluation/metrics.json").read_text())
    assert metrics["warnings"][0] == bundle.spec.warnings[0]
    assert "These masks are of little use" in (tmp_path / "run/evaluation/report.html").read_text()
    assert len(read_structures(tmp_path / "run/evaluation/predictions.csv")) > 0

    picture = str(data / "images/0.nii.gz")
    assert medmap(["predict", str(tmp_path / "run"), picture, "-o", str(tmp_path / "out"), "--quiet"]) == 0
    assert "These masks are of little use" in capsys.readouterr().out
    assert bundle.spec.warnings[0] in json.loads((tmp_path / "out/index.json").read_text())["warnings"]
    other = run.model_copy(update={"fit": fit.model_copy(update={"learning_rate": 2e-7})})
    train(other, open_dataset(data), tmp_path / "other", listener=told.append)
    assert medmap(["choose", str(tmp_path / "run"), str(tmp_path / "other"), "--quiet"]) == 0
    assert "These masks are of little use" in capsys.readouterr().out
