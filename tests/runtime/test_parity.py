"""The numbers of parity, on engines whose difference is known."""

from dataclasses import dataclass

import numpy as np
import pytest

from medmap.errors import DataError
from medmap.runtime import Comparison, Parity, choose, compare_engines, measure_parity

INPUTS = np.arange(3 * 4, dtype=np.float32).reshape(3, 1, 2, 2)


@dataclass
class _Fixed:
    """An engine that looks its answer up by the first pixel of each case."""

    outputs: np.ndarray
    precision: str = "float32"
    name: str = "onnx"
    device: str = "cpu"

    def __call__(self, batch):
        return self.outputs[(batch[:, 0, 0, 0] / 4).astype(int)].astype(np.float32)

    def close(self):
        """Nothing to free."""


REFERENCE = np.array([[1.0, 0.0], [0.0, 2.0], [0.5, 0.4]])


def test_the_same_answer_passes_with_zeros():
    parity = measure_parity(_Fixed(REFERENCE), _Fixed(REFERENCE), INPUTS)
    assert parity.as_json() == {
        "engine": "onnx",
        "precision": "float32",
        "cases": 3,
        "max_abs": 0.0,
        "mean_abs": 0.0,
        "argmax_agreement": 1.0,
        "passed": True,
        "tolerance": 1e-3,
        "reason": None,
        "dice": None,
        "dice_drop": None,
        "phantom_max_abs": None,
        "boxes_matched": None,
        "ap50_drop": None,
    }


def test_difference_is_judged_against_the_largest_output():
    shifted = REFERENCE + np.array([[0.0, 0.0], [0.0, 0.004], [0.0, 0.0]])
    parity = measure_parity(REFERENCE.astype(np.float32), _Fixed(shifted), INPUTS)
    assert parity.max_abs == pytest.approx(0.004, rel=1e-3)
    assert not parity.passed  # 0.004 > 0.001 · 2
    assert measure_parity(_Fixed(REFERENCE), _Fixed(shifted), INPUTS, tolerance=0.0021).passed
    assert measure_parity(_Fixed(REFERENCE), _Fixed(shifted, precision="bfloat16"), INPUTS).passed


def test_another_decision_fails_although_the_numbers_are_close():
    turned = REFERENCE.copy()
    turned[2] = [0.47, 0.48]
    parity = measure_parity(_Fixed(REFERENCE), _Fixed(turned, precision="bfloat16"), INPUTS, tolerance=0.1)
    assert parity.argmax_agreement < 1
    assert not parity.passed
    tie = np.array([[1.0, 0.0], [0.0, 2.0], [0.5, 0.4999]])
    assert measure_parity(_Fixed(tie), _Fixed(tie[:, ::-1][:, ::-1] + [[0, 0], [0, 0], [0, 2e-4]]), INPUTS).passed


def test_a_single_output_decides_by_its_sign():
    single = REFERENCE[:, :1] - 0.3
    turned = np.where(single < 0, 0.3, single)
    assert measure_parity(_Fixed(single), _Fixed(single), INPUTS).argmax_agreement == 1
    assert measure_parity(_Fixed(single), _Fixed(turned), INPUTS, tolerance=1.0).argmax_agreement < 1


def test_an_ensembles_classes_stand_on_the_third_axis():
    members = np.stack([REFERENCE, REFERENCE[:, ::-1]], axis=1)
    swapped = members[:, ::-1]
    assert measure_parity(_Fixed(members), _Fixed(members), INPUTS, class_axis=2).passed
    assert measure_parity(_Fixed(members), _Fixed(swapped), INPUTS, class_axis=2).argmax_agreement == 0


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_never_passes(value):
    broken = REFERENCE.copy()
    broken[1, 1] = value
    for pair in ((REFERENCE, broken), (broken, REFERENCE), (broken, broken)):
        parity = measure_parity(*map(_Fixed, pair), INPUTS)
        assert (parity.passed, parity.max_abs, parity.mean_abs) == (False, None, None)


def test_an_engine_that_answers_otherwise_in_a_batch_is_found():
    class Batchy(_Fixed):
        def __call__(self, batch):
            return super().__call__(batch) + (len(batch) > 1)

    assert not measure_parity(_Fixed(REFERENCE), Batchy(REFERENCE), INPUTS).passed
    assert measure_parity(_Fixed(REFERENCE), Batchy(REFERENCE), INPUTS[:1]).passed


def test_nothing_to_compare_is_refused():
    with pytest.raises(DataError, match="at least one input"):
        measure_parity(_Fixed(REFERENCE), _Fixed(REFERENCE), INPUTS[:0])
    with pytest.raises(DataError, match="different shapes"):
        measure_parity(_Fixed(REFERENCE), _Fixed(REFERENCE[:, :1]), INPUTS)


@pytest.mark.parametrize(
    ("passed", "device", "expected"),
    [
        ({"openvino", "onnx"}, "cpu", "openvino"),
        ({"onnx"}, "cpu", "onnx"),
        (set(), "cpu", "torch"),
        ({"openvino", "onnx"}, "cuda:1", "torch"),
        ({"openvino", "onnx"}, "mps", "onnx"),
        ({"openvino"}, "mps", "torch"),
    ],
)
def test_the_engine_follows_the_device_and_what_passed(passed, device, expected):
    assert choose(passed, device) == expected


def _maps(*labels):
    """Scores of three classes for label maps: 1 for the class that is there."""
    return np.stack([(np.asarray(labels) == c).astype(np.float32) for c in range(3)], axis=1)


MAPS = np.array([[[0, 1], [1, 2]], [[0, 0], [2, 2]], [[1, 1], [0, 2]]])


def test_masks_of_fewer_bits_are_judged_by_what_they_lose_against_the_truth():
    there, other = _maps(*MAPS), _maps(*np.where(MAPS == 2, 1, MAPS))
    low = _Fixed(other, precision="int8")
    against = measure_parity(there, low, INPUTS, truths=MAPS)
    assert against.dice_drop == pytest.approx(1 - np.mean([2 * 4 / (4 + 8), 0]))
    assert not against.passed
    # the engine is nearer to the truth than the network it came from
    assert measure_parity(other, _Fixed(there, precision="int8"), INPUTS, truths=MAPS).passed
    # without a truth the two masks must be the same
    assert not measure_parity(other, _Fixed(there, precision="int8"), INPUTS).passed
    assert measure_parity(there, _Fixed(there * 0.5, precision="int8"), INPUTS).passed
    # in float32 the numbers count all the same
    assert not measure_parity(there, _Fixed(there * 0.5), INPUTS, truths=MAPS).passed


def test_voxels_that_nobody_knows_take_no_part():
    there, other = _maps(*MAPS), _maps(*np.where(MAPS == 2, 1, MAPS))
    hidden = np.where(MAPS == 2, 255, MAPS)
    assert measure_parity(there, _Fixed(other, precision="bfloat16"), INPUTS, truths=hidden).dice_drop == 0


def test_structures_that_overlap_are_each_there_where_positive():
    scores = np.array([[[[1.0, 1.0], [-1.0, -1.0]], [[1.0, -1.0], [-1.0, -1.0]]]] * 3, np.float32)
    turned = scores.copy()
    turned[:, 1] *= -1
    both = Comparison(_Fixed(turned, precision="bfloat16"), exclusive=False)
    (found,) = compare_engines(scores, [both], INPUTS, truths=(scores > 0).astype(np.uint8))
    assert found.dice == pytest.approx((1 + 0) / 2)
    assert found.dice_drop == pytest.approx(1 - 0.5)


def test_phantoms_are_noted_and_judge_nothing():
    far = _Fixed(REFERENCE + np.array([[0.0, 0.0], [0.0, 0.0], [5.0, 5.0]]))
    (found,) = compare_engines(_Fixed(REFERENCE), [Comparison(far)], INPUTS[:2], phantoms=INPUTS[2:])
    assert found.passed
    assert found.phantom_max_abs == pytest.approx(5.0, rel=1e-5)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, "the same answer, at most 0.25 apart"),
        ({"passed": False}, "DIFFERS: up to 0.25 apart"),
        ({"max_abs": None, "passed": False}, "DIFFERS: an output is not a finite number"),
        ({"reason": "no such layer", "passed": False}, "DIFFERS: no such layer"),
        ({"precision": "int8", "dice": 0.99}, "the same answer, Dice 0.9900 between the masks"),
        (
            {"precision": "int8", "dice": 0.9, "dice_drop": 0.05, "passed": False},
            "DIFFERS: Dice 0.9000 between the masks, 0.0500 Dice lost against the truth",
        ),
    ],
)
def test_every_verdict_is_a_sentence(changed, said):
    plain = {"max_abs": 0.25, "mean_abs": 0.1, "argmax_agreement": 1.0, "passed": True, "tolerance": 1.0}
    assert Parity(**{"engine": "openvino", "precision": "float32", "cases": 2, **plain, **changed}).verdict == said
