"""Series chosen by a readable rule: ``axial T1 after contrast, >= 20 slices``.

A rule is words and conditions, in any order and case, separated by spaces or commas; all of them must hold.

=====================  ===============================================================================================
words                  what must hold
=====================  ===============================================================================================
axial coronal          the plane nearest to that of the slices (transverse, tra = axial)
sagittal oblique       (oblique: more than 20° off every one)
CT MR PT US XA CR …    Modality (MRI = MR, PET = PT)
T1 T2 PD FLAIR STIR    in the description, protocol or sequence name; T1 and T2 are not FLAIR unless it is named too
DWI ADC MRA SWI        (DWI also: several b-values)
after contrast         a contrast agent is stated, or the description says so (``with contrast``, ``contrast``)
before contrast        neither (``without contrast``, ``native``)
bone/soft/lung kernel  what the maker's name of the reconstruction kernel stands for
volume cine picture    the kind of the series; ``localiser`` and ``derived`` series are only chosen when named
3D 2D                  MRAcquisitionType
original derived       whether pictures were computed from others
"text"                 the description holds the text in quotation marks
number 5               SeriesNumber
thickness <= 2 mm      also ``spacing`` (in the plane), ``distance`` (of slices), ``slices``, ``rows``, ``columns``,
>= 20 slices           ``parts``, ``tr`` and ``te`` (ms), ``b`` (highest b-value): with <, <=, =, >=, >, in either order
largest thinnest       of what is left, the one of most voxels; of thinnest slices; first or last by number
first last
=====================  ===============================================================================================

Any other word is refused.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType

import numpy as np

from medmap.errors import UsageError
from medmap.read.dicom.kinds import IMAGES, is_derived
from medmap.read.dicom.sorting import b_value
from medmap.read.dicom.studies import Series

Test = Callable[[Series], bool]
OBLIQUE = 0.94  # cosine of 20°


def _plane(series: Series) -> str:
    normal = series.parts[0].frames[0].normal if series.parts else None
    if normal is None:
        return ""
    axis = int(np.abs(normal).argmax())
    return ("sagittal", "coronal", "axial")[axis] + ("" if abs(normal[axis]) >= OBLIQUE else " oblique")


def _text(series: Series) -> str:
    headers = series.headers
    said = [series.description, headers.get("ProtocolName", ""), headers.get("SequenceName", "")]
    return " ".join(str(word) for word in said).lower()


def _says(*patterns: str) -> Test:
    found = re.compile("|".join(rf"(?<![a-z0-9]){p}(?![a-z0-9])" for p in patterns))
    return lambda series: bool(found.search(_text(series).replace("_", " ")))


_FLAIR = _says("flair", "dark.?fluid", "tirm.?dark", "t2.?flair")
_CONTRAST = _says(
    "c\\+", "\\+c", "gd", "gad[a-z]*", "post.?(contrast|gad|gd|km|cm|c)?", "ce", "with contrast", "contrast",
    "kontrast", "mit km", "arterial", "venous", "portal", "portovenous", "t1c", "t1ce", "t1.?gd",
)  # fmt: skip
_NO_CONTRAST = _says(
    "without contrast", "non.?contrast", "pre.?contrast", "no contrast", "nativ[a-z]*", "pre", "w.?o contrast"
)
_DWI = _says("dwi", "diff[a-z]*", "dti", "ep2d.?diff[a-z]*", "trace[a-z]*")


def _contrast(series: Series) -> bool:
    agent = str(series.headers.get("ContrastBolusAgent", "")).strip().lower()
    stated = agent not in ("", "none", "no", "n") or "ContrastBolusAgentSequence" in series.headers
    return stated or (_CONTRAST(series) and not _NO_CONTRAST(series))


def _is(modality: str) -> Test:
    return lambda series: series.modality == modality


def _in_plane(word: str) -> Test:
    return lambda series: word in _plane(series).split()


def _weighted(word: str) -> Test:
    said = _says(f"{word}[wci]?[ce]?", f"{word}.?(se|tse|fse|w|weighted|mprage|space|gre|vibe)", f"{word}w?i")
    return lambda series: said(series) and not _FLAIR(series)


def _several_b(series: Series) -> bool:
    return len({b for p in series.parts if (b := b_value(p.frames[0].values)) is not None}) > 1


# kernels by the makers' names: Siemens B/H/I + number, GE and Philips and Canon words
_KERNELS: Mapping[str, re.Pattern[str]] = MappingProxyType(
    {
        "bone": re.compile(
            r"^(bone|bonplus|edge|detail\+|[bhi][fru]?[67]\d|y[abcd]|yc|fc3\d|fc8\d|hr[67]\d)", re.IGNORECASE
        ),
        "lung": re.compile(r"^(lung|l$|b[78]0|bl\d\d|fc5[0-9]|yb|b60)", re.IGNORECASE),
        "soft": re.compile(
            r"^(standard|soft|stnd|[bhi][frv]?[234]\d|fc0\d|fc1\d|a$|b$|smooth|body|br[34]\d)", re.IGNORECASE
        ),
    }
)


def _kernel(name: str) -> Test:
    def test(series: Series) -> bool:
        kernel = series.headers.get("ConvolutionKernel", ())
        return any(_KERNELS[name].match(str(part).strip()) for part in kernel)

    return test


def _of_kind(kind: str) -> Test:
    return lambda series: series.kind == kind


_MODALITIES = (
    "CT", "MR", "PT", "US", "XA", "CR", "DX", "MG", "NM", "OT", "SM", "RF", "OP", "OCT", "ES", "XC", "SEG", "SR",
)  # fmt: skip
WORDS: Mapping[str, Test] = MappingProxyType(
    {
        **{m.lower(): _is(m) for m in _MODALITIES},
        "mri": _is("MR"),
        "pet": _is("PT"),
        **{word: _in_plane(word) for word in ("axial", "coronal", "sagittal", "oblique")},
        **dict.fromkeys(("transverse", "transversal", "tra"), _in_plane("axial")),
        "t1": _weighted("t1"),
        "t2": _weighted("t2"),
        "pd": _says("pd", "pdw", "proton.?density"),
        "flair": _FLAIR,
        "stir": _says("stir", "tirm"),
        "dwi": lambda series: _DWI(series) or _several_b(series),
        "adc": _says("adc", "apparent diffusion[a-z ]*"),
        "swi": _says("swi", "swan", "venobold"),
        "mra": _says("mra", "tof", "angio[a-z]*"),
        "3d": lambda series: series.headers.get("MRAcquisitionType") == "3D",
        "2d": lambda series: series.headers.get("MRAcquisitionType") == "2D",
        "after contrast": _contrast,
        "before contrast": lambda series: not _contrast(series),
        "bone kernel": _kernel("bone"),
        "soft kernel": _kernel("soft"),
        "lung kernel": _kernel("lung"),
        "original": lambda series: not is_derived(series.headers) and series.kind != "derived",
        "derived": lambda series: is_derived(series.headers) or series.kind == "derived",
        **{kind: _of_kind(kind) for kind in IMAGES if kind != "derived"},
        "localizer": lambda series: series.kind == "localiser",
    }
)  # fmt: skip
# other ways to say the same, turned into the words above before anything else
_SAME: tuple[tuple[str, str], ...] = (
    (r"\b(post|with|after)[- ]?contrast\b|\bcontrast[- ]enhanced\b", "after contrast"),
    (r"\b(pre|without|before|non|no)[- ]?contrast\b|\bnative\b", "before contrast"),
    (r"(?<!after )(?<!before )\bcontrast\b", "after contrast"),
    (r"\bsoft[- ]tissue kernel\b", "soft kernel"),
    (r"≥", ">="),
    (r"≤", "<="),
)


def _largest_b(series: Series) -> float | None:
    found = [b for p in series.parts if (b := b_value(p.frames[0].values)) is not None]
    return max(found) if found else None


def _distance(series: Series) -> float | None:
    if not series.parts or len(series.parts[0].frames) < 2:
        return None
    frames = series.parts[0].frames
    places = [p for f in frames if (p := f.position) is not None]
    return float(np.median(np.linalg.norm(np.diff(np.array(places), axis=0), axis=1))) if len(places) > 1 else None


def _spacing(series: Series) -> float | None:
    plane = series.parts[0].frames[0].plane if series.parts else None
    return None if plane is None else float(np.linalg.norm(plane, axis=0).max())


def _header(name: str) -> Callable[[Series], float | None]:
    return lambda series: None if series.headers.get(name) is None else float(series.headers[name])


def _slices(series: Series) -> float | None:
    return float(max((p.slices for p in series.parts), default=0))


def _voxels(series: Series) -> float:
    return float(sum(p.slices * int(p.frames[0].values.get("Rows", 0)) * int(p.frames[0].values.get("Columns", 0))
                     for p in series.parts))  # fmt: skip


QUANTITIES: Mapping[str, Callable[[Series], float | None]] = MappingProxyType(
    {
        "thickness": _header("SliceThickness"),
        "spacing": _spacing,
        "distance": _distance,
        "slices": _slices,
        "rows": _header("Rows"),
        "columns": _header("Columns"),
        "parts": lambda series: float(len(series.parts)),
        "tr": _header("RepetitionTime"),
        "te": _header("EchoTime"),
        "b": _largest_b,
        "number": _header("SeriesNumber"),
    }
)
_COMPARE: Mapping[str, Callable[[float, float], bool]] = MappingProxyType(
    {"<": operator.lt, "<=": operator.le, "=": operator.eq, "==": operator.eq, ">=": operator.ge, ">": operator.gt}
)
_SUPERLATIVES = ("largest", "thinnest", "first", "last")
_NUMBER = r"(\d+(?:\.\d+)?)"
_SIGN = r"(<=|>=|==|<|>|=)"
_QUANTITY = "(" + "|".join(QUANTITIES) + ")"
_TOKENS = re.compile(
    rf"""(?P<quoted>"[^"]*")
    |(?P<after>\b{_QUANTITY}\b\s*{_SIGN}\s*{_NUMBER}\s*(?:mm|ms)?)
    |(?P<before>{_SIGN}\s*{_NUMBER}\s*(?:mm|ms)?\s*\b{_QUANTITY}\b)
    |(?P<numbered>\bnumber\s+(\d+))
    |(?P<phrase>\b(?:after\ contrast|before\ contrast|(?:bone|soft|lung)\ kernel)\b)
    |(?P<word>[^\s,]+)""",
    re.VERBOSE,
)


def choose(series: Iterable[Series], rule: str) -> list[Series]:
    """The series for which a readable rule holds, in their order.

    Series without pictures are never chosen unless their modality is named (``SEG``); localisers and derived ones only
    when the rule names them. The words of a rule stand in this module's description.

    Args:
        series: Candidates, for instance ``study.series``.
        rule: Such as ``axial T1 after contrast, >= 20 slices``.

    Raises:
        UsageError: An empty rule, or a word that has no meaning.
    """
    text = rule.strip().lower()
    for pattern, said in _SAME:
        text = re.sub(pattern, said, text)
    tests: list[Test] = []
    words: set[str] = set()
    picks: list[str] = []
    for match in _TOKENS.finditer(text):
        test = _test(match)
        if test is not None:
            tests.append(test)
        elif match["word"] in _SUPERLATIVES:
            picks.append(match["word"])
        elif match["word"] not in ("and", "with", "&"):
            raise UsageError("a rule holds a word that has no meaning", got=repr(match["word"]), expected=_known())
        words.add(match[0].strip())
    if not tests and not picks:
        raise UsageError("an empty rule chooses nothing", expected=_known())
    found = [s for s in series if _meant(s, words) and all(test(s) for test in tests)]
    for pick in picks:
        found = _picked(found, pick)
    return found


def _test(match: re.Match[str]) -> Test | None:
    if match["quoted"]:
        wanted = match["quoted"][1:-1]
        return lambda series: wanted in _text(series)
    if match["phrase"]:
        return WORDS[match["phrase"]]
    if match["numbered"]:
        number = int(match["numbered"].split()[1])
        return lambda series: series.number == number
    if match["after"]:
        name, sign, value = re.findall(rf"{_QUANTITY}\s*{_SIGN}\s*{_NUMBER}", match["after"])[0]
        return _condition(name, sign, float(value))
    if match["before"]:
        sign, value, name = re.findall(rf"{_SIGN}\s*{_NUMBER}\s*(?:mm|ms)?\s*{_QUANTITY}", match["before"])[0]
        return _condition(name, sign, float(value))
    return WORDS.get(match["word"])


def _condition(name: str, sign: str, value: float) -> Test:
    measure, compare = QUANTITIES[name], _COMPARE[sign]

    def test(series: Series) -> bool:
        found = measure(series)
        return found is not None and compare(round(found, 4), value)

    return test


def _meant(series: Series, words: set[str]) -> bool:
    if series.kind in ("volume", "picture", "cine"):
        return True
    if series.kind == "localiser":
        return bool(words & {"localiser", "localizer"})
    if series.kind == "derived":
        return bool(words & {"derived", "adc"})
    return series.modality.lower() in words


def _picked(series: list[Series], how: str) -> list[Series]:
    if not series:
        return []
    if how == "largest":
        return [max(series, key=_voxels)]
    if how == "thinnest":
        known = [s for s in series if s.headers.get("SliceThickness")]
        return [min(known, key=lambda s: float(s.headers["SliceThickness"]))] if known else []
    return [series[0] if how == "first" else series[-1]]


def _known() -> str:
    return (
        f"words: {', '.join(sorted(WORDS))}, {', '.join(_SUPERLATIVES)}; "
        f"conditions on {', '.join(QUANTITIES)} with < <= = >= >; text in quotation marks"
    )
