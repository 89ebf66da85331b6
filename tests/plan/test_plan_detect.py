"""The rules of a detection's plan: grid, finest map and anchors from how large the boxes are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medmap.dataset import Case, Dataset, InputSpec, Ref, Truth
from medmap.errors import BoxError, ConfigError, DataError, MedmapError, UsageError
from medmap.geometry import Geometry
from medmap.image import Image
from medmap.networks import NetworkSpec
from medmap.networks.detectors import anchors_of, map_steps
from medmap.plan import detect, fingerprint, plan
from medmap.plan.detect import BoxSizes, anchors_for, box_sizes
from medmap.prepare import PrepareSection
from medmap.results import Label
from medmap.write import write

WORDS = {"seed": 0, "device": "cpu", "budget_s": None, "memory_bytes": 2**31, "network": {}}


def dataset(folder: Path, shape: tuple[int, ...], side: int, spacing: tuple[float, ...] | None, n: int = 4) -> Dataset:
    cases = []
    rng = np.random.default_rng(0)
    for number in range(n):
        pixels = rng.normal(0, 10, shape).astype(np.float32)
        name = f"{number}.nii.gz" if spacing else f"{number}.png"
        if spacing:
            write(Image(pixels, Geometry.from_spacing(shape, spacing)), folder / name, overwrite=True)
        else:
            write(Image((pixels + 128).astype(np.uint8), Geometry.without_size(shape)), folder / name, overwrite=True)
        boxes = tuple(((*(5,) * len(shape), *(5 + side - 1,) * len(shape)), 0) for _ in range(1))
        cases.append(Case(str(number), str(number), {"image": Ref(name)}, Truth(True, boxes=boxes)))
    inputs = {"image": InputSpec("OT")}
    return Dataset("things", "detect", tuple(cases), inputs, (Label("thing"),), root=folder)


def drafted(data: Dataset, **network: object) -> detect.Run:
    return detect.first_draft(data, fingerprint(data), "rules", {**WORDS, "network": network})


def test_large_boxes_in_pictures_are_looked_at_coarser(tmp_path: Path) -> None:
    run = drafted(dataset(tmp_path, (300, 200), 90, None))
    assert run.prepare.grid == "whole"
    assert run.prepare.shape == (64, 64)  # a fifth: boxes of 18 pixels
    assert "0.20" in run.reasons["prepare.shape"]
    assert run.network.finest == 3
    assert run.augment.mosaic > 0


def test_small_boxes_in_large_pictures_are_looked_for_in_patches(tmp_path: Path) -> None:
    run = drafted(dataset(tmp_path, (1200, 900), 8, None, 2))
    assert run.prepare.grid == "native"
    assert np.prod(run.prepare.shape) <= 320 * 320
    assert run.network.finest == 2  # eight pixels: every four
    assert "patches of" in run.reasons["prepare.shape"]


def test_volumes_keep_the_spacing_that_small_boxes_need(tmp_path: Path) -> None:
    run = drafted(dataset(tmp_path, (60, 60, 30), 6, (0.7, 0.7, 2.5)))
    assert run.prepare.spacing_mm == (0.7, 0.7, 2.5)  # boxes of 4.2 mm
    assert run.network.finest >= 1
    assert run.augment.flip_axes == (0, 1, 2)
    assert run.task.kind == "detect"
    assert run.task.views is False
    coarse = drafted(dataset(tmp_path, (60, 60, 30), 24, (0.7, 0.7, 0.7)))
    assert coarse.prepare.spacing_mm == (2.8, 2.8, 2.8)


def test_sided_classes_are_not_mirrored(tmp_path: Path) -> None:
    data = replace(dataset(tmp_path, (40, 40, 20), 6, (1.0, 1.0, 2.0)), labels=(Label("left lung nodule"),))
    assert drafted(data).augment.flip_axes == ()


def test_boxes_are_measured_in_mm_after_turning(tmp_path: Path) -> None:
    data = dataset(tmp_path, (40, 30, 20), 6, (1.0, 1.0, 2.0), 1)
    turned = np.eye(4)[[1, 2, 0, 3]] * np.array([1.0, 2.0, 3.0, 1.0])  # axes are S, L, P with steps 1, 2 and 3 mm
    write(Image(np.ones((40, 30, 20), np.float32), Geometry((40, 30, 20), turned, "patient")), tmp_path / "t.nii.gz")
    boxes = (((1, 2, 3, 4, 8, 14), 0),)
    case = Case("t", "t", {"image": Ref("t.nii.gz")}, Truth(True, boxes=boxes))
    found = box_sizes(data.with_cases([case]), turned=True)
    sides = {1: 4.0, 2: 7.0, 3: 12.0}  # voxels along the axis of each step
    steps = [float(np.abs(turned[axis, :3]).max()) for axis in range(3)]  # along L, P and S
    np.testing.assert_allclose(found.sides_mm[0], [step * sides[step] for step in steps])


def test_anchors_are_the_sides_of_the_boxes_that_a_map_suits() -> None:
    rng = np.random.default_rng(0)
    small, large = rng.uniform([14, 18], [18, 22], (40, 2)), rng.uniform([60, 50], [70, 60], (40, 2))
    sides = np.concatenate([small, large])
    boxes = BoxSizes(sides, sides, np.zeros(80, int))
    prepare = PrepareSection(shape=(256, 256), grid="native")
    rows = anchors_for(boxes, prepare, ((4, 4), (8, 8), (16, 16)))
    assert len(rows) == 3
    np.testing.assert_allclose(rows[0], np.percentile(small, (25, 75), axis=0), atol=0.06)
    np.testing.assert_allclose(rows[2], np.percentile(large, (25, 75), axis=0), atol=0.06)
    usual = np.median(sides, axis=0)  # hardly a box suits the map between: the usual proportions, as its places suit
    assert rows[1][0][0] / rows[1][0][1] == pytest.approx(usual[0] / usual[1], rel=0.02)


def test_what_cannot_be_planned_is_refused(tmp_path: Path) -> None:
    data = dataset(tmp_path, (40, 40), 6, None)
    with pytest.raises(UsageError, match="classical recipes"):
        detect.first_draft(data, fingerprint(data), "cnn", WORDS)
    bare = data.with_cases([replace(case, truth=Truth(True, boxes=())) for case in data])
    with pytest.raises(DataError, match="has a box"):
        detect.first_draft(bare, fingerprint(bare), "rules", WORDS)


def test_what_is_set_by_hand_of_the_network_is_planned_with(tmp_path: Path) -> None:
    data = dataset(tmp_path, (300, 200), 90, None)
    short = drafted(data, name="retinanet", strides=[[2, 2], [2, 2]])
    assert short.network.finest == 1  # two reductions: the coarsest map but one
    assert len(short.network.anchors) == 2
    timm = drafted(data, name="retinanet+timm:resnet18")
    spec = NetworkSpec(timm.network.name, 2, 1, 1, (64, 64), boxes=True, finest=timm.network.finest)
    spec = replace(spec, name="retinanet+timm:resnet18", anchors=timm.network.anchors)
    assert map_steps(spec)[0] == (8, 8)  # boxes of 18 pixels, as with medmap's own encoder
    assert len(anchors_of(spec)) == len(map_steps(spec))
    for wrong in ({"finest": 9}, {"finest": -1}, {"name": "fcos+timm:resnet181"}):
        with pytest.raises(ConfigError):
            drafted(data, **wrong)


@pytest.mark.parametrize("text", ["finest=-1", "finest=abc", "finest=null", "finest=9", "=5", "strides=[[2]]"])
def test_what_is_set_wrong_by_hand_is_refused_with_a_sentence(text: str, tmp_path: Path) -> None:
    words = ["network=5"] if text == "=5" else [f"network.{text}", "network.name=retinanet"]
    with pytest.raises(MedmapError):
        plan(dataset(tmp_path, (64, 48), 12, None), budget_s=5, overrides=words)


def test_boxes_that_reach_beyond_every_number_are_refused(tmp_path: Path) -> None:
    data = dataset(tmp_path, (64, 48), 12, None)
    first = data.cases[0]
    far = replace(first, truth=replace(first.truth, boxes=(((5.0, 5.0, 1e300, 20.0), 0),)))
    with pytest.raises(BoxError, match="outside the image"):
        plan(data.with_cases([far, *data.cases[1:]]), budget_s=5)
