"""Networks in 8-bit integers: what is quantised, and what is kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from medmap.errors import BundleError, DataError, UsageError
from medmap.runtime import Precision, cpu_facts, export_onnx, open_engine, quantized
from medmap.runtime.openvino_graph import answer_apart, openvino


class Forked(nn.Module):
    """Two ways from a body to the answer, one of them longer; a shortcut past part of the body."""

    def __init__(self, pointwise: int = 1) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1))
        self.past = nn.Sequential(*[nn.Conv2d(8, 8, 1) for _ in range(pointwise)])
        self.short = nn.Conv2d(8, 2, 3, padding=1)
        self.long = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 2, 3, padding=1))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        maps = self.first(image)
        maps = torch.relu(self.body(maps) + self.past(maps))
        return torch.cat([self.short(maps), self.long(maps)], dim=1)


INPUTS = np.random.default_rng(0).normal(size=(6, 1, 16, 16)).astype(np.float32)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("forked") / "model.onnx"
    export_onnx(Forked(), INPUTS, path)
    return path


def whole_numbers(data: tuple[bytes, bytes]) -> int:
    """How many convolutions of a graph have weights in 8 bits."""
    core = openvino().Core()
    network = core.read_model(model=data[0], weights=data[1])
    rows = [node for node in network.get_ops() if node.get_type_name() == "Convolution"]
    found = 0
    for node in rows:
        waiting, kinds = [node.input(1).get_source_output().get_node()], set()
        while waiting:
            one = waiting.pop()
            kinds.add(one.get_element_type().get_type_name())
            waiting += [given.get_source_output().get_node() for given in one.inputs()]
        found += "i8" in kinds
    return found


@pytest.mark.parametrize(("kept", "left"), [(0, 5), (1, 3), (2, 1), (3, 0), (9, 0)])
def test_the_last_convolutions_stay_as_they_are(exported: Path, kept: int, left: int) -> None:
    """One back: both last ones; two back: one of the long way, and the one before the fork, next on the short way.

    The first one and the shortcut are never quantised.
    """
    assert whole_numbers(quantized(exported, INPUTS, kept=kept)) == left


def test_what_is_quantised_answers_nearly_the_same(exported: Path) -> None:
    core = openvino().Core()
    data = quantized(exported, INPUTS)
    low = core.compile_model(core.read_model(model=data[0], weights=data[1]), "CPU")
    with torch.inference_mode():
        wanted = Forked().eval()(torch.from_numpy(INPUTS)).numpy()
    got = low(INPUTS)[0]
    assert 0 < np.abs(got - wanted).mean() < 0.02 * np.abs(wanted).max()


def test_a_network_of_point_wise_convolutions_is_quantised_all_the_same(tmp_path: Path) -> None:
    """They are left out only where they are a small share of the arithmetic."""
    export_onnx(Forked(pointwise=9), INPUTS, tmp_path / "model.onnx")
    assert whole_numbers(quantized(tmp_path / "model.onnx", INPUTS)) == 5 + 9


def test_sums_are_not_rounded(exported: Path) -> None:
    data = quantized(exported, INPUTS)
    network = openvino().Core().read_model(model=data[0], weights=data[1])
    behind = [
        target.get_node().get_type_name()
        for node in network.get_ops()
        if node.get_type_name() == "FakeQuantize"
        for target in node.output(0).get_target_inputs()
    ]
    assert behind
    assert set(behind) <= {"Convolution"}


@pytest.mark.parametrize("count", [1, 2])
def test_a_graph_in_two_answers_as_the_whole(exported: Path, count: int) -> None:
    core = openvino().Core()
    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    whole = core.compile_model(core.read_model(exported), "CPU", settings)(INPUTS)[0]
    parts = answer_apart(core.read_model(exported), count)
    assert parts is not None
    convolutions = [sum(node.get_type_name() == "Convolution" for node in part.get_ops()) for part in parts]
    assert convolutions == {1: [5, 2], 2: [2, 5]}[count]
    values = [INPUTS]
    for part in parts:
        values = [np.array(tensor) for tensor in core.compile_model(part, "CPU", settings)(values).values()]
    np.testing.assert_allclose(values[0], whole, atol=1e-5)


def test_a_graph_without_a_first_part_is_not_taken_apart(exported: Path) -> None:
    core = openvino().Core()
    assert answer_apart(core.read_model(exported), 3) is None
    assert answer_apart(core.read_model(exported), 0) is None


def test_the_last_steps_in_full_precision_come_nearer(exported: Path) -> None:
    """The error of bfloat16 in an engine, with its last convolutions in float32 and without."""
    with torch.inference_mode():
        wanted = Forked().eval()(torch.from_numpy(INPUTS)).numpy()

    def error(precision: Precision, kept: int) -> float:
        engine = open_engine("openvino", model_path=exported, threads=1, precision=precision, kept=kept)
        found = engine(INPUTS)
        engine.close()
        with pytest.raises(UsageError, match="closed"):
            engine(INPUTS)
        return float(np.abs(found - wanted).mean())

    assert error("float32", 2) < 1e-6
    if not cpu_facts().fast_bfloat16:
        return  # OpenVINO computes in float32 then, whatever it is asked for
    assert 1e-6 < error("bfloat16", 2) < 0.8 * error("bfloat16", 0)


def test_no_inputs_and_no_graph_are_refused(exported: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="at least one"):
        quantized(exported, INPUTS[:0])
    (tmp_path / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(BundleError):
        quantized(tmp_path / "model.onnx", INPUTS)
