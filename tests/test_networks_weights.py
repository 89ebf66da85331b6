"""Starting weights: taken, adapted, reported; broken, foreign and poisoned files are refused in a sentence."""

from __future__ import annotations

import hashlib
import http.server
import os
import pickle
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from medmap import networks
from medmap.errors import WeightsError
from medmap.networks import NetworkSpec, build, load_weights

SIDE = 32
Hub = tuple[str, dict[str, bytes]]


def net_of(name: str = "resnet18", seed: int = 0, **changes: Any) -> nn.Module:
    values: dict[str, Any] = {"in_channels": 1, "outputs": 2, "input_shape": (SIDE, SIDE), "stem": "standard"} | changes
    return build(NetworkSpec(name, 2, **values), seed=seed)


def state_of(net: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone().contiguous() for name, value in net.state_dict().items()}


@pytest.fixture(scope="module")
def pretrained() -> dict[str, torch.Tensor]:
    """What ImageNet would have left: three channels, a thousand outputs."""
    return state_of(net_of(seed=9, in_channels=3, outputs=1000))


def test_a_file_of_the_same_network_is_taken_whole(tmp_path: Path) -> None:
    other = net_of("small_resnet", seed=1)
    save_file(state_of(other), tmp_path / "w.safetensors")
    net = net_of("small_resnet", seed=2)
    report = load_weights(net, tmp_path / "w.safetensors")
    assert (report.adapted, report.fresh, report.share) == ((), (), 1.0)
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in net.state_dict().items())
    assert "tensors loaded" in str(report)


def test_channels_are_adapted_and_another_head_is_left_fresh(
    tmp_path: Path, pretrained: dict[str, torch.Tensor]
) -> None:
    torch.save(pretrained, tmp_path / "w.pth")
    net = net_of(seed=3)
    head = net.get_submodule("fc").weight.detach().clone()
    report = load_weights(net, str(tmp_path / "w.pth"))
    assert report.adapted == ("conv1.weight",)
    assert report.fresh == ("fc.weight", "fc.bias")
    assert "layer4.1.bn2.running_var" in report.loaded
    torch.testing.assert_close(net.state_dict()["conv1.weight"], pretrained["conv1.weight"].sum(1, keepdim=True))
    assert torch.equal(head, net.get_submodule("fc").weight)
    assert "fresh: fc.weight, fc.bias" in str(report)


def test_a_small_stem_leaves_the_first_layer_fresh(tmp_path: Path, pretrained: dict[str, torch.Tensor]) -> None:
    torch.save(pretrained, tmp_path / "w.pt")
    report = load_weights(net_of(stem="small"), tmp_path / "w.pt")
    assert report.fresh == ("conv1.weight", "fc.weight", "fc.bias")
    assert report.share > 0.99


@pytest.mark.parametrize(
    ("nested", "prefix"), [("state_dict", "module."), ("model", "_orig_mod."), (None, "backbone.")]
)
def test_wrappers_are_passed_over(
    tmp_path: Path, pretrained: dict[str, torch.Tensor], nested: str | None, prefix: str
) -> None:
    named = {prefix + name: value for name, value in pretrained.items()}
    torch.save({nested: named, "epoch": 3} if nested else named, tmp_path / "w.pth")
    assert load_weights(net_of(), tmp_path / "w.pth").share == 1.0


def test_old_densenet_names_are_understood(tmp_path: Path) -> None:
    state = state_of(net_of("densenet121", seed=5))
    old = {
        name.replace(".norm1.", ".norm.1.").replace(".conv2.", ".conv.2.") if "denselayer" in name else name: value
        for name, value in state.items()
    }
    save_file(old, tmp_path / "w.safetensors")
    assert load_weights(net_of("densenet121"), tmp_path / "w.safetensors").fresh == ()


def test_positions_are_interpolated(tmp_path: Path) -> None:
    save_file(state_of(net_of("vit_small", seed=1, input_shape=(224, 224))), tmp_path / "w.safetensors")
    net = net_of("vit_small", input_shape=(96, 96))
    report = load_weights(net, tmp_path / "w.safetensors")
    assert (report.adapted, report.fresh) == (("pos_embed",), ())
    assert net.get_parameter("pos_embed").shape == (1, 37, 384)


def test_a_bundle_folder(tmp_path: Path, pretrained: dict[str, torch.Tensor]) -> None:
    save_file(pretrained, tmp_path / "weights.safetensors")
    assert load_weights(net_of(), tmp_path).share == 1.0
    (tmp_path / "empty").mkdir()
    with pytest.raises(WeightsError, match="no starting weights here"):
        load_weights(net_of(), tmp_path / "empty")


def test_another_network_is_refused_and_nothing_changes(tmp_path: Path) -> None:
    save_file(state_of(net_of("small_resnet")), tmp_path / "w.safetensors")
    net = net_of("resnet18")
    before = state_of(net)
    with pytest.raises(WeightsError, match="another network: 0% of the backbone's parameters match"):
        load_weights(net, tmp_path / "w.safetensors")
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_less_than_half_is_refused_unless_expected(tmp_path: Path, pretrained: dict[str, torch.Tensor]) -> None:
    part = {name: value for name, value in pretrained.items() if not name.startswith("layer4")}
    save_file(part, tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match="25% of the backbone's parameters match"):
        load_weights(net_of(), tmp_path / "w.safetensors")
    report = load_weights(net_of(), tmp_path / "w.safetensors", expect=0.2)
    assert "layer4.0.conv1.weight" in report.fresh


def test_nan_is_refused(tmp_path: Path, pretrained: dict[str, torch.Tensor]) -> None:
    spoilt = dict(pretrained) | {"layer1.0.conv1.weight": torch.full((64, 64, 3, 3), float("nan"))}
    save_file(spoilt, tmp_path / "w.safetensors")
    net = net_of()
    with pytest.raises(WeightsError, match=r"NaN or infinity: got layer1\.0\.conv1\.weight"):
        load_weights(net, tmp_path / "w.safetensors")
    assert torch.isfinite(net.get_parameter("layer1.0.conv1.weight")).all()


class Payload:
    """A pickle that would write a file when it is read."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self.target}",)


@pytest.mark.parametrize("how", ["torch", "pickle", "beside"])
def test_a_planted_payload_never_runs(tmp_path: Path, pretrained: dict[str, torch.Tensor], how: str) -> None:
    trap, file = tmp_path / "ran", tmp_path / "w.pth"
    content: Any = {"fc.weight": Payload(trap)} if how != "beside" else dict(pretrained) | {"more": Payload(trap)}
    if how == "pickle":
        file.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, file)
    with pytest.raises(WeightsError, match=r"never executed|cannot be read"):
        load_weights(net_of(), file)
    assert not trap.exists()


def test_a_whole_pickled_network_is_refused(tmp_path: Path) -> None:
    torch.save(net_of("cnn"), tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="never executed"):
        load_weights(net_of("cnn"), tmp_path / "w.pth")


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pt"])
@pytest.mark.parametrize("damage", ["empty", "truncated", "renamed", "header"])
def test_broken_files_are_a_sentence(
    tmp_path: Path, pretrained: dict[str, torch.Tensor], suffix: str, damage: str
) -> None:
    file = tmp_path / f"w{suffix}"
    small = {name: value for name, value in pretrained.items() if name.startswith(("conv1", "layer1"))}
    if suffix == ".safetensors":
        save_file(small, file)
    else:
        torch.save(small, file)
    whole = file.read_bytes()
    damaged = {
        "empty": b"",
        "truncated": whole[: len(whole) // 2],
        "renamed": b"\x89PNG\r\n\x1a\n" + bytes(200),
        "header": b"\xff" * 8 + whole[8:],
    }
    file.write_bytes(damaged[damage])
    with pytest.raises(WeightsError) as caught:
        load_weights(net_of(), file)
    assert "w" + suffix in str(caught.value)
    assert caught.value.exit_code == 4


def test_a_packed_archive_is_refused(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(1000)}, tmp_path / "plain.pth")
    with zipfile.ZipFile(tmp_path / "plain.pth") as plain, zipfile.ZipFile(tmp_path / "w.pth", "w") as packed:
        for item in plain.namelist():
            packed.writestr(item, plain.read(item), compress_type=zipfile.ZIP_DEFLATED)
    with pytest.raises(WeightsError, match="compressed inside"):
        load_weights(net_of(), tmp_path / "w.pth")


@pytest.mark.parametrize("content", [[1, 2], {"a": 1}, torch.zeros(3)])
def test_numbers_without_names_are_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="no weights by name"):
        load_weights(net_of(), tmp_path / "w.pth")


def test_absent_and_unknown_files(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no starting weights here"):
        load_weights(net_of(), tmp_path / "absent.pth")
    (tmp_path / "w.bin").write_bytes(b"1")
    with pytest.raises(WeightsError, match="kind of this weights file is unknown"):
        load_weights(net_of(), tmp_path / "w.bin")


class Server(http.server.BaseHTTPRequestHandler):
    """A hub on this machine: torchvision's files by name, Hugging Face's with the headers its client asks for."""

    files: dict[str, bytes]

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        content = self.files.get(self.path)
        self.send_response(404 if content is None else 200)
        self.send_header("Content-Length", str(len(content or b"")))
        self.send_header("ETag", hashlib.sha256(content or b"").hexdigest())
        self.send_header("X-Repo-Commit", "0" * 40)
        self.end_headers()
        if body and content is not None:
            self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    handler = type("Handler", (Server,), {"files": {}})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    for variable in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    yield f"http://127.0.0.1:{server.server_address[1]}", handler.files  # type: ignore[attr-defined]
    server.shutdown()
    server.server_close()
    thread.join()


def point_torchvision_at(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    weights = torchvision.models.get_model_weights("resnet18")["IMAGENET1K_V1"]
    monkeypatch.setattr(weights.value, "url", url)


def test_torchvision_weights_come_from_its_hub(
    hub: Hub,
    tmp_path: Path,
    pretrained: dict[str, torch.Tensor],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    address, files = hub
    torch.save(pretrained, tmp_path / "made.pth")
    content = (tmp_path / "made.pth").read_bytes()
    name = f"resnet18-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    files[f"/{name}"] = content
    point_torchvision_at(monkeypatch, f"{address}/{name}")
    report = load_weights(net_of(), "torchvision:resnet18:IMAGENET1K_V1")
    assert report.share == 1.0
    assert report.source == "torchvision:resnet18:IMAGENET1K_V1"


@pytest.mark.parametrize("trouble", ["absent", "wrong hash", "refused"])
def test_weights_that_cannot_be_fetched_name_the_file(hub: Hub, monkeypatch: pytest.MonkeyPatch, trouble: str) -> None:
    address, files = hub
    if trouble == "wrong hash":
        files["/resnet18-f37072fd.pth"] = b"not the weights"
    if trouble == "refused":
        address = "http://127.0.0.1:1"
    point_torchvision_at(monkeypatch, f"{address}/resnet18-f37072fd.pth")
    net = net_of()
    before = state_of(net)
    with pytest.raises(WeightsError, match=r"give --init path/to/resnet18-f37072fd\.pth"):
        load_weights(net, "torchvision:resnet18:IMAGENET1K_V1")
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_timm_weights_come_from_the_hugging_face_hub(
    hub: Hub,
    tmp_path: Path,
    pretrained: dict[str, torch.Tensor],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from huggingface_hub import constants

    address, files = hub
    save_file(pretrained, tmp_path / "made.safetensors")
    files["/timm/resnet18.a1_in1k/resolve/main/model.safetensors"] = (tmp_path / "made.safetensors").read_bytes()
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    assert load_weights(net_of(), "timm:resnet18.a1_in1k").share == 1.0
    files.clear()
    assert load_weights(net_of(), "timm:resnet18.a1_in1k").share == 1.0, "the second time from the cache"


def test_timm_weights_that_cannot_be_fetched_name_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import socket

    from huggingface_hub import constants

    def unknown_host(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    for variable in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(socket, "getaddrinfo", unknown_host)
    with pytest.raises(
        WeightsError, match=r"timm/resnet18\.a1_in1k/resolve/main/model\.safetensors.*--init path/to/model"
    ):
        load_weights(net_of(), "timm:resnet18.a1_in1k")


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("torchvision:resnet19:IMAGENET1K_V1", "torchvision:resnet18:IMAGENET1K_V1"),
        ("torchvision:resnet18", "none named.*torchvision:resnet18:IMAGENET1K_V1"),
        ("torchvision:resnet18:V9", "has no weights V9"),
        ("timm:resnet18.nowhere", "timm:resnet18"),
        ("timm:hf-hub:someone/model", "no pretrained weights of this name"),
    ],
)
def test_unknown_hub_names_are_refused(source: str, words: str) -> None:
    with pytest.raises(WeightsError, match=words):
        load_weights(net_of(), source)


def test_every_published_hub_name_exists() -> None:
    import timm
    from torchvision import models

    for dimensions in (2, 3):
        for name in networks.names(dimensions):
            source = networks.describe(name, dimensions).weights  # type: ignore[arg-type]
            library, _, entry = (source or "").partition(":")
            if library == "timm":
                assert entry in timm.list_pretrained()
            elif source:
                network, _, tag = entry.partition(":")
                assert tag in models.get_model_weights(network).__members__
