"""Text that is painted into the pixels: names and dates that leave with the image, and words that give a class away."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medmap.check.issue import Issue, named
from medmap.check.round_field import RoundField, round_field
from medmap.errors import counted
from medmap.image import Image

if TYPE_CHECKING:
    from medmap.check.facts import Facts
    from medmap.read.strokes import Block
    from medmap.read.text import TextBox

LEAST_SIDE = 64  # pixels below which nobody could read a line
MOST_IMAGES = 200  # looked at in a dataset, evenly drawn: looking for text is the slowest look of all
MOST_IN_VAIN = 8  # pictures whose strokes could not be read, after which a dataset's strokes count as anatomy
MOST_READ = 12  # lines that are read in one picture: whether it holds text is asked, not what it says
LEAST_LETTERS = 3
# vessels in the round field of a photograph branch in rows as even as letters, and resemble short words
LEAST_LETTERS_IN_FIELD, LEAST_CONFIDENCE_IN_FIELD = 4, 0.8


class TextLook:
    """Looks for text in some pictures of a dataset, and gives up where strokes turn out to be anatomy time and again.

    Strokes that look like text beyond doubt are found first, in milliseconds; where tesseract is installed only what it
    can read counts. In the round field of a photograph strokes are vessels until they are read with confidence; what
    stands beside the field is looked at even where all else was given up.

    Args:
        pictures: How many the dataset has.
    """

    def __init__(self, pictures: int) -> None:
        self._every = max(1, -(-pictures // MOST_IMAGES))
        self._seen = self._in_vain = 0
        self._any = False

    def lines(self, image: Image) -> int | None:
        """Lines of text in the next picture, or in the first frame of a cine; None where it is not looked at."""
        self._seen += 1
        array = _picture(image) if (self._seen - 1) % self._every == 0 else None
        if array is None:
            return None
        field = round_field(array)
        given_up = self._in_vain >= MOST_IN_VAIN and not self._any
        if given_up and field is None:
            return None
        strokes = _strokes(array)
        if field is not None and (given_up or not _can_read()):
            strokes = [line for line in strokes if not _in_field(line, field)]
        found = len(strokes)
        if strokes and _can_read():
            found = _readable(array, strokes, field)
            self._in_vain += not found
        self._any |= found > 0
        return found


def _picture(image: Image) -> NDArray[Any] | None:
    """The picture as whole numbers; None for volumes and for what is too small to read."""
    if image.ndim != 2 or min(image.geometry.shape) < LEAST_SIDE or len(image.channels) not in (1, 3):
        return None
    array = image.array if image.time_s is None else image.array[:, :, 0]
    if array.dtype.kind in "ui":
        return array
    values = np.nan_to_num(array.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    low, high = float(values.min()), float(values.max())
    return np.rint(65535 * (values - low) / (high - low if high > low else 1.0)).astype(np.uint16)


def _can_read() -> bool:
    from medmap.read.text import tesseract_present

    return tesseract_present()


def _strokes(array: NDArray[Any]) -> list[Block]:
    """Lines of strokes that are text beyond doubt; each in both inks where they will be read."""
    from medmap.read.strokes import text_like

    return [block for block in text_like(array, each_ink=_can_read()) if block.certain]


def _readable(array: NDArray[Any], lines: Sequence[Block], field: RoundField | None) -> int:
    """Lines that tesseract can read: the likeliest, then, where those say nothing, any in the picture enlarged.

    The second look is slow and made in a few pictures only, since a dataset is given up where it is in vain; in the
    field of a photograph it would find more vessels, not more words.
    """
    from medmap.read.text import find_text, read_lines

    likeliest = sorted(lines, key=lambda block: -block.letters * block.even)[:MOST_READ]
    found = sum(_is_text(box, field) for box in read_lines(array, likeliest))
    if found or field is not None:
        return found
    return sum(_is_text(box, None) for box in find_text(array, thorough=False))


def _is_text(box: TextBox, field: RoundField | None) -> bool:
    letters = sum(c.isalnum() for c in box.text or "")
    if field is not None and _in_field(box, field):
        return letters >= LEAST_LETTERS_IN_FIELD and box.confidence >= LEAST_CONFIDENCE_IN_FIELD
    return letters >= LEAST_LETTERS


def _in_field(line: Block | TextBox, field: RoundField) -> bool:
    return field.holds((line.row0 + line.row1) / 2, (line.column0 + line.column1) / 2)


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
