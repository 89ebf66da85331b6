"""Whatever was done to a bundle's folder: one sentence, and nothing in it is believed or run."""

import contextlib
import hashlib
import json
import os
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bundle.conftest import images, network
from medmap.bundle import Bundle, verify
from medmap.bundle import files as bundle_files
from medmap.bundle import parity as bundle_parity
from medmap.bundle.parity import read_parity
from medmap.bundle.spec import parse_json
from medmap.errors import BundleError

NAMES = ["spec.json", "weights.safetensors", "model.onnx", "parity.npz", "CARD.md", "SHA256SUMS", "folds.csv"]


def reseal(folder):
    """What a forger does: checksums that fit what now stands there."""
    names = sorted(p.name for p in folder.iterdir() if p.name != "SHA256SUMS")
    text = "".join(f"{hashlib.sha256((folder / n).read_bytes()).hexdigest()}  {n}\n" for n in names)
    (folder / "SHA256SUMS").write_text(text)


def refused(folder, message):
    with pytest.raises(BundleError, match=message) as caught:
        Bundle.load(folder)
    assert caught.value.exit_code == 5
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 2000


# ------------------------------------------------------------------------------------------------------ the folder


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
def test_any_changed_bit_is_found(whole, name, data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("flip") / "bundle"
    folder.mkdir()
    for entry in whole.path.iterdir():
        os.link(entry, folder / entry.name)
    content = bytearray((folder / name).read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= 1 << data.draw(st.integers(0, 7))
    (folder / name).unlink()
    (folder / name).write_bytes(content)
    with pytest.raises(BundleError):
        Bundle.load(folder)


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_file_is_named(copy, name):
    (copy / name).unlink()
    refused(copy, f"{name}.* missing")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("keep", [0, 0.5])
def test_a_truncated_file_is_found(copy, name, keep):
    content = (copy / name).read_bytes()
    (copy / name).write_bytes(content[: int(len(content) * keep)])
    refused(copy, f"{name}.*(was changed|cut off|no checksum)")


@pytest.mark.parametrize("name", ["evil.py", "x.csv", ".hidden", "weights.bin", "spec.json~"])
def test_what_is_not_listed_does_not_belong(copy, name):
    (copy / name).write_text("import os")
    refused(copy, "does not belong to the bundle")


@pytest.mark.parametrize("name", NAMES)
def test_links_are_refused_even_to_the_very_bytes(copy, tmp_path, name):
    (copy / name).rename(tmp_path / "elsewhere")
    (copy / name).symlink_to(tmp_path / "elsewhere")
    refused(copy, "is a link")


def test_folders_and_pipes_are_refused(copy):
    (copy / "extra").mkdir()
    refused(copy, "is a link, a folder")
    (copy / "extra").rmdir()
    os.mkfifo(copy / "pipe.csv")
    refused(copy, "no plain file")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{hash}  ../outside.csv\n", "no bundle may have"),
        ("{hash}  /etc/passwd\n", "no bundle may have"),
        ("{hash}  a/b.csv\n", "no bundle may have"),
        ("{hash}  ..\n", "no bundle may have"),
        ("{hash}  zz.pkl\n", "is not data"),
        ("{hash}  zz.csv\n", "zz.csv is missing"),
        ("{hash} *zz.csv\n", "no checksum"),
        ("0123  zz.csv\n", "no checksum"),
        ("\n", "no checksum"),
        ("{hash}  zz.csv", "cut off"),
        ("{hash}  CARD.md\n", "twice"),
        ("{hash}  AA.csv\n", "not in the order"),
        ("{hash}  zz.csv\r\n", "no bundle may have"),
    ],
)
def test_a_malformed_list_is_refused(copy, line, message):
    with (copy / "SHA256SUMS").open("a", newline="") as file:
        file.write(line.format(hash="0" * 64))
    refused(copy, message)


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"a" * (2**20 + 1)])
def test_a_list_that_is_no_text_or_huge_is_refused(copy, content):
    (copy / "SHA256SUMS").write_bytes(content)
    refused(copy, "is not text|too large")


def test_a_list_of_too_many_files_is_refused(copy):
    (copy / "SHA256SUMS").write_text("".join(f"{'0' * 64}  f{i:05d}.csv\n" for i in range(300)))
    refused(copy, "too many files")


@pytest.mark.parametrize("name", ["CARD.md", "spec.json", "weights.safetensors"])
def test_a_bundle_without_its_core_is_none_although_the_sums_agree(copy, name):
    (copy / name).unlink()
    reseal(copy)
    refused(copy, f"{name} is missing")


def test_what_is_no_bundle(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "absent", "does not exist")
    refused(tmp_path / "file", "is no bundle.*a file")
    refused(tmp_path / "empty", "is no bundle.*a bundle folder")


def test_an_unreadable_file_is_a_sentence(copy, monkeypatch):
    def locked(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(bundle_files, "sha256", locked)
    refused(copy, "cannot be read.*Permission denied.*permissions")


# --------------------------------------------------------------------------------------------------------- spec.json


def respec(folder, change):
    spec = json.loads((folder / "spec.json").read_text())
    change(spec)
    (folder / "spec.json").write_text(json.dumps(spec))
    reseal(folder)


def test_a_newer_format_asks_for_an_update(copy):
    respec(copy, lambda s: s.update(medmap_bundle=2, medmap_version="9.1", something_new={}))
    refused(copy, r"made by a newer medmap \(9\.1\).*update medmap")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.update(colour="red"), "unknown key colour"),
        (lambda s: s["members"][0].update(extra=1), r"unknown key members\.0\.extra"),
        (lambda s: s["inputs"]["image"].update(chanels=1), r"did you mean channels\?"),
        (lambda s: s.pop("task"), "task is missing"),
        (lambda s: s.pop("medmap_bundle"), "does not describe a medmap bundle"),
        (lambda s: s.update(medmap_bundle="1"), "medmap_bundle"),
        (lambda s: s.update(medmap_bundle=0), "medmap_bundle"),
        (lambda s: s.update(members=[]), "members"),
        (lambda s: s.update(inputs={}), "inputs"),
        (lambda s: s.update(kind="guess"), "kind"),
        (lambda s: s.update(positive=2), "positive = 2"),
        (lambda s: s["labels"].append({"name": "benign"}), "same name"),
        (lambda s: s.update(created="yesterday"), "created"),
        (lambda s: s.update(created="2025-01-31T12:00:00+02:00"), "UTC"),
        (lambda s: s.update(created="2025-01-31T12:00:00"), "UTC"),
        (lambda s: s.update(engines={"torchscript": {}}), "engines"),
        (lambda s: s["inputs"]["image"].update(channels=10**9), "channels"),
        (lambda s: s["members"].append(s["members"][0]), "lacks the weights of a member"),
        (lambda s: s["members"].pop(), "a tensor of no member"),
    ],
)
def test_a_forged_spec_is_refused(copy, change, message):
    respec(copy, change)
    refused(copy, message)


SPECS = {
    "empty": ("", "not valid JSON"),
    "list": ("[]", "does not describe a medmap bundle"),
    "null": ("null", "does not describe a medmap bundle"),
    "deep": ("[" * 100_000 + "]" * 100_000, "nested too deeply"),
    "deep objects": ('{"a":' * 100_000 + "1" + "}" * 100_000, "nested too deeply"),
    "deep within reason of Python": ('{"medmap_bundle":1,"run":' + '{"a":' * 80 + "1" + "}" * 81, "nested too deeply"),
    "twice": ('{"medmap_bundle": 1, "task": "a", "task": "b"}', "the key 'task' stands twice"),
    "nan": ('{"medmap_bundle": 1, "run": {"x": NaN}}', "NaN is no number"),
    "infinity": ('{"medmap_bundle": 1, "run": {"x": -Infinity}}', "Infinity is no number"),
    "beyond": ('{"medmap_bundle": 1, "run": {"x": 1e999}}', "beyond a float"),
    "digits": ('{"medmap_bundle": 1, "run": {"x": ' + "9" * 5000 + "}}", "not valid JSON"),
    "yaml": ("medmap_bundle: 1\nrun: !!python/object/apply:os.system ['touch planted']\n", "not valid JSON"),
    "bytes": (b"\xff\xfe{", "is not text"),
    "huge": (b" " * (33 * 2**20), "too large"),
}


@pytest.mark.parametrize("kind", SPECS)
def test_a_spec_that_is_no_sound_json_is_refused(copy, kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content, message = SPECS[kind]
    (copy / "spec.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    reseal(copy)
    refused(copy, message)
    assert not (tmp_path / "planted").exists()


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**60), 2**60)
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=12,
    )
)
def test_strict_json_reads_what_json_writes(value):
    assert parse_json(json.dumps(value), "x") == value


def test_a_decision_that_is_none_is_refused(copy):
    respec(copy, lambda s: s.update(decision={"no": "decision"}))
    refused(copy, "no usable decision")


# ------------------------------------------------------------------------------------------------ weights and networks


class Planted:
    """Unpickled, it leaves a file: the proof that a payload ran."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


def test_a_pickle_in_place_of_weights_never_runs(copy, tmp_path):
    proof = tmp_path / "ran"
    payload = pickle.dumps(Planted(str(proof)))
    pickle.loads(payload)  # noqa: S301  (it would work)
    assert proof.exists()
    proof.unlink()
    for name in ("weights.safetensors", "parity.npz", "model.onnx"):
        original = (copy / name).read_bytes()
        (copy / name).write_bytes(payload)
        reseal(copy)
        with pytest.raises(BundleError):
            verify(Bundle.load(copy))
        (copy / name).write_bytes(original)
    np.savez(copy / "parity.npz", inputs=np.array([Planted(str(proof))], dtype=object), outputs=np.zeros(1))
    reseal(copy)
    with pytest.raises(BundleError, match="not a whole npz file"):
        verify(Bundle.load(copy))
    assert not proof.exists()


def _safetensors(header, body=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
WEIGHTS = {
    "empty": b"",
    "garbage": bytes(range(256)),
    "header beyond the file": struct.pack("<Q", 2**62) + b"{}",
    "no json": _safetensors(b"{'a': 1}"),
    "huge shape": _safetensors({"member0/w": {**F32, "shape": [10**12]}}, b"\0" * 8),
    "overflowing shape": _safetensors({"member0/w": {**F32, "shape": [2**62, 2**62]}}, b"\0" * 8),
    "offsets beyond": _safetensors({"member0/w": {**F32, "shape": [2**30], "data_offsets": [0, 2**32]}}, b"\0" * 8),
    "body too short": _safetensors({"member0/w": F32}, b"\0" * 7),
    "no member": _safetensors({"w": F32}, b"\0" * 8),
    "path": _safetensors({"../member0/w": F32}, b"\0" * 8),
    "member beyond": _safetensors({"member7/w": F32}, b"\0" * 8),
    "odd type": _safetensors({"member0/w": {"dtype": "F8_E4M3", "shape": [8], "data_offsets": [0, 8]}}, b"\0" * 8),
    "nothing": _safetensors({}),
    "one member": _safetensors({"member0/w": F32}, b"\0" * 8),
}


@pytest.mark.parametrize("kind", WEIGHTS)
def test_weights_that_are_none_are_refused(copy, kind):
    (copy / "weights.safetensors").write_bytes(WEIGHTS[kind])
    reseal(copy)
    refused(copy, r"weights\.safetensors")


def test_weights_that_are_not_finite_are_refused_at_reading(copy):
    content = bytearray((copy / "weights.safetensors").read_bytes())
    start = 8 + struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8:start])
    place = start + next(
        v["data_offsets"][0] for k, v in header.items() if k.startswith("member0") and v["dtype"] == "F32"
    )
    content[place : place + 4] = struct.pack("<f", float("nan"))
    (copy / "weights.safetensors").write_bytes(content)
    reseal(copy)
    bundle = Bundle.load(copy)
    bundle.state_dict(1)
    with pytest.raises(BundleError, match="NaN or infinite"):
        bundle.module(0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"outputs": 3}, "does not fit the network"),
        ({"width": 0.25}, "does not fit the network"),
        ({"name": "cnn"}, "does not fit|lack a tensor|unknown to|fixed width"),
        ({"outputs": 10**12}, "does not fit the network|describes no network"),
        ({"in_channels": 10**10}, "does not fit the network|describes no network"),
        ({"input_shape": [0, 16]}, "out of range"),
        ({"input_shape": "16"}, "describes no network"),
        ({"dropout": "x"}, "describes no network"),
        ({"name": "os.system"}, "no 2-D network of this name"),
        ({"name": "timm:hf-hub:someone/something", "width": 1.0}, "no 2-D network of this name"),
        ({"name": 7}, "describes no network"),
        ({"name": None}, "describes no network"),
        ({"input_shape": {"a": 1}}, "describes no network"),
        ({"_target_": "os.system"}, "unknown key '_target_'"),
        ({"dimensions": 3}, "out of range"),
    ],
)
def test_a_network_that_the_weights_do_not_fit_is_refused(copy, change, message):
    respec(copy, lambda s: s["members"][0].update(network=network(**change)))
    bundle = Bundle.load(copy)
    with pytest.raises(BundleError, match=message):
        bundle.ensemble()


# ------------------------------------------------------------------------------------------------ parity.npz and ONNX


def _npz(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def _npy(shape, dtype="<f4", body=b"", fortran=False):
    header = repr({"descr": dtype, "fortran_order": fortran, "shape": shape}).encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + body


GOOD = _npy((1, 1, 2, 2), body=b"\0" * 16)
NPZ = {
    "no zip": None,
    "other names": {"a.npy": GOOD, "outputs.npy": GOOD},
    "one more": {"inputs.npy": GOOD, "outputs.npy": GOOD, "x.npy": GOOD},
    "path": {"../inputs.npy": GOOD, "outputs.npy": GOOD},
    "huge shape": {"inputs.npy": _npy((10**12,), body=b"\0" * 16), "outputs.npy": GOOD},
    "negative shape": {"inputs.npy": _npy((-1, 4), body=b"\0" * 16), "outputs.npy": GOOD},
    "objects": {"inputs.npy": _npy((4,), "|O", b"\0" * 16), "outputs.npy": GOOD},
    "doubles": {"inputs.npy": _npy((1, 1, 2, 1), "<f8", b"\0" * 16), "outputs.npy": GOOD},
    "too short": {"inputs.npy": GOOD[:-1], "outputs.npy": GOOD},
    "too long": {"inputs.npy": GOOD + b"\0", "outputs.npy": GOOD},
    "no npy": {"inputs.npy": b"hello", "outputs.npy": GOOD},
    "expression": {"inputs.npy": _npy("__import__('os')", body=b"\0" * 16), "outputs.npy": GOOD},
    "counts differ": {"inputs.npy": GOOD, "outputs.npy": _npy((2, 1, 2), body=b"\0" * 16)},
    "no images": {"inputs.npy": _npy((4,), body=b"\0" * 16), "outputs.npy": _npy((4,), body=b"\0" * 16)},
}


@pytest.mark.parametrize("kind", NPZ)
def test_phantoms_that_are_none_are_refused(copy, kind):
    if NPZ[kind] is None:
        (copy / "parity.npz").write_bytes(b"PK\x03\x04 not really")
    else:
        _npz(copy / "parity.npz", NPZ[kind])
    reseal(copy)
    with pytest.raises(BundleError, match=r"parity\.npz"):
        verify(Bundle.load(copy))


def test_a_bomb_is_refused_before_it_is_unpacked(copy, monkeypatch):
    monkeypatch.setattr(bundle_parity, "MAX_PARITY_BYTES", 10_000)
    _npz(copy / "parity.npz", {"inputs.npy": _npy((1, 1, 100, 100), body=b"\0" * 40_000), "outputs.npy": GOOD})
    with pytest.raises(BundleError, match="too large"):
        read_parity(copy / "parity.npz")


def test_an_onnx_file_that_reaches_outside_is_refused_at_loading(copy):
    import onnx

    model = onnx.load(copy / "model.onnx", load_external_data=False)
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")
    (copy / "model.onnx").write_bytes(model.SerializeToString())
    reseal(copy)
    refused(copy, r"from another file.*\.\./\.\./etc/passwd")


def test_an_onnx_file_with_custom_operators_is_refused_at_loading(copy):
    import onnx

    model = onnx.load(copy / "model.onnx", load_external_data=False)
    model.graph.node[0].domain = "evil.ops"
    (copy / "model.onnx").write_bytes(model.SerializeToString())
    reseal(copy)
    refused(copy, "not ONNX's own")


# ------------------------------------------------------------------------------------------- a forger with patience


@pytest.mark.parametrize("name", ["spec.json", "weights.safetensors", "parity.npz"])
@given(data=st.data())
def test_resealed_damage_loads_or_is_a_bundle_error(whole, name, data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("forged") / "bundle"
    folder.mkdir()
    for entry in whole.path.iterdir():
        if entry.name not in (name, "model.onnx"):
            os.link(entry, folder / entry.name)
    content = bytearray((whole.path / name).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        # the first kilobytes hold the headers, where damage is most interesting
        place = data.draw(st.integers(0, min(len(content), 4096) - 1))
        content[place] = data.draw(st.integers(0, 255))
    (folder / name).write_bytes(content)
    (folder / "SHA256SUMS").unlink()
    reseal(folder)
    with contextlib.suppress(BundleError):  # anything else that is raised fails the test
        bundle = Bundle.load(folder)
        if name == "parity.npz":
            inputs, outputs = read_parity(folder / name)
            assert len(inputs) == len(outputs)
        else:
            bundle.module(0)


def test_an_intact_copy_still_loads(copy, whole):
    reseal(copy)
    assert Bundle.load(copy).digest == whole.digest
    assert Bundle.load(copy).ensemble()(torch.from_numpy(images())).shape == (3, 2, 2)
