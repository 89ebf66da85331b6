"""Images in one folder, a mask for each under the same name in another, and no file that says more.

::

    study/images/case7.nii.gz
    study/masks/case7.nii.gz        also case7_mask.nii.gz; the folder may be labels, segmentations, …
"""

from __future__ import annotations

import re
import warnings
from pathlib import Path

from medmap.dataset import Case, Dataset, InputSpec, Ref, TaskName, Truth
from medmap.errors import LayoutError, QualityWarning
from medmap.layouts.folders import is_image_name
from medmap.layouts.foreign import require_task
from medmap.layouts.naming import natural_key
from medmap.read.door import suffix_of

IMAGE_FOLDERS = frozenset({"image", "images", "img", "imgs", "scan", "scans", "volume", "volumes"})
MASK_FOLDERS = frozenset(
    {"mask", "masks", "label", "labels", "seg", "segs", "segmentation", "segmentations", "annotations", "gt"}
)
_MASK_ENDING = re.compile(r"[_.-](mask|seg|segmentation|label|labels|gt)$", re.IGNORECASE)


def recognise_pairs(path: Path) -> bool:
    """Whether ``path`` holds a folder of images and one of masks, of which one at least has an image's name."""
    places = _places(path)
    if places is None:
        return False
    images, masks = (_stems(place) for place in places)
    return any(_image_of(stem, images) for stem in masks)


def open_pairs(path: Path, task: TaskName | None = None) -> Dataset:
    """A folder of images beside a folder of masks as a dataset; reads names, no pixel.

    What the masks' values mean is written nowhere, so the dataset names no structure. An image without a mask was not
    annotated.

    Raises:
        LayoutError: No such pair of folders, two files of one name, or no mask that belongs to an image.
    """
    require_task(task, "segment", "a folder of images beside one of masks")
    places = _places(path)
    if places is None:
        raise LayoutError(
            f"{path} does not hold one folder of images and one of masks",
            expected="images and masks (or labels, segmentations) side by side",
        )
    images, masks = (_stems(place) for place in places)
    found: dict[str, str] = {}
    alone = []
    for stem, name in masks.items():
        image = _image_of(stem, images)
        if image is None:
            alone.append(name)
        elif image in found:
            raise LayoutError(f"{places[1]} holds two masks of one image", got=f"{found[image]}, {name}")
        else:
            found[image] = name
    if not found:
        raise LayoutError(f"no mask in {places[1]} has the name of an image in {places[0]}", got=", ".join(alone[:3]))
    if alone:
        shown = ", ".join(alone[:3]) + (" …" if len(alone) > 3 else "")
        warnings.warn(
            f"{len(alone)} of {len(masks)} masks have no image of their name and were left out: {shown}",
            QualityWarning,
            stacklevel=3,
        )
    cases = []
    for stem in sorted(images, key=natural_key):
        mask = (Ref(f"{places[1].name}/{found[stem]}"),) if stem in found else ()
        image_ref = Ref(f"{places[0].name}/{images[stem]}")
        cases.append(Case(stem, stem, {"image": image_ref}, Truth(annotated=bool(mask), masks=mask)))
    return Dataset(
        name=path.resolve().name or "dataset",
        task="segment",
        cases=tuple(cases),
        inputs={"image": InputSpec()},
        labels=(),
        root=path,
        patients_known=False,
    )


def _places(path: Path) -> tuple[Path, Path] | None:
    """The folder of images and that of masks; None unless there is exactly one of each and no third."""
    if not path.is_dir():
        return None
    folders = [p for p in path.iterdir() if p.is_dir() and not p.name.startswith(".")]
    images = [p for p in folders if p.name.lower() in IMAGE_FOLDERS]
    masks = [p for p in folders if p.name.lower() in MASK_FOLDERS]
    return (images[0], masks[0]) if len(folders) == 2 and len(images) == len(masks) == 1 else None


def _stems(folder: Path) -> dict[str, str]:
    """Name without suffix → file, of the images in a folder."""
    found: dict[str, str] = {}
    for file in sorted(folder.iterdir(), key=lambda p: natural_key(p.name)):
        if file.name.startswith(".") or not is_image_name(file.name):
            continue
        stem = file.name[: -len(suffix_of(file.name))]
        if stem in found:
            raise LayoutError(f"{folder} holds two files of one name", got=f"{found[stem]}, {file.name}")
        found[stem] = file.name
    return found


def _image_of(stem: str, images: dict[str, str]) -> str | None:
    return next((name for name in (stem, _MASK_ENDING.sub("", stem)) if name in images), None)
