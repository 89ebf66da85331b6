"""The numbers of parity, on engines whose difference is known."""

from dataclasses import dataclass

import numpy as np
import pytest

from medmap.errors import DataError
from medmap.runtime import choose, measure_parity

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
