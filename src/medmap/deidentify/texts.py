"""Free text without what identifies: known values of the same object first, then what looks like an identifier.

Used where the profile says ``C`` of a text, and wherever a known value is found in a text that stays. What is left
says what it said before; a text of which nothing is left becomes ``ANONYMIZED``.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache

from medmap.deidentify.identity import MONTHS, Identity, has_letters_and_digits

NOTHING = "ANONYMIZED"

_MONTH = (
    r"(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?|"
    r"oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)"
)
_DAY = r"(?:0?[1-9]|[12]\d|3[01])"
_DATES = re.compile(
    r"(?<![\w.])(?:"
    r"(?:19|20)\d{2}(?P<s>[-/.]?)(?:0[1-9]|1[0-2])(?P=s)(?:0[1-9]|[12]\d|3[01])"
    rf"|{_DAY}(?P<t>[-/.]){_DAY}(?P=t)(?:19|20)\d{{2}}"
    rf"|{_DAY}/{_DAY}/\d{{2}}"
    rf"|\d{{1,2}}(?:st|nd|rd|th|\.)?[\s-]*{_MONTH}\.?,?[\s-]*(?:19|20)\d{{2}}"
    rf"|{_MONTH}\.?\s+\d{{1,2}}(?:st|nd|rd|th)?(?:,\s*|\s+)(?:19|20)\d{{2}}"
    r")(?!\w)",
    re.IGNORECASE,
)
_CAPITAL = r"[A-Z][\w'’-]+"  # a word as names are written
# Titles as people write them; MR, DR and MS in capitals are a modality or a disease.
_TITLE = r"(?:Dr\.?|DR\.|Prof\.?|PROF\.?|Mr\.?|MR\.|Mrs\.?|MRS\.?|Ms\.?|Miss|Doctor|Professor)"
_STREET = r"(?:Street|St|Avenue|Ave|Road|Rd|Lane|Ln|Drive|Boulevard|Blvd|Court|Way|Place)"
_RECORD = (
    r"(?:mrn|medical record(?: number| no)?|patient id|pat\.? ?id|pid|ssn|accession(?: number| no)?|acc|"
    r"nhs(?: number| no)?|case (?:no|number)|phone|tel|fax|mobile)"
)
_LOOKS_IDENTIFYING = (
    re.compile(r"(?<!\w)[\w.+-]+@[\w-]+(?:\.[\w-]+)+"),
    re.compile(r"(?<!\w)(?:https?://|ftp://|www\.)\S+", re.IGNORECASE),
    re.compile(r"(?<!\w)\d{3}-\d{2}-\d{4}(?!\w)"),
    re.compile(
        r"(?<![\w.])(?:\+\d{1,3}[\s.-]?)?(?:\(\d{2,5}\)\s?\d{3,4}[\s.-]\d{3,4}|\d{3,5}([-.])\d{3,4}\1\d{3,4})(?![\w.])"
    ),
    re.compile(r"(?<![\w.])\+\d[\d\s-]{7,}\d(?!\w)"),
    re.compile(
        rf"(?<!\w){_RECORD}\b\.?\s*(?:no\.?|#)?\s*[:#=]?\s*(?=[\w-]*\d\d)[\w/+()-]+(?:[ -]\d[\d-]*)*", re.IGNORECASE
    ),
    re.compile(
        rf"(?<!\w)(?:[Pp]atient(?: [Nn]ame)?|PATIENT(?: NAME)?|[Pp]t)\s*[:=]\s*{_CAPITAL}(?:[\s,^]+{_CAPITAL}){{0,3}}"
    ),
    re.compile(rf"(?<!\w){_TITLE}\s+[A-Z][\w'’-]*\.?(?:[\s^]+{_CAPITAL}){{0,2}}"),
    re.compile(rf"(?<!\w)\d{{1,5}}[A-Za-z]?\s+(?:{_CAPITAL}\s+){{1,3}}{_STREET}\b\.?"),
    re.compile(r"(?<!\w)\d{8,}(?!\w)"),
)
# Scripts that put no space between words, or write titles and particles onto a name: Thai to Khmer, kana, Han, Hangul.
_RUNS_ON = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1100-\u11ff\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\ua960-\ua97f"
                      r"\uac00-\ud7ff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff]")  # fmt: skip
_EMPTY_BRACKETS = re.compile(r"\(\s*\)|\[\s*\]|\{\s*\}")
_LEFT_OVER = re.compile(r"\s*[,;:^=/-]+\s*(?=$|[,;])|^\s*[,;:^=/.-]+\s*")
_SPACES = re.compile(r"[ \t]{2,}")


def without_known(text: str, known: Identity) -> str:
    """Text without the values that the same object's identifying attributes had.

    Letters outside ASCII are compared without their accents, their case and the width they are printed in.
    """
    for uid in known.uids:
        text = text.replace(uid, " ")
    expression = _known(frozenset(known.names), frozenset(known.values), frozenset(known.dates))
    if expression is None:
        return text
    text = expression.sub(" ", text)
    return text if text.isascii() else _without_alike(text, known)


def folded(text: str) -> tuple[str, list[int]]:
    """Text without accents, case and printed forms (Unicode's compatibility forms), and where each letter came from.

    Example:
        >>> folded("Ά\ufb01x")
        ('αfix', [0, 1, 1, 2])
    """
    letters, places = [], []
    for place, sign in enumerate(text):
        for letter in unicodedata.normalize("NFKD", sign).casefold():
            if not unicodedata.combining(letter):
                letters.append(letter)
                places.append(place)
    return "".join(letters), places


@lru_cache(maxsize=64)
def _alike(names: frozenset[str], values: frozenset[str]) -> re.Pattern[str] | None:
    return _known(
        *(frozenset(filter(None, (folded(word)[0] for word in words))) for words in (names, values)), frozenset()
    )


def _without_alike(text: str, known: Identity) -> str:
    expression = _alike(frozenset(known.names), frozenset(known.values))
    letters, places = folded(text)
    if expression is None or expression.search(letters) is None:
        return text
    kept, reached = [], 0
    for match in expression.finditer(letters):
        begin, end = places[match.start()], places[match.end() - 1] + 1
        while end < len(text) and unicodedata.combining(text[end]):
            end += 1
        kept.append(text[reached : max(begin, reached)])
        reached = max(end, reached)
    return " ".join([*kept, text[reached:]])


def cleaned(text: str, known: Identity, *, dates: bool = True) -> str:
    """Text without known values and without anything that looks like a name with a title, a date, a number of record,
    a telephone number or an address.

    Args:
        text: One value of an attribute.
        known: The object's identifying values.
        dates: Whether dates go too.

    Example:
        >>> identity = Identity()
        >>> identity.add_name("Doe^Jane")
        >>> cleaned("MRI brain of Jane Doe, seen by Dr. Smith on 2020-03-04", identity)
        'MRI brain of, seen by on'
    """
    found = without_known(text, known)
    if dates:
        found = _DATES.sub(" ", found)
    for expression in _LOOKS_IDENTIFYING:
        found = expression.sub(" ", found)
    return text if found == text else tidied(found)


def tidied(text: str) -> str:
    """What is left of a text after something was taken out, without holes."""
    found = _SPACES.sub(" ", _EMPTY_BRACKETS.sub(" ", text))
    found = re.sub(r"\s+([,;.:)])", r"\1", _LEFT_OVER.sub("", found)).strip(" \t^")
    return found if any(c.isalnum() for c in found) else NOTHING


@lru_cache(maxsize=64)
def _known(names: frozenset[str], values: frozenset[str], dates: frozenset[str]) -> re.Pattern[str] | None:
    words = _longest_first(values)
    words += _longest_first(names)
    if not words and not dates:
        return None
    choice = "|".join([*(date_expression(d) for d in sorted(dates)), *(_expression(w, w in values) for w in words)])
    return re.compile(rf"(?:{choice})", re.IGNORECASE)


def date_expression(date: str) -> str:
    """What matches every way of ``spellings`` to write a date, and some more; a time of day may follow it.

    Example:
        >>> from medmap.deidentify.identity import spellings
        >>> all(re.search(date_expression("19500612"), word, re.IGNORECASE) for word in spellings("19500612"))
        True
    """
    year, month, day = date[:4], f"0?{int(date[4:6])}", f"0?{int(date[6:8])}"
    short, between = f"(?:{year[:2]})?{year[2:]}", r"[\s_./:-]?"
    time = r"(?:(?:[01]\d|2[0-3])[0-5]\d(?:[0-5]\d(?:\.\d+)?)?)?(?!\d)"
    found = [f"{short}{between}{month}{between}{day}{time}", f"{day}{between}{month}{between}{short}{time}"]
    found += [f"{month}{between}{day}{between}{short}{time}"]
    if 1 <= int(date[4:6]) <= 12:
        name, apart = "(?:" + "|".join(sorted(MONTHS[int(date[4:6]) - 1], key=len, reverse=True)) + ")", r"[\s_.,/-]*"
        number = rf"{day}(?:st|nd|rd|th)?"
        found += [rf"{number}{apart}(?:de\s|of\s)?{name}{apart}(?:de\s)?{short}(?!\d)"]
        found += [rf"{name}{apart}{number}{apart}{short}(?!\d)", rf"{year}{apart}{name}{apart}{number}(?!\d)"]
        return rf"(?:(?<!\d)(?:{'|'.join(found)})|(?<![^\W\d_]){found[4]})"
    return rf"(?<!\d)(?:{'|'.join(found)})"


def _expression(word: str, is_value: bool) -> str:
    """A word bounded as the search for what is left bounds it: letters by no letter, digits by no digit."""
    mixed = is_value and has_letters_and_digits(word.encode("utf-8", "replace"))
    sides = []
    for edge in (word[0], word[-1]):
        apart = edge.isalpha() and not mixed and not _RUNS_ON.match(edge)
        sides.append(r"\d" if edge.isdigit() else r"[^\W\d_]" if apart else "")
    before, after = (f"(?<!{sides[0]})" if sides[0] else ""), (f"(?!{sides[1]})" if sides[1] else "")
    body = re.escape(word).replace(r"\ ", r"\s+")
    return rf"{before}{body}(?:['’]s(?!\w))?{after}" if word[-1].isalpha() else f"{before}{body}{after}"


def _longest_first(words: Iterable[str]) -> list[str]:
    return sorted(words, key=len, reverse=True)
