"""YOLO: ``data.yaml`` with names and folders, one text file a picture.

A line is ``class x y width height``: the box's centre and size as parts of the picture's width and height, counted from
its outer edge (docs.ultralytics.com, detection datasets). Further numbers are a polygon, kept as its box. A picture
without a text file was looked at and nothing was found.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from medmap.config import parse_yaml, read_text
from medmap.dataset import Case, Dataset, InputSpec, Ref, TaskName, Truth
from medmap.errors import BoxError, DatasetError, LayoutError, MedmapError
from medmap.layouts.boxes import Corners, Fitting, corners_of_edges, picture_shapes, refused
from medmap.layouts.folders import is_image_name
from medmap.layouts.foreign import Foreign, inside, parsed, require_files, require_task
from medmap.layouts.kept import with_kept_block, with_kept_table
from medmap.layouts.naming import natural_key, unique_ids
from medmap.results import Label

PARTS = (("train", "train"), ("val", "val"), ("test", "test"))
_NEARLY = 1e-6  # what writers round


class _Described(Foreign):
    path: str | None = None
    train: str | tuple[str, ...] | None = None
    val: str | tuple[str, ...] | None = None
    test: str | tuple[str, ...] | None = None
    names: dict[int, Any] | tuple[Any, ...] = Field(min_length=1)
    nc: int | None = None
    licence: str | None = None
    license: str | None = None
    medmap: Any = None


def corners_of_line(x: float, y: float, width: float, height: float, shape: Sequence[int]) -> Corners:
    """Corner voxels of centre and size as parts of a picture of ``shape`` (rows, columns).

    Example:
        >>> corners_of_line(0.5, 0.25, 1.0, 0.5, (4, 10))
        (0.0, 0.0, 1.0, 9.0)
    """
    rows, columns = shape
    low = ((y - height / 2) * rows - 0.5, (x - width / 2) * columns - 0.5)
    return corners_of_edges(low, ((y + height / 2) * rows - 0.5, (x + width / 2) * columns - 0.5))


def _yaml_of(path: Path) -> Path | None:
    candidates = (
        [path] if path.is_file() else [p for pattern in ("*.yaml", "*.yml") for p in sorted(path.glob(pattern))]
    )
    for file in candidates:
        if file.suffix.lower() not in (".yaml", ".yml"):
            continue
        try:
            said = parse_yaml(read_text(file), str(file))
        except MedmapError:
            continue
        if "medmap_dataset" not in said and "names" in said and {"train", "val"} & said.keys():
            return file
    return None


def recognise_yolo(path: Path) -> bool:
    """Whether ``path`` is a ``data.yaml`` of YOLO or a folder with one."""
    return _yaml_of(path) is not None


def open_yolo(path: Path, task: TaskName | None = None) -> Dataset:
    """A YOLO folder as a dataset; reads the text files and the headers of pictures that have boxes.

    Raises:
        LayoutError: A ``data.yaml`` that cannot be understood.
        DatasetError: Lines that are no box, pixels instead of parts, classes out of range, missing files.
        ReadError: A picture with boxes that cannot be read.
    """
    require_task(task, "detect", "YOLO")
    file = _yaml_of(path)
    if file is None:
        raise LayoutError(f"{path} has no data.yaml of YOLO", expected="names, train and val")
    where = str(file)
    said = parsed(_Described, parse_yaml(read_text(file), where), where)
    names = _names(said, where)
    root = _root(said, file)
    pictures = [(p, split) for key, split in PARTS for p in _pictures(getattr(said, key), root, where)]
    if not pictures:
        raise LayoutError(f"{where}: no pictures in train, val or test")
    lines = [_lines(root / _label_path(p)) for p, _ in pictures]
    looked_at = {split for (_, split), rows in zip(pictures, lines, strict=True) if rows is not None}
    boxed = [n for n, rows in enumerate(lines) if rows]
    shapes = dict(zip(boxed, picture_shapes((root / pictures[n][0], None) for n in boxed), strict=True))
    ids = unique_ids([p for p, _ in pictures])
    fitting = Fitting(where)
    cases = []
    for n, (picture, split) in enumerate(pictures):
        rows = lines[n] or []
        boxes = tuple(_boxes(rows, shapes.get(n, ()), len(names), picture, fitting))
        truth = Truth(True, boxes=boxes) if split in looked_at else Truth()
        cases.append(Case(ids[n], ids[n], {"image": Ref(picture)}, truth, split))
    fitting.warn()
    dataset = Dataset(
        name=file.stem if file.stem not in ("data", "dataset") else file.resolve().parent.name,
        task="detect",
        cases=tuple(cases),
        inputs={"image": InputSpec()},
        labels=tuple(Label(name) for name in names),
        root=root,
        licence=said.licence or said.license,
        patients_known=False,
    )
    return with_kept_table(with_kept_block(dataset, said.medmap, where), file.parent)


def _names(said: _Described, where: str) -> list[str]:
    given = said.names if isinstance(said.names, dict) else dict(enumerate(said.names))
    if sorted(given) != list(range(len(given))) or (said.nc is not None and said.nc != len(given)):
        raise LayoutError(f"{where}: names and nc do not count the classes from 0", got=(sorted(given)[:5], said.nc))
    return [str(given[i]) for i in range(len(given))]


def _root(said: _Described, file: Path) -> Path:
    """The folder of ``path``, where it exists; data that were moved are looked for beside the file."""
    if said.path and "\0" not in said.path:
        root = file.parent / said.path
        if root.is_dir():
            return root
    return file.parent


def _pictures(given: str | tuple[str, ...] | None, root: Path, where: str) -> list[str]:
    found: list[str] = []
    for text in () if given is None else (given,) if isinstance(given, str) else given:
        place = _place(text, root, where)
        if place.lower().endswith(".txt"):
            listed = read_text(root / place, 2**30).splitlines()
            names = [inside(line.strip(), f"{where}: {place}", absolute=True) for line in listed if line.strip()]
            require_files(root, names, place)
            found += names
        elif (root / place).is_dir():
            inner = (p for p in (root / place).rglob("*") if is_image_name(p.name) and not p.name.startswith("."))
            found += sorted((p.relative_to(root).as_posix() for p in inner), key=natural_key)
        else:
            raise DatasetError(f"{where} names a folder that does not exist", got=text)
    return found


def _place(text: str, root: Path, where: str) -> str:
    """A folder of pictures inside the root; ``../train`` means ``train`` where only that exists."""
    bare = text.replace("\\", "/")
    while bare.startswith("../"):
        bare = bare.removeprefix("../")
    if bare != text and "\0" not in bare and (root / bare).exists():
        return inside(bare, where)
    return inside(text, where, absolute=True)


def _label_path(picture: str) -> str:
    """Where the boxes of a picture stand: the last folder ``images`` becomes ``labels``."""
    head, found, tail = f"/{picture}".rpartition("/images/")
    swapped = f"{head}/labels/{tail}" if found else f"/{picture}"
    stem = swapped.rsplit(".", 1)[0] + ".txt"
    return stem if picture.startswith("/") else stem.removeprefix("/")


def _lines(path: Path) -> list[str] | None:
    """The lines of a text file; None when there is none."""
    return read_text(path).splitlines() if path.is_file() else None


def _boxes(
    rows: Sequence[str], shape: Sequence[int], count: int, picture: str, fitting: Fitting
) -> Iterator[tuple[Corners, int]]:
    for i, row in enumerate(rows, 1):
        if not row.strip():
            continue
        where = f"{_label_path(picture)}, line {i}"
        try:
            number, values = _numbers(row, count, where, picture)
        except BoxError as error:
            refused(error)
            continue
        corners = fitting.fit(corners_of_line(*values, shape), shape, where, picture)
        if corners is not None:
            yield corners, number


def _numbers(line: str, count: int, where: str, picture: str) -> tuple[int, tuple[float, float, float, float]]:
    """The class, and centre and size as parts of the picture.

    Raises:
        BoxError: They cannot be meant so.
    """

    def wrong(what: str, code: str, got: object = repr(line[:60]), expected: object = None) -> BoxError:
        return BoxError(f"{where}: {what}", code, got=got, expected=expected, case=picture)

    wanted = "class x y width height"
    try:
        number, *values = [float(word) for word in line.split()]
    except ValueError as error:
        raise wrong("no box", "box_unreadable", expected=wanted) from error
    polygon = len(values) >= 6 and len(values) % 2 == 0
    if (len(values) != 4 and not polygon) or not all(math.isfinite(v) for v in (number, *values)):
        raise wrong("no box", "box_unreadable", expected=wanted)
    if number != int(number) or not 0 <= number < count:
        raise wrong("class out of range", "box_unknown_class", got=f"{number:g}", expected=f"0 to {count - 1}")
    if max(values) > 1 + _NEARLY:
        raise wrong("pixels where parts of the picture's size belong", "box_wrong_unit", expected="0 to 1")
    if min(values) < -_NEARLY:
        raise wrong("a negative position or size", "box_without_size", expected="0 to 1")
    if polygon:
        xs, ys = values[0::2], values[1::2]
        values = [(min(xs) + max(xs)) / 2, (min(ys) + max(ys)) / 2, max(xs) - min(xs), max(ys) - min(ys)]
    if values[2] <= 0 or values[3] <= 0:
        raise wrong("a box without width or height", "box_without_size")
    x, y, width, height = values
    return int(number), (x, y, width, height)
