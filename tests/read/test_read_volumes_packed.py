"""Packed, detached and four-dimensional volumes: what is right is read, what was cut or changed is refused."""

from __future__ import annotations

import gzip
import random
import struct
import warnings
import zlib
from pathlib import Path

import nibabel
import nrrd
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from medmap.errors import GeometryError, LimitError, MedmapError, ReadError
from medmap.image import Image
from medmap.read import header, read, voxels
from medmap.write import write

RAS_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
HEAD = 352  # of a NIfTI-1 file: header and the four bytes that announce extensions


def plain_nifti(image: Image, path: Path, array: np.ndarray | None = None) -> bytes:
    made = nibabel.Nifti1Image(image.array if array is None else array, RAS_LPS @ image.geometry.affine_lps_mm)
    nibabel.save(made, path)
    return path.read_bytes()


@pytest.fixture
def plain(tmp_path: Path, image: Image) -> bytes:
    return plain_nifti(image, tmp_path / "plain.nii")


def gunzips(tmp_path: Path, packed: bytes, image: Image) -> None:
    (tmp_path / "a.nii.gz").write_bytes(packed)
    np.testing.assert_array_equal(read(tmp_path / "a.nii.gz").array, image.array)


@pytest.mark.parametrize("level", [0, 1, 6, 9])
def test_one_member_is_unpacked_in_one_go(tmp_path, image, plain, monkeypatch, level) -> None:
    def never(*_: object) -> None:
        raise AssertionError("a sound file took the slow way")

    monkeypatch.setattr(voxels, "_gzip", never)
    gunzips(tmp_path, gzip.compress(plain, level), image)


def test_members_padding_and_names_in_a_gzip(tmp_path: Path, image: Image, plain: bytes) -> None:
    gunzips(tmp_path, gzip.compress(plain[:400]) + gzip.compress(plain[400:]), image)
    gunzips(tmp_path, gzip.compress(plain) + gzip.compress(b""), image)
    gunzips(tmp_path, gzip.compress(plain[:360]) + b"".join(gzip.compress(bytes([b])) for b in plain[360:]), image)
    gunzips(tmp_path, gzip.compress(plain) + bytes(700), image)
    with gzip.GzipFile(tmp_path / "named.nii.gz", "wb") as file:  # FNAME and MTIME
        file.write(plain)
    gunzips(tmp_path, (tmp_path / "named.nii.gz").read_bytes(), image)


def test_a_file_too_large_for_one_go_is_unpacked_in_pieces(tmp_path, image, plain, monkeypatch) -> None:
    monkeypatch.setattr(voxels, "ONE_GO_BYTES", 10)
    monkeypatch.setattr("imagecodecs.gzip_decode", None)
    gunzips(tmp_path, gzip.compress(plain), image)
    packed = bytearray(gzip.compress(plain))
    packed[-8] ^= 1
    (tmp_path / "b.nii.gz").write_bytes(packed)
    with pytest.raises(ReadError, match=r"CRC|damaged"):
        read(tmp_path / "b.nii.gz")


def test_what_follows_a_gzip_and_is_none_is_refused(tmp_path: Path, plain: bytes) -> None:
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(plain) + b"something else that is no gzip")
    with pytest.raises(ReadError):
        read(tmp_path / "a.nii.gz")


def truncations(data: bytes, bounds: tuple[int, ...]) -> list[int]:
    """Around every boundary, and some places in between."""
    near = {b + d for b in bounds for d in (-1, 0, 1)}
    return sorted(n for n in near | set(range(0, len(data), max(1, len(data) // 37))) if 0 <= n < len(data))


def test_nifti_cut_anywhere_is_refused(tmp_path: Path, plain: bytes) -> None:
    """SimpleITK fills what is missing of a .nii with zeros and says nothing."""
    path = tmp_path / "a.nii"
    for length in truncations(plain, (4, 40, 344, 348, HEAD, HEAD + 2, HEAD + 70, len(plain) - 1)):
        path.write_bytes(plain[:length])
        with pytest.raises(ReadError):
            read(path)


def test_gzip_cut_anywhere_is_refused(tmp_path: Path, plain: bytes) -> None:
    packed = gzip.compress(plain, mtime=0)
    path = tmp_path / "a.nii.gz"
    for length in truncations(packed, (2, 10, 18, len(packed) - 8, len(packed) - 4, len(packed) - 1)):
        path.write_bytes(packed[:length])
        with pytest.raises(ReadError):
            read(path)


def test_a_gzip_whole_in_itself_but_short_of_voxels_is_refused(tmp_path: Path, plain: bytes) -> None:
    for length in (HEAD, HEAD + 1, len(plain) - 2, len(plain) - 1):
        (tmp_path / "a.nii.gz").write_bytes(gzip.compress(plain[:length]))
        with pytest.raises(ReadError, match="truncated"):
            read(tmp_path / "a.nii.gz")
    two = gzip.compress(plain[:500]) + gzip.compress(plain[500:])
    (tmp_path / "a.nii.gz").write_bytes(two[:-20])  # a second member that was cut
    with pytest.raises(ReadError):
        read(tmp_path / "a.nii.gz")


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nrrd", "a.mha"])
def test_no_flipped_bit_of_packed_voxels_passes(tmp_path: Path, image: Image, name: str) -> None:
    """The checksum finds what the decoder does not; bits of a header may be others than the image's."""
    path = write(image, tmp_path / name)
    sound = path.read_bytes()
    before = {"a.nii.gz": b"", "a.nrrd": b"\n\n", "a.mha": b"LOCAL\n"}[name]
    start = sound.index(before) + len(before) + (2 if name == "a.mha" else 10)
    rng = random.Random(3)
    for _ in range(80):
        at, bit = rng.randrange(start, len(sound)), rng.randrange(8)
        data = bytearray(sound)
        data[at] ^= 1 << bit
        path.write_bytes(data)
        try:
            back = read(path)
        except MedmapError:
            continue
        np.testing.assert_array_equal(back.array, image.array, f"bit {bit} of byte {at} changed the image")


@pytest.mark.parametrize("kind", ["gzip", "zlib"])
def test_bombs_are_cut_short(tmp_path: Path, image: Image, plain: bytes, kind: str) -> None:
    if kind == "gzip":
        (tmp_path / "a.nii.gz").write_bytes(gzip.compress(plain + bytes(2**24 + 2**20)))
        (tmp_path / "b.nii.gz").write_bytes(gzip.compress(plain) + gzip.compress(bytes(2**24 + 2**20)))
    else:
        sound = write(image, tmp_path / "a.mha").read_bytes()
        at = sound.index(b"LOCAL\n") + 6
        (tmp_path / "b.mha").write_bytes(sound[:at] + zlib.compress(image.array.tobytes() + bytes(2**24 + 2**20)))
    for path in tmp_path.glob("[ab].nii.gz" if kind == "gzip" else "b.mha"):
        with pytest.raises((LimitError, ReadError), match="than its header declares"):
            read(path)


# -- types, scaling, places in memory --------------------------------------------------------------------------------


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("kind", ["i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"])
def test_byte_orders(tmp_path: Path, image: Image, order: str, name: str, kind: str) -> None:
    head = nibabel.Nifti1Header(endianness=order)
    head.set_data_dtype(np.dtype(kind).newbyteorder(order))
    array = image.array.astype(kind)
    nibabel.save(nibabel.Nifti1Image(array, RAS_LPS @ image.geometry.affine_lps_mm, head), tmp_path / name)
    back = read(tmp_path / name)
    assert back.array.dtype == np.dtype(kind)
    assert back.array.dtype.isnative
    np.testing.assert_array_equal(back.array, array)


@pytest.mark.parametrize("kind", ["u1", "i2", "i4", "f4", "f8"])
@pytest.mark.parametrize(("slope", "intercept"), [(0.25, -3.5), (2.0, 7.0), (-1.0, 0.0)])
def test_scaling_in_pieces_is_scaling(tmp_path, image, monkeypatch, kind, slope, intercept) -> None:
    monkeypatch.setattr(voxels, "_CHUNK", 17)
    array = (image.array % 200).astype(kind)
    data = bytearray(plain_nifti(image, tmp_path / "a.nii", array))
    struct.pack_into("<2f", data, 112, slope, intercept)
    (tmp_path / "a.nii").write_bytes(data)
    back = read(tmp_path / "a.nii")
    np.testing.assert_array_equal(back.array, array.astype(np.float64) * slope + intercept)


def test_voxels_stand_where_any_type_may_stand(tmp_path: Path, image: Image) -> None:
    data = bytearray(plain_nifti(image, tmp_path / "a.nii", image.array.astype(np.float64)))
    struct.pack_into("<f", data, 108, HEAD + 3)  # voxels at an odd place of the file
    data[HEAD:HEAD] = b"abc"
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(data))
    back = read(tmp_path / "a.nii.gz")
    assert back.array.flags.aligned
    np.testing.assert_array_equal(back.array, image.array)


# -- pairs and detached headers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [nibabel.Nifti1Pair, nibabel.Nifti2Pair])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_nifti_pairs(tmp_path: Path, image: Image, kind: type, suffix: str) -> None:
    made = kind(image.array, RAS_LPS @ image.geometry.affine_lps_mm)
    nibabel.save(made, tmp_path / f"my scan.img{suffix}")
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"my scan.hdr{suffix}", f"my scan.img{suffix}"]
    back = read(tmp_path / f"my scan.hdr{suffix}")
    np.testing.assert_array_equal(back.array, image.array)
    np.testing.assert_allclose(back.geometry.affine_lps_mm, image.geometry.affine_lps_mm, atol=1e-4)


def test_nifti_pairs_that_lead_elsewhere(tmp_path: Path, image: Image) -> None:
    folder = tmp_path / "inside"
    folder.mkdir()
    nibabel.save(nibabel.Nifti1Pair(image.array, np.eye(4)), folder / "a.img")
    voxels_file = folder / "a.img"
    voxels_file.write_bytes(voxels_file.read_bytes()[:-1])
    with pytest.raises(ReadError, match="truncated"):
        read(folder / "a.hdr")
    voxels_file.rename(tmp_path / "secret.img")
    with pytest.raises(ReadError, match="another file, which is not there"):
        read(folder / "a.hdr")
    voxels_file.symlink_to(tmp_path / "secret.img")
    with pytest.raises(ReadError, match="outside its own folder"):
        read(folder / "a.hdr")
    voxels_file.unlink()
    voxels_file.symlink_to(folder / "a.hdr")
    with pytest.raises(ReadError, match="outside its own folder"):
        read(folder / "a.hdr")


@pytest.mark.parametrize("name", ["../a.raw", "/etc/passwd", "LIST 2", "a%03d.raw 1 11 1", "a.mhd", "none.raw", "."])
def test_metaimage_voxels_named_by_tricks(tmp_path: Path, image: Image, name: str) -> None:
    folder = tmp_path / "inside"
    folder.mkdir()
    (tmp_path / "a.raw").write_bytes(image.array.tobytes(order="F"))
    text = f"ObjectType = Image\nNDims = 3\nDimSize = 5 7 11\nElementType = MET_SHORT\nElementDataFile = {name}\n"
    (folder / "a.mhd").write_text(text)
    with pytest.raises(ReadError, match=r"outside its own folder|several files|does not exist"):
        read(folder / "a.mhd")
    (folder / "list of it.raw").write_bytes(image.array.tobytes(order="F"))
    (folder / "a.mhd").write_text(text.replace(name + "\n", "list of it.raw\n"))
    np.testing.assert_array_equal(read(folder / "a.mhd").array, image.array)


# -- the fourth axis -------------------------------------------------------------------------------------------------


def test_metaimage_of_four_dimensions_as_itk_writes_it(tmp_path: Path, image: Image) -> None:
    parts = []
    for factor in (1, -1, 2):
        made = sitk.GetImageFromArray(np.ascontiguousarray((image.array * factor).T))
        affine = image.geometry.affine_lps_mm
        made.SetSpacing(image.spacing_mm)
        made.SetDirection((affine[:3, :3] / image.spacing_mm).ravel().tolist())
        made.SetOrigin(affine[:3, 3].tolist())
        parts.append(made)
    sitk.WriteImage(sitk.JoinSeries(parts, 5.0, 2.0), str(tmp_path / "a.mha"), True)
    back = read(tmp_path / "a.mha")
    np.testing.assert_array_equal(back.array, np.stack([image.array, -image.array, 2 * image.array], axis=-1))
    assert back.channels == ("channel_0", "channel_1", "channel_2")
    np.testing.assert_allclose(back.geometry.affine_lps_mm, image.geometry.affine_lps_mm, atol=1e-9)
    sitk.WriteImage(sitk.JoinSeries(parts[:1]), str(tmp_path / "b.mha"))
    np.testing.assert_array_equal(read(tmp_path / "b.mha").array, image.array)


def test_metaimages_whose_axes_are_not_understood(tmp_path: Path) -> None:
    head = "NDims = 4\nDimSize = 2 3 4 2\nElementType = MET_UCHAR\n"
    turned = " ".join(map(str, np.eye(4)[[0, 1, 3, 2]].ravel()))
    (tmp_path / "a.mha").write_bytes(
        f"{head}TransformMatrix = {turned}\nElementDataFile = LOCAL\n".encode() + bytes(48)
    )
    with pytest.raises(GeometryError, match="fourth"):
        read(tmp_path / "a.mha")
    more = f"{head}ElementNumberOfChannels = 2\nElementDataFile = LOCAL\n"
    (tmp_path / "b.mha").write_bytes(more.encode() + bytes(96))
    with pytest.raises(ReadError, match="more axes"):
        read(tmp_path / "b.mha")


def test_nrrd_times(tmp_path: Path, image: Image) -> None:
    series = np.stack([image.array, -image.array], axis=-1)
    affine = image.geometry.affine_lps_mm
    head = {
        "space": "left-posterior-superior",
        "space directions": [*affine[:3, :3].T, [np.nan] * 3],
        "space origin": affine[:3, 3],
        "kinds": ["domain", "domain", "domain", "time"],
        "spacings": [np.nan, np.nan, np.nan, 250.0],
        "axis mins": [np.nan, np.nan, np.nan, 1000.0],
        "units": ["", "", "", "ms"],
    }
    nrrd.write(str(tmp_path / "a.nrrd"), series, head)
    back = read(tmp_path / "a.nrrd")
    assert back.time_s == (1.0, 1.25)
    np.testing.assert_array_equal(back.array, series)
    np.testing.assert_allclose(back.geometry.affine_lps_mm, affine)
    nrrd.write(str(tmp_path / "b.nrrd"), series, {**head, "units": ["", "", "", "furlong"]})
    assert read(tmp_path / "b.nrrd").channels == ("channel_0", "channel_1")
    nrrd.write(str(tmp_path / "c.nrrd"), series, {**head, "spacings": [np.nan] * 4})
    assert read(tmp_path / "c.nrrd").channels == ("channel_0", "channel_1")


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nrrd", "b.nrrd", "a.mha"])
def test_no_file_names_a_billion_channels(tmp_path: Path, name: str) -> None:
    """A small packed file may declare a thousand times its size in channels of one voxel."""
    count = 200_000
    packed = gzip.compress(bytes(count))
    if name == "a.nii.gz":
        head = nibabel.Nifti2Header()
        head.set_data_dtype(np.uint8)
        head.set_data_shape((1, 1, 1, count))
        head.set_sform(np.eye(4), 1)
        head.set_data_offset(544)
        data = gzip.compress(head.binaryblock + bytes(4 + count))
    elif name.endswith(".nrrd"):
        kind = "list" if name == "a.nrrd" else "time"
        text = (
            f"NRRD0004\ntype: uint8\ndimension: 3\nsizes: 1 1 {count}\nkinds: domain domain {kind}\nencoding: gzip\n\n"
        )
        data = text.encode() + packed
    else:
        text = f"NDims = 2\nDimSize = 1 1\nElementNumberOfChannels = {count}\nElementType = MET_UCHAR\n"
        data = f"{text}CompressedData = True\nElementDataFile = LOCAL\n".encode() + zlib.compress(bytes(count))
    (tmp_path / name).write_bytes(data)
    with pytest.raises(LimitError, match="more channels or times"):
        header(tmp_path / name)


def test_a_moment_of_fuzzing(tmp_path: Path) -> None:
    """Longer by hand: tests/fuzz/fuzz_volumes.py."""
    from fuzz.fuzz_volumes import mutated, one_input, seeds

    sound = seeds(tmp_path)
    assert all(one_input(data, tmp_path / "x") for data in sound)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_anyway = sum(one_input(data, tmp_path / "x") for data in mutated(sound, 600, seed=1))
    assert 0 < read_anyway < 600  # both ways were taken
