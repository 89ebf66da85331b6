"""The command line: words in, sentence and exit code out."""

from __future__ import annotations

import csv
import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from medmap.cli import run as medmap
from medmap.cli.show import duration_s, size_bytes
from medmap.errors import UsageError


def test_train_evaluate_compare_predict(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, run = str(world / "easy.npz"), str(world / "run")
    assert medmap(["evaluate", run, data, "-o", str(tmp_path / "a"), "--json"]) == 0
    metrics = json.loads(capsys.readouterr().out)
    assert metrics == json.loads((tmp_path / "a" / "metrics.json").read_text())
    assert (metrics["medmap_metrics"], metrics["split"], metrics["cases"]) == (1, "test", 20)
    assert medmap(["evaluate", run, f"{run}/bundle", data, "-o", str(tmp_path / "b"), "--split", "test"]) == 0
    capsys.readouterr()
    assert medmap(["compare", str(tmp_path / "a"), str(tmp_path / "b"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)


def test_predict_files_folder_and_dataset(world: Path, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for n in range(3):
        Pillow.fromarray(np.full((16, 16), 60 * n, np.uint8)).save(folder / f"{n}.png")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and nothing more")
    code = medmap(["predict", str(world / "run"), str(folder), "-o", str(tmp_path / "out")])
    index = json.loads((tmp_path / "out" / "index.json").read_text())
    assert code == 1
    assert [row["case"] for row in index["cases"]] == ["0.png", "1.png", "2.png", "broken.png"]
    assert index["cases"][3]["error"]
    assert (tmp_path / "out" / index["cases"][0]["files"][0]).exists()
    scores = list(csv.DictReader((tmp_path / "out" / "scores.csv").read_text().splitlines()))
    assert len(scores) == 3
    assert abs(float(scores[0]["score_0"]) + float(scores[0]["score_1"]) - 1) < 1e-5
    again = medmap(["predict", str(world / "run"), str(folder), "-o", str(tmp_path / "out")])
    assert again == 2


def test_engines_give_the_same_answer(world: Path, tmp_path: Path) -> None:
    found = []
    for engine in ("torch", "onnx", "openvino"):
        out = tmp_path / engine
        words = [
            "predict",
            str(world / "run"),
            str(world / "easy.npz"),
            "-o",
            str(out),
            "--engine",
            engine,
            "--format",
            "csv",
        ]
        assert medmap(words) == 0
        rows = list(csv.DictReader((out / "scores.csv").read_text().splitlines()))
        found.append([float(r["score_1"]) for r in rows])
    np.testing.assert_allclose(found[0], found[1], atol=1e-4)
    np.testing.assert_allclose(found[0], found[2], atol=1e-4)


def test_info_of_everything(world: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    Pillow.fromarray(np.zeros((8, 9), np.uint8)).save(tmp_path / "x.png")
    for path, kind in ((world / "run", "bundle"), (world / "easy.npz", "dataset"), (tmp_path / "x.png", None)):
        assert medmap(["info", str(path), "--json"]) == 0
        facts = json.loads(capsys.readouterr().out)
        if kind:
            assert facts["kind"] == kind
        else:
            for key in (
                "kind",
                "shape",
                "spacing_mm",
                "orientation",
                "quantity",
                "dtype",
                "minimum",
                "maximum",
                "warnings",
            ):
                assert key in facts
            assert facts["shape"] == [8, 9]
    assert medmap(["info", str(tmp_path / "x.png"), "--header"]) == 0
    assert "8 × 9" in capsys.readouterr().out


def test_check_exit_code_and_json(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arrays = dict(np.load(world / "easy.npz"))
    arrays["test_images"][0] = arrays["train_images"][0]
    np.savez(tmp_path / "leak.npz", **arrays)
    assert medmap(["check", str(tmp_path / "leak.npz"), "--json", "--report", str(tmp_path / "check.html")]) == 1
    issues = json.loads(capsys.readouterr().out)
    assert {"code", "severity", "cases", "message", "remedy"} <= issues[0].keys()
    assert any(issue["code"] == "duplicate_across_splits" for issue in issues)
    assert (tmp_path / "check.html").read_text().startswith("<!")


def test_plan_import_schema_verify_export(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = str(world / "easy.npz")
    assert medmap(["plan", data, "-o", str(tmp_path / "run.yaml"), "--budget", "60s"]) == 0
    assert medmap(["plan", data, "-o", str(tmp_path / "run.yaml")]) == 2
    assert medmap(["import", data, str(tmp_path / "set")]) == 0
    assert (tmp_path / "set" / "dataset.yaml").exists()
    assert medmap(["schema"]) == 0
    capsys.readouterr()
    for name in ("run.yaml", "dataset.yaml", "spec.json", "metrics.json", "choice.json"):
        assert medmap(["schema", name]) == 0
        assert json.loads(capsys.readouterr().out)["type"] == "object"
    assert medmap(["verify", str(world / "run")]) == 0
    assert medmap(["export", str(world / "run"), "-o", str(tmp_path / "copy"), "--to", "onnx", "--dataset", data]) == 0
    assert (tmp_path / "copy" / "model.onnx").exists()


def test_a_defect_is_code_70_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from medmap.cli import about

    def broken(*_: object) -> None:
        raise ZeroDivisionError("never")

    monkeypatch.setattr(about, "about", broken)
    assert medmap(["info", "."]) == 70
    told = capsys.readouterr().err
    assert "defect of medmap's own" in told
    assert "Traceback" not in told
    assert medmap(["info", "."], debug=True) == 70
    assert "Traceback" in capsys.readouterr().err


def test_help_is_there_for_every_command() -> None:
    out = subprocess.run([sys.executable, "-m", "medmap", "--help"], capture_output=True, text=True, check=True).stdout
    for name in (
        "demo",
        "info",
        "import",
        "fetch",
        "check",
        "plan",
        "train",
        "evaluate",
        "compare",
        "choose",
        "predict",
        "export",
    ):
        assert name in out
    version = subprocess.run([sys.executable, "-m", "medmap", "--version"], capture_output=True, text=True, check=True)
    assert version.stdout.startswith("medmap ")


def test_times_and_sizes() -> None:
    assert [duration_s(t) for t in ("90", "90s", "10m", "1.5h")] == [90, 90, 600, 5400]
    assert [size_bytes(t) for t in ("4GiB", "512MiB", "2G", "100")] == [2**32, 2**29, 2**31, 100]
    for text in ("", "m", "-3s", "0", "nan", "1e99h"):
        with pytest.raises(UsageError):
            duration_s(text)
    for text in ("", "4 GiB extra", "-1G"):
        with pytest.raises(UsageError):
            size_bytes(text)


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_is_a_sentence_and_130(name: str, world: Path, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "medmap", "train", str(world / "easy.npz"), "-o", str(tmp_path / "run")]
    small = ["--config", str(world / "run" / "run.yaml"), "--set", "fit.epochs=5000"]
    child = subprocess.Popen([*words, *small], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    checkpoint = tmp_path / "run" / "checkpoint" / "current.json"
    begin = time.monotonic()
    while not checkpoint.exists() and child.poll() is None and time.monotonic() - begin < 100:
        time.sleep(0.05)
    child.send_signal(getattr(signal, name))
    _, told = child.communicate(timeout=100)
    assert child.returncode == 130, told
    assert b"--resume" in told
    assert (tmp_path / "run" / "bundle" / "spec.json").exists()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
def test_a_place_that_cannot_be_written_is_named_with_a_remedy(
    code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from medmap.cli import about

    def full(*_: object) -> None:
        raise OSError(code, os.strerror(code), "out/index.json")

    monkeypatch.setattr(about, "about", full)
    assert medmap(["info", "."]) == 2
    told = capsys.readouterr().err
    assert "out/index.json" in told
    assert "Remedy" in told
