"""From cases to batches: the same ones for the same seed and epoch, each knowing its cases."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medmap import prepare
from medmap.augment import OFF, AugmentSection
from medmap.dataset import Dataset
from medmap.errors import DataError
from medmap.feed import Feed, Store, build_store
from medmap.layouts import open_dataset
from medmap.prepare import PrepareSection, Recipe
from medmap.read import read_ref
from medmap.tasks.classify import ClassifySection, make


@pytest.fixture
def data(tmp_path: Path) -> Dataset:
    rng = np.random.default_rng(0)
    arrays = {}
    for name, n in (("train", 11), ("val", 5), ("test", 4)):
        arrays[f"{name}_images"] = rng.integers(0, 255, (n, 8, 8)).astype(np.uint8)
        arrays[f"{name}_labels"] = (np.arange(n) % 2)[:, None].astype(np.uint8)
    np.savez(tmp_path / "noise.npz", **arrays)
    return open_dataset(tmp_path / "noise.npz")


@pytest.fixture
def recipe(data: Dataset) -> Recipe:
    return prepare.fit(PrepareSection(shape=(8, 8)), [read_ref(data, c.inputs["image"]) for c in data])  # type: ignore[arg-type]


def feed(store: Store, data: Dataset, **changes: object) -> Feed:
    plain = Feed(store, np.arange(len(store)), make(ClassifySection(), data), 4, 7, AugmentSection())
    return replace(plain, **changes)  # type: ignore[arg-type]


def test_store_holds_what_the_recipe_makes(data: Dataset, recipe: Recipe) -> None:
    store = build_store(data, recipe, memory_bytes=2**24)
    assert len(store) == 20
    assert store.shape == (1, 8, 8)
    ref = data.cases[3].inputs["image"]
    assert ref is not None
    wanted = recipe.apply(read_ref(data, ref)).tensors["image"]
    np.testing.assert_allclose(store.take([3])[0], wanted, atol=2e-3)
    assert len(set(store.hashes)) == 20


def test_a_store_on_disk_is_the_same(data: Dataset, recipe: Recipe, tmp_path: Path) -> None:
    small, large = (build_store(data, recipe, memory_bytes=m, folder=tmp_path / "s") for m in (64, 2**24))
    np.testing.assert_array_equal(small.take([5, 1]), large.take([5, 1]))
    part = [small.subset([4, 2, 9]), large.subset([4, 2, 9])]
    np.testing.assert_array_equal(part[0].take([0, 2]), part[1].take([0, 2]))
    assert part[0].shape == part[1].shape == (1, 8, 8)
    with pytest.raises(DataError, match="do not fit the memory"):
        build_store(data, recipe, memory_bytes=64)


def test_unreadable_cases_are_named_and_the_rest_goes_on(data: Dataset, recipe: Recipe) -> None:
    broken = replace(data.cases[0], inputs={"image": None})
    store = build_store(data.with_cases([broken, *data.cases[1:]]), recipe, memory_bytes=2**24)
    assert set(store.failed) == {broken.id}
    assert len(store) == 19
    with pytest.raises(DataError, match="no case"):
        build_store(data.with_cases([broken]), recipe, memory_bytes=2**24)


def test_batches_depend_on_seed_and_epoch_alone(data: Dataset, recipe: Recipe) -> None:
    store = build_store(data, recipe, memory_bytes=2**24)
    one, two = feed(store, data), feed(store, data)
    list(two.epoch(0))  # whatever was drawn before
    for a, b in zip(one.epoch(3), two.epoch(3), strict=True):
        assert a.cases == b.cases
        assert np.array_equal(a.images.numpy(), b.images.numpy())
    assert next(iter(one.epoch(4))).cases != next(iter(one.epoch(3))).cases
    assert next(iter(feed(store, data, seed=8).epoch(3))).cases != next(iter(one.epoch(3))).cases


def test_an_epoch_shows_every_case_once_and_names_it(data: Dataset, recipe: Recipe) -> None:
    store = build_store(data, recipe, memory_bytes=2**24)
    plain = feed(store, data, section=OFF)
    seen: dict[str, int] = {}
    for batch in plain.epoch(0):
        for case, image, truth in zip(batch.cases, batch.images, batch.truth, strict=True):
            seen[case] = seen.get(case, 0) + 1
            row = [c.id for c in store.cases].index(case)
            np.testing.assert_allclose(image.numpy(), store.take([row])[0], atol=1e-6)
            assert int(truth) == store.cases[row].truth.label
    assert seen == {c.id: 1 for c in store.cases}


def test_a_last_batch_of_one_is_left_out(data: Dataset, recipe: Recipe) -> None:
    store = build_store(data, recipe, memory_bytes=2**24)
    assert feed(store, data, indices=np.arange(9), batch_size=4).steps == 2
    assert feed(store, data, indices=np.arange(10), batch_size=4).steps == 3


def test_balanced_sampling_draws_the_rare_class_as_often(data: Dataset, recipe: Recipe) -> None:
    store = build_store(data, recipe, memory_bytes=2**24)
    rare = np.array([1.0 if i == 0 else 1 / 19 for i in range(20)])
    order = np.concatenate([feed(store, data, weights=rare).order(e) for e in range(50)])
    assert 0.4 < (order == 0).mean() < 0.6


def test_mixup_blends_neighbours_and_says_by_how_much(data: Dataset, recipe: Recipe) -> None:
    store = build_store(data, recipe, memory_bytes=2**24)
    section = OFF.model_copy(update={"mixup": 0.5})
    mixed = feed(store, data, section=section).batch(np.arange(4), 0, 0)
    plain = feed(store, data, section=OFF).batch(np.arange(4), 0, 0)
    assert mixed.own_share is not None
    share = mixed.own_share.reshape(-1, 1, 1, 1)
    wanted = share * plain.images + (1 - share) * plain.images.roll(1, 0)
    np.testing.assert_allclose(mixed.images.numpy(), wanted.numpy(), atol=1e-6)


def test_blank_images_are_copies_of_nothing(data: Dataset, recipe: Recipe, tmp_path: Path) -> None:
    path = data.resolve(data.cases[0].inputs["image"])  # type: ignore[arg-type]
    with np.load(path) as file:
        arrays = dict(file)
    arrays["train_images"][:2] = 0
    np.savez(tmp_path / "blank.npz", **arrays)
    store = build_store(open_dataset(tmp_path / "blank.npz"), recipe, memory_bytes=2**24)
    assert store.hashes[:2] == ("", "")
    assert all(store.hashes[2:])
