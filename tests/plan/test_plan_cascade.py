"""When a coarse network comes first: structures that fill a small part of a large field."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medmap.errors import ConfigError
from medmap.geometry import Geometry
from medmap.image import Image
from medmap.layouts import open_dataset
from medmap.plan import RESERVE_S, Fingerprint, plan, segment
from medmap.plan.cascade import Cascade, cascade
from medmap.plan.cascade import _coarse_mm as coarse_mm
from medmap.write import write

medmap_plan = import_module("medmap.plan")
SHAPE, SPACING = (32, 40, 24), (2.0, 2.0, 3.0)


def write_volumes(folder: Path, side: int = 6) -> Path:
    """Volumes with one box of ``side`` voxels."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    rows = ["case,patient,split,image,mask"]
    grid = Geometry(SHAPE, np.diag([*SPACING, 1.0]), kind="patient")
    for n in range(6):
        mask = np.zeros(SHAPE, np.uint8)
        first = [int(rng.integers(0, length - side + 1)) for length in SHAPE]
        mask[tuple(slice(f, f + side) for f in first)] = 1
        write(Image(rng.normal(0, 1, SHAPE).astype(np.float32), grid), folder / f"images/{n}.nii.gz")
        write(Image(mask, grid, "label"), folder / f"images/{n}_mask.nii.gz")
        rows.append(f"c{n},p{n},train,images/{n}.nii.gz,images/{n}_mask.nii.gz")
    (folder / "cases.csv").write_text("\n".join(rows) + "\n")
    (folder / "dataset.yaml").write_text(
        "medmap_dataset: 1\nname: boxes\ntask: segment\ninputs: {image: {modality: CT}}\n"
        "labels: {0: background, 1: box}\n"
    )
    return folder


FACTS = Fingerprint(
    cases=6,
    patients=6,
    training=6,
    dimensions=3,
    shape=SHAPE,
    same_shape=True,
    spacing_mm=SPACING,
    channels=1,
    eight_bit=False,
    quantity="HU",
    modality="CT",
    patient_space=True,
    classes={},
    sampled=6,
)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_volumes(tmp_path_factory.mktemp("cascade") / "small")


def test_small_structures_in_a_large_field_are_found_first(small: Path) -> None:
    found = cascade(open_dataset(small), FACTS, (8, 8, 8))
    assert isinstance(found, Cascade)
    spacing = found.facts.spacing_mm
    assert spacing is not None
    # a box of 12 × 12 × 18 mm is four voxels across at 3 mm
    assert spacing == (3.0, 3.0, 3.0)
    assert found.facts.shape == (21, 27, 24)
    assert found.around_mm == 10
    assert "take" in found.reason
    assert "64 × 80 × 72 mm" in found.reason


def test_structures_all_over_the_field_are_looked_for_everywhere(tmp_path: Path) -> None:
    found = cascade(open_dataset(write_volumes(tmp_path / "large", side=22)), FACTS, (8, 8, 8))
    assert isinstance(found, str)
    assert "looked for everywhere" in found


@pytest.mark.parametrize(
    "facts", [replace(FACTS, spacing_mm=None), replace(FACTS, dimensions=2), replace(FACTS, shape=(16, 16, 16))]
)
def test_pictures_and_small_or_sizeless_fields_raise_no_question(small: Path, facts: Fingerprint) -> None:
    assert cascade(open_dataset(small), facts, (8, 8, 8)) is None


def test_a_mask_of_another_dimension_is_passed_over(tmp_path: Path) -> None:
    folder = write_volumes(tmp_path / "mixed")
    flat = Image(np.ones((4, 4), np.uint8), Geometry.from_spacing((4, 4), (1.0, 1.0)), "label")
    write(flat, folder / "images" / "0_mask.nii.gz", overwrite=True)
    assert isinstance(cascade(open_dataset(folder), FACTS, (8, 8, 8)), Cascade)


def test_without_a_structure_there_is_nothing_to_look_for(small: Path) -> None:
    data = open_dataset(small)
    bare = [replace(case, truth=replace(case.truth, masks=())) for case in data]
    assert cascade(data.with_cases(bare), FACTS, (8, 8, 8)) is None


@given(
    st.tuples(*[st.floats(20, 500)] * 3),
    st.tuples(*[st.floats(0.3, 6)] * 3),
    st.integers(1000, 200_000),
)
def test_the_coarse_field_has_the_voxels_asked_for(
    field: tuple[float, ...], spacing: tuple[float, ...], voxels: int
) -> None:
    fine = np.array(spacing)
    steps = coarse_mm(np.array(field), fine, voxels)
    assert (steps >= fine).all()
    made = (np.array(field) / steps).prod()
    assert made <= voxels * 1.001
    if (np.array(field) / fine).prod() > voxels:  # and no fewer than it may
        assert made >= voxels * 0.999
        assert np.ptp(steps[steps > fine]) < 1e-6


@pytest.fixture
def small_patches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segment, "PATCH_VOXELS", {"cpu": {2: 256, 3: 12**3}})


@pytest.mark.usefixtures("small_patches")
def test_a_plan_holds_both_runs_of_the_same_splits_and_says_why(small: Path) -> None:
    sets = ["splits.test=0.3", "fit.threads=1", "coarse.fit.learning_rate=0.003"]
    run = plan(open_dataset(small), budget_s=900, overrides=sets, seed=3, folds=3, device="cpu")
    coarse = run.coarse
    assert coarse is not None
    assert coarse.fit.learning_rate == 0.003
    assert run.fit.learning_rate != 0.003
    assert coarse.prepare.spacing_mm == (3.0, 3.0, 3.0)
    assert run.prepare.spacing_mm == SPACING
    first = run.coarse_run
    assert first is not None
    assert (first.seed, first.splits, first.ensemble.folds) == (3, run.splits, 3)
    assert first.ensemble.members == run.ensemble.members
    assert first.budget_s == 900 / 4 + RESERVE_S
    assert "coarse" in run.reasons
    assert run.reasons["coarse.fit.learning_rate"] == "set by hand"
    assert "# coarse.prepare.spacing_mm: 3 × 3 × 3 mm" in run.as_yaml()


@pytest.mark.usefixtures("small_patches")
def test_a_coarse_network_can_be_left_out_and_needs_time(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = open_dataset(small)
    assert plan(data, overrides=["coarse=null", "fit.threads=1"], device="cpu").coarse is None
    short = plan(data, budget_s=100, overrides=["fit.threads=1"], device="cpu")
    assert short.coarse is None
    assert "too short" in short.reasons["coarse"]
    assert short.fit.epochs > 1
    monkeypatch.setattr(medmap_plan, "FEWEST_STEPS", 10**9)
    few = plan(data, budget_s=900, overrides=["fit.threads=1"], device="cpu")
    assert few.coarse is None
    assert "find nothing reliably" in few.reasons["coarse"]
    assert not any(where.startswith("coarse.") for where in few.reasons)
    with pytest.raises(ConfigError, match=r"no coarse network is planned.*coarse\.fit\.epochs=3"):
        plan(data, budget_s=100, overrides=["coarse.fit.epochs=3", "fit.threads=1"], device="cpu")
