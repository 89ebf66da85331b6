"""Image → mask: patches, losses, partial labels, counts, and masks on the source's grid."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from medmap.dataset import Case, Dataset, InputSpec, Ref, Truth
from medmap.errors import DatasetError
from medmap.geometry import Geometry, Resample, Trace
from medmap.results import Label
from medmap.tasks import Batch
from medmap.tasks.protocol import IGNORED
from medmap.tasks.segment import Segment, SegmentSection, make, patch_of
from medmap.testing import check_task

LABELS = (Label("background"), Label("organ"), Label("lesion"))


def task(patch: tuple[int, ...] = (4, 4), known: dict[str, tuple[int, ...]] | None = None, **section: Any) -> Segment:
    return Segment(SegmentSection(**section), LABELS, patch, known or {})


class Fixed(torch.nn.Module):
    """Answers what it was told, at one or several resolutions."""

    def __init__(self, *logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = torch.nn.ParameterList(logits)

    def forward(self, images: torch.Tensor) -> Any:
        return list(self.logits) if len(self.logits) > 1 else self.logits[0]


def loss(t: Segment, truth: torch.Tensor, *logits: torch.Tensor, cases: tuple[str, ...] = ("a",)) -> torch.Tensor:
    return t.loss(Fixed(*logits), Batch(torch.zeros(len(truth), 1, *truth.shape[1:]), truth, cases)).detach()


def random_case(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return torch.randint(0, 3, (1, 4, 4), generator=rng).short(), torch.randn(1, 3, 4, 4, generator=rng)


def test_it_keeps_the_promises_of_a_task() -> None:
    rng = np.random.default_rng(0)
    truths = [(rng.random((8, 16, 16)) > 0.7).astype(np.uint8) for _ in range(2)]
    examples = [
        {"image": (t[None] + rng.normal(0, 0.3, (1, 8, 16, 16))).astype(np.float32), "truth": t} for t in truths
    ]
    cases = [Case(str(n), str(n), {}, Truth(True, masks=(Ref("m.nii"),))) for n in range(2)]
    check_task(task((8, 16, 16)), examples, cases, network="unet", width=0.25)


# -- patches ----------------------------------------------------------------------------------------------------------


@given(
    shape=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    start=st.tuples(st.integers(-5, 9), st.integers(-5, 9)),
    size=st.tuples(st.integers(1, 6), st.integers(1, 6)),
)
def test_a_patch_is_what_a_padded_array_holds(
    shape: tuple[int, int], start: tuple[int, int], size: tuple[int, int]
) -> None:
    array = np.arange(1, shape[0] * shape[1] + 1).reshape(shape)
    if any(s + n <= 0 or s >= side for s, n, side in zip(start, size, shape, strict=True)):
        return  # nothing of the array in it
    wide = np.pad(array, 20)
    wanted = wide[tuple(slice(20 + s, 20 + s + n) for s, n in zip(start, size, strict=True))]
    np.testing.assert_array_equal(patch_of(array, start, size, 0), wanted)


def test_patches_are_drawn_around_every_class_alike() -> None:
    truth = np.zeros((40, 40), np.uint8)
    truth[:30, :30] = 1
    truth[37, 37] = 2
    places = {f"places_{c}": np.argwhere(truth == c).astype(np.int32) for c in (1, 2)}
    tensors = {"image": np.zeros((1, 40, 40), np.float16), "truth": truth, **places}
    drawn = [task((6, 6), foreground=1.0).draw(tensors, np.random.default_rng(n))["truth"] for n in range(200)]
    assert all(patch.shape == (6, 6) and patch.any() for patch in drawn)
    assert 0.35 < np.mean([(patch == 2).any() for patch in drawn]) < 0.65
    assert len({np.argwhere(patch == 2)[0].tobytes() for patch in drawn if (patch == 2).any()}) > 3, "at every place"


def test_an_image_smaller_than_the_patch_is_padded_with_its_smallest_value() -> None:
    tensors = {"image": np.full((1, 3, 9), 5.0, np.float16), "truth": np.ones((3, 9), np.uint8)}
    tensors["image"][0, 1, 4] = -2
    drawn = task((8, 4)).draw(tensors, np.random.default_rng(0))
    assert drawn["image"].shape == (1, 8, 4)
    assert drawn["truth"].sum() == 12, "padding is background"


# -- losses -----------------------------------------------------------------------------------------------------------


def test_cross_entropy_alone_is_cross_entropy() -> None:
    truth, logits = random_case()
    wanted = functional.cross_entropy(logits, truth.long())
    assert float(loss(task(dice=0), truth, logits)) == pytest.approx(float(wanted), rel=1e-5)


def test_a_perfect_answer_has_hardly_any_loss() -> None:
    truth, _ = random_case()
    logits = 50 * functional.one_hot(truth.long(), 3).movedim(-1, 1).float()
    assert float(loss(task(), truth, logits)) < 1e-3
    assert float(loss(task(), truth, -logits)) > 1


def test_ignored_voxels_have_no_gradient() -> None:
    truth, logits = random_case()
    truth[0, 0, 0] = IGNORED
    net = Fixed(logits)
    task().loss(net, Batch(torch.zeros(1, 1, 4, 4), truth, ("a",))).backward()  # type: ignore[no-untyped-call]
    gradient = net.logits[0].grad
    assert gradient is not None
    assert not gradient[0, :, 0, 0].any()
    assert gradient[0, :, 1, 1].any()


def test_a_class_that_was_not_looked_at_is_no_error() -> None:
    """Where only the organ was drawn, what the network calls lesion counts as background."""
    truth = torch.zeros((1, 4, 4), dtype=torch.int16)
    lesion = torch.full((1, 3, 4, 4), -20.0)
    lesion[:, 2] = 20.0
    organ = torch.full((1, 3, 4, 4), -20.0)
    organ[:, 1] = 20.0
    partly = task(known={"a": (0, 1)}, dice=0)
    assert float(loss(partly, truth, lesion)) < 1e-3
    assert float(loss(partly, truth, organ)) > 10
    assert float(loss(task(dice=0), truth, lesion)) > 10
    assert float(loss(replace(partly, section=SegmentSection()), truth, lesion)) < 0.6


def test_lower_stages_learn_half_as_much_each() -> None:
    truth, logits = random_case()
    low = functional.interpolate(logits, scale_factor=0.5)
    alone = float(loss(task(deep_supervision=False), truth, logits, low))
    both = float(loss(task(), truth, logits, low))
    coarse = float(loss(task(), truth[:, ::2, ::2].contiguous(), low))
    assert alone == pytest.approx(float(loss(task(), truth, logits)))
    assert both == pytest.approx((alone + 0.5 * coarse) / 1.5, rel=1e-4)


@given(beta=st.floats(0.05, 0.95))
def test_tversky_weighs_what_is_missed(beta: float) -> None:
    """Half of the organ missed, nothing invented: TP / (TP + β·FN)."""
    truth = torch.ones((1, 4, 4), dtype=torch.int16)
    logits = torch.full((1, 3, 4, 4), -40.0)
    logits[:, 1, :2], logits[:, 0, 2:] = 40.0, 40.0
    found = float(loss(task(cross_entropy=0, tversky_beta=beta), truth, logits))
    # the lesion is neither there nor found: an index of one
    assert found == pytest.approx(1 - (8 / (8 + beta * 8) + 1) / 2, abs=1e-3)


# -- answers ----------------------------------------------------------------------------------------------------------


class Store:
    """Two prepared cases."""

    def __init__(self, truths: list[np.ndarray[Any, Any]]) -> None:
        self.truths = truths
        self.cases = tuple(Case(str(n), str(n), {}) for n in range(len(truths)))

    def __getitem__(self, row: int) -> dict[str, Any]:
        truth = self.truths[row]
        return {"image": truth[None].astype(np.float16), "truth": truth}


def copied(batch: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """A network that sees the answer."""
    return np.stack([10.0 * (np.rint(batch[:, 0]) == c) for c in range(3)], axis=1).astype(np.float32)


def test_a_network_that_sees_the_answer_scores_one() -> None:
    rng = np.random.default_rng(0)
    store = Store([rng.integers(0, 3, (11, 7)).astype(np.uint8) for _ in range(2)])
    t = task((4, 4))
    found = t.answers(copied, store, [0, 1])
    assert t.score(found, store.cases).value == 1.0
    wrong = t.answers(lambda batch: np.roll(copied(batch), 1, axis=1), store, [0, 1])
    assert t.score(wrong, store.cases).value < 0.1
    assert t.score(np.zeros((2, 3, 3), np.int64), store.cases).value == 0.0


def test_what_nobody_looked_at_is_not_scored() -> None:
    truth = np.zeros((6, 6), np.uint8)
    truth[0] = IGNORED
    truth[1] = 1
    store = Store([truth])
    t = task((6, 6), known={"0": (0, 1)})
    found = t.answers(lambda batch: copied(np.where(batch == 0, 2, batch)), store, [0])
    assert t.score(found, store.cases).value == 1.0, "the invented lesion is of a class that was not looked at"


def test_masks_come_back_on_the_source_grid() -> None:
    grid = Geometry.from_spacing((10, 14), (1.0, 1.0))
    trace = Trace(grid, (Resample((5, 7)),))
    image = np.zeros((1, 5, 7), np.float32)
    image[0, 1:4, 2:5] = 1
    t = task((4, 4))
    mask = t.structures.mask(t.labelled(copied, image, trace), grid)
    assert mask.array.shape == (10, 14)
    assert mask.array[4, 6] == 1
    assert mask.array[0, 0] == 0
    assert [label.name for label in mask.labels.values()] == ["organ", "lesion"]
    decoded = t.decode(np.array([[[0.0, 1.0]], [[1.0, 0.0]], [[0.5, 0.5]]]))
    assert decoded.array.tolist() == [[1, 0]]


# -- making -----------------------------------------------------------------------------------------------------------


def dataset(**changes: Any) -> Dataset:
    cases = (Case("a", "a", {}, Truth(True, masks=(Ref("a.nii"),), known=(0, 1))),)
    plain = Dataset("d", "segment", cases, {"image": InputSpec()}, LABELS)
    return replace(plain, **changes)


def test_the_task_knows_who_looked_at_what() -> None:
    assert make(SegmentSection(), dataset(), (8, 8)).known == {"a": (0, 1)}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"labels": LABELS[:1], "cases": (Case("a", "a", {}, Truth(True, masks=(Ref("a.nii"),))),)}, "no structure"),
        ({"cases": (Case("a", "a", {}),)}, "has a mask"),
        ({"regions": {"whole": (1, 3)}}, "values that no structure has"),
        ({"regions": {"whole": ()}}, "values that no structure has"),
    ],
)
def test_what_cannot_be_learned_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(DatasetError, match=words):
        make(SegmentSection(), dataset(**changes))
