"""The benchmark of windows, tiny, with a stand-in for nnU-Net that has its names and nothing else of it."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "window_inference.py"
STAND_IN = {
    "inference/predict_from_raw_data.py": """
import itertools
import torch

class nnUNetPredictor:
    def __init__(self, **settings):
        assert settings["device"].type == "cpu" and settings["use_gaussian"] and not settings["use_mirroring"]
        print("it speaks on standard output")

    def manual_initialization(self, network, plans, configuration, parameters, dataset, trainer, axes):
        self.network, self.configuration_manager = network, configuration
        self.label_manager = plans.get_label_manager(dataset)

    @torch.inference_mode()
    def predict_sliding_window_return_logits(self, image):
        patch = self.configuration_manager.patch_size
        classes = len(self.label_manager.labels)
        out, count = torch.zeros((classes, *image.shape[1:])), torch.zeros(image.shape[1:])
        starts = [range(0, n - p + 1, p // 2) for n, p in zip(image.shape[1:], patch)]
        for corner in itertools.product(*starts):
            window = tuple(slice(a, a + p) for a, p in zip(corner, patch))
            out[(slice(None), *window)] += self.network(image[(slice(None), *window)][None])[0]
            count[window] += 1
        return out / count
""",
    "inference/export_prediction.py": """
from torch.nn.functional import interpolate

def convert_predicted_logits_to_segmentation_with_correct_shape(
    logits, plans, configuration, labels, properties, num_threads_torch
):
    shape = properties["shape_before_cropping"]
    return labels.convert_logits_to_segmentation(interpolate(logits[None], shape, mode="trilinear")[0]).numpy()
""",
    "utilities/plans_handling/plans_handler.py": """
from types import SimpleNamespace

class PlansManager:
    def __init__(self, plans):
        self.plans = plans

    def get_configuration(self, name):
        return SimpleNamespace(**self.plans["configurations"][name])

    def get_label_manager(self, dataset):
        return SimpleNamespace(
            labels=dataset["labels"], convert_logits_to_segmentation=lambda logits: logits.argmax(0)
        )
""",
}


@pytest.fixture(scope="module")
def bench() -> dict[str, Any]:
    return runpy.run_path(str(SCRIPT))


@pytest.fixture
def stand_in(tmp_path: Path) -> Path:
    for name, text in STAND_IN.items():
        path = tmp_path / "nnunetv2" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return tmp_path


def test_every_precision_is_held_against_both_peers(stand_in: Path) -> None:
    paths = [str(stand_in), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--small", "--rounds", "1", "--threads", "1"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        check=True,
    )
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    lines = [row for row in rows if "ratio" in row]
    for row in lines:
        assert {"name", "peer", "ours", "theirs", "unit", "ratio", "same_answer"} <= row.keys()
        assert row["ratio"] > 0
        assert row["same_answer"] is None  # an untrained network
    names = {(row["peer"], row["name"].partition(", ")[2]) for row in lines}
    for kind in ("float32", "int8"):
        assert ("MONAI", kind) in names
        assert {("nnU-Net", f"{kind}, windows"), ("nnU-Net", f"{kind}, windows and export")} <= names
    assert "it speaks" in done.stderr


def test_a_missing_peer_is_said_and_left_out(bench: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    if bench["has_nnunet"](sys.executable):
        pytest.skip("nnunetv2 is installed here")
    assert "nnunetv2 is not installed" in capsys.readouterr().err


def test_the_same_answer_is_measured(bench: dict[str, Any]) -> None:
    expected = np.zeros((100, 100), np.uint8)
    expected[:40] = 1
    found = expected.copy()
    found[0, 0] = 0
    assert bench["agreement"](found, expected, "float32", known=True) == {
        "same_answer": True,
        "different": 1e-4,
        "dice": [0.99987],
    }
    found[0, :6] = 0
    assert not bench["agreement"](found, expected, "float32", known=True)["same_answer"]
    assert bench["agreement"](found, expected, "bfloat16", known=True)["same_answer"]  # Dice 0.99925
    found[0] = 0
    assert not bench["agreement"](found, expected, "bfloat16", known=True)["same_answer"]
    assert bench["agreement"](found, expected, "int8", known=False) == {"same_answer": None}


def test_sides_take_turns_and_the_fastest_run_counts(bench: dict[str, Any]) -> None:
    asked: list[str] = []

    class Side:
        def __init__(self, name: str, took: list[float]) -> None:
            self.name, self.took = name, took

        def warm(self) -> None:
            asked.append(f"warm {self.name}")

        def run(self) -> dict[str, Any]:
            asked.append(self.name)
            return {"windows": bench["Found"](self.took.pop(0), 1.0, np.zeros(1))}

    best = bench["in_turns"]({"a": Side("a", [3.0, 2.0]), "b": Side("b", [4.0, 5.0])}, 2)
    assert asked == ["warm a", "warm b", "a", "b", "b", "a"]
    assert (best["a"]["windows"].seconds, best["b"]["windows"].seconds) == (2.0, 4.0)
