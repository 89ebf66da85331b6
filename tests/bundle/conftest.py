"""A small real bundle: two folds of a small network, written once and copied by the tests that tamper with it."""

import shutil

import numpy as np
import pytest

from medmap.bundle import Bundle, BundleSpec, MemberSpec, export
from medmap.networks import NetworkSpec, build

CREATED = "2025-01-31T12:00:00Z"


def network(**change):
    return {
        "name": "small_resnet",
        "dimensions": 2,
        "in_channels": 1,
        "outputs": 2,
        "input_shape": [16, 16],
        "width": 0.125,
        **change,
    }


def make_spec(count=2, **change):
    fields = {
        "task": "classify",
        "name": "breast",
        "created": CREATED,
        "medmap_version": "0.1.0",
        "kind": "binary",
        "labels": [{"name": "benign"}, {"name": "malignant", "code": "SCT:363346000"}],
        "positive": 1,
        "inputs": {"image": {"modality": "US", "channels": 1}},
        "members": [MemberSpec(network=network(), recipe={"size": [16, 16]}, fold=i) for i in range(count)],
        "run": {"train": {"epochs": 2}},
        "provenance": {"dataset": {"name": "BreastMNIST", "digest": "sha256:00"}, "seed": 0},
        "licence": "CC-BY-4.0",
    }
    return BundleSpec.model_validate({**fields, **change})


def make_states(spec):
    return [build(NetworkSpec(**m.network), seed=i).state_dict() for i, m in enumerate(spec.members)]


def images(count=3, seed=3):
    return np.random.default_rng(seed).standard_normal((count, 1, 16, 16), dtype=np.float32)


@pytest.fixture(scope="session")
def spec():
    return make_spec()


@pytest.fixture(scope="session")
def states(spec):
    return make_states(spec)


@pytest.fixture(scope="session")
def plain(spec, states, tmp_path_factory):
    """A bundle as training writes it first."""
    return Bundle.write(tmp_path_factory.mktemp("plain") / "bundle", spec, states, card="# breast\n")


@pytest.fixture(scope="session")
def whole(spec, states, tmp_path_factory):
    """A bundle with everything: exported, with phantoms and a table."""
    path = tmp_path_factory.mktemp("whole") / "bundle"
    bundle = Bundle.write(path, spec, states, card="# breast\n", files={"folds.csv": b"case,fold\na,0\n"})
    return export(bundle, ("onnx", "openvino"), images())


@pytest.fixture
def copy(whole, tmp_path):
    """The whole bundle's folder, free to be tampered with."""
    return shutil.copytree(whole.path, tmp_path / "bundle")
