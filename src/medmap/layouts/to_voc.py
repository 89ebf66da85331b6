"""Pascal VOC written: an XML a picture that was looked at, lists of names for each split, ``labels.txt``."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree import ElementTree

from medmap.dataset import SPLITS, Case, Dataset
from medmap.errors import DatasetError
from medmap.layouts.kept import KEPT_TABLE, kept_table
from medmap.layouts.placing import Placing
from medmap.layouts.to_pictures import partly_annotated_note, place_picture, sizes_of_pictures
from medmap.layouts.voc import ANNOTATIONS, CLASSES, IMAGES, SETS

_SIDES = ("ymin", "xmin", "ymax", "xmax")  # in the order of corners: rows first


def write_voc(dataset: Dataset, placing: Placing) -> list[str]:
    """Place a dataset of pictures and boxes as Pascal VOC. Ignored boxes are difficult objects.

    Raises:
        DatasetError: Volumes, several inputs, a case without its picture; nobody has looked at any; a class whose name
            a line cannot hold.
    """
    if all(case.truth.boxes is None for case in dataset):
        raise DatasetError("VOC needs annotations, and nobody has looked at any case")
    odd = [label.name for label in dataset.labels if label.name != " ".join(label.name.split())]
    if odd:
        raise DatasetError("a class has a name that VOC could not give back", got=repr(odd[0]))
    name, shapes = sizes_of_pictures(dataset, "VOC")
    for case, shape in zip(dataset, shapes, strict=True):
        ref = case.inputs[name]
        file = place_picture(case, name, placing, IMAGES[0])
        if case.truth.boxes is not None and ref is not None:
            text = _page(dataset, case, (file, shape[0], shape[1], len(placing.channels(ref))))
            placing.text(f"{ANNOTATIONS}/{file.rsplit('.', 1)[0]}.xml", text)
    for split in SPLITS:
        _list(placing, dataset, split, (split,))
    _list(placing, dataset, "trainval", ("train", "val"))
    placing.text(CLASSES, "".join(f"{label.name}\n" for label in dataset.labels))
    placing.text(KEPT_TABLE, kept_table(dataset))
    return [*partly_annotated_note(dataset), *_notes(dataset)]


def _list(placing: Placing, dataset: Dataset, name: str, splits: Sequence[str]) -> None:
    """A list of the cases of some splits; none where there are no such cases."""
    listed = [case.id for case in dataset if case.split in splits]
    broken = next((case_id for case_id in listed if case_id != "".join(case_id.split())), None)
    if broken is not None:
        raise DatasetError("an identifier with blanks cannot be in VOC's lists", got=repr(broken), case=broken)
    if listed:
        placing.text(f"{SETS[0]}/{name}.txt", "".join(f"{case_id}\n" for case_id in listed))


def _page(dataset: Dataset, case: Case, picture: tuple[str, int, int, int]) -> str:
    file, rows, columns, channels = picture
    page = ElementTree.Element("annotation")
    _say(page, "folder", IMAGES[0])
    _say(page, "filename", file)
    size = ElementTree.SubElement(page, "size")
    for key, value in (("width", columns), ("height", rows), ("depth", channels)):
        _say(size, key, str(value))
    objects = [(row, "0") for row in case.truth.boxes or ()] + [(row, "1") for row in case.truth.ignored]
    for (corners, label), difficult in objects:
        item = ElementTree.SubElement(page, "object")
        _say(item, "name", dataset.label_names[label])
        _say(item, "truncated", "0")
        _say(item, "difficult", difficult)
        box = ElementTree.SubElement(item, "bndbox")
        written = dict(zip(_SIDES, (_number(v + 1) for v in corners), strict=True))
        for key in ("xmin", "ymin", "xmax", "ymax"):
            _say(box, key, written[key])
    ElementTree.indent(page)
    return ElementTree.tostring(page, encoding="unicode") + "\n"


def _say(parent: ElementTree.Element, key: str, text: str) -> None:
    ElementTree.SubElement(parent, key).text = text


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)


def _notes(dataset: Dataset) -> list[str]:
    notes = []
    boxes = [box for case in dataset for box, _ in (*(case.truth.boxes or ()), *case.truth.ignored)]
    between = sum(any(v != int(v) for v in box) for box in boxes)
    if between:
        notes.append(f"{between} of {len(boxes)} boxes have corners between pixels, which other programs may round")
    if any(label.code for label in dataset.labels):
        notes.append("codes of classes are lost: VOC has no place for them")
    return notes
