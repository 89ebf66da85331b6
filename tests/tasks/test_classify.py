"""Image → class: losses, weights, decoding, and what "best" means."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from torch.nn import functional

from medmap.dataset import Case, Dataset, InputSpec, Truth
from medmap.decision import Decision
from medmap.errors import DatasetError
from medmap.results import Label, ScoreKind
from medmap.tasks import Batch
from medmap.tasks.classify import Classify, ClassifySection, make

NAN = float("nan")


def task(kind: ScoreKind, classes: int = 3, **section: Any) -> Classify:
    return Classify(ClassifySection(**section), tuple(Label(f"c{i}") for i in range(classes)), kind)


def dataset(kind: ScoreKind, truths: list[Truth], classes: int = 3) -> Dataset:
    cases = tuple(Case(str(i), str(i), {}, t) for i, t in enumerate(truths))
    labels = tuple(Label(f"c{i}") for i in range(classes))
    return Dataset(
        "d", "classify", cases, {"image": InputSpec()}, labels, kind, positive=1 if kind == "binary" else None
    )


class Fixed(torch.nn.Module):
    """Answers what it was told."""

    def __init__(self, logits: Any) -> None:
        super().__init__()
        self.logits = torch.nn.Parameter(torch.as_tensor(logits, dtype=torch.float32))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.logits


def loss(t: Classify, logits: Any, truth: Any, share: Any = None) -> float:
    images = torch.zeros(len(logits), 1, 2, 2)
    own = None if share is None else torch.as_tensor(share, dtype=torch.float32)
    batch = Batch(images, torch.as_tensor(truth), tuple(map(str, range(len(logits)))), own)
    return float(t.loss(Fixed(logits), batch).detach())


LOGITS = [[2.0, -1.0, 0.5], [0.1, 0.2, -3.0]]


def test_cross_entropy_is_cross_entropy() -> None:
    wanted = float(functional.cross_entropy(torch.tensor(LOGITS), torch.tensor([0, 2])))
    assert loss(task("multiclass"), LOGITS, [0, 2]) == pytest.approx(wanted)


def test_focal_loss_turns_from_easy_cases() -> None:
    easy, hard = [[9.0, 0.0, 0.0]], [[0.0, 9.0, 0.0]]
    plain, focal = task("multiclass"), task("multiclass", loss="focal")
    assert loss(focal, easy, [0]) < 1e-6 < loss(plain, easy, [0])
    assert loss(focal, hard, [0]) == pytest.approx(loss(plain, hard, [0]), rel=1e-3)
    assert loss(task("multiclass", loss="focal", focal_gamma=0), LOGITS, [0, 2]) == pytest.approx(
        loss(plain, LOGITS, [0, 2])
    )


def test_mixup_weighs_both_truths() -> None:
    t = task("multiclass")
    own, other = loss(t, LOGITS, [0, 1]), loss(t, LOGITS, [1, 0])
    assert loss(t, LOGITS, [0, 1], share=[0.7, 0.7]) == pytest.approx(0.7 * own + 0.3 * other)


def test_unknown_labels_have_no_gradient() -> None:
    net = Fixed([[1.0, 2.0, 3.0]])
    t = task("multilabel")
    truth = torch.tensor([[1.0, NAN, 0.0]])
    t.loss(net, Batch(torch.zeros(1, 1, 2, 2), truth, ("0",))).backward()
    grad = net.logits.grad
    assert grad is not None
    assert grad[0, 1] == 0
    assert (grad[0, [0, 2]] != 0).all()
    everything_unknown = loss(t, [[1.0, 2.0, 3.0]], [[NAN, NAN, NAN]])
    assert everything_unknown == 0


def test_ordinal_loss_prefers_the_nearer_grade() -> None:
    t = task("ordinal", 4)
    logits = [[4.0, -4.0, -4.0]]  # grade 1
    assert loss(t, logits, [1]) < loss(t, logits, [2]) < loss(t, logits, [3])


def test_class_weights_make_classes_weigh_the_same() -> None:
    truths = [Truth(True, label=0)] * 9 + [Truth(True, label=1)] * 3
    made = make(ClassifySection(class_weights="balanced"), dataset("binary", truths, 2))
    assert made.weights == pytest.approx((12 / (9 * 2), 12 / (3 * 2)))
    assert make(ClassifySection(), dataset("binary", truths, 2)).weights is None


def test_balanced_sampling_gives_each_class_the_same_chance() -> None:
    truths = [Truth(True, label=0)] * 9 + [Truth(True, label=1)] * 3
    data = dataset("binary", truths, 2)
    made = make(ClassifySection(sampling="balanced"), data)
    weights = made.sampling_weights(data.cases)
    assert weights is not None
    assert weights[:9].sum() == pytest.approx(weights[9:].sum())
    assert make(ClassifySection(), data).sampling_weights(data.cases) is None


def test_regression_learns_standardised_and_answers_in_units() -> None:
    truths = [Truth(True, values=(float(v),)) for v in (10, 20, 30, 40)]
    data = dataset("regression", truths, 1)
    made = make(ClassifySection(), data)
    assert made.truth(data.cases).mean() == pytest.approx(0, abs=1e-6)
    assert made.probabilities(np.array([[0.0], [1.0]]))[:, 0] == pytest.approx([25, 25 + made.scale[1]])
    found = made.decode(np.array([[0.0]]))
    assert found.values[0] == pytest.approx(25)
    assert found.decided == ()


@given(st_numpy.arrays(np.float64, (4, 3), elements=st.floats(-30, 30)))
def test_probabilities_are_probabilities(logits: np.ndarray) -> None:
    for kind in ("multiclass", "multilabel"):
        p = task(kind).probabilities(logits)  # type: ignore[arg-type]
        assert p.min() >= 0
        assert p.max() <= 1
    assert task("multiclass").probabilities(logits).sum(1) == pytest.approx(np.ones(4))
    graded = task("ordinal", 4).probabilities(logits)
    assert graded.sum(1) == pytest.approx(np.ones(4))
    assert graded.min() >= -1e-12


@given(st_numpy.arrays(np.float64, (5, 3), elements=st.floats(-20, 20)))
def test_members_are_combined_in_any_order(rows: np.ndarray) -> None:
    t = task("multiclass")
    np.testing.assert_allclose(t.combine(rows), t.combine(rows[::-1]), atol=1e-9)
    np.testing.assert_allclose(t.probabilities(t.combine(rows[:1])[None]), t.probabilities(rows[:1]), atol=1e-9)


def test_decode_says_whether_it_is_calibrated_and_how_members_differ() -> None:
    t = task("binary", 2)
    rule = Decision(temperature=2.0, thresholds=(0.7, 0.3), positive=1)
    rows = np.array([[0.0, 1.0], [0.0, -1.5]])
    found = t.decode(rows, decision=rule)
    assert found.calibrated
    assert found.uncalibrated is not None
    assert found.spread is not None
    assert found.spread[1] > 0.1
    assert found.decided == ("c1",)  # below one half, above the operating point
    assert found.values[1] < 0.5
    plain = t.decode(rows[:1])
    assert not plain.calibrated
    assert plain.spread is None


def test_abstention_leaves_the_case_to_a_person() -> None:
    rule = Decision(thresholds=(0.5, 0.5), positive=1, abstain_below=0.9)
    found = task("binary", 2).decode(np.array([[0.0, 0.1]]), decision=rule)
    assert found.abstained
    assert found.decided == ()


def test_selection_prefers_better_ranking_then_honest_probabilities() -> None:
    t = task("binary", 2)
    cases = [Case(str(i), str(i), {}, Truth(True, label=i % 2)) for i in range(6)]
    signs = np.array([-1.0, 1.0] * 3)[:, None]
    right = np.concatenate([-signs, signs], axis=1)
    assert t.score(right, cases).value > t.score(-right, cases).value
    assert t.score(right * 2, cases).value > t.score(right * 0.1, cases).value
    assert t.score(right, cases).shown == 1.0


@pytest.mark.parametrize(
    ("kind", "truths", "words"),
    [
        ("multiclass", [Truth(True, label=1)] * 3, "one class only"),
        ("multiclass", [Truth()] * 3, "no case"),
        ("regression", [Truth(True, values=(1.0, 1.0, 1.0))] * 3, "varies"),
    ],
)
def test_what_cannot_be_learned_from(kind: ScoreKind, truths: list[Truth], words: str) -> None:
    with pytest.raises(DatasetError, match=words):
        make(ClassifySection(), dataset(kind, truths))


def test_a_case_without_truth_is_named() -> None:
    t = task("multiclass")
    with pytest.raises(DatasetError, match="case 7"):
        t.truth([Case("7", "7", {}, Truth())])
    with pytest.raises(DatasetError, match="case 8"):
        replace(t, kind="multilabel").truth([Case("8", "8", {}, Truth(True, values=(1.0,)))])
