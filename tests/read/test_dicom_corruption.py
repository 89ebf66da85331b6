"""Hostile and damaged DICOM files: a right image or one clear error, within limits of time and memory."""

from __future__ import annotations

import importlib.util
import resource
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from medmap.errors import LimitError, ReadError
from medmap.read import read
from medmap.read.dicom.planes import stored_frames

_spec = importlib.util.spec_from_file_location("fuzz_dicom", Path(__file__).parents[1] / "fuzz" / "fuzz_dicom.py")
fuzz_dicom = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(fuzz_dicom)

STORED = np.arange(12 * 16, dtype=np.uint16).reshape(12, 16) * 20
JPEG = "1.2.840.10008.1.2.4."


def made(syntax: str = ExplicitVRLittleEndian, pixels: bytes | None = None, **changes: object) -> Dataset:
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = syntax
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = CTImageStorage
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = "1.2.3.4"
    data.Modality, data.Rows, data.Columns, data.SamplesPerPixel = "CT", 12, 16, 1
    data.PhotometricInterpretation = "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 12, 11, 0
    data.RescaleSlope, data.RescaleIntercept = "1", "-1024"
    data.ImageOrientationPatient, data.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [1, 2, 3]
    data.PixelSpacing = [0.7, 1.3]
    data.PixelData = STORED.tobytes() if pixels is None else pixels
    if pixels is not None:
        data["PixelData"].is_undefined_length = True
    for name, value in changes.items():
        setattr(data, name, value)
    return data


def saved(folder: Path, data: Dataset) -> Path:
    data.save_as(folder / "a.dcm", enforce_file_format=True)
    return folder / "a.dcm"


def compressed() -> dict[str, bytes]:
    return {
        JPEG + "70": imagecodecs.ljpeg_encode(STORED, bitspersample=12),
        JPEG + "80": imagecodecs.jpegls_encode(STORED),
        JPEG + "90": imagecodecs.jpeg2k_encode(STORED, codecformat="j2k", bitspersample=12, reversible=True, level=0),
        JPEG + "201": imagecodecs.htj2k_encode(STORED, reversible=True),
    }


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    folder = tmp_path_factory.mktemp("seeds")
    files = [saved(folder, made()).read_bytes(), saved(folder, made("1.2.840.10008.1.2.1.99")).read_bytes()]
    for syntax, stream in compressed().items():
        files.append(saved(folder, made(syntax, encapsulate([stream]))).read_bytes())
    item = Dataset()
    item.ReferencedSOPInstanceUID = "1.2.3"
    nested = made(ReferencedImageSequence=Sequence([item, item]))
    nested["ReferencedImageSequence"].is_undefined_length = True
    files.append(saved(folder, nested).read_bytes())
    return files


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scratch") / "x.dcm"


def test_every_truncation_is_a_sentence(seeds: list[bytes], tmp_path: Path) -> None:
    path = tmp_path / "a.dcm"
    for data in seeds:
        path.write_bytes(data)
        np.testing.assert_array_equal(read(path).array, STORED.astype(int) - 1024)
        trailer = 8 if data[-8:-4] == b"\xfe\xff\xdd\xe0" else 0  # without its delimiter a file is still whole
        for length in range(0, len(data) - trailer - 2, 11):
            path.write_bytes(data[:length])
            with pytest.raises((ReadError, LimitError)):
                read(path)


@given(st.data())
def test_flipped_bytes_give_an_image_or_a_sentence(seeds: list[bytes], scratch: Path, data: st.DataObject) -> None:
    content = bytearray(data.draw(st.sampled_from(seeds)))
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    fuzz_dicom.one_input(bytes(content), scratch)


def element(group: int, number: int, kind: bytes, length: int, value: bytes = b"") -> bytes:
    head = struct.pack("<HH2s", group, number, kind)
    long = kind in (b"OB", b"OW", b"SQ", b"UN")
    return head + (struct.pack("<HI", 0, length) if long else struct.pack("<H", length)) + value


def headed(body: bytes, syntax: bytes = b"1.2.840.10008.1.2.1\0") -> bytes:
    return bytes(128) + b"DICM" + element(2, 0x10, b"UI", len(syntax), syntax) + body


NEST = element(0x40, 0xA730, b"SQ", 0xFFFFFFFF) + b"\xfe\xff\x00\xe0\xff\xff\xff\xff"


def deflated(content: bytes) -> bytes:
    pack = zlib.compressobj(9, zlib.DEFLATED, -15)
    return headed(pack.compress(content) + pack.flush(), b"1.2.840.10008.1.2.1.99")


HOSTILE = {
    "nested 5,000 deep": headed(NEST * 5000 + b"\xfe\xff\x0d\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0" * 5000),
    "nested without an end": headed(NEST * 20),
    "an endless sequence": headed(element(0x40, 0xA730, b"SQ", 0xFFFFFFFF) + b"\xfe\xff\x00\xe0\0\0\0\0" * 400_000),
    "a length of 4 GB": headed(element(0x09, 0x1010, b"OB", 0xFFFFFFFE)),
    "pixels of 4 GB": headed(element(0x7FE0, 0x10, b"OW", 0xFFFFFFFE)),
    "a million elements": headed(element(0x09, 0x1010, b"LO", 0) * 1_000_000),
    "a deflate bomb": deflated(element(0x09, 0x1010, b"OB", 2**29) + bytes(2**29)),
    "only a preamble": bytes(128) + b"DICM",
    "no pixels in the fragments": headed(element(0x7FE0, 0x10, b"OB", 0xFFFFFFFF) + b"\xfe\xff\xdd\xe0\0\0\0\0",
                                         (JPEG + "90").encode()),
}  # fmt: skip

HARNESS = """
import resource, sys, time
import pydicom, imagecodecs
from medmap.errors import MedmapError
from medmap.read import read
start, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    read(sys.argv[1])
    said = "image"
except MedmapError as error:
    said = f"{type(error).__name__}: {error}"
print(time.process_time() - start, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024, said)
"""


def measured(path: Path) -> tuple[float, float, str]:
    """(processor seconds, MiB beyond the start, what was said) of a read in a process of its own, memory limited."""
    limit = lambda: resource.setrlimit(resource.RLIMIT_AS, (6 * 2**30, 6 * 2**30))  # noqa: E731
    command = [sys.executable, "-c", HARNESS, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, preexec_fn=limit)
    assert done.returncode == 0, done.stderr[-400:]
    seconds, mebibytes, said = done.stdout.strip().split(" ", 2)
    return float(seconds), float(mebibytes), said


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_structures_are_refused_within_limits(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.dcm").write_bytes(HOSTILE[name])
    seconds, mebibytes, said = measured(tmp_path / "a.dcm")
    assert "Error: " in said
    assert seconds < 2
    assert mebibytes < 512


@pytest.mark.parametrize("syntax", compressed())
def test_a_small_file_that_claims_a_huge_picture_is_refused(tmp_path: Path, syntax: str) -> None:
    data = made(syntax, encapsulate([compressed()[syntax]]), Rows=65535, Columns=65535)
    seconds, mebibytes, said = measured(saved(tmp_path, data))
    assert "Error: " in said
    assert (seconds < 2, mebibytes < 512) == (True, True)


@pytest.mark.parametrize("slope", ["NaN", "1e400", "-inf", "0", "x"])
def test_an_unusable_slope_is_left_out_and_said(tmp_path: Path, slope: str) -> None:
    path = saved(tmp_path, made(RescaleSlope="77"))
    path.write_bytes(path.read_bytes().replace(b"DS\x02\x0077", b"DS" + struct.pack("<H", 6) + slope.ljust(6).encode()))
    image = read(path)
    np.testing.assert_array_equal(image.array, STORED)
    assert any("unusable" in note for note in image.source.warnings)
    assert image.quantity == "arbitrary"


@pytest.mark.parametrize("spacing", [["NaN", "1"], ["0", "0.5"], ["-1", "1"], ["1e400", "1"]])
def test_an_impossible_spacing_gives_no_millimetres(tmp_path: Path, spacing: list[str]) -> None:
    path = saved(tmp_path, made(PixelSpacing=["7777777", "1"]))
    path.write_bytes(path.read_bytes().replace(b"7777777\\1", "\\".join(spacing).ljust(9).encode()))
    image = read(path)
    np.testing.assert_array_equal(image.array, STORED.astype(int) - 1024)
    assert image.geometry.kind == "none"
    assert any("spacing" in note for note in image.source.warnings)


def test_a_degenerate_orientation_gives_no_place(tmp_path: Path) -> None:
    image = read(saved(tmp_path, made(ImageOrientationPatient=[0, 0, 0, 0, 0, 0])))
    assert image.geometry.kind != "patient"
    assert any("orientation" in note for note in image.source.warnings)


def test_fewer_fragments_than_frames_are_refused(tmp_path: Path) -> None:
    stream = compressed()[JPEG + "90"]
    with pytest.raises(ReadError, match="fewer frames"):
        read(saved(tmp_path, made(JPEG + "90", encapsulate([stream, stream]), NumberOfFrames=7)), member="0")


def test_a_frame_in_several_fragments_is_put_together(tmp_path: Path) -> None:
    stream = compressed()[JPEG + "90"]
    content = encapsulate([stream, stream], fragments_per_frame=3, has_bot=False)
    path = saved(tmp_path, made(JPEG + "90", content, NumberOfFrames=2))
    np.testing.assert_array_equal(read(path, member="1").array, STORED.astype(int) - 1024)


def test_an_element_of_a_wrong_length_is_a_sentence_wherever_it_is_asked_for(tmp_path: Path) -> None:
    path = saved(tmp_path, made())
    sound = b"\x28\0\x02\0US\x02\0\x01\0"
    assert sound in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(sound, b"\x28\0\x02\0US\x03\0\x01\0\0"))
    with pytest.raises(ReadError, match="damaged DICOM"):
        read(path)
    with pytest.raises(ReadError, match="damaged DICOM"):
        list(stored_frames(path, 1, [0]))


def test_frames_are_checked_before_they_are_decoded_for_derived_objects_too(tmp_path: Path) -> None:
    syntax = JPEG + "80"
    path = saved(tmp_path, made(syntax, encapsulate([compressed()[syntax]]), Rows=4000, Columns=4000))
    with pytest.raises(ReadError, match="another size than the header declares"):
        list(stored_frames(path, 1, [0]))


def test_no_number_of_frames_is_as_many_as_the_pixels_hold(tmp_path: Path) -> None:
    for frames, said in ((1, "one frame"), (3, "3 taken")):
        data = made(NumberOfFrames=77, PixelData=STORED.tobytes() * frames)
        path = saved(tmp_path, data)
        path.write_bytes(path.read_bytes().replace(b"IS\x02\x0077", b"IS\x02\x001A"))
        image = read(path)
        assert image.array.shape == ((12, 16) if frames == 1 else (12, 16, 3))
        assert any(said in note for note in image.source.warnings)


@pytest.mark.parametrize("syntax", [JPEG + "80", JPEG + "90"])
def test_a_codestream_deeper_than_bits_stored_never_wraps(tmp_path: Path, syntax: str) -> None:
    deep = STORED.astype(np.uint16)
    stream = {
        JPEG + "80": imagecodecs.jpegls_encode,
        JPEG + "90": lambda a: imagecodecs.jpeg2k_encode(a, codecformat="j2k", bitspersample=16, reversible=True,
                                                         level=0),
    }[syntax]  # fmt: skip
    path = saved(tmp_path, made(syntax, encapsulate([stream(deep)])))  # 16 bits, but no value needs more than 12
    np.testing.assert_array_equal(read(path).array, STORED.astype(int) - 1024)
    deep = deep.copy()
    deep[3, 4] = 40_000
    with pytest.raises(ReadError, match="more bits"):
        read(saved(tmp_path, made(syntax, encapsulate([stream(deep)]))))


@pytest.mark.parametrize("syntax", [JPEG + "80"])
def test_signed_values_in_a_deeper_codestream(tmp_path: Path, syntax: str) -> None:
    signed = STORED.astype(np.int16) - 2000
    path = saved(tmp_path, made(syntax, encapsulate([imagecodecs.jpegls_encode(signed.view(np.uint16))]),
                                PixelRepresentation=1))  # fmt: skip
    np.testing.assert_array_equal(read(path).array, signed.astype(int) - 1024)
    signed[0, 0] = -3000
    with pytest.raises(ReadError, match="more bits"):
        read(saved(tmp_path, made(syntax, encapsulate([imagecodecs.jpegls_encode(signed.view(np.uint16))]),
                                  PixelRepresentation=1)))  # fmt: skip


def test_seeded_mutations_never_escape(seeds: list[bytes], scratch: Path) -> None:
    rng = np.random.default_rng(3)
    start, images = time.perf_counter(), 0
    for _ in range(300):
        content = bytearray(seeds[rng.integers(len(seeds))])
        at, width = int(rng.integers(len(content))), int(rng.integers(1, 9))
        content[at : at + width] = rng.bytes(int(rng.integers(0, 9)))
        images += fuzz_dicom.one_input(bytes(content), scratch)
    assert images > 0
    assert time.perf_counter() - start < 60
