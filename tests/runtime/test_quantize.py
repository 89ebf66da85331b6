"""Networks in 8-bit integers: what is quantised, and what is kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from medmap.errors import BundleError, DataError
from medmap.runtime import export_onnx, quantized
from medmap.runtime.engines import openvino


class Forked(nn.Module):
    """Two ways from a body to the answer, one of them longer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())
        self.short = nn.Conv2d(8, 2, 1)
        self.long = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 2, 1))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        maps = self.body(image)
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
    """One back: both last ones; two back: one of the long way, and the one before the fork, next on the short way."""
    assert whole_numbers(quantized(exported, INPUTS, kept=kept)) == left


def test_what_is_quantised_answers_nearly_the_same(exported: Path) -> None:
    core = openvino().Core()
    data = quantized(exported, INPUTS)
    low = core.compile_model(core.read_model(model=data[0], weights=data[1]), "CPU")
    with torch.inference_mode():
        wanted = Forked().eval()(torch.from_numpy(INPUTS)).numpy()
    got = low(INPUTS)[0]
    assert 0 < np.abs(got - wanted).mean() < 0.02 * np.abs(wanted).max()


def test_no_inputs_and_no_graph_are_refused(exported: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="at least one"):
        quantized(exported, INPUTS[:0])
    (tmp_path / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(BundleError):
        quantized(tmp_path / "model.onnx", INPUTS)
