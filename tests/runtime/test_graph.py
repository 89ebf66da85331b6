"""ONNX files: an open batch, nothing of the machine inside, nothing from outside."""

import errno
import os

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

from medmap.errors import BundleError
from medmap.runtime import engines, export_onnx, graph, open_engine, read_onnx


def test_only_the_batch_is_open_and_weights_are_inside(exported):
    _, given, path = exported
    model = onnx.load(path, load_external_data=False)
    onnx.checker.check_model(model)
    sizes = [dim.dim_value or dim.dim_param for dim in model.graph.input[0].type.tensor_type.shape.dim]
    assert sizes == ["batch", *given.shape[1:]]
    assert [entry.version for entry in model.opset_import] == [graph.OPSET]
    assert [entry.name for entry in path.parent.iterdir()] == ["model.onnx"]


def test_nothing_of_this_machine_stands_in_the_file(exported):
    _, _, path = exported
    data = path.read_bytes()
    for word in (b"stack_trace", b"site-packages", b'File "', os.getcwd().encode(), __file__.encode()):
        assert word not in data


def test_export_is_silent_and_leaves_the_network_as_it_was(tmp_path, capfd, recwarn):
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Dropout(0.9), nn.AdaptiveAvgPool2d(1), nn.Flatten()).train()
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    draw = torch.random.get_rng_state()
    export_onnx(network, np.ones((1, 1, 8, 8), np.float32), tmp_path / "a.onnx")
    assert network.training
    assert all(p.requires_grad for p in network.parameters())
    assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), draw)
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""
    assert not recwarn.list
    # dropout is asleep in the file: twice the same answer, and the one of evaluation mode
    engine = open_engine("onnx", model_path=tmp_path / "a.onnx", threads=1)
    image = np.random.default_rng(0).standard_normal((2, 1, 8, 8), dtype=np.float32)
    expected = network.eval()(torch.from_numpy(image)).detach().numpy()
    np.testing.assert_allclose(engine(image), expected, atol=1e-6)


class _Branching(nn.Module):
    def forward(self, x):
        return x if float(x.sum()) > 0 else -x


class _FixedBatch(nn.Module):
    def forward(self, x):
        return x.reshape(2, -1)


@pytest.mark.parametrize("network", [_Branching(), _FixedBatch()])
def test_a_network_that_cannot_be_exported_is_a_sentence(tmp_path, network):
    with pytest.raises(BundleError, match=r"(cannot be written as ONNX|batch open).*Remedy: run it with torch"):
        export_onnx(network, np.ones((1, 1, 4, 4), np.float32), tmp_path / "x.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_network_beyond_the_files_limit_is_refused_before_it_is_copied(tmp_path):
    network = nn.Linear(2**16, 2**16, device="meta")
    with pytest.raises(BundleError, match="too large for one ONNX file"):
        export_onnx(network, np.ones((1, 2**16), np.float32), tmp_path / "x.onnx")


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch, exported_2d):
    network, given, _ = exported_2d
    target = tmp_path / "x.onnx"
    target.write_bytes(b"old")

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        export_onnx(network, given, target)
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.onnx"]
    assert target.read_bytes() == b"old"


# ------------------------------------------------------------------------------------------------- planted payloads


def _outside(location="../../etc/passwd"):
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    return tensor


def _model(nodes, initializers=(), functions=(), opsets=(("", 18),)):
    given = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 4])
    out = helper.make_tensor_value_info("output", TensorProto.FLOAT, ["n", 4])
    body = helper.make_graph(list(nodes), "g", [given], [out], initializer=list(initializers))
    model = helper.make_model(body, ir_version=8, opset_imports=[helper.make_opsetid(*pair) for pair in opsets])
    model.functions.extend(functions)
    return model


def _add():
    return helper.make_node("Add", ["image", "w"], ["output"])


def _in_a_constant():
    node = helper.make_node("Constant", [], ["w"], value=helper.make_tensor("v", TensorProto.FLOAT, [4], [0.0] * 4))
    node.attribute[0].t.CopyFrom(_outside())
    return _model([node, _add()])


def _in_a_branch():
    out = helper.make_tensor_value_info("b", TensorProto.FLOAT, [4])
    branch = helper.make_graph([helper.make_node("Identity", ["w"], ["b"])], "b", [], [out], initializer=[_outside()])
    condition = helper.make_node("Constant", [], ["c"], value=helper.make_tensor("c", TensorProto.BOOL, [], [True]))
    choice = helper.make_node("If", ["c"], ["w"], then_branch=branch, else_branch=branch)
    return _model([condition, choice, _add()])


def _in_a_sparse_tensor():
    model = _model([_add()])
    model.graph.sparse_initializer.add(values=_outside(), dims=[4])
    return model


def _location_without_the_mark():
    tensor = helper.make_tensor("w", TensorProto.FLOAT, [4], [0.0] * 4)
    tensor.external_data.add(key="location", value="/etc/passwd")
    return _model([_add()], [tensor])


OUTSIDE = {
    "initialiser": lambda: _model([_add()], [_outside()]),
    "neighbour": lambda: _model([_add()], [_outside("weights.bin")]),
    "constant": _in_a_constant,
    "branch": _in_a_branch,
    "sparse": _in_a_sparse_tensor,
    "unmarked": _location_without_the_mark,
}


def _own_function():
    node = helper.make_node("Add", ["x", "x"], ["y"])
    return helper.make_function("own.code", "Twice", ["x"], ["y"], [node], [helper.make_opsetid("", 18)])


CUSTOM = {
    "node": lambda: _model(
        [helper.make_node("Run", ["image"], ["output"], domain="evil.ops")], opsets=(("", 18), ("evil.ops", 1))
    ),
    "contrib": lambda: _model([helper.make_node("Gelu", ["image"], ["output"], domain="com.microsoft")]),
    "import": lambda: _model([helper.make_node("Identity", ["image"], ["output"])], opsets=(("", 18), ("evil", 1))),
    "function": lambda: _model([helper.make_node("Identity", ["image"], ["output"])], functions=[_own_function()]),
}


@pytest.fixture
def no_engine(monkeypatch):
    """Fails when an engine's library is so much as asked for."""

    def opened():
        raise AssertionError("an engine was opened on a refused file")

    monkeypatch.setattr(engines, "_onnxruntime", opened)
    monkeypatch.setattr(engines, "openvino", opened)


@pytest.mark.parametrize("kind", ["onnx", "openvino"])
@pytest.mark.parametrize("where", OUTSIDE)
@pytest.mark.usefixtures("no_engine")
def test_weights_outside_the_file_are_refused_before_an_engine_opens_it(tmp_path, where, kind):
    path = tmp_path / "m.onnx"
    path.write_bytes(OUTSIDE[where]().SerializeToString())
    with pytest.raises(BundleError, match=r"takes its weights from another file.*(passwd|weights\.bin)"):
        open_engine(kind, model_path=path)


@pytest.mark.parametrize("kind", ["onnx", "openvino"])
@pytest.mark.parametrize("where", CUSTOM)
@pytest.mark.usefixtures("no_engine")
def test_custom_operators_are_refused_before_an_engine_opens_the_file(tmp_path, where, kind):
    path = tmp_path / "m.onnx"
    path.write_bytes(CUSTOM[where]().SerializeToString())
    with pytest.raises(BundleError, match="not ONNX's own"):
        open_engine(kind, model_path=path)


@pytest.mark.usefixtures("no_engine")
def test_garbage_is_refused(tmp_path, exported_2d, monkeypatch):
    path = tmp_path / "m.onnx"
    with pytest.raises(BundleError, match="cannot be read"):
        read_onnx(path)
    whole = exported_2d[2].read_bytes()
    for data, message in (
        (b"", "holds no network"),
        (whole[: len(whole) // 2], "not a whole ONNX file"),
        (b"\xff" * 100, "not a whole ONNX file"),
        (b"\x80\x04\x95pickle", "not a whole ONNX file|holds no network"),
    ):
        path.write_bytes(data)
        with pytest.raises(BundleError, match=message):
            open_engine("onnx", model_path=path)
    monkeypatch.setattr(graph, "MAX_ONNX_BYTES", 3)
    with pytest.raises(BundleError, match="too large"):
        read_onnx(exported_2d[2])
