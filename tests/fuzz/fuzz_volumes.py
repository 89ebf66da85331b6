"""Fuzzing of the readers of volumes: any bytes give an image or one medmap error, nothing else, and in bounds.

By hand, with coverage (``pip install atheris`` first; it stops at the first finding and keeps its input)::

    python tests/fuzz/fuzz_volumes.py -max_total_time=600 corpus/

The tests run ``mutated`` for a moment, with seeds that always are the same.
"""

from __future__ import annotations

import gzip
import random
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from medmap.errors import MedmapError
from medmap.geometry import Geometry
from medmap.image import Image
from medmap.read import read
from medmap.write import write

LIMIT_BYTES = 2**24
AFFINE = np.array([[0.7, 0.1, 0, -18], [-0.1, 0.7, 0.2, -17], [0, -0.2, 1.5, 3], [0, 0, 0, 1.0]])
# what a header says and a reader believes: signs, infinities, huge sizes
WORDS = (
    b"\0\0",
    b"\xff\xff",
    b"\xff\x7f",
    b"\0\0\xc0\x7f",
    b"\0\0\x80\x7f",
    b"-1",
    b"nan",
    b"1e400",
    b"99999999999",
    b"\n",
)


def seeds(folder: Path) -> list[bytes]:
    """A sound file of each kind."""
    array = np.arange(3 * 4 * 5, dtype=np.int16).reshape(3, 4, 5)
    image = Image(array, Geometry(array.shape, AFFINE))
    both = Image(np.stack([array, array], axis=-1), image.geometry, channels=("a", "b"))
    names = ("a.nii", "a.nii.gz", "a.nrrd", "a.mha")
    return [write(i, folder / f"{n}{name}").read_bytes() for n, i in enumerate((image, both)) for name in names]


def one_input(data: bytes, path: Path) -> bool:
    """Whether ``data`` is read; raises what a reader must not raise."""
    path.write_bytes(data)
    try:
        image = read(path, limit_bytes=LIMIT_BYTES)
    except MedmapError:
        return False
    if image.array.nbytes > LIMIT_BYTES:
        raise RuntimeError(f"{image.array.nbytes} bytes were read where {LIMIT_BYTES} are allowed")
    return True


def mutated(sound: list[bytes], count: int, seed: int) -> Iterator[bytes]:
    """Sound files with bytes changed, taken out, put in or repeated; in half of the cases inside of a whole gzip."""
    rng = random.Random(seed)
    for _ in range(count):
        data = bytearray(rng.choice(sound))
        inside = data[:2] == b"\x1f\x8b" and rng.random() < 0.8
        data = bytearray(gzip.decompress(data)) if inside else data
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(min(len(data), 600 if rng.random() < 0.8 else len(data)) or 1)
            how = rng.randrange(4)
            if how == 0 and data:
                data[at % len(data)] ^= 1 << rng.randrange(8)
            elif how == 1:
                word = rng.choice(WORDS)
                data[at : at + len(word)] = word
            elif how == 2:
                del data[at : at + rng.randint(1, 40)]
            else:
                data[at:at] = data[at : at + rng.randint(1, 40)]
        yield gzip.compress(data, 1) if inside else bytes(data)


def main() -> None:
    """Fuzz with atheris until stopped."""
    from guided import fuzz

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sound = seeds(folder)
        for number, data in enumerate(sound):
            for corpus in (Path(a) for a in sys.argv[1:] if not a.startswith("-")):
                corpus.mkdir(exist_ok=True)
                (corpus / f"sound_{number}").write_bytes(data)
        fuzz(lambda data: one_input(data, folder / "x"))


if __name__ == "__main__":
    main()
