"""Text that is painted into the pixels: names and dates that leave with the image, and words that give a class away."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from medmap.check.issue import Issue, counted, named
from medmap.image import Image

if TYPE_CHECKING:
    from medmap.check.facts import Facts

LEAST_SIDE = 64  # pixels below which nobody could read a line
MOST_IMAGES = 1000  # looked at in a dataset, evenly drawn: reading text is the slowest look of all
LEAST_LETTERS = 3


def text_lines(image: Image) -> int | None:
    """How many lines of text stand in a picture, or in the first frame of a cine; None where it was not looked at.

    Strokes that look like text are found first, in milliseconds; where tesseract is installed only what it can read
    counts, else what looks like text beyond doubt.
    """
    from medmap.read.strokes import text_like
    from medmap.read.text import find_text, tesseract_present

    if image.ndim != 2 or min(image.geometry.shape) < LEAST_SIDE or len(image.channels) not in (1, 3):
        return None
    array = image.array if image.time_s is None else image.array[:, :, 0]
    if array.dtype.kind not in "ui":
        values = np.nan_to_num(array.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
        low, high = float(values.min()), float(values.max())
        array = np.rint(65535 * (values - low) / (high - low if high > low else 1.0)).astype(np.uint16)
    if not any(block.certain for block in text_like(array)):
        return 0
    if not tesseract_present():
        return sum(block.certain for block in text_like(array))
    found = find_text(array, thorough=False)
    return sum(sum(c.isalnum() for c in box.text or "") >= LEAST_LETTERS for box in found)


def burned_in_text(facts: Facts) -> Iterator[Issue]:
    """Pictures with writing in them; what it says is not repeated, it may be a name."""
    looked = [image for image in facts.images if image.text_lines is not None]
    odd = [image for image in looked if image.text_lines]
    if not odd:
        return
    cases = tuple(dict.fromkeys(image.case for image in odd))
    share = "" if len(looked) == len(facts.images) else f" of {len(looked):,} looked at"
    most = max(odd, key=lambda image: image.text_lines or 0)
    yield Issue(
        "burned_in_text",
        "warning",
        f"{counted(len(odd), 'image')}{share} {'shows' if len(odd) == 1 else 'show'} text: {named(cases)}; "
        f"{counted(most.text_lines or 0, 'line')} in {most.case}",
        "It may name the patient; and a network reads it: a ward, a device or the word itself can stand for the class.",
        "Look at them. medmap deidentify --clean pixels blacks text out of DICOM files.",
        cases,
        {"lines": {image.case: image.text_lines for image in odd[:100]}, "looked_at": len(looked)},
    )
