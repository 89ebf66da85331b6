"""A small hand for drawing: axes, lines, bands, bars and words as plain SVG, the same bytes for the same numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from xml.sax.saxutils import escape, quoteattr

Point = tuple[float, float]

# Okabe and Ito (2008): told apart by the colour-blind and in grey print
BLUE, ORANGE, GREEN, PURPLE, SKY, AMBER, GREY = (
    "#0072b2", "#d55e00", "#009e73", "#a35b8f", "#3f96c8", "#b87a00", "#6b7280"
)  # fmt: skip
COLOURS = (BLUE, ORANGE, GREEN, PURPLE, SKY, AMBER, GREY)
INK, SOFT, RULE = "#1f2937", "#4b5563", "#e5e7eb"
FONT = "system-ui, -apple-system, 'Segoe UI', 'Liberation Sans', Arial, sans-serif"
LETTER = 6.9  # mean width of a character at 12 px


def plain(text: object) -> str:
    """Text for XML: escaped, without the control characters that no XML file may hold."""
    return escape(_allowed(str(text)))


def _allowed(text: str) -> str:
    return "".join("\ufffd" if _forbidden(ord(c)) else c for c in text)


def _forbidden(code: int) -> bool:
    """Control characters, halves of surrogate pairs, non-characters (XML 1.0, section 2.2)."""
    return (
        (code < 32 and code not in (9, 10))
        or 0x7F <= code < 0xA0
        or 0xD800 <= code < 0xE000
        or code in (0xFFFE, 0xFFFF)
    )


def attribute(text: object) -> str:
    """Text as a quoted XML attribute."""
    return quoteattr(_allowed(" ".join(str(text).split())))


def short(text: str, characters: int) -> str:
    """Text of at most so many characters."""
    return text if len(text) <= characters else text[: max(1, characters - 1)] + "…"


def number(value: float) -> str:
    """A coordinate: two decimals, no trailing zeros, no minus zero."""
    text = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers that cover a range, about so many.

    Example:
        >>> ticks(0, 1)
        [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    """
    span = high - low
    if not span > 0 or not math.isfinite(span):
        return [low]
    rough = span / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def tick_text(value: float) -> str:
    """A tick's number as a person writes it."""
    return f"{value:g}".replace("-", "−")


@dataclass
class Plot:
    """Axes that things are drawn on, in data coordinates.

    Args:
        title: What the figure shows.
        x_label, y_label: The axes, with units.
        x, y: Ranges (low, high).
        width, height: Of the plotting area, in px.
        left, bottom: Room for tick texts, in px.
    """

    title: str
    x_label: str
    y_label: str
    x: Point = (0.0, 1.0)
    y: Point = (0.0, 1.0)
    width: float = 340
    height: float = 300
    left: float = 56
    bottom: float = 46
    right: float = 16
    top: float = 10
    marks: list[str] = field(default_factory=list)
    legend: list[tuple[str, str, str]] = field(default_factory=list)

    def at(self, x: float, y: float) -> Point:
        """Data to px."""
        across = (x - self.x[0]) / (self.x[1] - self.x[0])
        up = (y - self.y[0]) / (self.y[1] - self.y[0])
        across, up = (min(max(v, -0.02), 1.02) for v in (across, up))
        return self.left + across * self.width, self.top + (1 - up) * self.height

    def _path(self, points: Iterable[Point]) -> str:
        return " ".join(f"{number(px)},{number(py)}" for px, py in (self.at(x, y) for x, y in points))

    def _name(self, label: str | None, colour: str, sign: str) -> None:
        if label is not None:
            self.legend.append((label, colour, sign))

    def line(self, points: Sequence[Point], colour: str = BLUE, label: str | None = None, dash: str = "") -> None:
        """A line through points."""
        dashes = f' stroke-dasharray="{dash}"' if dash else ""
        width = "1.4" if dash else "2"
        self.marks.append(
            f'<polyline points="{self._path(points)}" fill="none" stroke="{colour}" stroke-width="{width}"'
            f'{dashes} stroke-linejoin="round"/>'
        )
        self._name(label, colour, "dash" if dash else "line")

    def band(
        self,
        x: Sequence[float],
        low: Sequence[float],
        high: Sequence[float],
        colour: str = BLUE,
        label: str | None = None,
    ) -> None:
        """The area between two curves."""
        points = [*zip(x, low, strict=True), *reversed(list(zip(x, high, strict=True)))]
        self.marks.append(f'<polygon points="{self._path(points)}" fill="{colour}" fill-opacity="0.16"/>')
        self._name(label, colour, "band")

    def bar(self, x: Point, y: Point, colour: str = BLUE, opacity: float = 0.55) -> None:
        """A rectangle."""
        (x0, y0), (x1, y1) = self.at(x[0], y[1]), self.at(x[1], y[0])
        self.marks.append(
            f'<rect x="{number(x0)}" y="{number(y0)}" width="{number(max(x1 - x0, 0.3))}" '
            f'height="{number(max(y1 - y0, 0))}" fill="{colour}" fill-opacity="{opacity}"/>'
        )

    def dot(self, x: float, y: float, colour: str = BLUE, radius: float = 4, hollow: bool = False) -> None:
        """A point."""
        px, py = self.at(x, y)
        paint = f'fill="white" stroke="{colour}" stroke-width="2"' if hollow else f'fill="{colour}"'
        self.marks.append(f'<circle cx="{number(px)}" cy="{number(py)}" r="{number(radius)}" {paint}/>')

    def whisker(self, x: Point, y: Point, colour: str = BLUE) -> None:
        """A thin straight line, as an interval has it."""
        (x0, y0), (x1, y1) = self.at(x[0], y[0]), self.at(x[1], y[1])
        self.marks.append(
            f'<line x1="{number(x0)}" y1="{number(y0)}" x2="{number(x1)}" y2="{number(y1)}" '
            f'stroke="{colour}" stroke-width="1.4"/>'
        )

    def words(
        self, x: float, y: float, text: str, anchor: str = "start", shift: Point = (0, 0), colour: str = INK
    ) -> None:
        """Words at a point."""
        px, py = self.at(x, y)
        self.marks.append(label(px + shift[0], py + shift[1], text, anchor=anchor, colour=colour, size=11))

    def named(self, label: str, colour: str, sign: str = "box") -> None:
        """An entry of the legend for marks without one."""
        self._name(label, colour, sign)

    def svg(self, description: str, *, x_ticks: Sequence[tuple[float, str]] | None = None, y_ticks: bool = True) -> str:
        """The whole figure."""
        frame = [self._axes(x_ticks, y_ticks)]
        bottom = self.top + self.height + self.bottom
        total = self.left + self.width + self.right
        keys, bottom = self._keys(bottom, total)
        return drawing(total, bottom + 4, self.title, description, [*frame, *self.marks, *keys])

    def _axes(self, x_ticks: Sequence[tuple[float, str]] | None, y_ticks: bool) -> str:
        parts = []
        floor = self.top + self.height
        for value, text in x_ticks if x_ticks is not None else [(v, tick_text(v)) for v in ticks(*self.x)]:
            px = self.at(value, self.y[0])[0]
            parts.append(
                rule(px, self.top, px, floor) + label(px, floor + 16, text, anchor="middle", colour=SOFT, size=11)
            )
        for value in ticks(*self.y) if y_ticks else []:
            py = self.at(self.x[0], value)[1]
            parts.append(
                rule(self.left, py, self.left + self.width, py)
                + label(self.left - 6, py + 4, tick_text(value), anchor="end", colour=SOFT, size=11)
            )
        parts.append(
            f'<path d="M{number(self.left)} {number(self.top)}V{number(floor)}H{number(self.left + self.width)}" '
            f'fill="none" stroke="{SOFT}"/>'
        )
        parts.append(label(self.left + self.width / 2, floor + 36, self.x_label, anchor="middle"))
        if self.y_label:
            middle = self.top + self.height / 2
            parts.append(
                f'<g transform="translate(13 {number(middle)}) rotate(-90)">'
                f"{label(0, 0, self.y_label, anchor='middle')}</g>"
            )
        return "".join(parts)

    def _keys(self, y: float, total: float) -> tuple[list[str], float]:
        """The legend in rows under the axes."""
        out, x, y = [], self.left, y + 10
        longest = int((total - self.left - 30) / LETTER)
        for text, colour, sign in self.legend:
            shown = short(text, longest)
            need = 26 + len(shown) * LETTER + 14
            if x > self.left and x + need > total + 10:
                x, y = self.left, y + 18
            out.append(_sign(x, y, colour, sign) + label(x + 26, y + 4, shown, size=12))
            x += need
        return out, y + (10 if self.legend else -10)


def _sign(x: float, y: float, colour: str, sign: str) -> str:
    if sign in ("line", "dash"):
        dashes = ' stroke-dasharray="5 4"' if sign == "dash" else ""
        return f'<path d="M{number(x)} {number(y)}h20" stroke="{colour}" stroke-width="2"{dashes}/>'
    if sign == "dot":
        return f'<circle cx="{number(x + 10)}" cy="{number(y)}" r="4" fill="{colour}"/>'
    if sign == "ring":
        return f'<circle cx="{number(x + 10)}" cy="{number(y)}" r="4" fill="white" stroke="{colour}" stroke-width="2"/>'
    opacity = "0.16" if sign == "band" else "0.55"
    return box(x + 3, y - 6, 14, 12, colour, opacity=opacity)


def label(
    x: float, y: float, text: object, *, anchor: str = "start", colour: str = INK, size: float = 12, bold: bool = False
) -> str:
    """Words in px coordinates."""
    weight = ' font-weight="600"' if bold else ""
    side = "" if anchor == "start" else f' text-anchor="{anchor}"'
    place = f'x="{number(x)}" y="{number(y)}" font-size="{number(size)}" fill="{colour}"'
    return f"<text {place}{side}{weight}>{plain(text)}</text>"


def rule(x0: float, y0: float, x1: float, y1: float, colour: str = RULE) -> str:
    """A thin line in px coordinates."""
    return f'<line x1="{number(x0)}" y1="{number(y0)}" x2="{number(x1)}" y2="{number(y1)}" stroke="{colour}"/>'


def box(x: float, y: float, width: float, height: float, fill: str, *, stroke: str = "none", opacity: str = "1") -> str:
    """A rectangle in px coordinates; one with an edge has round corners."""
    size = f'x="{number(x)}" y="{number(y)}" width="{number(width)}" height="{number(height)}"'
    corners = "" if stroke == "none" else ' rx="4"'
    return f'<rect {size} fill="{fill}" fill-opacity="{opacity}" stroke="{stroke}"{corners}/>'


def drawing(width: float, height: float, title: str, description: str, parts: Sequence[str]) -> str:
    """A whole SVG that also stands alone as a file, described for those who do not see it."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label={attribute(f"{title}. {description}")} '
        f'viewBox="0 0 {number(width)} {number(height)}" width="{number(width)}" height="{number(height)}" '
        f"font-family={attribute(FONT)}>"
        f"<title>{plain(title)}</title><desc>{plain(description)}</desc>"
        f'<rect width="100%" height="100%" fill="white"/>{"".join(parts)}</svg>'
    )
