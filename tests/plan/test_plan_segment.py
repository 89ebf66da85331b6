"""The plan of a segmentation: patches that the network can halve, within a budget, each choice with a reason."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medmap import phantom
from medmap.errors import UsageError
from medmap.layouts import open_dataset
from medmap.networks import multiple_of
from medmap.plan import plan
from medmap.plan.fingerprint import Fingerprint
from medmap.plan.segment import PATCH_VOXELS, _grid
from medmap.tasks.segment import SegmentSection


@given(
    shape=st.lists(st.integers(8, 600), min_size=2, max_size=3),
    spacing=st.lists(st.floats(0.3, 6.0), min_size=3, max_size=3),
)
def test_every_patch_can_be_halved_as_its_network_does(shape: list[int], spacing: list[float]) -> None:
    dims = len(shape)
    facts = Fingerprint(
        9, 9, 9, dims, tuple(shape), True, tuple(spacing[:dims]), 1, False, "HU", "CT", dims == 3, {}, 9
    )
    section, strides, reasons = _grid(facts, "cpu")
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


def _saved(run: object, folder: Path) -> Path:
    run.save(folder / "run.yaml")  # type: ignore[attr-defined]
    return folder / "run.yaml"
