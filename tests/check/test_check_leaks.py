"""Copies, near copies and patients in two splits."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as Pillow
from scipy.ndimage import gaussian_filter, shift

from medmap.check import Issue, check, content_hashes, leakage
from medmap.check.duplicates import equal_groups, groups_of, near_pairs, perceptual_hashes, similar_hashes
from medmap.check.facts import shrunk, thumbnail
from medmap.layouts import open_dataset
from medmap.phantom import classification


def only(issues: list[Issue], code: str) -> Issue:
    found = [issue for issue in issues if issue.code == code]
    assert len(found) == 1, (code, issues)
    return found[0]


def codes(issues: list[Issue]) -> set[str]:
    return {issue.code for issue in issues}


def _small(array: np.ndarray) -> np.ndarray:
    return thumbnail(shrunk(array.astype(np.float32)))


# -- exact copies -------------------------------------------------------------------------------------------------


def test_a_copy_across_splits_with_another_label(plan):
    plan.images[3] = plan.picture(0)  # 0: train, normal; 3: test, tumour
    dataset = plan.write()
    for issues in (check(dataset), leakage(dataset)):
        found = only(issues, "duplicate_across_splits")
        assert found.severity == "error"
        assert set(found.cases) == {"c000", "c003"}
        assert "train and test" in found.message
        assert "labels disagree" in found.message
        assert found.details["groups"][0]["labels"] == ["normal", "tumour"]
    conflict = only(check(dataset), "duplicate_conflicting_labels")
    assert conflict.severity == "error"
    assert "normal" in conflict.message
    assert "tumour" in conflict.message


def test_a_copy_across_splits_with_the_same_label(plan):
    plan.images[8] = plan.picture(6)  # 6: train, normal; 8: test, normal
    issues = check(plan.write())
    assert "labels agree" in only(issues, "duplicate_across_splits").message
    assert "duplicate_conflicting_labels" not in codes(issues)


def test_a_copy_within_a_split(plan):
    plan.images[1] = plan.picture(0)
    issues = check(plan.write())
    found = only(issues, "duplicate_images")
    assert found.severity == "warning"
    assert "different patients" in found.effect
    assert not codes(issues) & {"duplicate_across_splits", "near_duplicate_images"}
    assert leakage(plan.write()) == []


def test_copies_without_splits_can_be_split_apart(plan):
    plan.splits = [None] * 90
    plan.images[1] = plan.picture(0)
    dataset = plan.write()
    assert leakage(dataset) == []
    assert "both sides" in only(check(dataset), "duplicate_images").effect


def test_a_patient_in_two_splits(plan):
    plan.patients[0] = plan.patients[3] = "p-twice"
    dataset = plan.write()
    for issues in (check(dataset), leakage(dataset), leakage(dataset, hashes={})):
        found = only(issues, "patient_across_splits")
        assert found.severity == "error"
        assert found.cases == ("c000", "c003")
        assert "p-twice" in found.message


def test_patients_that_are_not_known_do_not_leak(plan):
    plan.patients_known = False
    plan.patients[0] = plan.patients[3] = "p-twice"
    issues = check(plan.write())
    assert only(issues, "patients_unknown").severity == "info"
    assert "patient_across_splits" not in codes(issues)


def test_leakage_takes_hashes_that_are_known_already(plan):
    dataset = plan.write()
    hashes = {case.id: case.id for case in dataset}
    assert leakage(dataset, hashes) == []
    hashes["c003"] = hashes["c000"]
    assert only(leakage(dataset, hashes), "duplicate_across_splits").cases == ("c000", "c003")


def test_leakage_passes_over_what_cannot_be_read_and_over_blank_images(plan):
    plan.images[0] = plan.images[3] = np.zeros((28, 28), np.uint8)
    dataset = plan.write()
    plan.path(5).write_bytes(b"")
    seen: list[tuple[int, int]] = []
    hashes = content_hashes(dataset, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (90, 90)
    assert not hashes.keys() & {"c000", "c003", "c005"}
    assert len(hashes) == 87
    assert leakage(dataset) == []


def test_many_copies_are_counted_and_the_worst_is_told_first(plan):
    plan.images[8] = plan.picture(6)  # same label
    plan.images[3] = plan.picture(0)  # another label
    found = only(check(plan.write()), "duplicate_across_splits")
    assert "2 images" in found.message
    assert "in 1 of 2 the labels disagree" in found.message
    assert found.details["groups"][0]["cases"] == ["c000", "c003"]


# -- near copies ----------------------------------------------------------------------------------------------------


def _jpeg(array: np.ndarray) -> np.ndarray:
    buffer = io.BytesIO()
    Pillow.fromarray(array).save(buffer, "JPEG", quality=75)
    return np.asarray(Pillow.open(buffer))


ALTERED = {
    "recompressed": _jpeg,
    "brighter": lambda a: np.clip(a.astype(float) * 1.1 + 8, 0, 255).astype(np.uint8),
    "noisier": lambda a: np.clip(a + np.random.default_rng(0).normal(0, 3, a.shape), 0, 255).astype(np.uint8),
    "rescaled": lambda a: np.asarray(Pillow.fromarray(a).resize((48, 48), Pillow.Resampling.BICUBIC)),
    "blurred": lambda a: gaussian_filter(a, 0.5),
    "moved": lambda a: shift(a, (0.3, -0.2), order=1, mode="nearest"),
}


@pytest.mark.parametrize("how", ALTERED)
def test_a_near_copy_across_splits(plan, how):
    plan.images[8] = ALTERED[how](plan.texture(6, 0))
    issues = check(plan.write())
    found = only(issues, "near_duplicate_across_splits")
    assert set(found.cases) == {"c006", "c008"}
    assert found.severity == "warning"
    assert not codes(issues) & {"duplicate_across_splits", "near_duplicate_images"}


def test_a_near_copy_within_a_split_and_without_splits(plan):
    plan.images[1] = _jpeg(plan.picture(0))
    found = only(check(plan.write()), "near_duplicate_images")
    assert set(found.cases) == {"c000", "c001"}
    assert found.severity == "info"
    plan.splits = [None] * 90
    assert only(check(plan.write()), "near_duplicate_images").severity == "warning"
    plan.patients[1] = plan.patients[0]
    assert only(check(plan.write()), "near_duplicate_images").severity == "info"


@pytest.mark.parametrize("modality", ["CT", "MR", "US"])
def test_aligned_anatomy_of_different_people_is_no_near_copy(modality):
    cases = classification(80, 1, shape=(40, 40), modality=modality)
    pictures = np.stack([_small(case.image.array) for case in cases])
    assert len(near_pairs(pictures)) == 0
    again = _small(cases[7].image.array[:-1, 1:])  # one row and column cut off
    assert near_pairs(np.concatenate([pictures, again[None]])).tolist() in ([[7, 80]], [])


def test_low_contrast_images_are_not_all_alike():
    rng = np.random.default_rng(0)
    faint = [gaussian_filter(rng.normal(size=(28, 28)), 1) * 3 + 120 for _ in range(200)]
    pictures = np.stack([_small(np.rint(a)) for a in faint])
    assert len(near_pairs(pictures)) == 0


def test_two_images_are_a_data_set_too():
    one = _small(gaussian_filter(np.random.default_rng(0).normal(size=(28, 28)), 2))
    other = _small(gaussian_filter(np.random.default_rng(1).normal(size=(28, 28)), 2))
    close = np.clip(one.astype(int) + 1, 0, 255).astype(np.uint8)
    assert near_pairs(np.stack([one, close])).tolist() == [[0, 1]]
    assert near_pairs(np.stack([one, other])).tolist() == []
    assert near_pairs(one[None]).tolist() == []


@given(st.lists(st.integers(0, 2**64 - 1), min_size=2, max_size=40), st.integers(0, 7), st.randoms())
def test_the_search_finds_all_pairs_that_comparing_all_with_all_finds(values, bits, random):
    close = [v ^ sum(1 << b for b in random.sample(range(64), bits)) for v in values[:10]]
    hashes = np.array(values + close, np.uint64)
    distance = np.bitwise_count(hashes[:, None] ^ hashes[None, :])
    expected = np.argwhere(np.triu(distance <= 7, 1))
    np.testing.assert_array_equal(similar_hashes(hashes), expected)


def test_twenty_thousand_images_are_searched_in_seconds():
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (20_000, 32, 32), dtype=np.uint8)
    pictures[15_000:15_020] = np.clip(pictures[:20].astype(int) + rng.integers(-3, 4, (20, 32, 32)), 0, 255)
    pairs = near_pairs(pictures)
    assert pairs.tolist() == [[i, 15_000 + i] for i in range(20)]


def test_a_hash_forgets_brightness_and_keeps_the_scene():
    one, other = (gaussian_filter(np.random.default_rng(s).normal(size=(32, 32)), 2) for s in (0, 1))
    pictures = np.stack([_small(a) for a in (one, 5 * one + 3, other)])
    hashes = perceptual_hashes(pictures)
    assert hashes[0] == hashes[1]
    assert np.bitwise_count(hashes[0] ^ hashes[2]) > 15


def test_groups():
    assert groups_of(6, np.array([[0, 3], [3, 5], [1, 2]])) == [[0, 3, 5], [1, 2]]
    assert groups_of(3, np.zeros((0, 2), np.int64)) == []
    assert equal_groups([1, 2, 1, 3, 2, 1]) == [[0, 2, 5], [1, 4]]


# -- real data --------------------------------------------------------------------------------------------------------


def test_the_one_image_that_breastmnist_has_in_train_and_in_test(shared_data):
    path = shared_data / "medmnist" / "breastmnist.npz"
    if not path.is_file():
        pytest.skip(f"the data is not here: {path}")
    issues = leakage(open_dataset(path))
    assert codes(issues) == {"duplicate_across_splits"}
    found = issues[0]
    assert found.details["count"] == 1
    assert len(found.cases) == 2
    assert "train and test" in found.message
    assert "labels disagree" in found.message
