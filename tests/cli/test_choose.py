"""``medmap choose``: a table, a verdict, and the chosen bundle as a model that every other command takes."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

# runs are made in one place, beside the tests of what judges them
sys.path.append(str(Path(__file__).resolve().parents[1] / "evaluate"))

from finished_runs import good_and_poor

from medmap.bundle import Bundle
from medmap.cli import run as medmap
from medmap.evaluate import ChoiceFile


@pytest.fixture
def runs(tmp_path: Path) -> list[str]:
    return [str(run) for run in reversed(good_and_poor(tmp_path))]


def test_a_table_a_verdict_and_a_bundle(runs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    poor, good = runs
    assert medmap(["choose", *runs, "-o", str(tmp_path / "out")]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith("2 runs by dice (more is better), 12 cases of 11 patients")
    assert " ".join(told[2].split()) == "run network weights dice 95 % interval less the best 95 % interval p"
    assert told[3].startswith(good)
    assert told[4].startswith(poor)
    assert any(line.startswith(f"{good} is better than {poor}") for line in told)
    assert any(line.startswith("warning: The dice of") for line in told)
    assert told[-2:] == [f"chosen: {good}", f"bundle: {tmp_path / 'out' / 'bundle'}"]
    assert Bundle.load(tmp_path / "out").digest == Bundle.load(good).digest


def test_for_machines_and_in_few_words(runs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert medmap(["choose", *runs, "--by", "hd95_mm", "-o", str(out), "--json"]) == 0
    said = capsys.readouterr()
    document = json.loads(said.out)
    assert said.err == ""
    assert document.pop("saved") == str(out / "bundle")
    assert document == json.loads((out / "choice.json").read_text())
    assert ChoiceFile.model_validate(document).better == "lower"
    assert medmap(["choose", *runs, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["saved"] is None
    assert medmap(["choose", *runs, "--quiet"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in told] == [runs[1], "warning:", "chosen:"]


def test_a_refusal_leaves_nothing(runs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert medmap(["choose", *runs, "--by", "beauty", "-o", str(tmp_path / "out")]) == 2
    assert "got 'beauty', expected dice" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_real_run_beside_its_copy_and_after_a_look_at_test_cases(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = shutil.copytree(world / "run", tmp_path / "other")
    assert medmap(["choose", str(world / "run"), str(other)]) == 2
    assert "the same bundle" in capsys.readouterr().err
    words = ["evaluate", str(other), str(world / "easy.npz"), "-o", str(other / "evaluation")]
    assert medmap(words) == 0
    capsys.readouterr()
    assert medmap(["choose", str(world / "run"), str(other)]) == 3
    assert "choosing by test cases would make the test worthless" in capsys.readouterr().err
