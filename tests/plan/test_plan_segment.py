"""The plan of a segmentation: patches that the network can halve, within a budget, each choice with a reason."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medmap import phantom
from medmap.cli import run as medmap
from medmap.cli.settings import Words
from medmap.errors import ConfigError, UsageError
from medmap.geometry import Geometry
from medmap.image import Image
from medmap.layouts import open_dataset
from medmap.networks import multiple_of
from medmap.plan import Run, build, make_task, plan
from medmap.plan.fingerprint import Fingerprint, fingerprint
from medmap.plan.segment import PATCH_VOXELS, _grid, dividing
from medmap.plan.slices import SLICES_OF_A_PATCH, Slicing, slicing
from medmap.tasks.segment import SegmentSection
from medmap.write import write


@given(
    shape=st.lists(st.integers(8, 600), min_size=2, max_size=3),
    spacing=st.lists(st.floats(0.3, 6.0), min_size=3, max_size=3),
)
def test_every_patch_can_be_halved_as_its_network_does(shape: list[int], spacing: list[float]) -> None:
    dims = len(shape)
    facts = Fingerprint(
        9, 9, 9, dims, tuple(shape), True, tuple(spacing[:dims]), 1, False, "HU", "CT", dims == 3, {}, 9
    )
    section, strides, reasons = _grid(facts, "cpu", Slicing())
    total = multiple_of(strides) or (1,) * dims
    assert all(side % by == 0 for side, by in zip(section.shape, total, strict=True))
    assert np.prod(section.shape) <= PATCH_VOXELS["cpu"][dims] * 2.5, "rounding up does not run away"
    assert "prepare.shape" in reasons


def test_a_plan_says_why(tmp_path: Path) -> None:
    phantom.write_study(tmp_path / "data", phantom.segmentation(6, seed=0, shape=(24, 32)), task="segment")
    data = open_dataset(tmp_path / "data")
    run = plan(data, overrides=["network.width=0.25"], folds=2)
    assert isinstance(run.task, SegmentSection)
    assert run.prepare.grid == "spacing"
    assert run.network.name == "unet"
    assert run.ensemble.folds == run.ensemble.members == 2
    assert {"task.patches", "prepare.spacing_mm", "prepare.shape", "fit.epochs"} <= run.reasons.keys()
    assert type(run).load(_saved(run, tmp_path)) == run
    with pytest.raises(UsageError, match="for classes"):
        plan(data, recipe_name="vgg16")


def test_what_is_set_of_the_grid_is_what_the_network_is_drawn_for(tmp_path: Path) -> None:
    phantom.write_study(tmp_path / "data", phantom.segmentation(4, seed=0, shape=(24, 32)), task="segment")
    data, thin = open_dataset(tmp_path / "data"), "network.width=0.25"
    free = plan(data, overrides=[thin], folds=2)
    by_hand = plan(data, overrides=[thin, "prepare.shape=[12, 20]"], folds=2)
    assert by_hand.prepare.shape == (12, 20)
    total = multiple_of(by_hand.network.strides)
    assert total == (2, 4), "halved as often as 12 and 20 bear without a rest"
    assert by_hand.reasons["prepare.shape"] == "set by hand"
    assert "network.name" not in by_hand.reasons, "it spoke of a width that was set by hand"
    assert "12 × 20" in by_hand.reasons["fit.batch_size"], "it is drawn around, so the reason is true"
    assert free.prepare.spacing_mm is not None
    coarse = [2 * step for step in free.prepare.spacing_mm]
    coarser = plan(data, overrides=[thin, f"prepare.spacing_mm={coarse}"], folds=2)
    assert coarser.prepare.spacing_mm == tuple(coarse)
    assert np.prod(coarser.prepare.shape) < np.prod(free.prepare.shape)
    assert "fit.batch_size" in free.reasons
    again = free.override(["prepare.shape=[16, 16]"])
    assert "fit.batch_size" not in again.reasons, "it spoke of another patch"
    assert "network.norm" not in again.override(["fit.batch_size=3"]).reasons
    spaced = free.override([f"prepare.spacing_mm={coarse}"])
    assert "prepare.shape" not in spaced.reasons
    odd = by_hand.override(["prepare.shape=[30, 21]"])
    strides = dividing(odd.prepare.shape, np.ones(2))
    assert multiple_of(strides) == (2, 1), "halved where it leaves no rest"
    odd = odd.model_copy(update={"network": odd.network.model_copy(update={"strides": strides})})
    build(make_task(odd, data), odd, seed=0)
    with pytest.raises(ConfigError, match="too large"):
        plan(data, overrides=["prepare.spacing_mm=[0.0001, 0.0001]"])
    with pytest.raises(ConfigError, match="another number of axes"):
        plan(data, overrides=["prepare.shape=[32, 32, 32]"])
    with pytest.raises(ConfigError, match="spacing"):
        plan(data, overrides=["prepare.spacing_mm=fine"])


def test_a_budget_that_teaches_little_is_called_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    phantom.write_study(tmp_path / "data", phantom.segmentation(6, seed=0, shape=(24, 32)), task="segment")
    out, call = (
        tmp_path / "run.yaml",
        ["plan", str(tmp_path / "data"), "--budget", "2s", "--quiet", "--set", "network.width=0.25", "-o"],
    )
    assert medmap([*call, str(out)]) == 0
    assert "the budget is too short to learn much" in capsys.readouterr().out
    assert "too short" in Run.load(out).reasons["budget"]
    assert "budget" not in Words(sets=["fit.epochs=50"]).loaded(out).reasons
    assert "budget" not in Words(budget="10m").loaded(out).reasons
    assert medmap([*call, str(tmp_path / "b.yaml"), "--set", "fit.epochs=30"]) == 0
    assert "too short" not in capsys.readouterr().out


def _saved(run: object, folder: Path) -> Path:
    run.save(folder / "run.yaml")  # type: ignore[attr-defined]
    return folder / "run.yaml"


def volume_facts(shape: tuple[int, ...], spacing: tuple[float, ...]) -> Fingerprint:
    return Fingerprint(9, 9, 9, 3, shape, True, spacing, 1, False, "HU", "CT", True, {}, 9)


@pytest.mark.parametrize(
    ("shape", "spacing", "asked", "slices", "axis"),
    [
        ((128, 128, 5), (1.0, 1.0, 2.0), {}, 3, 2),
        ((256, 216, 10), (1.5, 1.5, 10.0), {}, 3, 2),
        ((10, 216, 256), (10.0, 1.5, 1.5), {}, 3, 0),
        ((320, 320, 24), (0.6, 0.6, 3.6), {}, 0, 2),
        ((128, 128, 64), (1.0, 1.0, 1.0), {}, 0, None),
        ((256, 216, 10), (1.5, 1.5, 10.0), {"slices": 0}, 0, 2),
        ((128, 128, 64), (1.0, 1.0, 1.5), {"slices": 5}, 5, 2),
        ((128, 128, 64), (1.0, 1.0, 1.5), {"name": "unet+timm:resnet18"}, 3, 2),
        ((256, 216, 10), (1.5, 1.5, 10.0), {"name": "monai:VNet"}, 0, 2),
    ],
)
def test_few_or_thick_slices_are_seen_with_their_neighbours(
    shape: tuple[int, ...], spacing: tuple[float, ...], asked: dict[str, object], slices: int, axis: int | None
) -> None:
    facts = volume_facts(shape, spacing)
    by = slicing(facts, asked)
    assert by.slices == slices
    assert axis is None or by.axis == axis
    section, strides, _ = _grid(facts, "cpu", by)
    if by.slices and by.axis is not None:
        assert by.reason
        assert section.shape[by.axis] == min(SLICES_OF_A_PATCH, shape[by.axis])
        assert {len(step) for step in strides} == {2}
        plane = [side for a, side in enumerate(section.shape) if a != by.axis]
        assert all(side % by_ == 0 for side, by_ in zip(plane, multiple_of(strides), strict=True))
    else:
        assert {len(step) for step in strides} == {3}


def test_why_volumes_of_thick_slices_stay_volumes() -> None:
    told = slicing(volume_facts((320, 320, 24), (0.6, 0.6, 3.6)), {})
    assert told.thick
    assert "6.0 times as thick" in str(told.reason)
    assert slicing(Fingerprint(9, 9, 9, 2, (8, 8), True, None, 1, False, "HU", "CT", False, {}, 9), {}) == Slicing()


def test_the_fingerprint_counts_along_the_axes_that_preparation_turns_to(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    affine = np.zeros((4, 4))  # the first axis runs up the body, the others backwards and to the left
    affine[2, 0], affine[1, 1], affine[0, 2], affine[3, 3] = 5.0, 0.7, 0.9, 1.0
    rows = ["case,patient,image,mask"]
    for n in range(2):
        mask = np.zeros((6, 20, 24), np.uint8)
        mask[2:4, 5:12, 6:15] = 1
        grid = Geometry(mask.shape, affine, "patient")
        write(Image((rng.normal(0, 9, mask.shape) + 90 * mask).astype(np.float32), grid), tmp_path / f"images/{n}.nii")
        write(Image(mask, grid, "label"), tmp_path / f"images/{n}_mask.nii")
        rows.append(f"c{n},p{n},images/{n}.nii,images/{n}_mask.nii")
    (tmp_path / "cases.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "dataset.yaml").write_text(
        "medmap_dataset: 1\nname: sagittal\ntask: segment\ninputs: {image: {modality: MR}}\nlabels: {0: none, 1: box}\n"
    )
    facts = fingerprint(open_dataset(tmp_path))
    assert facts.shape == (24, 20, 6)
    assert facts.spacing_mm == pytest.approx((0.9, 0.7, 5.0), rel=1e-6)
