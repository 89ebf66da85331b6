"""Three engines, one answer: 2-D and 3-D, any batch, any number of threads."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from medmap.errors import BundleError, DataError, UsageError
from medmap.runtime import engines, measure_parity, open_engine
from medmap.runtime.machine import CpuFacts


@pytest.mark.parametrize("kind", ["onnx", "openvino"])
@pytest.mark.parametrize("threads", [1, None])
def test_engines_agree_with_torch_on_any_batch(exported, kind, threads):
    network, given, path = exported
    reference = open_engine("torch", module=network, device="cpu")
    engine = open_engine(kind, model_path=path, threads=threads)
    assert (engine.name, engine.precision, engine.device) == (kind, "float32", "cpu")
    parity = measure_parity(reference, engine, given)
    assert parity.passed
    assert parity.max_abs < 1e-5
    for count in (1, 2, 3, 4):
        out = engine(given[:count])
        assert out.dtype == np.float32
        np.testing.assert_allclose(out, reference(given[:count]), atol=1e-5)
    engine.close()


def test_an_answer_is_not_overwritten_by_the_next(exported):
    _, given, path = exported
    for kind in ("onnx", "openvino"):
        engine = open_engine(kind, model_path=path, threads=1)
        first = engine(given[:1])
        kept = first.copy()
        engine(given[1:2])
        np.testing.assert_array_equal(first, kept)


def test_openvino_computes_float32_unless_asked_otherwise(exported):
    network, given, path = exported
    reference = open_engine("torch", module=network, device="cpu")
    plain = measure_parity(reference, open_engine("openvino", model_path=path, threads=1), given)
    low = measure_parity(reference, open_engine("openvino", model_path=path, threads=1, precision="bfloat16"), given)
    assert plain.max_abs < 1e-5
    assert low.precision == "bfloat16"
    assert low.passed
    assert low.max_abs >= plain.max_abs


def test_torch_in_bfloat16_and_automatic_precision(exported, monkeypatch):
    network, given, path = exported
    reference = open_engine("torch", module=network, device="cpu")
    low = open_engine("torch", module=network, device="cpu", precision="bfloat16")
    assert low(given).dtype == np.float32
    assert 0 < measure_parity(reference, low, given).max_abs < 0.05
    for fast, expected in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr(engines, "cpu_facts", lambda fast=fast: CpuFacts("any", 1, avx512_bf16=fast))
        assert open_engine("torch", module=network, device="cpu", precision="auto").precision == expected
        assert open_engine("openvino", model_path=path, threads=1, precision="auto").precision == expected


def test_torch_leaves_threads_gradients_and_the_batch_alone(exported):
    network, given, _ = exported
    before = torch.get_num_threads()
    frozen = given.copy()
    frozen.setflags(write=False)
    seen = []
    network_with_eye = nn.Sequential(network, nn.Identity())
    network_with_eye[1].register_forward_hook(lambda *_: seen.append(torch.get_num_threads()))
    engine = open_engine("torch", module=network_with_eye.train(), threads=before + 1, device="cpu")
    assert not network_with_eye.training
    engine(frozen)
    assert (seen, torch.get_num_threads()) == ([before + 1], before)
    assert torch.is_grad_enabled()
    np.testing.assert_array_equal(frozen, given)


def test_any_memory_order_and_type_of_batch(exported):
    network, given, path = exported
    for engine in (
        open_engine("torch", module=network, device="cpu"),
        open_engine("onnx", model_path=path, threads=1),
        open_engine("openvino", model_path=path, threads=1),
    ):
        expected = engine(given)
        np.testing.assert_allclose(engine(np.asfortranarray(given)), expected, atol=1e-5)
        np.testing.assert_allclose(engine(given.astype(np.float64)), expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["torch", "onnx", "openvino"])
def test_a_batch_that_does_not_fit_is_refused(exported, kind):
    network, given, path = exported
    engine = open_engine(kind, module=network, model_path=path, threads=1, device="cpu")
    with pytest.raises(DataError, match="does not fit the network"):
        engine(given[:0])
    with pytest.raises(DataError, match="does not fit the network"):
        engine(given[0, 0].reshape(2, -1))
    if kind != "torch":
        with pytest.raises(DataError, match=r"expected.*N"):
            engine(given[..., :-1])
    engine.close()
    with pytest.raises(UsageError, match="closed"):
        engine(given)


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("tensorrt", {}, "unknown engine"),
        ("torch", {"module": None}, "needs a network"),
        ("onnx", {"model_path": None}, "needs an ONNX file"),
        ("onnx", {"threads": 0}, "at least one thread"),
        ("onnx", {"precision": "int4"}, "unknown precision"),
        ("onnx", {"precision": "bfloat16"}, "float32 only"),
        ("onnx", {"device": "npu"}, "cannot use this device"),
        ("openvino", {"device": "npu"}, "cannot use this device"),
        ("torch", {"device": "nonsense"}, "cannot use this device"),
    ],
)
def test_wrong_calls_are_refused(exported_2d, kind, change, message):
    network, _, path = exported_2d
    with pytest.raises(UsageError, match=message):
        open_engine(kind, **{"module": network, "model_path": path, **change})


@pytest.mark.parametrize("kind", ["onnx", "openvino"])
def test_a_graph_that_no_engine_can_run_is_a_sentence(tmp_path, kind):
    import onnx
    from onnx import TensorProto, helper

    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 1, 4]) for name in ("image", "output")]
    node = helper.make_node("NoSuchOperator", ["image"], ["output"])
    model = helper.make_model(
        helper.make_graph([node], "g", value[:1], value[1:]), opset_imports=[helper.make_opsetid("", 18)], ir_version=8
    )
    (tmp_path / "odd.onnx").write_bytes(onnx.ModelProto.SerializeToString(model))
    with pytest.raises(BundleError, match="cannot run"):
        open_engine(kind, model_path=tmp_path / "odd.onnx", threads=1)


SILENT = """
import sys, threading
events = []
sys.addaudithook(lambda name, args: events.append(name) if name.startswith(("socket.", "subprocess.")) else None)
import numpy as np
from medmap.runtime import open_engine
for kind in ("onnx", "openvino"):
    open_engine(kind, model_path=sys.argv[1], threads=1)(np.zeros((1, 2, 10, 14), np.float32))
threads = [t.name for t in threading.enumerate() if t is not threading.main_thread()]
print([e for e in events if e.startswith("socket.")], threads)
"""


def test_no_telemetry_no_file_in_the_home_no_socket(exported_2d, tmp_path):
    _, _, path = exported_2d
    kept = {k: v for k, v in os.environ.items() if k in ("PATH", "VIRTUAL_ENV")}
    ran = subprocess.run(
        [sys.executable, "-c", SILENT, str(path)],
        env={**kept, "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache"), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (ran.returncode, ran.stdout.strip()) == (0, "[] []"), ran.stderr
    assert list(tmp_path.rglob("*")) == []
