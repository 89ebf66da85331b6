"""Export and verify: measured on real inputs, kept as numbers and phantoms, asked again anywhere."""

import shutil

import numpy as np
import pytest
import torch

from bundle.conftest import images, make_spec, make_states, network
from medmap.bundle import Bundle, MemberSpec, export, graphs, model_card, verify
from medmap.bundle import parity as bundle_parity
from medmap.bundle.parity import phantom_inputs, read_parity
from medmap.errors import BundleError, UsageError
from medmap.runtime import CpuFacts, Parity, cpu_facts


def test_an_export_keeps_numbers_and_phantoms_never_the_inputs(whole, plain):
    assert {"onnx", "openvino"} <= set(whole.spec.engines)
    assert ("openvino:bfloat16" in whole.spec.engines) == cpu_facts().fast_bfloat16
    for key in ("onnx", "openvino"):
        assert whole.spec.engines[key]["passed"] is True
        assert whole.spec.engines[key]["cases"] == 3
    inputs, outputs = read_parity(whole.path / "parity.npz")
    assert outputs.shape == (2, 2, 2)
    np.testing.assert_array_equal(inputs, phantom_inputs((5, 1, 16, 16)))
    real = images()
    assert not any(np.array_equal(a, b) for a in inputs for b in real)
    pixels = real[0].tobytes()[:64]
    assert not any(pixels in entry.read_bytes() for entry in whole.path.iterdir())
    # the rest is as it was
    assert whole.spec.model_copy(update={"engines": {}}) == plain.spec
    assert all(torch.equal(t, plain.state_dict(1)[n]) for n, t in whole.state_dict(1).items())
    assert (whole.path / "folds.csv").read_bytes() == b"case,fold\na,0\n"


def test_what_was_refused_beside_a_truth_is_not_taken_back_without_one(whole, tmp_path):
    older = {"onnx": {"passed": False, "cases": 40}, "openvino": {"passed": True, "cases": 40}}
    found = [
        Parity("onnx", "float32", 3, 1.0, 0.0, 0.0, True, 1e-3),
        Parity("openvino", "float32", 3, 1.0, 0.0, 0.0, True, 1e-3),
    ]
    without = bundle_parity._verdicts(found, older, known=False)
    assert [without[key]["passed"] for key in ("onnx", "openvino")] == [False, True]
    assert [without[key]["cases"] for key in ("onnx", "openvino")] == [40, 3]
    assert bundle_parity._verdicts(found, older, known=True)["onnx"]["passed"] is True
    judged = {"openvino:bfloat16": {"passed": True, "cases": 40, "dice": 0.9995}}
    noise = Parity("openvino", "bfloat16", 8, 0.3, 0.1, 0.9, False, 1e-2, dice=0.9973, phantom_max_abs=0.2)
    again = bundle_parity._verdicts([noise], judged, known=False)["openvino:bfloat16"]
    assert (again["passed"], again["dice"], again["phantom_max_abs"]) == (True, 0.9995, 0.2)
    unable = Parity("openvino", "bfloat16", 8, None, None, 0.0, False, 1e-2, reason="it does not run")
    assert not bundle_parity._verdicts([unable], judged, known=False)["openvino:bfloat16"]["passed"]
    copy = shutil.copytree(whole.path, tmp_path / "copy")
    bundle = Bundle.load(copy)
    refused = {**bundle.spec.engines, "onnx": {**bundle.spec.engines["onnx"], "passed": False}}
    object.__setattr__(bundle, "spec", bundle.spec.model_copy(update={"engines": refused}))
    assert export(bundle, ["onnx"], images()).spec.engines["onnx"]["passed"] is False


def test_verify_asks_every_engine_again(whole):
    rows = verify(Bundle.load(whole.path))
    assert [row.engine for row in rows][:3] == ["torch", "onnx", "openvino"]
    assert all(row.passed for row in rows)


def test_verify_finds_outputs_that_are_not_the_networks(whole, spec, tmp_path, monkeypatch):
    other = make_states(make_spec())[::-1]  # the members in another order: other outputs
    bundle = Bundle.write(tmp_path / "b", spec, other, card="", parity_inputs=phantom_inputs((1, 1, 16, 16)))
    outputs = read_parity(whole.path / "parity.npz")
    monkeypatch.setattr(bundle_parity, "read_parity", lambda _: outputs)
    (row,) = verify(bundle)
    assert not row.passed


def test_without_phantoms_there_is_nothing_to_verify(plain):
    with pytest.raises(BundleError, match="no phantoms"):
        verify(plain)


def test_every_engine_of_the_bundle_answers_alike(whole):
    given = images(4, seed=9)
    expected = whole.ensemble()(torch.from_numpy(given)).detach().numpy()
    for kind in ("auto", "torch", "onnx", "openvino"):
        engine = whole.engine(kind, threads=1, device="cpu")
        np.testing.assert_allclose(engine(given), expected, atol=1e-4)
        if kind == "auto":
            assert engine.name == "openvino"
        engine.close()


def test_only_engines_that_passed_are_taken(whole, plain, tmp_path):
    assert plain.engine(device="cpu").name == "torch"
    for kind in ("onnx", "openvino"):
        with pytest.raises(BundleError, match="was not shown to give the same answer"):
            plain.engine(kind)
    with pytest.raises(BundleError, match="in bfloat16"):
        whole.engine("torch", precision="bfloat16")
    failed = {**whole.spec.engines, "openvino": {**whole.spec.engines["openvino"], "passed": False}}
    states = [whole.state_dict(i) for i in range(2)]
    spec = whole.spec.model_copy(update={"engines": failed})
    files = {"model.onnx": (whole.path / "model.onnx").read_bytes()}
    bundle = Bundle.write(tmp_path / "b", spec, states, card="", files=files)
    assert bundle.engine(device="cpu", threads=1).name == "onnx"


def test_bfloat16_only_where_it_passed_and_is_computed(whole, monkeypatch):
    if not cpu_facts().fast_bfloat16:
        pytest.skip("this processor has no bfloat16")
    assert whole.engine(device="cpu", threads=1).precision == "float32"
    assert whole.engine(device="cpu", threads=1, precision="auto").precision == "bfloat16"
    monkeypatch.setattr("medmap.runtime.cpu_facts", lambda: CpuFacts("old", 1))
    assert whole.engine(device="cpu", threads=1, precision="auto").precision == "float32"


def test_an_engine_that_cannot_run_the_network_has_failed_and_says_why(plain, tmp_path, monkeypatch):
    import shutil

    def refuse(*_args, **kwargs):
        if "model_path" in kwargs:
            raise BundleError("OpenVINO cannot run this")
        return original(*_args, **kwargs)

    original = graphs.open_engine
    monkeypatch.setattr(graphs, "open_engine", refuse)
    copy = Bundle.load(shutil.copytree(plain.path, tmp_path / "bundle"))
    exported = export(copy, ("openvino",), images(), make_card=lambda spec: model_card(spec, []))
    assert exported.spec.engines["openvino"]["passed"] is False
    assert exported.spec.engines["openvino"]["reason"] == "OpenVINO cannot run this"
    assert exported.engine(device="cpu").name == "torch"
    assert "openvino does not give the same answer" in (exported.path / "CARD.md").read_text()


def test_3d_members_with_recipes_of_their_own_are_one_graph(tmp_path):
    net = network(name="cnn", width=1.0, dimensions=3, input_shape=[8, 8, 8], outputs=1)
    members = [MemberSpec(network=net, recipe={"mean": i}, fold=i) for i in range(2)]
    spec = make_spec(members=members, kind="regression", labels=[{"name": "age"}], positive=None)
    bundle = Bundle.write(tmp_path / "b", spec, make_states(spec), card="")
    given = np.random.default_rng(0).standard_normal((2, 2, 1, 8, 8, 8), dtype=np.float32)
    exported = export(bundle, ("onnx",), given)
    assert exported.spec.engines["onnx"]["passed"] is True
    assert exported.engine("onnx", threads=1)(given[:1]).shape == (1, 2, 1)
    assert all(row.passed for row in verify(exported))


def test_wrong_exports_are_refused(plain):
    before = plain.digest
    with pytest.raises(UsageError, match="cannot be exported to this"):
        export(plain, ("tensorrt",), images())
    for formats, inputs in (((), images()), (("onnx",), images(0))):
        with pytest.raises(UsageError, match="needs a format and at least one"):
            export(plain, formats, inputs)
    assert Bundle.load(plain.path).digest == before
