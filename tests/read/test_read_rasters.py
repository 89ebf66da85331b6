"""PNG, JPEG, BMP, WebP and TIFF keep their depth; palettes, transparency and orientation are handled and said."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image as Pillow

from medmap.errors import LimitError, ReadError
from medmap.read import header, info, read
from medmap.read.raster import upright

RNG = np.random.default_rng(3)
GREY8 = RNG.integers(0, 256, (9, 14)).astype(np.uint8)
RGB8 = RNG.integers(0, 256, (9, 14, 3)).astype(np.uint8)
GREY16 = RNG.integers(0, 65536, (9, 14)).astype(np.uint16)
RGB16 = RNG.integers(0, 65536, (9, 14, 3)).astype(np.uint16)


def said(path: Path) -> str:
    return "; ".join(read(path).source.warnings)


@pytest.mark.parametrize("array", [GREY8, RGB8, GREY16, RGB16], ids=["grey8", "rgb8", "grey16", "rgb16"])
def test_png_keeps_its_depth(tmp_path: Path, array: NDArray) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(imagecodecs.png_encode(array))
    image = read(path)
    np.testing.assert_array_equal(image.array, array)
    assert image.array.dtype == array.dtype
    assert image.source.bits_stored == 8 * array.dtype.itemsize
    assert image.quantity == ("colour" if array.ndim == 3 else "arbitrary")
    assert image.geometry.kind == "none"
    assert image.source.warnings == ()


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("samples", [2, 4])
def test_png_transparency_is_dropped_and_said(tmp_path: Path, dtype: str, samples: int) -> None:
    array = RNG.integers(0, 256, (9, 14, samples)).astype(dtype) * (1 if dtype == "uint8" else 257)
    path = tmp_path / "a.png"
    path.write_bytes(imagecodecs.png_encode(array))
    expected = array[..., 0] if samples == 2 else array[..., :3]
    np.testing.assert_array_equal(read(path).array, expected)
    assert "dropped" in said(path)


def test_png_of_a_palette_becomes_colour(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Pillow.fromarray(RGB8).quantize(8).save(path)
    with Pillow.open(path) as picture:
        expected = np.asarray(picture.convert("RGB"))
    np.testing.assert_array_equal(read(path).array, expected)
    assert "palette" in said(path)


def test_png_of_bits_is_a_mask(tmp_path: Path) -> None:
    Pillow.fromarray(GREY8 > 100).save(tmp_path / "a.png")
    image = read(tmp_path / "a.png")
    assert image.quantity == "label"
    np.testing.assert_array_equal(image.array, GREY8 > 100)


def test_jpeg_of_8_bits_grey_and_colour(tmp_path: Path) -> None:
    for name, array in (("grey.jpg", GREY8), ("rgb.jpg", RGB8)):
        Pillow.fromarray(array).save(tmp_path / name, quality=95)
        image = read(tmp_path / name)
        with Pillow.open(tmp_path / name) as picture:
            np.testing.assert_array_equal(image.array, np.asarray(picture))
        assert image.source.format == "jpeg"


def test_jpeg_of_12_bits_keeps_them(tmp_path: Path) -> None:
    smooth = np.add.outer(np.arange(32), np.arange(48)).astype(np.uint16) * 50
    path = tmp_path / "a.jpg"
    path.write_bytes(imagecodecs.jpeg8_encode(smooth, level=100, bitspersample=12))
    image = read(path)
    assert image.array.dtype == np.uint16
    assert image.source.bits_stored == 12
    assert image.array.max() > 3000
    assert np.abs(image.array.astype(int) - smooth).max() < 20


@pytest.mark.parametrize("bits", [8, 16])
def test_lossless_jpeg_keeps_every_bit(tmp_path: Path, bits: int) -> None:
    array = GREY8 if bits == 8 else GREY16
    path = tmp_path / "a.jpg"
    path.write_bytes(imagecodecs.ljpeg_encode(array, bitspersample=bits))
    np.testing.assert_array_equal(read(path).array, array)


def test_printing_colours_are_converted_and_said(tmp_path: Path) -> None:
    Pillow.fromarray(RGB8).convert("CMYK").save(tmp_path / "a.jpg")
    assert read(tmp_path / "a.jpg").array.shape == (9, 14, 3)
    assert "CMYK" in said(tmp_path / "a.jpg")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
def test_exif_orientation_is_applied_as_pillow_does(tmp_path: Path, orientation: int, suffix: str) -> None:
    from PIL import ImageOps

    exif = Pillow.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a{suffix}"
    options = {"lossless": True} if suffix == ".webp" else {}
    Pillow.fromarray(RGB8).save(path, exif=exif, **options)
    with Pillow.open(path) as picture:
        expected = np.asarray(ImageOps.exif_transpose(picture))
    image = read(path)
    np.testing.assert_array_equal(image.array, expected)
    assert header(path).shape == expected.shape
    assert ("EXIF" in said(path)) == (orientation > 1)


def test_upright_is_undone_by_its_inverse() -> None:
    for there, back in ((2, 2), (3, 3), (4, 4), (5, 5), (6, 8), (7, 7), (8, 6)):
        np.testing.assert_array_equal(upright(upright(GREY8, there), back), GREY8)


def test_bmp_and_webp(tmp_path: Path) -> None:
    Pillow.fromarray(RGB8).save(tmp_path / "a.bmp")
    Pillow.fromarray(GREY8).save(tmp_path / "b.bmp")
    Pillow.fromarray(RGB8).save(tmp_path / "a.webp", lossless=True)
    np.testing.assert_array_equal(read(tmp_path / "a.bmp").array, RGB8)
    np.testing.assert_array_equal(read(tmp_path / "a.webp").array, RGB8)
    grey = read(tmp_path / "b.bmp").array
    np.testing.assert_array_equal(grey if grey.ndim == 2 else grey[..., 0], GREY8)


@pytest.mark.parametrize("suffix", [".png", ".webp"])
def test_an_animation_is_no_picture(tmp_path: Path, suffix: str) -> None:
    frames = [Pillow.fromarray(RGB8), Pillow.fromarray(255 - RGB8)]
    frames[0].save(tmp_path / f"a{suffix}", save_all=True, append_images=frames[1:])
    with pytest.raises(ReadError, match="animation"):
        read(tmp_path / f"a{suffix}")


# -- TIFF ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64"])
@pytest.mark.parametrize("compression", [None, "zlib", "lzw"])
def test_tiff_keeps_type_and_value(tmp_path: Path, dtype: str, compression: str | None) -> None:
    array = (GREY16.astype(np.float64) / 300 - 50).astype(dtype)
    tifffile.imwrite(tmp_path / "a.tif", array, compression=compression)
    image = read(tmp_path / "a.tif")
    assert image.array.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(image.array, array)


@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_tiff_colour_in_both_layouts(tmp_path: Path, planar: str) -> None:
    array = RGB16 if planar == "contig" else np.moveaxis(RGB16, -1, 0)
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="rgb", planarconfig=planar)
    np.testing.assert_array_equal(read(tmp_path / "a.tif").array, RGB16)


def test_tiff_of_12_bits_keeps_them(tmp_path: Path) -> None:
    """Two pixels in three bytes, written by hand (TIFF 6.0)."""
    values = np.array([[1, 4095], [2048, 77]], np.uint16)
    packed = b"".join(
        bytes([a >> 4, (a & 15) << 4 | b >> 8, b & 255]) for a, b in values.tolist()
    )  # fmt: skip
    tags = [(256, 3, 2), (257, 3, 2), (258, 3, 12), (259, 3, 1), (262, 3, 1), (273, 4, 8), (277, 3, 1), (278, 3, 2),
            (279, 4, 6)]  # fmt: skip
    ifd = struct.pack("<H", len(tags))
    for tag, kind, value in tags:
        ifd += struct.pack("<HHI", tag, kind, 1) + struct.pack("<I", value)
    (tmp_path / "a.tif").write_bytes(b"II*\0" + struct.pack("<I", 14) + packed + ifd + bytes(4))
    image = read(tmp_path / "a.tif")
    np.testing.assert_array_equal(image.array, values)
    assert image.source.bits_stored == 12


def test_tiff_palette_polarity_and_transparency(tmp_path: Path) -> None:
    palette = RNG.integers(0, 65536, (3, 256)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "p.tif", GREY8, photometric="palette", colormap=palette)
    np.testing.assert_array_equal(read(tmp_path / "p.tif").array, np.moveaxis(palette[:, GREY8], 0, -1))
    tifffile.imwrite(tmp_path / "w.tif", GREY8, photometric="miniswhite")
    np.testing.assert_array_equal(read(tmp_path / "w.tif").array, GREY8)
    assert "darker" in said(tmp_path / "w.tif")
    rgba = np.dstack([RGB8, GREY8])
    tifffile.imwrite(tmp_path / "t.tif", rgba, photometric="rgb", extrasamples=["unassalpha"])
    np.testing.assert_array_equal(read(tmp_path / "t.tif").array, RGB8)
    assert "dropped" in said(tmp_path / "t.tif")


def test_tiff_with_many_channels_keeps_them(tmp_path: Path) -> None:
    array = RNG.integers(0, 256, (9, 14, 5)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="minisblack", planarconfig="contig")
    image = read(tmp_path / "a.tif")
    np.testing.assert_array_equal(image.array, array)
    assert image.channels == tuple(f"channel_{i}" for i in range(5))


def test_tiff_with_several_pages_asks_for_one(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.stack([GREY8, 255 - GREY8]), photometric="minisblack", metadata=None)
    with pytest.raises(ReadError, match="several pages"):
        read(path)
    np.testing.assert_array_equal(read(f"{path}#1").array, 255 - GREY8)
    np.testing.assert_array_equal(read(path, member="0").array, GREY8)
    for bad in ("2", "-1", "x", "0/0"):
        with pytest.raises(ReadError, match="page"):
            read(path, member=bad)


def test_tiff_stacks_of_imagej_are_volumes_and_pyramids_are_not(tmp_path: Path) -> None:
    stack = np.stack([GREY16, GREY16 // 2, GREY16 // 4])
    tifffile.imwrite(tmp_path / "a.tif", stack, imagej=True, metadata={"axes": "ZYX"})
    np.testing.assert_array_equal(read(tmp_path / "a.tif").array, np.moveaxis(stack, 0, -1))
    with tifffile.TiffWriter(tmp_path / "b.tif") as file:
        for size in (64, 32):
            file.write(np.zeros((size, size), np.uint8), tile=(16, 16), metadata=None)
    with pytest.raises(ReadError, match="pyramid"):
        read(tmp_path / "b.tif")


# -- sizes beyond reason ---------------------------------------------------------------------------------------------


def png_declaring(width: int, height: int, bits: int = 8) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


@pytest.mark.parametrize("bits", [8, 16])
def test_a_png_bomb_is_refused_before_it_unpacks(tmp_path: Path, bits: int) -> None:
    (tmp_path / "a.png").write_bytes(png_declaring(2_000_000, 2_000_000, bits))
    with pytest.raises(LimitError, match="declares more"):
        read(tmp_path / "a.png")


def test_the_limit_is_the_callers(tmp_path: Path) -> None:
    Pillow.fromarray(GREY8).save(tmp_path / "a.png")
    with pytest.raises(LimitError, match="more data than may be allocated"):
        read(tmp_path / "a.png", limit_bytes=100)
    with pytest.raises(LimitError):
        info(tmp_path / "a.png", limit_bytes=100)
    assert header(tmp_path / "a.png").shape == (9, 14)


def test_a_tiff_that_declares_terabytes_is_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", GREY8, compression="zlib")
    data = bytearray((tmp_path / "a.tif").read_bytes())
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        tags = file.pages[0].tags
        offsets = [tags[name].valueoffset for name in ("ImageWidth", "ImageLength", "RowsPerStrip")]
    for offset in offsets:
        data[offset : offset + 2] = b"\xff\xff"
    (tmp_path / "b.tif").write_bytes(data)
    with pytest.raises(LimitError):
        read(tmp_path / "b.tif", limit_bytes=2**30)


def test_real_photographs(shared_data: Path) -> None:
    fundus = read(shared_data / "chase_db1" / "Image_01L.jpg")
    assert fundus.array.shape == (960, 999, 3)
    assert fundus.channels == ("red", "green", "blue")
    vessels = read(shared_data / "chase_db1" / "Image_01L_1stHO.png")
    assert vessels.quantity == "label"
    assert vessels.array.dtype == np.bool_
    assert 0.02 < vessels.array.mean() < 0.2
