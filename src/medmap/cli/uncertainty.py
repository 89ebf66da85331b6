"""``medmap predict --uncertainty``: how unsure a mask is at each voxel, as a file of its own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from medmap.errors import DataError, UsageError

if TYPE_CHECKING:
    from medmap.image import Image
    from medmap.results import Prediction

NAME = "uncertainty"


def uncertainty_of(answer: Prediction, beside: Path, unwritten: dict[str, str]) -> list[str]:
    """Write ``000000.uncertainty.nii.gz``, of a picture without a size a PNG of 0 to 255; its name, where there is any.

    Args:
        answer: With ``uncertainty`` among its outputs, or without.
        beside: The case's files without their endings.
        unwritten: Told why there is none.
    """
    from medmap.results import Picture
    from medmap.write import write

    picture = answer.outputs.get(NAME)
    if not isinstance(picture, Picture):
        return []
    image, ending = picture.image, "nii.gz"
    if not image.geometry.has_size:
        image, ending = _of_bytes(image), "png"
    path = beside.with_name(f"{beside.name}.{NAME}.{ending}")
    try:
        write(image, path, overwrite=True)
    except (DataError, UsageError) as error:  # the answer stands
        unwritten[NAME] = str(error)
        return []
    return [path.name]


def _of_bytes(image: Image) -> Image:
    """The same in steps of 1/255."""
    import numpy as np

    return replace(image, array=np.rint(255 * np.asarray(image.array)).astype(np.uint8), quantity="unknown")


def without_uncertainty(answer: Prediction) -> Prediction:
    """The answer itself, as masks' formats take it."""
    return replace(answer, outputs={name: value for name, value in answer.outputs.items() if name != NAME})
