"""The colours of classes: one hue a class, in every picture, figure and DICOM object that medmap makes."""

from __future__ import annotations

from collections.abc import Sequence

RGB = tuple[int, int, int]

# colours that stay apart for most eyes (Okabe and Ito 2008), then lighter ones of the same hues; sRGB
COLOURS: tuple[RGB, ...] = (
    (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167),
    (255, 204, 110), (166, 214, 240), (110, 205, 178), (120, 170, 215), (240, 160, 100), (230, 180, 208),
)  # fmt: skip
# the same hues, dark enough for thin lines on white paper
ON_PAPER = (
    "#b87a00", "#3f96c8", "#009e73", "#6b6500", "#0072b2", "#d55e00", "#a35b8f",
    "#7a5200", "#27607f", "#00664a", "#004a73", "#8a3d00", "#6b3c5e",
)  # fmt: skip


def colour_of(number: int) -> RGB:
    """The colour of a class on an image, by its number from 0; they come again after the last one.

    Example:
        >>> colour_of(0) == colour_of(len(COLOURS))
        True
    """
    return COLOURS[number % len(COLOURS)]


def paper_colour_of(number: int) -> str:
    """The same class's colour on white, as ``#rrggbb``.

    Example:
        >>> paper_colour_of(1)
        '#3f96c8'
    """
    return ON_PAPER[number % len(ON_PAPER)]


def short_names(names: Sequence[str]) -> tuple[str, ...]:
    """A sign for each class where there is no room for its name: the initial where all differ, else its number from 1.

    Example:
        >>> short_names(["RBC", "WBC", "platelets"])
        ('R', 'W', 'P')
        >>> short_names(["cyst", "calcification"])
        ('1', '2')
    """
    initials = tuple(name[:1].upper() for name in names)
    if len(set(initials)) == len(names) and all(sign.isalpha() for sign in initials):
        return initials
    return tuple(str(number) for number in range(1, len(names) + 1))
