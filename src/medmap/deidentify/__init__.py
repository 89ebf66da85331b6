"""De-identification after DICOM PS3.15 Annex E, verified: headers, pixels, whole archives."""

from medmap.deidentify.door import Deidentified, deidentify
from medmap.deidentify.profile import CLEAN, KEEP, Profile
from medmap.deidentify.report import Verification, write_report
from medmap.deidentify.secrets import Key, create_key, load_key

__all__ = [
    "CLEAN",
    "KEEP",
    "Deidentified",
    "Key",
    "Profile",
    "Verification",
    "create_key",
    "deidentify",
    "load_key",
    "write_report",
]
