"""NIfTI, NRRD and MetaImage against nibabel, pynrrd and SimpleITK: values and millimetres; and what is refused."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import nibabel
import nrrd
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from medmap.errors import GeometryError, LimitError, ReadError
from medmap.geometry import Geometry
from medmap.image import Image
from medmap.read import header, info, read

RAS_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def saved(image: Image, path: Path, array: np.ndarray | None = None, **changes: object) -> Path:
    """The phantom as nibabel writes it."""
    made = nibabel.Nifti1Image(image.array if array is None else array, RAS_LPS @ image.geometry.affine_lps_mm)
    for name, value in changes.items():
        made.header[name] = value
    nibabel.save(made, path)
    return path


def patched(path: Path, at: int, kind: str, *values: float) -> Path:
    """The uncompressed file with header bytes overwritten."""
    data = bytearray(path.read_bytes())
    struct.pack_into("<" + kind, data, at, *values)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_nifti_as_nibabel_writes_it(tmp_path: Path, image: Image, name: str, kind: type) -> None:
    nibabel.save(kind(image.array, RAS_LPS @ image.geometry.affine_lps_mm), tmp_path / name)
    back = read(tmp_path / name)
    np.testing.assert_array_equal(back.array, image.array)
    np.testing.assert_allclose(back.geometry.affine_lps_mm, image.geometry.affine_lps_mm, atol=1e-4)
    assert back.source.warnings == ()
    assert info(tmp_path / name).minimum == 1
    assert info(tmp_path / name).maximum == 385


def test_nifti_big_endian(tmp_path: Path, image: Image) -> None:
    made = nibabel.Nifti1Image(image.array, RAS_LPS @ image.geometry.affine_lps_mm)
    made = nibabel.Nifti1Image(image.array.astype(">i2"), made.affine, made.header.as_byteswapped(">"))
    nibabel.save(made, tmp_path / "a.nii")
    back = read(tmp_path / "a.nii")
    assert back.array.dtype == np.int16
    np.testing.assert_array_equal(back.array, image.array)


@pytest.mark.parametrize(
    ("slope", "intercept", "dtype"), [(1, -1024, "int32"), (2, 0, "int32"), (0.5, 3, "float32"), (0, 9, "int16")]
)
def test_nifti_scaling(tmp_path: Path, image: Image, slope: float, intercept: float, dtype: str) -> None:
    path = patched(saved(image, tmp_path / "a.nii"), 112, "2f", slope, intercept)
    expected = image.array if slope == 0 else image.array * slope + intercept
    back = read(path)
    np.testing.assert_array_equal(back.array, expected)
    assert back.array.dtype == np.dtype(dtype)
    assert back.source.rescale == (None if slope == 0 else (slope, intercept))


def test_nifti_with_an_intercept_that_is_no_number(tmp_path: Path, image: Image) -> None:
    path = patched(saved(image, tmp_path / "a.nii"), 112, "2f", 2, np.nan)
    assert "scl_inter" in read(path).source.warnings[0]
    np.testing.assert_array_equal(read(path).array, 2 * image.array)


def test_nifti_time_channels_and_colour(tmp_path: Path, image: Image) -> None:
    series = np.stack([image.array, -image.array], axis=-1)
    path = saved(image, tmp_path / "a.nii", series)
    assert read(path).channels == ("channel_0", "channel_1")
    patched(path, 123, "B", 2 | 16)  # mm, milliseconds
    patched(path, 76 + 16, "f", 500)
    assert read(path).time_s == (0.0, 0.5)
    np.testing.assert_array_equal(read(path).array, series)
    assert info(path).frames == 2
    assert info(path).duration_s == 0.5
    rgb = np.zeros((5, 7, 11), np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))
    rgb["G"] = image.array % 250
    path = saved(image, tmp_path / "b.nii", rgb)
    assert read(path).channels == ("red", "green", "blue")
    np.testing.assert_array_equal(read(path).array[..., 1], image.array % 250)


def test_nifti_labels_by_intent(tmp_path: Path, image: Image) -> None:
    assert read(saved(image, tmp_path / "a.nii", intent_code=1002)).quantity == "label"


def test_nifti_units_of_length(tmp_path: Path, image: Image) -> None:
    path = saved(image, tmp_path / "a.nii")
    patched(path, 123, "B", 3)  # micrometres
    assert read(path).spacing_mm == pytest.approx((0.0007, 0.0013, 0.0029), rel=1e-5)
    patched(path, 123, "B", 7)
    assert "unit of length" in read(path).source.warnings[0]


def test_nifti_sform_and_qform(tmp_path: Path, image: Image) -> None:
    path = saved(image, tmp_path / "a.nii")
    patched(path, 252, "h", 1)
    patched(path, 268, "f", 5.0)  # the quaternion's offset alone
    back = read(path)
    assert "sform and qform disagree" in back.source.warnings[0]
    assert back.geometry.same_grid(Geometry((5, 7, 11), image.geometry.affine_lps_mm))
    patched(path, 254, "h", 0)  # no sform: the quaternion counts
    expected = RAS_LPS @ nibabel.load(path).affine
    np.testing.assert_allclose(read(path).geometry.affine_lps_mm, expected, atol=1e-4)
    patched(path, 252, "h", 0)
    back = read(path)
    assert back.geometry.kind == "detector"
    assert "orientation" in back.source.warnings[0]
    assert back.spacing_mm == pytest.approx((0.7, 1.3, 2.9))


def test_nifti_quaternion_with_a_flip(tmp_path: Path, image: Image) -> None:
    affine = np.array(RAS_LPS @ image.geometry.affine_lps_mm)
    affine[:3, 2] *= -1
    made = nibabel.Nifti1Image(image.array, affine)
    made.set_sform(None, 0)
    made.set_qform(affine, 1)
    nibabel.save(made, tmp_path / "a.nii")
    np.testing.assert_allclose(read(tmp_path / "a.nii").geometry.affine_lps_mm, RAS_LPS @ affine, atol=1e-4)


@pytest.mark.parametrize(
    ("at", "kind", "values", "error", "what"),
    [
        (42, "h", (0,), ReadError, "zero or less"),
        (42, "h", (-3,), ReadError, "zero or less"),
        (40, "h", (1,), ReadError, "one dimension"),
        (40, "h", (99,), ReadError, "99 dimensions"),
        (42, "3h", (32767, 32767, 32767), LimitError, "no image has"),
        (42, "h", (50,), ReadError, "truncated"),
        (70, "h", (32,), ReadError, "complex"),
        (70, "h", (777,), ReadError, "data type 777"),
        (108, "f", (np.nan,), ReadError, "impossible place"),
        (108, "f", (1e30,), ReadError, "impossible place"),
        (280, "f", (np.nan,), GeometryError, "finite"),
        (344, "3s", (b"ni1",), ReadError, "another file"),
    ],
)
def test_nifti_headers_that_cannot_be_meant(tmp_path, image, at, kind, values, error, what) -> None:
    path = patched(saved(image, tmp_path / "a.nii"), at, kind, *values)
    with pytest.raises(error, match=what):
        read(path)


def test_nifti_zero_spacing_is_refused(tmp_path: Path, image: Image) -> None:
    path = patched(saved(image, tmp_path / "a.nii"), 252, "2h", 0, 0)
    patched(path, 80, "f", 0.0)
    with pytest.raises(GeometryError, match="zero spacing"):
        read(path)


def test_nifti_with_too_many_axes(tmp_path: Path, image: Image) -> None:
    path = saved(image, tmp_path / "a.nii", np.zeros((5, 7, 2, 3, 2), np.int16))
    with pytest.raises(ReadError, match="more axes"):
        read(path)


def test_gzip_damage_is_found_even_where_the_voxels_came_out(tmp_path: Path, image: Image) -> None:
    path = saved(image, tmp_path / "a.nii.gz")
    data = bytearray(path.read_bytes())
    data[-8] ^= 1  # the checksum
    path.write_bytes(data)
    with pytest.raises(ReadError, match=r"damaged|CRC"):
        read(path)
    assert header(path).shape == (5, 7, 11)


def test_a_gzip_bomb_is_cut_short(tmp_path: Path, image: Image) -> None:
    plain = saved(image, tmp_path / "a.nii").read_bytes()
    (tmp_path / "b.nii.gz").write_bytes(gzip.compress(plain + bytes(64 * 2**20)))
    with pytest.raises(LimitError, match="unpacks to far more"):
        read(tmp_path / "b.nii.gz")
    (tmp_path / "c.nii.gz").write_bytes(gzip.compress(plain + bytes(1000)))
    np.testing.assert_array_equal(read(tmp_path / "c.nii.gz").array, image.array)


def test_a_small_gzip_cannot_hold_what_it_declares(tmp_path: Path, image: Image) -> None:
    path = saved(image, tmp_path / "a.nii")
    patched(path, 42, "3h", 3000, 3000, 3000)
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(ReadError, match="truncated"):
        header(tmp_path / "a.nii.gz")


def test_not_finite_voxels_are_said(tmp_path: Path, image: Image) -> None:
    array = image.array.astype(np.float32)
    array[0, 0, 0], array[1, 1, 1] = np.nan, np.inf
    back = read(saved(image, tmp_path / "a.nii", array))
    assert back.source.warnings == ("2 of 385 values are not finite numbers",)
    assert info(tmp_path / "a.nii").maximum == float(np.nanmax(array[np.isfinite(array)]))


# -- NRRD ------------------------------------------------------------------------------------------------------------


def nrrd_file(path: Path, image: Image, array: np.ndarray | None = None, **fields: object) -> Path:
    affine = image.geometry.affine_lps_mm
    head = {"space": "left-posterior-superior", "space directions": affine[:3, :3].T, "space origin": affine[:3, 3]}
    nrrd.write(str(path), image.array if array is None else array, {**head, **fields})
    return path


@pytest.mark.parametrize("encoding", ["raw", "gzip", "bzip2"])
def test_nrrd_as_pynrrd_writes_it(tmp_path: Path, image: Image, encoding: str) -> None:
    back = read(nrrd_file(tmp_path / "a.nrrd", image, encoding=encoding))
    np.testing.assert_array_equal(back.array, image.array)
    np.testing.assert_allclose(back.geometry.affine_lps_mm, image.geometry.affine_lps_mm)


@pytest.mark.parametrize(("space", "signs"), [("right-anterior-superior", (-1, -1, 1)), ("LAS", (1, -1, 1))])
def test_nrrd_in_other_spaces(tmp_path: Path, image: Image, space: str, signs: tuple[int, ...]) -> None:
    affine = np.diag([*signs, 1.0]) @ image.geometry.affine_lps_mm
    path = tmp_path / "a.nrrd"
    nrrd.write(
        str(path), image.array, {"space": space, "space directions": affine[:3, :3].T, "space origin": affine[:3, 3]}
    )
    np.testing.assert_allclose(read(path).geometry.affine_lps_mm, image.geometry.affine_lps_mm)


def test_nrrd_detached_beside_its_header(tmp_path: Path, image: Image) -> None:
    nrrd_file(tmp_path / "a.nhdr", image)
    np.testing.assert_array_equal(read(tmp_path / "a.nhdr").array, image.array)


def edited(path: Path, old: str, new: str) -> Path:
    data = path.read_bytes()
    assert old.encode() in data
    path.write_bytes(data.replace(old.encode(), new.encode(), 1))
    return path


@pytest.mark.parametrize(
    "name", ["../secret.raw", "/etc/hostname", "LIST", "a%d.raw 1 3 1", "b.raw c.raw", "absent.raw"]
)
def test_nrrd_voxels_are_beside_the_header_or_nowhere(tmp_path: Path, image: Image, name: str) -> None:
    folder = tmp_path / "inside"
    folder.mkdir()
    (tmp_path / "secret.raw").write_bytes(bytes(770))
    nrrd_file(folder / "a.nhdr", image, encoding="raw")
    data_line = next(x for x in (folder / "a.nhdr").read_text().splitlines() if x.startswith("data file"))
    edited(folder / "a.nhdr", data_line, f"data file: {name}")
    with pytest.raises(ReadError, match=r"outside its own folder|several files|does not exist"):
        read(folder / "a.nhdr")


def test_a_link_beside_the_header_does_not_lead_out(tmp_path: Path, image: Image) -> None:
    folder = tmp_path / "inside"
    folder.mkdir()
    (tmp_path / "secret.raw").write_bytes(bytes(770))
    nrrd_file(folder / "a.nhdr", image, encoding="raw")
    (folder / "a.raw").unlink()
    (folder / "a.raw").symlink_to(tmp_path / "secret.raw")
    with pytest.raises(ReadError, match="outside its own folder"):
        read(folder / "a.nhdr")


def test_nrrd_channels_first_as_slicer_writes_them(tmp_path: Path, image: Image) -> None:
    array = np.stack([image.array, -image.array])
    directions = np.vstack([np.full(3, np.nan), image.geometry.affine_lps_mm[:3, :3].T])
    path = nrrd_file(
        tmp_path / "a.nrrd",
        image,
        array,
        **{"space directions": directions, "kinds": ["vector", "domain", "domain", "domain"]},
    )
    back = read(path)
    np.testing.assert_array_equal(back.array, np.moveaxis(array, 0, -1))
    assert back.channels == ("channel_0", "channel_1")


def test_nrrd_without_a_space_is_nobodys_left_or_right(tmp_path: Path, image: Image) -> None:
    nrrd.write(str(tmp_path / "a.nrrd"), image.array, {"spacings": [0.7, 1.3, 2.9]})
    back = read(tmp_path / "a.nrrd")
    assert back.geometry.kind == "detector"
    assert back.spacing_mm == (0.7, 1.3, 2.9)
    nrrd.write(str(tmp_path / "b.nrrd"), image.array[0])
    flat = read(tmp_path / "b.nrrd")
    assert flat.geometry.kind == "none"
    np.testing.assert_array_equal(flat.array, image.array[0].T)


@pytest.mark.parametrize(
    ("old", "new", "error", "what"),
    [
        ("sizes: 5 7 11", "sizes: 5 7 0", ReadError, "zero or less"),
        ("sizes: 5 7 11", "sizes: 5 7 12", ReadError, "truncated"),
        ("sizes: 5 7 11", "sizes: 500000 700000 110000", LimitError, "no image has"),
        ("sizes: 5 7 11", "sizes: 5 7", ReadError, "disagree"),
        ("sizes: 5 7 11", "sizes: 5 seven 11", ReadError, "none: got 'seven'"),
        ("dimension: 3", "dimension: three", ReadError, "none"),
        ("type: int16", "type: block", ReadError, "type that is not read"),
        ("encoding: raw", "encoding: hex", ReadError, "encoded"),
        ("endian: little", "endian: middle", ReadError, "byte order"),
        ("space origin: (", "space origin: (x", ReadError, "none"),
        ("space origin: (", "space origin: (nan,", GeometryError, "."),
        ("encoding: raw", "encoding raw", ReadError, "no field"),
        ("encoding: raw", "encoding: raw\nline skip: 2", ReadError, "lines"),
        ("encoding: raw", "encoding: raw\nbyte skip: -7", ReadError, "truncated|byte skip|bytes"),
    ],
)
def test_nrrd_headers_that_cannot_be_meant(tmp_path, image, old, new, error, what) -> None:
    path = edited(nrrd_file(tmp_path / "a.nrrd", image, encoding="raw"), old, new)
    if "byte skip" in new:
        path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(error, match=what):
        read(path)


# -- MetaImage -------------------------------------------------------------------------------------------------------


def by_itk(image: Image, path: Path, compress: bool = False) -> Path:
    made = sitk.GetImageFromArray(np.ascontiguousarray(image.array.T))
    affine = image.geometry.affine_lps_mm
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    made.SetSpacing(spacing.tolist())
    made.SetDirection((affine[:3, :3] / spacing).ravel().tolist())
    made.SetOrigin(affine[:3, 3].tolist())
    sitk.WriteImage(made, str(path), compress)
    return path


@pytest.mark.parametrize("name", ["a.mha", "a.mhd", "a.nrrd", "a.nii"])
@pytest.mark.parametrize("compress", [False, True])
def test_files_as_itk_writes_them(tmp_path: Path, image: Image, name: str, compress: bool) -> None:
    back = read(by_itk(image, tmp_path / name, compress))
    np.testing.assert_array_equal(back.array, image.array)
    np.testing.assert_allclose(back.geometry.affine_lps_mm, image.geometry.affine_lps_mm, atol=1e-4)


def test_metaimage_planes_and_channels_as_itk_writes_them(tmp_path: Path) -> None:
    array = np.arange(5 * 7, dtype=np.uint16).reshape(5, 7)
    made = sitk.GetImageFromArray(array)
    made.SetSpacing((0.5, 0.25))  # x, y
    sitk.WriteImage(made, str(tmp_path / "a.mha"))
    back = read(tmp_path / "a.mha")
    np.testing.assert_array_equal(back.array, array)
    assert back.spacing_mm == (0.25, 0.5)
    both = np.stack([array, array + 1], axis=-1)
    sitk.WriteImage(sitk.GetImageFromArray(both, isVector=True), str(tmp_path / "b.mha"))
    np.testing.assert_array_equal(read(tmp_path / "b.mha").array, both)


def test_metaimage_voxels_stay_beside_the_header(tmp_path: Path, image: Image) -> None:
    folder = tmp_path / "inside"
    folder.mkdir()
    (tmp_path / "secret.raw").write_bytes(bytes(770))
    path = edited(by_itk(image, folder / "a.mhd"), "ElementDataFile = a.raw", "ElementDataFile = ../secret.raw")
    with pytest.raises(ReadError, match="outside its own folder"):
        read(path)


@pytest.mark.parametrize(
    ("old", "new", "error", "what"),
    [
        ("DimSize = 5 7 11", "DimSize = 5 7 0", ReadError, "zero or less"),
        ("DimSize = 5 7 11", "DimSize = 5 7 12", ReadError, "truncated"),
        ("DimSize = 5 7 11", "DimSize = 500000 700000 110000", LimitError, "no image has"),
        ("DimSize = 5 7 11", "DimSize = 5 7", ReadError, "DimSize"),
        ("DimSize = 5 7 11", "DimSize = 5 7 1.5", ReadError, "whole number"),
        ("NDims = 3", "NDims = 9", ReadError, "9 dimensions"),
        ("MET_SHORT", "MET_OTHER", ReadError, "type that is not read"),
        ("BinaryData = True", "BinaryData = False", ReadError, "as text"),
        ("ElementDataFile = LOCAL", "Something = LOCAL", ReadError, "damaged"),
        ("CompressedData = False", "CompressedData", ReadError, "no ="),
        ("Offset = -", "Offset = nan -", ReadError, "Offset"),
        ("ElementSpacing = 0.7", "ElementSpacing = nan", GeometryError, "."),
    ],
)
def test_metaimage_headers_that_cannot_be_meant(tmp_path, image, old, new, error, what) -> None:
    path = by_itk(image, tmp_path / "a.mha")
    text = path.read_bytes()
    if old.startswith("ElementSpacing"):
        line = next(x for x in text.split(b"\n") if x.startswith(b"ElementSpacing"))
        path.write_bytes(text.replace(line, b"ElementSpacing = nan 1 1", 1))
    else:
        edited(path, old, new)
    with pytest.raises(error, match=what):
        read(path)


def test_compressed_voxels_of_the_wrong_length(tmp_path: Path, image: Image) -> None:
    path = by_itk(image, tmp_path / "a.mha", compress=True)
    for size in ("5 7 10", "5 7 12"):
        other = tmp_path / "b.mha"
        other.write_bytes(path.read_bytes().replace(b"DimSize = 5 7 11", f"DimSize = {size}".encode(), 1))
        with pytest.raises(ReadError, match=r"more bytes|truncated"):
            read(other)


# -- real files ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", ["hippocampus/imagesTr", "hippocampus/labelsTr", "spine", "ct"])
def test_real_files_as_nibabel_reads_them(shared_data: Path, folder: str) -> None:
    paths = sorted((shared_data / folder).rglob("*.nii.gz"))
    for path in paths[:: max(1, len(paths) // 12)]:
        image, other = read(path), nibabel.load(path)
        expected = np.asarray(other.dataobj)
        if expected.dtype == np.float64:
            np.testing.assert_allclose(image.array, expected.reshape(image.array.shape), rtol=1e-6)
        else:
            np.testing.assert_array_equal(image.array, expected.reshape(image.array.shape))
        np.testing.assert_allclose(image.geometry.affine_lps_mm, RAS_LPS @ other.affine, atol=1e-5)
