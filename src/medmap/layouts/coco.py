"""COCO: one JSON with images, annotations and categories.

``bbox`` is x, y, width and height in pixels, where x and y count from the outer edge of the top left pixel
(cocodataset.org, data format). A segmentation is kept as its box. ``iscrowd: 1`` is neither found nor missed.

::

    annotations/instances_train.json    images/train/… or images/… or train/…
    train/_annotations.coco.json        train/…

An ``image_info`` file without ``annotations`` lists images that nobody has looked at.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from medmap.dataset import Case, Dataset, InputSpec, Ref, TaskName, Truth
from medmap.errors import BoxError, DatasetError, LayoutError
from medmap.layouts.boxes import (
    Corners,
    Fitting,
    corners_of_edges,
    edges_of_corners,
    refused,
    shapes_as_stated,
)
from medmap.layouts.foreign import Foreign, inside, json_object, mentions, parsed, require_files, require_task
from medmap.layouts.kept import with_kept_block, with_kept_table
from medmap.layouts.naming import SPLIT_NAMES, unique_ids
from medmap.results import Label

ROBOFLOW = "_annotations.coco.json"
# from so many boxes on, of which so many fit as corners and so many do not as width and height, they are corners
FEWEST, NEARLY_ALL, MANY = 8, 0.98, 0.2


class _Image(Foreign):
    id: int
    file_name: str
    width: int | None = None
    height: int | None = None


class _Annotation(Foreign):
    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float] | None = None
    segmentation: Any = None
    iscrowd: int = Field(default=0, ge=0, le=1)


class _Category(Foreign):
    id: int
    name: str = Field(min_length=1)


class _Licence(Foreign):
    name: str = ""


class _Info(Foreign):
    description: str = ""
    medmap: Any = None


class _Described(Foreign):
    images: tuple[_Image, ...]
    annotations: tuple[_Annotation, ...] | None = None
    categories: tuple[_Category, ...] = ()
    licenses: tuple[_Licence, ...] = ()
    info: _Info = _Info()


def corners_of_bbox(bbox: Sequence[float]) -> Corners:
    """Corner voxels (row, column, row, column) of x, y, width, height.

    Example:
        >>> corners_of_bbox((2, 1, 3, 5))
        (1.0, 2.0, 5.0, 4.0)
    """
    x, y, width, height = bbox
    return corners_of_edges((y - 0.5, x - 0.5), (y + height - 0.5, x + width - 0.5))


def bbox_of_corners(corners: Corners) -> list[float]:
    """x, y, width, height of corner voxels; the inverse of ``corners_of_bbox`` for boxes of a pixel and more."""
    (top, left), (bottom, right) = edges_of_corners(corners)
    return [left + 0.5, top + 0.5, right - left, bottom - top]


def _jsons(path: Path) -> list[Path]:
    """The files of a COCO dataset: the file itself, or those of a folder."""
    if path.is_file():
        return [path] if _is_coco(path) else []
    places = [path / "annotations", path, *sorted(p for p in path.iterdir() if p.is_dir())]
    for n, place in enumerate(places[:2]):
        found = [p for p in sorted(place.glob("*.json")) if _is_coco(p)] if place.is_dir() else []
        if found and (n == 0 or len(found) == 1 or all(_split(p) for p in found)):
            return found
    found = [p / ROBOFLOW for p in places[2:]]
    return [p for p in found if _is_coco(p)]


def _is_coco(path: Path) -> bool:
    return path.suffix.lower() == ".json" and mentions(path, '"images"', '"file_name"', '"categories"')


def recognise_coco(path: Path) -> bool:
    """Whether ``path`` is a COCO file or a folder with some."""
    return bool(_jsons(path))


def _split(file: Path) -> str | None:
    """What a file's name, or that of its folder, says of the split."""
    words = re.split(r"[^a-z]+", file.stem.lower())
    if file.name == ROBOFLOW:
        words = [file.parent.name.lower()]
    return next((SPLIT_NAMES[w] for w in words if w in SPLIT_NAMES), None)


def open_coco(path: Path, task: TaskName | None = None) -> Dataset:
    """COCO files as a dataset; reads the lists, and headers of images whose size they do not state.

    Raises:
        LayoutError: Files that cannot be understood.
        DatasetError: Boxes outside, of unknown images or categories, in parts of the image's size; missing files.
    """
    require_task(task, "detect", "COCO")
    files = _jsons(path)
    if not files:
        raise LayoutError(f"{path} holds no COCO file", expected="JSON with images, annotations and categories")
    root = _root(path)
    said = [(file, parsed(_Described, json_object(file), str(file))) for file in files]
    labels, index = _categories(said)
    cases: list[Case] = []
    for file, one in said:
        cases += _cases(file, one, root, index)
    ids = unique_ids([case.id for case in cases])
    if len(set(ids)) < len(ids):
        raise DatasetError(f"{path} lists an image twice", got=next(i for i in ids if ids.count(i) > 1))
    first = said[0][1]
    dataset = Dataset(
        name=first.info.description or root.resolve().name,
        task="detect",
        cases=tuple(Case(i, i, case.inputs, case.truth, case.split) for i, case in zip(ids, cases, strict=True)),
        inputs={"image": InputSpec()},
        labels=labels,
        root=root,
        licence=first.licenses[0].name or None if first.licenses else None,
        patients_known=False,
    )
    return with_kept_table(with_kept_block(dataset, first.info.medmap, str(files[0])), root, part=path.is_file())


def _root(path: Path) -> Path:
    """What the paths of images are relative to."""
    if path.is_dir():
        return path
    return path.parent.parent if path.parent.name == "annotations" else path.parent


def coco_numbers(path: Path) -> tuple[dict[str, int], dict[str, int]]:
    """How a dataset in this layout numbers what it holds: image file below its root → id, class → category id.

    Results for COCO's own evaluation carry these numbers.

    Args:
        path: As ``open_coco`` takes it.

    Raises:
        DatasetError: Two of its files give one number to two images.
    """
    said = [(file, parsed(_Described, json_object(file), str(file))) for file in _jsons(path)]
    labels, index = _categories(said)
    root = _root(path)
    images: dict[str, int] = {}
    for file, one in said:
        names = [inside(image.file_name, str(file)) for image in one.images]
        prefix = _prefix(file, root, names, str(file))
        images |= {prefix + name: image.id for name, image in zip(names, one.images, strict=True)}
    if len(set(images.values())) < len(images):
        raise DatasetError(
            f"the files of {path} number different images alike", got=", ".join(file.name for file, _ in said),
            remedy="answer for one of the files: each has numbers of its own",
        )  # fmt: skip
    return images, {labels[i].name: number for number, i in index.items()}


def _categories(said: Sequence[tuple[Path, _Described]]) -> tuple[tuple[Label, ...], dict[int, int]]:
    names: dict[int, str] = {}
    for file, one in said:
        for category in one.categories:
            if names.setdefault(category.id, category.name) != category.name:
                raise DatasetError(
                    f"{file}: a category has another name than in the other files",
                    got=category.name,
                    expected=names[category.id],
                )
    order = sorted(names)
    return tuple(Label(names[i]) for i in order), {number: i for i, number in enumerate(order)}


def _cases(file: Path, said: _Described, root: Path, index: Mapping[int, int]) -> list[Case]:
    where = str(file)
    names = [inside(image.file_name, where) for image in said.images]
    prefix = _prefix(file, root, names, where)
    paths = [prefix + name for name in names]
    require_files(root, paths, where)
    files = [(root / path, f"{where}: {path}") for path in paths]
    shapes = shapes_as_stated(files, [(image.height, image.width) for image in said.images])
    sizes = {image.id: (shape[0], shape[1]) for image, shape in zip(said.images, shapes, strict=True)}
    if len(sizes) < len(said.images):
        raise DatasetError(f"{where}: two images have the same id")
    pictures = {image.id: path for image, path in zip(said.images, paths, strict=True)}
    found, crowds = _boxes(said, sizes, pictures, index, where)
    annotated = said.annotations is not None
    return [
        Case(
            path,
            path,
            {"image": Ref(path)},
            Truth(True, boxes=tuple(found[image.id]), ignored=tuple(crowds[image.id])) if annotated else Truth(),
            _split(file),
        )
        for image, path in zip(said.images, paths, strict=True)
    ]


Found = dict[int, list[tuple[Corners, int]]]


def _boxes(
    said: _Described,
    sizes: Mapping[int, tuple[int, int]],
    pictures: Mapping[int, str],
    index: Mapping[int, int],
    where: str,
) -> tuple[Found, Found]:
    found: Found = defaultdict(list)
    crowds: Found = defaultdict(list)
    fitting = Fitting(where)
    unit = _unit(said.annotations or (), sizes)
    for n, one in enumerate(said.annotations or ()):
        place = f"{where}: annotations[{n}]"
        if one.image_id not in sizes:
            raise DatasetError(f"{place} is of an image that is not listed", got=one.image_id)
        bbox = one.bbox or _bbox_of_segmentation(one.segmentation, place)
        wrong = _refusal(one, bbox, index, place, unit)
        if wrong is not None:
            wrong.case = pictures[one.image_id]
            refused(wrong)
            continue
        corners = fitting.fit(corners_of_bbox(bbox), sizes[one.image_id], place, pictures[one.image_id])
        if corners is not None:
            (crowds if one.iscrowd else found)[one.image_id].append((corners, index[one.category_id]))
    fitting.warn()
    return found, crowds


def _refusal(
    one: _Annotation, bbox: Sequence[float], index: Mapping[int, int], place: str, unit: str | None
) -> BoxError | None:
    """What is wrong with an annotation, or None."""
    if one.category_id not in index:
        return BoxError(
            f"{place} is of an unknown category", "box_unknown_class", got=one.category_id, expected=sorted(index)[:10]
        )
    if bbox[2] <= 0 or bbox[3] <= 0:
        what = f"{place}: a box without width or height"
        return BoxError(what, "box_without_size", got=list(bbox), expected="x, y, width, height")
    if unit == "corners" and one.bbox:
        what = f"{place}: boxes are written as x0, y0, x1, y1: as x, y, width, height many reach beyond their image"
        return BoxError(what, "box_corners_as_size", got=list(bbox), expected="x, y, width, height")
    if unit == "parts":
        what = f"{place}: boxes are parts of the image's size"
        return BoxError(what, "box_wrong_unit", got=list(bbox), expected="pixels, as COCO has them")
    return None


def _all_parts(annotations: Sequence[_Annotation]) -> bool:
    """Whether all boxes lie between 0 and 1: they are parts of the image's size then, not pixels."""
    boxes = [a.bbox for a in annotations if a.bbox]
    return bool(boxes) and all(max(b) <= 1 for b in boxes)


def _unit(annotations: Sequence[_Annotation], sizes: Mapping[int, tuple[int, int]]) -> str | None:
    """What all boxes of a file seem to be written in, where it is not what COCO has: parts, or corners."""
    if _all_parts(annotations):
        return "parts"
    boxes = [(a.bbox, sizes[a.image_id]) for a in annotations if a.bbox and a.image_id in sizes]
    if len(boxes) < FEWEST:
        return None
    fit = sum(0 <= b[0] < b[2] <= size[1] and 0 <= b[1] < b[3] <= size[0] for b, size in boxes)
    beyond = sum(b[0] + b[2] > size[1] + 1 or b[1] + b[3] > size[0] + 1 for b, size in boxes)
    return "corners" if fit >= NEARLY_ALL * len(boxes) and beyond >= MANY * len(boxes) else None


def _bbox_of_segmentation(value: Any, where: str) -> tuple[float, float, float, float]:
    """The box around polygons ``[[x0, y0, x1, y1, …], …]``."""
    rings = value if isinstance(value, list) else []
    good = rings and all(
        isinstance(r, list) and len(r) >= 6 and len(r) % 2 == 0 and all(isinstance(v, int | float) for v in r)
        for r in rings
    )
    if not good:
        raise DatasetError(f"{where} has no box and no polygon", got=repr(value)[:60], expected="bbox")
    xs, ys = [v for r in rings for v in r[0::2]], [v for r in rings for v in r[1::2]]
    return min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)


def _prefix(file: Path, root: Path, names: Sequence[str], where: str) -> str:
    """The folder that file names start from, by where the first image is: relative to ``root``, ending in ``/``."""
    stem: str = re.sub(r"^(instances|image_info|annotations|person_keypoints)_?", "", file.stem)
    here = "" if file.parent in (root, root / "annotations") else f"{file.parent.name}/"
    below = (f"images/{stem}/", f"{stem}/") if stem else ()
    usual = "train2017/" if "train" in stem else "val2017/"
    prefixes: tuple[str, ...] = (here, *below[:1], "images/", *below[1:], usual)
    for prefix in prefixes:
        if not names or (root / prefix / names[0]).is_file():
            return prefix
    raise DatasetError(
        f"{where} names images that are not found", got=names[0], expected=f"below {root}/images, or beside the JSON"
    )
