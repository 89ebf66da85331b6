"""Predictions of every kind, a small dataset with a planted signal, and a small real bundle."""

import numpy as np
import pytest
from prediction_tables import KINDS, binary
from random_bundle import make_bundle

from medmap.dataset import Case, Dataset, InputSpec, Ref, Truth
from medmap.read import read_ref
from medmap.results import Label


@pytest.fixture(params=KINDS)
def table(request):
    """A table of every kind."""
    return KINDS[request.param]()


@pytest.fixture
def binary_table():
    return binary()


@pytest.fixture(scope="session")
def dataset(tmp_path_factory):
    """120 grey images 16×16: the ill have a bright square. The column ``noise`` says nothing, ``marker`` nearly all."""
    rng = np.random.default_rng(5)
    n = 120
    ill = rng.random(n) < 0.4
    images = rng.integers(0, 120, (n, 16, 16)).astype(np.uint8)
    images[ill, 4:9, 4:9] += 90
    folder = tmp_path_factory.mktemp("data")
    np.savez(folder / "images.npz", images=images)
    cases = []
    for i in range(n):
        split = "train" if i < 60 else "val" if i < 70 else "test"
        columns = {"noise": float(rng.integers(0, 50)), "marker": "yes" if ill[i] != (rng.random() < 0.02) else "no"}
        ref = {"image": Ref("images.npz", f"images/{i}")}
        truth = Truth(annotated=i != 119, label=None if i == 119 else int(ill[i]))
        cases.append(
            Case(f"c{i:03d}", f"p{i // 2:03d}" if i < 60 else f"p{i:03d}", ref, truth, split, "Ghent", columns)
        )
    inputs = {"image": InputSpec("US")}
    labels = (Label("benign"), Label("malignant"))
    return Dataset("squares", "classify", tuple(cases), inputs, labels, "binary", folder, positive=1)


@pytest.fixture(scope="session")
def read_images(dataset):
    return {case.id: read_ref(dataset, case.inputs["image"]) for case in dataset}


@pytest.fixture
def bundle(tmp_path, dataset, read_images):
    hashes = [read_images[c.id].content_sha256() for c in dataset if c.split != "test"]
    return make_bundle(tmp_path / "run", dataset, read_images, training_case_hashes=hashes)
