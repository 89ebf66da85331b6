"""Cases with their masks: prepared on one grid, in memory or on disk, drawn and augmented together."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from medmap import augment, phantom, prepare
from medmap.augment import AugmentSection
from medmap.dataset import Case, Dataset
from medmap.errors import ConfigError, DataError, GeometryError
from medmap.feed import Feed, PatchStore, build_patch_store
from medmap.image import Image
from medmap.layouts import open_dataset
from medmap.plan import Run
from medmap.prepare import PrepareSection, Recipe
from medmap.read import read_ref
from medmap.tasks.protocol import IGNORED
from medmap.tasks.segment import SegmentSection, make


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("masks")
    phantom.write_study(folder / "data", phantom.segmentation(5, seed=1, shape=(12, 20, 16)), task="segment")
    return open_dataset(folder / "data")


def images(data: Dataset) -> list[Image]:
    return [read_ref(data, ref) for case in data if (ref := case.inputs["image"]) is not None]


@pytest.fixture(scope="module")
def recipe(data: Dataset) -> Recipe:
    spacing = images(data)[0].oriented("LPS").spacing_mm
    coarser = tuple(1.3 * s for s in spacing)
    section = PrepareSection(shape=(8, 8, 8), grid="spacing", spacing_mm=coarser, orientation="LPS", intensity="zscore")
    return prepare.fit(section, images(data))


@pytest.fixture(scope="module")
def store(data: Dataset, recipe: Recipe) -> PatchStore:
    return build_patch_store(data, recipe, memory_bytes=2**26)


def test_images_and_masks_lie_on_the_spacing_asked_for(store: PatchStore, recipe: Recipe, data: Dataset) -> None:
    assert len(store) == 5
    for row in store.prepared:
        assert row.image.shape[1:] == row.truth.shape == row.trace.target.shape
        np.testing.assert_allclose(row.trace.target.spacing_mm, recipe.section.spacing_mm, rtol=0.06)
        assert {0, *row.places} == set(np.unique(row.truth).tolist())
        for label, where in row.places.items():
            assert (row.truth[tuple(where.T)] == label).all()
    first = data.cases[0]
    mask = read_ref(data, first.truth.masks[0])
    np.testing.assert_array_equal(recipe.truth(mask, store.prepared[0].trace), store.prepared[0].truth)


def test_on_disk_it_is_the_same(store: PatchStore, data: Dataset, recipe: Recipe, tmp_path: Path) -> None:
    small = build_patch_store(data, recipe, memory_bytes=64, folder=tmp_path / "store")
    assert len(list((tmp_path / "store").iterdir())) == 10
    task = make(SegmentSection(), data, (8, 8, 8))
    for row in range(5):
        one, two = (task.draw(s[row], np.random.default_rng(3)) for s in (store, small))
        np.testing.assert_array_equal(one["image"], two["image"])
        np.testing.assert_array_equal(one["truth"], two["truth"])
    part = small.subset([3, 1])
    assert [c.id for c in part.cases] == [data.cases[3].id, data.cases[1].id]
    with pytest.raises(DataError, match="do not fit"):
        build_patch_store(data, recipe, memory_bytes=64)


def test_the_value_to_ignore_is_no_class(data: Dataset, recipe: Recipe) -> None:
    found = build_patch_store(replace(data, ignore=2), recipe, memory_bytes=2**26)
    assert all(2 not in row.places for row in found.prepared)
    assert any((row.truth == IGNORED).any() for row in found.prepared)


def test_values_without_a_name_fail_their_case(data: Dataset, recipe: Recipe) -> None:
    """A mask of 0 and 255 is no mask of what is not looked at."""
    shorter = replace(data, labels=data.labels[:2])
    with_lesion = [case.id for case in data if 2 in np.unique(read_ref(data, case.truth.masks[0]).array)]
    assert len(with_lesion) > 0
    if len(with_lesion) == len(data):
        with pytest.raises(DataError, match="does not name"):
            build_patch_store(shorter, recipe, memory_bytes=2**26)
        return
    found = build_patch_store(shorter, recipe, memory_bytes=2**26)
    assert sorted(found.failed) == sorted(with_lesion)
    assert "does not name" in found.failed[with_lesion[0]]


def test_a_mask_on_another_grid_fails_its_case_alone(data: Dataset, recipe: Recipe) -> None:
    first, second = data.cases[0], data.cases[1]
    odd = Image(np.zeros((3, 3, 3), np.uint8), images(data)[0].geometry.resampled((3, 3, 3)), "label")
    with pytest.raises(GeometryError, match="another grid"):
        recipe.truth(odd, recipe.apply(images(data)[0]).trace)
    missing = replace(second, inputs={"image": None})
    found = build_patch_store(data.with_cases([first, missing]), recipe, memory_bytes=2**26)
    assert list(found.failed) == [second.id]
    with pytest.raises(DataError, match="no case"):
        build_patch_store(data.with_cases([missing]), recipe, memory_bytes=2**26)


def test_batches_are_the_same_for_the_same_seed_and_masks_move_with_images(store: PatchStore, data: Dataset) -> None:
    task = make(SegmentSection(patches=3), data, (8, 8, 8))
    plain = Feed(store, np.arange(5), task, 4, 7, AugmentSection(flip_axes=(0, 1, 2)), repeats=3)
    assert plain.steps == 4
    one, two = (list(plain.epoch(2)) for _ in range(2))
    assert all((a.images == b.images).all() and (a.truth == b.truth).all() for a, b in zip(one, two, strict=True))
    assert sorted(case for batch in one for case in batch.cases) == sorted(3 * [c.id for c in data])
    flips = [augment.Drawn(tuple(map(tuple, np.eye(3))), (0, 0, 0), flips=(0, 2))] * len(one[0].images)
    labels = one[0].truth
    moved, truth = augment.apply_with_truth(labels[:, None].float(), labels, flips)
    assert (moved[:, 0].round() == truth).all()
    assert (truth == labels.flip([1, 3])).all()


def test_a_spacing_goes_with_its_grid() -> None:
    for wrong in (
        {"shape": [8, 8], "grid": "spacing"},
        {"shape": [8, 8], "spacing_mm": [1, 1]},
        {"shape": [8, 8], "grid": "spacing", "spacing_mm": [1, 1, 1]},
    ):
        with pytest.raises(ConfigError, match="spacing_mm"):
            Run.load(_yaml(wrong))


def _yaml(prepare_section: dict[str, object]) -> Path:
    import json
    import tempfile

    path = Path(tempfile.mkdtemp()) / "run.yaml"
    path.write_text(json.dumps({"medmap_run": 1, "task": {"kind": "segment"}, "prepare": prepare_section}))
    return path


def test_a_case_that_takes_all_memory_is_left_out(
    data: Dataset, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    patches = import_module("medmap.feed.patches")
    real, first = patches.case_image, next(iter(data)).id

    def greedy(dataset: Dataset, case: Case) -> Image:
        if case.id == first:
            raise MemoryError
        return real(dataset, case)

    monkeypatch.setattr(patches, "case_image", greedy)
    store = build_patch_store(data, recipe, memory_bytes=2**26)
    assert set(store.failed) == {first}
    assert "more memory than there is" in store.failed[first]
