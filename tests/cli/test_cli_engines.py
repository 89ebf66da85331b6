"""``verify`` and ``export`` where an engine fails: it is said, and the exit code tells."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from medmap.bundle import Bundle, graphs
from medmap.cli import run as medmap
from medmap.cli.engines import at_this_site
from medmap.errors import BundleError
from medmap.runtime import Parity, open_engine


@pytest.fixture
def no_onnx(monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime refuses every network."""

    def refusing(kind: Any, **words: Any) -> Any:
        if kind == "onnx":
            raise BundleError("ONNX Runtime knows no such layer")
        return open_engine(kind, **words)

    monkeypatch.setattr(graphs, "open_engine", refusing)


@pytest.mark.usefixtures("no_onnx")
def test_verify_says_what_cannot_run(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert medmap(["verify", str(world / "run")]) == 1
    told = capsys.readouterr()
    assert "onnx float32: DIFFERS: ONNX Runtime knows no such layer" in told.out
    assert "torch float32: the same answer" in told.out
    assert told.err == ""
    assert medmap(["verify", str(world / "run"), "--json"]) == 1
    rows = json.loads(capsys.readouterr().out)["parity"]
    assert [row["max_abs"] for row in rows if row["engine"] == "onnx"] == [None]


def test_fewer_bits_are_held_against_what_they_did_at_the_export(world: Path) -> None:
    bundle = Bundle.load(world / "run")
    low = Parity("openvino", "int8", 2, 2.7, 0.3, 0.9, True, 0.01, dice=0.76)
    engines = {**bundle.spec.engines, "openvino:int8": {"passed": True, "dice": 0.9949, "phantom_max_abs": 2.6}}
    object.__setattr__(bundle, "spec", bundle.spec.model_copy(update={"engines": engines}))
    said = at_this_site(bundle, low)
    assert "as far from float32 as at the export" in said
    assert "0.9949" in said
    assert "0.76" not in said, "masks of noise are chance"
    assert at_this_site(bundle, replace(low, passed=False)).startswith("DIFFERS")
    refused = {**engines, "openvino:int8": {**engines["openvino:int8"], "passed": False}}
    object.__setattr__(bundle, "spec", bundle.spec.model_copy(update={"engines": refused}))
    assert at_this_site(bundle, low).startswith("refused at the export")
    boxes = {"passed": True, "boxes_matched": 0.997, "phantom_max_abs": 2.6}
    object.__setattr__(bundle, "spec", bundle.spec.model_copy(update={"engines": {"openvino:int8": boxes}}))
    assert "99.70% of its boxes" in at_this_site(bundle, low)


@pytest.mark.usefixtures("no_onnx")
def test_export_says_what_cannot_run(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert medmap(["export", str(world / "run"), "-o", str(tmp_path / "copy"), "--to", "onnx"]) == 1
    assert "onnx: DIFFERS: ONNX Runtime knows no such layer" in capsys.readouterr().out
    assert medmap(["export", str(world / "run"), "-o", str(tmp_path / "other"), "--to", "onnx", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["engines"]["onnx"]["passed"] is False


def test_int8_needs_cases_and_openvino(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    order = ["export", str(world / "run"), "-o", str(tmp_path / "copy"), "--int8"]
    assert medmap([*order, "--to", "openvino"]) == 2
    assert "give --dataset" in capsys.readouterr().err
    assert medmap([*order, "--to", "onnx", "--dataset", str(world / "easy.npz")]) == 2
    assert "int8 runs on OpenVINO" in capsys.readouterr().err
    assert not (tmp_path / "copy").exists()
