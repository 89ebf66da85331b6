"""Words on and below pictures, in the font that Pillow brings along."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmap.write.colours import RGB

FONT, LINE = 13, 20  # px
BACK, TEXT = (18, 20, 24), (235, 238, 242)
SWATCH = 24  # px from the left edge to the words behind a colour


def font() -> Any:
    """The font of every picture."""
    from PIL import ImageFont

    return ImageFont.load_default(FONT)


def plain(text: str) -> str:
    """What the font has."""
    return text.encode("latin-1", "replace").decode("latin-1")


def caption(rows: Sequence[tuple[RGB | None, str]], width: int) -> NDArray[np.uint8]:
    """(20 px a row, width, 3): lines of words on a dark ground, each with its colour before it or without one.

    Args:
        rows: Colour and words; what does not fit into the width is cut.
        width: In px.
    """
    from PIL import Image as Pillow
    from PIL import ImageDraw

    canvas = Pillow.new("RGB", (width, LINE * len(rows) + 4), BACK)
    draw: Any = ImageDraw.Draw(canvas)
    for number, (colour, words) in enumerate(rows):
        top, left = 3 + LINE * number, 4 if colour is None else SWATCH
        if colour is not None:
            draw.rectangle((4, top + 2, 16, top + 14), fill=colour)
        draw.text((left, top), _fitting(draw, plain(words), width - left), fill=TEXT, font=font())
    return np.array(canvas)


def _fitting(draw: Any, words: str, room: int) -> str:
    if draw.textlength(words, font=font()) <= room:
        return words
    while words and draw.textlength(f"{words} ...", font=font()) > room:
        words = words[:-1]
    return f"{words} ..." if words else ""
