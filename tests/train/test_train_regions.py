"""Regions that overlap: learned side by side, judged a region, predicted, written, exported."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from medmap.bundle import Bundle
from medmap.bundle import verify as verify_bundle
from medmap.cli import run as medmap
from medmap.dataset import Case
from medmap.decision import ComponentRule
from medmap.errors import BundleError, UsageError
from medmap.evaluate import evaluate, read_structures
from medmap.geometry import Geometry, Resample, Trace
from medmap.layouts import open_dataset
from medmap.metrics import as_regions
from medmap.predict import predict
from medmap.predict.masks import task_of
from medmap.read import read, read_ref
from medmap.results import Label
from medmap.tasks import Batch
from medmap.tasks.protocol import IGNORED
from medmap.tasks.segment import Segment, SegmentSection
from medmap.tasks.structures import Structures
from medmap.testing import check_task
from medmap.train import train
from medmap.write import write
from nested_masks import nested_run, write_nested

REGIONS = {"whole": (1, 2), "core": (2,)}
LABELS = (Label("whole"), Label("core"))
FEWEST = 0.85


def task(known: dict[str, tuple[int, ...]] | None = None, **section: object) -> Segment:
    made = SegmentSection().model_copy(update=section)
    return Segment(made, LABELS, (4, 4), known or {}, regions=REGIONS)


# -- the loss and the structures --------------------------------------------------------------------------------------


class Fixed(torch.nn.Module):
    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = torch.nn.Parameter(logits)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.logits


def random_case(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return torch.randint(0, 3, (1, 4, 4), generator=rng).short(), torch.randn(1, 2, 4, 4, generator=rng)


def test_the_loss_is_that_of_each_region_for_itself() -> None:
    truth, logits = random_case()
    inside = torch.stack([truth > 0, truth == 2], dim=1).float()
    batch = Batch(torch.zeros(1, 1, 4, 4), truth, ("a",))
    plain = task(dice=0).loss(Fixed(logits), batch).detach()
    assert float(plain) == pytest.approx(float(functional.binary_cross_entropy_with_logits(logits, inside)), rel=1e-5)
    focal = task(dice=0, focal_gamma=2.0).loss(Fixed(logits), batch).detach()
    chance = torch.where(inside > 0, logits.sigmoid(), 1 - logits.sigmoid())
    assert float(focal) == pytest.approx(float(((1 - chance) ** 2 * -chance.log()).mean()), rel=1e-4)
    sharp = task().loss(Fixed(100 * (inside - 0.5)), batch).detach()
    assert float(sharp) < 1e-3 < float(task().loss(Fixed(-logits), batch).detach())


def test_what_is_ignored_or_was_not_looked_at_has_no_gradient() -> None:
    truth, logits = random_case()
    truth[0, 0, 0] = IGNORED
    net = Fixed(logits)
    task({"a": (0, 2)}).loss(net, Batch(torch.zeros(1, 1, 4, 4), truth, ("a",))).backward()  # type: ignore[no-untyped-call]
    gradient = net.logits.grad
    assert gradient is not None
    assert not gradient[0, :, 0, 0].any()
    assert not gradient[0, 0].any(), "of the whole only the core was looked at"
    assert gradient[0, 1, 1:].all()


@given(st.integers(0, 2**32 - 1))
def test_masks_and_truths_are_split_into_regions_alike(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 3, (4, 5)).astype(np.uint8)
    there, structures = as_regions(truth, REGIONS), Structures(LABELS, REGIONS)
    of_torch = structures.membership(torch.from_numpy(truth)[None])[0].numpy()
    np.testing.assert_array_equal(np.moveaxis(of_torch, 0, -1), there)
    for number in structures.named:
        np.testing.assert_array_equal(structures.true(truth, number), there[..., number - 1])
        np.testing.assert_array_equal(structures.one(there, number), there[..., number - 1])
    scores = np.where(np.moveaxis(there, -1, 0), 3.0, -3.0)
    np.testing.assert_array_equal(structures.decided(scores), there)


def test_small_parts_of_one_region_are_dropped_without_the_others() -> None:
    structures = Structures(LABELS, REGIONS)
    array = np.zeros((6, 6, 2), bool)
    array[:3, :3], array[5, 5] = True, True
    kept = structures.kept(array, {2: ComponentRule(smallest=2.0)}, 1.0)
    assert kept[5, 5].tolist() == [True, False]
    assert kept[:3, :3].all()
    assert array[5, 5].all(), "what was given is not changed"
    truth = np.zeros((6, 6), np.uint8)
    truth[:3, :3], truth[5, 5], truth[0, 0] = 2, 1, IGNORED
    found = structures.parts(array, truth, 1, 1.0, IGNORED)
    assert found.truth == 9
    assert sorted(found.hits.tolist()) == [1, 8]
    assert sorted(found.counted.tolist()) == [1, 8]


def test_the_task_keeps_the_promises_of_a_task() -> None:
    rng = np.random.default_rng(0)
    truths = [rng.integers(0, 3, (16, 16)).astype(np.uint8) for _ in range(2)]
    examples = [{"image": (t[None] + rng.normal(0, 0.3, (1, 16, 16))).astype(np.float32), "truth": t} for t in truths]
    wide = Segment(SegmentSection(), LABELS, (16, 16), regions=REGIONS)
    check_task(wide, examples, [Case(str(n), str(n), {}) for n in range(2)], network="unet", width=0.25)


def test_a_network_that_sees_the_answer_scores_one_also_on_a_finer_source() -> None:
    class Store:
        cases = (Case("a", "a", {}),)

        def __getitem__(self, row: int) -> dict[str, np.ndarray]:
            return {"image": truth[None].astype(np.float16), "truth": truth}

    def copied(batch: np.ndarray) -> np.ndarray:
        return np.stack([10 * (np.rint(batch[:, 0]) >= v) - 5 for v in (1, 2)], axis=1).astype(np.float32)

    truth = np.zeros((7, 9), np.uint8)
    truth[1:6, 2:7], truth[3:5, 3:6] = 1, 2
    assert task().score(task().answers(copied, Store(), [0]), Store.cases).value == 1.0
    grid = Geometry.from_spacing((14, 18), (1.0, 1.0))
    seen = task().seen(copied, truth[None].astype(np.float32), Trace(grid, (Resample((7, 9)),)))
    assert seen.mask.shape == (14, 18, 2)
    assert (seen.mask[..., 0] >= seen.mask[..., 1]).all()
    assert seen.expected_dice == pytest.approx(1.0, abs=0.05)


# -- from a dataset to DICOM ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def nested(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_nested(tmp_path_factory.mktemp("regions") / "data", regions=True)


@pytest.fixture(scope="module")
def trained(nested: Path) -> Path:
    train(nested_run(epochs=20), open_dataset(nested), nested.parent / "run", listener=lambda event: None)
    return nested.parent / "run"


def test_both_regions_are_learned_and_exported(trained: Path) -> None:
    bundle = Bundle.load(trained)
    assert [label.name for label in bundle.labels] == ["whole", "core"]
    assert bundle.spec.kind == "multilabel"
    assert bundle.spec.provenance["regions"] == {"whole": [1, 2], "core": [2]}
    assert bundle.spec.members[0].network["outputs"] == 2
    openvino = bundle.spec.engines["openvino"]
    assert openvino["passed"]
    assert openvino["dice"] > 0.999
    assert all(parity.passed for parity in verify_bundle(bundle))
    table = read_structures(trained / "evaluation/predictions.csv")
    assert set(table.structures) == {"whole", "core"}
    dice = {name: table.of(structure=name).values("dice").mean() for name in ("whole", "core")}
    assert min(dice.values()) > FEWEST
    assert "whole" in (trained / "evaluation/report.html").read_text()


def test_they_are_judged_and_predicted_on_the_source(trained: Path, nested: Path, tmp_path: Path) -> None:
    bundle, data = Bundle.load(trained), open_dataset(nested)
    report = evaluate(bundle, data)
    assert report.cases == 4
    dice = report.row("dice")
    assert dice is not None
    assert (dice.value or 0) > FEWEST
    case = data.split("test").cases[0]
    image, truth = (read_ref(data, ref) for ref in (case.inputs["image"], case.truth.masks[0]) if ref)
    mask = predict(bundle, image).outputs["mask"]
    assert mask.array.shape == (*image.geometry.shape, 2)  # type: ignore[union-attr]
    both = as_regions(np.asarray(truth.array), REGIONS)
    assert 2 * (mask.array & both).sum() / (mask.array.sum() + both.sum()) > FEWEST  # type: ignore[union-attr]
    back = read(write(mask, tmp_path / "mask.nii.gz"))  # type: ignore[arg-type]
    beside = np.asarray(back.array)[:, :, 0].transpose(1, 0, 2) > 0  # channels of a plane: a volume of one slice
    np.testing.assert_array_equal(beside, mask.array)  # type: ignore[union-attr]


def test_the_command_line_writes_and_measures_each_region(trained: Path, nested: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    call = ["predict", str(trained), str(nested), "-o", str(out), "--format", "json,csv,nifti,overlay", "--quiet"]
    assert medmap(call) == 0
    found = json.loads((out / "000000.json").read_text())["outputs"]["mask"]["structures"]
    assert [one["label"] for one in found] == ["whole", "core"]
    assert found[0]["voxels"] > found[1]["voxels"] > 0
    assert np.asarray(read(out / "000000.nii.gz").array).shape[-1] == 2
    assert (out / "structures.csv").read_text().count("core") == 16
    order = ["export", str(trained), "-o", str(tmp_path / "b"), "--to", "openvino", "--dataset", str(nested)]
    assert medmap([*order, "--json"]) == 0


def test_other_regions_are_refused(trained: Path, nested: Path, tmp_path: Path) -> None:
    other = open_dataset(write_nested(tmp_path / "plain"))
    with pytest.raises(UsageError, match="other regions"):
        evaluate(Bundle.load(trained), other)
    bundle = Bundle.load(trained)
    provenance = {**bundle.spec.provenance, "regions": {"whole": "1 and 2"}}
    object.__setattr__(bundle, "spec", bundle.spec.model_copy(update={"provenance": provenance}))
    with pytest.raises(BundleError, match="regions that are not its own"):
        task_of(bundle, (16, 16))
