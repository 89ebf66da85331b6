"""Volumes as files: ordinary streams, every order in memory, and every voxel at its millimetres in other readers."""

from __future__ import annotations

import gzip
import shutil
import subprocess
import zlib
from pathlib import Path

import nibabel
import nrrd
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from grids import oblique_geometry, rotation
from medmap.errors import DataError, UsageError
from medmap.geometry import Geometry
from medmap.image import Image
from medmap.read import read
from medmap.write import volumes, write

NAMES = ("a.nii", "a.nii.gz", "a.nrrd", "a.mha")
TYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float32", "float64")
RAS_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def by_nibabel(path: Path) -> tuple[NDArray, NDArray]:
    image = nibabel.load(path)
    return np.asarray(image.dataobj), RAS_LPS @ image.affine


def by_itk(path: Path) -> tuple[NDArray, NDArray]:
    image = sitk.ReadImage(str(path))
    array = sitk.GetArrayFromImage(image)
    array = array.transpose(2, 1, 0, *range(3, array.ndim))
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return array, affine


def by_pynrrd(path: Path) -> tuple[NDArray, NDArray]:
    array, head = nrrd.read(str(path))
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = np.asarray(head["space directions"])[-3:].T, head["space origin"]
    return np.moveaxis(array, 0, -1) if array.ndim == 4 else array, affine


@st.composite
def images(draw: st.DrawFn) -> Image:
    """Any oblique anisotropic grid, type and order in memory; every voxel its own value (as far as the type goes)."""
    shape = tuple(draw(st.lists(st.integers(1, 9), min_size=3, max_size=3)))
    spacing = draw(st.lists(st.floats(0.05, 20), min_size=3, max_size=3))
    turns = draw(st.lists(st.floats(-180, 180), min_size=3, max_size=3))
    affine = np.eye(4)
    affine[:3, :3] = rotation(*turns) * spacing * draw(st.sampled_from([(1, 1, 1), (1, -1, 1)]))
    affine[:3, 3] = draw(st.lists(st.floats(-900, 900), min_size=3, max_size=3))
    channels = draw(st.integers(1, 3))
    dtype = draw(st.sampled_from(TYPES))
    size = (*shape, channels) if channels > 1 else shape
    array = np.arange(np.prod(size)).reshape(size, order=draw(st.sampled_from("CF"))).astype(dtype)
    array = array[::-1] if draw(st.booleans()) else array
    names = tuple(f"channel_{i}" for i in range(channels)) if channels > 1 else ("image",)
    return Image(array, Geometry(shape, affine), draw(st.sampled_from(["label", "unknown"])), names)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(image=images(), name=st.sampled_from(NAMES))
def test_there_and_back_and_in_a_second_reader(tmp_path: Path, image: Image, name: str) -> None:
    path = write(image, tmp_path / name, overwrite=True)
    back = read(path)
    np.testing.assert_array_equal(back.array, image.array)
    assert back.array.dtype == image.array.dtype
    assert back.channels == image.channels
    assert back.source.warnings == ()
    if path.name.startswith("a.nii"):
        assert back.quantity == image.quantity
        array, affine = by_nibabel(path)
    elif name == "a.nrrd":
        array, affine = by_pynrrd(path)
    else:
        array, affine = by_itk(path)
    np.testing.assert_array_equal(array, image.array)
    single = name.startswith("a.nii")  # NIfTI-1 keeps its affine in single precision
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in image.geometry.shape])).reshape(3, -1).T
    found = corners @ affine[:3, :3].T + affine[:3, 3]
    np.testing.assert_allclose(found, image.geometry.to_world(corners), atol=2e-4 if single else 1e-9)
    np.testing.assert_allclose(back.geometry.to_world(corners), found, atol=2e-4 if single else 1e-9)


@pytest.mark.parametrize("order", ["C", "F", "strided", "big"])
@pytest.mark.parametrize("name", NAMES)
def test_every_order_in_memory_gives_the_same_bytes(tmp_path, monkeypatch, order: str, name: str) -> None:
    monkeypatch.setattr(volumes, "_BLOCK_BYTES", 1000)
    array = np.arange(5 * 7 * 40, dtype=np.int16).reshape(5, 7, 40)
    other = {
        "C": np.ascontiguousarray(array),
        "F": np.asfortranarray(array),
        "strided": np.repeat(array, 2, axis=1)[:, ::2],
        "big": array.astype(">i2"),
    }[order]
    geometry = Geometry((5, 7, 40), oblique_geometry().affine_lps_mm)
    first = write(Image(np.asfortranarray(array), geometry), tmp_path / name).read_bytes()
    second = write(Image(other, geometry), tmp_path / f"b{name}").read_bytes()
    assert first == second
    np.testing.assert_array_equal(read(tmp_path / f"b{name}").array, array)


def test_a_gzip_is_one_member_that_gunzip_knows(tmp_path: Path) -> None:
    array = np.random.default_rng(5).integers(0, 90, (64, 64, 300)).astype(np.int16)  # several blocks
    image = Image(array, Geometry(array.shape, oblique_geometry().affine_lps_mm))
    path = write(image, tmp_path / "a.nii.gz")
    packed = path.read_bytes()
    unpack = zlib.decompressobj(31)
    plain = unpack.decompress(packed)
    assert unpack.eof
    assert unpack.unused_data == b""
    assert plain[352:] == array.tobytes(order="F")
    assert packed[4:8] == bytes(4)  # no time of writing: the same image is the same file
    np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(path))).T, array)
    gunzip = shutil.which("gunzip")
    if gunzip is not None:
        assert subprocess.run([gunzip, "-c", str(path)], capture_output=True, check=True).stdout == plain
    assert len(packed) < 1.1 * len(gzip.compress(plain, 1))


def test_threads_do_not_change_the_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    array = np.random.default_rng(6).integers(0, 90, (64, 64, 400)).astype(np.int16)
    image = Image(array, Geometry(array.shape, oblique_geometry().affine_lps_mm))
    files = []
    for count in (1, 2, 4):
        monkeypatch.setattr(volumes, "_threads", lambda count=count: count)
        files.append(write(image, tmp_path / f"{count}.nii.gz").read_bytes())
    assert files[0] == files[1] == files[2]


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nii", "a.nrrd", "a.mha"])
def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path, monkeypatch, name: str) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    image = Image(np.zeros((5, 7, 11), np.int16), oblique_geometry())
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UsageError, match="No space left"):
        write(image, tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
@pytest.mark.parametrize("write_one", [volumes.write_nifti, volumes.write_nrrd])
def test_an_error_of_a_writing_thread_arrives(write_one) -> None:
    array = np.random.default_rng(7).integers(0, 2**15, (64, 64, 900)).astype(np.int16)
    image = Image(array, Geometry(array.shape, oblique_geometry().affine_lps_mm))
    with pytest.raises(OSError, match="space"):
        write_one(image, Path("/dev/full"))


def test_nifti_2_where_an_axis_is_long(tmp_path: Path) -> None:
    array = np.arange(2 * 3 * 33000, dtype=np.int32).reshape(2, 3, 33000)
    image = Image(array, Geometry(array.shape, oblique_geometry().affine_lps_mm))
    other = nibabel.load(write(image, tmp_path / "a.nii.gz"))
    assert isinstance(other, nibabel.Nifti2Image)
    np.testing.assert_array_equal(np.asarray(other.dataobj), array)
    np.testing.assert_allclose(RAS_LPS @ other.affine, image.geometry.affine_lps_mm)
    assert read(tmp_path / "a.nii.gz").geometry.same_grid(image.geometry)


def test_times_as_nibabel_and_itk_read_them(tmp_path: Path) -> None:
    array = np.arange(5 * 7 * 11 * 3, dtype=np.float32).reshape(5, 7, 11, 3)
    path = write(Image(array, oblique_geometry(), time_s=(1.0, 3.5, 6.0)), tmp_path / "a.nii.gz")
    head = nibabel.load(path).header
    assert head.get_xyzt_units() == ("mm", "sec")
    assert (float(head["toffset"]), float(head["pixdim"][4])) == (1.0, 2.5)
    other = sitk.ReadImage(str(path))
    assert other.GetSpacing()[3] == 2.5
    np.testing.assert_array_equal(sitk.GetArrayFromImage(other).T, array)


def test_masks_of_bool_are_labels_everywhere(tmp_path: Path) -> None:
    array = np.arange(5 * 7 * 11).reshape(5, 7, 11) % 3 == 0
    image = Image(array, oblique_geometry(), "label")
    path = write(image, tmp_path / "a.nii.gz")
    assert nibabel.load(path).header.get_intent()[0] == "label"
    assert read(path).quantity == "label"
    for name in ("a.nrrd", "a.mha"):
        np.testing.assert_array_equal(read(write(image, tmp_path / name)).array, array)


def test_colour_volumes_stay_colour_in_nrrd(tmp_path: Path) -> None:
    array = np.arange(5 * 7 * 11 * 3).reshape(5, 7, 11, 3).astype(np.uint8)
    image = Image(array, oblique_geometry(), "colour", ("red", "green", "blue"))
    back = read(write(image, tmp_path / "a.nrrd"))
    assert (back.quantity, back.channels) == ("colour", image.channels)
    np.testing.assert_array_equal(back.array, array)
    other = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "a.nrrd")))
    np.testing.assert_array_equal(other.transpose(2, 1, 0, 3), array)


def test_half_floats_and_long_doubles(tmp_path: Path) -> None:
    array = np.arange(385).reshape(5, 7, 11)
    assert read(write(Image(array.astype(np.float16), oblique_geometry()), tmp_path / "a.nii")).array.dtype == "f4"
    with pytest.raises(DataError, match="type cannot be written"):
        write(Image(array.astype(np.longdouble), oblique_geometry()), tmp_path / "b.nii")
