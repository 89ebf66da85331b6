"""NRRD (``.nrrd``, and ``.nhdr`` with its voxels beside it), read by its published definition (teem.sourceforge.net).

Written here rather than taken from a library because a header that others wrote decides which file is opened and how
much is allocated.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmap.errors import GeometryError, ReadError
from medmap.geometry import Geometry
from medmap.image import Quantity, Source
from medmap.read.opened import RGB, Opened, bytes_of
from medmap.read.voxels import (
    Packing,
    beside,
    channel_names,
    load_voxels,
    placed,
    require_complete,
    require_frames,
    rows_first,
)

MAX_HEADER_BYTES = 2**20
_TYPES = {
    **dict.fromkeys(("signed char", "int8", "int8_t"), "i1"),
    **dict.fromkeys(("uchar", "unsigned char", "uint8", "uint8_t"), "u1"),
    **dict.fromkeys(("short", "short int", "signed short", "signed short int", "int16", "int16_t"), "i2"),
    **dict.fromkeys(("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"), "u2"),
    **dict.fromkeys(("int", "signed int", "int32", "int32_t"), "i4"),
    **dict.fromkeys(("uint", "unsigned int", "uint32", "uint32_t"), "u4"),
    **dict.fromkeys(("longlong", "long long", "long long int", "signed long long", "int64", "int64_t"), "i8"),
    **dict.fromkeys(("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"), "u8"),
    "float": "f4",
    "double": "f8",
}
_PACKINGS: dict[str, Packing] = {"raw": "raw", "gzip": "gzip", "gz": "gzip", "bzip2": "bzip2", "bz2": "bzip2"}
# axes of the named world → LPS
_SPACES = {
    "left-posterior-superior": (1, 1, 1), "lps": (1, 1, 1),
    "right-anterior-superior": (-1, -1, 1), "ras": (-1, -1, 1),
    "left-anterior-superior": (1, -1, 1), "las": (1, -1, 1),
}  # fmt: skip
_UNITS_MM = {"mm": 1.0, "m": 1000.0, "cm": 10.0, "um": 0.001, "µm": 0.001, "nm": 1e-6, "": 1.0}
_UNITS_S = {"s": 1.0, "sec": 1.0, "ms": 1e-3, "us": 1e-6}
_CHANNEL_KINDS = re.compile(
    r"list|vector|covariant-vector|normal|point|stub|scalar|complex|.*-color|\d-vector|\d-gradient|\d-normal|.*matrix.*"
)
_NOT_SPACE = frozenset({"none", "nan", "(nan,nan,nan)"})


def open_nrrd(path: Path, member: str | None) -> Opened:
    """A NRRD image with at most one axis of channels or time.

    Raises:
        ReadError: Damaged, truncated, or its voxels lie outside the header's folder.
        LimitError: A declared size that no image has.
        GeometryError: NaN or zero spacing.
    """
    fields, data_at = _fields(path)
    sizes = _ints(path, fields, "sizes")
    count = _ints(path, fields, "dimension")
    if count != [len(sizes)] or not 1 <= len(sizes) <= 16:
        raise ReadError(f"{path} is damaged: dimension and sizes disagree", got=f"{count} and {sizes}")
    if any(n < 1 for n in sizes):
        raise ReadError(
            f"{path} declares a size of zero or less", got=sizes, expected="at least one voxel on each axis"
        )
    stored = _type(path, fields)
    packing = _PACKINGS.get(fields.get("encoding", "raw").lower())
    if packing is None:
        raise ReadError(f"{path} is encoded in a way that is not read", got=fields["encoding"], expected="raw or gzip")
    voxels, offset = _data_file(path, fields, data_at)
    need = bytes_of(tuple(sizes), stored)
    skip = int(_number(path, fields.get("byte skip", fields.get("byteskip", "0"))))
    if int(_number(path, fields.get("line skip", fields.get("lineskip", "0")))):
        raise ReadError(f"{path} skips lines before its voxels, which medmap does not read", expected="line skip: 0")
    if skip == -1 and packing == "raw":  # -1: the voxels are the last bytes of the file
        offset, skip = voxels.stat().st_size - need, 0
    if skip < 0 or offset < 0:
        raise ReadError(f"{path} is truncated or its byte skip is wrong", got=skip)
    require_complete(path, voxels.stat().st_size - offset - (skip if packing == "raw" else 0), need, packing)
    notes: list[str] = []
    other = _other_axis(path, fields, sizes)
    spatial = [i for i in range(len(sizes)) if i != other]
    with np.errstate(all="ignore"):  # numbers that are none are refused by Geometry, in a sentence
        geometry = _geometry(path, fields, sizes, spatial, notes)
    channels, time_s, quantity = _meaning(path, fields, sizes, other)

    def pixels(notes: list[str]) -> NDArray[Any]:
        array = load_voxels(voxels, offset, sizes, stored, packing, skip)
        if other is not None:
            array = np.moveaxis(array, other, -1)
            array = array[..., 0] if sizes[other] == 1 else array
        return rows_first(array, len(spatial))

    return Opened(
        geometry=geometry,
        dtype=stored.newbyteorder("="),
        pixels=pixels,
        quantity=quantity,
        channels=channels,
        time_s=time_s,
        source=Source(path=str(path), format="nrrd", bits_stored=8 * stored.itemsize, warnings=tuple(notes)),
    )


def _fields(path: Path) -> tuple[dict[str, str], int]:
    """The header's fields in lower case, and where the voxels of an attached header begin."""
    with path.open("rb") as file:
        head = file.read(MAX_HEADER_BYTES)
    end = re.search(rb"\r?\n\r?\n", head)
    text = head[: end.start()] if end else head
    if not end and len(head) == MAX_HEADER_BYTES:
        raise ReadError(f"{path} has a header without end", expected=f"at most {MAX_HEADER_BYTES} bytes")
    lines = text.decode("utf-8", "replace").splitlines()
    fields: dict[str, str] = {}
    for line in lines[1:]:
        if line.startswith("#") or ":=" in line or not line.strip():
            continue
        name, colon, value = line.partition(":")
        if not colon:
            raise ReadError(f"{path} is damaged: a line of its header is no field", got=repr(line[:60]))
        fields[name.strip().lower()] = value.strip()
    return fields, end.end() if end else len(head)


def _number(path: Path, text: str) -> float:
    try:
        value = float(text.strip().strip('"'))
    except ValueError:
        raise ReadError(f"{path} is damaged: a number of its header is none", got=repr(text[:40])) from None
    return value


def _ints(path: Path, fields: dict[str, str], name: str) -> list[int]:
    values = [_number(path, part) for part in fields.get(name, "").split()]
    if not values or any(not math.isfinite(v) or v != int(v) for v in values):
        raise ReadError(f"{path} is damaged or truncated: its header has no usable {name}", got=fields.get(name))
    return [int(v) for v in values]


def _type(path: Path, fields: dict[str, str]) -> np.dtype[Any]:
    name = " ".join(fields.get("type", "").lower().split())
    if name not in _TYPES:
        raise ReadError(f"{path} holds a type that is not read", got=name or "none", expected="whole numbers or floats")
    endian = fields.get("endian", "little").lower()
    if endian not in ("little", "big"):
        raise ReadError(f"{path} is damaged: unknown byte order", got=endian, expected="little or big")
    return np.dtype(("<" if endian == "little" else ">") + _TYPES[name])


def _data_file(path: Path, fields: dict[str, str], data_at: int) -> tuple[Path, int]:
    name = fields.get("data file", fields.get("datafile"))
    return (path, data_at) if name is None else (beside(path, name), 0)


def _vectors(path: Path, text: str) -> list[list[float] | None]:
    """``none (0,0,1) (…)`` taken apart."""
    found: list[list[float] | None] = []
    for part in re.findall(r"none|\([^)]*\)", text, flags=re.IGNORECASE):
        found.append(None if part.lower() == "none" else [_number(path, v) for v in part.strip("()").split(",")])
    return found


def _other_axis(path: Path, fields: dict[str, str], sizes: list[int]) -> int | None:
    """The one axis that is not space: channels or time."""
    kinds = fields.get("kinds", "").lower().split()
    directions = _vectors(path, fields.get("space directions", ""))
    others = [i for i in range(len(sizes)) if i < len(directions) and directions[i] is None]
    if not directions:
        others = [i for i, kind in enumerate(kinds) if kind == "time" or _CHANNEL_KINDS.fullmatch(kind)]
        if not others and len(sizes) == 4:
            others = [3]
    if len(others) > 1 or len(sizes) - len(others) not in (2, 3):
        raise ReadError(
            f"{path} has axes that are not understood", got=f"sizes {sizes}", expected="2 or 3 axes of space"
        )
    return others[0] if others else None


def _meaning(
    path: Path, fields: dict[str, str], sizes: list[int], other: int | None
) -> tuple[tuple[str, ...], tuple[float, ...] | None, Quantity]:
    """Names of the channels, times of the frames, and what the numbers are."""
    if other is None or sizes[other] == 1:
        return ("image",), None, "unknown"
    kinds = fields.get("kinds", "").lower().split()
    kind = kinds[other] if other < len(kinds) else ""
    count = sizes[other]
    if "color" in kind and count in (3, 4):
        return (RGB if count == 3 else (*RGB, "alpha")), None, "colour"
    if kind == "time":
        require_frames(path, count)
        times = _times(path, fields, count, other)
        if times is not None:
            return ("image",), times, "unknown"
    return channel_names(path, count), None, "unknown"


def _times(path: Path, fields: dict[str, str], count: int, axis: int) -> tuple[float, ...] | None:
    """Times of the frames in seconds, where the header states their step and its unit."""
    units = re.findall(r'"([^"]*)"', fields.get("units", ""))
    steps = fields.get("spacings", "").split()
    starts = fields.get("axis mins", fields.get("axismins", "")).split()
    if axis >= min(len(units), len(steps)) or units[axis] not in _UNITS_S:
        return None
    step = _number(path, steps[axis]) * _UNITS_S[units[axis]]
    start = _number(path, starts[axis]) * _UNITS_S[units[axis]] if axis < len(starts) else 0.0
    if not (math.isfinite(step) and step > 0):
        return None
    return tuple((start if math.isfinite(start) else 0.0) + i * step for i in range(count))


def _geometry(path: Path, fields: dict[str, str], sizes: list[int], spatial: list[int], notes: list[str]) -> Geometry:
    shape = [sizes[i] for i in spatial]
    directions = _vectors(path, fields.get("space directions", ""))
    if not directions:
        spacings = [_number(path, v) for v in fields.get("spacings", "").split()]
        if len(spacings) != len(sizes) or not all(math.isfinite(spacings[i]) for i in spatial):
            return Geometry.without_size(shape[::-1] if len(shape) == 2 else shape)
        notes.append("the file states spacings but no directions: its orientation (left, right) is unknown")
        steps = np.zeros((3, len(spatial)))
        steps[range(len(spatial)), range(len(spatial))] = [abs(spacings[i]) for i in spatial]
        return placed(shape, steps, np.zeros(3), "detector")
    space = fields.get("space", "").lower()
    signs = _SPACES.get(space)
    if signs is None:
        notes.append(f"the file names no anatomical space ({space or 'none'}): its orientation is unknown")
    vectors = [directions[i] for i in spatial if i < len(directions)]
    if len(vectors) != len(spatial) or any(v is None or len(v) not in (2, 3) for v in vectors):
        raise GeometryError(f"{path} has directions that do not fit its axes", got=fields["space directions"][:100])
    origin_text = _vectors(path, fields.get("space origin", ""))
    origin = origin_text[0] if origin_text and origin_text[0] is not None else [0.0] * len(vectors[0] or ())
    if any(len(v) != len(origin) for v in vectors if v is not None):
        raise GeometryError(f"{path} has an origin that does not fit its directions", got=fields["space origin"][:60])
    scale = _scale(fields, notes)
    full = [[*v, *([0.0] * (3 - len(v)))] for v in (*vectors, origin) if v is not None]
    world = np.array(full).T * scale * np.array(signs or (1, 1, 1), dtype=np.float64)[:, None]
    return placed(shape, world[:, :-1], world[:, -1], "patient" if signs else "detector")


def _scale(fields: dict[str, str], notes: list[str]) -> float:
    units = set(re.findall(r'"([^"]*)"', fields.get("space units", "")))
    if len(units) > 1 or not units <= _UNITS_MM.keys():
        notes.append(f"the file's units of length are not understood ({', '.join(sorted(units))}); taken as mm")
        return 1.0
    return _UNITS_MM[units.pop()] if units else 1.0
