"""The series that a DICOM object is made from: its headers, where each of its frames lies, and what is copied from it.

A derived object belongs to the patient, the study and the frame of reference of its source. Which slice of a mask
belongs to which source frame is found by position in the patient, never by an index: a volume that was read may be
flipped, reordered or cropped against the numbers of its instances.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medmap.errors import DataError, GeometryError, UsageError
from medmap.geometry import Floats, Geometry
from medmap.image import Image
from medmap.results import Label

MANUFACTURER = "medmap"
# what a folder may hold beside the images: objects that are themselves about images
_NO_IMAGES = ("SEG", "SR", "RTSTRUCT", "RTPLAN", "RTDOSE", "PR", "KO", "REG", "FID", "DOC", "RWV", "M3D")
# Type 2 of Patient and Study (PS3.3 C.7.1.1, C.7.2.1): present, empty when not known
_TYPE_2 = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime",
           "AccessionNumber", "ReferringPhysicianName", "StudyID")  # fmt: skip
IN_PLANE = 0.05  # of a pixel: how far a source frame's corner may lie off the mask's grid
ALONG = 0.2  # of the distance of slices: uneven slices were read as even ones


@dataclass(frozen=True)
class About:
    """What is said of an object beside its pixels.

    Args:
        title: Series description, at most 64 characters; empty for a plain default.
        series_number: From 1; None for a number that says what kind of object it is.
        labels: Name of a channel → label with its code, for images whose channels are structures.
        made_by: ``algorithm``, ``person``, or ``both`` (a person who guided or corrected an algorithm).
        algorithm: Name of the algorithm.
        version: Its version; empty for that of medmap.
        bundle: Hash of the bundle that gave the answer, when known.
        slices: Slices to picture (secondary capture), counted along the last axis of the mask; empty: the fullest.
        window: (centre, width) for pictures; None for what the source says.
        segmentation: For a report: the segmentation object that shows its mask, a file or a data set; None: the
            outlines stand in the report itself.
    """

    title: str = ""
    series_number: int | None = None
    labels: Mapping[str, Label] = field(default_factory=lambda: MappingProxyType({}))
    made_by: Literal["algorithm", "person", "both"] = "algorithm"
    algorithm: str = "medmap"
    version: str = ""
    bundle: str = ""
    slices: tuple[int, ...] = ()
    window: tuple[float, float] | None = None
    segmentation: Any = None

    def __post_init__(self) -> None:
        if self.made_by not in ("algorithm", "person", "both"):
            raise UsageError("unknown maker", got=repr(self.made_by), expected="algorithm, person or both")
        if len(self.title) > 64 or (self.series_number is not None and self.series_number < 1):
            raise UsageError(
                "a series has a title of at most 64 characters and a number from 1",
                got=(self.title, self.series_number),
            )


@dataclass(frozen=True, eq=False)
class Plane:
    """One frame of the source.

    Args:
        image: Which of the source's images.
        frame: Which frame of it, from 0.
        affine_lps_mm: (4, 4): columns are the step to the next row, to the next column, the unit normal, the place of
            the first pixel; None when it has no place in the patient.
    """

    image: int
    frame: int
    affine_lps_mm: Floats | None


@dataclass(frozen=True, eq=False)
class Origin:
    """A source series.

    Args:
        images: Headers (pydicom data sets without pixels, with UTF-8 texts and all Type 2 attributes).
        paths: Their files.
        planes: Their frames.
        pixels: The image as it was read, when the caller had it.
    """

    images: tuple[Any, ...]
    paths: tuple[Path, ...]
    planes: tuple[Plane, ...]
    pixels: Image | None = None

    @property
    def first(self) -> Any:
        """The header of the first image, for what all have in common."""
        return self.images[0]

    @property
    def frame_of_reference(self) -> str | None:
        """The Frame of Reference UID that all images share, or None."""
        return str(self.first.get("FrameOfReferenceUID", "") or "") or None

    @property
    def size(self) -> tuple[int, int]:
        """(rows, columns) of a frame."""
        return int(self.first.Rows), int(self.first.Columns)


def origin_of(source: Any, fits: Geometry | None = None) -> Origin:
    """The source series, from whatever the caller has of it.

    Args:
        source: An ``Image`` that was read, a ``Series`` of ``medmap.read.studies``, a file, a folder,
            ``folder#series-uid``, or several of these files.
        fits: A grid that decides between several series of one folder.

    Raises:
        UsageError: No image, or several series of which none or more than one fits.
        DataError: A file that is no DICOM, or images that do not belong together.
    """
    pixels = source if isinstance(source, Image) else None
    files, uid = _files(source)
    headers = [(path, header) for path in files if (header := _header(path)) is not None]
    series: dict[str, list[tuple[Path, Any]]] = {}
    for path, header in headers:
        if _is_image(header) and (uid is None or str(header.SeriesInstanceUID) == uid):
            series.setdefault(str(header.SeriesInstanceUID), []).append((path, header))
    if not series:
        raise UsageError(
            "the source holds no DICOM image to refer to",
            got=f"{len(files)} files" + (f", series {uid}" if uid else ""),
            remedy="give the series that the image was read from",
        )
    found = [_origin(part, pixels) for part in series.values()]
    if len(found) > 1 and fits is not None:
        found = [origin for origin in found if laid_on(fits, origin)]
    if len(found) != 1:
        raise UsageError(
            f"the source holds {len(series)} series and {len(found) or 'none'} of them fit",
            got=", ".join(sorted(series)[:5]),
            remedy="name one: folder#series-uid",
        )
    return found[0]


def _files(source: Any) -> tuple[list[Path], str | None]:
    if isinstance(source, Image):
        if source.source.format != "dicom" or not source.source.path:
            raise UsageError(
                "the image was not read from DICOM, so there is nothing to refer to",
                got=source.source.format or "an image made in memory",
                remedy="give the DICOM series as source",
            )
        return _files(source.source.path)
    instances = getattr(source, "instances", None)
    if instances is not None:
        return [Path(instance.path) for instance in instances], None
    if isinstance(source, str | os.PathLike):
        path, uid = Path(source), None
        if not path.exists() and "#" in str(source):
            text, _, member = str(source).partition("#")
            path, uid = Path(text), member.partition("/")[0]
        if path.is_dir():
            return sorted(p for p in path.rglob("*") if p.is_file()), uid
        if not path.is_file():
            raise UsageError("the source does not exist", got=str(path))
        return [path], None  # a member of a file is a frame, not a series
    if isinstance(source, Iterable):
        return [file for part in source for file in _files(getattr(part, "path", part))[0]], None
    raise UsageError(
        "this is no source", got=type(source).__name__, expected="an Image, a Series, a folder, or DICOM files"
    )


def _header(path: Path) -> Any | None:
    """The header without pixels; None for a file that is no DICOM."""
    from pydicom import dcmread
    from pydicom.errors import InvalidDicomError

    try:
        return dcmread(path, stop_before_pixels=True)
    except InvalidDicomError:
        return None
    except (OSError, EOFError, ValueError, AttributeError, NotImplementedError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"{path} cannot be read as DICOM", got=reason) from error


def _is_image(header: Any) -> bool:
    named = all(header.get(name) for name in ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "SOPClassUID"))
    return named and "Rows" in header and "Columns" in header and str(header.get("Modality", "")) not in _NO_IMAGES


def _origin(part: Sequence[tuple[Path, Any]], pixels: Image | None) -> Origin:
    ordered = sorted(part, key=lambda item: (int(item[1].get("InstanceNumber") or 0), str(item[1].SOPInstanceUID)))
    unique = {str(header.SOPInstanceUID): (path, header) for path, header in reversed(ordered)}
    ordered = list(reversed(unique.values()))
    images = tuple(_completed(header) for _, header in ordered)
    frames = {str(h.get("FrameOfReferenceUID", "") or "") for h in images}
    if len(frames) > 1:
        raise DataError(
            "the images of the series lie in different frames of reference", got=", ".join(sorted(frames)),
            remedy="give the images of one of them",
        )  # fmt: skip
    planes = tuple(plane for number, header in enumerate(images) for plane in _planes(number, header))
    return Origin(images, tuple(path for path, _ in ordered), planes, pixels)


def _completed(header: Any) -> Any:
    """Type 2 attributes that an image lacks, and texts that may be written in UTF-8 (names are decoded once)."""
    for keyword in _TYPE_2:
        header.setdefault(keyword, "")
        if header.get(keyword) is None:
            setattr(header, keyword, "")
    for keyword in ("PatientName", "ReferringPhysicianName"):
        setattr(header, keyword, str(header.get(keyword) or ""))
    header.SpecificCharacterSet = "ISO_IR 192"
    return header


def _planes(number: int, header: Any) -> list[Plane]:
    count = int(header.get("NumberOfFrames") or 1)
    groups = header.get("PerFrameFunctionalGroupsSequence") or []
    if len(groups) != count:
        return [Plane(number, frame, _affine(header, None) if count == 1 else None) for frame in range(count)]
    return [Plane(number, frame, _affine(header, group)) for frame, group in enumerate(groups)]


def _affine(header: Any, group: Any | None) -> Floats | None:
    """PS3.3 C.7.6.2.1.1: the first triplet of the orientation points along a row, to the next column."""
    position = _value(header, group, "PlanePositionSequence", "ImagePositionPatient")
    cosines = _value(header, group, "PlaneOrientationSequence", "ImageOrientationPatient")
    spacing = _value(header, group, "PixelMeasuresSequence", "PixelSpacing")
    if position is None or cosines is None or spacing is None:
        return None
    place, directions, step = (np.array([float(v) for v in values]) for values in (position, cosines, spacing))
    if place.shape != (3,) or directions.shape != (6,) or step.shape != (2,):
        return None
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = directions[3:] * step[0], directions[:3] * step[1]
    normal = np.cross(directions[:3], directions[3:])
    length = float(np.linalg.norm(normal))
    if not np.isfinite(affine).all() or not length > 0 or not (step > 0).all():
        return None
    affine[:3, 2], affine[:3, 3] = normal / length, place
    return affine


def _value(header: Any, group: Any | None, sequence: str, name: str) -> Any:
    shared = header.get("SharedFunctionalGroupsSequence") or []
    for place in ([group] if group is not None else []) + list(shared[:1]):
        items = place.get(sequence) or []
        if items and items[0].get(name) is not None:
            return items[0].get(name)
    return header.get(name)


# -- which slice of the grid lies on which frame of the source ------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Laid:
    """A source frame and the part of a grid that lies on it.

    Args:
        plane: The source frame.
        slice: Index along the grid's slice axis.
        axes: The grid's axes that run along the frame's rows (downward), its columns, and its normal.
        signs: Whether rows and columns run along (1) or against (−1) the grid's axes.
        start: Grid indices, along the first two axes, of the frame's first pixel.
    """

    plane: Plane
    slice: int
    axes: tuple[int, int, int]
    signs: tuple[int, int]
    start: tuple[int, int]

    def cut(self, array: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
        """(rows, columns, …): the frame's part of an array on the grid; zero where the grid does not reach."""
        down, along, across = self.axes
        trailing = tuple(range(3, array.ndim))
        flat = array.transpose((across, down, along, *trailing))[self.slice]
        out = np.zeros((*size, *array.shape[3:]), array.dtype)
        here, there = [], []
        for axis in (0, 1):
            index = self.start[axis] + self.signs[axis] * np.arange(size[axis])
            inside = np.flatnonzero((index >= 0) & (index < flat.shape[axis]))
            here.append(inside)
            there.append(index[inside])
        if len(here[0]) and len(here[1]):
            rows, columns = slice(here[0][0], here[0][-1] + 1), slice(here[1][0], here[1][-1] + 1)
            part = flat[_span(there[0])][:, _span(there[1])]
            out[rows, columns] = part
        return out


def _span(index: NDArray[Any]) -> slice:
    """Consecutive indices, up or down, as a slice: no copy is made."""
    if len(index) == 1 or index[1] > index[0]:
        return slice(int(index[0]), int(index[-1]) + 1)
    return slice(int(index[0]), int(index[-1]) - 1 if index[-1] > 0 else None, -1)


def laid_on(grid: Geometry, origin: Origin) -> list[Laid]:
    """The source frames that lie on slices of the grid, in the grid's order of slices; empty when the grids differ.

    Frames of another orientation, between two slices or beyond the grid are left out.

    Raises:
        GeometryError: The grid is in another frame of reference than the source, or two frames lie on one slice.
    """
    require_same_frame(grid, origin)
    if grid.kind != "patient":
        return _laid_by_shape(grid, origin)
    inverse = np.linalg.inv(grid.affine_lps_mm)
    shape = grid.shape if grid.ndim == 3 else (*grid.shape, 1)
    found: dict[int, Laid] = {}
    for plane in origin.planes:
        one = None if plane.affine_lps_mm is None else _laid(plane, inverse @ plane.affine_lps_mm, shape, origin.size)
        if one is None:
            continue
        if one.slice in found:
            raise GeometryError(
                "two images of the source lie on one slice",
                got=f"instances {_uid(origin, found[one.slice].plane)} and {_uid(origin, plane)}",
                remedy="give the images of one phase, echo or time as source",
            )
        found[one.slice] = one
    return [found[index] for index in sorted(found)]


def _uid(origin: Origin, plane: Plane) -> str:
    return str(origin.images[plane.image].SOPInstanceUID)


def _laid(plane: Plane, relative: Floats, shape: tuple[int, ...], size: tuple[int, int]) -> Laid | None:
    """``relative``: the frame's (row, column, 1) to grid indices."""
    steps, corner = relative[:3, :2], relative[:3, 3]
    whole = np.rint(steps)
    drift = np.abs(steps - whole).max(axis=0) * size
    if (np.abs(whole).sum(axis=0) != 1).any() or drift.max() > IN_PLANE:
        return None
    down, along = (int(np.abs(column).argmax()) for column in whole.T)
    if down == along:
        return None
    across = 3 - down - along
    start = np.rint(corner)
    off = np.abs(corner - start)
    if max(off[down], off[along]) > IN_PLANE or off[across] > ALONG or not 0 <= start[across] < shape[across]:
        return None
    signs = (int(whole[down, 0]), int(whole[along, 1]))
    return Laid(plane, int(start[across]), (down, along, across), signs, (int(start[down]), int(start[along])))


def _laid_by_shape(grid: Geometry, origin: Origin) -> list[Laid]:
    """A radiograph or photograph: one frame of exactly the grid's rows and columns."""
    if grid.ndim != 2 or len(origin.planes) != 1 or grid.shape != origin.size:
        return []
    return [Laid(origin.planes[0], 0, (0, 1, 2), (1, 1), (0, 0))]


def require_same_frame(grid: Geometry, origin: Origin) -> None:
    """Refuse a grid that names another frame of reference than the source: it may be another patient's.

    Raises:
        GeometryError: Both name one and they differ.
    """
    ours, theirs = grid.frame_of_reference, origin.frame_of_reference
    if ours is not None and theirs is not None and ours != theirs:
        raise GeometryError(
            "the answer and the source series lie in different frames of reference", got=ours, expected=theirs,
            remedy="give the series that the image was read from",
        )  # fmt: skip


def cut_frames(array: NDArray[Any], grid: Geometry, laid: Sequence[Laid], size: tuple[int, int]) -> NDArray[Any]:
    """(frames, rows, columns, …): an array on the grid, cut into the source's frames.

    Raises:
        GeometryError: Something marked lies where the source has no image.
    """
    solid = array if grid.ndim == 3 else array[:, :, None]
    frames = np.zeros((len(laid), *size, *solid.shape[3:]), solid.dtype)
    for number, one in enumerate(laid):
        frames[number] = one.cut(solid, size)
    lost = int(np.count_nonzero(solid)) - int(np.count_nonzero(frames))
    if lost:
        raise GeometryError(
            "part of the answer lies where the source series has no image", got=f"{lost} voxels beyond it",
            remedy="give the whole series as source",
        )  # fmt: skip
    return frames


# -- what every object says of itself -------------------------------------------------------------------------------


def new_uid() -> str:
    """A unique identifier that no other object has (PS3.5 B.2, the root 2.25)."""
    from pydicom.uid import generate_uid

    return str(generate_uid(prefix=None))


def equipment(about: About) -> dict[str, Any]:
    """Who made it: the enhanced general equipment module (PS3.3 C.7.5.2), as highdicom's arguments."""
    return {
        "manufacturer": MANUFACTURER,
        "manufacturer_model_name": about.algorithm[:64] or MANUFACTURER,
        "software_versions": version_of(about),
        "device_serial_number": about.bundle[-16:] or "none",
    }


def version_of(about: About) -> str:
    """The algorithm's version; medmap's own when none was given."""
    from importlib.metadata import version

    return (about.version or version("medmap"))[:64]


def identification(about: About) -> Any:
    """Algorithm Identification (PS3.3 table 10-19): name, family, version, and the bundle it came from."""
    import highdicom as hd

    return hd.AlgorithmIdentificationSequence(
        name=about.algorithm or MANUFACTURER,
        family=hd.sr.CodedConcept("123110", "DCM", "Artificial Intelligence"),
        version=version_of(about),
        source=MANUFACTURER,
        parameters={"bundle": about.bundle} if about.bundle else None,
    )
