"""From data to run.yaml, and back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medmap.dataset import Dataset
from medmap.errors import ConfigError, DataError, UsageError, WeightsError
from medmap.layouts import open_dataset
from medmap.plan import RECIPES, Run, choose_device, plan
from medmap.prepare import PrepareSection
from medmap.train import train


@pytest.fixture
def data(tmp_path: Path) -> Dataset:
    rng = np.random.default_rng(0)
    arrays = {}
    for name, n in (("train", 40), ("val", 10), ("test", 10)):
        arrays[f"{name}_images"] = rng.integers(0, 255, (n, 16, 16)).astype(np.uint8)
        arrays[f"{name}_labels"] = (np.arange(n) % 2)[:, None].astype(np.uint8)
    np.savez(tmp_path / "noise.npz", **arrays)
    return open_dataset(tmp_path / "noise.npz")


def test_a_plan_is_complete_and_says_why(data: Dataset) -> None:
    run = plan(data, budget_s=100, seed=3)
    assert run.seed == 3
    assert run.prepare.shape == (16, 16)
    for key in ("prepare.shape", "network.name", "fit.epochs", "fit.precision", "ensemble.folds", "augment.flip_axes"):
        assert len(run.reasons[key]) > 15, key
    assert "measured here" in run.reasons["fit.precision"]


def test_run_yaml_round_trip_keeps_everything(data: Dataset, tmp_path: Path) -> None:
    run = plan(data, budget_s=100, overrides=["fit.epochs=7"])
    run.save(tmp_path / "run.yaml")
    text = (tmp_path / "run.yaml").read_text()
    assert Run.load(tmp_path / "run.yaml") == run
    assert "# fit.epochs: set by hand" in text
    assert "{" not in text.split("reasons:")[0]


def test_overrides_win_over_every_rule(data: Dataset) -> None:
    assert plan(data, overrides=["network.name=resnet18"]).network.width == 1.0
    run = plan(data, overrides=["fit.epochs=2", "network.width=0.25", "fit.precision=float32", "ensemble.members=1"])
    assert (run.fit.epochs, run.network.width, run.fit.precision, run.ensemble.members) == (2, 0.25, "float32", 1)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("fit.epoch=3", "did you mean epochs"),
        ("fit.epochs=0", "greater than or equal"),
        ("fit.optimizer=lion", "optimizer"),
        ("decision.target=best", "target"),
        ("ensemble.folds=1", "leaves nothing"),
        ("fit.epochs", "block.key=value"),
        ("medmap_run=2", "medmap_run"),
    ],
)
def test_wrong_overrides_are_refused(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Run(prepare=PrepareSection(shape=(8, 8))).override([text])


def test_a_newer_run_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("medmap_run: 2\nprepare: {shape: [8, 8]}\n")
    with pytest.raises(ConfigError, match="newer medmap"):
        Run.load(tmp_path / "run.yaml")


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_classical_recipes_are_what_textbooks_do(name: str, data: Dataset) -> None:
    run = plan(data, recipe_name=name, init=None)
    assert run.network.name == name
    assert run.fit.optimizer == "adam"
    assert run.fit.batch_size == 32
    assert run.fit.learning_rate == (1e-3 if name == "cnn" else 1e-4)
    assert run.augment.flip_axes == (1,)
    assert run.ensemble.folds == 0
    assert run.network.dropout == 0.5


def test_an_unknown_recipe_is_refused(data: Dataset) -> None:
    with pytest.raises(UsageError, match="cnn, vgg16"):
        plan(data, recipe_name="soup")


def test_weights_that_cannot_be_fetched_never_start_at_random(data: Dataset, tmp_path: Path) -> None:
    run = plan(
        data, overrides=["fit.epochs=1", "network.width=0.25", "ensemble.members=1"], init=str(tmp_path / "no.pth")
    )
    with pytest.raises(WeightsError, match=r"no\.pth"):
        train(run, data, tmp_path / "run", listener=lambda _: None)


def test_a_gpu_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DataError, match="has none"):
        choose_device("cuda")
    assert choose_device("auto").type == "cpu"


def test_the_test_split_is_not_looked_at_for_classes(data: Dataset) -> None:
    from dataclasses import replace

    odd = [replace(c, truth=replace(c.truth, label=0)) if c.split != "test" else c for c in data]
    from medmap.errors import DatasetError

    with pytest.raises(DatasetError, match="one class only"):
        plan(data.with_cases(odd))
