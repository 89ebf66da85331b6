"""The key of a project: what turns identifiers into pseudonyms, the same way in every file and every run.

Everything is derived with HMAC-SHA256 from one secret of 32 random bytes. Who holds the key file can link pseudonyms
to patients again; so it is readable by its owner alone and never lies with the data.
"""

from __future__ import annotations

import hmac
import json
import os
import secrets as randomness
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from medmap.errors import ConfigError, UsageError

_NAME = "medmap_deidentify_key"
_BYTES = 32
WELL_KNOWN = "1.2.840.10008."  # the standard's own UIDs (PS3.6) name classes, never a patient's objects
_LEAST_SHIFT_DAYS, _SHIFT_DAYS = 30, 3620


@dataclass(frozen=True)
class Key:
    """A project's secret.

    Args:
        secret: 32 random bytes.

    Example:
        >>> key = Key(bytes(32))
        >>> key.uid("1.2.3") == key.uid("1.2.3"), key.uid("1.2.840.10008.1.2")
        (True, '1.2.840.10008.1.2')
    """

    secret: bytes = field(repr=False)

    def digest(self, purpose: str, text: str) -> bytes:
        """32 bytes that only the key's owner can compute from the text."""
        return hmac.digest(self.secret, f"{purpose}\0{text}".encode("utf-8", "surrogatepass"), "sha256")

    def uid(self, original: str) -> str:
        """The UID that stands for another: ``2.25.`` and a UUID as a number (PS3.5 B.2); the standard's own stay."""
        return original if not original or is_standard(original) else _mapped(self, original)

    def pseudonym(self, patient: str) -> str:
        """The patient's name in the output, e.g. ``P4F0C1A2B3D4E5F60``."""
        return "P" + self.digest("patient", patient)[:8].hex().upper()

    def shift_days(self, patient: str) -> int:
        """Days to move every date of a patient by: 30 to 3,649 into the past, the same for all of a patient's files."""
        return -(_LEAST_SHIFT_DAYS + int.from_bytes(self.digest("dates", patient)[:8], "big") % _SHIFT_DAYS)

    def short(self, purpose: str, text: str, digits: int = 16) -> str:
        """A name for a file or folder that says nothing about the text."""
        return self.digest(purpose, text).hex()[:digits]


@lru_cache(maxsize=4096)
def is_standard(uid: str) -> bool:
    """Whether a UID is registered in PS3.6; one that only begins like those may have been made of anything.

    Example:
        >>> is_standard("1.2.840.10008.1.2"), is_standard("1.2.840.10008.19500612.774411")
        (True, False)
    """
    from pydicom._uid_dict import UID_dictionary

    return uid.startswith(WELL_KNOWN) and uid in UID_dictionary


@lru_cache(maxsize=4096)  # those of a study come back; those of single images do not
def _mapped(key: Key, original: str) -> str:
    number = bytearray(key.digest("uid", original)[:16])
    number[6] = (number[6] & 0x0F) | 0x80  # version 8 of RFC 9562: made by a rule of one's own
    number[8] = (number[8] & 0x3F) | 0x80
    return f"2.25.{int.from_bytes(number, 'big')}"


def create_key(path: Path) -> Key:
    """Make a new secret and write it to a file that its owner alone can read.

    Raises:
        UsageError: The file exists.
    """
    key = Key(randomness.token_bytes(_BYTES))
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise UsageError(f"{path} exists already", remedy="name another key file, or use this one") from None
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        json.dump({_NAME: 1, "secret": key.secret.hex()}, file)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    return key


def load_key(path: Path) -> Key:
    """Read a key file.

    Raises:
        UsageError: Others than its owner can read the file.
        ConfigError: It is no key file.
    """
    if os.name == "posix" and path.stat().st_mode & 0o077:
        raise UsageError(f"the key file {path} can be read by others", remedy=f"chmod 600 {path}")
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        secret = bytes.fromhex(document["secret"]) if document[_NAME] == 1 else b""
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} is no key file of medmap", remedy="name the file that --key made") from error
    if len(secret) != _BYTES:
        raise ConfigError(f"{path} holds no key of {_BYTES} bytes", got=f"{len(secret)} bytes")
    return Key(secret)
