"""The rules: each choice follows from the fingerprint and says why."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medmap.augment import AugmentSection
from medmap.dataset import Case, Dataset, InputSpec
from medmap.plan import NetworkSection
from medmap.plan.fingerprint import Fingerprint
from medmap.plan.rules import (
    GOOD_EPOCHS,
    MOST_ROUNDS,
    arrange,
    augment_section,
    batch_size,
    folds_in_words,
    learning_rate,
    narrower,
    network_section,
    prepare_section,
    short_of_time,
)
from medmap.results import Label

PLAIN = Fingerprint(
    cases=600, patients=600, training=500, dimensions=2, shape=(28, 28), same_shape=True, spacing_mm=None, channels=1,
    eight_bit=True, quantity="arbitrary", modality="US", patient_space=False, classes={"a": 300, "b": 300}, sampled=200,
)  # fmt: skip
VOLUME = replace(PLAIN, dimensions=3, shape=(64, 64, 32), spacing_mm=(1.0, 1.0, 2.0), patient_space=True, modality="MR")


def test_measured_values_are_hardly_changed() -> None:
    data = Dataset("d", "classify", (Case("1", "1", {}),), {"image": InputSpec("CT")}, (Label("a"), Label("b")))
    section, reasons = augment_section(replace(PLAIN, quantity="HU", modality="CT"), data)
    assert section.brightness < AugmentSection().brightness
    assert "measurement" in reasons["augment.brightness"]


def test_small_pictures_are_seen_as_they_are() -> None:
    section, reasons = prepare_section(PLAIN)
    assert section.shape == (28, 28)
    assert "as they are" in reasons["prepare.shape"]
    network, _ = network_section(section.shape, PLAIN)
    assert network.name == "small_resnet"


def test_large_pictures_shrink_and_keep_their_proportions() -> None:
    section, _ = prepare_section(replace(PLAIN, shape=(2000, 1000), same_shape=False))
    assert section.shape == (224, 112)
    assert network_section(section.shape, PLAIN)[0].name == "resnet18"


def test_volumes_are_turned_and_keep_physical_proportions() -> None:
    section, reasons = prepare_section(replace(VOLUME, shape=(256, 256, 60), spacing_mm=(1.0, 1.0, 2.0)))
    assert section.orientation == "LPS"
    assert section.shape == (64, 64, 32)
    assert section.proportions is None
    assert "orientation" in " ".join(reasons)
    kept, _ = prepare_section(replace(VOLUME, shape=(48, 48, 24), spacing_mm=(1.0, 1.0, 2.0)))
    assert (kept.shape, kept.proportions) == ((48, 48, 24), (1.0, 1.0, 2.0))


@pytest.mark.parametrize(
    ("facts", "intensity"),
    [
        (PLAIN, "range"),
        (replace(PLAIN, eight_bit=False, quantity="HU"), "window"),
        (replace(PLAIN, eight_bit=False, quantity="SUVbw"), "window"),
        (replace(PLAIN, eight_bit=False, modality="DX"), "window"),
        (replace(VOLUME, eight_bit=False), "zscore"),
        (replace(VOLUME, eight_bit=False, modality="CT"), "window"),
        (replace(PLAIN, eight_bit=False, quantity="colour"), "range"),
    ],
)
def test_intensity_follows_what_the_numbers_mean(facts: Fingerprint, intensity: str) -> None:
    assert prepare_section(facts)[0].intensity == intensity


@given(
    step=st.floats(1e-3, 3),
    training=st.integers(10, 200_000),
    available=st.floats(5, 20_000),
    folds=st.sampled_from([None, 0, 2, 5, 10]),
)
def test_the_arrangement_fits_the_time(step: float, training: int, available: float, folds: int | None) -> None:
    found = arrange(step, 64, training, available, folds)
    one_epoch = found.seconds / (found.members * found.epochs)
    assert found.seconds <= available or found.members * found.epochs == 1 or found.seconds - available < one_epoch
    assert found.epochs >= 1
    assert 1 <= found.members <= max(1, found.folds * MOST_ROUNDS)
    assert found.folds == (folds if folds is not None else (5 if training < 5000 else 0))


def test_more_time_means_more_networks_of_enough_epochs() -> None:
    short, longer, long = (arrange(0.03, 64, 624, s) for s in (40, 150, 1000))
    assert short.members < longer.members <= long.members == 15
    assert longer.epochs >= GOOD_EPOCHS
    assert long.epochs == 100


def test_without_a_limit_every_fold_is_trained_once() -> None:
    found = arrange(0.03, 64, 624, None)
    assert (found.folds, found.members) == (5, 5)
    assert arrange(0.03, 64, 50_000, None).folds == 0


def test_a_starved_network_is_narrowed() -> None:
    wide = NetworkSection(width=1.0)
    assert narrower(wide, arrange(1.0, 64, 1600, 60)) == NetworkSection(width=0.5)
    assert narrower(wide, arrange(0.01, 64, 1600, 600)) is None
    assert narrower(NetworkSection(width=0.25), arrange(1.0, 64, 1600, 60)) is None
    assert narrower(NetworkSection(name="resnet18"), arrange(1.0, 64, 1600, 60)) is None


@given(training=st.integers(1, 10**6), side=st.integers(8, 512), dims=st.sampled_from([2, 3]))
def test_batches_are_powers_of_two_in_range(training: int, side: int, dims: int) -> None:
    size = batch_size(training, (side,) * dims)
    assert 4 <= size <= 64
    assert size & (size - 1) == 0


def test_transfer_learns_slowly() -> None:
    assert learning_rate(NetworkSection(name="resnet18", init="w.pth"), 64)[0] < learning_rate(NetworkSection(), 64)[0]


def test_only_a_tenth_of_the_epochs_is_called_short() -> None:
    enough = arrange(0.1, 4, 100, 100.0, 0)
    assert short_of_time(enough) is None
    scant = arrange(10.0, 4, 100, 1.0, 0)
    assert scant.epochs == 1
    assert f"and {scant.wanted} would be enough" in (short_of_time(scant) or "")
    assert short_of_time(arrange(10.0, 4, 100, None, 0)) is None


def test_folds_that_time_does_not_allow_are_said() -> None:
    one = arrange(1.0, 64, 624, 60)
    assert one.folds == 5
    assert one.members < 5
    assert "of 5 folds" in folds_in_words(one, asked=False)
    assert folds_in_words(arrange(0.01, 64, 624, 3000), asked=True) == "set by hand"
    assert "validation split" in folds_in_words(arrange(0.01, 64, 50_000, 3000), asked=False)
