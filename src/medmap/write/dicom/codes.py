"""From a label to a coded concept: SNOMED CT where the name is a common one, else a private code that keeps the name.

Codes are facts of SNOMED CT as DICOM uses them (PS3.16, CID 7150 to 7166 and CID 4); each is checked against pydicom's
dictionary in the tests.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

from medmap.errors import DataError
from medmap.results import Label

PRIVATE = "99MEDMAP"
Category = Literal["anatomy", "abnormal", "tissue", "object", "substance"]

# PS3.16 CID 7150, Segmentation Property Categories
CATEGORIES: Mapping[Category, tuple[str, str]] = MappingProxyType(
    {
        "anatomy": ("91723000", "Anatomical Structure"),
        "abnormal": ("49755003", "Morphologically Abnormal Structure"),
        "tissue": ("85756007", "Tissue"),
        "object": ("260787004", "Physical object"),
        "substance": ("91720002", "Body Substance"),
    }
)
LATERALITY: Mapping[str, tuple[str, str]] = MappingProxyType(
    {"left": ("7771000", "Left"), "right": ("24028007", "Right")}
)  # PS3.16 CID 244

# name in lower case → SNOMED CT code, meaning, category
COMMON: Mapping[str, tuple[str, str, Category]] = MappingProxyType(
    {
        "liver": ("10200004", "Liver", "anatomy"),
        "spleen": ("78961009", "Spleen", "anatomy"),
        "kidney": ("64033007", "Kidney", "anatomy"),
        "pancreas": ("15776009", "Pancreas", "anatomy"),
        "gallbladder": ("28231008", "Gallbladder", "anatomy"),
        "stomach": ("69695003", "Stomach", "anatomy"),
        "duodenum": ("38848004", "Duodenum", "anatomy"),
        "small intestine": ("30315005", "Small intestine", "anatomy"),
        "colon": ("71854001", "Colon", "anatomy"),
        "rectum": ("34402009", "Rectum", "anatomy"),
        "oesophagus": ("32849002", "Esophagus", "anatomy"),
        "esophagus": ("32849002", "Esophagus", "anatomy"),
        "adrenal gland": ("23451007", "Adrenal gland", "anatomy"),
        "bladder": ("89837001", "Bladder", "anatomy"),
        "prostate": ("41216001", "Prostate", "anatomy"),
        "uterus": ("35039007", "Uterus", "anatomy"),
        "ovary": ("15497006", "Ovary", "anatomy"),
        "breast": ("76752008", "Breast", "anatomy"),
        "lung": ("39607008", "Lung", "anatomy"),
        "trachea": ("44567001", "Trachea", "anatomy"),
        "thyroid": ("69748006", "Thyroid", "anatomy"),
        "heart": ("80891009", "Heart", "anatomy"),
        "left ventricle": ("87878005", "Left ventricle", "anatomy"),
        "right ventricle": ("53085002", "Right ventricle", "anatomy"),
        "left atrium": ("82471001", "Left atrium", "anatomy"),
        "right atrium": ("73829009", "Right atrium", "anatomy"),
        "aorta": ("15825003", "Aorta", "anatomy"),
        "inferior vena cava": ("64131007", "Inferior vena cava", "anatomy"),
        "portal vein": ("32764006", "Portal vein", "anatomy"),
        "vessel": ("59820001", "Blood Vessel", "anatomy"),
        "vessels": ("59820001", "Blood Vessel", "anatomy"),
        "blood vessel": ("59820001", "Blood Vessel", "anatomy"),
        "artery": ("51114001", "Artery", "anatomy"),
        "vein": ("29092000", "Vein", "anatomy"),
        "lymph node": ("59441001", "Lymph Node", "anatomy"),
        "brain": ("12738006", "Brain", "anatomy"),
        "hippocampus": ("5366008", "Hippocampus", "anatomy"),
        "thalamus": ("42695009", "Thalamus", "anatomy"),
        "cerebellum": ("113305005", "Cerebellum", "anatomy"),
        "brainstem": ("119238007", "Brain Stem", "anatomy"),
        "brain stem": ("119238007", "Brain Stem", "anatomy"),
        "spinal cord": ("2748008", "Spinal cord", "anatomy"),
        "eye": ("81745001", "Eye", "anatomy"),
        "retina": ("5665001", "Retina", "anatomy"),
        "bone": ("272673000", "Bone", "anatomy"),
        "vertebra": ("51282000", "Vertebra", "anatomy"),
        "vertebrae": ("51282000", "Vertebra", "anatomy"),
        "rib": ("113197003", "Rib", "anatomy"),
        "ribs": ("113197003", "Rib", "anatomy"),
        "femur": ("71341001", "Femur", "anatomy"),
        "sacrum": ("54735007", "Sacrum", "anatomy"),
        "skin": ("39937001", "Skin", "anatomy"),
        "muscle": ("71616004", "Muscle", "tissue"),
        "fat": ("55603005", "Fat", "tissue"),
        "cartilage": ("309312004", "Cartilage", "tissue"),
        "tissue": ("85756007", "Tissue", "tissue"),
        "grey matter": ("389081007", "Gray Matter", "tissue"),
        "gray matter": ("389081007", "Gray Matter", "tissue"),
        "white matter": ("389080008", "White Matter", "tissue"),
        "cerebrospinal fluid": ("65216001", "Cerebrospinal Fluid", "substance"),
        "csf": ("65216001", "Cerebrospinal Fluid", "substance"),
        "lesion": ("52988006", "Lesion", "abnormal"),
        "nodule": ("27925004", "Nodule", "abnormal"),
        "mass": ("4147007", "Mass", "abnormal"),
        "tumour": ("108369006", "Neoplasm", "abnormal"),
        "tumor": ("108369006", "Neoplasm", "abnormal"),
        "neoplasm": ("108369006", "Neoplasm", "abnormal"),
        "cyst": ("367643001", "Cyst", "abnormal"),
        "oedema": ("79654002", "Edema", "abnormal"),
        "edema": ("79654002", "Edema", "abnormal"),
        "necrosis": ("6574001", "Necrosis", "abnormal"),
        "haemorrhage": ("50960005", "Hemorrhage", "abnormal"),
        "hemorrhage": ("50960005", "Hemorrhage", "abnormal"),
        "pleural effusion": ("60046008", "Pleural effusion", "abnormal"),
        "aneurysm": ("85659009", "Aneurysm", "abnormal"),
        "ulcer": ("56208002", "Ulcer", "abnormal"),
        "plaque": ("1522000", "Plaque", "abnormal"),
    }
)
_BY_CODE = MappingProxyType({code: (meaning, category) for code, meaning, category in COMMON.values()})
_ABNORMAL = re.compile(r"lesion|tumou?r|nodul|mass|cancer|carcinoma|metasta|neoplas|cyst|o?edema|necro|ha?emorrh")


def coded(label: Label) -> Any:
    """The coded concept (a highdicom ``CodedConcept``) of a label.

    A label's own code (``"SCT:10200004|Liver"``) comes first, then a common name, then a private code of the scheme
    99MEDMAP whose meaning is the label's name. A side named in front ("left kidney") is not part of the concept of a
    paired organ; ``laterality`` gives it.

    Raises:
        DataError: A code that is not ``SCHEME:VALUE`` or too long for DICOM (16 characters each).

    Example:
        >>> coded(Label("left kidney")).meaning, coded(Label("my region", "99LAB:R1")).value
        ('Kidney', 'R1')
    """
    import highdicom as hd

    if label.code:
        scheme, value, meaning = _parted(label)
        known = _BY_CODE.get(value) if scheme == "SCT" else None
        return hd.sr.CodedConcept(value, scheme, (meaning or (known[0] if known else label.name))[:64])
    row = _common(label.name)
    if row is not None:
        return hd.sr.CodedConcept(row[0], "SCT", row[1])
    return hd.sr.CodedConcept(_private_value(label.name), PRIVATE, label.name[:64] or "unnamed")


def category_of(label: Label) -> Any:
    """What kind of thing a label names (PS3.16 CID 7150): anatomy, something abnormal, tissue, an object, a substance.

    Example:
        >>> category_of(Label("liver")).meaning, category_of(Label("liver metastases")).meaning
        ('Anatomical Structure', 'Morphologically Abnormal Structure')
    """
    import highdicom as hd

    row = _common(label.name)
    if label.code:
        known = _BY_CODE.get(_parted(label)[1])
        row = (_parted(label)[1], *known) if known else row
    kind: Category = row[2] if row else "abnormal" if _ABNORMAL.search(label.name.lower()) else "anatomy"
    value, meaning = CATEGORIES[kind]
    return hd.sr.CodedConcept(value, "SCT", meaning)


def laterality(label: Label) -> Any | None:
    """Left or right (PS3.16 CID 244) when the label's name begins with the side of a paired organ, else None.

    Example:
        >>> laterality(Label("right lung")).meaning, laterality(Label("left ventricle"))
        ('Right', None)
    """
    import highdicom as hd

    plain = _plain(label.name)
    side, _, rest = plain.partition(" ")
    if side not in LATERALITY or not rest or plain in COMMON:
        return None
    value, meaning = LATERALITY[side]
    return hd.sr.CodedConcept(value, "SCT", meaning)


def code_text(value: str, scheme: str, meaning: str = "") -> str:
    """A code as ``Label.code`` writes it.

    Example:
        >>> code_text("10200004", "SCT", "Liver")
        'SCT:10200004|Liver'
    """
    return f"{scheme}:{value}" + (f"|{meaning}" if meaning else "")


def _parted(label: Label) -> tuple[str, str, str]:
    scheme, colon, rest = str(label.code).partition(":")
    value, _, meaning = rest.partition("|")
    scheme, value = scheme.strip(), value.strip()
    if not colon or not scheme or not value or len(scheme) > 16 or len(value) > 16:
        raise DataError(
            f"the code of {label.name} is none that DICOM can hold",
            got=repr(label.code),
            expected="SCHEME:VALUE or SCHEME:VALUE|Meaning, each of at most 16 characters",
        )
    return scheme, value, meaning.strip()


def _plain(name: str) -> str:
    return " ".join(re.split(r"[\s_\-]+", name.strip().lower()))


def _common(name: str) -> tuple[str, str, Category] | None:
    plain = _plain(name)
    side, _, rest = plain.partition(" ")
    return COMMON.get(plain) or (COMMON.get(rest) if side in LATERALITY else None)


def _private_value(name: str) -> str:
    """At most 16 characters, equal for equal names and different for different ones."""
    plain = re.sub(r"[^A-Z0-9]+", "_", name.upper()).strip("_")
    if plain and len(plain) <= 16 and plain == name.upper().replace(" ", "_"):
        return plain
    return f"{plain[:7]}_{hashlib.sha256(name.encode()).hexdigest()[:8]}"
