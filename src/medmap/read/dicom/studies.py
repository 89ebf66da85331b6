"""A file, folder, zip or DICOMDIR as studies, series and parts, each of which reads as one image.

>>> import medmap as mm
>>> for study in mm.studies("archive/"):                       # doctest: +SKIP
...     for series in study.series:
...         print(series.uid, series.kind, series.description, [part.name for part in series.parts])
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from medmap.errors import ReadError, counted
from medmap.image import Image
from medmap.read.archive import held
from medmap.read.dicom import kinds
from medmap.read.dicom.enhanced import frames_of, runs_of
from medmap.read.dicom.gather import Gathered, gather
from medmap.read.dicom.instances import Instance
from medmap.read.dicom.kinds import SeriesKind
from medmap.read.dicom.lattice import Problem
from medmap.read.dicom.sorting import Frame, Group, split, stacks, times_of
from medmap.read.dicom.volume import in_time, open_volume, problems_of, read_volume, stacked_in_time
from medmap.read.opened import DEFAULT_LIMIT_BYTES, Opened, require_room

FEW_SLICES = 15  # of one plane of a localiser
ACROSS = 0.3  # cosine: planes at more than about 70 degrees


@dataclass(frozen=True)
class Part:
    """What of a series reads as one image.

    Args:
        name: ``volume``, ``stack-2``, ``echo-1``, ``b-1000``, ``time-3``, ``picture-1``, ``cine-1``,
            ``energy-window-1-detector-2`` …
        shape: volume, picture, cine, or object (a segmentation, a slide).
        frames: In order along the normal, or by number.
        split: What told this part from its neighbours: "", component, echo, b, direction, phase, time …
        value: Of that: ms of an echo, s/mm² of a b-value, seconds of a time.
        problems: What is wrong with it.
    """

    name: str
    shape: str
    frames: tuple[Frame, ...]
    split: str = ""
    value: float | None = None
    problems: tuple[Problem, ...] = ()

    @property
    def instances(self) -> tuple[Instance, ...]:
        """The objects that it was made of."""
        return tuple({id(f.instance): f.instance for f in self.frames}.values())

    @property
    def slices(self) -> int:
        """Number of slices or frames."""
        if self.shape not in ("cine", "object"):
            return len(self.frames)
        return max(1, int(self.frames[0].values.get("NumberOfFrames", 1)))


@dataclass(frozen=True)
class Series:
    """One series.

    Args:
        uid, study_uid, patient_id, accession, number, description, modality: As its first instance says.
        kind: volume, picture, cine, localiser, derived, segmentation, structures, report, presentation, parametric map,
            slide, waveform, document or other.
        instances: Its objects, in order.
        parts: What reads as one image each; the largest stack first.
        headers: Of the first instance, by DICOM keyword, as far as scanned.
        problems: What is wrong with the series as a whole.
    """

    uid: str
    study_uid: str
    patient_id: str
    accession: str
    number: int | None
    description: str
    modality: str
    kind: SeriesKind
    instances: tuple[Instance, ...]
    parts: tuple[Part, ...]
    headers: Mapping[str, Any]
    problems: tuple[Problem, ...] = ()

    @property
    def readable(self) -> bool:
        """Whether it holds pictures."""
        return bool(self.parts)

    def part(self, name: int | str) -> Part:
        """A part by its number from 0, or by its name.

        Raises:
            ReadError: There is none.
        """
        for number, part in enumerate(self.parts):
            if name in (number, part.name):
                return part
        raise ReadError(f"series {self.uid} has no part {name!r}", expected=_listed(self))

    def open(self, part: int | str | None = None) -> Opened:
        """The header of a part, or of the whole series; ``pixels`` reads it.

        Raises:
            ReadError: As ``read``.
        """
        if part is not None or len(self.parts) == 1:
            return _opened(self, self.part(0 if part is None else part))
        whole = [_opened(self, p) for p in _timed(self)]
        times = _times(self)
        first = whole[0]

        def pixels(notes: list[str]) -> Any:
            return in_time([o.pixels(notes) for o in whole], first.geometry.ndim)

        def measured(array: Any) -> Any:
            axis = first.geometry.ndim
            each = [o.measured and o.measured(np.take(array, n, axis=axis)) for n, o in enumerate(whole)]
            masks = [mask for mask in each if mask is not None]
            return np.logical_and.reduce(masks) if masks else None

        return Opened(
            geometry=first.geometry, dtype=np.result_type(*(o.dtype for o in whole)), pixels=pixels,
            quantity=first.quantity, channels=first.channels, time_s=times, source=first.source,
            working_bytes=len(whole) * first.nbytes, measured=measured,
        )  # fmt: skip

    def read(
        self, part: int | str | None = None, *, mend: Collection[str] = (), limit_bytes: int = DEFAULT_LIMIT_BYTES
    ) -> Image:
        """One part as an image, or the whole series where it is one: a single part, or phases and times on one grid.

        Args:
            part: Number from 0 or name; None: the whole.
            mend: Problems that are accepted and mended: duplicates, missing-slices, uneven-spacing, gantry-tilt.
            limit_bytes: Memory that the image may take.

        Raises:
            ReadError: No pictures, several parts that are no sequence in time, or a problem that ``mend`` leaves.
            LimitError: More memory than allowed.
        """
        if part is not None or len(self.parts) == 1:
            return _read(self, self.part(0 if part is None else part), mend, limit_bytes)
        parts = _timed(self)
        volumes = [_read(self, p, mend, limit_bytes // len(parts)) for p in parts]
        return stacked_in_time(volumes, _times(self), volumes[0].quantity)


@dataclass(frozen=True)
class Study:
    """One study: its series in order of their numbers, and what was found beside them."""

    uid: str
    patient_id: str
    accession: str
    date: str
    description: str
    series: tuple[Series, ...]
    problems: tuple[Problem, ...] = field(default=())


def studies(path: str | Path, *, workers: int | None = None) -> Iterator[Study]:
    """The studies of a file, folder, zip or DICOMDIR, one after another.

    All headers are scanned first (a study may be spread over folders); series are sorted when their study is due.

    Args:
        path: Where to look; folders are walked, files that are no DICOM are passed over.
        workers: Files scanned side by side.

    Raises:
        ReadError: Nothing is there, or no DICOM is in it.
    """
    yield from sorted_studies(Path(path), gather(Path(path), workers))


def sorted_studies(path: Path, found: Gathered) -> Iterator[Study]:
    """The studies of what was gathered at ``path``.

    Raises:
        ReadError: No DICOM object is among it.
    """
    if not found.instances:
        what = f"{found.others} files that are none, {len(found.damaged)} damaged, {len(found.missing)} missing"
        first = f"; {found.damaged[0][1]}" if found.damaged else ""
        raise ReadError(f"{path} holds no DICOM object that can be read", got=what + first)
    by_study: dict[str, dict[str, list[Instance]]] = defaultdict(lambda: defaultdict(list))
    for instance in found.instances:
        header = instance.header
        # an object without a series stands alone, under its own name
        own = instance.sop_instance_uid or (instance.member or instance.path.name)
        by_study[header.get("StudyInstanceUID", "")][header.get("SeriesInstanceUID") or own].append(instance)
    problems = _found_beside(found)
    zips = sorted({i.path for i in found.instances if i.member is not None})
    for uid in sorted(by_study):
        with ExitStack() as stack:
            for zipped in zips:
                stack.enter_context(held(zipped))
            series = [_series(name, members) for name, members in by_study[uid].items()]
        series.sort(key=lambda s: (s.number if s.number is not None else 2**31, s.uid))
        header = series[0].headers
        yield Study(
            uid=uid,
            patient_id=header.get("PatientID", ""),
            accession=header.get("AccessionNumber", ""),
            date=header.get("StudyDate", ""),
            description=header.get("StudyDescription", ""),
            series=tuple(series),
            problems=problems + _of_study(series),
        )


def _found_beside(found: Gathered) -> tuple[Problem, ...]:
    out = []
    if found.damaged:
        damaged = f"{counted(len(found.damaged), 'damaged file')}; first: {found.damaged[0][1]}"
        out.append(Problem("damaged-files", damaged))
    if found.missing:
        names = ", ".join(found.missing[:3]) + (" …" if len(found.missing) > 3 else "")
        out.append(
            Problem("missing-files", f"the DICOMDIR names {counted(len(found.missing), 'file')} not there: {names}")
        )
    return tuple(out)


def _of_study(series: list[Series]) -> tuple[Problem, ...]:
    if len({s.patient_id for s in series}) > 1:
        return (Problem("several-patients", "the study's series have different patient identifiers"),)
    return ()


# -- one series ------------------------------------------------------------------------------------------------------


def _series(uid: str, members: list[Instance]) -> Series:
    members.sort(key=lambda i: (i.number if i.number is not None else 2**31, str(i.path), i.member or ""))
    header = members[0].header
    classes = [m.sop_class_uid for m in members]
    parts, problems = _parts([m for m in members if "Rows" in m.header])
    return Series(
        uid=uid,
        study_uid=header.get("StudyInstanceUID", ""),
        patient_id=header.get("PatientID", ""),
        accession=header.get("AccessionNumber", ""),
        number=header.get("SeriesNumber"),
        description=header.get("SeriesDescription", ""),
        modality=header.get("Modality", ""),
        kind=kinds.kind_of([m.header for m in members], classes, [p.shape for p in parts], _crossing(parts)),
        instances=tuple(members),
        parts=parts,
        headers=MappingProxyType(dict(header)),
        problems=problems,
    )


def _parts(members: list[Instance]) -> tuple[tuple[Part, ...], tuple[Problem, ...]]:
    frames: list[Frame] = []
    alone: list[Instance] = []
    for member in members:
        own = frames_of(member)
        if own is None:
            alone.append(member)
        else:
            frames += own
    placed = stacks(frames)
    parts: list[Part] = []
    for number, stack in enumerate(placed, 1):
        groups = split(stack)
        for group in groups:
            parts.append(_part(group, number if len(placed) > 1 else 0))
    unplaced = [f.instance for f in frames if f.plane is None or f.position is None]
    for number, member in enumerate([*dict.fromkeys(unplaced), *alone], 1):
        parts += _whole(member, number)
    return _uniquely_named(parts), _mixture(placed, len(unplaced) + len(alone))


def _whole(member: Instance, number: int) -> list[Part]:
    """An object that its own reader reads: one part, or one for each run of frames that are counted apart."""
    runs = runs_of(member)
    if len(runs) < 2:
        special = kinds.kind_of_class(member.sop_class_uid)
        shape = "object" if special else "cine" if member.frames > 1 else "picture"
        name = f"{(special or shape).replace(' ', '-')}-{number}"
        return [Part(name, shape, (Frame(member, None, member.header),))]
    found = []
    for run in runs:
        values = MappingProxyType({**member.header, "Run": run.name, "NumberOfFrames": len(run.frames)})
        shape = "cine" if len(run.frames) > 1 else "picture"
        found.append(Part(run.name, shape, (Frame(member, None, values),), run.split))
    return found


def _uniquely_named(parts: list[Part]) -> tuple[Part, ...]:
    """Parts whose names would be the same get a number."""
    seen: dict[str, int] = {}
    out = []
    for part in parts:
        seen[part.name] = seen.get(part.name, 0) + 1
        again = seen[part.name]
        out.append(part if again == 1 else replace(part, name=f"{part.name}-{again}"))
    return tuple(out)


def _part(group: Group, stack: int) -> Part:
    name = group.name
    if len(group.frames) == 1 and name == "volume":
        name = f"picture-{stack or 1}"
    elif stack:
        name = f"stack-{stack}" if name == "volume" else f"stack-{stack}-{name}"
    shape = "volume" if len(group.frames) > 1 else "picture"
    return Part(name, shape, group.frames, group.split, group.value, problems_of(group.frames))


def _crossing(parts: tuple[Part, ...]) -> bool:
    """Whether sections are a few slices in planes across each other, as those are that others are planned on."""
    normals = [p.frames[0].normal for p in parts if p.frames[0].normal is not None]
    sections = all(p.frames[0].values.get("Modality") in ("CT", "MR") for p in parts)
    if len(normals) < 2 or not sections or max(p.slices for p in parts) > FEW_SLICES:
        return False
    return any(abs(float(n @ normals[0])) < ACROSS for n in normals[1:])


def _mixture(placed: list[list[Frame]], others: int) -> tuple[Problem, ...]:
    """Several stacks under one UID, and in what they differ."""
    if len(placed) + (others > 0) < 2:
        return ()
    firsts = [stack[0] for stack in placed]
    out = [Problem("several-series", f"{len(placed) + others} separate stacks or pictures stand under one UID")]
    if len({(f.values.get("Rows"), f.values.get("Columns")) for f in firsts}) > 1:
        out.append(Problem("mixed-size", "pictures of different size stand in one series"))
    if any(float(abs(f.normal @ firsts[0].normal)) < 0.999 for f in firsts[1:]):  # type: ignore[operator]
        out.append(Problem("mixed-orientation", "pictures of different orientation stand in one series"))
    if len({f.values.get("FrameOfReferenceUID") for f in firsts}) > 1:
        out.append(
            Problem("mixed-frames-of-reference", "pictures of different frames of reference stand in one series")
        )
    return tuple(out)


def _listed(series: Series) -> str:
    names = [f"{p.name} ({p.slices})" for p in series.parts]
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "") or "no pictures"


def _timed(series: Series) -> list[Part]:
    """The parts of a series that is one sequence in time.

    Raises:
        ReadError: It is none.
    """
    if not series.parts:
        raise ReadError(f"series {series.uid} ({series.kind}) holds no pictures", expected="a series of images")
    parts = list(series.parts)
    counts = {p.slices for p in parts}
    if _times(series, strict=False) is None or len(counts) > 1:
        found = "; ".join(p.message for p in series.problems)
        raise ReadError(
            f"series {series.uid} is several images",
            got=_listed(series) + (f" ({found})" if found else ""),
            remedy=f"read one of them: read(part={parts[0].name!r})",
        )
    return parts


def _times(series: Series, strict: bool = True) -> tuple[float, ...]:
    found = times_of([Group(p.name, p.frames, p.split, p.value) for p in series.parts])
    if found is None and strict:
        raise ReadError(f"series {series.uid} states no times")
    return found  # type: ignore[return-value]


def _name(series: Series, part: Part) -> str:
    return f"series {series.uid}" + (f", {part.name}" if len(series.parts) > 1 else "")


def _by_file(part: Part) -> bool:
    """Whether the file's own reader reads the part: pictures without a place, cines, colour frames of one object."""
    if "Mosaic" in part.frames[0].values:
        return False
    return len(part.frames) == 1 and (
        part.shape in ("cine", "object") or "Run" in part.frames[0].values or part.frames[0].instance.frames == 1
    )


def _opened(series: Series, part: Part) -> Opened:
    if not _by_file(part):
        return open_volume(part.frames, _name(series, part))
    from medmap.read.dicom.volume import open_single

    return open_single(part.frames[0])


def _read(series: Series, part: Part, mend: Collection[str], limit_bytes: int) -> Image:
    if not _by_file(part):
        return read_volume(part.frames, _name(series, part), mend=mend, limit_bytes=limit_bytes)
    from medmap.read.dicom.lattice import require_known

    require_known(mend)
    opened = _opened(series, part)
    require_room(opened.nbytes, limit_bytes, _name(series, part))
    notes = list(opened.source.warnings)
    array = opened.pixels(notes)
    return Image(
        array=array, geometry=opened.geometry, quantity=opened.quantity, channels=opened.channels,
        time_s=opened.time_s, source=replace(opened.source, warnings=tuple(dict.fromkeys(notes))),
    )  # fmt: skip
