"""Which decoder is fastest for each DICOM transfer syntax: 512 × 512 slices of 12 bits (8 bits for baseline JPEG).

Prints one JSON line a comparison (``name peer ours theirs unit ratio same_answer``): ``ours`` is what
``medmap.read.dicom.codecs`` uses, the peers are the other permissively licensed decoders. ``ratio`` is theirs / ours.
The candidates take turns; each figure is the median of a round's milliseconds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from io import BytesIO
from typing import Any

import imagecodecs
import numpy as np
import openjpeg
import rle
from jpeg_ls import decode as pyjpegls_decode
from PIL import Image as Pillow
from pydicom.pixels.decoders.rle import _rle_decode_frame

from medmap.read.dicom.codecs import PixelSpec, decode_frame

ROWS = COLUMNS = 512


def slice_of(bits: int) -> np.ndarray:
    """Something like a CT slice: a body with texture in it and air around."""
    rng = np.random.default_rng(4)
    y, x = np.mgrid[-1 : 1 : ROWS * 1j, -1 : 1 : COLUMNS * 1j]
    body = (x**2 + 1.4 * y**2 < 0.6) * (0.45 + 0.08 * np.sin(9 * x) * np.cos(7 * y))
    noisy = body + rng.normal(0, 0.004, body.shape) * (body > 0)
    return (np.clip(noisy, 0, 1) * (2**bits - 1)).astype(np.uint8 if bits == 8 else np.uint16)


def openjpeg_decode(stream: bytes) -> np.ndarray:
    return np.asarray(openjpeg.decode(BytesIO(stream)))


def pillow_decode(stream: bytes) -> np.ndarray:
    with Pillow.open(BytesIO(stream)) as picture:
        return np.asarray(picture)


def rows() -> dict[str, tuple[str, bytes, np.ndarray, dict[str, Callable[[bytes], Any]]]]:
    """Transfer syntax name: (UID, stream, image, candidates)."""
    twelve, eight = slice_of(12), slice_of(8)
    packed = rle.rle.encode_frame(twelve.tobytes(), ROWS, COLUMNS, 1, 16, "<")
    ljpeg = imagecodecs.ljpeg_encode(twelve, bitspersample=12)
    return {
        "RLE Lossless": ("1.2.840.10008.1.2.5", packed, twelve, {
            "pylibjpeg-rle": lambda s: rle.utils.decode_frame(s, ROWS * COLUMNS, 16, "<"),
            "pydicom": lambda s: _rle_decode_frame(s, ROWS, COLUMNS, 1, 16),
            "imagecodecs": lambda s: imagecodecs.dicomrle_decode(s, "<u2"),
        }),
        "JPEG Baseline": ("1.2.840.10008.1.2.4.50", imagecodecs.jpeg8_encode(eight, level=90), eight, {
            "imagecodecs": imagecodecs.jpeg8_decode, "pillow": pillow_decode,
        }),
        "JPEG Extended 12 bit": ("1.2.840.10008.1.2.4.51", imagecodecs.jpeg8_encode(twelve, level=95, bitspersample=12),
                                 twelve, {"imagecodecs jpeg8": imagecodecs.jpeg8_decode}),
        "JPEG Lossless SV1": ("1.2.840.10008.1.2.4.70", ljpeg, twelve, {
            "imagecodecs jpegsof3": imagecodecs.jpegsof3_decode, "imagecodecs ljpeg": imagecodecs.ljpeg_decode,
            "imagecodecs jpeg8": imagecodecs.jpeg8_decode,
        }),
        "JPEG-LS Lossless": ("1.2.840.10008.1.2.4.80", imagecodecs.jpegls_encode(twelve), twelve, {
            "imagecodecs": imagecodecs.jpegls_decode, "pyjpegls": lambda s: pyjpegls_decode(np.frombuffer(s, np.uint8)),
        }),
        "JPEG 2000 Lossless": ("1.2.840.10008.1.2.4.90",
                               imagecodecs.jpeg2k_encode(twelve, codecformat="j2k", bitspersample=12, reversible=True,
                                                         level=0), twelve, {
            "imagecodecs": imagecodecs.jpeg2k_decode, "pylibjpeg-openjpeg": openjpeg_decode, "pillow": pillow_decode,
        }),
        "HTJ2K Lossless": ("1.2.840.10008.1.2.4.201", imagecodecs.htj2k_encode(twelve, reversible=True), twelve, {
            "imagecodecs htj2k": imagecodecs.htj2k_decode, "imagecodecs jpeg2k": imagecodecs.jpeg2k_decode,
            "pylibjpeg-openjpeg": openjpeg_decode,
        }),
    }  # fmt: skip


def milliseconds(work: Callable[[], Any], repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        work()
    return (time.perf_counter() - start) / repeats * 1000


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="decoders of DICOM transfer syntaxes")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    for name, (syntax, stream, image, candidates) in rows().items():
        bits = 8 if image.itemsize == 1 else 12
        spec = PixelSpec(ROWS, COLUMNS, bits_allocated=image.itemsize * 8, bits_stored=bits, transfer_syntax=syntax)
        works: dict[str, Callable[[], Any]] = {"medmap": lambda s=stream, p=spec: decode_frame(s, p)}
        answers = {"medmap": decode_frame(stream, spec)}
        for peer, candidate in candidates.items():
            try:
                found = np.frombuffer(candidate(stream), np.uint8)
            except (RuntimeError, ValueError, NotImplementedError) as error:
                print(json.dumps({"name": f"decode: {name}", "peer": peer, "refused": str(error)[:80]}))
                continue
            answers[peer] = found
            works[peer] = lambda c=candidate, s=stream: c(s)
        times: dict[str, list[float]] = {peer: [] for peer in works}
        for _ in range(given.rounds):
            for peer, work in works.items():
                times[peer].append(milliseconds(work, given.repeats))
        ours = statistics.median(times["medmap"])
        for peer in works:
            theirs = statistics.median(times[peer])
            same = np.array_equal(np.frombuffer(answers[peer], np.uint8), np.frombuffer(answers["medmap"], np.uint8))
            row = {"name": f"decode: {name}", "peer": peer, "ours": round(ours, 3), "theirs": round(theirs, 3),
                   "unit": "ms a 512x512 slice", "ratio": round(theirs / ours, 2), "same_answer": same}  # fmt: skip
            if peer != "medmap":
                print(json.dumps(row))


if __name__ == "__main__":
    main()
