"""Whatever a file holds, reading gives the right image or one medmap error: never another exception."""

from __future__ import annotations

import gzip
import os
import warnings
from pathlib import Path

import imagecodecs
import nibabel
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import tifffile
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage

import medmap as mm
from medmap.errors import MedmapError, ReadError
from medmap.image import Image
from medmap.read import FORMATS, SUFFIXES, header, info, read, recognise, suffix_of

GREY = np.random.default_rng(11).integers(0, 256, (13, 17)).astype(np.uint8)
VOLUME = np.random.default_rng(12).integers(-500, 500, (5, 7, 6)).astype(np.int16)


def dicom(path: Path) -> None:
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    data.Modality, data.Rows, data.Columns, data.SamplesPerPixel = "OT", 13, 17, 1
    data.PhotometricInterpretation, data.PixelRepresentation = "MONOCHROME2", 0
    data.BitsAllocated, data.BitsStored, data.HighBit = 8, 8, 7
    data.PixelData = GREY.tobytes() + b"\0"
    data.save_as(path, enforce_file_format=True)


MAKERS = {
    "a.png": lambda p: Pillow.fromarray(GREY).save(p),
    "b.png": lambda p: p.write_bytes(imagecodecs.png_encode(np.dstack([GREY] * 3).astype(np.uint16) * 257)),
    "a.jpg": lambda p: Pillow.fromarray(GREY).save(p),
    "b.jpg": lambda p: p.write_bytes(imagecodecs.jpeg8_encode(GREY.astype(np.uint16) * 16, bitspersample=12)),
    "a.bmp": lambda p: Pillow.fromarray(GREY).save(p),
    "a.webp": lambda p: Pillow.fromarray(GREY).save(p, lossless=True),
    "a.tif": lambda p: tifffile.imwrite(p, GREY),
    "b.tif": lambda p: tifffile.imwrite(p, GREY, compression="zlib"),
    "a.nii": lambda p: nibabel.save(nibabel.Nifti1Image(VOLUME, np.eye(4)), p),
    "a.nii.gz": lambda p: nibabel.save(nibabel.Nifti1Image(VOLUME, np.eye(4)), p),
    "a.nrrd": lambda p: sitk.WriteImage(sitk.GetImageFromArray(VOLUME), str(p), False),
    "b.nrrd": lambda p: sitk.WriteImage(sitk.GetImageFromArray(VOLUME), str(p), True),
    "a.mha": lambda p: sitk.WriteImage(sitk.GetImageFromArray(VOLUME), str(p), False),
    "b.mha": lambda p: sitk.WriteImage(sitk.GetImageFromArray(VOLUME), str(p), True),
    "a.npy": lambda p: np.save(p, VOLUME),
    "a.npz": lambda p: np.savez(p, only=VOLUME),
    "b.npz": lambda p: np.savez_compressed(p, only=VOLUME),
    "a.dcm": dicom,
}


class Sound(dict[str, bytes]):
    """The bytes of a sound file of each format, without a page of them in a failure's report."""

    def __repr__(self) -> str:
        return "sound"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Sound:
    folder = tmp_path_factory.mktemp("sound")
    made = Sound()
    for name, make in MAKERS.items():
        make(folder / name)
        made[name] = (folder / name).read_bytes()
        assert read(folder / name).array.size in (GREY.size, 3 * GREY.size, VOLUME.size)
    return made


def attempt(path: Path) -> Image | None:
    """The image, or None for a refusal in one or two sentences."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            image = read(path, limit_bytes=2**26)
    except MedmapError as error:
        text = str(error)
        assert text.endswith(".")
        assert "\n" not in text
        assert len(text) < 1000
        return None
    assert image.array.shape[: image.ndim] == image.geometry.shape
    return image


def test_every_format_is_covered() -> None:
    made = {suffix_of(name) for name in MAKERS}
    assert all(made & set(row.suffixes) for row in FORMATS)


@pytest.mark.parametrize("name", MAKERS)
def test_every_truncation_is_refused(tmp_path: Path, sound: Sound, name: str) -> None:
    data = sound[name]
    path = tmp_path / name
    step = max(1, len(data) // 40)
    for length in [*range(0, len(data) - 12, step), len(data) // 2, len(data) - 12]:
        path.write_bytes(data[:length])
        assert attempt(path) is None, f"{length} of {len(data)} bytes were taken for a whole file"


@pytest.mark.parametrize("name", MAKERS)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1, max_size=4))
@example(flips=[(0.0, 255)])
def test_flipped_bytes(tmp_path: Path, sound: Sound, name: str, flips: list[tuple[float, int]]) -> None:
    data = bytearray(sound[name])
    for place, mask in flips:
        data[int(place * len(data))] ^= mask
    (tmp_path / name).write_bytes(data)
    attempt(tmp_path / name)


@pytest.mark.parametrize("name", MAKERS)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(places=st.lists(st.integers(0, 400), min_size=1, max_size=3), values=st.lists(st.integers(0, 255), min_size=3))
def test_flipped_header_bytes(tmp_path: Path, sound: Sound, name: str, places: list[int], values: list[int]) -> None:
    data = bytearray(sound[name])
    for place, value in zip(places, values, strict=False):
        data[place % len(data)] = value
    (tmp_path / name).write_bytes(data)
    attempt(tmp_path / name)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=600), suffix=st.sampled_from(sorted(SUFFIXES)), start=st.sampled_from(sorted(MAKERS)))
def test_noise_behind_a_sound_beginning(tmp_path: Path, sound: Sound, data: bytes, suffix: str, start: str) -> None:
    for content in (data, sound[start][:60] + data, gzip.compress(sound[start][:100] + data)):
        (tmp_path / f"x{suffix}").write_bytes(content)
        attempt(tmp_path / f"x{suffix}")


@pytest.mark.parametrize("name", [n for n in MAKERS if not n.startswith("b.")])
def test_a_renamed_file_is_read_by_its_content_and_said(tmp_path: Path, sound: Sound, name: str) -> None:
    other = ".png" if not name.endswith(".png") else ".dcm"
    path = tmp_path / f"renamed{other}"
    path.write_bytes(sound[name])
    image = read(path)
    assert f"the file is called {other} but its content is" in image.source.warnings[0]
    assert image.source.warnings[0] in header(path).warnings
    path = tmp_path / "no_suffix"
    path.write_bytes(sound[name])
    assert not any("is called" in w for w in read(path).source.warnings)


@pytest.mark.parametrize("suffix", [".png", ".nii.gz", ".dcm", ".txt", ""])
def test_empty_zeros_and_text(tmp_path: Path, suffix: str) -> None:
    for content, what in ((b"", "is empty"), (bytes(5000), "only zeros"), (b"hello world\n", "hello")):
        path = tmp_path / f"a{suffix}"
        path.write_bytes(content)
        with pytest.raises(ReadError, match=what):
            read(path)


def test_folders_say_what_they_hold(tmp_path: Path) -> None:
    with pytest.raises(ReadError, match="an empty folder"):
        read(tmp_path)
    for i in range(7):
        (tmp_path / f"slice_{i}.dcm").write_bytes(b"")
    with pytest.raises(ReadError, match=r"a folder of 7 entries \(slice_0.dcm"):
        mm.read(tmp_path)


def test_absent_files_links_and_pipes(tmp_path: Path) -> None:
    with pytest.raises(ReadError, match="does not exist"):
        read(tmp_path / "absent.png")
    (tmp_path / "link.png").symlink_to(tmp_path / "absent.png")
    with pytest.raises(ReadError, match="does not exist"):
        read(tmp_path / "link.png")
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ReadError, match="pipe or a device"):
        read(tmp_path / "pipe.png")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    with pytest.raises(ReadError):
        read(tmp_path / "loop.png")
    with pytest.raises(ReadError, match="NUL"):
        read("a\0.png")
    with pytest.raises(ReadError):
        read(tmp_path / ("x" * 300 + ".png"))


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Pillow.fromarray(GREY).save(tmp_path / "a.png")

    def forbidden(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", forbidden)
    with pytest.raises(ReadError, match="may not be read"):
        read(tmp_path / "a.png")


def test_too_little_memory_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "a.npy", VOLUME)

    def out_of_memory(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr("numpy.memmap", out_of_memory)
    with pytest.raises(MedmapError, match="more memory than this machine has"):
        read(tmp_path / "a.npy")


def test_members_only_where_they_mean_something(tmp_path: Path, sound: Sound) -> None:
    (tmp_path / "a.png").write_bytes(sound["a.png"])
    with pytest.raises(ReadError, match="no members"):
        read(f"{tmp_path}/a.png#3")
    (tmp_path / "a#3.png").write_bytes(sound["a.png"])
    np.testing.assert_array_equal(read(tmp_path / "a#3.png").array, GREY)


def test_info_is_plain_values(tmp_path: Path, sound: Sound) -> None:
    import json

    (tmp_path / "a.nii").write_bytes(sound["a.nii"])
    data = json.loads(json.dumps(info(tmp_path / "a.nii").as_json(), allow_nan=False))
    assert data["kind"] == "image"
    assert data["shape"] == [5, 7, 6]
    assert data["spacing_mm"] == [1, 1, 1]
    assert data["orientation"] == "RAS"
    assert (data["quantity"], data["dtype"]) == ("unknown", "int16")
    assert (data["minimum"], data["maximum"]) == (VOLUME.min(), VOLUME.max())
    assert data["warnings"] == []
    only = header(tmp_path / "a.nii")
    assert (only.minimum, only.maximum, only.shape) == (None, None, (5, 7, 6))


def test_recognise_and_suffixes(tmp_path: Path, sound: Sound) -> None:
    assert suffix_of("/x/A.NII.GZ") == ".nii.gz"
    assert ".nii.gz" in SUFFIXES
    (tmp_path / "x.dcm").write_bytes(sound["a.dcm"])
    row, notes = recognise(tmp_path / "x.dcm")
    assert (row.name, notes) == ("dicom", ())
