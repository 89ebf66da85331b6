"""Random bytes as DICOM files: each must be an image or one of medmap's errors.

By hand, for as long as you like, with coverage guiding the mutations (``pip install atheris``)::

    python tests/fuzz/fuzz_dicom.py -max_total_time=600 -max_len=16384 -rss_limit_mb=2048 -timeout=5 folder_of_seeds/

Seeds of a few kilobytes give ten times the runs of larger ones. ``one_input`` alone is what the tests run on seeded
mutations.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from medmap.errors import MedmapError
from medmap.read import read

LIMIT_BYTES = 2**26


def one_input(data: bytes, path: Path) -> bool:
    """Whether the bytes are read as an image; anything but an image or a ``MedmapError`` escapes."""
    path.write_bytes(data)
    try:
        image = read(path, limit_bytes=LIMIT_BYTES)
    except MedmapError:
        return False
    if image.array.nbytes > LIMIT_BYTES:
        raise RuntimeError(f"{image.array.nbytes} bytes were read where {LIMIT_BYTES} are allowed")
    return bool(image.array.size)


def main() -> None:
    """Fuzz with atheris until stopped."""
    from guided import fuzz

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.dcm"
        fuzz(lambda data: one_input(data, path))


if __name__ == "__main__":
    main()
