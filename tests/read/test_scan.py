"""The fast scan says what pydicom says, of every file; and refuses what is none."""

from __future__ import annotations

import contextlib
import struct
import zlib
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.filewriter import dcmwrite
from pydicom.sequence import Sequence

import dicom_series as made
from medmap.errors import LimitError, MedmapError, ReadError
from medmap.read.dicom import scan as scanning
from medmap.read.dicom.attributes import ATTRIBUTES
from medmap.read.dicom.behind import _value
from medmap.read.dicom.mosaic import csa_values
from medmap.read.dicom.scan import scan, scan_bytes
from medmap.read.dicom.studies import studies
from medmap.read.opened import heard


def one_file(tmp_path: Path, **attributes: object) -> Path:
    image = made.phantom()
    ds = made.header(image.geometry, 3, **attributes)
    return made.save(ds, image.array[:, :, 3].astype(np.uint16), tmp_path / "a.dcm")


def as_pydicom_says(path: Path) -> dict[str, object]:
    with heard([], "pydicom"):
        header = pydicom.dcmread(path, stop_before_pixels=True, force=True)
        return {name: value for name in ATTRIBUTES if (value := _value(header, name)) is not None}


def of(data: bytes) -> scanning.Scanned:
    return scan_bytes(lambda at, count: data[at : at + count], "x")


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2",
                                    "1.2.840.10008.1.2.1.99"])  # fmt: skip
def test_each_encoding_says_the_same(tmp_path: Path, syntax: str) -> None:
    path = one_file(tmp_path)
    ds = pydicom.dcmread(path)
    nested = Dataset()
    nested.SeriesInstanceUID = "9.9.9"  # must not be taken for the object's own
    ds.ReferencedSeriesSequence = Sequence([nested])
    ds["ReferencedSeriesSequence"].is_undefined_length = True
    ds.file_meta.TransferSyntaxUID = syntax
    other = tmp_path / "b.dcm"
    implicit, little = syntax == "1.2.840.10008.1.2", syntax != "1.2.840.10008.1.2.2"
    dcmwrite(other, ds, implicit_vr=implicit, little_endian=little, force_encoding=True)
    found = scan(other)
    assert found.own
    assert found.transfer_syntax == syntax
    assert dict(found.values) == as_pydicom_says(other)
    assert found.values["SeriesInstanceUID"] == "2.25.2"
    if not syntax.endswith("99"):
        assert found.pixels is not None
        assert other.read_bytes()[found.pixels.offset :][: found.pixels.length] == ds.PixelData


def test_every_shared_file_says_what_pydicom_says(shared_data: Path) -> None:
    own = 0
    for path in sorted((shared_data / "dicom").rglob("*")):
        if not path.is_file():
            continue
        try:
            found = scan(path)
        except MedmapError:
            continue
        says = as_pydicom_says(path)
        ours = {k: v for k, v in found.values.items() if k in ATTRIBUTES}
        for name in ("PixelPaddingValue", "PixelPaddingRangeLimit"):  # implicit files leave the sign open
            assert ours.pop(name, None) == says.pop(name, None), path
        says.pop("SOPClassUID", None)
        ours.pop("SOPClassUID", None)
        assert ours == says, path
        own += found.own
    assert own > 300


def test_foreign_letters_are_decoded(tmp_path: Path) -> None:
    path = one_file(tmp_path, SpecificCharacterSet="ISO_IR 192", SeriesDescription="Schädel µ")
    assert scan(path).values["SeriesDescription"] == "Schädel µ"


@given(st.integers(min_value=1, max_value=2000))
def test_a_truncated_header_is_a_sentence_or_a_part(cut: int) -> None:
    data = _sample()
    with contextlib.suppress(MedmapError):
        assert of(data[: min(cut, len(data) - 1)]).values


@given(st.integers(min_value=132, max_value=1200), st.integers(min_value=0, max_value=255))
def test_a_flipped_byte_is_never_a_crash(at: int, value: int) -> None:
    data = bytearray(_sample())
    data[min(at, len(data) - 1)] = value
    with contextlib.suppress(MedmapError):  # nothing else may come out
        of(bytes(data))


def _sample(kept: list[bytes] = []) -> bytes:  # noqa: B006  (made once)
    if not kept:
        import io

        image = made.phantom()
        ds = made.header(image.geometry, 0)
        ds.PixelData = image.array[:, :, 0].astype(np.uint16).tobytes()
        ds["PixelData"].VR = "OW"
        ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = made.CT, "2.25.1"
        buffer = io.BytesIO()
        ds.save_as(buffer, enforce_file_format=True)
        kept.append(buffer.getvalue())
    return kept[0]


def prefix(syntax: bytes = b"1.2.840.10008.1.2.1\0") -> bytes:
    return bytes(128) + b"DICM" + b"\x02\x00\x10\x00UI" + struct.pack("<H", len(syntax)) + syntax


def test_sequences_nested_without_end_are_refused() -> None:
    nested = (b"\x08\x00\x15\x11SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\xff\xff\xff\xff") * 5000
    with pytest.raises(ReadError, match="nests sequences deeper"):
        of(prefix() + nested)


def test_what_is_left_to_pydicom_is_walked_within_limits_first() -> None:
    nested = (b"\x08\x00\x15\x11SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\xff\xff\xff\xff") * 5000
    without_preamble = b"\x08\x00\x05\x00CS\x0a\x00ISO_IR 100"
    with pytest.raises(LimitError, match="nested deeper"):
        of(without_preamble + nested)
    with pytest.raises(ReadError, match="more bytes than there are"):
        of(without_preamble + b"\x09\x00\x10\x10OB\0\0\xfe\xff\xff\xff")
    found = of(without_preamble + b"\x08\x00\x60\x00CS\x02\x00CT")
    assert (found.own, found.values["Modality"]) == (False, "CT")


def test_an_unterminated_sequence_is_refused() -> None:
    with pytest.raises(ReadError, match="ends inside a sequence"):
        of(prefix() + b"\x08\x00\x15\x11SQ\0\0\xff\xff\xff\xff")


def test_too_many_elements_are_refused() -> None:
    with pytest.raises(ReadError, match="more elements than any header"):
        of(prefix() + b"\x08\x00\x08\x01LO\x00\x00" * 250_000)


def test_a_deflated_header_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scanning, "DEFAULT_LIMIT_BYTES", 2**26)
    pack = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    bomb = pack.compress(b"\x09\x00\x01\x10OB\0\0" + struct.pack("<I", 2**24) + bytes(2**24)) + pack.flush()
    with pytest.raises(LimitError, match="unpacks to a header beyond reason"):
        of(prefix(b"1.2.840.10008.1.2.1.99\0") + bomb)


def test_a_value_beyond_the_end_is_refused() -> None:
    with pytest.raises(ReadError, match="truncated in its header"):
        of(prefix() + b"\x08\x00\x60\x00CS\x40\x00CT" + bytes(4))


def test_what_is_no_dicom_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("hello " * 100)
    with pytest.raises(ReadError, match="is no DICOM file"):
        scan(tmp_path / "a.txt")


def test_a_damaged_private_header_of_siemens_says_nothing() -> None:
    assert csa_values(b"") == {}
    assert csa_values(b"SV10" + bytes(4) + struct.pack("<II", 5, 77) + b"x" * 50) == {}


@pytest.mark.parametrize(
    "syntax", ["1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.201"]
)
def test_compressed_slices_give_the_same_volume(tmp_path: Path, syntax: str) -> None:
    import imagecodecs
    from pydicom.encaps import encapsulate
    from pydicom.pixels.encoders import RLELosslessEncoder

    image = made.phantom()
    whole = np.kron(image.array + 1024, np.ones((4, 4, 1), int)).astype(np.uint16)  # codecs want a few pixels
    for n in range(11):
        ds = made.header(image.geometry, n, Rows=whole.shape[0], Columns=whole.shape[1])
        plane = np.ascontiguousarray(whole[:, :, n])
        ds.file_meta.TransferSyntaxUID = syntax
        if syntax.endswith("2.5"):
            stream = RLELosslessEncoder.encode(
                plane, rows=20, columns=28, samples_per_pixel=1, bits_allocated=16, bits_stored=12, number_of_frames=1,
                pixel_representation=0, photometric_interpretation="MONOCHROME2",
            )  # fmt: skip
        elif syntax.endswith("80"):
            stream = imagecodecs.jpegls_encode(plane)
        elif syntax.endswith("90"):
            stream = imagecodecs.jpeg2k_encode(plane, codecformat="j2k", reversible=True)
        else:
            stream = imagecodecs.htj2k_encode(plane, reversible=True)
        ds.PixelData = encapsulate([bytes(stream)])
        ds["PixelData"].VR = "OB"
        ds.save_as(tmp_path / f"{n}.dcm", enforce_file_format=True)
    image = next(studies(tmp_path)).series[0].read()
    assert np.array_equal(image.array, whole.astype(np.int16) - 1024)
