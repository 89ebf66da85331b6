"""What every layout of pictures with boxes needs when it is written: one picture a case, its size, its file."""

from __future__ import annotations

from medmap.dataset import Case, Dataset
from medmap.errors import DatasetError
from medmap.layouts.boxes import picture_shapes
from medmap.layouts.placing import Placing, safe_name
from medmap.read.door import suffix_of

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")


def sizes_of_pictures(dataset: Dataset, layout: str) -> tuple[str, list[tuple[int, ...]]]:
    """The name of the one input, and rows and columns of every case's picture, from headers.

    Raises:
        DatasetError: Several inputs, a case without its picture, volumes.
        ReadError: A file that is no image.
    """
    if len(dataset.inputs) != 1:
        raise DatasetError(
            f"{layout} holds one picture a case", got=", ".join(dataset.inputs), remedy="choose one input"
        )
    (name,) = dataset.inputs
    refs = []
    for case in dataset:
        ref = case.inputs.get(name)
        if ref is None:
            raise DatasetError(f"a case without its picture cannot be in {layout}", case=case.id)
        refs.append(ref)
    shapes = picture_shapes((dataset.resolve(ref), ref.member) for ref in refs)
    for case, shape in zip(dataset, shapes, strict=True):
        if len(shape) != 2:
            raise DatasetError(f"{layout} holds pictures, not volumes", got=shape, case=case.id)
    return name, shapes


def place_picture(case: Case, name: str, placing: Placing, folder: str) -> str:
    """Place a case's picture below a folder, as it is where it is a picture file, else as PNG; its file name there."""
    ref = case.inputs[name]
    if ref is None:
        raise DatasetError("a case without its picture cannot be exported", case=case.id)
    ending = suffix_of(ref.path)
    if ref.member is None and ending in PICTURES:
        file = f"{safe_name(case.id, case.id)}{ending}"
        placing.same(ref, f"{folder}/{file}")
    else:
        file = f"{safe_name(case.id, case.id)}.png"
        placing.image(placing.read(ref), f"{folder}/{file}")
    return file


def partly_annotated_note(dataset: Dataset) -> list[str]:
    """What other programs do not see of cases that were looked at for some classes only."""
    partial = [case.id for case in dataset if case.truth.known is not None]
    if not partial:
        return []
    return [f"{len(partial)} cases are annotated for some classes only, which other programs do not see"]
