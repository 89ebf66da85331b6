"""Pascal VOC: one XML a picture, lists of names for each split.

``xmin, ymin, xmax, ymax`` are the first and the last pixel of a box, counted from 1 (VOC2012 development kit, 1.2 and
its annotation guidelines). A difficult object is neither found nor missed, as in VOC's own evaluation.

::

    Annotations/a.xml    JPEGImages/a.jpg    ImageSets/Main/train.txt val.txt test.txt    labels.txt

``labels.txt``, where there is one, gives the order of the classes, and those of which there is no object.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree  # documents with a DTD are refused before they are parsed

from medmap.config import read_text
from medmap.dataset import Case, Dataset, InputSpec, Ref, TaskName, Truth
from medmap.errors import BoxError, DatasetError, LayoutError
from medmap.layouts.boxes import Corners, Fitting, refused, shapes_as_stated
from medmap.layouts.folders import is_image_name
from medmap.layouts.foreign import require_task
from medmap.layouts.kept import with_kept_table
from medmap.layouts.naming import natural_key
from medmap.results import Label

ANNOTATIONS = "Annotations"
IMAGES = ("JPEGImages", "images", "PNGImages")
CLASSES = "labels.txt"
SETS = ("ImageSets/Main", "ImageSets")
_MAX_XML_BYTES = 16 * 2**20


@dataclass(frozen=True)
class _Object:
    name: str
    corners: Corners
    difficult: bool


@dataclass(frozen=True)
class _Page:
    shape: tuple[int, int] | None
    objects: tuple[_Object, ...]


def corners_of_bndbox(xmin: float, ymin: float, xmax: float, ymax: float) -> Corners:
    """Corner voxels (row, column, row, column), counted from 0, of VOC's first and last pixels, counted from 1.

    Example:
        >>> corners_of_bndbox(1, 2, 10, 2)
        (1.0, 0.0, 1.0, 9.0)
    """
    return (ymin - 1.0, xmin - 1.0, ymax - 1.0, xmax - 1.0)


def _folders(path: Path) -> tuple[Path, Path] | None:
    """Folders of the XML files and of the pictures."""
    if not path.is_dir():
        return None
    xml = path / ANNOTATIONS if (path / ANNOTATIONS).is_dir() else path
    if not any(xml.glob("*.xml")):
        return None
    images = next((path / name for name in IMAGES if (path / name).is_dir()), xml)
    return xml, images


def recognise_voc(path: Path) -> bool:
    """Whether ``path`` holds VOC annotations: the first XML is looked into."""
    found = _folders(path)
    if found is None:
        return False
    first = min(found[0].glob("*.xml"))
    with first.open("rb") as file:
        return b"<annotation" in file.read(4096)


def open_voc(path: Path, task: TaskName | None = None) -> Dataset:
    """A VOC folder as a dataset; reads the XML files, and headers of pictures whose size they do not state.

    Pictures without an XML file were not looked at. Classes are in the order of ``labels.txt``, else in the order in
    which people count.

    Raises:
        LayoutError: No such folder, or XML that cannot be understood.
        DatasetError: Boxes outside or swapped, annotations without a picture, lists of unknown pictures.
    """
    require_task(task, "detect", "Pascal VOC")
    found = _folders(path)
    if found is None:
        raise LayoutError(f"{path} has no VOC annotations", expected="Annotations/*.xml and JPEGImages/")
    xml, images = found
    pictures = {
        p.stem: p.relative_to(path).as_posix()
        for p in images.iterdir()
        if is_image_name(p.name) and not p.name.startswith(".")
    }
    pages = {p.stem: _page(p) for p in sorted(xml.glob("*.xml"))}
    lost = sorted(pages.keys() - pictures.keys(), key=natural_key)
    if lost:
        raise DatasetError(f"{xml} has annotations of {len(lost)} pictures that do not exist", got=", ".join(lost[:3]))
    boxed = [stem for stem, page in pages.items() if page.objects]
    files = [(path / pictures[stem], f"{xml / stem}.xml") for stem in boxed]
    shapes = dict(zip(boxed, shapes_as_stated(files, [pages[stem].shape for stem in boxed]), strict=True))
    names = _classes(path / CLASSES, {o.name for page in pages.values() for o in page.objects})
    if not names:
        raise LayoutError(f"{xml} names no object")
    splits = _splits(path, set(pictures))
    fitting = Fitting(str(xml))
    cases = []
    for stem in sorted(pictures, key=natural_key):
        page = pages.get(stem)
        truth = Truth() if page is None else _truth(page, shapes.get(stem, ()), names, stem, fitting)
        cases.append(Case(stem, stem, {"image": Ref(pictures[stem])}, truth, splits.get(stem)))
    fitting.warn()
    dataset = Dataset(
        name=path.resolve().name,
        task="detect",
        cases=tuple(cases),
        inputs={"image": InputSpec()},
        labels=tuple(Label(n) for n in names),
        root=path,
        patients_known=False,
    )
    return with_kept_table(dataset, path)


def _classes(path: Path, used: set[str]) -> list[str]:
    """The listed classes where the list holds all that are used and none twice; else those that are used."""
    listed = [line.strip() for line in read_text(path).splitlines() if line.strip()] if path.is_file() else []
    if used <= set(listed) and len(set(listed)) == len(listed):
        return listed
    return sorted(used, key=natural_key)


def _truth(page: _Page, shape: Sequence[int], names: list[str], stem: str, fitting: Fitting) -> Truth:
    rows = [
        (o.difficult, (corners, names.index(o.name)))
        for o in page.objects
        if (corners := fitting.fit(o.corners, shape, f"{stem}.xml", stem)) is not None
    ]
    boxes = tuple(box for difficult, box in rows if not difficult)
    return Truth(True, boxes=boxes, ignored=tuple(box for difficult, box in rows if difficult))


def _page(path: Path) -> _Page:
    text = read_text(path, _MAX_XML_BYTES)
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise LayoutError(f"{path} declares entities, which VOC does not need", remedy="remove the DOCTYPE")
    try:
        tree = ElementTree.fromstring(text)  # noqa: S314  (no entities)
    except (ElementTree.ParseError, ValueError, RecursionError) as error:
        raise LayoutError(f"{path} is no valid XML", got=str(error)) from error
    width, height = _number(tree, "size/width", path, 0), _number(tree, "size/height", path, 0)
    shape = (int(height), int(width)) if width > 0 and height > 0 else None
    return _Page(shape, tuple(o for item in tree.findall("object") if (o := _object(item, path)) is not None))


def _object(item: ElementTree.Element, path: Path) -> _Object | None:
    name = (item.findtext("name") or "").strip()
    if not name:
        raise LayoutError(f"{path}: an object has no name")
    xmin, ymin, xmax, ymax = (_number(item, f"bndbox/{key}", path) for key in ("xmin", "ymin", "xmax", "ymax"))
    if xmin > xmax or ymin > ymax:
        what = f"{path}: a box has swapped corners"
        refused(BoxError(what, "box_swapped_corners", got=(xmin, ymin, xmax, ymax), case=path.stem))
        return None
    if 0 < max(xmax, ymax) <= 1 and any(v != int(v) for v in (xmin, ymin, xmax, ymax)):
        what, wanted = f"{path}: a box in parts of the picture's size", "pixels from 1"
        refused(BoxError(what, "box_wrong_unit", got=(xmin, ymin, xmax, ymax), expected=wanted, case=path.stem))
        return None
    return _Object(name, corners_of_bndbox(xmin, ymin, xmax, ymax), _number(item, "difficult", path, 0) == 1)


def _number(item: ElementTree.Element, key: str, path: Path, default: float | None = None) -> float:
    text = item.findtext(key)
    if text is None and default is not None:
        return default
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise LayoutError(f"{path}: {key} is no number", got=repr(text))
    return value


def _splits(path: Path, stems: set[str]) -> Mapping[str, str]:
    """Splits from the lists of names; ``trainval`` counts as training where there is nothing finer."""
    folder = next((path / name for name in SETS if (path / name).is_dir()), None)
    chosen: dict[str, str] = {}
    for name, split in (("trainval", "train"), ("train", "train"), ("val", "val"), ("test", "test")):
        file = folder / f"{name}.txt" if folder is not None else None
        if file is None or not file.is_file():
            continue
        listed = [line.split()[0] for line in read_text(file).splitlines() if line.strip()]
        unknown = [s for s in listed if s not in stems]
        if unknown:
            raise DatasetError(f"{file} names {len(unknown)} pictures that do not exist", got=", ".join(unknown[:3]))
        chosen.update(dict.fromkeys(listed, split))
    return chosen
