"""Two tiny networks, 2-D and 3-D, and their ONNX files, made once."""

import numpy as np
import pytest
import torch
from torch import nn

from medmap.runtime import export_onnx

SIDES = {2: (10, 14), 3: (6, 8, 10)}


def tiny_network(dimensions, outputs=3, channels=2):
    conv = {2: nn.Conv2d, 3: nn.Conv3d}[dimensions]
    norm = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}[dimensions]
    pool = {2: nn.AdaptiveAvgPool2d, 3: nn.AdaptiveAvgPool3d}[dimensions]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(dimensions)
        body = nn.Sequential(
            conv(channels, 8, 3, padding=1),
            norm(8),
            nn.ReLU(),
            conv(8, 8, 3, stride=2, padding=1),
            nn.GroupNorm(2, 8),
            nn.GELU(),
            pool(1),
            nn.Flatten(),
            nn.Dropout(0.5),
            nn.Linear(8, outputs),
        )
    return body.eval()


def images(dimensions, count=4, channels=2):
    rng = np.random.default_rng(7)
    return rng.standard_normal((count, channels, *SIDES[dimensions]), dtype=np.float32)


def _export(dimensions, folder):
    network, given = tiny_network(dimensions), images(dimensions)
    export_onnx(network, given, folder / "model.onnx")
    return network, given, folder / "model.onnx"


@pytest.fixture(scope="session")
def exported_2d(tmp_path_factory):
    """(network, inputs, ONNX file)."""
    return _export(2, tmp_path_factory.mktemp("onnx2d"))


@pytest.fixture(scope="session")
def exported_3d(tmp_path_factory):
    """(network, inputs, ONNX file)."""
    return _export(3, tmp_path_factory.mktemp("onnx3d"))


@pytest.fixture(params=["2d", "3d"])
def exported(request):
    """Either of them."""
    return request.getfixturevalue(f"exported_{request.param}")
