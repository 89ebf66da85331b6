"""Text in the pixels of a picture: found by its strokes, read by tesseract.

Two looks complete each other. ``medmap.read.strokes`` finds lines of machine-painted letters in milliseconds, whatever
they say; tesseract (a program of the operating system, called without a shell, within a time limit) reads these lines
enlarged and, when asked to be thorough, the whole picture in both polarities. What looks like a line of text and cannot
be read is reported all the same, without words: an identifier in a script that tesseract was not taught identifies too.
"""

from __future__ import annotations

import io
import math
import os
import re
import shutil
import subprocess
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmap.errors import DataError, MissingToolError, ReadError, UsageError
from medmap.read.strokes import LEAST_CONTRAST, Block, planes, small_text_like, span, text_like

Pixels = NDArray[Any]
MINIMUM_CONFIDENCE = 0.6
KNOWN_CONFIDENCE = 0.1  # a word that looks like a known identifier is believed sooner
SHORT_CONFIDENCE = 0.85  # anatomy resembles two or three letters more often than four
DOUBTFUL_CONFIDENCE, SURE_LETTERS = 0.3, 10  # of an even row: what anatomy behind it made hard to read
TIME_LIMIT_S = 60.0
DOUBTFUL_SHORT_CONFIDENCE = 0.5
SURE_ROW = 8  # unread parts side by side: vessels of a fundus and noise make rows of five to seven
READ_SHARE, LEAST_EVEN = 0.6, 0.6  # of a line: letters read with confidence, letters on one line in one ink
MOST_LINES = 48  # that are read in one picture: more of them are texture, and the likeliest are read
LINE_PX = 40  # lines are read at this height: tesseract was taught letters of about 30 pixels
SMALL_PX = 1200  # a picture with a shorter longer side is enlarged before it is read as a whole
TILE_PX, TILE_OVERLAP_PX = 2600, 200  # larger pictures are read in tiles that overlap by more than a word's height
MARGIN = 0.35  # of a line's height: strokes, accents and blurred edges around what was found
_LANGUAGES = re.compile(r"[A-Za-z0-9_]+(\+[A-Za-z0-9_]+)*")
_WORD = re.compile(r"[^\W_]{2,}")
_NUMBER = re.compile(r"(?:ID|[A-Z])?\d+(?:[-./*:~]?\d+)*")
NUMBER_DIGITS, EVEN_NUMBER = 6, 0.75  # digits of a number that is believed, evenness of the row it stands in


@dataclass(frozen=True)
class TextBox:
    """A word or line of text in a picture.

    Args:
        row0, column0, row1, column1: Its box in pixels, half open, with a margin.
        text: What it says; None where it looks like text and cannot be read.
        confidence: 0…1: tesseract's; for unread text how much it looks like text.
    """

    row0: int
    column0: int
    row1: int
    column1: int
    text: str | None
    confidence: float

    def within(self, row: float, column: float) -> bool:
        """Whether a point lies in the box."""
        return self.row0 <= row < self.row1 and self.column0 <= column < self.column1


def tesseract_present() -> bool:
    """Whether the program is installed."""
    return shutil.which("tesseract") is not None


def find_text(
    picture: Pixels,
    *,
    languages: str = "eng",
    minimum_confidence: float = MINIMUM_CONFIDENCE,
    known: Sequence[str] = (),
    thorough: bool = True,
) -> tuple[TextBox, ...]:
    """Text burned into a picture, from the top.

    Args:
        picture: (rows, columns) grey or (rows, columns, 3) colours; whole numbers of any sign and depth.
        languages: Tesseract's names, joined by ``+``, such as ``eng+deu``.
        minimum_confidence: 0…1; words read with less are left out unless they look like a known one.
        known: Names, numbers and dates that must not be overlooked.
        thorough: Read the whole picture too. Otherwise only what looks like text is read, and a picture without such
            strokes costs milliseconds.

    Returns:
        Boxes of lines and words. Single letters (side markers) are not reported.

    Raises:
        MissingToolError: tesseract is needed and not installed.
        ReadError: tesseract failed or took too long.
        DataError: Not a picture of whole numbers.
        UsageError: No such language, or a confidence outside 0…1.
    """
    picture = _checked(picture)
    if not 0 <= minimum_confidence <= 1:
        raise UsageError("a confidence lies between 0 and 1", got=minimum_confidence)
    if not _LANGUAGES.fullmatch(languages):
        raise UsageError("unknown language", got=repr(languages), expected="tesseract's names, such as eng+deu")
    blocks = [*text_like(picture), *small_text_like(picture)]  # what one takes for gaps the other takes for letters
    boxes: list[TextBox] = []
    if blocks:
        boxes += _lines_read(picture, blocks, languages, minimum_confidence, known)
    if thorough and min(picture.shape[:2]) >= 8 and span(picture.reshape(picture.shape[0], -1)) > 0:
        for word in _words_of_whole(picture, languages):
            matches = resembles(word.text or "", known)
            if _believed(word, minimum_confidence, known) and (matches or _painted(picture, word)):
                boxes.append(_with_margin(word, picture.shape, word.row1 - word.row0))
    return _joined(boxes)


def read_lines(
    picture: Pixels,
    lines: Sequence[Block],
    *,
    languages: str = "eng",
    minimum_confidence: float = MINIMUM_CONFIDENCE,
) -> tuple[TextBox, ...]:
    """What stands in lines of strokes that were found already, from the top; nothing else of the picture is read.

    Args:
        picture: As for ``find_text``.
        lines: As ``text_like`` finds them; the likeliest 48 are read.
        languages, minimum_confidence: As for ``find_text``.

    Returns:
        As for ``find_text``: what is text beyond doubt and cannot be read has no words.

    Raises:
        MissingToolError, ReadError, DataError, UsageError: As for ``find_text``.
    """
    picture = _checked(picture)
    return _joined(_lines_read(picture, lines, languages, minimum_confidence, ())) if lines else ()


def _checked(picture: Pixels) -> Pixels:
    picture = np.asarray(picture)
    if picture.dtype.kind not in "ui" or picture.ndim not in (2, 3) or 0 in picture.shape:
        raise DataError(
            "text is looked for in pictures of whole numbers",
            got=f"{picture.dtype} of shape {picture.shape}",
            expected="(rows, columns) or (rows, columns, 3)",
        )
    if picture.ndim == 3 and picture.shape[2] != 3:
        raise DataError("a coloured picture has three channels", got=picture.shape, expected="(rows, columns, 3)")
    if picture.dtype.kind == "i":  # the least value becomes 0
        picture = (picture.astype(np.int64) - int(picture.min())).astype(np.uint32)
    if picture.dtype.itemsize > 2:
        shift = max(0, int(picture.max()).bit_length() - 16)
        picture = (picture >> shift).astype(np.uint16)
    return picture


# -- what is known ---------------------------------------------------------------------------------------------------


def plain(text: str) -> str:
    """Letters and digits alone, capital, without accents, letters that OCR mixes up made one.

    Example:
        >>> plain("Müller, 01.07.1969") == plain("MULLER O1071969")
        True
    """
    letters = unicodedata.normalize("NFKD", text).upper()
    return "".join(c for c in letters if c.isalnum()).translate(str.maketrans("OQDIL|SZB", "000111528"))


def resembles(text: str, known: Iterable[str]) -> bool:
    """Whether text holds a known value or a part of one, give or take one letter in five.

    Args:
        text: What was read.
        known: Values of at least three letters or digits; names in DICOM's form (``Doe^Jane``) count part by part.

    Example:
        >>> resembles("DAV1DSON,", ["Davidson^Douglas"]), resembles("Portable", ["Davidson^Douglas"])
        (True, False)
    """
    mine = plain(text)
    if len(mine) < 3:
        return False
    for value in known:
        for part in {value, *re.split(r"[\^=\s,]+", value)}:
            wanted = plain(part)
            if len(wanted) < 3:
                continue
            if wanted in mine or (len(mine) >= 4 and mine in wanted):
                return True
            allowed = len(wanted) // 5
            if allowed and abs(len(wanted) - len(mine)) <= allowed and _distance(mine, wanted, allowed) <= allowed:
                return True
    return False


def _distance(first: str, second: str, most: int) -> int:
    """Edit distance (Levenshtein 1966), given up beyond ``most``."""
    row = list(range(len(second) + 1))
    for i, a in enumerate(first, 1):
        before, row = row, [i]
        for j, b in enumerate(second, 1):
            row.append(min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (a != b)))
        if min(row) > most:
            return most + 1
    return row[-1]


# -- lines that look like text ---------------------------------------------------------------------------------------


def _lines_read(
    picture: Pixels, blocks: Sequence[Block], languages: str, minimum_confidence: float, known: Sequence[str]
) -> list[TextBox]:
    """Blocks as boxes: those that could be read, and those that are text beyond doubt."""
    blocks = sorted(blocks, key=lambda b: (not b.certain, b.even < LEAST_EVEN, -b.letters * b.even))[:MOST_LINES]
    strips = [_strip(picture, block) for block in blocks]
    sheet, tops = _sheet(strips)
    words = _tesseract(sheet, languages, page_mode=6)
    found = []
    for block, strip, top in zip(blocks, strips, tops, strict=True):
        mine = [w for w in words if top <= (w.row0 + w.row1) / 2 < top + strip.shape[0]]
        mine.sort(key=lambda w: w.column0)
        good = [w for w in mine if _believed(w, minimum_confidence, known)]
        whole = TextBox(block.row0, block.column0, block.row1, block.column1, None, round(block.even, 3))
        # a line of which little can be read is texture, unless it stands in a row as letters do
        share = sum(len(w.text or "") for w in good) / max(1, sum(len(w.text or "") for w in mine))
        matches = any(resembles(w.text or "", known) for w in good)
        # digits are read with little confidence, since no dictionary knows them; a row of them is no chance
        number = next((w for w in mine if _is_number(w.text or "")), None) if block.even >= EVEN_NUMBER else None
        if number is not None:
            found.append(replace(whole, text=" ".join(w.text or "" for w in mine), confidence=number.confidence))
        elif good and (matches or (share >= READ_SHARE and block.even >= LEAST_EVEN)):
            confidence = max(w.confidence for w in good)
            said = " ".join(w.text or "" for w in mine)
            found.append(replace(whole, text=said, confidence=confidence))
        elif block.certain and (
            _agrees(block, mine) or (block.letters >= SURE_ROW and _painted(picture, whole, least_contrast=0))
        ):
            found.append(whole)
    return [_with_margin(box, picture.shape, box.row1 - box.row0) for box in found]


def _is_number(text: str) -> bool:
    """Whether a word is a date or a long number, give or take a sign between its digits.

    Example:
        >>> [_is_number(text) for text in ("1927-09-17", "1927*09-17", "56831084", "12-3", "L2-L3-L4")]
        [True, True, True, False, False]
    """
    return _NUMBER.fullmatch(text.strip("().,:;|")) is not None and sum(c.isdigit() for c in text) >= NUMBER_DIGITS


def _agrees(block: Block, words: Sequence[TextBox]) -> bool:
    """Whether a row of letters is text though badly read: very many, or as many as were read with some confidence."""
    least = DOUBTFUL_CONFIDENCE if block.letters >= SURE_ROW else DOUBTFUL_SHORT_CONFIDENCE
    letters = sum(len(w.text or "") for w in words if w.confidence >= least)
    return block.letters >= SURE_LETTERS or 0.7 * block.letters <= letters <= 1.5 * block.letters


def _believed(word: TextBox, minimum_confidence: float, known: Sequence[str]) -> bool:
    text = word.text or ""
    if not _WORD.search(text):
        return False
    if resembles(text, known):
        return word.confidence >= KNOWN_CONFIDENCE
    return word.confidence >= max(minimum_confidence, SHORT_CONFIDENCE if len(plain(text)) <= 3 else 0.5)


def _strip(picture: Pixels, block: Block) -> NDArray[np.uint8]:
    """A block as dark ink on white, ``LINE_PX`` high with a white border: as tesseract was taught to read."""
    margin = max(2, block.height // 3)
    rows = slice(max(0, block.row0 - margin), min(picture.shape[0], block.row1 + margin))
    columns = slice(max(0, block.column0 - margin), min(picture.shape[1], block.column1 + margin))
    plane = planes(picture[rows, columns])[0 if block.bright else 1].astype(np.float32)
    ink = plane if block.bright else -plane
    # the paper is what most of the strip shows: what is darker than it is no ink
    paper, top = float(np.median(ink)), float(ink.max())
    grey = np.clip((ink - paper) / max(top - paper, 1e-6), 0, 1)
    return _resized(255 - (255 * grey).astype(np.uint8), LINE_PX / max(block.height, 1) * 0.75)


def _sheet(strips: Sequence[NDArray[np.uint8]]) -> tuple[NDArray[np.uint8], list[int]]:
    """All strips below one another on white, and the row each begins in: one call reads them all."""
    gap = LINE_PX
    tops, row = [], gap
    for strip in strips:
        tops.append(row)
        row += strip.shape[0] + gap
    sheet = np.full((row, max(s.shape[1] for s in strips) + 2 * gap), 255, np.uint8)
    for strip, top in zip(strips, tops, strict=True):
        sheet[top : top + strip.shape[0], gap : gap + strip.shape[1]] = strip
    return sheet, tops


def _resized(picture: NDArray[np.uint8], factor: float) -> NDArray[np.uint8]:
    from PIL import Image

    rows, columns = (max(1, round(n * factor)) for n in picture.shape)
    # a line never becomes longer than tesseract reads in reasonable time
    columns = min(columns, 6000)
    return np.asarray(Image.fromarray(picture).resize((columns, rows), Image.Resampling.BICUBIC))


# -- the whole picture -----------------------------------------------------------------------------------------------


def _words_of_whole(picture: Pixels, languages: str) -> list[TextBox]:
    """Words of the whole picture, its bright ink and its dark ink, in the picture's own pixels."""
    words: list[TextBox] = []
    for plane, bright in zip(planes(picture), (True, False), strict=True):
        grey = _grey(plane)
        grey = 255 - grey if bright else grey
        for row, column in _tiles(grey.shape):
            tile = grey[row : row + TILE_PX, column : column + TILE_PX]
            words += _words_of_tile(tile, (row, column), languages)
    return words


def _grey(plane: Pixels) -> NDArray[np.uint8]:
    low, high = float(plane.min()), float(plane.max())
    return np.asarray((plane.astype(np.float32) - low) * (255 / max(high - low, 1e-6)), np.uint8)


def _tiles(shape: tuple[int, ...]) -> list[tuple[int, int]]:
    step = TILE_PX - TILE_OVERLAP_PX
    starts = [range(0, max(1, n - TILE_OVERLAP_PX), step) for n in shape]
    return [(r, c) for r in starts[0] for c in starts[1]]


def _words_of_tile(tile: NDArray[np.uint8], at: tuple[int, int], languages: str) -> list[TextBox]:
    factor = 2.0 if max(tile.shape) < SMALL_PX else 1.0
    border = 20  # text at the very edge is not recognised without paper around it
    paper = int(np.median(tile))
    padded = np.pad(_resized(tile, factor) if factor != 1 else tile, border, constant_values=paper)
    words = []
    for word in _tesseract(padded, languages, page_mode=11):
        if len(_WORD.findall(word.text or "")) == 0:
            continue
        low = [math.floor((v - border) / factor) + o for v, o in zip((word.row0, word.column0), at, strict=True)]
        high = [math.ceil((v - border) / factor) + o for v, o in zip((word.row1, word.column1), at, strict=True)]
        rows, columns = (at[0] + tile.shape[0], at[1] + tile.shape[1])
        box = TextBox(max(low[0], 0), max(low[1], 0), min(high[0], rows), min(high[1], columns), word.text, 0)
        if box.row1 > box.row0 and box.column1 > box.column0:
            words.append(replace(box, confidence=word.confidence))
    return words


def _painted(picture: Pixels, word: TextBox, least_contrast: float = LEAST_CONTRAST) -> bool:
    """Whether a word's strokes have one ink that stands out: anatomy that resembles a letter is shaded."""
    part = picture[word.row0 : word.row1, word.column0 : word.column1]
    extent = span(picture)
    for plane, bright in zip(planes(part), (True, False), strict=True):
        values = plane.astype(np.float64)
        values = values if bright else -values
        paper, top = float(np.percentile(values, 30)), float(values.max())
        if top - paper <= least_contrast * extent:
            continue
        strokes = values[values > paper + 0.5 * (top - paper)]
        if (strokes >= top - 0.08 * min(extent, 3 * (top - paper))).mean() >= 0.5 and strokes.size <= 0.7 * values.size:
            return True
    return False


# -- tesseract -------------------------------------------------------------------------------------------------------


def _tesseract(grey: NDArray[np.uint8], languages: str, page_mode: int) -> list[TextBox]:
    """Words of a grey picture with their boxes, from tesseract's table (TSV)."""
    program = shutil.which("tesseract")
    if program is None:
        raise MissingToolError("tesseract", "tesseract-ocr", "reading text in pixels")
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(grey).save(buffer, "PPM")
    command = [program, "stdin", "stdout", "--psm", str(page_mode), "--dpi", "150", "-l", languages]
    # ink is dark in all that is read here: what cannot be read is not tried once more in white
    command += ["-c", "tessedit_do_invert=0", "tsv"]
    environment = {**os.environ, "OMP_THREAD_LIMIT": "1"}  # pictures are read side by side, each by one thread
    try:
        done = subprocess.run(  # noqa: S603
            command, input=buffer.getvalue(), capture_output=True, timeout=TIME_LIMIT_S, env=environment, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise ReadError(
            "tesseract took too long for a picture", got=f"{grey.shape}", expected=f"≤ {TIME_LIMIT_S:g} s"
        ) from error
    if done.returncode != 0:
        said = " ".join(done.stderr.decode("utf-8", "replace").split())[:200]
        if "language" in said.lower():
            raise UsageError(
                "tesseract does not know the language", got=languages, remedy=f"apt install tesseract-ocr-{languages}"
            )
        raise ReadError("tesseract failed", got=said or f"exit code {done.returncode}")
    return list(_table(done.stdout.decode("utf-8", "replace")))


def _table(table: str) -> Iterable[TextBox]:
    for line in table.splitlines()[1:]:
        cells = line.split("\t")
        if len(cells) != 12 or cells[0] != "5" or not cells[11].strip():
            continue
        left, top, width, height = (int(c) for c in cells[6:10])
        yield TextBox(top, left, top + height, left + width, cells[11].strip(), max(0.0, float(cells[10])) / 100)


# -- boxes -----------------------------------------------------------------------------------------------------------


def _with_margin(box: TextBox, shape: tuple[int, ...], height: int) -> TextBox:
    margin = max(2, math.ceil(MARGIN * min(height, 60)))
    # letters too small or too strange to be a letter stand at the ends of a line: commas, brackets, colons
    aside = margin + min(height, 60) // 2
    return replace(
        box,
        row0=max(0, box.row0 - margin),
        column0=max(0, box.column0 - aside),
        row1=min(shape[0], box.row1 + margin),
        column1=min(shape[1], box.column1 + aside),
    )


def _joined(boxes: Sequence[TextBox]) -> tuple[TextBox, ...]:
    """Boxes of one line that lie on one another made one; a word inside a read line adds nothing."""
    left = sorted(boxes, key=lambda b: -(b.row1 - b.row0) * (b.column1 - b.column0))
    kept: list[TextBox] = []
    for box in left:
        for index, other in enumerate(kept):
            if _mostly_in(box, other):
                kept[index] = _united(other, box)
                break
        else:
            kept.append(box)
    return tuple(sorted(kept, key=lambda b: (b.row0, b.column0)))


def _mostly_in(box: TextBox, other: TextBox) -> bool:
    rows = min(box.row1, other.row1) - max(box.row0, other.row0)
    columns = min(box.column1, other.column1) - max(box.column0, other.column0)
    return max(rows, 0) * max(columns, 0) >= 0.5 * (box.row1 - box.row0) * (box.column1 - box.column0)


def _united(line: TextBox, word: TextBox) -> TextBox:
    text, confidence = line.text, line.confidence
    if word.text is not None and (text is None or plain(word.text) not in plain(text)):
        text = word.text if text is None else f"{text} {word.text}"
        confidence = max(confidence, word.confidence)
    return TextBox(
        min(line.row0, word.row0), min(line.column0, word.column0),
        max(line.row1, word.row1), max(line.column1, word.column1), text, confidence,
    )  # fmt: skip
