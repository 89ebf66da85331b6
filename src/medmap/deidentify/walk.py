"""One object, attribute by attribute, at every depth: what the profile says of each is done in place.

Values that stay are never decoded; pydicom keeps them as the bytes they were. What identifying attributes said is
gathered on the way, and texts that are to be cleaned wait until all of it is known.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from medmap.deidentify.actions import CLEAN, DUMMY, EMPTY, KEEP, MAP, REMOVE, dummy, resolved, shifted
from medmap.deidentify.identity import Identity
from medmap.deidentify.private import is_safe
from medmap.deidentify.profile import Profile, names_a_class
from medmap.deidentify.secrets import Key
from medmap.deidentify.table import CURVE, PRIVATE, pattern, type_of
from medmap.deidentify.texts import cleaned, tidied, without_known
from medmap.errors import ReadError

if TYPE_CHECKING:
    from pydicom import Dataset

MOST_NESTED = 48  # structured reports nest about ten deep; more is an attack
TEXT = frozenset(["LO", "SH", "ST", "LT", "UT", "UC", "PN"])
_DATE = frozenset(["DA", "DT", "TM"])
_BYTES = frozenset(["OB", "OW", "UN", "OL", "OD", "OF", "OV"])
_ESCAPE = b"\x1b"
UNKNOWN = "unknown"

PATIENT_NAME, PATIENT_ID, _DOCUMENT_TITLE = 0x00100010, 0x00100020, 0x00420010
_CONTENT, _TEXT_VALUE = 0x0040A730, 0x0040A160
_CODES = frozenset([0x00080100, 0x00080102, 0x00080103, 0x00080104, 0x00080119])
_IDENTIFIES_BY_CODE = frozenset([0x00401101])
# Attributes whose value is a person's, a patient's or a place's own: looked for wherever else it may stand.
_VALUES = frozenset(
    [
        *(0x00080050, 0x00080080, 0x00080081, 0x00080092, 0x00080094, 0x00100020, 0x00101000, 0x00101040, 0x00101050),
        *(0x00101090, 0x00102154, 0x00102155, 0x00181000, 0x00321020, 0x00380010, 0x00380060, 0x00401001, 0x00402016),
        *(0x00402017, 0x00401102, 0x00401103, 0x00400253, 0x00080096, 0x00400512, 0x00400551, 0x00120040, 0x00181002),
        *(0x00402008, 0x00402010, 0x0040A353, 0x0040A354, 0x00102299),
    ]
)


@dataclass
class Walked:
    """What was done to one object.

    Args:
        actions: How often an action met an attribute: ``(tag or pattern, action letter)``.
        identity: What the identifying attributes had said.
        cleaned: Attributes of which a text was changed.
    """

    actions: Counter[tuple[str, str]] = field(default_factory=Counter)
    identity: Identity = field(default_factory=Identity)


@dataclass(frozen=True)
class _Place:
    """Where in the object the walk stands."""

    depth: int = 0
    sequence: int | None = None
    dummies: bool = False  # inside a sequence whose contents become dummies
    cleans: bool = False  # inside a sequence whose contents are cleaned


def walked(dataset: Dataset, profile: Profile, key: Key) -> Walked:
    """Do what the profile says to every attribute of an object, in place.

    Args:
        dataset: The object without its file meta information.
        profile: What is asked for.
        key: The project's key.

    Raises:
        ReadError: Sequences nested deeper than any real object.
    """
    walk = _Walk(dataset, profile, key)
    walk.through(dataset, _Place())
    walk.clean_texts()
    return walk.result


def patient_of(dataset: Dataset) -> str:
    """What tells one patient from another: the id, else the name, else the study."""
    for keyword in ("PatientID", "PatientName", "StudyInstanceUID", "SOPInstanceUID"):
        if text := str(dataset.get(keyword) or "").strip(" \0"):
            return f"{keyword}:{text}"
    return ""


class _Walk:
    """The state of one walk: the object's patient, and what waits to be cleaned."""

    def __init__(self, dataset: Dataset, profile: Profile, key: Key) -> None:
        self.profile, self.key, self.result = profile, key, Walked()
        patient = patient_of(dataset)
        self.pseudonym, self.shift_days = key.pseudonym(patient), key.shift_days(patient)
        self.implicit = bool(dataset.original_encoding[0])
        self.sop_class = str(dataset.get("SOPClassUID") or "")
        self.waiting: list[tuple[Dataset, int, str]] = []
        self.foreign: list[tuple[Dataset, int, str]] = []

    def through(self, dataset: Dataset, place: _Place) -> None:
        """Every attribute of one level, then those below."""
        if place.depth > MOST_NESTED:
            raise ReadError("sequences are nested too deep", got=f"more than {MOST_NESTED} levels")
        creators: dict[int, str] = {}
        overlays: set[int] = set()
        for tag in sorted(dataset.keys(), key=int):
            number = int(tag)
            if number & 0xFFFF == 0 and number >> 16 != 0:
                del dataset[tag]  # group length, retired: true of the old group alone
            elif (number >> 16) % 2:
                self._private(dataset, tag, place, creators)
            else:
                self._standard(dataset, tag, place)
                if number >> 24 == 0x60 and number & 0xFFFF == 0x3000 and number not in dataset:
                    overlays.add(number >> 16)
        if overlays:  # what describes an overlay is nothing without it
            for tag in [t for t in dataset.keys() if int(t) >> 16 in overlays]:  # noqa: SIM118
                del dataset[tag]

    # -- which action ----------------------------------------------------------------------------------------------

    def _private(self, dataset: Dataset, tag: int, place: _Place, creators: dict[int, str]) -> None:
        group, element = tag >> 16, tag & 0xFFFF
        if "safe-private" in self.profile.keep and element >= 0x10:
            if element <= 0xFF:
                creators[group << 8 | element] = str(dataset[tag].value or "")
                if any(is_safe(creators[group << 8 | element], int(t)) for t in _block(dataset, group, element)):
                    self._count(PRIVATE, KEEP)
                    return
            elif is_safe(creators.get(group << 8 | element >> 8, ""), tag):
                self._keep(dataset, tag, place, self._vr(dataset, tag))
                self._count(PRIVATE, KEEP)
                return
        del dataset[tag]
        self._count(PRIVATE, REMOVE)

    def _standard(self, dataset: Dataset, tag: int, place: _Place) -> None:
        vr = self._vr(dataset, tag)
        row = pattern(tag)
        # pixels of a retired kind (7Fxx) are looked at by nobody
        if (vr == UNKNOWN and row != CURVE) or (tag >> 24 == 0x7F and tag >> 16 != 0x7FE0):
            del dataset[tag]
            self._count(UNKNOWN, REMOVE)
            return
        code = self.profile.code(tag, vr)
        cleans = code.startswith("C:")
        kind = type_of(tag, self.sop_class, place.sequence)
        action = CLEAN if cleans else resolved(code, kind)
        if place.dummies and action in ("", KEEP):
            action = self._inside_dummies(tag, vr, place)
        elif place.cleans and not action and vr in TEXT:
            action = CLEAN
        if action == CLEAN and not self._can_clean(dataset, tag, vr):
            action = resolved(code.removeprefix("C:"), kind)
        if tag == _DOCUMENT_TITLE:  # the table lets it stay; it is mostly a heading with the patient's name
            action = DUMMY
        self._do(action, dataset, tag, place, vr)
        if action:
            self._count(row, action)

    def _can_clean(self, dataset: Dataset, tag: int, vr: str) -> bool:
        if vr in _DATE:
            return self._shifted(dataset, tag, vr) is not None
        return vr in TEXT or vr in ("SQ", "AE", "CS", "UR") or tag == 0x00080201 or (tag >> 24 == 0x60)

    def _inside_dummies(self, tag: int, vr: str, place: _Place) -> str:
        if tag in _CODES and place.sequence not in _IDENTIFIES_BY_CODE:
            return ""
        return DUMMY if vr in TEXT or vr in _DATE else ""

    # -- the actions -----------------------------------------------------------------------------------------------

    def _do(self, action: str, dataset: Dataset, tag: int, place: _Place, vr: str) -> None:
        if action in (REMOVE, EMPTY, DUMMY, MAP) or (action == CLEAN and vr in _DATE):
            self._remember(dataset, tag, vr)
        if action == REMOVE:
            del dataset[tag]
        elif action == EMPTY:
            self._empty(dataset, tag, vr)
        elif action == DUMMY:
            self._dummy(dataset, tag, place, vr)
        elif action == MAP and vr != "SQ":
            self._map(dataset, tag)
        elif action == CLEAN and vr != "SQ":
            self._clean(dataset, tag, vr)
        else:
            self._keep(dataset, tag, place, vr, cleans=action == CLEAN)

    def _keep(self, dataset: Dataset, tag: int, place: _Place, vr: str, *, cleans: bool = False) -> None:
        if vr == "SQ":
            inside = _Place(place.depth + 1, tag, place.dummies, place.cleans or cleans)
            self._below(dataset, tag, inside)
        elif vr in TEXT and is_foreign(dataset, tag):
            self.foreign.append((dataset, tag, vr))

    def _below(self, dataset: Dataset, tag: int, place: _Place) -> None:
        if place.depth > MOST_NESTED:
            raise ReadError("sequences are nested too deep", got=f"more than {MOST_NESTED} levels")
        for item in dataset[tag].value or ():
            self.through(item, place)

    def _empty(self, dataset: Dataset, tag: int, vr: str) -> None:
        if tag in (PATIENT_NAME, PATIENT_ID):  # a dummy is allowed too, and keeps a patient's files together
            _put(dataset, tag, vr, self.pseudonym)
        else:
            _put(dataset, tag, vr, [] if vr == "SQ" else None)

    def _dummy(self, dataset: Dataset, tag: int, place: _Place, vr: str) -> None:
        if tag in (PATIENT_ID, PATIENT_NAME):
            _put(dataset, tag, vr, self.pseudonym)
        elif vr == "SQ":
            self._below(dataset, tag, _Place(place.depth + 1, tag, True, place.cleans))
        elif vr == "UI":
            self._map(dataset, tag)
        else:
            _put(dataset, tag, vr, dummy(vr))

    def _map(self, dataset: Dataset, tag: int) -> None:
        uids = [word.strip(" \0") for word in raw_text(dataset, tag).split("\\")]
        _put(dataset, tag, "UI", [self.key.uid(uid) for uid in uids] if len(uids) > 1 else self.key.uid(uids[0]))

    def _clean(self, dataset: Dataset, tag: int, vr: str) -> None:
        if vr in _DATE:
            text = self._shifted(dataset, tag, vr) or ""
            _put(dataset, tag, vr, text.split("\\") if "\\" in text else text)
        elif vr in TEXT:
            self.waiting.append((dataset, tag, vr))

    def _shifted(self, dataset: Dataset, tag: int, vr: str) -> str | None:
        return shifted(raw_text(dataset, tag), vr, self.shift_days)

    def clean_texts(self) -> None:
        """The texts that waited: now everything identifying is known."""
        dates = "dates" not in self.profile.keep
        for dataset, tag, vr in self.waiting:
            change_text(dataset, tag, vr, lambda text: cleaned(text, self.result.identity, dates=dates))
        # the bytes of these look otherwise than those of the same name elsewhere: they are read
        for dataset, tag, vr in self.foreign:
            if without_names(dataset, tag, vr, self.result.identity):
                self._count(pattern(tag), CLEAN)

    # -- what is known ---------------------------------------------------------------------------------------------

    def _remember(self, dataset: Dataset, tag: int, vr: str) -> None:
        identity = self.result.identity
        if vr == "SQ":
            if tag in dataset:
                _remember_below(dataset[tag].value or (), identity, 0)
        else:
            _remember_value(dataset, tag, vr, identity)

    def _vr(self, dataset: Dataset, tag: int) -> str:
        from pydicom.datadict import dictionary_has_tag, dictionary_VR

        raw = dataset.get_item(tag)
        vr = str(raw.VR) if raw is not None and raw.VR else ""
        if not vr and not self.implicit:  # an element without a representation among others with one
            vr = str(dataset[tag].VR)
        if vr in ("", "UN") and not (tag >> 16) % 2:
            if not dictionary_has_tag(tag) or (vr == "UN" and str(dataset[tag].VR) == "UN" != dictionary_VR(tag)):
                return UNKNOWN
            vr = str(dictionary_VR(tag))
        elif vr == "" or (vr == "UN" and raw is not None):
            vr = str(dataset[tag].VR)
        elif not dictionary_has_tag(tag) and not (tag >> 16) % 2:
            return UNKNOWN
        return vr[:2]  # "US or SS": either is a number

    def _count(self, row: str, action: str) -> None:
        self.result.actions[row, action] += 1


def is_foreign(dataset: Dataset, tag: int) -> bool:
    """Whether a text has letters outside ASCII, also where ISO 2022 hides them behind escapes."""
    raw = dataset.get_item(tag)
    value = None if raw is None else raw.value
    if isinstance(value, bytes):
        return not value.isascii() or _ESCAPE in value
    return value is not None and not str(value).isascii()


def without_names(dataset: Dataset, tag: int, vr: str, identity: Identity) -> bool:
    """Take what is known out of a text with foreign letters; read as UTF-8 first, which few files declare."""

    def change(text: str) -> str:
        after = without_known(text, identity)
        return text if after == text else tidied(after)

    raw: Any = dataset.get_item(tag)
    data = raw.value if raw is not None and raw.is_raw and isinstance(raw.value, bytes) else b""
    if not data.isascii() and (text := _utf_8(data)):
        after = "\\".join(map(change, text.split("\\")))
        if after != text:
            encoded = after.encode("utf-8")
            encoded += b" " * (len(encoded) % 2)
            dataset[tag] = raw._replace(value=encoded, length=len(encoded))
            return True
    return change_text(dataset, tag, vr, change)


def _utf_8(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return ""


def _block(dataset: Dataset, group: int, element: int) -> list[int]:
    first = group << 16 | element << 8
    return [int(tag) for tag in dataset.keys() if first <= int(tag) <= first | 0xFF]  # noqa: SIM118  (tags, not elements)


def _remember_below(items: Any, identity: Identity, depth: int) -> None:
    for item in items if depth < MOST_NESTED else ():
        for tag in list(item.keys()):
            raw = item.get_item(tag)
            vr = str(raw.VR or "")
            if not vr or vr in ("SQ", "UN"):
                vr = str(item[tag].VR)
            if vr == "SQ":
                _remember_below(item[tag].value or (), identity, depth + 1)
            else:
                _remember_value(item, int(tag), vr, identity)


def _remember_value(dataset: Dataset, tag: int, vr: str, identity: Identity) -> None:
    from pydicom.datadict import dictionary_has_tag, dictionary_VR

    # a name is a name, whatever the file says its representation is
    if vr == "PN" or (vr in TEXT | _BYTES and dictionary_has_tag(tag) and dictionary_VR(tag) == "PN"):
        raw = dataset.get_item(tag)
        identity.add_name(_decoded(dataset, tag))
        if raw is not None and raw.is_raw and isinstance(raw.value, bytes) and not raw.value.isascii():
            identity.add_raw(raw.value)
    elif tag in _VALUES and vr != "UI":
        identity.add_value(_decoded(dataset, tag))
    elif vr in ("DA", "DT"):
        identity.add_date(raw_text(dataset, tag))
    elif vr == "UI" and not names_a_class(tag):
        identity.add_uid(raw_text(dataset, tag))


def raw_text(dataset: Dataset, tag: int) -> str:
    """A value of ASCII letters as it stands in the file, values separated by backslashes."""
    raw = dataset.get_item(tag)
    value = None if raw is None else raw.value
    if isinstance(value, bytes):
        return value.decode("latin-1").strip(" \0")
    if value is None:
        return ""
    return "\\".join(map(str, value)) if isinstance(value, (list, tuple)) or _several(value) else str(value)


def _several(value: Any) -> bool:
    return hasattr(value, "__iter__") and not isinstance(value, str) and not hasattr(value, "components")


def _decoded(dataset: Dataset, tag: int) -> str:
    value = dataset[tag].value
    if value is None:
        return ""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace").strip(" \0")
    return "\\".join(map(str, value)) if _several(value) else str(value)


def change_text(dataset: Dataset, tag: int, vr: str, change: Any) -> bool:
    """Put a changed text in the place of an attribute's; True where it is another."""
    value = dataset[tag].value
    if value is None or isinstance(value, bytes):
        return False
    before = [str(word) for word in value] if _several(value) else [str(value)]
    after = [change(word) if word.strip() else word for word in before]
    if before == after:
        return False
    _put(dataset, tag, vr, after if len(after) > 1 else after[0])
    return True


def _put(dataset: Dataset, tag: int, vr: str, value: Any) -> None:
    from pydicom.config import IGNORE
    from pydicom.dataelem import DataElement, RawDataElement
    from pydicom.sequence import Sequence
    from pydicom.tag import Tag

    if vr != "SQ" and (value is None or (isinstance(value, str) and value.isascii())):
        data = (value or "").encode("ascii")
        data += (b"\0" if vr == "UI" else b" ") * (len(data) % 2)
        implicit, little = dataset.original_encoding
        raw = RawDataElement(Tag(tag), vr, len(data), data, 0, bool(implicit), little is not False)
        dataset[tag] = raw
    else:
        dataset[tag] = DataElement(Tag(tag), vr, Sequence() if vr == "SQ" else value, validation_mode=IGNORE)
