"""What names say: classes, splits, the order in which people count."""

from __future__ import annotations

import re
from collections.abc import Sequence

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "tr": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
    "ts": "test",
}

# Words by which a class says that nothing was found.
_NEGATIVE = re.compile(
    r"(^|[\s_\-,/])(no|non|not|normal|healthy|benign|control|controls|negative|neg|absent|absence|without|none)($|[\s_\-,/])"
)


def natural_key(name: str) -> tuple[tuple[int, int, str], ...]:
    """The order in which people count: ``img2`` before ``img10``.

    Example:
        >>> sorted(["img10", "img2", "Img1"], key=natural_key)
        ['Img1', 'img2', 'img10']
    """
    parts = re.findall(r"[0-9]{1,18}|[^0-9]+|[0-9]", name.lower())
    return tuple((0, int(p), "") if p.isdigit() and p.isascii() else (1, 0, p) for p in parts)


def positive_index(names: Sequence[str]) -> int:
    """Which of two classes a binary score speaks of, when the owner does not say: the one that is a finding.

    The class whose name says that nothing was found (normal, benign, healthy, no …) is the negative one; when neither
    or both say so, the second class is positive, as is the custom for 0 and 1.

    Example:
        >>> positive_index(["malignant", "normal"]), positive_index(["0", "1"])
        (0, 1)
    """
    negative = [bool(_NEGATIVE.search(name.lower())) for name in names]
    return 0 if negative == [False, True] else 1


def unique_ids(paths: Sequence[str]) -> list[str]:
    """Identifiers for files: the stem where no other file shares it, else the whole path, ``/`` written ``_``.

    Example:
        >>> unique_ids(["a/x.png", "b/y.png"]), unique_ids(["a/x.png", "b/x.png"])
        (['x', 'y'], ['a_x', 'b_x'])
    """
    stems = [re.sub(r"\.[^./]*$", "", re.sub(r"\.gz$", "", p, flags=re.IGNORECASE)) for p in paths]
    for candidates in (
        [stem.rsplit("/", 1)[-1] for stem in stems],
        [stem.replace("/", "_") for stem in stems],
        [path.replace("/", "_") for path in paths],
    ):
        if len(set(candidates)) == len(candidates):
            return candidates
    return list(paths)
