"""From activity to the standardised uptake value of a PET image.

SUVbw = activity [Bq/ml] · body weight [g] / dose at the time the activity is corrected to [Bq], after the pseudo-code
of the QIBA FDG-PET/CT profile (vendor-neutral SUV) and PS3.3, C.8.9.1.1.
"""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from typing import Any

# where Units is CNTS, Philips gives a factor to uptake, or one to Bq/ml; GE keeps when the scan began
_PHILIPS_UPTAKE, _PHILIPS_ACTIVITY, _GE_SCAN = (0x7053, 0x1000), (0x7053, 0x1009), (0x0009, 0x100D)


def suv_factor(header: Any) -> tuple[float | None, str]:
    """What stored units are multiplied by to become SUVbw; None with the reason where the header does not allow it.

    Args:
        header: Of a PET image; its Units say what the rescaled values are.

    Example:
        >>> suv_factor({"Units": "GML"})
        (1.0, '')
        >>> suv_factor({"Units": "BQML"})
        (None, 'PatientWeight is missing')
    """
    units = str(header.get("Units") or "").strip()
    if units == "GML":
        kind = str(header.get("SUVType") or "BW").strip()
        return (1.0, "") if kind == "BW" else (None, f"the uptake is normalised by {kind}, not by body weight")
    if units == "CNTS":
        uptake, activity = (
            _positive(getattr(header.get(tag), "value", None)) for tag in (_PHILIPS_UPTAKE, _PHILIPS_ACTIVITY)
        )
        if uptake is not None:
            return uptake, ""
        if activity is None:
            return None, "the values are counts without a factor"
        factor, why = _from_activity(header)
        return (None if factor is None else factor * activity), why
    if units != "BQML":
        return None, f"the units are {units or 'not stated'}"
    return _from_activity(header)


def _from_activity(header: Any) -> tuple[float | None, str]:
    weight_kg = _positive(header.get("PatientWeight"))
    if weight_kg is None:
        return None, "PatientWeight is missing"
    given = header.get("RadiopharmaceuticalInformationSequence") or []
    if len(given) != 1:
        return None, f"{len(given)} radiopharmaceuticals are described"
    dose_bq = _positive(given[0].get("RadionuclideTotalDose"))
    if dose_bq is None:
        return None, "RadionuclideTotalDose is missing"
    corrected = header.get("CorrectedImage") or ()
    corrected = {corrected} if isinstance(corrected, str) else set(corrected)
    decay = str(header.get("DecayCorrection") or "").strip()
    if decay not in ("START", "ADMIN") or not {"ATTN", "DECY"} <= corrected:
        return None, "the values were not corrected for attenuation and decay"
    if decay == "START":
        half_life_s = _positive(given[0].get("RadionuclideHalfLife"))
        elapsed_s = _elapsed_s(header, given[0])
        if half_life_s is None or elapsed_s is None:
            return None, "the half-life, the time of injection or of the scan is missing"
        if not 0 <= elapsed_s <= 86_400:
            return None, f"the scan is {elapsed_s:.0f} s after the injection"
        dose_bq *= math.pow(2.0, -elapsed_s / half_life_s)
    factor = 1000 * weight_kg / dose_bq if dose_bq > 0 else math.inf
    return (factor, "") if math.isfinite(factor) else (None, "the dose has decayed to nothing")


def _elapsed_s(header: Any, given: Any) -> float | None:
    """Seconds from injection to the time that decay was corrected to: the series' start, if no frame is earlier.

    A series that was made later than its frames has GE's own note of the scan's start, or the frame's time is taken.
    """
    scan = _moment(header.get("SeriesDate"), header.get("SeriesTime"))
    frame = _moment(header.get("AcquisitionDate"), header.get("AcquisitionTime"))
    if scan is None or (frame is not None and frame < scan):
        noted = str(getattr(header.get(_GE_SCAN), "value", "") or "")
        scan = _moment(noted[:8], noted[8:].partition("+")[0].partition("-")[0]) or frame
    if scan is None:
        return None
    whole = str(given.get("RadiopharmaceuticalStartDateTime") or "")
    start = _moment(whole[:8], whole[8:].partition("+")[0].partition("-")[0]) if whole else None
    if start is None:
        start = _moment(scan.strftime("%Y%m%d"), given.get("RadiopharmaceuticalStartTime"))
        if start is not None and start > scan:
            start -= timedelta(days=1)  # injected before midnight
    return None if start is None else (scan - start).total_seconds()


def _moment(date: Any, time: Any) -> datetime | None:
    digits, clock = str(date or "").strip(), str(time or "").strip()
    whole, _, part = clock.partition(".")
    if len(digits) != 8 or len(whole) not in (2, 4, 6) or not (digits + whole + part).isdecimal():
        return None
    try:
        moment = datetime.strptime(digits + whole.ljust(6, "0"), "%Y%m%d%H%M%S")  # local time, as all of the file's
    except ValueError:
        return None
    return moment + timedelta(seconds=float(f"0.{part or 0}"))


def _positive(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) and number > 0 else None
