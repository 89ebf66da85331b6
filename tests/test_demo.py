"""The demo walks the whole way, says that nothing is real, and leaves what it names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from medmap.demo import run_demo
from medmap.errors import UsageError
from medmap.read import read_report
from medmap.train import Event


def test_the_whole_way(tmp_path: Path) -> None:
    heard: list[Event] = []
    report = run_demo(tmp_path / "demo", heard.append, cases=48, budget_s=44)
    told = [event.text for event in heard if event.kind == "line"]
    assert "no patient was ever imaged" in told[0]
    assert str(report) in told[-1]
    assert [text[0] for text in told[1:7]] == list("123456")
    page = report.read_text()
    assert page.startswith("<!")
    assert "ynthetic" in page
    said = read_report(tmp_path / "demo" / "prediction.sr.dcm")
    assert len(said.evidence) == 1, "the report refers to the image it speaks of"
    for name in ("check.html", "prediction.json", "run/bundle/CARD.md", "run/augmented.png", "dataset/dataset.yaml"):
        assert (tmp_path / "demo" / name).exists(), name
    scores = json.loads((tmp_path / "demo" / "prediction.json").read_text())["outputs"]["class"]["scores"]
    assert sum(scores.values()) == pytest.approx(1)
    assert len(list((tmp_path / "demo" / "data").rglob("*.dcm"))) == 48


def test_a_folder_in_use_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(UsageError, match="not empty"):
        run_demo(tmp_path, lambda _: None)
