"""Which images a bundle is for, and how they are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medmap.bundle import Bundle
from medmap.dataset import Case, Dataset
from medmap.errors import DataError, UsageError
from medmap.feed import case_image
from medmap.image import Image


@dataclass(frozen=True)
class FailedCase:
    """A case without an answer, and why."""

    case: str
    reason: str


# Radiographs by either technique answer to one name.
SAME_MODALITY = {"DX": "CR", "RG": "CR"}


def refuse_unlike(image: Image, accepts: Mapping[str, Any]) -> None:
    """Refuse an image that the bundle is not for; what either side does not state is not compared.

    Raises:
        DataError: Another modality, number of dimensions, or a voxel spacing far from all seen in training.
    """
    wanted, have = accepts.get("modality"), image.source.modality
    if wanted and have and SAME_MODALITY.get(wanted, wanted) != SAME_MODALITY.get(have, have):
        raise DataError("the bundle is not for such images", got=have, expected=wanted)
    if accepts.get("ndim") and image.ndim != accepts["ndim"]:
        raise DataError("the bundle is not for such images", got=f"{image.ndim}-D", expected=f"{accepts['ndim']}-D")
    limits = accepts.get("spacing_mm")
    if limits and image.geometry.has_size:
        low, high = min(image.spacing_mm), max(image.spacing_mm)
        if low < limits[0] or high > limits[1]:
            raise DataError(
                "the bundle is not for images of such spacing",
                got=f"{low:.3g} to {high:.3g} mm",
                expected=f"{limits[0]:.3g} to {limits[1]:.3g} mm",
            )


def unlike(image: Image, accepts: Mapping[str, Any]) -> str | None:
    """A sentence when an image's values mean something else than those the bundle learned from."""
    known = accepts.get("quantities")
    if known == ["colour"] and len(image.channels) == 1:
        return "the image is grey and the bundle learned from colour: do not trust the answer"
    if not known or image.quantity in known or "unknown" in (*known, image.quantity):
        return None
    return (
        f"the image's values are {image.quantity}, the bundle learned from {', '.join(known)}: do not trust the scores"
    )


def images_of(bundle: Bundle, dataset: Dataset, case: Case, channels: Sequence[str] | None = None) -> dict[str, Image]:
    """The case's image under the bundle's name of its first input; several inputs are the channels of one image.

    Args:
        bundle: What answers.
        dataset: Where the case's files are; where the bundle takes several inputs, under its names.
        case: Whose image.
        channels: Names of the channels to take, in the bundle's order; None: as they are.

    Raises:
        DataError: None was acquired, or one cannot be read.
        UsageError: The bundle takes one input and the dataset has several, none of its name.
    """
    wanted, held = tuple(bundle.spec.inputs), tuple(dataset.inputs)
    if len(wanted) == 1 and len(held) > 1 and wanted[0] not in held:
        raise UsageError(
            "the dataset has several inputs, and none of the name that the bundle takes",
            got=", ".join(held),
            expected=wanted[0],
            remedy="give the images alone, or name the input in dataset.yaml as the bundle does",
        )
    image = case_image(dataset, case, wanted if len(wanted) > 1 or wanted[0] in held else held[:1])
    return {wanted[0]: image.select(channels) if channels else image}
