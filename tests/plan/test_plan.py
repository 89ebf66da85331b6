"""From data to run.yaml, and back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medmap.dataset import Dataset, InputSpec
from medmap.errors import ConfigError, DataError, DatasetError, UsageError, WeightsError
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
    assert plan(data, recipe_name=name, init=None).augment.flip_axes == ()  # nothing is known of left and right here
    ultrasound = replace(data, inputs={"image": InputSpec("US")})
    run = plan(ultrasound, recipe_name=name, init=None)
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
    odd = [replace(c, truth=replace(c.truth, label=0)) if c.split != "test" else c for c in data]
    with pytest.raises(DatasetError, match="one class only"):
        plan(data.with_cases(odd))


def test_mirror_images_of_each_other_are_never_mirrored(data: Dataset) -> None:
    eyes = replace(data, inputs={"image": InputSpec("OP")}, mirror_pairs=(("0", "1"),))
    assert plan(eyes).augment.flip_axes == ()
    assert plan(replace(eyes, mirror_pairs=())).augment.flip_axes == (1,)


def test_test_images_take_no_part_in_planning(data: Dataset, tmp_path: Path) -> None:
    with np.load(data.resolve(data.cases[0].inputs["image"])) as file:  # type: ignore[arg-type]
        arrays = dict(file)
    arrays["test_images"] = np.zeros((10, 90, 90), np.uint16)
    np.savez(tmp_path / "odd.npz", **arrays)
    run = plan(open_dataset(tmp_path / "odd.npz"))
    assert (run.prepare.shape, run.prepare.intensity) == ((16, 16), "range")


def test_starting_weights_rest_then_learn_slowly(data: Dataset) -> None:
    run = plan(data, init="weights.pth")
    assert (run.fit.frozen_stages, run.fit.thaw_epoch, run.fit.layer_decay) == (2, 3, 0.75)
    assert "rest" in run.reasons["fit.layer_decay"]


def test_a_batch_that_does_not_fit_the_memory_is_made_smaller() -> None:
    from medmap.plan import _within_memory

    run = Run(prepare=PrepareSection(shape=(8, 8)), memory_bytes=2**30).override(["fit.batch_size=64"])
    assert _within_memory(run, 2**28, 2**29, []) is run
    smaller = _within_memory(run, 2**29, 2**29 + 2**31, [])
    assert smaller.fit.batch_size == 16
    assert "fit the memory" in smaller.reasons["fit.batch_size"]
    with pytest.raises(DataError, match="does not fit the memory"):
        _within_memory(run, 2**30, 2**34, [])


@pytest.mark.parametrize("asked", [{"device": "tpu"}, {"seed": -1}, {"memory_bytes": 5}])
def test_words_out_of_range_are_refused(asked: dict[str, object], data: Dataset) -> None:
    with pytest.raises(ConfigError):
        plan(data, **asked)  # type: ignore[arg-type]
    with pytest.raises(ConfigError):
        plan(data, folds=1)


def test_images_too_large_for_the_memory_are_refused_before_anything_is_allocated(data: Dataset) -> None:
    with pytest.raises(DataError, match=r"cannot be learned from in the memory allowed.*5000"):
        plan(data, overrides=["prepare.shape=[5000,5000]"], memory_bytes=2**30)
