"""Frames in every transfer syntax, against the values that went in; codestreams that contradict their header."""

from __future__ import annotations

import struct
import tracemalloc
from dataclasses import replace

import imagecodecs
import numpy as np
import pytest
import rle

from medmap.errors import LimitError, ReadError
from medmap.read.dicom.codecs import EXPLICIT_BIG, PixelSpec, decode_frame
from medmap.read.dicom.codestream import codestream_of

RNG = np.random.default_rng(7)
GREY = RNG.integers(0, 4096, (24, 40)).astype(np.uint16)
COLOUR = RNG.integers(0, 256, (24, 40, 3)).astype(np.uint8)
JPEG = "1.2.840.10008.1.2.4."
SPEC = PixelSpec(24, 40, bits_stored=12)
RGB = PixelSpec(24, 40, 3, 8, 8, photometric="RGB")

STREAMS = {
    "5": (rle.rle.encode_frame(GREY.tobytes(), 24, 40, 1, 16, "<"), "1.2.840.10008.1.2.5"),
    "70": (imagecodecs.ljpeg_encode(GREY, bitspersample=12), JPEG + "70"),
    "80": (imagecodecs.jpegls_encode(GREY), JPEG + "80"),
    "90": (imagecodecs.jpeg2k_encode(GREY, codecformat="j2k", bitspersample=12, reversible=True, level=0), JPEG + "90"),
    "201": (imagecodecs.htj2k_encode(GREY, reversible=True), JPEG + "201"),
}


@pytest.mark.parametrize("name", STREAMS)
def test_lossless_frames_come_back(name: str) -> None:
    stream, syntax = STREAMS[name]
    found = decode_frame(stream, replace(SPEC, transfer_syntax=syntax))
    np.testing.assert_array_equal(found, GREY)
    assert found.dtype == np.uint16


@pytest.mark.parametrize("name", STREAMS)
def test_signed_values_are_twos_complement_in_any_codec(name: str) -> None:
    stream, syntax = STREAMS[name]
    found = decode_frame(stream, replace(SPEC, transfer_syntax=syntax, signed=True))
    np.testing.assert_array_equal(found, (GREY.astype(np.int16) << 4) >> 4)


@pytest.mark.parametrize(
    ("stream", "syntax"),
    [
        (imagecodecs.jpegls_encode(COLOUR), "80"),
        (imagecodecs.jpeg2k_encode(COLOUR, codecformat="j2k", reversible=True, level=0), "90"),
        (imagecodecs.htj2k_encode(COLOUR, reversible=True), "201"),
        (imagecodecs.jpeg8_encode(COLOUR, lossless=True), "70"),
    ],
)
def test_lossless_colours_come_back(stream: bytes, syntax: str) -> None:
    np.testing.assert_array_equal(decode_frame(stream, replace(RGB, transfer_syntax=JPEG + syntax)), COLOUR)


@pytest.mark.parametrize("name", list(STREAMS))
def test_a_truncated_frame_is_refused(name: str) -> None:
    stream, syntax = STREAMS[name]
    for length in range(0, len(stream) - 2, 37):
        with pytest.raises((ReadError, LimitError)):
            decode_frame(stream[:length], replace(SPEC, transfer_syntax=syntax))


@pytest.mark.parametrize(
    "change", [{"rows": 25}, {"columns": 39}, {"samples": 3}, {"bits_allocated": 8, "bits_stored": 8}]
)
@pytest.mark.parametrize("name", [n for n in STREAMS if n != "5"])
def test_a_stream_that_contradicts_the_header_is_refused(name: str, change: dict[str, int]) -> None:
    stream, syntax = STREAMS[name]
    with pytest.raises(ReadError, match="than the header"):
        decode_frame(stream, replace(SPEC, transfer_syntax=syntax, **change))


def test_a_small_jpeg_ls_that_claims_a_huge_picture_is_refused() -> None:
    stream = bytearray(STREAMS["80"][0])
    at = stream.find(b"\xff\xf7")
    stream[at + 5 : at + 9] = struct.pack(">HH", 65535, 65535)
    spec = replace(SPEC, transfer_syntax=JPEG + "80")
    with pytest.raises(ReadError, match="another size"):
        decode_frame(bytes(stream), spec)
    with pytest.raises(LimitError, match="far more pixels"):  # also where the header agrees with it
        decode_frame(bytes(stream), replace(spec, rows=65535, columns=65535))


def test_tiles_and_scans_beyond_need_are_refused() -> None:
    stream = bytearray(STREAMS["90"][0])
    stream[24:32] = struct.pack(">II", 1, 1)
    with pytest.raises(LimitError, match="tiles"):
        codestream_of(bytes(stream))
    jpeg = imagecodecs.jpeg8_encode(COLOUR)
    with pytest.raises(LimitError, match="scans"):
        codestream_of(jpeg + b"\xff\xda" * 100 + b"\xff\xd9")


def test_unknown_syntaxes_and_video_are_named() -> None:
    with pytest.raises(ReadError, match="video"):
        decode_frame(b"", replace(SPEC, transfer_syntax=JPEG + "102"))
    with pytest.raises(ReadError, match="not read"):
        decode_frame(b"", replace(SPEC, transfer_syntax="1.2.3"))


def test_bits_beyond_the_stored_ones_are_cut_off() -> None:
    high = (GREY << 4) | 5
    np.testing.assert_array_equal(decode_frame(high.tobytes(), replace(SPEC, high_bit=15)), GREY)
    np.testing.assert_array_equal(decode_frame((GREY | 0xF000).tobytes(), SPEC), GREY)
    signed = replace(SPEC, signed=True)
    np.testing.assert_array_equal(decode_frame(GREY.tobytes(), signed), (GREY.astype(np.int16) << 4) >> 4)


@pytest.mark.parametrize("kind", ["u1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_uncompressed_values_of_every_width(kind: str, order: str) -> None:
    values = RNG.integers(0, 100, (5, 7)).astype(kind)
    bits = values.itemsize * 8
    spec = PixelSpec(5, 7, 1, bits, bits, signed=kind[0] == "i", floating=kind[0] == "f", words=False)
    spec = replace(spec, transfer_syntax=EXPLICIT_BIG) if order == ">" else spec
    found = decode_frame(values.astype(order + kind).tobytes(), spec)
    np.testing.assert_array_equal(found, values)
    assert found.dtype == np.dtype(kind)
    with pytest.raises(ReadError, match="truncated"):
        decode_frame(values.tobytes()[:-1], spec)


def test_single_bits_and_bits_that_belong_to_the_frame_before() -> None:
    values = RNG.integers(0, 2, (5, 7)).astype(np.uint8)
    packed = np.packbits(np.concatenate([[1, 0, 1], values.reshape(-1)]), bitorder="little").tobytes()
    np.testing.assert_array_equal(decode_frame(packed, PixelSpec(5, 7, 1, 1, 1), 3), values)


def test_chrominance_of_every_second_pixel() -> None:
    packed = np.array([[[76, 150, 85, 255]]], np.uint8)
    spec = PixelSpec(1, 2, 3, 8, 8, photometric="YBR_FULL_422")
    assert decode_frame(packed.tobytes(), spec).tolist() == [[[254, 0, 0], [255, 74, 74]]]


def test_partial_range_colours() -> None:
    white_and_black = np.array([[[235, 128, 128], [16, 128, 128]]], np.uint8)
    spec = PixelSpec(1, 2, 3, 8, 8, photometric="YBR_PARTIAL_422")
    found = decode_frame(np.array([235, 16, 128, 128], np.uint8).tobytes(), spec)
    assert np.abs(found.astype(int) - [[[255] * 3, [0] * 3]]).max() <= 1
    assert white_and_black.shape == found.shape


def test_a_deeper_codestream_takes_no_more_memory_than_its_frame() -> None:
    values = RNG.integers(0, 4096, (512, 512)).astype(np.uint16)
    stream = imagecodecs.jpegls_encode(values)  # declares 16 bits, though no value needs more than 12
    assert codestream_of(stream).bits == 16
    spec = PixelSpec(512, 512, bits_stored=12, transfer_syntax=JPEG + "80")
    tracemalloc.start()
    try:
        np.testing.assert_array_equal(decode_frame(stream, spec), values)
        tracemalloc.reset_peak()
        decode_frame(stream, spec)
        assert tracemalloc.get_traced_memory()[1] < 3 * values.nbytes
    finally:
        tracemalloc.stop()
