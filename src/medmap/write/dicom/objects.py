"""What each DICOM format of ``medmap.write`` makes of a value: the functions behind the rows of its table.

Each takes (value, the source series, what is said about it) and gives pydicom data sets that are not yet written.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from medmap.errors import UsageError
from medmap.image import Image
from medmap.measure import Instances, instances
from medmap.results import Boxes, Mask, Picture, Prediction
from medmap.write.dicom.capture import captures
from medmap.write.dicom.presentation import presentation_state
from medmap.write.dicom.report import measurement_report
from medmap.write.dicom.seg import segmentation
from medmap.write.dicom.series import classic_series, enhanced_series
from medmap.write.dicom.source import About, Origin
from medmap.write.dicom.structures import structure_set


def binary(value: Any, origin: Origin, about: About) -> Sequence[Any]:
    """One binary segmentation of a mask, or of called boxes."""
    return [segmentation(the_regions(value), origin, about, "BINARY")]


def instances_apart(value: Any, origin: Origin, about: About) -> Sequence[Any]:
    """One binary segmentation with a segment for each connected part of a mask's structures."""
    found = value if isinstance(value, Instances) else instances(the_mask(value))
    return [segmentation(found.as_mask(), origin, about, "BINARY")]


def labelmap(value: Any, origin: Origin, about: About) -> Sequence[Any]:
    """One label-map segmentation of a mask, or of called boxes that do not overlap."""
    return [segmentation(the_regions(value), origin, about, "LABELMAP")]


def fractional(value: Any, origin: Origin, about: About) -> Sequence[Any]:
    """One fractional segmentation of probabilities, or of a mask."""
    if isinstance(value, Image | Picture):
        return [segmentation(value if isinstance(value, Image) else value.image, origin, about, "FRACTIONAL")]
    if isinstance(value, Prediction):
        pictures = [o.image for o in value.outputs.values() if isinstance(o, Picture)]
        if len(pictures) == 1 and pictures[0].quantity == "probability":
            return [segmentation(pictures[0], origin, about, "FRACTIONAL")]
    return [segmentation(the_mask(value), origin, about, "FRACTIONAL")]


def structures(value: Any, origin: Origin, about: About) -> Sequence[Any]:
    """One RT structure set of a mask."""
    return [structure_set(the_mask(value), origin, about)]


def report(value: Any, origin: Origin, about: About) -> Sequence[Any]:
    """One measurement report of masks, boxes and scores."""
    return [measurement_report(value, origin, about, about.segmentation)]


def presentation(value: Any, origin: Origin, about: About) -> Sequence[Any]:
    """One presentation state with masks and boxes drawn over the source."""
    return [presentation_state(value, origin, about)]


def slices(value: Any, origin: Origin, about: About) -> Sequence[Any]:
    """A picture as classic CT, MR or PET slices."""
    return classic_series(the_image(value), origin, about)


def enhanced(value: Any, origin: Origin, about: About) -> Sequence[Any]:
    """A picture as one enhanced multi-frame image."""
    return enhanced_series(the_image(value), origin, about)


def pictures(value: Any, origin: Origin, about: About) -> Sequence[Any]:
    """Secondary captures with a mask's outlines."""
    return captures(the_mask(value), origin, about)


def the_regions(value: Any) -> Mask | Boxes:
    """The boxes, where an answer is boxes and no mask; else its mask.

    Raises:
        UsageError: Neither, or several.
    """
    if isinstance(value, Boxes):
        return value
    if isinstance(value, Prediction) and not any(isinstance(o, Mask) for o in value.outputs.values()):
        found = [o for o in value.outputs.values() if isinstance(o, Boxes)]
        if len(found) == 1:
            return found[0]
    return the_mask(value)


def the_mask(value: Any) -> Mask:
    """The only mask of a prediction, or the mask itself.

    Raises:
        UsageError: None, or several.
    """
    if isinstance(value, Mask):
        return value
    found = {n: o for n, o in value.outputs.items() if isinstance(o, Mask)} if isinstance(value, Prediction) else {}
    if isinstance(value, Prediction) and not found:
        kinds = ", ".join(type(o).__name__.lower() for o in value.outputs.values()) or "nothing"
        raise UsageError(
            "this format is made of a mask, and the answer holds none", got=kinds, expected="a mask",
            remedy="choose json, csv or dicom-sr",
        )  # fmt: skip
    if len(found) != 1:
        raise UsageError(
            "a segmentation is made of one mask", got=", ".join(found) or type(value).__name__,
            remedy="write prediction.outputs[name]" if found else "give a Mask",
        )  # fmt: skip
    return next(iter(found.values()))


def the_image(value: Any) -> Image:
    """The only picture of a prediction, or the image itself.

    Raises:
        UsageError: None, or several.
    """
    if isinstance(value, Image):
        return value
    if isinstance(value, Picture):
        return value.image
    found = {n: o for n, o in value.outputs.items() if isinstance(o, Picture)} if isinstance(value, Prediction) else {}
    if len(found) != 1:
        raise UsageError(
            "a series of images is made of one picture", got=", ".join(found) or type(value).__name__,
            remedy="write prediction.outputs[name]" if found else "give an Image",
        )  # fmt: skip
    return next(iter(found.values())).image
