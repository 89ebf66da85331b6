"""Text burned into the pixels of a DICOM object: found in every frame and blacked out (PS3.15 E.3.1, Clean Pixel Data).

Only the pixels inside the boxes change: stored values are overwritten where they lie, in whatever form they have there
(MONOCHROME1 and 2, palette, RGB, YBR_FULL and YBR_FULL_422, colour by plane, big-endian). Compressed pixels are decoded
and written again without loss, and only when there is text: a picture without text keeps its bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medmap.deidentify.stored import StoredPixels, Undecodable, open_pixels
from medmap.errors import LimitError
from medmap.read.strokes import Block, text_like
from medmap.read.text import TextBox, find_text, resembles

# modalities whose pictures a computer reconstructs; all others come with text that the device paints in
RECONSTRUCTED = frozenset(["CT", "MR", "PT", "NM", "SM", "RTIMAGE", "RTDOSE", "SEG", "OCT"])
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"  # and its multi-frame kin below it
VIDEO = tuple(f"1.2.840.10008.1.2.4.{n}" for n in range(100, 110))
DATE = re.compile(r"\b\d{1,4}\s?[./-]\s?(\d{1,2}|[A-Za-z]{3})\s?[./-]\s?\d{1,4}\b|\b(19|20)\d{6}\b")
MOST_ROUNDS = 3  # looks at a picture until nothing more is found
LIMIT_BYTES = 8 * 2**30


@dataclass(frozen=True)
class PixelPolicy:
    """Which pictures are looked at and which text is removed.

    Args:
        where: ``likely``: modalities and kinds that carry text; ``all``: every picture; ``none``.
        words: ``all`` text, or only ``known`` values, dates and what cannot be read.
        languages: Tesseract's names of the languages to read, such as ``eng+deu``.
    """

    where: Literal["likely", "all", "none"] = "likely"
    words: Literal["all", "known"] = "all"
    languages: str = "eng"


@dataclass(frozen=True)
class PixelCleaning:
    """What was looked at and done.

    Args:
        looked: Whether the pixels were looked at.
        reason: Why, or why not, in a sentence.
        changed: Whether pixels were overwritten.
        boxes: What was blacked out, in every frame.
        kept: Text that the policy left in.
        frames: Frames looked at.
        recompressed: ``"old → new"`` transfer syntax UID where the pixels had to be written in another one.
        residual: Sentences about what may still be in the pixels; empty when all is well.
    """

    looked: bool
    reason: str
    changed: bool = False
    boxes: tuple[TextBox, ...] = ()
    kept: tuple[TextBox, ...] = ()
    frames: int = 0
    recompressed: str | None = None
    residual: tuple[str, ...] = ()


def whether_to_look(dataset: Any, policy: PixelPolicy = PixelPolicy()) -> tuple[bool, str]:
    """Whether a picture may carry text, and why: by SOP class, modality, kind of image and what the file itself says.

    Args:
        dataset: A pydicom data set.
        policy: What is asked for.

    Example:
        >>> from pydicom.dataset import Dataset
        >>> ct = Dataset()
        >>> ct.Modality, ct.ImageType = "CT", ["ORIGINAL", "PRIMARY", "AXIAL"]
        >>> whether_to_look(ct)
        (False, 'CT as reconstructed (ORIGINAL, PRIMARY) carries no painted text')
    """
    if policy.where == "none":
        return False, "pixels were not to be looked at"
    if policy.where == "all":
        return True, "all pictures were to be looked at"
    modality = str(dataset.get("Modality", "") or "").strip().upper()
    kinds = [str(v).strip().upper() for v in _several(dataset.get("ImageType"))]
    if str(dataset.get("BurnedInAnnotation", "") or "").strip().upper() == "YES":
        return True, "the file says that annotations are burned in"
    if str(dataset.get("SOPClassUID", "") or "").startswith(SECONDARY_CAPTURE):
        return True, "a secondary capture may show anything"
    if modality in RECONSTRUCTED:
        odd = [
            k for k in kinds if k in ("SECONDARY", "DERIVED", "SCREEN SAVE", "LOCALIZER", "LABEL", "OVERVIEW", "OTHER")
        ]
        flavour = ", ".join(kinds[:2])
        if odd:
            return True, f"{modality} that is {', '.join(odd)} may carry painted text"
        if kinds[:2] != ["ORIGINAL", "PRIMARY"]:
            return True, f"{modality} of unknown origin may carry painted text"
        return False, f"{modality} as reconstructed ({flavour}) carries no painted text"
    return True, f"pictures of modality {modality or 'unknown'} may carry painted text"


def cleaned_pixels(dataset: Any, *, known: Sequence[str] = (), policy: PixelPolicy = PixelPolicy()) -> PixelCleaning:
    """Black out text in all frames of a data set, in place.

    Where text was removed and where none was found after looking, Burned In Annotation becomes NO; a derivation is
    described where pixels changed. Call it after the attributes have been dealt with, so that this stays.

    Args:
        dataset: A pydicom data set with its file meta information; its pixels and a few attributes are changed.
        known: The patient's names, numbers and dates, which are looked for more sharply.
        policy: Where to look and what to remove.

    Raises:
        MissingToolError: tesseract is needed and not installed.
        ReadError: tesseract failed.
    """
    if not any(k in dataset for k in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        return PixelCleaning(False, "there are no pixels")
    look, reason = whether_to_look(dataset, policy)
    if not look:
        return PixelCleaning(False, reason)
    if "PixelData" not in dataset or int(dataset.get("BitsAllocated", 8) or 8) == 1:
        return PixelCleaning(False, "numbers and binary masks carry no painted text")
    syntax = str(dataset.file_meta.get("TransferSyntaxUID", "")) if hasattr(dataset, "file_meta") else ""
    if syntax in VIDEO:
        return PixelCleaning(False, reason, residual=("video cannot be looked at: text in its frames stays",))
    try:
        pixels = open_pixels(dataset, LIMIT_BYTES)
        return _cleaned(dataset, pixels, reason, known, policy)
    except (Undecodable, LimitError) as error:
        return PixelCleaning(False, reason, residual=(f"the pixels could not be looked at: {error}",))


def _several(value: Any) -> list[Any]:
    if value is None or isinstance(value, str):
        return [] if not value else [value]
    return list(value)


def _cleaned(
    dataset: Any, pixels: StoredPixels, reason: str, known: Sequence[str], policy: PixelPolicy
) -> PixelCleaning:
    if "LABEL" in [str(v).upper() for v in _several(dataset.get("ImageType"))]:
        found = [TextBox(0, 0, pixels.rows, pixels.columns, None, 1.0)]
        reason = "the label of a slide is text altogether"
    else:
        found = _all_text(pixels, known, policy)
    boxes = tuple(b for b in found if policy.words == "all" or _identifies(b, known))
    kept = tuple(b for b in found if b not in boxes)
    residual: tuple[str, ...] = ()
    recompressed = None
    if boxes:
        recompressed = pixels.black_out([(b.row0, b.column0, b.row1, b.column1) for b in boxes])
        _described(dataset, len(boxes))
    elif str(dataset.get("BurnedInAnnotation", "") or "").upper() == "YES" and not kept:
        residual = ("the file says that annotations are burned in, but no text was found in its pixels",)
    if not residual and not kept:
        dataset.BurnedInAnnotation = "NO"
    return PixelCleaning(True, reason, bool(boxes), boxes, kept, pixels.frames, recompressed, residual)


def _identifies(box: TextBox, known: Sequence[str]) -> bool:
    return box.text is None or resembles(box.text, known) or DATE.search(box.text) is not None


def _described(dataset: Any, count: int) -> None:
    """What was done, in words without the words (PS3.3 C.7.6.1.1.3)."""
    said = str(dataset.get("DerivationDescription", "") or "").strip()
    sentence = f"text blacked out in {count} {'place' if count == 1 else 'places'}"
    dataset.DerivationDescription = f"{said}; {sentence}"[:1024] if said else sentence


# -- looking ---------------------------------------------------------------------------------------------------------


def _all_text(pixels: StoredPixels, known: Sequence[str], policy: PixelPolicy) -> list[TextBox]:
    """Text of all frames: some are read thoroughly, the others where they look different from these.

    A picture is looked at again with what was found covered, until nothing more is found: what stood beside larger
    text is then read too.
    """
    thorough = {0, pixels.frames // 2, pixels.frames - 1}
    found: list[TextBox] = []
    refused: list[Block] = []
    for index, picture in _pictures(pixels):
        if index in thorough:
            for _ in range(MOST_ROUNDS):
                new = find_text(_covered(picture, found), languages=policy.languages, known=known)
                found += new
                if not new:
                    break
            refused += [b for b in text_like(picture) if not _in_boxes(b, found)]
        else:
            unseen = [b for b in text_like(picture) if not _in_boxes(b, found) and not _in_boxes(b, refused)]
            if unseen:
                found += find_text(_covered(picture, found), languages=policy.languages, known=known, thorough=False)
                refused += [b for b in unseen if not _in_boxes(b, found)]
    return found


def _pictures(pixels: StoredPixels) -> Iterator[tuple[int, NDArray[Any]]]:
    for index in range(pixels.frames):
        yield index, pixels.shown(index)


def _covered(picture: NDArray[Any], boxes: Sequence[TextBox]) -> NDArray[Any]:
    """A picture with boxes filled by what surrounds them, so that their edges are not taken for strokes."""
    if not boxes:
        return picture
    out = picture.copy()
    for box in boxes:
        rim = np.concatenate(
            [
                picture[max(0, box.row0 - 1) : box.row0 + 1, box.column0 : box.column1].reshape(-1, *picture.shape[2:]),
                picture[box.row1 - 1 : box.row1 + 1, box.column0 : box.column1].reshape(-1, *picture.shape[2:]),
            ]
        )
        out[box.row0 : box.row1, box.column0 : box.column1] = np.median(rim, axis=0).astype(picture.dtype)
    return out


def _in_boxes(block: Block, boxes: Sequence[TextBox | Block]) -> bool:
    area = (block.row1 - block.row0) * (block.column1 - block.column0)
    for box in boxes:
        rows = min(block.row1, box.row1) - max(block.row0, box.row0)
        columns = min(block.column1, box.column1) - max(block.column0, box.column0)
        if max(rows, 0) * max(columns, 0) >= 0.6 * area:
            return True
    return False
