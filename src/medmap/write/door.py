"""The door that every file leaves by: whole or not at all, and never over another one unless asked."""

from __future__ import annotations

import csv
import io
import json
import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from medmap.errors import UsageError
from medmap.image import Image
from medmap.measure import Instances
from medmap.results import Boxes, Mask, Picture, Prediction, Scores
from medmap.write.dicom import objects
from medmap.write.dicom.files import save_objects
from medmap.write.dicom.source import About, Origin, origin_of
from medmap.write.findings import boxes_table, coco_results, luna16_submission, require_one_class
from medmap.write.images import write_npy, write_png, write_tiff
from medmap.write.meshes import write_obj, write_stl
from medmap.write.volumes import write_instances, write_metaimage, write_nifti, write_nrrd


@dataclass(frozen=True)
class Format:
    """One row of the table of formats.

    Args:
        name: What ``--format`` calls it.
        suffixes: What such files are called; the first is the usual one.
        image: Writes an image, or None.
        result: Writes a prediction as text, or None.
        table: Writes any number of predictions as one text, or None.
        mask: Writes what is made of a mask, a surface or its instances, or None.
        dicom: Makes DICOM objects (pydicom data sets) of a value and the series it refers to, or None.
    """

    name: str
    suffixes: tuple[str, ...]
    image: Callable[[Image, Path], None] | None = None
    result: Callable[[Prediction], str] | None = None
    table: Callable[[Sequence[Prediction]], str] | None = None
    mask: Callable[[Any, Path], None] | None = None
    dicom: Callable[[Any, Origin, About], Sequence[Any]] | None = None


def _json(prediction: Prediction) -> str:
    return json.dumps(prediction.as_json(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _csv(predictions: Sequence[Prediction]) -> str:
    """A row for each output of scores (case, output, decided classes, ``score_<label>`` …), or for each box."""
    found = [(one.case, name, out) for one in predictions for name, out in one.outputs.items()]
    if boxes := [(case, out) for case, _, out in found if isinstance(out, Boxes)]:
        return boxes_table((case, out.as_json(), ()) for case, out in boxes)
    scores = [(case, name, out) for case, name, out in found if isinstance(out, Scores)]
    if not scores:
        raise UsageError(
            "only scores and boxes are written as CSV",
            got=", ".join(type(out).__name__ for _, _, out in found) or "nothing",
            remedy="choose json",
        )
    labels = list(dict.fromkeys(label.name for _, _, out in scores for label in out.labels))
    buffer = io.StringIO()
    rows = csv.writer(buffer, lineterminator="\n")
    rows.writerow(["case", "output", "decided", *(f"score_{label}" for label in labels)])
    for case, name, out in scores:
        values = {label.name: repr(float(v)) for label, v in zip(out.labels, out.values, strict=True)}
        rows.writerow([case, name, ";".join(out.decided), *(values.get(label, "") for label in labels)])
    return buffer.getvalue()


def _coco(predictions: Sequence[Prediction]) -> str:
    """COCO results; ``image_id`` counts the predictions from 1, ``category_id`` the classes."""
    boxes = [_boxes(one) for one in predictions]
    categories = {label.name: number for number, label in enumerate(boxes[0].labels, 1)}
    if any([label.name for label in one.labels] != list(categories) for one in boxes):
        raise UsageError("the predictions have different classes", remedy="write those of one bundle")
    return coco_results(((number, one.as_json()) for number, one in enumerate(boxes, 1)), categories)


def _luna16(predictions: Sequence[Prediction]) -> str:
    boxes = [(one.case, _boxes(one)) for one in predictions]
    for _, one in boxes:
        require_one_class([label.name for label in one.labels])
    return luna16_submission((case, one.as_json()) for case, one in boxes)


def _boxes(prediction: Prediction) -> Boxes:
    found = [out for out in prediction.outputs.values() if isinstance(out, Boxes)]
    if len(found) != 1:
        got = ", ".join(type(out).__name__ for out in prediction.outputs.values()) or "nothing"
        raise UsageError("this format is made of boxes", got=got, remedy="choose json")
    return found[0]


FORMATS: tuple[Format, ...] = (
    Format("nifti", (".nii.gz", ".nii"), image=write_nifti),
    Format("nrrd", (".nrrd",), image=write_nrrd),
    Format("mha", (".mha",), image=write_metaimage),
    Format("png", (".png",), image=write_png),
    Format("tiff", (".tiff", ".tif"), image=write_tiff),
    Format("npy", (".npy",), image=write_npy),
    Format("json", (".json",), result=_json),
    Format("csv", (".csv",), table=_csv),
    Format("coco", (".json",), table=_coco),
    Format("luna16", (".csv",), table=_luna16),
    Format("instances", (".nii.gz", ".nii", ".png"), mask=write_instances),
    Format("stl", (".stl",), mask=write_stl),
    Format("obj", (".obj",), mask=write_obj),
    Format("dicom-seg", (".dcm",), dicom=objects.binary),
    Format("dicom-seg-instances", (".dcm",), dicom=objects.instances_apart),
    Format("dicom-seg-fractional", (".dcm",), dicom=objects.fractional),
    Format("dicom-seg-labelmap", (".dcm",), dicom=objects.labelmap),
    Format("dicom", (".dcm",), dicom=objects.slices),
    Format("dicom-enhanced", (".dcm",), dicom=objects.enhanced),
    Format("dicom-sc", (".dcm",), dicom=objects.pictures),
    Format("dicom-rtstruct", (".dcm",), dicom=objects.structures),
    Format("dicom-sr", (".dcm",), dicom=objects.report),
    Format("dicom-gsps", (".dcm",), dicom=objects.presentation),
)


def write(
    value: Image | Prediction | Scores | Mask | Instances | Boxes | Picture | Sequence[Prediction],
    path: str | Path,
    format: str | None = None,
    *,
    overwrite: bool = False,
    source: Any = None,
    about: About | None = None,
) -> Path:
    """Write an image or a prediction to one file, or to DICOM objects that refer to the series it was made from.

    Of a prediction with a mask or a picture, image formats write that; ``json`` writes all of it, ``csv`` its scores or
    boxes, ``coco`` and ``luna16`` its boxes as those who judge read them.

    Args:
        value: What to write; of ``csv``, ``coco`` and ``luna16`` also several predictions, which become one file.
        path: The file; its suffix names the format when ``format`` does not. For DICOM also a folder: one object is
            named after its format in it, a series of images becomes a folder of its own that must not hold anything.
        format: nifti, nrrd, mha, png, tiff, npy, json, csv, coco, luna16; stl, obj (the surface of a mask);
            instances (a mask's connected parts, numbered: NIfTI, or PNG by the file's name), which is always named, as
            is a DICOM object (``FORMATS``).
        overwrite: Replace a file that is there (never a folder).
        source: For DICOM: the series that the value was made from, as an ``Image`` that was read, a ``Series``, a
            folder or files. An image that was read from DICOM is its own source.
        about: For DICOM: title, algorithm, codes.

    Returns:
        The path that was written.

    Raises:
        UsageError: The file exists, cannot be written, or the format does not fit the value.
        DataError: The format would change values.
        GeometryError: The format states millimetres and the image has none.

    Example:
        >>> import tempfile
        >>> from medmap.geometry import Geometry
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     image = Image(np.zeros((4, 5), np.uint8), Geometry.without_size((4, 5)))
        ...     write(image, f"{folder}/a.png").name
        'a.png'
    """
    folder = os.fspath(path).endswith(("/", os.sep))
    path = Path(path)
    row = _format(path, format)
    if row.dicom is not None:
        return _dicom(
            row, value, path / f"{row.name}.dcm" if folder or path.is_dir() else path, (overwrite, source, about)
        )
    if source is not None or about is not None:
        raise UsageError("source and about belong to DICOM objects", got=row.name, remedy="leave them out")
    suffix = next((s for s in row.suffixes if path.name.lower().endswith(s)), row.suffixes[0])
    if row.result is not None or row.table is not None:
        text = _text(row, value)
        with _aside(path, suffix, overwrite) as aside:
            aside.write_text(text, encoding="utf-8")
        return path
    if row.mask is not None:
        if row.name == "instances" and not path.name.lower().endswith(row.suffixes):
            raise UsageError("instances are written as NIfTI or PNG", got=path.name, expected=", ".join(row.suffixes))
        with _aside(path, suffix, overwrite) as aside:
            row.mask(value if isinstance(value, Instances) and row.name == "instances" else _mask(value), aside)
        return path
    image = _image(value)
    if row.image is not None:
        with _aside(path, suffix, overwrite) as aside:
            row.image(image, aside)
    return path


def _format(path: Path, name: str | None) -> Format:
    known = ", ".join(row.name for row in FORMATS)
    if "\0" in str(path):
        raise UsageError("a path holds a NUL character", got=repr(str(path)))
    if name is not None:
        for row in FORMATS:
            if row.name == name:
                return row
        raise UsageError("unknown format", got=repr(name), expected=known)
    for row in FORMATS:  # json before coco, csv before luna16, nifti before instances: those are named
        if row.dicom is None and path.name.lower().endswith(row.suffixes):
            return row
    raise UsageError("the file's name does not say its format", got=path.name, expected=known, remedy="give the format")


def _dicom(row: Format, value: Any, path: Path, how: tuple[bool, Any, About | None]) -> Path:
    overwrite, source, about = how
    about = about or About()
    if isinstance(value, Prediction) and value.bundle and not about.bundle:
        about = replace(about, bundle=value.bundle)
    image = value.image if isinstance(value, Picture) else value
    source = image if source is None and isinstance(image, Image) else source
    if source is None:
        raise UsageError(
            "a DICOM object refers to the series it was made from", got="no source",
            remedy="give source=: the image that was read, its series, folder or files",
        )  # fmt: skip
    if row.dicom is None:
        raise UsageError("this is no DICOM format", got=row.name)
    fits = getattr(image, "geometry", None) or next(iter(getattr(value, "source", {}).values()), None)
    datasets = row.dicom(value, origin_of(source, fits), about)
    return save_objects(datasets, path, overwrite)


def _text(row: Format, value: Any) -> str:
    if row.table is not None:
        several = list(value) if isinstance(value, list | tuple) else [value]
        if not several:
            raise UsageError("there is no prediction to write", got="none")
        return row.table([_prediction(one) for one in several])
    if row.result is None:
        raise UsageError("this is no format of text", got=row.name)
    return row.result(_prediction(value))


def _prediction(value: Any) -> Prediction:
    if isinstance(value, Prediction):
        return value
    if isinstance(value, Scores):
        return Prediction("", {"scores": value})
    if isinstance(value, Mask | Boxes | Picture):
        return Prediction("", {"output": value})
    raise UsageError("only results are written as text", got=type(value).__name__, remedy="choose an image format")


def _mask(value: Any) -> Mask:
    masks = [value]
    if isinstance(value, Prediction):
        masks = [out for out in value.outputs.values() if isinstance(out, Mask)]
    if len(masks) != 1 or not isinstance(masks[0], Mask):
        raise UsageError("this format is made of one mask", got=type(value).__name__, remedy="choose another format")
    return masks[0]


def _image(value: Any) -> Image:
    if isinstance(value, Image):
        return value
    if isinstance(value, Picture | Instances):
        return value.image
    if isinstance(value, Mask):
        names = tuple(label.name for label in value.labels.values())
        several = value.array.dtype == np.bool_ and len(names) > 1
        array = value.array[..., 0] if value.array.dtype == np.bool_ and len(names) == 1 else value.array
        return Image(array, value.geometry, "label", names if several else ("image",))
    if isinstance(value, Prediction):
        found: Mapping[str, Mask | Picture] = {
            n: out for n, out in value.outputs.items() if isinstance(out, Mask | Picture)
        }
        if len(found) != 1:
            raise UsageError(
                "an image format writes one mask or picture",
                got=", ".join(found) or "a prediction without either",
                remedy="write prediction.outputs[name], or choose json",
            )
        return _image(next(iter(found.values())))
    raise UsageError("this is no image", got=type(value).__name__, expected="an Image, Mask, Picture or Prediction")


@contextmanager
def _aside(path: Path, suffix: str, overwrite: bool) -> Iterator[Path]:
    """A neighbour file that takes the target's place when it is complete, and vanishes otherwise."""
    if not overwrite and os.path.lexists(path):
        raise UsageError(f"{path} exists", remedy="choose another name, or give overwrite=True")
    aside = path.with_name(f".{secrets.token_hex(8)}{suffix}")
    try:
        yield aside
        with aside.open("rb+") as file:
            os.fsync(file.fileno())
        if not overwrite and os.path.lexists(path):
            raise UsageError(f"{path} appeared meanwhile and was left as it is")
        aside.replace(path)
    except OSError as error:
        raise UsageError(
            f"{path} cannot be written",
            got=error.strerror or str(error),
            remedy="check space and permission",
        ) from error
    finally:
        aside.unlink(missing_ok=True)
