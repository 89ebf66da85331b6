"""The door that every file comes through: recognise by content, refuse what is too large, read, look at the numbers."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmap.dataset import Dataset, Ref
from medmap.errors import ReadError
from medmap.image import Image
from medmap.read.arrays import open_array
from medmap.read.dicom import is_dicom, open_dicom
from medmap.read.metaimage import is_metaimage, open_metaimage
from medmap.read.nifti import gunzipped_head, is_nifti, open_nifti
from medmap.read.nrrd import open_nrrd
from medmap.read.opened import DEFAULT_LIMIT_BYTES, Opened, at_the_door, require_room
from medmap.read.raster import open_bmp, open_jpeg, open_png, open_webp
from medmap.read.tiff import open_tiff

HEAD_BYTES = 4096


@dataclass(frozen=True)
class Format:
    """One row of the table of formats.

    Args:
        name: Short name.
        suffixes: What such files are usually called.
        recognises: Whether the first bytes of a file are of this format.
        open: (path, member) → what the header says; its ``pixels`` decode.
        members: Whether ``path#member`` means something.
    """

    name: str
    suffixes: tuple[str, ...]
    recognises: Callable[[bytes], bool]
    open: Callable[[Path, str | None], Opened]
    members: bool = False


def _starts(*magics: bytes) -> Callable[[bytes], bool]:
    return lambda head: head.startswith(magics)


def _is_nifti(head: bytes) -> bool:
    if head[:2] != b"\x1f\x8b":
        return is_nifti(head)
    try:
        return is_nifti(gunzipped_head(head))
    except zlib.error:
        return False


# In the order in which first bytes are tried; DICOM first, for its preamble may hold the header of a TIFF.
FORMATS: tuple[Format, ...] = (
    Format("dicom", (".dcm", ".dicom", ".ima"), is_dicom, open_dicom, members=True),
    Format("png", (".png",), _starts(b"\x89PNG\r\n\x1a\n"), open_png),
    Format("jpeg", (".jpg", ".jpeg", ".jpe", ".jfif"), _starts(b"\xff\xd8\xff"), open_jpeg),
    Format("webp", (".webp",), lambda head: head[:4] == b"RIFF" and head[8:12] == b"WEBP", open_webp),
    Format("npy", (".npy",), _starts(b"\x93NUMPY"), open_array, members=True),
    Format("npz", (".npz",), _starts(b"PK\x03\x04", b"PK\x05\x06"), open_array, members=True),
    Format("tiff", (".tif", ".tiff"), _starts(b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), open_tiff, members=True),
    Format("nrrd", (".nrrd", ".nhdr"), _starts(b"NRRD000"), open_nrrd),
    Format("nifti", (".nii", ".nii.gz", ".hdr", ".hdr.gz"), _is_nifti, open_nifti),
    Format("mha", (".mha", ".mhd"), is_metaimage, open_metaimage),
    Format("bmp", (".bmp", ".dib"), lambda head: head[:2] == b"BM" and head[6:10] == bytes(4), open_bmp),
)

SUFFIXES: frozenset[str] = frozenset(s for row in FORMATS for s in row.suffixes)


def suffix_of(name: str) -> str:
    """The part of a file's name that speaks of its format, in lower case; ``.nii.gz`` counts as one.

    Example:
        >>> suffix_of("T1.NII.gz"), suffix_of("IM0001")
        ('.nii.gz', '')
    """
    stem, suffix = os.path.splitext(name.lower())
    if suffix == ".gz":
        suffix = os.path.splitext(stem)[1] + suffix
    return suffix


def recognise(path: Path) -> tuple[Format, tuple[str, ...]]:
    """The format of a file by its first bytes, and what is odd about its name.

    Raises:
        ReadError: Absent, a folder, unreadable, empty, or of no known format.
    """
    with at_the_door(path, "image"):
        if path.is_dir():
            raise ReadError(
                f"{path} is a folder, not one file",
                got=_inside(path),
                remedy="give one file, or open the folder as a dataset",
            )
        if path.exists() and not path.is_file():
            raise ReadError(f"{path} is a pipe or a device, not a file")
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
    if not head:
        raise ReadError(f"{path} is empty", got="0 bytes", remedy="copy the original file again")
    suffix = suffix_of(path.name)
    for row in FORMATS:
        if row.recognises(head):
            odd = suffix in SUFFIXES and suffix not in row.suffixes
            note = (f"the file is called {suffix} but its content is {row.name}; it was read as {row.name}",)
            return row, note if odd else ()
    named = next((row.name for row in FORMATS if suffix in row.suffixes), None)
    if named:
        raise ReadError(
            f"{path} is called {suffix} but holds no {named}", got=_look(head), remedy="compare with the original file"
        )
    raise ReadError(
        f"{path} is in no format that medmap reads", got=_look(head), expected=", ".join(row.name for row in FORMATS)
    )


def is_collection(path: Path) -> bool:
    """Whether a path may hold DICOM series rather than one image: a folder, a DICOMDIR, a zip that is no array."""
    with at_the_door(path, "image"):
        if path.is_dir():
            from medmap.read.dicom.kept import is_kept

            return is_kept(path) or any(_of_dicom(entry) for entry in _some_files(path))
        if not path.is_file():
            return False
        if path.name.upper() == "DICOMDIR":
            return True
        with path.open("rb") as file:
            if file.read(4) not in (b"PK\x03\x04", b"PK\x05\x06"):
                return False
        return suffix_of(path.name) == ".zip" and not _of_arrays(path)


def _of_arrays(path: Path) -> bool:
    """Whether a zip holds NumPy arrays, as an ``.npz`` does; one whose directory is broken is left to the reader."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith(".npy") for name in archive.namelist())
    except zipfile.BadZipFile:
        return False


def _some_files(folder: Path) -> Iterator[Path]:
    """Plain files below a folder, the upper ones first; as many as tell what kind of folder it is."""
    left = 2000
    open_folders = [folder]
    while open_folders and left:
        for entry in sorted(os.scandir(open_folders.pop(0)), key=lambda entry: entry.name):
            if entry.name[0] == ".":
                continue
            if entry.is_dir(follow_symlinks=False):
                open_folders.append(Path(entry.path))
            elif entry.is_file() and left:
                left -= 1
                yield Path(entry.path)


def _of_dicom(path: Path) -> bool:
    with path.open("rb") as file:
        return is_dicom(file.read(HEAD_BYTES))


def _look(head: bytes) -> str:
    return "only zeros" if not any(head) else f"a file that begins with {head[:8]!r}"


def _inside(folder: Path) -> str:
    names = sorted(entry.name for entry in os.scandir(folder) if not entry.name.startswith("."))
    shown = ", ".join(names[:5]) + (" …" if len(names) > 5 else "")
    return f"a folder of {len(names)} entries ({shown})" if names else "an empty folder"


def open_header(path: str | Path, member: str | None = None) -> Opened:
    """What a file's header says, with the way to its pixels.

    Raises:
        ReadError: Not a file that can be read.
        GeometryError: A header that describes no grid.
    """
    path = Path(path)
    if is_collection(path):
        from medmap.read.dicom.kept import open_series

        with at_the_door(path, "DICOM"):
            return open_series(path, member)
    row, notes = recognise(path)
    if member is not None and not row.members:
        raise ReadError(f"a {row.name} file has no members", got=f"{path}#{member}", expected=str(path))
    with at_the_door(path, row.name):
        opened = row.open(path, member)
    if notes:
        opened = replace(opened, source=replace(opened.source, warnings=notes + opened.source.warnings))
    return opened


def read(path: str | Path, *, member: str | None = None, limit_bytes: int = DEFAULT_LIMIT_BYTES) -> Image:
    """One file, or the only series of images in a folder, as an image; the content decides the format, not the name.

    What was odd on the way in stands in ``image.source.warnings``.

    Args:
        path: The file, or ``file#member`` for a part of one (a row of an array, a frame, a page; all count from 0);
            or a folder, zip or DICOMDIR with one series of images, or ``folder#SeriesInstanceUID``, or
            ``folder#SeriesInstanceUID/part``.
        member: The part, when it is not written in ``path``.
        limit_bytes: Memory that the image may take; more is refused before it is allocated.

    Raises:
        ReadError: Absent, a folder, empty, truncated, damaged, or in no known format.
        LimitError: The header declares more than ``limit_bytes``.
        GeometryError: The header describes no grid (NaN or zero spacing).

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.save(f"{folder}/a.npy", np.arange(12, dtype=np.int16).reshape(3, 4))
        ...     read(f"{folder}/a.npy").array[2, 3]
        np.int16(11)
    """
    path, member = _parted(path, member)
    opened = open_header(path, member)
    return _image(path, opened, limit_bytes)


def _parted(path: str | Path, member: str | None) -> tuple[Path, str | None]:
    """``file#member`` taken apart, unless a file of that very name exists."""
    text = os.fspath(path)
    if "\0" in text or (member is not None and "\0" in member):
        raise ReadError("a path holds a NUL character", got=repr(text))
    if member is None and "#" in text and not os.path.lexists(text):
        ref = Ref.parse(text)
        return Path(ref.path), ref.member
    return Path(text), member


def _image(path: Path, opened: Opened, limit_bytes: int) -> Image:
    require_room(opened.nbytes, limit_bytes, str(path))
    notes = list(opened.source.warnings)
    with at_the_door(path, opened.source.format):
        array = opened.pixels(notes)
    if array.shape != opened.array_shape or array.dtype != opened.dtype:
        raise ReadError(
            f"{path} holds other pixels than its header declares",
            got=f"{array.shape} {array.dtype}",
            expected=f"{opened.array_shape} {opened.dtype}",
        )
    notes.extend(_not_numbers(array))
    return Image(
        array=array,
        geometry=opened.geometry,
        quantity=opened.quantity,
        channels=opened.channels,
        time_s=opened.time_s,
        source=replace(opened.source, warnings=tuple(dict.fromkeys(notes))),
        valid=None if opened.measured is None else opened.measured(array),
    )


def _not_numbers(array: NDArray[Any]) -> list[str]:
    if array.dtype.kind != "f":
        return []
    bad = array.size - int(np.count_nonzero(np.isfinite(array)))
    return [f"{bad} of {array.size} values are not finite numbers"] if bad else []


def read_ref(dataset: Dataset, ref: Ref, *, limit_bytes: int = DEFAULT_LIMIT_BYTES) -> Image:
    """The image that a case of ``dataset`` refers to; reading an npz row by row is fast (the file stays open).

    Raises:
        ReadError: The file is absent or unusable.
        LimitError: It declares more than ``limit_bytes``.
    """
    path = dataset.resolve(ref)
    return _image(path, open_header(path, ref.member), limit_bytes)


@dataclass(frozen=True)
class Info:
    """What ``medmap info`` says of one file; ``minimum`` and ``maximum`` only when the pixels were read.

    Args:
        kind: What it is: ``image``.
        format: The format's short name.
        shape: Shape of the array: spatial axes, time, channels.
        spacing_mm: Per spatial axis; None for an image without size.
        orientation: Letters of the directions in which the axes grow; ``none`` without a size.
        quantity: What the numbers are.
        dtype: Type of the numbers.
        channels: Names of the channels.
        frames: Number of times, or None.
        duration_s: Time of the last frame, in seconds, or None.
        modality, transfer_syntax, photometric, bits_stored, rescale: As the file says.
        minimum, maximum: Of the finite values.
        warnings: What is odd.
    """

    kind: str
    format: str
    shape: tuple[int, ...]
    spacing_mm: tuple[float, ...] | None
    orientation: str
    quantity: str
    dtype: str
    channels: tuple[str, ...]
    frames: int | None = None
    duration_s: float | None = None
    modality: str | None = None
    transfer_syntax: str | None = None
    photometric: str | None = None
    bits_stored: int | None = None
    rescale: tuple[float, float] | None = None
    minimum: float | None = None
    maximum: float | None = None
    warnings: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Plain values for a file."""
        return {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self).items()}


def info(
    path: str | Path,
    *,
    member: str | None = None,
    header_only: bool = False,
    limit_bytes: int = DEFAULT_LIMIT_BYTES,
) -> Info:
    """What one file is; reads the pixels (and so finds damage in them) unless ``header_only``.

    Raises:
        ReadError: Not a file that can be read.
        LimitError: It declares more than ``limit_bytes``.
        GeometryError: The header describes no grid.
    """
    path, member = _parted(path, member)
    opened = open_header(path, member)
    low = high = None
    source = opened.source
    if not header_only:
        image = _image(path, opened, limit_bytes)
        source = image.source
        values = image.array if image.array.dtype.kind != "f" else image.array[np.isfinite(image.array)]
        if values.size:
            low, high = _plain(values.min()), _plain(values.max())
    geometry = opened.geometry
    return Info(
        kind="image",
        format=source.format,
        shape=opened.array_shape,
        spacing_mm=geometry.spacing_mm if geometry.has_size else None,
        orientation=geometry.orientation,
        quantity=opened.quantity,
        dtype=str(opened.dtype),
        channels=opened.channels,
        frames=None if opened.time_s is None else len(opened.time_s),
        duration_s=None if opened.time_s is None else opened.time_s[-1],
        modality=source.modality,
        transfer_syntax=source.transfer_syntax,
        photometric=source.photometric,
        bits_stored=source.bits_stored,
        rescale=source.rescale,
        minimum=low,
        maximum=high,
        warnings=source.warnings,
    )


def header(path: str | Path, member: str | None = None) -> Info:
    """What one file's header says; no pixel is read (``info`` with ``header_only``)."""
    return info(path, member=member, header_only=True)


def _plain(value: Any) -> float:
    number = value.item()
    return float(number) if isinstance(number, float) else int(number)
