"""What stored values mean: rescale, modality LUT, palette, uptake, padding; and VOI windows, never applied."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmap.errors import ReadError
from medmap.image import Quantity
from medmap.read.dicom.codecs import EXPLICIT_BIG, PixelSpec
from medmap.read.dicom.lut import descriptor, entries, expanded
from medmap.read.dicom.place import groups, per_frame
from medmap.read.dicom.uptake import suv_factor
from medmap.read.rescale import rescaled, rescaled_type

_SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
_COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_420", "YBR_PARTIAL_422", "YBR_ICT", "YBR_RCT")
Pair = tuple[float, float]


@dataclass(frozen=True)
class Meaning:
    """How the stored values of a file become its values.

    Args:
        dtype: Of the values.
        quantity: What they are.
        colour: Whether a pixel is red, green and blue.
        transforms: (slope, intercept) once for all frames, or one a frame; empty: values as stored.
        table: The modality LUT (entries,) or the palette (entries, 3), or None.
        first: The stored value that the table's first entry is for.
        padding: Lowest and highest stored value that stand for "nothing was measured", or None.
    """

    dtype: np.dtype[Any]
    quantity: Quantity
    colour: bool = False
    transforms: tuple[Pair, ...] = ()
    table: NDArray[Any] | None = None
    first: int = 0
    padding: tuple[float, float] | None = None

    @classmethod
    def of(cls, header: Any, spec: PixelSpec, notes: list[str]) -> Meaning:
        """The meaning that a header gives to values stored as ``spec`` says; what is odd goes into ``notes``.

        Args:
            header: A pydicom data set.
            spec: How the values are stored.
            notes: Gets sentences.

        Raises:
            ReadError: A lookup table that is damaged.
        """
        if spec.photometric == "PALETTE COLOR" and spec.samples == 1:
            notes.append("the palette was turned into colours")
            return _palette(header, spec)
        if spec.samples == 3:
            if spec.photometric not in _COLOUR:
                notes.append(f"three samples a pixel called {spec.photometric or 'nothing'} were taken as colours")
            return cls(spec.dtype, "colour", colour=True)
        padding = _padding(header, spec)
        if header.get("ModalityLUTSequence"):
            return _modality_table(header, spec, padding)
        return _linear(header, spec, padding, notes)

    def apply(self, stored: NDArray[Any], frame: int | None = None) -> NDArray[Any]:
        """Values of stored values.

        Args:
            stored: Of one frame (or of several with one transform).
            frame: Its number, where each frame has a transform of its own.
        """
        if self.table is not None:
            index = np.clip(stored.astype(np.int64) - self.first, 0, len(self.table) - 1)
            return np.asarray(self.table[index])
        if not self.transforms:
            return stored.astype(self.dtype, copy=False)
        pair = self.transforms[0] if len(self.transforms) == 1 else self.transforms[frame or 0]
        return rescaled(stored, *pair, self.dtype).astype(self.dtype, copy=False)

    def measured(self, values: NDArray[Any], frame: int | None = None) -> NDArray[np.bool_] | None:
        """Where something was measured, of the values that ``apply`` gave; None where everything was."""
        if self.padding is None or self.table is not None:
            return None
        kind = np.int64 if values.dtype.kind in "iu" else values.dtype
        ends = self.apply(np.array(self.padding, kind), frame)
        low, high = min(ends), max(ends)
        valid = values != low if low == high else (values < low) | (values > high)
        return None if valid.all() else np.asarray(valid)


def _linear(header: Any, spec: PixelSpec, padding: tuple[float, float] | None, notes: list[str]) -> Meaning:
    transforms, kind = _transforms(header)
    bad = [t for t in transforms if not (math.isfinite(t[0]) and math.isfinite(t[1]) and t[0] != 0)]
    if bad:
        notes.append(f"the rescale slope and intercept are unusable ({bad[0][0]:g}, {bad[0][1]:g}); left out")
        transforms = ()
    quantity = _quantity(header, bool(transforms), kind)
    if str(header.get("Modality", "")).strip() == "PT" and not bad:
        factor, why = suv_factor(header)
        if factor is not None:
            quantity = "SUVbw"
            if factor != 1:
                transforms = tuple((slope * factor, shift * factor) for slope, shift in transforms or ((1.0, 0.0),))
        elif str(header.get("Units", "")).strip() == "BQML":
            quantity = "activity"
            notes.append(f"the values are activity in Bq/ml; no standardised uptake: {why}")
        else:
            notes.append(f"no standardised uptake: {why}")
    types = {rescaled_type(spec.dtype, *t, bits=spec.bits_stored) for t in transforms} or {spec.dtype}
    return Meaning(np.result_type(*types), quantity, transforms=transforms, padding=padding)


def _transforms(header: Any) -> tuple[tuple[Pair, ...], str]:
    """(slope, intercept) once, or for each frame; and the rescale type."""
    if "RescaleSlope" in header or "RescaleIntercept" in header:
        slope, intercept = header.get("RescaleSlope"), header.get("RescaleIntercept")
        return ((_decimal(slope, 1.0), _decimal(intercept, 0.0)),), str(header.get("RescaleType", "") or "")
    if header.get("DoseGridScaling") is not None:  # PS3.3, C.8.8.3: to Gy, or relative
        return ((_decimal(header.get("DoseGridScaling"), 1.0), 0.0),), ""
    found: list[Pair] = []
    kind = ""
    shared, own = groups(header, "SharedFunctionalGroupsSequence"), per_frame(header)
    for group in (*shared, *own):
        for item in group.get("PixelValueTransformationSequence") or []:
            found.append((_decimal(item.get("RescaleSlope"), 1.0), _decimal(item.get("RescaleIntercept"), 0.0)))
            kind = str(item.get("RescaleType", "") or "")
    if len(set(found)) > 1 and len(found) != len(own):
        raise ReadError("some frames have a rescale of their own and some have none", got=f"{len(found)} of {len(own)}")
    return (tuple(found[:1]) if len(set(found)) == 1 else tuple(found)), kind


def _decimal(value: Any, default: float) -> float:
    if value is None or value == "":
        return default
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan  # said as unusable


def _quantity(header: Any, rescaled_values: bool, kind: str) -> Quantity:
    """HU only where the file says so: CT with a rescale of type HU (or, as older files, of no type)."""
    modality = str(header.get("Modality", "")).strip()
    if str(header.get("SOPClassUID", "")) == _SEGMENTATION:
        return "label" if header.get("SegmentationType") == "BINARY" else "probability"
    if kind.strip().upper() == "HU" or (modality == "CT" and rescaled_values and not kind.strip()):
        return "HU"
    return "arbitrary"


def _modality_table(header: Any, spec: PixelSpec, padding: tuple[float, float] | None) -> Meaning:
    """PS3.3, C.11.1: a table instead of slope and intercept."""
    item = header.ModalityLUTSequence[0]
    count, first, bits = descriptor(item.get("LUTDescriptor"), spec.signed)
    table = entries(item.get("LUTData"), count, bits, spec.transfer_syntax == EXPLICIT_BIG)
    hounsfield = str(item.get("ModalityLUTType", "")).strip().upper() == "HU"
    table = table.astype(np.uint8 if bits <= 8 else np.uint16)
    return Meaning(table.dtype, "HU" if hounsfield else "arbitrary", table=table, first=first, padding=padding)


def _palette(header: Any, spec: PixelSpec) -> Meaning:
    """PS3.3, C.7.9: a table for each of red, green and blue."""
    columns, firsts = [], []
    big = spec.transfer_syntax == EXPLICIT_BIG
    depth = 16
    for name in ("Red", "Green", "Blue"):
        count, first, depth = descriptor(header.get(f"{name}PaletteColorLookupTableDescriptor"), spec.signed)
        segmented = header.get(f"Segmented{name}PaletteColorLookupTableData")
        if segmented is not None:
            wide = depth > 8
            words = np.frombuffer(segmented, f"{'>' if big else '<'}u2" if wide else "u1",
                                  len(segmented) // (2 if wide else 1)).astype(np.uint16)  # fmt: skip
            columns.append(expanded(words, count))
        else:
            columns.append(entries(header.get(f"{name}PaletteColorLookupTableData"), count, depth, big))
        firsts.append(first)
    if len({len(column) for column in columns}) > 1 or len(set(firsts)) > 1:
        raise ReadError("the palettes of red, green and blue are of different lengths", got=[len(c) for c in columns])
    table = np.stack(columns, axis=-1).astype(np.uint8 if depth <= 8 else np.uint16)
    return Meaning(table.dtype, "colour", colour=True, table=table, first=firsts[0])


def _padding(header: Any, spec: PixelSpec) -> tuple[float, float] | None:
    """PS3.3, C.7.5.1.1.2: one stored value, or all up to a limit, were not measured."""
    name = (
        {32: "FloatPixelPadding", 64: "DoubleFloatPixelPadding"}.get(spec.bits_allocated, "") if spec.floating else ""
    )
    low = header.get(f"{name}Value" if name else "PixelPaddingValue")
    high = header.get(f"{name}RangeLimit" if name else "PixelPaddingRangeLimit")
    ends = [v for v in (low, low if high is None else high) if isinstance(v, (int, float)) and math.isfinite(v)]
    if len(ends) != 2:
        return None
    if not spec.floating and spec.signed:  # an element written as unsigned though values are signed
        ends = [v - 2**16 if v > 32767 and spec.bits_allocated == 16 else v for v in ends]
    return min(ends), max(ends)


def windows(header: Any) -> tuple[tuple[float, float, str], ...]:
    """(centre, width, explanation) of each VOI window (PS3.3, C.11.2), kept apart from the values."""
    found: list[tuple[float, float, str]] = []
    places = [header]
    for group in (*groups(header, "SharedFunctionalGroupsSequence"), *per_frame(header)[:1]):
        places.extend(group.get("FrameVOILUTSequence") or [])
    for place in places:
        centres, widths = _several(place.get("WindowCenter")), _several(place.get("WindowWidth"))
        words = [str(v) for v in _several(place.get("WindowCenterWidthExplanation"))]
        for number, (centre, width) in enumerate(zip(centres, widths, strict=False)):
            pair = _decimal(centre, math.nan), _decimal(width, math.nan)
            if all(map(math.isfinite, pair)) and pair[1] > 0:
                found.append((*pair, words[number] if number < len(words) else ""))
    return tuple(dict.fromkeys(found))


def _several(value: Any) -> list[Any]:
    if value is None or value == "":
        return []
    return list(value) if hasattr(value, "__len__") and not isinstance(value, str) else [value]
