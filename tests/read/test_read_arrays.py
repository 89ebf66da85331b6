"""NumPy files: rows and members, colour and volumes, memory maps; nothing pickled is ever loaded."""

from __future__ import annotations

import io
import os
import pickle
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

from medmap.dataset import Ref
from medmap.errors import LimitError, ReadError
from medmap.layouts import open_dataset
from medmap.read import arrays as arrays_module
from medmap.read import forget_arrays, info, open_arrays, read, read_ref

RNG = np.random.default_rng(5)


@pytest.fixture(params=["stored", "compressed"])
def npz(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    save = np.savez if request.param == "stored" else np.savez_compressed
    path = tmp_path / "a.npz"
    save(
        path,
        grey=np.arange(6 * 8 * 9, dtype=np.uint8).reshape(6, 8, 9),
        colour=RNG.integers(0, 256, (4, 8, 9, 3)).astype(np.uint8),
        volumes=RNG.integers(0, 256, (3, 10, 11, 12)).astype(np.uint8),
        fortran=np.asfortranarray(np.arange(60.0).reshape(3, 4, 5)),
        big=np.arange(60, dtype=">i2").reshape(3, 4, 5),
    )
    return path


def test_rows_of_an_npz(npz: Path) -> None:
    with np.load(npz) as other:
        for name in ("grey", "colour", "volumes", "fortran", "big"):
            for row in range(len(other[name])):
                image = read(f"{npz}#{name}/{row}")
                np.testing.assert_array_equal(image.array, other[name][row])
                assert image.array.dtype.isnative
                assert image.geometry.kind == "none"
                assert not image.array.flags.writeable
    assert read(npz, member="colour/1").channels == ("red", "green", "blue")
    assert read(npz, member="colour/1").quantity == "colour"
    assert read(npz, member="volumes/2").geometry.shape == (10, 11, 12)
    assert read(npz, member="grey").geometry.shape == (6, 8, 9)
    assert info(npz, member="grey/0").maximum == 71


@pytest.mark.parametrize(
    "member",
    [
        "grey/6",
        "grey/-1",
        "grey/x",
        "grey/1/2",
        "absent/0",
        "absent",
        "/0",
        "../etc/passwd",
        "grey/²",
        "grey/" + "9" * 30,
    ],
)
def test_members_that_are_not_there(npz: Path, member: str) -> None:
    with pytest.raises(ReadError):
        read(npz, member=member)


def test_an_npz_with_several_arrays_asks_for_one(npz: Path) -> None:
    with pytest.raises(ReadError, match="several arrays"):
        read(npz)


def test_npy_whole_and_by_row(tmp_path: Path) -> None:
    array = RNG.normal(size=(4, 6, 7)).astype(np.float32)
    np.save(tmp_path / "a.npy", array)
    np.testing.assert_array_equal(read(tmp_path / "a.npy").array, array)
    np.testing.assert_array_equal(read(f"{tmp_path}/a.npy#2").array, array[2])
    np.savez(tmp_path / "one.npz", only=array)
    np.testing.assert_array_equal(read(tmp_path / "one.npz").array, array)


@pytest.mark.parametrize(
    ("shape", "dtype", "channels"),
    [((8, 9), "u1", 1), ((8, 9, 3), "u1", 3), ((8, 9, 3), "f4", 1), ((8, 9, 4, 5), "f4", 5), ((8, 9, 4, 1), "f4", 1)],
)
def test_which_axis_is_a_channel(tmp_path: Path, shape: tuple[int, ...], dtype: str, channels: int) -> None:
    np.save(tmp_path / "a.npy", np.ones(shape, dtype))
    image = read(tmp_path / "a.npy")
    assert len(image.channels) == channels
    assert image.array.size == np.prod(shape)


@pytest.mark.parametrize("shape", [(), (5,), (0, 4), (2, 2, 2, 2, 2)])
def test_shapes_that_are_no_image(tmp_path: Path, shape: tuple[int, ...]) -> None:
    np.save(tmp_path / "a.npy", np.ones(shape, np.uint8))
    with pytest.raises(ReadError):
        read(tmp_path / "a.npy")


@pytest.mark.parametrize("array", [np.array([["a", "b"]]), np.ones((3, 3), "c8"), np.zeros((2, 2), "M8[s]")])
def test_types_that_are_no_image(tmp_path: Path, array: np.ndarray) -> None:
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(ReadError, match="no numbers"):
        read(tmp_path / "a.npy")


class Payload:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("hacked",)


def test_pickled_objects_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("a.npy", np.array([Payload()], dtype=object), allow_pickle=True)
    np.savez("b.npz", train_images=np.array([Payload()], dtype=object))
    Path("c.npy").write_bytes(pickle.dumps(Payload()))
    Path("d.npz").write_bytes(pickle.dumps(Payload()))
    for name in ("a.npy", "b.npz"):
        with pytest.raises(ReadError, match="pickled"):
            read(name)
    for name in ("c.npy", "d.npz"):
        with pytest.raises(ReadError, match="holds no"):
            read(name)
    with pytest.raises(ReadError, match="pickled"):
        open_dataset("b.npz")
    assert not Path("hacked").exists()


def npy_header(shape: str, dtype: str = "|u1") -> bytes:
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


@pytest.mark.parametrize(
    "head", [npy_header("(100000, 100000, 100000)"), npy_header("(-1, 5)"), npy_header("('a', 5)"), npy_header("5")]
)
def test_npy_headers_that_cannot_be_meant(tmp_path: Path, head: bytes) -> None:
    (tmp_path / "a.npy").write_bytes(head + bytes(25))
    with pytest.raises(ReadError):
        read(tmp_path / "a.npy")


def test_a_header_that_is_an_expression_is_not_evaluated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.npy").write_bytes(npy_header("__import__('os').mkdir('hacked')") + bytes(25))
    with pytest.raises(ReadError):
        read("a.npy")
    assert not Path("hacked").exists()


def test_a_zip_bomb_is_refused_by_its_declaration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays_module, "MEMBER_LIMIT_BYTES", 2**20)
    np.savez_compressed(tmp_path / "a.npz", train_images=np.zeros((2, 2**11, 2**10), np.uint8))
    with pytest.raises(LimitError, match="declares more"):
        read(tmp_path / "a.npz", member="train_images/0")


def rezipped(path: Path, name: str, data: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, data)
    return path


def test_a_member_longer_or_shorter_than_its_header(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.ones((3, 4, 5), np.uint8))
    for data in (buffer.getvalue() + b"x", buffer.getvalue()[:-1]):
        with pytest.raises(ReadError, match=r"(more|fewer) bytes"):
            read(rezipped(tmp_path / "a.npz", "a.npy", data))


def test_a_damaged_member_is_found(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", a=RNG.integers(0, 256, (20, 30, 30)).astype(np.uint8))
    data = bytearray((tmp_path / "a.npz").read_bytes())
    data[len(data) // 2] ^= 0xFF
    (tmp_path / "a.npz").write_bytes(data)
    with pytest.raises(ReadError):
        read(tmp_path / "a.npz")


def test_other_zip_files(tmp_path: Path) -> None:
    with pytest.raises(ReadError, match="holds no DICOM object"):
        read(rezipped(tmp_path / "a.zip", "readme.txt", b"hello"))
    np.savez(tmp_path / "arrays.npz", a=np.arange(12).reshape(3, 4))
    (tmp_path / "arrays.npz").rename(tmp_path / "arrays.zip")
    assert read(tmp_path / "arrays.zip").array.shape == (3, 4)
    with zipfile.ZipFile(tmp_path / "b.npz", "w"):
        pass
    with pytest.raises(ReadError, match="without NumPy arrays"):
        read(tmp_path / "b.npz")


def test_large_members_go_to_a_temporary_file_that_vanishes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays_module, "SPILL_BYTES", 1000)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    array = RNG.integers(0, 256, (50, 10, 10)).astype(np.uint8)
    np.savez_compressed(tmp_path / "a.npz", a=array)
    np.testing.assert_array_equal(read(tmp_path / "a.npz", member="a/49").array, array[49])
    assert [p.name for p in tmp_path.iterdir()] == ["a.npz"]

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    forget_arrays()
    monkeypatch.setattr("tempfile.TemporaryFile", full)
    with pytest.raises(LimitError, match="neither in memory"):
        read(tmp_path / "a.npz", member="a/49")


def test_stored_members_are_mapped_and_others_unpacked_once(npz: Path) -> None:
    opened = open_arrays(npz)
    assert open_arrays(npz) is opened
    first = opened.array("grey")
    assert opened.array("grey") is first
    base = first
    while base.base is not None and not isinstance(base, np.memmap):
        base = base.base
    with zipfile.ZipFile(npz) as archive:
        stored = archive.getinfo("grey.npy").compress_type == zipfile.ZIP_STORED
    assert (isinstance(base, np.memmap) or "mmap" in type(base).__name__) == stored


def test_a_changed_file_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, a=np.ones((2, 5, 5), np.uint8))
    assert read(path, member="a/0").array.max() == 1
    np.savez(path, a=np.full((2, 5, 5), 7, np.uint8))
    os.utime(path, ns=(1, 1))
    assert read(path, member="a/0").array.max() == 7
    forget_arrays()
    assert read(path, member="a/0").array.max() == 7


def test_a_row_outlives_its_file(npz: Path) -> None:
    image = read(npz, member="grey/1")
    npz.unlink()
    assert image.array[0, 0] == 72


def test_reading_row_after_row_is_fast(shared_data: Path) -> None:
    data = open_dataset(shared_data / "medmnist" / "breastmnist.npz")
    read_ref(data, Ref("breastmnist.npz", "train_images/0"))
    start = time.perf_counter()
    for row in range(500):
        image = read_ref(data, Ref("breastmnist.npz", f"train_images/{row}"))
    assert image.array.shape == (28, 28)
    assert time.perf_counter() - start < 2.5  # ten times what it takes
