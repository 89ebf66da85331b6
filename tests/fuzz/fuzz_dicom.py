"""Random bytes as DICOM files: each must be an image or one of medmap's errors.

By hand, for as long as you like, with coverage guiding the mutations (``pip install atheris``)::

    python tests/fuzz/fuzz_dicom.py -max_total_time=300 -rss_limit_mb=2048 -timeout=5 folder_of_seeds/

``one_input`` alone is what the tests run on seeded mutations.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

LIMIT_BYTES = 2**26


def one_input(data: bytes) -> bool:
    """Whether the bytes are read as an image; anything but an image or a ``MedmapError`` escapes."""
    from medmap.errors import MedmapError
    from medmap.read import read

    with tempfile.NamedTemporaryFile(suffix=".dcm") as file:
        file.write(data)
        file.flush()
        try:
            image = read(Path(file.name), limit_bytes=LIMIT_BYTES)
        except MedmapError:
            return False
        return bool(image.array.size)


def main() -> None:
    """Hand the target to atheris."""
    import atheris

    with atheris.instrument_imports(include=["medmap.read", "pydicom"]):
        import pydicom.filereader  # noqa: F401

        import medmap.read  # noqa: F401
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
